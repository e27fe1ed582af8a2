// Package blob is the capability to keep the bytes of inputs and artifacts.
//
// An object is whole or it is not there: a Put that fails, or whose reader fails, leaves nothing to be seen. Keys are
// slash-separated and chosen by the server, never by a client.
package blob

import (
	"context"
	"io"
	"iter"
	"time"
)

// Store keeps objects. Implementations are safe for concurrent use.
type Store interface {
	// Put stores what r yields under key, replacing what was there, all at once or not at all. It returns what was
	// stored. fault.TooLarge when r yields more than opts.Limit; fault.Invalid for a key that is not valid.
	Put(ctx context.Context, key string, r io.Reader, opts *PutOptions) (*Info, error)
	// Get returns the object's bytes from offset, at most length of them, or all that follow when length is
	// negative; fault.NotFound if there is none. The caller closes the reader.
	Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)
	// Stat returns what is known of the object, or fault.NotFound.
	Stat(ctx context.Context, key string) (*Info, error)
	// List yields the objects whose keys begin with prefix, in key order.
	List(ctx context.Context, prefix string) iter.Seq2[*Info, error]
	// Folders yields what the keys that begin with prefix have between it and their next slash: the name of each folder,
	// once, in any order. prefix is "" or ends in a slash, else it is fault.Invalid. A folder may be yielded whose last
	// object has been deleted. Many folders take no more memory than few.
	Folders(ctx context.Context, prefix string) iter.Seq2[string, error]
	// Delete removes the object; removing what is not there is no error.
	Delete(ctx context.Context, key string) error
}

// PutOptions are the details of a Put. nil means all defaults.
type PutOptions struct {
	ContentType string // kept with the object
	Limit       int64  // bytes; 0: none
	Size        int64  // what r will yield, when known; a different number is fault.Invalid. 0: unknown
}

// Info is what is known of an object.
type Info struct {
	Key         string
	Size        int64
	SHA256      string // lower-case hex, of the bytes as stored
	ContentType string
	StoredAt    time.Time
}
