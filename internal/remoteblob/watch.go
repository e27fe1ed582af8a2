package remoteblob

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// watch ends a transfer that stands still.
type watch struct {
	ctx      context.Context // the one it ends
	patience time.Duration
	timer    *time.Timer
	cancel   context.CancelCauseFunc
}

// newWatch returns a watch and the context that it ends, with a cause of kind fault.Unavailable, when nothing has moved for
// so long. Stop it in the end.
func newWatch(ctx context.Context, patience time.Duration) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	still := fault.Say(fault.Unavailable, "the object store has not moved a byte for %v", patience)
	return ctx, &watch{ctx: ctx, patience: patience, cancel: cancel, timer: time.AfterFunc(patience, func() { cancel(still) })}
}

// moved tells the watch that something has moved.
func (w *watch) moved() { w.timer.Reset(w.patience) }

// cause returns why a transfer really failed with err: because the watch ended it, or for err itself.
func (w *watch) cause(err error) error {
	if cause := context.Cause(w.ctx); err != nil && fault.Of(cause) == fault.Unavailable {
		return cause
	}
	return err
}

// stop ends the watch and its context.
func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// watched tells a watch of every piece that is read through it.
type watched struct {
	io.ReadSeeker
	watch *watch
}

func (r *watched) Read(p []byte) (int, error) {
	n, err := r.ReadSeeker.Read(p)
	if n > 0 {
		r.watch.moved()
	}
	return n, err
}

// answer is the body of an answer as a [blob.Store] returns one: it stops the watch when it is closed, and whatever breaks
// it off, except the end of ctx, is fault.Unavailable.
type answer struct {
	ctx   context.Context // the caller's, for as long as the reader is used
	body  io.ReadCloser
	watch *watch
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.body.Read(p)
	if n > 0 {
		a.watch.moved()
	}
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return n, err
	case a.ctx.Err() != nil:
		return n, a.ctx.Err()
	}
	return n, fault.Say(fault.Unavailable, "the object broke off while it was read: %v", a.watch.cause(err))
}

func (a *answer) Close() error {
	defer a.watch.stop()
	return a.body.Close()
}
