package engine_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// pulling makes a provider take so long to fetch an image.
func pulling(d time.Duration) memmachine.Fault {
	return func(ctx context.Context, c *memmachine.Call) error {
		c.Report(machine.Preparation{Text: "pulling debian:12", Done: 43, Total: 100})
		wait(ctx, d)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return c.Do(ctx)
	}
}

func TestWhatAProviderFetchesIsAPhaseOfItsOwnAndNoBootTime(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.cloud.Fail(memmachine.Prepare, pulling(8*time.Minute))
		f.cloud.Fail(memmachine.Create, func(ctx context.Context, c *memmachine.Call) error {
			err := c.Do(ctx)
			if c.Machine != nil {
				c.Machine.Image = "debian@sha256:1"
			}
			return err
		})
		job := f.submit(func(s *dayfly.JobSpec) { s.Image = "debian:12" })
		wait(t.Context(), 7*time.Minute) // longer than the boot timeout
		under := f.job(job.ID).AttemptLog[0]
		if under.State != dayfly.AttemptCreating || under.Preparation == nil || *under.Preparation != (machine.Preparation{Text: "pulling debian:12", Done: 43, Total: 100}) {
			t.Errorf("meanwhile the attempt is %s and says %+v, want it creating and how far it is", under.State, under.Preparation)
		}
		why, err := f.engine.Load().Why(t.Context(), job.ID)
		if err != nil || !strings.Contains(strings.Join(why.Answers, " "), "pulling debian:12, 43 %") {
			t.Errorf("why says %v (%v), want how far it is", why, err)
		}
		done := f.finished(job.ID, 10*time.Minute)
		check(t, done, dayfly.Succeeded, "", 1)
		a := done.AttemptLog[0]
		if took := a.PreparedAt.Sub(a.CreatedAt).Round(time.Second); took != 8*time.Minute || a.Preparation != nil {
			t.Errorf("it was prepared after %v, and says %v; want 8m, and nothing any more", took, a.Preparation)
		}
		if a.Machine.Image != "debian@sha256:1" {
			t.Errorf("its image is %q, want the one with its digest", a.Machine.Image)
		}
	})
}

func TestWhatIsThereAlreadyIsNoPhase(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		job := f.finished(f.submit(nil).ID, time.Minute)
		if at := job.AttemptLog[0].PreparedAt; !at.IsZero() {
			t.Errorf("it was prepared at %v, want no such phase", at)
		}
	})
}

func TestWhatCannotBeFetchedIsRefusedLikeTheMachine(t *testing.T) {
	t.Parallel()
	for kind, want := range map[fault.Kind]fault.Kind{
		fault.NotFound: fault.Invalid, fault.Invalid: fault.Invalid, fault.Unsupported: fault.Unsupported,
		fault.Denied: fault.Denied, fault.Exhausted: fault.Exhausted,
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				f, _, _ := choosing(t, nil)
				f.cloud.Fail(memmachine.Prepare, memmachine.Refuse(kind))
				created := f.cloud.Fail(memmachine.Create, memmachine.Delay(0))
				job := f.finished(f.submit(on("mem,spare")).ID, time.Minute)
				check(t, job, dayfly.Succeeded, "", 2)
				wantRefusals(t, job, "mem "+string(want))
				if n := created.Used(); n != 0 {
					t.Errorf("%d machines were asked for, want none", n)
				}
			})
		})
	}
}

func TestFetchingIsTriedAgainUntilItsTimeIsOver(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		fails := f.cloud.Fail(memmachine.Prepare, memmachine.Refuse(fault.Unavailable)).Times(3)
		check(t, f.finished(f.submit(nil).ID, time.Minute), dayfly.Succeeded, "", 1)
		if n := fails.Used(); n != 3 {
			t.Errorf("it failed %d times, want 3", n)
		}
		f.cloud.Fail(memmachine.Prepare, memmachine.Refuse(fault.Unavailable))
		job := f.submit(func(s *dayfly.JobSpec) {
			s.Timeouts.Pull, s.Retry.MaxLaunches = dayfly.Duration(time.Minute), 2
		})
		<-time.After(10 * time.Second)
		why, err := f.engine.Load().Why(t.Context(), job.ID)
		if err != nil {
			t.Fatal(err)
		}
		if said := strings.Join(why.Answers, " "); !strings.Contains(said, "tried again, because") {
			t.Errorf("while it is tried again, why says %q, want the reason", said)
		}
		job = f.finished(job.ID, time.Hour)
		check(t, job, dayfly.Failed, dayfly.ReasonNeverStarted, 2)
		if !strings.Contains(job.Message, "timeouts.pull") {
			t.Errorf("its message is %q, want it to name timeouts.pull", job.Message)
		}
	})
}

func TestACancelEndsTheFetching(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		ended := make(chan struct{})
		f.cloud.Fail(memmachine.Prepare, func(ctx context.Context, _ *memmachine.Call) error {
			<-ctx.Done()
			close(ended)
			return ctx.Err()
		})
		created := f.cloud.Fail(memmachine.Create, memmachine.Delay(0))
		for _, change := range []func(*dayfly.JobSpec){nil} {
			job := f.submit(change)
			wait(t.Context(), time.Minute)
			if _, err := f.engine.Load().Cancel(t.Context(), job.ID); err != nil {
				t.Fatal(err)
			}
			check(t, f.finished(job.ID, 5*time.Second), dayfly.Canceled, dayfly.ReasonCanceled, 1)
		}
		<-ended
		if n := created.Used(); n != 0 {
			t.Errorf("%d machines were asked for, want none", n)
		}
	})
}

func TestAServerThatStopsWhileAProviderFetchesBeginsAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.cloud.Fail(memmachine.Prepare, pulling(3*time.Minute))
		job := f.submit(nil)
		wait(t.Context(), 2*time.Minute)
		f.restart()
		wait(t.Context(), 2*time.Minute)
		if got := f.job(job.ID); got.State != dayfly.Starting || got.AttemptLog[0].Preparation == nil {
			t.Errorf("two minutes after the restart it is %s, want it to fetch again", got.State)
		}
		check(t, f.finished(job.ID, 10*time.Minute), dayfly.Succeeded, "", 1)
	})
}
