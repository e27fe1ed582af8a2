package engine_test

import (
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// limited are machines at a dollar an hour, a queue "day" that may cost what three minutes of them do a day, and all together
// what ten do.
func limited(o *engine.Options) {
	priced(dollarAnHour())(o)
	o.Queues = map[string]engine.QueueLimits{"day": {DailyCost: machine.Dollar / 20}}
	o.DailyCost = machine.Dollar / 6
}

func inQueue(queue string) func(*dayfly.JobSpec) {
	return func(s *dayfly.JobSpec) { s.Queue, s.Timeouts.Run = queue, dayfly.Duration(20*time.Hour) }
}

func TestAQueueThatHasReachedItsDailyLimitGoesOnTheNextDay(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, limited) // the bubble begins at midnight
		f.work = workFor(4 * time.Minute)
		first := f.submit(inQueue("day"))
		wait(t.Context(), 3*time.Minute+10*time.Second)
		second := f.submit(inQueue("day"))
		other := f.submit(inQueue("other"))
		wait(t.Context(), 5*time.Minute)
		check(t, f.job(first.ID), dayfly.Succeeded, "", 1) // who runs goes on
		check(t, f.job(other.ID), dayfly.Succeeded, "", 1)
		if now := f.job(second.ID); now.State != dayfly.Queued || now.Number != 0 {
			t.Errorf("a job of a queue at its limit is %s with %d attempts, want it to wait", now.State, now.Number)
		}
		why, err := f.engine.Load().Why(t.Context(), second.ID)
		if err != nil || !strings.Contains(strings.Join(why.Answers, " "), "the daily limit is $0.05") {
			t.Errorf("why: got %v, %v; want it to name the daily limit", why, err)
		}
		f.stop() // hours without a server pass quickly
		wait(t.Context(), 23*time.Hour+47*time.Minute)
		f.start()
		wait(t.Context(), 2*time.Minute)
		if now := f.job(second.ID); now.State != dayfly.Queued {
			t.Errorf("at 23:57 the job is %s, want it to wait through a restart", now.State)
		}
		wait(t.Context(), 8*time.Minute)
		check(t, f.job(second.ID), dayfly.Succeeded, "", 1)
	})
}

func TestTheLimitOfAllQueuesStopsEveryQueue(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, limited)
		f.work = workFor(time.Hour)
		f.submit(inQueue("a"))
		wait(t.Context(), 10*time.Minute+10*time.Second)
		waiting := f.submit(inQueue("b"))
		wait(t.Context(), time.Minute)
		if now := f.job(waiting.ID); now.State != dayfly.Queued {
			t.Errorf("a job after ten minutes of ten is %s, want it to wait", now.State)
		}
		f.options.DailyCost = machine.Dollar
		f.restart()
		wait(t.Context(), time.Minute)
		if now := f.job(waiting.ID); now.State != dayfly.Running {
			t.Errorf("when the limit is raised the job is %s, want it to run", now.State)
		}
	})
}

func TestCostsAreThoseOfTheDaysInWhichTheyCameAbout(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, limited)
		today := time.Now().UTC().Truncate(24 * time.Hour)
		f.work = workFor(16 * time.Minute)
		f.stop() // hours without a server pass quickly
		wait(t.Context(), time.Until(today.Add(23*time.Hour+54*time.Minute)))
		f.start()
		job := f.submit(inQueue("night"))
		wait(t.Context(), 9*time.Minute)
		amounts := func(from, to time.Time) map[string]machine.Money {
			t.Helper()
			costs, err := f.engine.Load().Costs(t.Context(), store.DayOf(from), store.DayOf(to))
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]machine.Money{}
			for _, item := range costs.Items {
				got[item.Day] = item.Amount
			}
			return got
		}
		near := func(what string, got, want machine.Money) {
			t.Helper()
			if got < want-3000 || got > want+3000 {
				t.Errorf("%s: got %s, want about %s", what, got, want)
			}
		}
		tomorrow := today.Add(24 * time.Hour)
		running := amounts(today, tomorrow)
		near("six minutes before midnight, while it runs", running[store.DayOf(today)], machine.Dollar/10)
		near("three minutes after it, while it runs", running[store.DayOf(tomorrow)], machine.Dollar/20)
		f.finished(job.ID, time.Hour)
		f.settled(time.Minute)
		wait(t.Context(), time.Second)
		settled := amounts(today, tomorrow)
		near("the six minutes before midnight, at the end", settled[store.DayOf(today)], machine.Dollar/10)
		near("the ten minutes after it, at the end", settled[store.DayOf(tomorrow)], machine.Dollar/6)
		if sum, want := settled[store.DayOf(today)]+settled[store.DayOf(tomorrow)], costOf(f.job(job.ID)); sum != want {
			t.Errorf("the days add up to %s, want the job's cost of %s", sum, want)
		}
	})
}
