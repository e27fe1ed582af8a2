package dayfly

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/call"
	"github.com/dayfly-run/dayfly/internal/call/codec"
)

// Function is a function that can be called on another machine. It is safe for concurrent use.
type Function[A, R any] struct {
	name      string
	signature *call.Signature[A, R]
	options   CallOptions
}

// Func makes f a function that can be called on runners. Declare it in a package-level variable, so that the runner, which is
// the same program, knows it too:
//
//	var Thumbnail = dayfly.Func("thumbnail", thumbnail)
//
// The name is 1 to 100 letters, digits, '_', '.', '/' and '-', and nothing else of the program has it. It is what is in logs and errors,
// and by what the runner finds the function.
//
// A and R travel as encoding/gob writes them: exported fields, of any type but channels and functions; what is in a field of an
// interface type must be registered with gob.Register. A value that contains itself is refused. []byte and string are sent as they are. A struct's field, or A itself, of type
// io.Reader or io.ReadCloser is streamed while the function reads it, such as an *os.File or the body of a request. The
// caller's io.ReadCloser is closed when it is not read any more, also when the call cannot be made; an io.Reader is not closed, and may still be read
// shortly after a call that did not read it to its end. In R it is an io.ReadCloser which the function gives away and the
// caller has to close; the call lasts until it is read or closed, and what ends it before its end is an error as Call returns.
//
// The function's context ends when the caller's does, at its deadline, and when the caller's process is gone. A function that
// does not end then keeps its slot on the runner. A panic ends the call, not the runner. A function that is done in microseconds
// may run on a goroutine that runs others afterwards, so it must undo what it does to its thread: a runtime.LockOSThread is
// paired.
//
// Func panics if the name is taken or is none, if f is nil, and if A or R cannot travel.
func Func[A, R any](name string, f func(context.Context, A) (R, error)) *Function[A, R] {
	place := callerPlace()
	signature, err := call.NewSignature[A, R](false)
	if f == nil {
		err = errNil
	}
	declare(name, place, err, func() *call.Function { return signature.Function(name, place, f) })
	return &Function[A, R]{name: name, signature: signature}
}

// errNil is why nothing can be declared.
var errNil = fault.Say(fault.Invalid, "it is nil")

// declare registers a function, and panics with the place of its declaration if that cannot be.
func declare(name, place string, err error, f func() *call.Function) {
	if err != nil {
		panic(fmt.Sprintf("dayfly: the function %q declared at %s cannot be called elsewhere: %v", name, place, err))
	}
	if err := program.functions.Add(f()); err != nil {
		panic(fmt.Sprintf("dayfly: %v", err))
	}
}

// callerPlace returns where the caller of its caller is, as "file.go:12" below its package.
func callerPlace() string {
	_, file, line, ok := runtime.Caller(2)
	if !ok {
		return "an unknown place"
	}
	dir, base := filepath.Split(file)
	return filepath.Join(filepath.Base(dir), base) + ":" + strconv.Itoa(line)
}

// CallOptions are the details of calls. The zero value is right for most.
type CallOptions struct {
	// Timeout is how long the call may take from when it is made, the time it waits for a runner included. 0 leaves it to
	// the context, and when that has no deadline to PoolOptions.Timeout. An earlier deadline of the context holds anyway. Never: only
	// the context limits it. Another below zero, such as what is left until a moment that has passed, is over when the call is made.
	Timeout time.Duration
	// Detached calls go on when their caller's context ends or its process dies, within the PoolOptions.ShutdownTimeout that a
	// runner without a parent has. Only their Timeout ends them earlier. One that still waits for a runner ends with the context,
	// unless it is a cast. It has no meaning for streams, which end with whoever reads them.
	Detached bool
	// OnProgress is called with what the function tells by ReportProgress, by the goroutine that waits for the call. Reports
	// that come faster than twenty times a second are left out, never the last. If it panics, the call is canceled, and Call
	// panics; a cast fails.
	OnProgress func(Progress)
}

// With returns the same function whose calls have these options. nil: none.
func (f *Function[A, R]) With(o *CallOptions) *Function[A, R] {
	with := *f
	with.options = CallOptions{}
	if o != nil {
		with.options = *o
	}
	return &with
}

// Name returns the function's name.
func (f *Function[A, R]) Name() string { return f.name }

// Call runs the function on a runner of the pool and returns its result. It waits in line for a runner if it must. An error is a
// [*RemoteError] if the function returned it, or a [*CallError].
func (f *Function[A, R]) Call(ctx context.Context, p *Pool, a A) (R, error) {
	var none R
	c, err := f.encode(&a)
	if err != nil {
		return none, err
	}
	ctx, cancel := c.within(ctx)
	k, err := c.start(ctx, p)
	if err == nil {
		err = c.tell(k.Wait(ctx))
	}
	if err != nil {
		cancel()
		return none, err
	}
	r, err := f.signature.Result(k)
	if err == nil && f.signature.Streams() {
		// The context is that of the readers, too, and ends with the caller's.
		context.AfterFunc(ctx, cancel)
		return r, nil
	}
	cancel()
	return r, c.tell(err)
}

// poolless is why a function is not called on a nil pool.
func poolless(function string) error {
	return fault.Say(fault.Invalid, "%s was called with a nil pool; NewPool makes one", function)
}

// Cast runs the function on a runner of the pool and does not wait for it. Nobody gets its result. Its error, and every other reason
// why it did not run, go to PoolOptions.OnError, or else to the pool's logger. Cast itself returns an error only for an argument that cannot
// be encoded, and for a nil pool.
//
// A cast ends with its context, like every call. In the handler of a request that is when the handler returns: use
// CallOptions.Detached, or context.WithoutCancel, for what is to go on.
func (f *Function[A, R]) Cast(ctx context.Context, p *Pool, a A) error {
	c, err := f.encode(&a)
	if err != nil {
		return err
	}
	if p == nil { // which has nobody to tell later
		c.value.Release()
		return poolless(f.name)
	}
	c.own()
	c.unlimited = true // nobody waits
	if c.options.Detached {
		ctx = context.WithoutCancel(ctx) // also while it waits in line, and for who is told how it ended
	}
	go func() {
		ctx, cancel := c.within(ctx)
		defer cancel()
		err := c.guard(func() error {
			k, err := c.start(ctx, p)
			if err == nil {
				err = c.tell(k.Wait(ctx))
			}
			if err == nil {
				k.Discard()
			}
			return err
		})
		if err != nil {
			p.castFailed(f.name, err)
		}
	}()
	return nil
}

// guard makes an error of a panic of f, which runs on a goroutine of this package and calls code of the program, such as
// CallOptions.OnProgress: it would end the program, all other calls included.
func (c *calling) guard(f func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = c.tell(&call.Failure{Ran: true, Err: fault.Say(fault.Internal, "a callback of the call panicked: %v\n%s", cause, debug.Stack())})
		}
	}()
	return f()
}

// calling is a call that is about to be made.
type calling struct {
	attempt
	options CallOptions
	value   codec.Value
	retains bool
	tells   bool              // says when it starts
	told    func(error) error // tell, for the readers of the result; nil when it has none

	unlimited bool // PoolOptions.Timeout does not hold
}

// encode makes a call of an argument.
func (f *Function[A, R]) encode(a *A) (*calling, error) {
	c := &calling{attempt: attempt{function: f.name}, options: f.options, retains: f.signature.Retains(), unlimited: f.signature.Streams()}
	if f.signature.Streams() {
		c.told = c.tell
	}
	if c.options.Timeout == Never {
		c.options.Timeout, c.unlimited = 0, true
	}
	var err error
	if c.value, err = f.signature.Encode(a); err != nil {
		c.value.CloseReaders()
		return nil, c.tell(err)
	}
	return c, nil
}

// own makes the argument independent of what it was made of.
func (c *calling) own() { c.value.Own() }

// within returns the context in which the call is made.
func (c *calling) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.options.Timeout == 0 {
		return ctx, func() {}
	}
	if end, has := ctx.Deadline(); !has || time.Until(end) > c.options.Timeout {
		c.timeout = c.options.Timeout
	}
	return context.WithTimeout(ctx, c.options.Timeout)
}

// start waits for a slot and starts the call there. If it cannot, the readers of the argument have been closed.
func (c *calling) start(ctx context.Context, p *Pool) (k *call.Call, err error) {
	defer func() {
		if err != nil {
			c.value.CloseReaders()
		}
		c.value.Release()
	}()
	if p == nil {
		return nil, poolless(c.function)
	}
	began := time.Now()
	var deadline time.Time
	if c.options.Timeout != 0 {
		deadline = began.Add(c.options.Timeout)
	}
	for tries := 1; ; tries++ {
		slot, err := p.scheduler.Acquire(ctx)
		if err != nil {
			return nil, c.tell(err)
		}
		c.waited = time.Since(began)
		r := slot.Runner().(*runner)
		c.runner = r.ID()
		request := call.Request{
			Function: c.function, Argument: c.value, Deadline: deadline, Detached: c.options.Detached,
			Placed: c.tells, Retains: c.retains, Slot: slot, Progress: c.progress(), Told: c.told,
		}
		own, has := ctx.Deadline()
		switch {
		case c.options.Detached || c.tells || !deadline.IsZero():
		case has:
			request.Deadline = own
		case !c.unlimited && p.timeout > 0:
			request.Deadline, c.limit = time.Now().Add(p.timeout), p.timeout
		}
		k, err = r.client.Start(ctx, &request)
		// A runner that ended in this moment has not run it, so another one may. It is not looked for for ever.
		if err == nil || ctx.Err() != nil || !isGone(err) || tries == maxTries {
			return k, c.tell(err)
		}
		r.fail() // or it would be the next one, too
		p.log.Debug("a runner ended in the moment in which it was given a call", slog.String("runner", c.runner), slog.Any("error", err))
	}
}

// maxTries is on how many runners a call is tried to be started, of which each ended in that moment.
const maxTries = 5

func (c *calling) progress() func(float64, string) {
	tell := c.options.OnProgress
	if tell == nil {
		return nil
	}
	return func(fraction float64, text string) { tell(Progress{Fraction: fraction, Text: text}) }
}

// isGone reports whether err says that the runner took the call no more.
func isGone(err error) bool {
	failure, ok := errors.AsType[*call.Failure](err)
	return ok && !failure.Ran && errors.Is(err, fault.Unavailable)
}
