package engine_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// fate is what becomes of a write.
type fate int

const (
	done    fate = iota
	refused      // nothing is written
	lost         // it is written, and nobody hears of it
	late         // it is written, and its answer takes half a minute; not for the calls of agents, which stop waits for
)

// forgetful is a store some of whose writes are refused and some of whose answers are lost.
type forgetful struct {
	store.Store
	mu   sync.Mutex
	fate func(write string) fate
}

func (s *forgetful) decide(write string) fate {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fate == nil {
		return done
	}
	return s.fate(write)
}

// set changes the fate of the writes to come.
func (s *forgetful) set(f func(write string) fate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fate = f
}

// times gives the next n writes of that name a fate.
func (s *forgetful) times(n int, write string, f fate) {
	s.set(func(w string) fate {
		if w != write || n == 0 {
			return done
		}
		n--
		return f
	})
}

// do carries a write out, or not, and tells of it, or not.
func (s *forgetful) do(write string, carryOut func() error) error {
	f := s.decide(write)
	if f == refused {
		return fmt.Errorf("forgetful: %s: %w", write, fault.StoreFull)
	}
	err := carryOut()
	if f == late {
		wait(context.Background(), 30*time.Second)
	}
	if err != nil || f != lost {
		return err
	}
	return fmt.Errorf("forgetful: the answer to %s was lost: %w", write, fault.Unavailable)
}

func (s *forgetful) Submit(ctx context.Context, n *store.Submission) (job *store.Job, replayed bool, err error) {
	err = s.do("submit", func() (err error) { job, replayed, err = s.Store.Submit(ctx, n); return err })
	return job, replayed, err
}

func (s *forgetful) Launch(ctx context.Context, l []*store.Launch) (refusals []error, err error) {
	err = s.do("launch", func() (err error) { refusals, err = s.Store.Launch(ctx, l); return err })
	return refusals, err
}

func (s *forgetful) Claim(ctx context.Context, c *store.Claim) (job *store.Job, a *store.Attempt, err error) {
	err = s.do("claim", func() (err error) { job, a, err = s.Store.Claim(ctx, c); return err })
	return job, a, err
}

func (s *forgetful) End(ctx context.Context, e *store.Ending) (job *store.Job, err error) {
	err = s.do("end", func() (err error) { job, err = s.Store.End(ctx, e); return err })
	return job, err
}

func (s *forgetful) Move(ctx context.Context, m *store.Move) (job *store.Job, err error) {
	err = s.do("move", func() (err error) { job, err = s.Store.Move(ctx, m); return err })
	return job, err
}

func (s *forgetful) Note(ctx context.Context, n []*store.Note) error {
	return s.do("note", func() error { return s.Store.Note(ctx, n) })
}

func (s *forgetful) MoveMachine(ctx context.Context, m []*store.MachineMove) error {
	return s.do("move machine", func() error { return s.Store.MoveMachine(ctx, m) })
}

func (s *forgetful) AddRunner(ctx context.Context, r *store.Runner, most int) error {
	return s.do("add runner", func() error { return s.Store.AddRunner(ctx, r, most) })
}

func (s *forgetful) MoveRunner(ctx context.Context, m *store.RunnerMove) (r *store.Runner, err error) {
	err = s.do("claim", func() (err error) { r, err = s.Store.MoveRunner(ctx, m); return err }) // most are for the calls of agents
	return r, err
}

// newForgetfulFleet is newFleet on a forgetful store, which forgets nothing before it is told to.
func newForgetfulFleet(t *testing.T, change func(*engine.Options)) (*fleet, *forgetful) {
	t.Helper()
	s := &forgetful{}
	f := newFleet(t, func(o *engine.Options) {
		s.Store = o.Store
		o.Store = s
		if change != nil {
			change(o)
		}
	})
	return f, s
}

// clean checks that a job's machines are gone, in the ledger and at the provider, and that nothing is counted any more.
func clean(t *testing.T, f *fleet, id string) {
	t.Helper()
	f.settled(time.Minute)
	wait(t.Context(), 20*time.Second)
	for _, a := range f.job(id).AttemptLog {
		if a.Machine.State != store.MachineGone {
			t.Errorf("the machine of attempt %d is %s in the ledger, want gone", a.Number, a.Machine.State)
		}
	}
	if n := f.engine.Load().OpenJobs(); n != 0 {
		t.Errorf("%d jobs count as unfinished, want none", n)
	}
	if err := f.engine.Load().Delete(t.Context(), id); err != nil {
		t.Errorf("delete: %v", err)
	}
}

func TestAnAttemptWhoseClaimWasNotHeardOfEndsWithItsMachine(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, s := newForgetfulFleet(t, nil)
		s.times(1, "claim", lost)
		job := f.submit(nil)
		wait(t.Context(), 500*time.Millisecond) // the agent asks again after a second
		machines := f.cloud.Machines()
		if len(machines) != 1 {
			t.Fatalf("%d machines, want 1", len(machines))
		}
		f.cloud.Vanish(machines[0].ID)
		check(t, f.finished(job.ID, 2*time.Minute), dayfly.Failed, dayfly.ReasonMachineLost, 1)
		clean(t, f, job.ID)
	})
}

func TestAnAttemptWhoseClaimWasNotHeardOfCanBeCanceled(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, s := newForgetfulFleet(t, nil)
		f.work = workFor(time.Hour)
		s.times(1, "claim", lost)
		job := f.submit(nil)
		wait(t.Context(), 500*time.Millisecond)
		if _, err := f.engine.Load().Cancel(t.Context(), job.ID); err != nil {
			t.Fatal(err)
		}
		check(t, f.finished(job.ID, 2*time.Minute), dayfly.Canceled, dayfly.ReasonCanceled, 1)
		clean(t, f, job.ID)
	})
}

func TestAClaimAtTheLastMomentOfTheBootTimeoutLosesNoMachine(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, s := newForgetfulFleet(t, nil)
		f.work = workFor(5 * time.Minute)
		// The agent goes on asking, and its claim is heard of only when the boot timeout has passed.
		began := time.Now()
		s.set(func(write string) fate {
			if write == "claim" && time.Since(began) < 90*time.Second {
				return lost
			}
			return done
		})
		job := f.submit(func(s *dayfly.JobSpec) { s.Timeouts.Boot = dayfly.Duration(time.Minute) })
		check(t, f.finished(job.ID, 10*time.Minute), dayfly.Succeeded, "", 1)
		clean(t, f, job.ID)
	})
}

func TestAnEndThatWasNotHeardOfStillDestroysTheMachine(t *testing.T) {
	t.Parallel()
	for name, fates := range map[string]func(*forgetful){
		"its answer was lost":    func(s *forgetful) { s.times(1, "end", lost) },
		"all answers were lost":  func(s *forgetful) { s.times(1000, "end", lost) },
		"it was refused a while": func(s *forgetful) { s.times(20, "end", refused) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				f, s := newForgetfulFleet(t, nil)
				fates(s)
				f.down.Store(true) // agents do not reach the server
				job := f.submit(func(s *dayfly.JobSpec) {
					s.Timeouts.Boot, s.Retry.MaxLaunches = dayfly.Duration(time.Minute), 1
				})
				check(t, f.finished(job.ID, 5*time.Minute), dayfly.Failed, dayfly.ReasonNeverStarted, 1)
				clean(t, f, job.ID)
			})
		})
	}
}

func TestAResultThatWasNotHeardOfIsRetriedInTime(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, s := newForgetfulFleet(t, nil)
		s.times(1, "end", lost)
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
			if a.Number > 1 {
				return succeed(ctx, a)
			}
			go func() { // before it can report its result again
				wait(context.Background(), 300*time.Millisecond)
				f.cloud.Vanish(f.cloud.Machines()[0].ID)
			}()
			return fail(1)(ctx, a)
		}
		job := f.submit(func(s *dayfly.JobSpec) { s.Retry.MaxAttempts = 2 })
		check(t, f.finished(job.ID, 30*time.Second), dayfly.Succeeded, "", 2)
		clean(t, f, job.ID)
	})
}

func TestASubmissionWhoseAnswerWasLostRuns(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, s := newForgetfulFleet(t, nil)
		s.times(1, "submit", lost)
		wish := &engine.Submission{Spec: dayfly.JobSpec{Command: []string{"true"}}, Key: "k", BodyHash: []byte("b")}
		if _, _, err := f.engine.Load().Submit(t.Context(), wish); fault.Of(err) != fault.Unavailable {
			t.Fatalf("got %v, want unavailable", err)
		}
		job, replayed, err := f.engine.Load().Submit(t.Context(), wish)
		if err != nil || !replayed {
			t.Fatalf("got %v, %v; want the job that was made", replayed, err)
		}
		check(t, f.finished(job.ID, time.Minute), dayfly.Succeeded, "", 1)
		clean(t, f, job.ID)
	})
}

func TestAPlaceIsCountedOnceHoweverALaunchIsLearntOf(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, s := newForgetfulFleet(t, func(o *engine.Options) { o.Queues = map[string]engine.QueueLimits{"one": {Concurrency: 1}} })
		narrow := func(s *dayfly.JobSpec) { s.Queue = "one" }
		for write, fate := range map[string]fate{"submit": late, "launch": late, "claim": lost, "end": lost} {
			s.times(1, write, fate)
			first := f.submit(narrow)
			second := f.submit(narrow)
			f.finished(first.ID, 2*time.Minute)
			f.finished(second.ID, 2*time.Minute)
			f.settled(time.Minute)
		}
		s.set(nil)
		wait(t.Context(), time.Minute) // until every answer has come
		began := time.Now()
		last := f.submit(narrow)
		f.finished(last.ID, time.Minute)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("a job of an idle queue took %v, want it to find the place free", took)
		}
	})
}

func TestACancelWhoseAnswerWasLostIsCarriedOut(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, s := newForgetfulFleet(t, nil)
		f.work = workFor(time.Hour)
		job := f.submit(nil)
		wait(t.Context(), time.Second)
		s.times(1, "move", lost)
		if _, err := f.engine.Load().Cancel(t.Context(), job.ID); fault.Of(err) != fault.Unavailable {
			t.Fatalf("got %v, want unavailable", err)
		}
		check(t, f.finished(job.ID, time.Minute), dayfly.Canceled, dayfly.ReasonCanceled, 1)
	})
}

func TestNotesThatAreRefusedAreWrittenLater(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, s := newForgetfulFleet(t, nil)
		s.times(3, "note", refused)
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
			if err := f.engine.Load().Progress(ctx, a.JobToken, &wire.Progress{Fraction: .5}); err != nil {
				t.Errorf("progress: %v", err)
			}
			if a.Name == "long" {
				wait(ctx, time.Minute)
			}
			return succeed(ctx, a)
		}
		short := f.submit(func(s *dayfly.JobSpec) { s.Name = "short" })
		long := f.submit(func(s *dayfly.JobSpec) { s.Name = "long" })
		check(t, f.finished(short.ID, time.Minute), dayfly.Succeeded, "", 1)
		wait(t.Context(), 30*time.Second)
		if p := f.job(long.ID).Progress; p == nil || p.Fraction != .5 {
			t.Errorf("the progress of the job that runs: got %+v, want what it said while the store refused", p)
		}
		check(t, f.finished(long.ID, 5*time.Minute), dayfly.Succeeded, "", 1)
	})
}

func TestARefusalThatCouldNotBeRecordedIsNotForgotten(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, s := newForgetfulFleet(t, nil)
		s.times(5, "end", refused)
		f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Invalid)).Times(1)
		job := f.submit(nil)
		check(t, f.finished(job.ID, 30*time.Second), dayfly.Failed, dayfly.ReasonRefused, 1)
	})
}

func TestAStrayWhoseRemovalWasNotHeardOfIsRemoved(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, s := newForgetfulFleet(t, nil)
		f.cloud.Fail(memmachine.Create, memmachine.LandLate(5*time.Minute)).Times(3) // its attempt is over by then
		job := f.submit(func(s *dayfly.JobSpec) { s.Timeouts.Boot, s.Retry.MaxLaunches = dayfly.Duration(time.Minute), 1 })
		check(t, f.finished(job.ID, 5*time.Minute), dayfly.Failed, dayfly.ReasonNeverStarted, 1)
		wait(t.Context(), 3*time.Minute)
		s.times(1, "move machine", lost)
		wait(t.Context(), 3*time.Minute)
		f.settled(time.Minute)
	})
}
