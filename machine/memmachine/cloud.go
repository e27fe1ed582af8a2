package memmachine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// Guest is what runs in a machine. It is called when the machine starts and its result is how the machine ended,
// unless something else ended it first. The context ends when the machine is destroyed, killed or at its end date,
// and context.Cause says which; a guest must then return. The spec is the guest's own copy.
type Guest func(ctx context.Context, spec *machine.Spec) machine.Exit

// Idle is the [Guest] of a cloud that was given none. It stays until its machine is ended, except that the command
// {"exit", "3"} ends at once with status 3.
func Idle(ctx context.Context, spec *machine.Spec) machine.Exit {
	if len(spec.Command) == 2 && spec.Command[0] == "exit" {
		if code, err := strconv.ParseUint(spec.Command[1], 10, 8); err == nil {
			return machine.Exit{Code: int(code)}
		}
	}
	<-ctx.Done()
	return machine.Exit{Code: -1, Signal: "SIGTERM"}
}

// Options are the details of a cloud. nil means all defaults.
type Options struct {
	// Guest runs in every machine. Default: [Idle].
	Guest Guest
	// Exec runs a further command in a machine and returns how it ended. The context ends with the caller's, with the
	// machine, and when the caller takes no more output; Exec must then return. The command has both its writers, and a
	// Stdin. Default: [Echo].
	Exec func(ctx context.Context, spec *machine.Spec, cmd *machine.Command) (*machine.Exit, error)
	// Boot is how long a machine takes from creating to running. At zero it runs before Create returns, so its
	// guest may be heard of before the answer to Create is.
	Boot time.Duration
	// Clock is what machines live by. Default: the real one.
	Clock Clock
	// PageSize is how many machines one page of a list holds. Default: 100.
	PageSize int
}

// Cloud holds machines, shared by all providers that are connected to it. It is safe for concurrent use.
type Cloud struct {
	guest    Guest
	commands func(ctx context.Context, spec *machine.Spec, cmd *machine.Command) (*machine.Exit, error)
	boot     time.Duration
	clock    Clock
	pageSize int

	guests sync.WaitGroup // running guests

	mu       sync.Mutex // guards what follows
	closed   bool
	serial   int
	byID     map[string]*instance
	byName   map[string][]*instance // more than one of a name only after StartTwice
	rules    []*Rule
	calls    map[Method]int
	log      []Effect
	watchers map[*watcher]struct{}
}

// instance is one machine.
type instance struct {
	serial  int
	spec    *machine.Spec   // never changed
	machine machine.Machine // as it is now
	timers  []func()        // to stop
	life    context.Context // ends with the machine
	kill    context.CancelCauseFunc

	printed [2]journal    // to stdout and to stderr
	changed chan struct{} // closed, and made anew, with every change of printed or of the state
	signals chan string   // nil: the guest does not listen
	resumed chan struct{} // closed when the machine is resumed; nil: it is not suspended
}

func newCloud(o *Options) *Cloud {
	var opts Options
	if o != nil {
		opts = *o
	}
	if opts.Guest == nil {
		opts.Guest = Idle
	}
	if opts.Exec == nil {
		opts.Exec = Echo
	}
	if opts.Clock == nil {
		opts.Clock = realClock{}
	}
	if opts.PageSize <= 0 {
		opts.PageSize = 100
	}
	return &Cloud{
		guest:    opts.Guest,
		commands: opts.Exec,
		boot:     opts.Boot,
		clock:    opts.Clock,
		pageSize: opts.PageSize,
		byID:     map[string]*instance{},
		byName:   map[string][]*instance{},
		calls:    map[Method]int{},
		watchers: map[*watcher]struct{}{},
	}
}

// Connect returns a provider for this cloud that has never created anything: what a new process would have.
func (c *Cloud) Connect() *Provider { return &Provider{cloud: c} }

// Close destroys every machine, whatever the rules say, and waits until all guests have returned. Afterwards
// nothing can be created.
func (c *Cloud) Close() {
	c.mu.Lock()
	c.closed = true
	for _, i := range c.sorted() {
		c.remove(i, Destroyed, errors.New("memmachine: the cloud was closed"))
	}
	c.mu.Unlock()
	c.guests.Wait()
}

// Machines returns every machine there really is, of all owners, oldest first, whatever the rules make lists say.
func (c *Cloud) Machines() []*machine.Machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*machine.Machine
	for _, i := range c.sorted() {
		all = append(all, i.view())
	}
	return all
}

// Exit ends a machine as if it had ended by itself with this exit; what is not running is left as it is. It reports
// whether there is a machine of that id.
func (c *Cloud) Exit(id string, exit machine.Exit) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.byID[id]
	if i != nil {
		c.end(i, exit, errors.New("memmachine: the machine was made to exit"))
	}
	return i != nil
}

// Vanish removes a machine without a trace, as somebody with a console or a dying host would. It reports whether
// there was a machine of that id.
func (c *Cloud) Vanish(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.byID[id]
	if i != nil {
		c.remove(i, Vanished, errors.New("memmachine: the machine vanished"))
	}
	return i != nil
}

// create is the effect of a Create.
func (c *Cloud) create(spec *machine.Spec) (*machine.Machine, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("memmachine: machine %s: %w: the cloud is closed", spec.Name, fault.Unavailable)
	}
	same := c.byName[spec.Name]
	if len(same) == 0 {
		return c.add(spec).view(), nil
	}
	if same[0].spec.Owner != spec.Owner {
		return nil, fmt.Errorf("memmachine: machine %s: %w: the name belongs to another owner", spec.Name, fault.Conflict)
	}
	return same[0].view(), nil
}

// duplicate makes a machine though there may be one of that name.
func (c *Cloud) duplicate(spec *machine.Spec) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.add(spec)
	}
}

// add makes a machine. c.mu is held.
func (c *Cloud) add(spec *machine.Spec) *instance {
	c.serial++
	now := c.clock.Now().UTC()
	i := &instance{
		changed: make(chan struct{}),
		serial:  c.serial,
		spec:    cloneSpec(spec),
		machine: machine.Machine{
			ID:       fmt.Sprintf("mem-%06d", c.serial),
			Name:     spec.Name,
			Owner:    spec.Owner,
			Labels:   maps.Clone(spec.Labels),
			State:    machine.Creating,
			Created:  now,
			Expires:  now.Add(spec.Lifetime),
			Location: "memory",
		},
	}
	i.life, i.kill = context.WithCancelCause(context.Background())
	c.byID[i.machine.ID] = i
	c.byName[spec.Name] = append(c.byName[spec.Name], i)
	c.changed(i, Created)
	i.timers = append(i.timers, c.clock.AfterFunc(spec.Lifetime, func() { c.expire(i) }))
	if c.boot <= 0 {
		c.start(i)
	} else {
		i.timers = append(i.timers, c.clock.AfterFunc(c.boot, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.start(i)
		}))
	}
	return i
}

// start starts the guest of a machine that is still creating. c.mu is held.
func (c *Cloud) start(i *instance) {
	if i.machine.State != machine.Creating {
		return
	}
	i.machine.State = machine.Running
	c.changed(i, Started)
	ctx := context.WithValue(i.life, insideKey{}, &Inside{c, i})
	c.guests.Go(func() {
		exit := c.guest(ctx, cloneSpec(i.spec))
		c.mu.Lock()
		defer c.mu.Unlock()
		c.end(i, exit, nil)
	})
}

func (c *Cloud) expire(i *instance) {
	c.mu.Lock()
	defer c.mu.Unlock()
	exit := machine.Exit{Code: -1, Signal: "SIGKILL", Expired: true, Message: "the machine reached the end of its lifetime"}
	c.end(i, exit, errors.New("memmachine: the machine's lifetime has ended"))
}

// end moves a machine that has not ended to exited. c.mu is held.
func (c *Cloud) end(i *instance, exit machine.Exit, cause error) {
	if i.machine.State.Rank() >= machine.Exited.Rank() {
		return
	}
	i.machine.State = machine.Exited
	i.machine.Exit = &exit
	i.release(cause)
	c.changed(i, Ended)
}

// remove takes a machine out of the cloud. c.mu is held.
func (c *Cloud) remove(i *instance, what What, cause error) {
	if i.machine.State == machine.Gone {
		return
	}
	i.machine.State = machine.Gone
	i.release(cause)
	delete(c.byID, i.machine.ID)
	name := i.spec.Name
	c.byName[name] = slices.DeleteFunc(c.byName[name], func(other *instance) bool { return other == i })
	if len(c.byName[name]) == 0 {
		delete(c.byName, name)
	}
	c.changed(i, what)
}

// release stops the machine's timers and tells its guest to return.
func (i *instance) release(cause error) {
	for _, stop := range i.timers {
		stop()
	}
	i.timers = nil
	i.kill(cause)
	i.news()
}

// view returns a copy of the machine that is the caller's own.
func (i *instance) view() *machine.Machine { return cloneMachine(&i.machine) }

// sorted returns all machines, oldest first. c.mu is held.
func (c *Cloud) sorted() []*instance {
	return slices.SortedFunc(maps.Values(c.byID), func(a, b *instance) int { return cmp.Compare(a.serial, b.serial) })
}

// ofOwner returns copies of the owner's machines, oldest first.
func (c *Cloud) ofOwner(owner string) []*machine.Machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	var own []*machine.Machine
	for _, i := range c.sorted() {
		if i.spec.Owner == owner {
			own = append(own, i.view())
		}
	}
	return own
}

func cloneMachine(m *machine.Machine) *machine.Machine {
	clone := *m
	clone.Labels = maps.Clone(m.Labels)
	if m.Exit != nil {
		exit := *m.Exit
		clone.Exit = &exit
	}
	return &clone
}

func cloneSpec(s *machine.Spec) *machine.Spec {
	clone := *s
	clone.Labels = maps.Clone(s.Labels)
	clone.Env = maps.Clone(s.Env)
	clone.Command = slices.Clone(s.Command)
	clone.Entrypoint = slices.Clone(s.Entrypoint)
	clone.Files = slices.Clone(s.Files)
	for i := range clone.Files {
		clone.Files[i].Data = slices.Clone(clone.Files[i].Data)
	}
	if s.Agent != nil {
		agent := *s.Agent
		clone.Agent = &agent
	}
	if s.Program != nil {
		clone.Program = &machine.Program{File: s.Program.File, Args: slices.Clone(s.Program.Args)}
	}
	return &clone
}
