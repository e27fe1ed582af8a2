package boot

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
)

// ParentVariable is the variable in the environment of a runner that holds its invitation.
const ParentVariable = "DAYFLY_PARENT"

// DefaultLifetime is how long a runner may exist when nobody says. It is replaced before, and ends with its parent anyway.
const DefaultLifetime = 24 * time.Hour

// Options are the details of a [Booter]; nil means all defaults.
type Options struct {
	// Spec is what all machines have in common. It has no Name, Owner, Agent or Program, which are the Booter's. With a Command or an
	// Entrypoint the Image is taken to hold this program, which they start. A Lifetime of 0 is DefaultLifetime.
	Spec machine.Spec
	// Program is the path of the program that machines run, which has to be of the same build as this one. Default: this one.
	Program string
	// Address is where machines reach this process, a host and, where it has to be a certain one, a port. Default: what the
	// provider says, or the computer.
	Address string
	// Listen is where this process listens when something else does at Address: a host, which may be left out, and a port. Default: at
	// every address of the computer, at the port of Address.
	Listen string
	// Silence is as in link.HomeOptions.
	Silence time.Duration
	// Poll is how often machines are looked at whose provider cannot tell of changes. Default: 5 seconds.
	Poll time.Duration
	// Environment says what is in a variable of this process's environment. Default: os.Getenv.
	Environment func(name string) string
	// Network is where runners reach this process, when that is not a computer's network.
	Network link.Network
	// Lent says that machines are there already when they are created, with a program that serves one parent after another, and
	// that to destroy one is to give it back. Create then waits for one for as long as that makes sense, and is not repeated.
	Lent bool
	// Unheard says for how long a provider that is somebody else's, reached over a network, has not answered anything. When it is half a
	// minute a boot does not wait for it any longer, however much time it has. nil: nobody knows.
	Unheard func() time.Duration
	// Logger is told what nobody else is. nil: discards.
	Logger *slog.Logger
}

// Booter boots the runners of one pool. It is safe for concurrent use.
type Booter struct {
	provider machine.Provider
	options  Options
	hello    link.Hello
	pool     string
	owner    string
	parent   string // what tells this process from other parents
	log      *slog.Logger

	closing context.Context // ends when Run is to end
	close   context.CancelFunc
	life    context.Context // ends when Run returns
	end     context.CancelFunc
	boots   sync.WaitGroup // boots that go on
	work    sync.WaitGroup // what goes on besides: destroys that nobody waits for, runners that are attended, the home

	finding chan struct{} // holds a token while somebody finds out how machines get home

	mu      sync.Mutex
	home    *home              // guarded by mu; nil before it is found
	checked bool               // guarded by mu; the provider can carry the program
	ended   bool               // guarded by mu; Run has returned, or is about to
	runners map[string]*Runner // guarded by mu; by the machine's name, from before it is made until it is gone
}

// New returns a Booter of a pool's runners. It does no I/O but to look at this program. hello is what this process says to its
// runners.
//
// fault.Invalid: the template asks for what a runner cannot have.
func New(p machine.Provider, pool string, hello link.Hello, o *Options) (*Booter, error) {
	b := &Booter{
		provider: p, hello: hello, pool: pool,
		parent:  identity() + " " + rand.Text()[:8], // there may be another pool of that name in this process
		owner:   ownerOf(hello.Program, pool),
		finding: make(chan struct{}, 1), runners: map[string]*Runner{},
	}
	if o != nil {
		b.options = *o
	}
	if b.options.Environment == nil {
		b.options.Environment = os.Getenv
	}
	b.options.Poll = cmp.Or(b.options.Poll, 5*time.Second)
	if b.log = b.options.Logger; b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	spec := &b.options.Spec
	spec.Lifetime = cmp.Or(spec.Lifetime, DefaultLifetime)
	switch {
	case spec.Agent != nil || spec.Program != nil:
		return nil, fault.Say(fault.Invalid, "A runner runs this program; its machines can have neither an agent nor another program.")
	case spec.Lifetime < 0 || spec.Lifetime > machine.MaxLifetime:
		return nil, fault.Say(fault.Invalid, "A runner's lifetime must be between 0 and %v, and it is %v.", machine.MaxLifetime, spec.Lifetime)
	}
	if err := checkOwn(spec); err != nil {
		return nil, err
	}
	if err := b.options.check(); err != nil {
		return nil, err
	}
	b.closing, b.close = context.WithCancel(context.Background())
	b.life, b.end = context.WithCancel(context.Background())
	return b, nil
}

// checkOwn reports what a template says that is for the Booter to say.
func checkOwn(spec *machine.Spec) error {
	switch {
	case spec.Name != "":
		return fault.Field("Spec.Name", "each machine has a name of its own, which the pool makes of its Name; leave %q out", spec.Name)
	case spec.Owner != "":
		return fault.Field("Spec.Owner", "a pool finds its machines again by an owner that it makes of the program's name and its own; "+
			"leave %q out, and put what is to be told apart into Labels", spec.Owner)
	}
	for _, label := range []string{LabelPool, LabelParent} {
		if _, taken := spec.Labels[label]; taken {
			return fault.Field("Spec.Labels", "the label %s is taken: by it a pool knows its machines; use another name", label)
		}
	}
	if _, taken := spec.Env[ParentVariable]; taken {
		return fault.Say(fault.Invalid, "The variable %s in a runner's environment is taken: it tells the way to the parent.", ParentVariable)
	}
	return nil
}

// check reports what would otherwise be found wrong with the first boot, when somebody waits for it.
func (o *Options) check() error {
	if o.Silence != 0 && (o.Silence < link.MinSilence || o.Silence > link.MaxSilence) {
		return fault.Field("Silence", "%v cannot be measured; it must be between %v and %v, or 0 for the default", o.Silence, link.MinSilence, link.MaxSilence)
	}
	if err := checkAddress(o.Address); err != nil {
		return err
	}
	if err := checkListen(o.Listen, o.Address); err != nil {
		return err
	}
	spec := o.Spec
	if len(spec.Entrypoint) > 0 && spec.Image == "" {
		return fault.Field("Spec.Entrypoint", "it starts this program in the image that Spec.Image names, and that names none")
	}
	spec.Name, spec.Owner = "runner", "calls"
	if len(spec.Command) == 0 && len(spec.Entrypoint) == 0 {
		spec.Program = &machine.Program{File: machine.ThisProgram}
	}
	if err := spec.Validate(); err != nil {
		return fault.Say(fault.Invalid, "No machine can be made of the pool's Spec: %v.", err)
	}
	return nil
}

// checkAddress reports an address that no machine could dial.
func checkAddress(address string) error {
	if address == "" {
		return nil
	}
	host := strings.TrimSuffix(strings.TrimPrefix(address, "["), "]")
	if h, port, err := net.SplitHostPort(address); err == nil {
		if !isPort(port) {
			return fault.Field("Address", "%q has the port %q, which must be a number from 1 to 65535, or be left out", address, port)
		}
		host = h
	}
	if !isHost(host) {
		return fault.Field("Address", "%q is neither a host nor a host and a port, such as 203.0.113.7:7800", address)
	}
	return nil
}

// checkListen reports what cannot be listened on, or leads nobody there.
func checkListen(listen, address string) error {
	if listen == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(listen)
	switch {
	case err != nil || host != "" && !isHost(host):
		return fault.Field("Listen", "%q is not a port, or a host of this computer and a port, such as :7800 or 10.0.0.5:7800", listen)
	case !isPort(port):
		return fault.Field("Listen", "%q has the port %q, which must be a number from 1 to 65535", listen, port)
	case address == "":
		return fault.Field("Listen", "machines are not told to dial %s but what Address says, and that is empty; set it to what they reach this process by", listen)
	}
	return nil
}

func isPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

func isHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return host != "" && !strings.ContainsFunc(host, func(c rune) bool { return strings.ContainsRune(":/[]@ ", c) || !unicode.IsPrint(c) })
}

// Run looks after the machines until ctx ends: it tells runners of the end of theirs and destroys what dead parents have left.
// Then it waits a little until what is being destroyed is gone, and closes the links that are left. Boot works only while Run
// does. It is called once, and returns nil.
func (b *Booter) Run(ctx context.Context) error {
	var group sync.WaitGroup
	watching, stop := context.WithCancel(ctx)
	defer stop()
	group.Go(func() { b.prepare(watching) })
	group.Go(func() { b.watch(watching) })
	if p, ok := b.provider.(*local.Provider); ok {
		group.Go(func() { _ = p.Run(watching) }) // always nil
	}
	<-ctx.Done()
	b.close()
	b.mu.Lock()
	b.ended = true
	left := make([]*Runner, 0, len(b.runners))
	for _, r := range b.runners {
		if r.up { // a boot cleans up after itself
			left = append(left, r)
		}
	}
	b.mu.Unlock()
	group.Wait()
	var stopping sync.WaitGroup
	for _, r := range left {
		stopping.Go(func() {
			if err := r.destroyLast(); err != nil {
				b.log.Warn("a machine may be left; it ends by itself", "machine", r.name, "error", err)
			}
		})
	}
	stopping.Wait()
	b.boots.Wait()
	b.end()
	b.work.Wait()
	return nil
}

// prepare does beforehand what would make the first boot slow. What prevents it is told to who boots.
func (b *Booter) prepare(ctx context.Context) {
	if p, ok := b.provider.(*local.Provider); ok {
		p.Prepare()
		return
	}
	for wait := firstPause; ; wait = min(2*wait, longestPause) {
		spec, err := b.spec(ctx, "prepare", "")
		if err == nil {
			err = machine.Prepare(ctx, b.provider, spec, nil)
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		b.log.Debug("runners cannot be prepared", "pool", b.pool, "error", err)
		// Where machines are lent, whoever lends them has to know what they are before there is a boot.
		if !b.options.Lent || !errors.Is(err, fault.Unavailable) {
			return
		}
		pauseFor(ctx, wait)
	}
}

// begin makes the record of a runner, so that whatever happens to its machine from now on finds it. The caller calls
// boots.Done when the boot is over.
func (b *Booter) begin(name string) (*Runner, error) {
	r := &Runner{booter: b, name: name, began: time.Now(), exited: make(chan struct{}), over: make(chan struct{}), done: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.ended:
		return nil, fault.Say(fault.Canceled, "The pool %s is closed.", b.pool)
	case b.runners[name] != nil:
		return nil, fmt.Errorf("boot: runner %s: %w: it exists", name, fault.Conflict)
	}
	b.runners[name] = r
	b.boots.Add(1)
	return r, nil
}

// complete notes that a boot has succeeded, unless that is too late.
func (b *Booter) complete(r *Runner) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return fault.Say(fault.Canceled, "The pool %s is closed.", b.pool)
	}
	r.up = true
	return nil
}

// runner returns the runner of a machine's name, or nil.
func (b *Booter) runner(name string) *Runner {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.runners[name]
}

// forget is called when nothing of the runner is left.
func (b *Booter) forget(r *Runner) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.runners[r.name] == r {
		delete(b.runners, r.name)
	}
}
