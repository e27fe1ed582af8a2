package dayflytest

import (
	"context"
	"fmt"
	"runtime/pprof"
	"sync"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/internal/rehearsal"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// T is what is used of a test: a *testing.T, *testing.B or *testing.F.
type T interface {
	Helper()                           // marks who calls it as a helper
	Cleanup(func())                    // registers what is done when the test ends, last first
	Errorf(format string, args ...any) // makes the test fail
	Fatalf(format string, args ...any) // makes the test fail and ends it
}

// Runners are the runners of a test's pools and what happens to them. They are safe for concurrent use.
type Runners struct {
	t       T
	label   string // of all goroutines of the runners
	cloud   *memmachine.Cloud
	stage   *stage
	network *network

	mu    sync.Mutex
	play  rehearsal.Play    // guarded by mu; nil before there is a pool
	rules []*Rule           // guarded by mu
	tell  map[string]func() // guarded by mu; by runner: tells it to end
}

// stage is the provider that pools are given.
type stage struct {
	*memmachine.Provider
	runners *Runners
}

// Rehearse implements rehearsal.Stage.
func (s *stage) Rehearse(play rehearsal.Play) link.Network {
	s.runners.mu.Lock()
	defer s.runners.mu.Unlock()
	s.runners.play = play
	return s.runners.network
}

var _ rehearsal.Stage = (*stage)(nil)

// NewPool returns a pool whose runners are played, and these. It is closed when the test ends. nil options are all defaults. The test
// fails at once if there can be no such pool.
func NewPool(t T, o *dayfly.PoolOptions) (*dayfly.Pool, *Runners) {
	t.Helper()
	r := New(t)
	var pool *dayfly.Pool
	var err error
	labeled(r.label, func() { pool, err = dayfly.NewPool(r.Provider(), o) })
	if err != nil {
		t.Fatalf("dayflytest: %v", err)
		return nil, nil
	}
	t.Cleanup(func() {
		r.Heal()
		if err := pool.Close(); err != nil {
			t.Errorf("dayflytest: the pool %s was not closed as it should: %v", pool.Name(), err)
		}
	})
	return pool, r
}

// New returns the runners of pools that are made with their provider. Those pools have to be closed before the test ends.
func New(t T) *Runners {
	r := &Runners{t: t, label: newLabel(), network: newNetwork(), tell: map[string]func(){}}
	provider := memmachine.New(&memmachine.Options{Guest: r.guest})
	r.cloud, r.stage = provider.Cloud(), &stage{provider, r}
	t.Cleanup(r.end)
	return r
}

// Provider returns the provider that dayfly.NewPool is given.
func (r *Runners) Provider() machine.Provider { return r.stage }

// Cloud returns the cloud that the machines of the runners are in, which fails in more ways than there are methods here: it loses
// answers, lies in lists, and lets machines stay that were destroyed.
func (r *Runners) Cloud() *memmachine.Cloud { return r.cloud }

// Running returns the names of the runners whose machines run, the oldest first.
func (r *Runners) Running() []string {
	var names []string
	for _, m := range r.cloud.Machines() {
		if m.State == machine.Running {
			names = append(names, m.Name)
		}
	}
	return names
}

// end is called when the test has ended.
func (r *Runners) end() {
	r.t.Helper()
	r.Heal()
	for _, m := range r.cloud.Machines() {
		r.t.Errorf("dayflytest: the machine of the runner %s is left: close its pool, pool %s, before the test ends", m.Name, m.Labels["pool"])
	}
	r.cloud.Close()
	r.network.close()
	if left := leftovers(r.label); left != "" {
		r.t.Errorf("dayflytest: goroutines are left of functions that did not end with their contexts, or did not wait for what they have started:\n%s", left)
	}
}

// guest is what runs in each machine.
func (r *Runners) guest(ctx context.Context, spec *machine.Spec) (exit machine.Exit) {
	labeled(r.label, func() { exit = r.live(ctx, spec) })
	return exit
}

// live is the life of a runner.
func (r *Runners) live(ctx context.Context, spec *machine.Spec) machine.Exit {
	r.mu.Lock()
	play := r.play
	r.mu.Unlock()
	if play == nil {
		return machine.Exit{Code: 1, Message: "no pool has been made for this machine"}
	}
	leave := make(chan struct{})
	r.mu.Lock()
	r.tell[spec.Name] = sync.OnceFunc(func() { close(leave) })
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.tell, spec.Name)
	}()
	part := &rehearsal.Part{
		Spec: spec, Network: r.network.of(spec.Name), Leave: leave,
		Around: func(function string, run func()) { r.around(spec.Name, function, run) },
	}
	if exit := r.begin(ctx, part); exit != nil {
		return *exit
	}
	defer r.network.leave(spec.Name)
	defer context.AfterFunc(ctx, func() { r.network.leave(spec.Name) })()
	err := play(ctx, part)
	switch {
	case ctx.Err() != nil:
		return killed()
	case err != nil:
		say(ctx, "dayfly: this runner ends: "+err.Error())
		return machine.Exit{Code: 1}
	}
	return machine.Exit{}
}

// killed returns how a process ends that was killed.
func killed() machine.Exit { return machine.Exit{Code: -1, Signal: "SIGKILL"} }

// say writes a line to the output of the machine, which may have ended.
func say(ctx context.Context, line string) {
	_, _ = fmt.Fprintln(memmachine.In(ctx).Stderr(), line)
}

// labeled runs f with a label on its goroutine and all that it starts.
func labeled(label string, f func()) {
	pprof.Do(context.Background(), pprof.Labels(labelKey, label), func(context.Context) { f() })
}

// kill ends a runner, so that what it has not sent yet nobody hears of. It reports whether it ran.
func (r *Runners) kill(name string, exit machine.Exit) bool {
	for _, m := range r.cloud.Machines() {
		if m.Name == name && m.State == machine.Running {
			r.network.leave(name)
			return r.cloud.Exit(m.ID, exit)
		}
	}
	return false
}
