package engine_test

import (
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/store"
)

// ahead restarts an engine as one whose computer's clock was ahead for a while: its own stays so.
func (f *fleet) ahead(by time.Duration) {
	f.t.Helper()
	if _, err := f.engine.Load().Starting(f.t.Context()); err != nil { // it answers when the store is booted
		f.t.Fatal(err)
	}
	if err := f.store.Touch(f.t.Context(), store.Reading{Clock: time.Now().Add(by)}); err != nil {
		f.t.Fatal(err)
	}
	f.restart()
}

// paced makes an engine's clock go faster or slower than the wall's: as if that was set back or put on, bit by bit.
func paced(speed float64) func(*engine.Options) {
	return func(o *engine.Options) {
		began := time.Now()
		o.Clock = func() time.Duration { return time.Duration(speed * float64(time.Since(began))) }
	}
}

func TestAJobStartsAtItsTimeByTheWallClockAsItIsThen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ahead time.Duration
		speed float64
	}{
		"a clock that has always been right":       {0, 1},
		"a clock that was an hour ahead":           {time.Hour, 1},
		"a clock that was a year ahead":            {365 * 24 * time.Hour, 1},
		"a clock that is set back while it waits":  {0, 2},
		"a clock that is put on while it waits":    {0, 0.5},
		"a clock that is hardly counted meanwhile": {time.Hour, 0.01},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				f := newFleet(t, paced(c.speed))
				wait(t.Context(), time.Second)
				f.ahead(c.ahead)
				at := time.Now().Add(20 * time.Minute)
				job := f.submit(func(s *dayfly.JobSpec) {
					s.RunAt, s.Timeouts.Total, s.Timeouts.Queue = &at, dayfly.Duration(time.Minute), dayfly.Duration(time.Minute)
				})
				if job.State != dayfly.Scheduled || !job.RunAt.Equal(at) {
					t.Fatalf("a job with a run_at of %v: got %s for %v, want scheduled for then", at, job.State, job.RunAt)
				}
				wait(t.Context(), time.Until(at)-time.Second)
				if early := f.job(job.ID); early.State != dayfly.Scheduled {
					t.Errorf("a second before its time the job is %s, want it scheduled", early.State)
				}
				wait(t.Context(), 70*time.Second) // the clock is looked at each minute
				check(t, f.job(job.ID), dayfly.Succeeded, "", 1)
			})
		})
	}
}

func TestATimeThatHasComeByTheWallClockIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, paced(0.5))
		wait(t.Context(), time.Hour)
		at := time.Now().Add(-time.Minute)
		job := f.submit(func(s *dayfly.JobSpec) { s.RunAt = &at })
		check(t, f.finished(job.ID, time.Second), dayfly.Succeeded, "", 1)
	})
}

func TestABackoffIsNoMatterOfTheWallClock(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		wait(t.Context(), time.Second)
		f.ahead(365 * 24 * time.Hour)
		f.work = fail(3)
		job := f.submit(func(s *dayfly.JobSpec) { s.Retry.MaxAttempts, s.Retry.BackoffMax = 5, dayfly.Duration(time.Minute) })
		check(t, f.finished(job.ID, 10*time.Minute), dayfly.Failed, dayfly.ReasonExitNonzero, 5)
	})
}

func TestAJobWhoseTimeCameAndWhoseDeadlinePassedWithoutAServerExpires(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		wait(t.Context(), time.Second)
		f.ahead(time.Hour)
		at := time.Now().Add(time.Hour)
		job := f.submit(func(s *dayfly.JobSpec) { s.RunAt, s.Timeouts.Queue = &at, dayfly.Duration(time.Minute) })
		f.stop()
		wait(t.Context(), 3*time.Hour)
		f.start()
		expired := f.finished(job.ID, time.Minute)
		check(t, expired, dayfly.Expired, dayfly.ReasonQueueTimeout, 0)
		if moved, _ := f.engine.Load().Events(t.Context(), job.ID, 0, 10); len(moved) != 3 {
			t.Errorf("got %d events, want it scheduled, queued and expired", len(moved))
		}
		var counts []store.Count
		if counts, _ = f.engine.Load().Counts(t.Context()); len(counts) > 0 {
			t.Errorf("unfinished jobs: got %v, want none", counts)
		}
		if n := f.engine.Load().OpenJobs(); n != 0 {
			t.Errorf("jobs that count as unfinished: got %d, want 0", n)
		}
	})
}
