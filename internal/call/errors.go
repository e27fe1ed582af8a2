package call

import (
	"context"
	"errors"
	"fmt"

	"github.com/dayfly-run/dayfly/fault"
)

// FunctionError is what the function itself ended with: the error it returned, or its panic.
type FunctionError struct {
	Kind    fault.Kind // what fault.Of says of the error on the runner; fault.Internal for a panic
	Message string     // its text
	Stack   string     // where it panicked, "" for an error
	Reader  error      // why a reader of the argument has failed at the caller, nil when none has
}

// Error returns the message.
func (e *FunctionError) Error() string { return e.Message }

// Unwrap returns the kind.
func (e *FunctionError) Unwrap() error { return e.Kind }

// Failure says that a function was not run, or that nobody knows what became of it.
type Failure struct {
	Ran bool  // the function may have run, or still runs
	Err error // why, with its kind
}

// Error returns the reason.
func (e *Failure) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *Failure) Unwrap() error { return e.Err }

// ErrLost is in the tree of the error of each call that was under way when its link ended, or whose function was ended because
// its runner stops.
var ErrLost = errors.New("the runner was lost")

// lostError is why a runner was lost, in its own words.
type lostError struct{ why error }

func (e *lostError) Error() string   { return e.why.Error() }
func (e *lostError) Unwrap() []error { return []error{fault.Unavailable, ErrLost, e.why} }

// ErrCallerGone is the cause with which a function's context ends when nobody waits for it any more.
var ErrCallerGone = fmt.Errorf("the caller is gone: %w", context.Canceled)

// ErrDrained is the cause with which a function's context ends when its runner stops.
var ErrDrained = fmt.Errorf("the runner stops: %w", context.Canceled)

// errTimeUp is the cause with which a function's context ends when its time is up.
var errTimeUp = fmt.Errorf("the time of the call is up: %w", context.DeadlineExceeded)

// refusal is why a function is not run.
type refusal struct{ err error }

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// Refuse makes an error with which a [Function] says that it has not begun, because its argument makes no sense.
func Refuse(err error) error { return &refusal{err} }

// unsent is why a value that a function returned is not sent.
type unsent struct{ err error }

func (u *unsent) Error() string { return u.err.Error() }
func (u *unsent) Unwrap() error { return u.err }

// Unsent makes an error with which a [Function] says that it has run, but that what it returned cannot be sent.
func Unsent(err error) error { return &unsent{err} }
