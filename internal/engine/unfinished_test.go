package engine_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// told asks the engine something and expects an answer.
func (f *fleet) told(what string, ask func(*engine.Engine, context.Context) (bool, error), want bool) {
	f.t.Helper()
	if got, err := ask(f.engine.Load(), f.t.Context()); err != nil || got != want {
		f.t.Errorf("%s: got %v, %v, want %v", what, got, err, want)
	}
}

func TestAJobIsStartingUntilItsMachineHasIt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = workFor(time.Minute)
		f.cloud.Fail(memmachine.Create, memmachine.Delay(10*time.Second)).Times(1)
		job := f.submit(nil)
		f.told("while its machine is made", (*engine.Engine).Starting, true)
		wait(t.Context(), 15*time.Second)
		f.told("while it runs", (*engine.Engine).Starting, false)
		check(t, f.finished(job.ID, time.Hour), dayfly.Succeeded, "", 1)
		f.told("after its end", (*engine.Engine).Starting, false)
	})
}

func TestAJobThatThereIsNoRoomForIsNotStarting(t *testing.T) {
	t.Parallel()
	for name, limits := range map[string]engine.QueueLimits{"by its queue": {Concurrency: 1}, "by its key": {KeyConcurrency: 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				f := newFleet(t, func(o *engine.Options) { o.Queues = map[string]engine.QueueLimits{"small": limits} })
				f.work = workFor(time.Minute)
				small := func(s *dayfly.JobSpec) { s.Queue, s.ConcurrencyKey = "small", "key" }
				f.submit(small)
				second := f.submit(small)
				wait(t.Context(), 10*time.Second)
				f.told("while the first runs", (*engine.Engine).Starting, false)
				check(t, f.finished(second.ID, time.Hour), dayfly.Succeeded, "", 1)
			})
		})
	}
}

func TestAJobThatItsProviderHasNoRoomForIsNotStarting(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted))
		f.crowd(3, nil)
		wait(t.Context(), time.Minute+10*time.Second) // and not the moment at which the provider is asked again
		f.told("while the provider has no room", (*engine.Engine).Starting, false)
	})
}

func TestAJobWithInputsIsStartingUntilItHasThem(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = workFor(time.Minute)
		var fetched atomic.Bool
		f.mute = func(*wire.Assignment) bool { return !fetched.Load() }
		f.uploaded()
		wait(t.Context(), 5*time.Second)
		f.told("while its agent has not said that the command runs", (*engine.Engine).Starting, true)
		fetched.Store(true)
		wait(t.Context(), 5*time.Second)
		f.told("while the command runs", (*engine.Engine).Starting, false)
	})
}

func TestAnAttemptIsUnheardUntilItsAgentSaysHowItStands(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = workFor(time.Minute)
		job := f.submit(nil)
		wait(t.Context(), 10*time.Second)
		f.told("while the server runs that started it", (*engine.Engine).Unheard, false)
		f.restart()
		f.told("after a restart", (*engine.Engine).Unheard, true)
		wait(t.Context(), 10*time.Second)
		f.told("when its agent has said that it runs", (*engine.Engine).Unheard, false)
		f.stop()
		wait(t.Context(), 2*time.Minute)
		f.start()
		f.told("after a restart, when it has ended", (*engine.Engine).Unheard, true)
		check(t, f.finished(job.ID, time.Minute), dayfly.Succeeded, "", 1)
		f.told("when its result has come", (*engine.Engine).Unheard, false)
	})
}
