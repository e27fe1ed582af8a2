package dayfly

import (
	"context"
	"errors"
	"iter"

	"github.com/dayfly-run/dayfly/internal/call"
)

// StreamFunction is a function that can be called on another machine and gives its results one by one. It is safe for concurrent
// use.
type StreamFunction[A, R any] struct {
	function Function[A, R]
}

// Stream makes f a function that can be called on runners and whose results the caller gets as they come. It is declared like
// one of [Func], in a package-level variable:
//
//	var Frames = dayfly.Stream("frames", frames) // func(ctx context.Context, v Video, yield func(Frame) error) error
//
// yield sends a result. It waits when the caller is slower, so that at most half a MiB of results is on the way. It returns
// an error when nobody wants more; then f should end, and return it. Several goroutines may call it, until f returns.
func Stream[A, R any](name string, f func(ctx context.Context, a A, yield func(R) error) error) *StreamFunction[A, R] {
	place := callerPlace()
	signature, err := call.NewSignature[A, R](true)
	if f == nil {
		err = errNil
	}
	declare(name, place, err, func() *call.Function { return signature.Streaming(name, place, f) })
	return &StreamFunction[A, R]{Function[A, R]{name: name, signature: signature}}
}

// With returns the same function whose calls have these options. nil: none.
func (f *StreamFunction[A, R]) With(o *CallOptions) *StreamFunction[A, R] {
	return &StreamFunction[A, R]{*f.function.With(o)}
}

// Name returns the function's name.
func (f *StreamFunction[A, R]) Name() string { return f.function.name }

// errEnough is what ends a stream that its caller has left.
var errEnough = errors.New("the loop was left")

// Call returns the function's results. It is called when they are first asked for, and each loop over them is a call of its own. Leaving
// the loop ends the function's context. When the function or the call fails, the error comes last, with the zero R; it is a
// [*RemoteError] if the function returned it, or a [*CallError].
//
//	for frame, err := range Frames.Call(ctx, pool, video) {
//		if err != nil {
//			return err
//		}
//		…
//	}
func (f *StreamFunction[A, R]) Call(ctx context.Context, p *Pool, a A) iter.Seq2[R, error] {
	return func(yield func(R, error) bool) {
		if err := f.run(ctx, p, a, yield); err != nil && !errors.Is(err, errEnough) {
			var none R
			yield(none, err)
		}
	}
}

func (f *StreamFunction[A, R]) run(ctx context.Context, p *Pool, a A, yield func(R, error) bool) error {
	c, err := f.function.encode(&a)
	if err != nil {
		return err
	}
	c.options.Detached, c.unlimited = false, true
	ctx, cancel := c.within(ctx)
	defer cancel()
	k, err := c.start(ctx, p)
	if err != nil {
		return err
	}
	ended := false
	defer func() {
		if !ended { // left early, or by a panic
			k.Cancel()
		}
	}()
	for {
		more, err := k.Next(ctx, func(types string, data []byte) error {
			item, err := f.function.signature.Item(types, data)
			if err == nil && !yield(item, nil) {
				return errEnough
			}
			return err
		})
		if errors.Is(err, errEnough) {
			return err
		}
		if !more {
			ended = err == nil || isOver(err)
			return c.tell(err)
		}
	}
}

// isOver reports whether a call with this error has ended where it ran.
func isOver(err error) bool {
	_, own := errors.AsType[*call.FunctionError](err)
	return own
}
