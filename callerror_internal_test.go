package dayfly

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/call"
	"github.com/dayfly-run/dayfly/machine"
)

func TestWantOfMemoryIsToldApartFromOtherEndsOfARunner(t *testing.T) {
	t.Parallel()
	a := attempt{function: "f", runner: "r-1"}
	for exit, want := range map[*machine.Exit]bool{
		{Code: -1, Signal: "SIGKILL", OOMKilled: true}: true,
		{Code: -1, Signal: "SIGKILL"}:                  false,
		nil:                                            false,
	} {
		lost := &boot.Lost{Runner: "r-1", Exit: exit, MemoryMB: 256}
		err := a.tell(&call.Failure{Ran: true, Err: errors.Join(fault.Unavailable, call.ErrLost, lost)})
		failed, ok := errors.AsType[*CallError](err)
		if !ok || !failed.Ran || !errors.Is(err, ErrRunnerLost) || !errors.Is(err, fault.Unavailable) {
			t.Errorf("%+v: got %v, want a call that was lost with its runner", exit, err)
		}
		if got := errors.Is(err, ErrOutOfMemory); got != want {
			t.Errorf("%+v: for want of memory: got %v, want %v", exit, got, want)
		}
		if want && !strings.Contains(err.Error(), "256 MiB") {
			t.Errorf("got %q, want it to say how much memory there was", err)
		}
	}
}

func TestACallErrorSaysWhereItsTimeHasGone(t *testing.T) {
	t.Parallel()
	ran := &CallError{Function: "f", Runner: "r-1", Ran: true, Waited: 600 * time.Millisecond, Err: context.DeadlineExceeded}
	if got, want := ran.Error(), "f: its time was up on runner r-1, of which it waited 600ms for the runner (the deadline of its context)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	own := (&attempt{function: "f", runner: "r-1", timeout: 5 * time.Second}).tell(&call.Failure{Ran: true, Err: context.DeadlineExceeded})
	if got, want := own.Error(), "f: its time was up on runner r-1 (CallOptions.Timeout is 5s)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if fault.Of(ran) != fault.Canceled || !errors.Is(ran, context.DeadlineExceeded) || errors.Is(ran, ErrRunnerLost) {
		t.Errorf("got the kind %s, want canceled", fault.Of(ran))
	}
}

func TestAResultThatCannotBeSentIsThatOfAFunctionThatHasRun(t *testing.T) {
	t.Parallel()
	for _, kind := range []fault.Kind{fault.TooLarge, fault.Invalid} {
		err := (&attempt{function: "f", runner: "r-1"}).tell(&call.Failure{Ran: true, Err: fault.Say(kind, "the result cannot be sent")})
		if got, want := err.Error(), "f: it has run, but nobody gets its result: the result cannot be sent"; got != want {
			t.Errorf("%s: got %q, want %q", kind, got, want)
		}
	}
}

func TestACallThatMayHaveRunSaysOnceWhere(t *testing.T) {
	t.Parallel()
	for why, want := range map[string]string{
		"the runner was stopped before the function had ended": "f: it may have run on runner r-1: the runner was stopped before the function had ended",
		"runner r-1 was lost": "f: it may have run: runner r-1 was lost",
	} {
		err := (&attempt{function: "f", runner: "r-1"}).tell(&call.Failure{Ran: true, Err: fault.Say(fault.Unavailable, "%s", why)})
		if got := err.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
