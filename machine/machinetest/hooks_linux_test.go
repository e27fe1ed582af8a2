package machinetest_test

import (
	"cmp"
	"context"
	"io"
	"iter"
	"sync"

	"github.com/dayfly-run/dayfly/internal/hostshell"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// hooks is the reference provider with some methods replaced.
type hooks struct {
	*memmachine.Provider
	create  func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error)
	get     func(ctx context.Context, id string) (*machine.Machine, error)
	list    func(ctx context.Context, owner string) ([]*machine.Machine, error)
	destroy func(ctx context.Context, id string) error
	watch   func(ctx context.Context, owner string) iter.Seq2[*machine.Machine, error]
	show    func(m *machine.Machine) // changes every machine that is returned

	exec    func(ctx context.Context, id string, cmd *machine.Command) (*machine.Exit, error)
	signal  func(ctx context.Context, id, name string) error
	suspend func(ctx context.Context, id string) error
	resume  func(ctx context.Context, id string) error
	logs    func(ctx context.Context, id string, follow bool, stdout, stderr io.Writer) error
	check   func(ctx context.Context, program *machine.Program) error
	prepare func(ctx context.Context, spec *machine.Spec, report func(machine.Preparation)) error
}

func (h *hooks) Exec(ctx context.Context, id string, cmd *machine.Command) (*machine.Exit, error) {
	if h.exec != nil {
		return h.exec(ctx, id, cmd)
	}
	return h.Provider.Exec(ctx, id, cmd)
}

func (h *hooks) Signal(ctx context.Context, id, name string) error {
	if h.signal != nil {
		return h.signal(ctx, id, name)
	}
	return h.Provider.Signal(ctx, id, name)
}

func (h *hooks) Suspend(ctx context.Context, id string) error {
	if h.suspend != nil {
		return h.suspend(ctx, id)
	}
	return h.Provider.Suspend(ctx, id)
}

func (h *hooks) Resume(ctx context.Context, id string) error {
	if h.resume != nil {
		return h.resume(ctx, id)
	}
	return h.Provider.Resume(ctx, id)
}

func (h *hooks) Logs(ctx context.Context, id string, follow bool, stdout, stderr io.Writer) error {
	if h.logs != nil {
		return h.logs(ctx, id, follow, stdout, stderr)
	}
	return h.Provider.Logs(ctx, id, follow, stdout, stderr)
}

func (h *hooks) Prepare(ctx context.Context, spec *machine.Spec, report func(machine.Preparation)) error {
	if h.prepare != nil {
		return h.prepare(ctx, spec, report)
	}
	return h.Provider.Prepare(ctx, spec, report)
}

func (h *hooks) CheckProgram(ctx context.Context, program *machine.Program) error {
	if h.check != nil {
		return h.check(ctx, program)
	}
	return h.Provider.CheckProgram(ctx, program)
}

func (h *hooks) Create(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
	if h.create != nil {
		return h.shown(h.create(ctx, spec))
	}
	return h.shown(refuseImages(ctx, h, spec))
}

func (h *hooks) Get(ctx context.Context, id string) (*machine.Machine, error) {
	if h.get != nil {
		return h.shown(h.get(ctx, id))
	}
	return h.shown(h.Provider.Get(ctx, id))
}

func (h *hooks) List(ctx context.Context, owner string) ([]*machine.Machine, error) {
	list := h.Provider.List
	if h.list != nil {
		list = h.list
	}
	all, err := list(ctx, owner)
	for _, m := range all {
		_, _ = h.shown(m, nil)
	}
	return all, err
}

func (h *hooks) Destroy(ctx context.Context, id string) error {
	if h.destroy != nil {
		return h.destroy(ctx, id)
	}
	return h.Provider.Destroy(ctx, id)
}

func (h *hooks) Watch(ctx context.Context, owner string) iter.Seq2[*machine.Machine, error] {
	if h.watch != nil {
		return h.watch(ctx, owner)
	}
	return h.Provider.Watch(ctx, owner)
}

func (h *hooks) shown(m *machine.Machine, err error) (*machine.Machine, error) {
	if m != nil && h.show != nil {
		h.show(m)
	}
	return m, err
}

// backend is what one broken provider shares between its processes. Each call of open is a new process.
type backend struct {
	cloud *memmachine.Cloud
	open  func(h *hooks)
	shell hostshell.Shell
	notes sync.Map // what a broken provider writes down for all its processes

	mu        sync.Mutex // guards what follows
	processes int
	seen      map[string]bool
	guests    map[string]<-chan struct{} // what runs, by the machine's name, until the channel is closed
	agents    map[string]*machine.Agent  // what agents were told, by the machine's name
	left      map[string]bool            // the names of machines in which something is taken to run for ever
}

func newBackend(dir string, open func(b *backend, h *hooks)) *backend {
	b := &backend{
		shell:  hostshell.Shell{Dir: dir},
		seen:   map[string]bool{},
		guests: map[string]<-chan struct{}{},
		agents: map[string]*machine.Agent{},
		left:   map[string]bool{},
	}
	b.cloud = memmachine.New(&memmachine.Options{Guest: b.guest, Exec: b.shell.Exec}).Cloud()
	b.open = func(h *hooks) { open(b, h) }
	return b
}

// guest is what runs in every machine.
func (b *backend) guest(ctx context.Context, spec *machine.Spec) machine.Exit {
	b.mu.Lock()
	b.guests[spec.Name] = ctx.Done()
	b.agents[spec.Name] = spec.Agent
	b.mu.Unlock()
	switch {
	case spec.Agent != nil:
	case spec.Program != nil:
		spec.Command = append([]string{spec.Program.File}, spec.Program.Args...)
		return b.shell.Guest(ctx, spec)
	case spec.Command[0] == "sh":
		return b.shell.Guest(ctx, spec)
	case spec.Command[0] == "exit":
		spec.Command = []string{"exit", cmp.Or(spec.Env["CODE"], "0")}
	case spec.Command[0] == "take 64 MiB":
		return machine.Exit{OOMKilled: spec.Size.MemoryMB > 0 && spec.Size.MemoryMB < 64}
	}
	return memmachine.Idle(ctx, spec)
}

// agent returns what the agent in the machine was told.
func (b *backend) agent(name string) *machine.Agent {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.agents[name]
}

// alive reports whether something runs in the machine.
func (b *backend) alive(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	ended, started := b.guests[name]
	if !started || b.left[name] {
		return b.left[name]
	}
	select {
	case <-ended:
		return false
	default:
		return true
	}
}

// leave makes what runs in the machine be taken to run for ever.
func (b *backend) leave(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left[name] = true
}

func (b *backend) provider() *hooks {
	b.mu.Lock()
	b.processes++
	b.mu.Unlock()
	h := &hooks{Provider: b.cloud.Connect()}
	b.open(h)
	return h
}

func (b *backend) reopened() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.processes > 1
}

// before reports whether it was asked for key before.
func (b *backend) before(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.seen[key]
	b.seen[key] = true
	return was
}

// knows reports whether before was asked for key.
func (b *backend) knows(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen[key]
}
