package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/blob/fileblob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/joblog"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
	"github.com/dayfly-run/dayfly/internal/ticket"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// fleet is an engine on a real store with machines on which an agent is played. It lives in a synctest bubble, so that
// an hour passes in a moment and nothing depends on how fast the computer is.
type fleet struct {
	t       *testing.T
	file    string // of the store
	store   store.Store
	cloud   *memmachine.Cloud
	options engine.Options
	engine  atomic.Pointer[engine.Engine]
	down    atomic.Bool // no server listens
	// patience ends when the server stops: calls that wait for something to happen are then answered.
	patience atomic.Pointer[context.Context]
	line     atomic.Pointer[line] // between machines and servers
	taking   sync.RWMutex         // held to read by the calls that a server has taken
	stop     func()

	// work is what the command of a job does; it returns the command's result.
	work func(ctx context.Context, a *wire.Assignment) wire.Result
	// mute, when it returns true, keeps an agent from sending heartbeats.
	mute func(a *wire.Assignment) bool
	// spoil says what a job leaves on a machine of a pool that cannot be cleaned up, or "".
	spoil     func(a *wire.Assignment) string
	stillborn atomic.Bool   // machines of pools end before they call
	undivided atomic.Bool   // machines of pools have one slot, whatever they are told
	dozes     time.Duration // how long machines of pools take until they call

	nonces atomic.Int64
	mu     sync.Mutex
	starts map[string]int                // by attempt: how often user code was started
	served map[string][]*wire.Assignment // by machine of a pool: what it has carried out
}

// line is a network. When it is cut, calls that wait are hung up, and no others come through.
type line struct {
	whole context.Context
	cut   context.CancelFunc
}

// mend makes a new line.
func (f *fleet) mend() {
	var l line
	l.whole, l.cut = context.WithCancel(context.Background())
	f.line.Store(&l)
}

// cut cuts the line, and returns when the server has noticed.
func (f *fleet) cut() {
	f.line.Load().cut()
	wait(context.Background(), time.Millisecond)
}

// newFleet starts an engine. change may alter its options.
func newFleet(t *testing.T, change func(*engine.Options)) *fleet {
	t.Helper()
	f := &fleet{t: t, starts: map[string]int{}, served: map[string][]*wire.Assignment{}, work: succeed}
	dir := t.TempDir()
	f.file = filepath.Join(dir, "test.db")
	db, err := sqlite.Open(t.Context(), f.file, nil)
	if err != nil {
		t.Fatal(err)
	}
	logs, err := joblog.Open(filepath.Join(dir, "logs"), nil)
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := fileblob.Open(filepath.Join(dir, "blobs"), nil)
	if err != nil {
		t.Fatal(err)
	}
	provider := memmachine.New(&memmachine.Options{Guest: f.agent})
	f.store, f.cloud = db, provider.Cloud()
	f.options = engine.Options{
		Store: db, Logs: logs, Blobs: blobs, Key: ticket.NewKey(), URL: func(context.Context, string) (string, error) { return "http://home", nil },
		Providers: map[string]machine.Provider{"mem": provider}, DefaultProvider: "mem",
	}
	if os.Getenv("ENGINE_LOG") != "" {
		f.options.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if change != nil {
		change(&f.options)
	}
	f.mend()
	f.start()
	t.Cleanup(func() {
		f.stop()
		f.cloud.Close()
		f.store.Close()
		logs.Close()
	})
	return f
}

// start runs an engine, as a server does when it starts.
func (f *fleet) start() {
	e, err := engine.New(f.options)
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	patience, impatient := context.WithCancel(context.Background())
	f.patience.Store(&patience)
	f.engine.Store(e) // before it runs: the machines that it makes at once call it
	go func() { done <- e.Run(ctx) }()
	f.down.Store(false)
	f.stop = func() {
		f.down.Store(true)
		impatient()
		f.taking.Lock()   // when nothing is taken any more, what was taken is answered
		f.taking.Unlock() //nolint:staticcheck // nothing else is to be done meanwhile
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("engine.Run: got %v, want nil", err)
		}
	}
}

// restart ends the engine and starts another on the same store, as a new server would.
func (f *fleet) restart() {
	f.stop()
	f.start()
}

// agent plays the agent in one machine, by the rules of package wire.
func (f *fleet) agent(ctx context.Context, spec *machine.Spec) machine.Exit {
	if spec.Agent == nil {
		return memmachine.Idle(ctx, spec)
	}
	nonce := fmt.Sprint(f.nonces.Add(1))
	if strings.HasPrefix(spec.Agent.Attempt, wire.RunnerPrefix) {
		return f.serve(ctx, spec, nonce)
	}
	var assignment *wire.Assignment
	err := f.call(ctx, func(e *engine.Engine) (err error) {
		assignment, err = e.Claim(ctx, spec.Agent.Token, &wire.ClaimRequest{
			Attempt: spec.Agent.Attempt, Instance: spec.Name, Nonce: nonce, Protocol: wire.Version,
		})
		return err
	})
	if err != nil {
		return machine.Exit{Code: 75, Message: err.Error()}
	}
	_, exit := f.carryOut(ctx, assignment)
	return exit
}

// serve plays the agent of a machine of a pool, which ends with the last of its slots.
func (f *fleet) serve(ctx context.Context, spec *machine.Spec, nonce string) machine.Exit {
	if f.stillborn.Load() {
		return machine.Exit{Code: 3, Message: "there is no such program"}
	}
	wait(ctx, f.dozes)
	var others sync.WaitGroup
	divided := func(slots int) {
		if f.undivided.Load() {
			return
		}
		for k := 2; k <= slots; k++ {
			others.Go(func() {
				f.serveSlot(ctx, spec, k, fmt.Sprintf("%s.%d", nonce, k), func(int) {})
			})
		}
	}
	exit := f.serveSlot(ctx, spec, 1, nonce, divided)
	others.Wait()
	return exit
}

// serveSlot plays one slot of a machine of a pool. divided is called once with how many there are.
func (f *fleet) serveSlot(ctx context.Context, spec *machine.Spec, k int, nonce string, divided func(slots int)) machine.Exit {
	told := false
	done, spoiled := "", ""
	for {
		var assignment *wire.Assignment
		err := f.call(ctx, func(e *engine.Engine) (err error) {
			held, cancel := context.WithCancel(ctx)
			defer cancel()
			defer context.AfterFunc(*f.patience.Load(), cancel)()
			defer context.AfterFunc(f.line.Load().whole, cancel)()
			assignment, err = e.Claim(held, spec.Agent.Token, &wire.ClaimRequest{
				Attempt: wire.Slot(spec.Agent.Attempt, k), Instance: spec.Name, Nonce: nonce, Protocol: wire.Version, WaitMS: 2000, Done: done, Spoiled: spoiled,
			})
			return err
		})
		switch {
		case err != nil || ctx.Err() != nil: // refused, or the machine ends
			return machine.Exit{Code: 75, Message: fmt.Sprint(err)}
		case !told:
			told = true
			divided(assignment.Slots)
		}
		if assignment.Wait {
			wait(ctx, 10*time.Millisecond) // an engine that is stopping answers at once
			continue
		}
		f.mu.Lock()
		if f.starts[assignment.Attempt] > 0 {
			f.t.Errorf("attempt %s was given out twice", assignment.Attempt)
		}
		slot := wire.Slot(spec.Name, k)
		f.served[slot] = append(f.served[slot], assignment)
		f.mu.Unlock()
		accepted, exit := f.carryOut(ctx, assignment)
		if !accepted {
			return exit
		}
		done = assignment.Attempt
		if f.spoil != nil {
			spoiled = f.spoil(assignment)
		}
	}
}

// carryOut plays what comes after a claim, and reports whether the result was accepted.
func (f *fleet) carryOut(ctx context.Context, assignment *wire.Assignment) (accepted bool, exit machine.Exit) {
	life := ctx // of the machine
	ctx, cancel := context.WithCancelCause(life)
	defer cancel(nil)
	f.mu.Lock()
	f.starts[assignment.Attempt]++
	f.mu.Unlock()

	go f.heartbeats(ctx, cancel, assignment)
	result := f.work(ctx, assignment)
	if cause := context.Cause(ctx); errors.Is(cause, errCanceled) {
		result = wire.Result{Outcome: wire.Canceled, Started: true, Exit: &machine.Exit{Code: -1, Signal: "SIGTERM"}}
	} else if errors.Is(cause, errTimedOut) {
		result = wire.Result{Outcome: wire.TimedOut, Reason: string(dayfly.ReasonDeadline), Started: true, Exit: &machine.Exit{Code: -1, Signal: "SIGTERM"}}
	} else if errors.Is(cause, errStale) {
		return false, machine.Exit{Code: 75}
	}
	err := f.call(life, func(e *engine.Engine) error { return e.Result(life, assignment.Token, &result) })
	if keep := time.Duration(assignment.KeepMS) * time.Millisecond; keep > 0 && result.Outcome != wire.Succeeded {
		wait(life, keep)
	}
	return err == nil, machine.Exit{Code: 0}
}

// call makes a call of an agent's until it is answered, ten minutes at most. A server that stops answers the calls it has
// taken, and takes no more; so none of its successor's state is older than an answer of its own.
func (f *fleet) call(ctx context.Context, do func(*engine.Engine) error) error {
	err := error(fault.Unavailable)
	for range 600 {
		f.taking.RLock()
		if !f.down.Load() && f.line.Load().whole.Err() == nil {
			err = do(f.engine.Load())
		}
		f.taking.RUnlock()
		switch fault.Of(err) {
		case fault.Unavailable, fault.Canceled, fault.StoreFull:
		default:
			return err
		}
		if ctx.Err() != nil {
			return err
		}
		wait(ctx, time.Second)
	}
	return err
}

var (
	errCanceled = fmt.Errorf("ordered to stop: canceled")
	errTimedOut = fmt.Errorf("ordered to stop: timed out")
	errStale    = fmt.Errorf("stale attempt")
)

func (f *fleet) heartbeats(ctx context.Context, stop context.CancelCauseFunc, a *wire.Assignment) {
	for ctx.Err() == nil {
		if f.down.Load() || f.line.Load().whole.Err() != nil || f.mute != nil && f.mute(a) {
			wait(ctx, time.Second)
			continue
		}
		answer, err := f.engine.Load().Beats(ctx, &wire.Beats{WaitMS: 5000, Beats: []wire.Beat{{Attempt: a.Attempt, Token: a.Token, Phase: wire.Running}}})
		if err != nil {
			wait(ctx, time.Second)
			continue
		}
		wait(ctx, 10*time.Millisecond) // an engine that is stopping answers at once
		for _, order := range answer.Orders {
			switch {
			case order.Error != nil:
				stop(errStale)
			case order.Reason == wire.Canceled:
				stop(errCanceled)
			default:
				stop(errTimedOut)
			}
		}
	}
}

// wait waits for the duration or the end of ctx, in the bubble's time.
func wait(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}

// succeed is a command that does nothing.
func succeed(context.Context, *wire.Assignment) wire.Result {
	return wire.Result{Outcome: wire.Succeeded, Started: true, Exit: &machine.Exit{}}
}

// fail is a command that exits with the code.
func fail(code int) func(context.Context, *wire.Assignment) wire.Result {
	return func(context.Context, *wire.Assignment) wire.Result {
		return wire.Result{Outcome: wire.Failed, Started: true, Exit: &machine.Exit{Code: code}}
	}
}

// workFor is a command that takes some time.
func workFor(d time.Duration) func(context.Context, *wire.Assignment) wire.Result {
	return func(ctx context.Context, a *wire.Assignment) wire.Result {
		wait(ctx, d)
		return succeed(ctx, a)
	}
}

func (f *fleet) submit(change func(*dayfly.JobSpec)) *store.Job {
	f.t.Helper()
	spec := dayfly.JobSpec{Command: []string{"true"}}
	if change != nil {
		change(&spec)
	}
	job, _, err := f.engine.Load().Submit(f.t.Context(), &engine.Submission{Spec: spec})
	if err != nil {
		f.t.Fatalf("submit: %v", err)
	}
	return job
}

func (f *fleet) job(id string) *store.Job {
	f.t.Helper()
	job, err := f.engine.Load().Job(f.t.Context(), id)
	if err != nil {
		f.t.Fatalf("job %s: %v", id, err)
	}
	return job
}

// finished waits, in the bubble's time, until a job is terminal. It looks less often the longer it takes: an hour in the
// bubble is nothing, but each look is a read of the store.
func (f *fleet) finished(id string, within time.Duration) *store.Job {
	f.t.Helper()
	began := time.Now()
	deadline := began.Add(within)
	for {
		job := f.job(id)
		if job.State.Terminal() {
			return job
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("job %s is %s (attempt %d) after %v, want it finished", id, job.State, job.Number, within)
		}
		wait(context.Background(), max(100*time.Millisecond, time.Since(began)/50))
	}
}

// settled waits until no machine is left at the provider.
func (f *fleet) settled(within time.Duration) {
	f.t.Helper()
	deadline := time.Now().Add(within)
	for len(f.cloud.Machines()) > 0 {
		if time.Now().After(deadline) {
			f.t.Fatalf("%d machines are left after %v, want none: %+v", len(f.cloud.Machines()), within, f.cloud.Machines()[0])
		}
		wait(context.Background(), 100*time.Millisecond)
	}
}

// startsOf returns how often user code was started, in all and at most in one attempt.
func (f *fleet) startsOf() (total, most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.starts {
		total += n
		most = max(most, n)
	}
	return total, most
}

func inBubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

func check(t *testing.T, job *store.Job, state dayfly.State, reason dayfly.Reason, attempts int) {
	t.Helper()
	if job.State != state || job.Reason != reason || len(job.AttemptLog) != attempts {
		t.Errorf("job: got %s (%s) after %d attempts, want %s (%s) after %d; message: %s",
			job.State, job.Reason, len(job.AttemptLog), state, reason, attempts, job.Message)
	}
}
