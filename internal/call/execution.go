package call

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/call/codec"
)

// Execution is a call where it runs.
type Execution struct {
	server   *Server
	function *Function
	id       uint64
	flags    byte
	types    string // those of the argument
	argument value
	readers  []*inflow // of the argument
	allowed  *allowance
	started  bool   // for the link's goroutine alone
	turn     uint64 // in which the goroutine that reads the link runs it; 0: another one does

	ctx    context.Context
	cancel context.CancelCauseFunc
	free   context.CancelFunc

	answered atomic.Bool // its caller has, or is about to have, all there is of it, so nothing of its own is logged any more

	yielding sync.Mutex // held while an item is sent

	mu       sync.Mutex
	results  []*allowance // of the readers in the result
	typed    bool         // an item has brought the types
	progress progress
}

// contextKey is the key of the Execution in its function's context.
type contextKey struct{}

// From returns the call that ctx belongs to, or nil when it belongs to none.
func From(ctx context.Context) *Execution {
	x, _ := ctx.Value(contextKey{}).(*Execution)
	return x
}

// context makes the function's context, which ends after left nanoseconds unless that is 0.
func (x *Execution) context(left uint64) {
	ctx := context.WithValue(context.Background(), contextKey{}, x)
	if left > 0 && left < math.MaxInt64 {
		ctx, x.free = context.WithTimeoutCause(ctx, time.Duration(left), errTimeUp)
	}
	x.ctx, x.cancel = context.WithCancelCause(ctx)
}

// ID returns the call's number on its link.
func (x *Execution) ID() uint64 { return x.id }

// Function returns the name of what is called.
func (x *Execution) Function() string { return x.function.Name }

// Argument returns the description and the bytes of the argument. They are valid until Release, or for ever when the function
// retains them.
func (x *Execution) Argument() (types string, data []byte) { return x.types, x.argument.data }

// Release gives back the memory of the argument.
func (x *Execution) Release() { x.argument.release() }

// Reader returns a reader of the argument, or nil.
func (x *Execution) Reader(i int) io.ReadCloser {
	if i >= len(x.readers) || x.readers[i] == nil {
		return nil
	}
	return x.readers[i]
}

// Draining returns a channel that is closed when the runner is to be stopped and waits for its functions.
func (x *Execution) Draining() <-chan struct{} { return x.server.draining }

// Begin says that the function starts now; for placements.
func (x *Execution) Begin() error {
	if x.flags&flagPlaced == 0 {
		return nil
	}
	return x.server.link.Send(x.ctx, header(make([]byte, 0, 16), kindStarted, x.id))
}

// Yield sends an item of a stream. It waits while the caller does not take what was sent before, and returns the cause of
// the context's end when that comes first. It may be called by several goroutines: one item is sent after the other, since the first
// brings the types.
func (x *Execution) Yield(v codec.Value) error {
	if err := x.tooLarge(v, "an item", ""); err != nil {
		return Unsent(err)
	}
	x.yielding.Lock()
	defer x.yielding.Unlock()
	if err := x.allowed.take(x.ctx, len(v.Data)+itemCost); err != nil {
		return err
	}
	scratch := heads.Get().(*[]byte)
	defer heads.Put(scratch)
	head := header(*scratch, kindItem, x.id)
	head = field(head, x.describe(v))
	head = appendNumber(head, len(v.Data))
	// The context ends no item that was begun: the parts of the next would be taken for its own.
	_, err := sendValue(context.Background(), nil, x.server.link, scratch, head, x.id, v.Data)
	return err
}

// describe returns the types of a value when the parent does not know them.
func (x *Execution) describe(v codec.Value) []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.flags&flagResultsKnown != 0 || x.typed {
		return nil
	}
	x.typed = true
	return v.Types
}

func (x *Execution) tooLarge(v codec.Value, what, advice string) error {
	limit := x.server.Settings().MaxResult
	if len(v.Data) <= limit {
		return nil
	}
	return fault.Say(fault.TooLarge, "%s of %s has %d bytes, and at most %d may be sent: the pool's MaxResult%s", what, x.function.Name, len(v.Data), limit, advice)
}

// run runs the function and answers.
func (x *Execution) run() {
	returned := false
	defer func() {
		if returned {
			return
		}
		// recover is nil when the function has called runtime.Goexit. Either way this goroutine ends here, and the call
		// must not.
		x.leaveTurn() // or nobody would read any more
		err := &FunctionError{Kind: fault.Internal, Message: "the function ended its goroutine by runtime.Goexit, as testing.T.FailNow does"}
		if cause := recover(); cause != nil {
			err.Message, err.Stack = fmt.Sprint(cause), string(debug.Stack())
		}
		x.finish(codec.Value{}, err)
	}()
	var v codec.Value
	var err error
	began := time.Now()
	if around := x.server.around; around != nil {
		around(x.function.Name, func() { v, err = x.function.Run(x.ctx, x) })
	} else {
		v, err = x.function.Run(x.ctx, x)
	}
	x.function.pace.ran(time.Since(began))
	if err == nil {
		err = x.tooLarge(v, "the result", "; an io.ReadCloser in it has no limit")
		if err != nil {
			err = Unsent(err)
		}
	}
	returned = true
	x.finish(v, err)
}

// runHere is run on the goroutine that reads the link.
func (x *Execution) runHere() {
	x.turn = x.server.watch.begin()
	x.run()
	x.server.watch.end(x.turn)
}

// leaveTurn makes another goroutine read the link, if this one is to do so when the function has ended.
func (x *Execution) leaveTurn() {
	if x.turn != 0 {
		x.server.watch.turns.Pass(x.turn)
		x.turn = 0
	}
}

// finish answers and cleans up.
func (x *Execution) finish(v codec.Value, err error) {
	x.stopProgress()
	x.server.logs.settle()
	x.server.logs.flush(context.Background(), x.server.link)
	open := x.openReaders(v, err)
	if open == nil {
		x.answered.Store(true) // before the caller can make the next call
	}
	x.reply(v, err)
	v.Release()
	if open != nil {
		x.pump(open)
		_ = x.server.link.Send(context.Background(), header(make([]byte, 0, 16), kindEnd, x.id)) // or the link is over
	}
	x.cancel(nil)
	if x.free != nil {
		x.free()
	}
	for _, f := range x.readers {
		if f != nil {
			f.end(io.ErrClosedPipe)
		}
	}
	x.server.forget(x)
}

// openReaders makes ready to send the readers of a result; it returns nil when there are none.
func (x *Execution) openReaders(v codec.Value, err error) []io.Reader {
	open := v.Readers
	some := false
	allowed := make([]*allowance, len(open))
	for i, r := range open {
		switch {
		case r == nil:
		case err != nil:
			closeReader(r, x.closePanicked)
		default:
			some = true
			allowed[i] = newAllowance()
		}
	}
	if !some {
		return nil
	}
	x.mu.Lock()
	x.results = allowed
	x.mu.Unlock()
	return open
}

// pump sends the readers of the result and closes them.
func (x *Execution) pump(readers []io.Reader) {
	var pumping sync.WaitGroup
	for i, r := range readers {
		if r == nil {
			continue
		}
		pumping.Go(func() {
			// A Read that waits, for a process or a connection, is ended by closing what it reads.
			closed := context.AfterFunc(x.ctx, func() { closeReader(r, x.closePanicked) })
			o := &outflow{link: x.server.link, id: x.id, channel: i, allowed: x.results[i]}
			o.pump(x.ctx, r)
			if closed() {
				closeReader(r, x.closePanicked)
			}
		})
	}
	pumping.Wait()
}

// closePanicked logs that closing a reader of the result has panicked.
func (x *Execution) closePanicked(cause any) {
	x.server.logs.add(&Record{
		Time: time.Now(), Level: slog.LevelError, Message: "closing a reader of the result panicked",
		Attrs: []slog.Attr{slog.String("panic", fmt.Sprint(cause))},
	}, x)
}

// reply sends the result.
func (x *Execution) reply(v codec.Value, err error) {
	scratch := heads.Get().(*[]byte)
	defer heads.Put(scratch)
	head := header(*scratch, kindResult, x.id)
	what, data := outcomeValue, v.Data
	if err != nil {
		what, data = x.outcomeOf(err)
		v = codec.Value{}
	}
	head = append(head, byte(what))
	readers := uint64(0)
	for i, allowed := range x.results {
		if allowed != nil {
			readers |= 1 << i
		}
	}
	head = binary.AppendUvarint(head, readers)
	head = field(head, x.describe(v))
	head = appendNumber(head, len(data))
	if x.turn != 0 && len(data) <= maxInline {
		*scratch = append(head, data...)
		_ = x.server.watch.turns.PostLate(x.turn, *scratch) // or the link is over
		return
	}
	x.leaveTurn()                                                                         // sending may wait for what only the reader can bring
	_, _ = sendValue(context.Background(), nil, x.server.link, scratch, head, x.id, data) // or the link is over
}

// outcomeOf tells the errors apart and writes them down. What an error says of itself is the function's code, too, as it is for the
// nil pointer that is returned as an error.
func (x *Execution) outcomeOf(err error) (what outcome, data []byte) {
	pair := func(a, b string) []byte { return field(field(nil, clip(a, maxMessage)), clip(b, maxMessage)) }
	defer func() {
		if cause := recover(); cause != nil {
			text := fmt.Sprintf("the error that it returned, a %T, cannot be read: %v", err, cause)
			what, data = outcomePanic, pair(text, string(debug.Stack()))
		}
	}()
	if f, ok := err.(*FunctionError); ok { //nolint:errorlint // made by run, and never wrapped
		return outcomePanic, pair(f.Message, f.Stack)
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		return outcomeRefused, pair(string(fault.Of(r.err)), r.Error())
	}
	if u, ok := errors.AsType[*unsent](err); ok {
		return outcomeUnsent, pair(string(fault.Of(u.err)), u.Error())
	}
	if cause := context.Cause(x.ctx); cause != nil && (errors.Is(err, x.ctx.Err()) || errors.Is(err, cause)) {
		return outcomeCanceled, []byte{reasonOfCause(cause)}
	}
	return outcomeError, pair(string(fault.Of(err)), err.Error())
}

func reasonOfCause(cause error) byte {
	switch {
	case errors.Is(cause, context.DeadlineExceeded):
		return cancelDeadline
	case errors.Is(cause, ErrDrained):
		return cancelDrained
	default:
		return cancelCaller
	}
}

// end ends the function's context and what waits beside it.
func (x *Execution) end(why error) {
	x.cancel(why)
	for _, f := range x.readers {
		if f != nil {
			f.end(why)
		}
	}
}

// The functions below run on the link's goroutine.

func (x *Execution) takePart(part []byte) error {
	if x.started || !x.argument.add(part) {
		return errMalformed
	}
	if x.argument.complete() {
		x.started = true
		go x.run()
	}
	return nil
}

func (x *Execution) takeCancel(r *reader) error {
	why := ErrCallerGone
	switch r.byte() {
	case cancelDeadline:
		why = errTimeUp
	case cancelDrained:
		why = ErrDrained
	}
	x.end(why)
	if !x.started {
		x.started = true
		go x.finish(codec.Value{}, why) // the rest of the argument will not come
	}
	return nil
}

func (x *Execution) takeCredit(r *reader) error {
	channel, n := int(r.byte()), r.number()
	x.mu.Lock()
	results := x.results
	x.mu.Unlock()
	switch {
	case r.bad || n > math.MaxInt32:
		return errMalformed
	case results == nil && channel == 0:
		x.allowed.give(int(n))
	case channel < len(results) && results[channel] != nil:
		results[channel].give(int(n))
	default:
		return errMalformed
	}
	return nil
}
