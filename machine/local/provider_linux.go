package local

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

// Provider makes machines on this computer. It is a [machine.Provider] and a [machine.Watcher], safe for concurrent
// use. It works from the moment [New] returns; [Provider.Run] keeps order beside it.
type Provider struct {
	Options
	layout   layout
	log      *slog.Logger
	machines *registry
	trees    *process.Host
	boot     string
	host     string // the computer's name, for people
	memoryMB int    // of the computer
	overdue  time.Duration

	life     context.Context // ends with Close; for what goes on between calls
	end      context.CancelFunc
	work     sync.WaitGroup
	choosing chan struct{} // holds a token while a caller looks for a supervisor
	burying  sync.Mutex    // held while a dead supervisor's machines are ended

	mu         sync.Mutex
	closed     bool                  // guarded by mu
	home       string                // guarded by mu
	program    string                // guarded by mu; that supervisors of this provider run
	links      map[int]*link         // guarded by mu; by supervisor
	children   []*child              // guarded by mu
	watchers   map[*watcher]bool     // guarded by mu
	unsure     map[string][]doubtful // guarded by mu; creates of a name whose outcome is not known
	holders    map[string]*link      // guarded by mu; who has probably made which machine
	connecting bool                  // guarded by mu; connectSoon is at work
}

var (
	_ machine.Provider = (*Provider)(nil)
	_ machine.Watcher  = (*Provider)(nil)
	_ machine.Carrier  = (*Provider)(nil)
)

// New returns a provider on a state directory, which it makes if it does not exist. It starts nothing: a supervisor is
// started with the first machine, if none is there.
//
// fault.Invalid: an option is missing, or the supervisor's program does not exist. fault.Unavailable: the directory
// cannot be used.
func New(o Options) (*Provider, error) {
	if o.Dir == "" || len(o.Supervisor) == 0 {
		return nil, fmt.Errorf("local: %w: the state directory and the supervisor's program are required", fault.Invalid)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, unavailable(err)
	}
	p := &Provider{
		Options:  o,
		layout:   layout(dir),
		overdue:  defaultOverdue,
		log:      o.Logger,
		home:     o.Home,
		choosing: make(chan struct{}, 1),
		links:    map[int]*link{},
		watchers: map[*watcher]bool{},
		unsure:   map[string][]doubtful{},
		holders:  map[string]*link{},
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.AnswerTimeout = cmp.Or(o.AnswerTimeout, 2*time.Second)
	p.StartTimeout = cmp.Or(o.StartTimeout, 15*time.Second)
	if err := p.findProgram(); err != nil {
		return nil, fmt.Errorf("local: the supervisor's program: %w: %w", fault.Invalid, err)
	}
	if err := p.prepare(); err != nil {
		return nil, unavailable(err)
	}
	p.life, p.end = context.WithCancel(context.Background())
	return p, nil
}

func (p *Provider) findProgram() error {
	path, err := exec.LookPath(p.Supervisor[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return err
	}
	p.Supervisor = slices.Clone(p.Supervisor)
	p.Supervisor[0] = path
	_, err = p.lookAtProgram()
	return err
}

// lookAtProgram notes which program a supervisor that is started now runs. Somebody may replace the file at any time, to
// upgrade it; a supervisor that runs already is used for new machines until one has to be started.
func (p *Provider) lookAtProgram() (string, error) {
	now, err := program(p.Supervisor[0])
	if err != nil {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.program = now
	return now, nil
}

func (p *Provider) prepare() (err error) {
	if err := p.layout.make(); err != nil {
		return err
	}
	if p.boot, err = bootID(); err != nil {
		return err
	}
	if p.host, err = os.Hostname(); err != nil {
		return err
	}
	var computer unix.Sysinfo_t
	if err := unix.Sysinfo(&computer); err != nil {
		return err
	}
	p.memoryMB = int(computer.Totalram * uint64(computer.Unit) >> 20)
	if p.machines, err = openRegistry(p.layout); err != nil {
		return err
	}
	prefix, err := p.layout.prefix()
	if err != nil {
		return err
	}
	p.trees, err = process.NewHost(&process.Options{Prefix: prefix, Logger: p.log, DisableCgroups: p.DisableCgroups})
	return err
}

// Abilities says what this computer can enforce, for a person who asks.
func (p *Provider) Abilities() process.Abilities { return p.trees.Abilities() }

// SetHome tells the supervisors, and those that are connected to later, at which base URL agents find the server.
func (p *Provider) SetHome(url string) {
	p.mu.Lock()
	p.home = url
	links := make([]*link, 0, len(p.links))
	for _, k := range p.links {
		links = append(links, k)
	}
	p.mu.Unlock()
	for _, k := range links {
		if err := k.send(&request{Home: &url}); err != nil {
			p.log.Warn("supervisor was not told where home is", "supervisor", k.number, "err", err)
		}
	}
}

// Prepare starts a supervisor, if none answers, without anybody waiting for it: the first machine is then made some tens
// of milliseconds sooner. What prevents it is told to whoever makes a machine.
func (p *Provider) Prepare() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.work.Go(func() {
		if _, err := p.ready(p.life); err != nil {
			p.log.Debug("no supervisor could be prepared", "err", err)
		}
	})
}

// Close ends the connections to the supervisors. No machine is ended by it. It may be repeated.
func (p *Provider) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	links := make([]*link, 0, len(p.links))
	for _, k := range p.links {
		links = append(links, k)
	}
	p.mu.Unlock()
	p.end()
	for _, k := range links {
		k.close()
	}
	p.work.Wait()
	p.reap()
	return errors.Join(p.machines.close(), p.trees.Close())
}

// createTimeout is how long a request for a machine is valid. A supervisor that comes to it later refuses.
const createTimeout = 5 * time.Second

// Create makes a machine, as [machine.Provider] says. A command that cannot be started is a machine that has exited
// with code -1 and a message.
//
// A size is refused when it is larger than this computer; limits for which there is no cgroup controller are not
// enforced, as [Provider.Abilities] tells.
//
// The file system is not the machine's own, so its Files are put below a directory that the variable DAYFLY_FILES of its
// environment names: the file "/etc/app.conf" is at $DAYFLY_FILES/etc/app.conf.
func (p *Provider) Create(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
	if err := ctx.Err(); err != nil {
		return nil, canceled(context.Cause(ctx))
	}
	if err := p.check(spec); err != nil {
		return nil, err
	}
	if spec.Program != nil {
		if err := p.CheckProgram(ctx, spec.Program); err != nil {
			return nil, err
		}
		spec = ownProgram(spec)
	}
	var failed error
	for range 3 {
		k, err := p.ready(ctx)
		if err != nil {
			return nil, err
		}
		m, err := p.createAt(ctx, k, spec)
		switch {
		case err == nil:
			told := *m // The machine returned is the caller's own.
			told.Labels = maps.Clone(m.Labels)
			p.tell(m.Name, news{machine: &told})
			return m, nil
		case errors.Is(err, errMute):
			p.log.Warn("supervisor does not answer; another takes its place", "supervisor", k.number)
		case errors.Is(err, errBroken):
			// It may have made the machine before it died.
			if m, err := p.existing(ctx, spec); m != nil || err != nil {
				return m, err
			}
		default:
			return nil, err
		}
		failed = err
	}
	return nil, fmt.Errorf("local: machine %s: %w: %w", spec.Name, fault.Unavailable, failed)
}

// check refuses what no process tree on this computer can be.
func (p *Provider) check(spec *machine.Spec) error {
	if err := spec.Validate(); err != nil {
		return fmt.Errorf("local: %w", err)
	}
	refuse := func(kind fault.Kind, format string, args ...any) error {
		return fmt.Errorf("local: machine %s: %w", spec.Name, fault.Say(kind, format, args...))
	}
	switch size := spec.Size; {
	case spec.Image != "":
		return refuse(fault.Unsupported, "Machines on this computer are plain processes and have no image; %q needs a provider with containers.", spec.Image)
	case spec.Region != "":
		return refuse(fault.Unsupported, "Machines on this computer are in no region; %q needs a provider that has regions.", spec.Region)
	case spec.User != "":
		return refuse(fault.Unsupported, "Machines on this computer run as Dayfly's own user; %q needs a provider with containers.", spec.User)
	case size.GPU != "":
		return refuse(fault.Unsupported, "Machines on this computer cannot be given a GPU such as %q.", size.GPU)
	case size.MemoryMB > p.memoryMB:
		return refuse(fault.Invalid, "The machine wants %d MiB of memory and this computer has %d.", size.MemoryMB, p.memoryMB)
	case size.CPUs > float64(runtime.NumCPU()):
		return refuse(fault.Invalid, "The machine wants %g CPUs and this computer has %d.", size.CPUs, runtime.NumCPU())
	}
	// The rest of the frame is short and of a fixed form. JSON writes at most six bytes for one, so most specs need not
	// be written to know that they fit.
	if roughSize(spec) < maxSpec/8 {
		return nil
	}
	bare := *spec
	bare.Files = nil
	if text, err := json.Marshal(&bare); err != nil || len(text) > maxSpec-1024 {
		return refuse(fault.TooLarge, "The machine's specification has %d bytes; at most %d are allowed.", len(text), maxSpec-1024)
	}
	paths := 0
	for _, file := range spec.Files {
		paths += 6*len(file.Path) + 64
	}
	if paths > maxSpec/2 {
		return refuse(fault.TooLarge, "The paths of the machine's %d files are too long together.", len(spec.Files))
	}
	return nil
}

// roughSize adds up what a caller can make long in a spec.
func roughSize(spec *machine.Spec) int {
	size := 4096
	for _, word := range spec.Command {
		size += len(word) + 3
	}
	if spec.Program != nil {
		for _, word := range spec.Program.Args {
			size += len(word) + 3
		}
		size += len(spec.Program.File)
	}
	for _, file := range spec.Files {
		size += len(file.Path)
	}
	for _, pairs := range []map[string]string{spec.Env, spec.Labels} {
		for key, value := range pairs {
			size += len(key) + len(value) + 6
		}
	}
	if spec.Agent != nil {
		size += len(spec.Agent.URL) + len(spec.Agent.Attempt) + len(spec.Agent.Token)
	}
	return size
}

// createAt asks one supervisor, and remembers the request as long as its outcome is not known.
func (p *Provider) createAt(ctx context.Context, k *link, spec *machine.Spec) (*machine.Machine, error) {
	deadline := clock() + createTimeout
	if end, ok := ctx.Deadline(); ok {
		deadline = min(deadline, clock()+time.Until(end))
	}
	a, err := k.call(ctx, &request{Create: &createRequest{Spec: spec, Deadline: deadline}})
	if err == nil && a.Made != nil {
		p.holds(k, spec.Name)
		return p.madeView(ctx, k, spec, a.Made)
	}
	if _, ok := errors.AsType[*problem](err); ok {
		return nil, err
	}
	p.doubt(spec.Name, doubtful{link: k, deadline: deadline})
	if ctx.Err() != nil {
		return nil, canceled(context.Cause(ctx))
	}
	if err == nil {
		err = errBroken // An answer without a machine is none.
	}
	return nil, err
}

// madeView returns the machine that a supervisor has made, or found.
func (p *Provider) madeView(ctx context.Context, k *link, spec *machine.Spec, m *made) (*machine.Machine, error) {
	if m.Exists {
		found, err := p.existing(ctx, spec)
		if found == nil && err == nil {
			err = fmt.Errorf("local: machine %s: %w: it has just been destroyed", spec.Name, fault.Unavailable)
		}
		return found, err
	}
	r := record{ended: m.Ended, birth: birth{
		Name: spec.Name, Owner: spec.Owner, Labels: maps.Clone(spec.Labels),
		Created: m.Created, Lifetime: spec.Lifetime, Supervisor: k.number,
	}}
	return r.view(p.host, true), nil
}

// maxHolders bounds what is remembered of who has which machine. Without it Destroy reads the record first.
const maxHolders = 16 << 10

func (p *Provider) holds(k *link, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.holders) >= maxHolders {
		clear(p.holders)
	}
	p.holders[name] = k
}

// existing returns the machine of that name if there is one.
func (p *Provider) existing(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
	m, err := p.Get(ctx, spec.Name)
	if errors.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err == nil && m.Owner != spec.Owner {
		return nil, taken(spec.Name)
	}
	return m, err
}
