package engine

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/machine"
)

// bareAttempts are attempts of bare machines, whose command runs as soon as there is a machine.
func bareAttempts(states ...dayfly.AttemptState) *rapid.Generator[attemptView] {
	return rapid.Custom(func(t *rapid.T) attemptView {
		a := attempts().Draw(t, "attempt")
		a.bare, a.state = true, rapid.SampledFrom(states).Draw(t, "bare state")
		a.sending, a.polls, a.deaf = rapid.Bool().Draw(t, "sending"), rapid.Bool().Draw(t, "polls"), rapid.Bool().Draw(t, "deaf")
		if rapid.Bool().Draw(t, "refused") {
			a.refused = &verdict{state: dayfly.AttemptNeverStarted, message: "no room", patient: true}
		}
		if a.sight == machine.Exited && rapid.Bool().Draw(t, "known exit") {
			a.exit = &machine.Exit{Code: rapid.IntRange(0, 3).Draw(t, "code")}
		}
		return a
	})
}

func TestABareAttemptThatNobodyClaimedEndsOnlyWhenItsMachineIsGoneOrNeverWas(t *testing.T) {
	t.Parallel()
	timers := defaultTimers()
	rapid.Check(t, func(t *rapid.T) {
		a := bareAttempts(dayfly.AttemptCreating, dayfly.AttemptCreateUnknown, dayfly.AttemptBooting).Draw(t, "attempt")
		never := a.state == dayfly.AttemptCreating && !a.sending ||
			a.state == dayfly.AttemptCreateUnknown && !a.sending && a.absent >= timers.absentFor
		vanished := a.state == dayfly.AttemptBooting && a.absent >= timers.absentFor
		for _, e := range only(planAttempt(&a, &timers), endAttempt) {
			if !a.gone && !never && !vanished {
				t.Fatalf("it ends as %+v although its machine may run: %+v", e.verdict, a)
			}
			if !never && !e.verdict.started && !a.cancel {
				t.Fatalf("its command may have begun, and that is not counted: %+v of %+v", e.verdict, a)
			}
			if !e.verdict.state.Terminal() || e.verdict.message == "" {
				t.Fatalf("verdict %+v: want a terminal state and a sentence", e.verdict)
			}
		}
	})
}

func TestABareAttemptThatRunsEndsOnlyWithItsMachine(t *testing.T) {
	t.Parallel()
	timers := defaultTimers()
	rapid.Check(t, func(t *rapid.T) {
		a := bareAttempts(dayfly.AttemptRunning).Draw(t, "attempt")
		ended := a.sight == machine.Exited || a.sight == machine.Gone
		over := ended && (!a.doubt || a.sight == machine.Exited && a.exit != nil) || a.absent >= timers.absentFor || a.gone
		ends := only(planAttempt(&a, &timers), endAttempt)
		if got := len(ends) == 1; got != over {
			t.Fatalf("attempt ended: got %v, want %v for %+v", got, over, a)
		}
		if over && !ends[0].verdict.started {
			t.Fatalf("a command that ran does not count as started: %+v", ends[0].verdict)
		}
	})
}

func TestSilenceKillsNoBareMachine(t *testing.T) {
	t.Parallel()
	timers := defaultTimers()
	rapid.Check(t, func(t *rapid.T) {
		a := bareAttempts(dayfly.AttemptRunning).Draw(t, "attempt")
		a.order, a.cancel, a.overdue, a.limit, a.silence = "", false, false, 0, a.silence+time.Hour
		if kills := only(planAttempt(&a, &timers), killMachine); len(kills) > 0 {
			t.Fatalf("got %v, want no kill of what nobody expects to speak: %+v", kills, a)
		}
	})
}

func TestACancelOfABareJobIsActedUponOrWaitsForAnAnswer(t *testing.T) {
	t.Parallel()
	timers := defaultTimers()
	rapid.Check(t, func(t *rapid.T) {
		a := bareAttempts(dayfly.AttemptCreating, dayfly.AttemptCreateUnknown, dayfly.AttemptBooting, dayfly.AttemptRunning).Draw(t, "attempt")
		a.cancel, a.order, a.killed = true, "", false
		if a.sending || a.asking || a.state == dayfly.AttemptRunning && a.sight == machine.Gone {
			return
		}
		if actions := planAttempt(&a, &timers); len(actions) == 0 {
			t.Fatalf("nothing is done about a cancel of %+v", a)
		}
	})
}
