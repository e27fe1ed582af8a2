package dayfly

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/call"
	"github.com/dayfly-run/dayfly/internal/pool"
)

// A call has two kinds of error, which are of two types. A [*RemoteError] is what the function itself ended with. A
// [*CallError] says that Dayfly could not run it, or cannot say what became of it. Nothing is ever run a second time by
// itself; CallError.Ran tells whether the caller may do that.

// RemoteError is the error that a function returned on its runner, or its panic.
//
// The error's text and its kind have traveled, and nothing else: errors.Is(err, fault.NotFound) holds if it held on the runner,
// but a value such as io.EOF or sql.ErrNoRows in it is another one here. What a caller has to tell apart needs a kind, or is part of
// the result.
type RemoteError struct {
	Function string     // the name of the function
	Runner   string     // where it ran
	Kind     fault.Kind // what fault.Of said of the error; fault.Internal for a panic
	Message  string     // the error's text, or what was passed to panic
	Stack    string     // where it panicked, in the runner's words; "" if it returned an error

	// Reader is the error with which a reader in the argument has failed, here at the caller, before the function did. It is
	// most likely why. nil: none has.
	Reader error
}

// Error returns the function's own text.
func (e *RemoteError) Error() string {
	if e.Stack != "" {
		return fmt.Sprintf("%s panicked: %s", e.Function, e.Message)
	}
	return e.Message
}

// Unwrap returns the kind, and the error of a reader that has failed.
func (e *RemoteError) Unwrap() []error {
	if e.Reader == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Reader}
}

// ErrRunnerLost is the error of calls whose runner has ended, was being stopped, or was not heard of any more, while they were under
// way: errors.Is(err, ErrRunnerLost). The CallError says how the runner ended, as far as that is known.
var ErrRunnerLost = errors.New("the runner was lost")

// ErrOutOfMemory is the error of calls whose runner was killed for want of memory. Such a runner is also lost. The same
// call will probably need as much again.
var ErrOutOfMemory = errors.New("the runner was killed for want of memory")

// CallError says that a function was not run, or that nobody knows what became of it. Its kind says more:
//
//	fault.Canceled      the caller's context has ended, or the time of the call is up; it is also the context's error
//	fault.Exhausted     too many callers wait already, or the provider has no room for a runner
//	fault.Unavailable   the runner was lost, or none could be booted
//	fault.Conflict      the pool is closed
//	fault.TooLarge      the argument or the result is larger than the pool allows
//	fault.Invalid       a value that cannot be encoded, or a pool whose configuration cannot work
//	fault.Unsupported   the provider has no such machines as the pool's Spec asks for
//	fault.Denied        the provider refuses the credentials
//	fault.NotFound      the runner knows no such function
//	fault.Internal      a callback of the call panicked, or Dayfly has a mistake
type CallError struct {
	Function string        // the name of the function
	Runner   string        // where it was to run; "" if it did not get as far as that
	Ran      bool          // it may have run, and may even run still; false: it certainly has not
	Waited   time.Duration // how long the call waited for a runner
	Err      error         // why
}

// Error says what is known.
func (e *CallError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", e.Function)
	waited := e.Waited.Round(time.Millisecond)
	switch {
	case errors.Is(e.Err, context.DeadlineExceeded) && e.Runner != "":
		fmt.Fprintf(&b, "its time was up on runner %s", e.Runner)
		if waited > 0 {
			fmt.Fprintf(&b, ", of which it waited %v for the runner", waited)
		}
		return b.String() + cmp.Or(because(e.Err, context.DeadlineExceeded), " (the deadline of its context)")
	case errors.Is(e.Err, context.Canceled) && e.Runner != "":
		fmt.Fprintf(&b, "canceled while it ran on runner %s", e.Runner)
		return b.String() + because(e.Err, context.Canceled)
	case e.Ran && (errors.Is(e.Err, fault.TooLarge) || errors.Is(e.Err, fault.Invalid)): // its result cannot be sent
		b.WriteString("it has run, but nobody gets its result: ")
	case e.Ran && strings.Contains(e.Err.Error(), e.Runner):
		b.WriteString("it may have run: ")
	case e.Ran:
		fmt.Fprintf(&b, "it may have run on runner %s: ", e.Runner)
	}
	b.WriteString(e.Err.Error())
	return b.String()
}

// because returns what err says besides that the context has ended, in parentheses, or "".
func because(err, end error) string {
	why := strings.TrimPrefix(strings.TrimPrefix(err.Error(), end.Error()), ": ")
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

// Unwrap returns the reason.
func (e *CallError) Unwrap() error { return e.Err }

// Is says which of ErrRunnerLost and ErrOutOfMemory it is, too.
func (e *CallError) Is(target error) bool {
	switch target {
	case ErrRunnerLost:
		return errors.Is(e.Err, call.ErrLost)
	case ErrOutOfMemory:
		lost, ok := errors.AsType[*boot.Lost](e.Err)
		return ok && lost.OOM()
	}
	return false
}

// attempt is what is known of a call when it fails.
type attempt struct {
	function string
	runner   string
	waited   time.Duration
	limit    time.Duration // the pool's Timeout, where that is the call's; 0: it is not
	timeout  time.Duration // that of its CallOptions, where the context has no earlier end; 0: it is not
}

// tell makes what the layers below say into what callers are told.
func (a *attempt) tell(err error) error {
	if err == nil {
		return nil
	}
	if own, ok := errors.AsType[*call.FunctionError](err); ok {
		return &RemoteError{Function: a.function, Runner: a.runner, Kind: own.Kind, Message: own.Message, Stack: own.Stack, Reader: own.Reader}
	}
	e := &CallError{Function: a.function, Runner: a.runner, Waited: a.waited, Err: err}
	if failure, ok := errors.AsType[*call.Failure](err); ok {
		e.Ran, e.Err = failure.Ran, failure.Err
	}
	if queued, ok := errors.AsType[*pool.Error](err); ok {
		e.Waited = queued.Waited
	}
	switch { // there are three times that can be up, of which the caller may know only two
	case !errors.Is(err, context.DeadlineExceeded):
	case a.limit > 0:
		e.Err = fmt.Errorf("%w: PoolOptions.Timeout is %v, which a deadline of the context or CallOptions.Timeout replaces", e.Err, a.limit)
	case a.timeout != 0:
		e.Err = fmt.Errorf("%w: CallOptions.Timeout is %v", e.Err, a.timeout)
	}
	return e
}
