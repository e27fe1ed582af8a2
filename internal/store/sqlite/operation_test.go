package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
	"github.com/dayfly-run/dayfly/machine"
)

// operation is one kind of write: what has to be there before, the write, and how to see that it was carried out.
type operation struct {
	prepare func(s *sqlite.Store) error
	write   func(s *sqlite.Store) error
	done    func(s *sqlite.Store) (bool, error)
}

// The one job that all operations are about, and its attempt.
func theJob() *store.Submission { return request(1) }
func theAttempt() string        { return wish(theJob().Job).AttemptID }
func theMachine() string        { return wish(theJob().Job).Machine }

// jobIs reports whether the job satisfies a condition.
func jobIs(condition func(*store.Job) bool) func(*sqlite.Store) (bool, error) {
	return func(s *sqlite.Store) (bool, error) {
		job, err := s.Job(context.Background(), theJob().Job.ID)
		if errors.Is(err, fault.NotFound) {
			return condition(nil), nil
		}
		if err != nil {
			return false, err
		}
		return condition(job), nil
	}
}

func submitIn(state dayfly.State) func(*sqlite.Store) error {
	return func(s *sqlite.Store) error {
		r := theJob()
		r.Job.State = state
		r.Inputs = []store.Input{{Name: "in"}}
		if state == dayfly.Scheduled {
			r.Job.RunAt = time.Unix(1000, 0)
		}
		_, _, err := s.Submit(context.Background(), r)
		return err
	}
}

// inOrder does one thing after another.
func inOrder(steps ...func(*sqlite.Store) error) func(*sqlite.Store) error {
	return func(s *sqlite.Store) error {
		for _, step := range steps {
			if err := step(s); err != nil {
				return err
			}
		}
		return nil
	}
}

func moveTo(to dayfly.State) func(*sqlite.Store) error {
	return func(s *sqlite.Store) error {
		job, err := s.Job(context.Background(), theJob().Job.ID)
		if err != nil {
			return err
		}
		_, err = s.Move(context.Background(), &store.Move{
			JobID: job.ID, Version: job.Version, From: job.State, To: to, Time: time.Now(), RunAt: time.Now(), FinishedAt: time.Now(),
		})
		return err
	}
}

func launchIt(s *sqlite.Store) error {
	l := wish(&store.Job{ID: theJob().Job.ID, Version: 1})
	l.Price = &machine.Price{Rate: machine.DollarPerHour}
	refusals, err := s.Launch(context.Background(), []*store.Launch{l})
	return errors.Join(append(refusals, err)...)
}

func claimIt(s *sqlite.Store) error {
	_, _, err := s.Claim(context.Background(), &store.Claim{Attempt: theAttempt(), By: "a", Time: time.Now()})
	return err
}

func addToken(s *sqlite.Store) error {
	return s.AddToken(context.Background(), &store.Token{ID: "tok", Name: "ci", Hash: []byte("hash"), CreatedAt: time.Now()})
}

func token(condition func(*store.Token) bool) func(*sqlite.Store) (bool, error) {
	return func(s *sqlite.Store) (bool, error) {
		all, err := s.Tokens(context.Background())
		return len(all) == 1 && condition(all[0]), err
	}
}

// goneAndSettled reports whether the machine is gone. What it has cost is settled exactly if it is.
func goneAndSettled(s *sqlite.Store) (bool, error) {
	gone, err := jobIs(func(j *store.Job) bool { return j.AttemptLog[0].Machine.State == store.MachineGone })(s)
	if err != nil {
		return false, err
	}
	costs, err := s.Costs(context.Background(), "0000-01-01", "9999-12-31")
	if err == nil && (len(costs) == 1) != gone {
		err = fmt.Errorf("the machine is gone: %v, and the costs that are settled: %v", gone, costs)
	}
	return gone, err
}

// operations has one operation for every name in sqlite.Ops.
func operations() map[string]operation {
	ctx := context.Background()
	nothing := func(*sqlite.Store) error { return nil }
	submitted, launched := submitIn(dayfly.Queued), inOrder(submitIn(dayfly.Queued), launchIt)
	return map[string]operation{
		"submit": {nothing, submitted, jobIs(func(j *store.Job) bool { return j != nil })},
		"start":  {submitIn(dayfly.Created), moveTo(dayfly.Queued), jobIs(func(j *store.Job) bool { return j.State == dayfly.Queued })},
		"move":   {submitted, moveTo(dayfly.Canceled), jobIs(func(j *store.Job) bool { return j.State == dayfly.Canceled })},
		"store_input": {submitIn(dayfly.Created), func(s *sqlite.Store) error {
			_, err := s.StoreInput(ctx, theJob().Job.ID, store.Input{Name: "in", Size: 7})
			return err
		}, jobIs(func(j *store.Job) bool { return j.Inputs[0].Size == 7 })},
		"launch": {submitted, launchIt, jobIs(func(j *store.Job) bool { return len(j.AttemptLog) == 1 })},
		"promote": {submitIn(dayfly.Scheduled), func(s *sqlite.Store) error {
			_, _, err := s.Promote(ctx, time.Now(), time.Now(), 1)
			return err
		}, jobIs(func(j *store.Job) bool { return j.State == dayfly.Queued })},
		"claim": {launched, claimIt, jobIs(func(j *store.Job) bool { return j.State == dayfly.Running })},
		"end": {inOrder(launched, claimIt), func(s *sqlite.Store) error {
			a, err := s.Attempt(ctx, theAttempt())
			if err == nil {
				_, err = s.End(ctx, success(a))
			}
			return err
		}, jobIs(func(j *store.Job) bool { return j.State == dayfly.Succeeded && j.Events == 4 })},
		"note": {launched, func(s *sqlite.Store) error {
			return s.Note(ctx, []*store.Note{{Attempt: theAttempt(), Time: time.Now(), Booted: &machine.Machine{ID: "i"}}})
		}, jobIs(func(j *store.Job) bool { return j.AttemptLog[0].State == dayfly.AttemptBooting })},
		"move_machine": {launched, func(s *sqlite.Store) error {
			return s.MoveMachine(ctx, []*store.MachineMove{{
				Name: theMachine(), From: []store.MachineState{store.MachineCreating}, To: store.MachineGone, Time: time.Now(),
			}})
		}, goneAndSettled},
		"adopt_machine": {nothing, func(s *sqlite.Store) error {
			return s.AdoptMachine(ctx, &store.Machine{Name: "stray", State: store.MachineQuarantined, CreatedAt: time.Now()})
		}, func(s *sqlite.Store) (bool, error) {
			all, err := s.Machines(ctx, &store.MachineQuery{Limit: 1})
			return len(all) == 1, err
		}},
		"add_runner":   {nothing, addRunner, runnerIs(store.RunnerWarming)},
		"move_runner":  {addRunner, idleRunner, runnerIs(store.RunnerIdle)},
		"add_token":    {nothing, addToken, token(func(*store.Token) bool { return true })},
		"revoke_token": {addToken, revokeToken, token(func(t *store.Token) bool { return !t.RevokedAt.IsZero() })},
		"boot": {nothing, func(s *sqlite.Store) error { _, err := s.Boot(ctx); return err },
			func(s *sqlite.Store) (bool, error) {
				id, err := s.Boot(ctx)
				return err == nil && id.Epoch == 2, err
			}},
		"touch": {func(s *sqlite.Store) error { _, err := s.Boot(ctx); return err },
			func(s *sqlite.Store) error { return s.Touch(ctx, store.Reading{Clock: time.Unix(1000, 0)}) },
			func(s *sqlite.Store) (bool, error) {
				id, err := s.Boot(ctx)
				return err == nil && !id.Last.Clock.IsZero(), err
			}},
		"delete": {inOrder(submitted, moveTo(dayfly.Canceled)), func(s *sqlite.Store) error {
			return s.Delete(ctx, theJob().Job.ID)
		}, jobIs(func(j *store.Job) bool { return j == nil })},
	}
}

func addRunner(s *sqlite.Store) error {
	return s.AddRunner(context.Background(), &store.Runner{Machine: "runner", ID: "rnr", Pool: "warm", Provider: "local", CreatedAt: time.Now()}, 1)
}

func idleRunner(s *sqlite.Store) error {
	_, err := s.MoveRunner(context.Background(), &store.RunnerMove{
		Machine: "runner", From: []store.RunnerState{store.RunnerWarming}, To: store.RunnerIdle, Time: time.Now(), By: "agent",
	})
	return err
}

func runnerIs(state store.RunnerState) func(*sqlite.Store) (bool, error) {
	return func(s *sqlite.Store) (bool, error) {
		all, err := s.Runners(context.Background())
		return len(all) == 1 && all[0].State == state, err
	}
}

func revokeToken(s *sqlite.Store) error {
	return s.RevokeToken(context.Background(), "ci", time.Now())
}

// operate is a program of its own: it carries out one operation on the store at the path that the environment names,
// and then another submit, and prints the kinds of error it got.
func operate(op string) {
	s, err := sqlite.Open(context.Background(), os.Getenv("DAYFLY_TEST_PATH"), nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	o := operations()[op]
	if err := o.prepare(s); err != nil {
		fmt.Fprintln(os.Stderr, "preparing:", err)
		os.Exit(1)
	}
	err = o.write(s)
	_, _, after := s.Submit(context.Background(), request(2))
	fmt.Printf("%s %s\n", kindOf(err), kindOf(after))
	if err := s.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func kindOf(err error) string {
	if err == nil {
		return "ok"
	}
	return string(fault.Of(err))
}

func TestEveryOperationIsSeenToBeCarriedOut(t *testing.T) {
	t.Parallel()
	known := operations()
	for _, op := range sqlite.Ops() {
		o, ok := known[op]
		if !ok {
			t.Errorf("there is no operation for %s", op)
			continue
		}
		delete(known, op)
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			for _, write := range []bool{false, true} {
				s := open(t, t.TempDir()+"/store.db", nil)
				if err := o.prepare(s); err != nil {
					t.Fatal(err)
				}
				if write {
					if err := o.write(s); err != nil {
						t.Fatal(err)
					}
				}
				if done, err := o.done(s); done != write || err != nil {
					t.Errorf("carried out: %v; it is seen to be: %v, error %v", write, done, err)
				}
			}
		})
	}
	var rest []string
	for op := range known {
		rest = append(rest, op)
	}
	if len(rest) > 0 {
		t.Errorf("Ops does not list %s", strings.Join(rest, ", "))
	}
}
