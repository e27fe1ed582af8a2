package call

import (
	"context"
	"time"
)

// Link is what carries the frames: a *link.Link, or a pair in memory.
type Link interface {
	// Send sends the parts as one frame, of which it keeps no part. It may be called concurrently. The context ends
	// the wait for room; then nothing was sent.
	Send(ctx context.Context, parts ...[]byte) error
	// Post is Send which never waits, for the few bytes that must not: what is said while a frame is handled, and by
	// somebody who has waited enough.
	Post(parts ...[]byte) error
	// Serve calls handle for each frame of the other side, one after another, and returns why the link has ended. A
	// frame of at least link.OwnFrame bytes is handle's to keep; a shorter one is the link's again when handle returns.
	Serve(handle func(frame []byte)) error
	// Close ends the link after all that was sent. The other side is told why; nil says that all is well.
	Close(why error)
}

// tracing is a Link that knows, when it is over, which frames certainly have not reached the other side.
type tracing interface {
	// SendAt is Send, and says at or after which position of the stream the frame is.
	SendAt(ctx context.Context, parts ...[]byte) (position uint64, err error)
	// Tried returns the position up to which the stream may have reached the other side.
	Tried() uint64
}

// shared is a Link whose frames may be read by whoever waits for them.
type shared interface {
	// Share says how the link learns that nobody waits for a frame. It is for before Serve.
	Share(calm func() bool)
	// Lead reads in place of Serve until a frame that was handled has put an element into woken. It returns false when the caller
	// is to wait for that itself.
	Lead(ctx context.Context, deadline time.Time, woken <-chan struct{}) bool
}
