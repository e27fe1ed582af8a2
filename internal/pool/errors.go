package pool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// Reason says in a word why a caller was given no slot, or why a runner left the pool.
type Reason string

// The reasons of an [Error].
const (
	Full       Reason = "full"        // Options.MaxQueued callers wait already
	Closed     Reason = "closed"      // the pool is closing or closed
	BootFailed Reason = "boot failed" // no runner is up, and none could be booted
	TimeUp     Reason = "time up"     // the caller's context has ended before a slot was free
)

// The reasons of a [Shrinkage], besides Closed.
const (
	Idled   Reason = "idle"    // it had no work for long
	Used    Reason = "used"    // its single use is over
	Retired Reason = "retired" // it would end soon by itself, or work on it does not end
	Lost    Reason = "lost"    // it is gone, and nobody here stopped it
)

// Error says why [Pool.Acquire] gave no slot: nothing has been run. Its kind is [fault.Exhausted] for Full, [fault.Conflict] for Closed,
// [fault.Canceled] for TimeUp, and that of the boot's failure for BootFailed.
type Error struct {
	Pool    string
	Reason  Reason
	Waited  time.Duration // how long the caller was in line
	Queued  int           // how many others were in line, when it was Full or TimeUp
	Up      int           // how many runners were up, all of them busy, when it was TimeUp
	Booting int           // how many booted then
	Max     int           // how many there may be
	Boots   int           // how many boots in a row have failed
	Boot    error         // why the last of them failed, nil when none has
	Again   time.Duration // in how much time a boot is tried again that failed for its configuration, until when all are told the same; 0: at once
	Stop    error         // why a runner that takes up a place cannot be stopped, nil when all that stop do
	Cause   error         // why the caller's context has ended, when it was TimeUp
	NotRun  bool          // nobody has called Run yet, so nothing could be booted
}

// Error tells the whole story, the boot's failure included.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pool %s: ", e.Pool)
	switch e.Reason {
	case Full:
		fmt.Fprintf(&b, "%d callers wait for a runner already, and MaxQueued lets no more", e.Queued)
	case Closed:
		b.WriteString("the pool is closed, so it takes no more work")
	case BootFailed:
		b.WriteString("no runner is up and none can be booted")
	case TimeUp:
		if e.Waited < time.Millisecond {
			fmt.Fprintf(&b, "the caller's context had ended before it could wait for a runner: %v", e.Cause)
		} else {
			fmt.Fprintf(&b, "the caller waited %v for a runner, of which %d are up and %d boot and there may be %d, with %d more in line: %v",
				e.Waited.Round(time.Millisecond), e.Up, e.Booting, e.Max, e.Queued, e.Cause)
		}
	}
	if e.NotRun {
		b.WriteString("; the pool boots nothing because its Run was never called")
	}
	if e.Boot != nil && e.Reason != Closed {
		fmt.Fprintf(&b, "; %s: %v", failedBoots(e.Boots), e.Boot)
	}
	if e.Again > 0 && e.Reason == BootFailed {
		fmt.Fprintf(&b, "; no other is tried for %v, and until then every call is told this", e.Again.Round(time.Millisecond))
	}
	if e.Stop != nil && e.Reason == TimeUp {
		fmt.Fprintf(&b, "; a runner that takes up a place cannot be stopped: %v", e.Stop)
	}
	return b.String()
}

func failedBoots(n int) string {
	if n == 1 {
		return "the last boot failed"
	}
	return fmt.Sprintf("the last %d boots failed, at last with", n)
}

// Unwrap returns the kind and what is behind it.
func (e *Error) Unwrap() []error {
	var errs []error
	switch e.Reason {
	case Full:
		errs = append(errs, fault.Exhausted)
	case Closed:
		return []error{fault.Conflict}
	case TimeUp:
		errs = append(errs, fault.Canceled, e.Cause)
	}
	switch {
	case e.Boot == nil:
	case errors.Is(e.Boot, context.DeadlineExceeded), errors.Is(e.Boot, context.Canceled):
		errs = append(errs, fault.Of(e.Boot)) // the time of the boot was up, which a caller would take for his own
	default:
		errs = append(errs, e.Boot)
	}
	return errs
}

// contextError returns why the context has ended, for errors.Is with the context's own error and with the cause it was given.
func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// bootError makes what Boot returned into what callers and callbacks are told.
func bootError(ctx context.Context, err error, timeout time.Duration) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: the runner was not up within %v: %w", fault.Unavailable, timeout, err)
}

// isConfiguration reports whether booting again can only fail again until somebody changes something.
func isConfiguration(err error) bool {
	switch fault.Of(err).General() {
	case fault.Invalid, fault.Denied, fault.Unauthenticated, fault.Unsupported:
		return true
	default:
		return false
	}
}
