package remoteblob

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// Patience is how long a transfer may stand still before it is given up.
const Patience = time.Minute

// Watch ends a transfer that stands still.
type Watch struct {
	ctx      context.Context // the one it ends
	patience time.Duration
	timer    *time.Timer
	cancel   context.CancelCauseFunc
}

// NewWatch returns a watch and the context that it ends, with a cause of kind fault.Unavailable, when nothing has moved for
// so long. Call [Watch.Stop] in the end.
func NewWatch(ctx context.Context, patience time.Duration) (context.Context, *Watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	still := fault.Say(fault.Unavailable, "the object store has not moved a byte for %v", patience)
	return ctx, &Watch{ctx: ctx, patience: patience, cancel: cancel, timer: time.AfterFunc(patience, func() { cancel(still) })}
}

// Moved tells the watch that something has moved.
func (w *Watch) Moved() { w.timer.Reset(w.patience) }

// Cause returns why a transfer really failed with err: because the watch ended it, or for err itself.
func (w *Watch) Cause(err error) error {
	if cause := context.Cause(w.ctx); err != nil && fault.Of(cause) == fault.Unavailable {
		return cause
	}
	return err
}

// Stop ends the watch and its context.
func (w *Watch) Stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// Reader returns a reader that tells the watch of every piece that is read through it.
func (w *Watch) Reader(r io.ReadSeeker) io.ReadSeeker { return &watched{r, w} }

type watched struct {
	io.ReadSeeker
	watch *Watch
}

func (r *watched) Read(p []byte) (int, error) {
	n, err := r.ReadSeeker.Read(p)
	if n > 0 {
		r.watch.Moved()
	}
	return n, err
}

// Body returns the body of an answer as a [blob.Store] returns one: it stops the watch when it is closed, and whatever
// breaks it off, except the end of ctx, is fault.Unavailable.
func Body(ctx context.Context, body io.ReadCloser, w *Watch) io.ReadCloser {
	return &answer{ctx: ctx, body: body, watch: w}
}

type answer struct {
	ctx   context.Context // the caller's, for as long as the reader is used
	body  io.ReadCloser
	watch *Watch
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.body.Read(p)
	if n > 0 {
		a.watch.Moved()
	}
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return n, err
	case a.ctx.Err() != nil:
		return n, a.ctx.Err()
	}
	return n, fault.Say(fault.Unavailable, "the object broke off while it was read: %v", a.watch.Cause(err))
}

func (a *answer) Close() error {
	defer a.watch.Stop()
	return a.body.Close()
}
