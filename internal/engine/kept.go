package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// A job may ask that the machine of its last attempt is kept for a while when that fails, so that somebody can look at
// what it left. Its agent stays there for that time and no longer, and so does the machine, whether a server runs or
// not. The server has it destroyed when the time is over, when it has ended before, or when somebody releases it.

// maxKeep is how long a machine may be kept.
const maxKeep = 24 * time.Hour

// keptMachine is one machine that is kept.
type keptMachine struct {
	name, provider, id, job string
	until                   time.Time // by the engine's clock
	ended                   bool      // the provider has shown that it has
}

// keptView is what plan decides from.
type keptView struct {
	machine, provider string
	until             time.Time
	ended             bool
}

// planKept ends what was kept long enough.
func planKept(kept []keptView, now time.Time) []action {
	var actions []action
	for _, k := range kept {
		why := "it was kept for as long as its job asked for"
		switch {
		case !now.Before(k.until):
		case k.ended:
			why = "it was kept and has ended"
		default:
			continue
		}
		actions = append(actions, action{kind: dropKept, machine: k.machine, provider: k.provider, why: why})
	}
	return actions
}

// keepFor returns for how long the machine of an attempt is kept: 0 unless its agent, which has to stay, has reported a
// failure that is also its job's.
func keepFor(job *store.Job, v verdict, n *store.Next, report *ended) time.Duration {
	failed := v.state == dayfly.AttemptFailed || v.state == dayfly.AttemptTimedOut
	if report == nil || !failed || n.State != dayfly.Failed {
		return 0
	}
	return time.Duration(job.Spec.KeepOnFailure)
}

// keepMessage says that a machine is kept, until when, and what to do with it.
func keepMessage(job *store.Job, keep time.Duration) string {
	until := wallClock().Add(keep).UTC().Format("2006-01-02 15:04:05 MST")
	return fmt.Sprintf(" Its machine is kept until %s; enter it with: dayfly shell %s (or end it with: dayfly release %s)", until, job.ID, job.ID)
}

// decideToKeep makes the end of an attempt one that keeps its machine, if that is what its job wants.
// A cap on the job's cost may have shortened the machine's lifetime, which ends before then. If that cannot be read, what
// the job asked for is as good: the machine has its own end.
func (e *Engine) decideToKeep(ctx context.Context, f *flight, v verdict, end *store.Ending, report *ended) {
	e.mu.Lock()
	job, lost := f.job, f.killed || f.gone || f.sight.Rank() >= machine.Exited.Rank()
	e.mu.Unlock()
	keep := keepFor(job, v, &end.Job, report)
	if keep <= 0 || lost {
		return
	}
	if a, err := e.store.Attempt(ctx, f.id); err == nil && a.Machine != nil {
		keep = min(keep, a.Machine.CreatedAt.Add(a.Machine.Lifetime).Sub(end.Time))
	}
	if keep >= leastKeep {
		end.KeepUntil = end.Time.Add(keep)
		end.Job.Message += keepMessage(job, keep)
	}
}

// leastKeep is how long a machine has to be there for anybody to look at it.
const leastKeep = time.Second

// keepFlight notes that the machine of an attempt that has ended is kept, unless until is zero. It is called before the
// flight lands, so that its machine is counted all the time.
func (e *Engine) keepFlight(f *flight, until time.Time) {
	if until.IsZero() {
		return
	}
	e.mu.Lock()
	f.kept = true
	id := f.providerID
	e.mu.Unlock()
	e.keep(&keptMachine{name: f.machine, provider: f.provider, id: id, job: f.jobID, until: until})
}

// keep takes up a machine that is kept.
func (e *Engine) keep(m *keptMachine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.kept[m.name] == nil {
		e.kept[m.name] = m
	}
}

// recallKept takes up what the ledger holds as kept.
func (e *Engine) recallKept(ctx context.Context) error {
	rows, err := e.store.Machines(ctx, &store.MachineQuery{States: []store.MachineState{store.MachineKept}, Limit: 10_000})
	if err != nil {
		return fmt.Errorf("engine: reading the machines that are kept: %w", err)
	}
	for _, m := range rows {
		e.keep(keptOf(m))
	}
	return nil
}

func keptOf(m *store.Machine) *keptMachine {
	return &keptMachine{name: m.Name, provider: m.Provider, id: m.ID, job: m.JobID, until: m.DeleteAt}
}

// sawKept takes what a provider says of a machine that is kept.
func (e *Engine) sawKept(m *machine.Machine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if k := e.kept[m.Name]; k != nil {
		k.id = m.ID
		k.ended = k.ended || m.State.Rank() >= machine.Exited.Rank()
	}
}

// keptLoop ends machines that were kept long enough. It reads the ledger now and then, because the answer to what has
// kept one may have been lost.
func (e *Engine) keptLoop(ctx context.Context) {
	for n := 1; ctx.Err() == nil; n++ {
		pause(ctx, time.Second)
		if n%10 == 0 {
			if err := e.recallKept(ctx); err != nil && ctx.Err() == nil {
				e.logger.Warn("the machines that are kept could not be read; trying again", "error", err)
			}
		}
		w := world{now: e.clock.now(), timers: e.timers}
		e.mu.Lock()
		for _, k := range e.kept {
			w.kept = append(w.kept, keptView{machine: k.name, provider: k.provider, until: k.until, ended: k.ended})
		}
		e.mu.Unlock()
		for _, a := range plan(&w) {
			if err := e.drop(ctx, a.machine, a.why); err != nil && ctx.Err() == nil {
				e.logger.Warn("a machine that was kept could not be given up; trying again", "machine", a.machine, "error", err)
			}
		}
	}
}

// drop has a machine destroyed that was kept. The ledger says so first.
func (e *Engine) drop(ctx context.Context, name, why string) error {
	e.mu.Lock()
	known := e.kept[name]
	e.mu.Unlock()
	if known == nil {
		return nil
	}
	err := e.store.MoveMachine(ctx, []*store.MachineMove{{
		Name: name, From: []store.MachineState{store.MachineKept}, To: store.MachineDeleting, Time: e.clock.now(), Message: why,
	}})
	if err != nil {
		return err
	}
	e.mu.Lock()
	k := *known // its id may have been learnt meanwhile
	delete(e.kept, name)
	e.mu.Unlock()
	e.doomed.add(k.provider, name, k.id)
	e.logger.Info("a machine that was kept is destroyed", "machine", name, "job", k.job, "why", why)
	return nil
}

// keptOfJob returns the machine that is kept of a job, or nil.
func (e *Engine) keptOfJob(job *store.Job) *store.Machine {
	for _, a := range job.AttemptLog {
		if a.Machine != nil && a.Machine.State == store.MachineKept {
			return a.Machine
		}
	}
	return nil
}

// Release has the machine destroyed that is kept of a job, and returns the job. fault.NotFound; fault.Conflict if none
// is kept.
func (e *Engine) Release(ctx context.Context, id string) (*store.Job, error) {
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	job, err := e.store.Job(ctx, id)
	if err != nil {
		return nil, err
	}
	m := e.keptOfJob(job)
	if m == nil {
		return nil, fault.Say(fault.Conflict, "no machine of job %s is kept, so there is none to release", id)
	}
	e.keep(keptOf(m))
	if err := e.drop(ctx, m.Name, "it was released"); err != nil {
		return nil, err
	}
	return e.store.Job(ctx, id)
}

// defaultSession and maxSession are how long somebody may be in a machine at once.
const (
	defaultSession = time.Hour
	maxSession     = 24 * time.Hour
)

// Entrance is the way into the machine of a job. It is not safe for concurrent use.
type Entrance struct {
	Machine  string
	Provider string
	Kept     bool          // the job has failed, and its machine is kept
	Left     time.Duration // until the session has to end

	id       string
	provider machine.Provider
	env      map[string]string
	over     <-chan struct{}
}

// NewEntrance returns the way into a machine of a provider, by its id there, with variables for what is run in it. over
// is closed when nobody may be in it any more; nil: never.
func NewEntrance(p machine.Provider, id string, env map[string]string, over <-chan struct{}) *Entrance {
	return &Entrance{Machine: id, id: id, provider: p, env: env, over: over, Left: defaultSession}
}

// Over is closed when the server ends.
func (in *Entrance) Over() <-chan struct{} { return in.over }

// Enter returns the way into the machine of a job that runs, or whose machine is kept, for a time at most (0: an hour).
// fault.NotFound; fault.Conflict if the job has no machine that can be entered, with a sentence that says why;
// fault.Unsupported if the provider's machines cannot be entered.
func (e *Engine) Enter(ctx context.Context, id string, most time.Duration) (*Entrance, error) {
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	switch {
	case most == 0:
		most = defaultSession
	case most < 0 || most > maxSession:
		return nil, fault.Field("for", "must be between 0 and %v", maxSession)
	}
	job, err := e.store.Job(ctx, id)
	if err != nil {
		return nil, err
	}
	m, err := e.enterable(job)
	if err != nil {
		return nil, err
	}
	in := NewEntrance(e.providers[m.Provider], m.ID, nil, e.lifetime.Done())
	in.Machine, in.Provider, in.Kept, in.Left = m.Name, m.Provider, m.State == store.MachineKept, most
	if _, ok := in.provider.(machine.Execer); !ok {
		return nil, fault.Say(fault.Unsupported, "machines of provider %s cannot be entered", m.Provider)
	}
	host, _ := wire.SlotOf(m.Name) // which the provider knows it by, where a job's machine is a slot of one
	found, err := e.look(ctx, m.Provider, host, m.ID)
	switch {
	case errors.Is(err, fault.NotFound), err == nil && found[0].State.Rank() >= machine.Exited.Rank():
		return nil, fault.Say(fault.Conflict, "the machine of job %s has ended, so it cannot be entered", id)
	case err != nil:
		return nil, err
	}
	in.id = found[0].ID
	in.Left = min(in.Left, time.Until(found[0].Expires))
	if in.Kept {
		in.Left = min(in.Left, m.DeleteAt.Sub(e.clock.now()))
	}
	if in.Left <= 0 {
		return nil, fault.Say(fault.Conflict, "the time of job %s's machine is over; it is about to end", id)
	}
	in.env = map[string]string{"DAYFLY_JOB_ID": job.ID, "DAYFLY_ATTEMPT": fmt.Sprint(job.Number)}
	for name, value := range job.Spec.Env {
		in.env[name] = value
	}
	return in, nil
}

// enterable returns the machine of a job that may be entered.
func (e *Engine) enterable(job *store.Job) (*store.Machine, error) {
	if m := e.keptOfJob(job); m != nil {
		return m, nil
	}
	switch {
	case job.State.Terminal() && job.Spec.KeepOnFailure > 0:
		return nil, fault.Say(fault.Conflict, "job %s is %s and its machine is gone, or about to be: there is nothing left to enter", job.ID, job.State)
	case job.State.Terminal():
		return nil, fault.Say(fault.Conflict, "job %s is %s, and its machine ended with it; run it again with --keep-on-failure 30m, "+
			"and its machine can be entered after a failure: dayfly retry repeats it as it was", job.ID, job.State)
	case job.State != dayfly.Running || len(job.AttemptLog) == 0 || job.AttemptLog[len(job.AttemptLog)-1].Machine == nil:
		return nil, fault.Say(fault.Conflict, "job %s is %s and does not run yet; wait until it does, then enter its machine", job.ID, job.State)
	}
	return job.AttemptLog[len(job.AttemptLog)-1].Machine, nil
}

// Exec runs a command in the machine, with the job's working directory and environment, and what the command has of its
// own before that. Its errors are those of machine.Execer.
func (in *Entrance) Exec(ctx context.Context, cmd *machine.Command) (*machine.Exit, error) {
	own := *cmd
	own.Env = make(map[string]string, len(in.env)+len(cmd.Env))
	for _, env := range []map[string]string{in.env, cmd.Env} {
		for name, value := range env {
			own.Env[name] = value
		}
	}
	return machine.Exec(ctx, in.provider, in.id, &own)
}

// Shell returns the best shell that the machine has. fault.Unsupported if it has none.
func (in *Entrance) Shell(ctx context.Context) ([]string, error) {
	for _, shell := range []string{"bash", "sh"} {
		exit, err := in.Exec(ctx, &machine.Command{Args: []string{shell, "-c", "exit 0"}})
		switch {
		case err != nil:
			return nil, err
		case exit.OK():
			return []string{shell}, nil
		}
	}
	return nil, fault.Say(fault.Unsupported, "machine %s has neither bash nor sh, so there is no shell in it; name a program that it has: "+
		"dayfly shell JOB -- PROGRAM", in.Machine)
}
