// Package blob is the capability to keep the bytes of inputs and artifacts.
//
// An object is whole or it is not there: a Put that fails, or whose reader fails, leaves nothing to be seen. Keys are
// slash-separated and chosen by the server, never by a client; [CheckKey] says what is one.
//
// A [Store] whose backend can be asked by others too is a [Signer] besides: it hands out requests that their holders make
// to the backend itself, so that the bytes do not pass through whoever signed.
package blob

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/fault"
)

// Store keeps objects. Implementations are safe for concurrent use. A store that cannot be reached, or that refuses its
// credentials, is fault.Unavailable in every method: nothing is known of the object then, and the call may be repeated.
type Store interface {
	// Put stores what r yields under key, replacing what was there, all at once or not at all. It returns what was
	// stored. fault.TooLarge when r yields more than opts.Limit; fault.Invalid for a key that is not valid.
	Put(ctx context.Context, key string, r io.Reader, opts *PutOptions) (*Info, error)
	// Get returns the object's bytes from offset, at most length of them, or all that follow when length is
	// negative; fault.NotFound if there is none, fault.Invalid if offset is beyond the object's end. The caller closes
	// the reader, which fails with fault.Unavailable when the bytes break off before the object's end.
	Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)
	// Stat returns what is known of the object, or fault.NotFound.
	Stat(ctx context.Context, key string) (*Info, error)
	// List yields the objects whose keys begin with prefix, in key order. Where the backend's own listing does not have
	// them, SHA256 and ContentType are left empty; Stat has them.
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
	SHA256      string // lower-case hex, of the bytes as stored; "" for what came by a signed request that did not name it
	ContentType string // "" or application/octet-stream where none was given
	StoredAt    time.Time
}

// Signer is implemented by stores that can permit somebody else one request to the backend itself. Whoever holds what
// Sign returns may make that request, as often as he likes, until it expires. Nothing is asked of the backend for it
// unless credentials are to be renewed, so an object that is to be read need not be there.
type Signer interface {
	// Sign returns a request of the method, GET or PUT, for the object with this key. fault.Unsupported for another
	// method; fault.Invalid for a key that is none or options that cannot be signed; fault.Unavailable as for a Store.
	Sign(ctx context.Context, method, key string, o *SignOptions) (*Signed, error)
}

// The bounds of how long a signed request is good for. The longest is what S3 allows.
const (
	MinLife = time.Second
	MaxLife = 7 * 24 * time.Hour
)

// SignOptions are the details of a signed request. nil means all defaults.
type SignOptions struct {
	// Life is how long the request is good for, from MinLife to MaxLife in whole seconds. Default: one hour.
	Life time.Duration
	// ContentType and ContentDisposition are kept with the object that a PUT stores, and are what a GET is answered with
	// whatever is kept. "" leaves a PUT free to send any, and a GET to answer what is kept.
	ContentType, ContentDisposition string
	// Size is how many bytes a PUT must send. 0: any number, as for an object whose size nobody has said.
	Size int64
	// SHA256 is of the bytes that a PUT must send, in lower-case hex. Stat returns it then. "": any bytes.
	SHA256 string
}

// Signed is a request that its holder may make.
type Signed struct {
	Method  string
	URL     string            // a secret as long as it is good
	Headers map[string]string // to be sent exactly like this; Content-Length is among them when the size is signed
	Expires time.Time
	// Bound says that the backend itself refuses a request that does not carry Headers, and with them other bytes than
	// Size and SHA256 say. Where it is false whoever signed has to look, with Stat, at what has come before it counts.
	Bound bool
}

// MaxKey is how many bytes a key may have.
const MaxKey = 4096

// CheckKey returns fault.Invalid, with the reason, for what is no key in any store: one that is empty, too long, no UTF-8,
// holds a NUL or has an empty part between its slashes. A store may refuse more.
func CheckKey(key string) error {
	reason := ""
	switch {
	case key == "":
		reason = "it is empty"
	case len(key) > MaxKey:
		reason = fmt.Sprintf("it is longer than %d bytes", MaxKey)
	case !utf8.ValidString(key):
		reason = "it is not UTF-8"
	case strings.ContainsRune(key, 0):
		reason = "it holds a NUL"
	case strings.HasPrefix(key, "/"), strings.HasSuffix(key, "/"), strings.Contains(key, "//"):
		reason = "a part between slashes is empty"
	}
	if reason != "" {
		return fmt.Errorf("blob: key %.100q: %w: %s", key, fault.Invalid, reason)
	}
	return nil
}
