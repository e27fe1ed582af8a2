// Package docker makes machines of containers, with Docker or with what speaks its API, such as Podman.
//
// It needs an engine's socket, and nothing else of the computer the engine runs on: no directory is shared, so that the
// engine may be elsewhere. Whoever may use the socket is root on that computer, so the server that this provider is part
// of has to be trusted with that. What runs in the containers gets as little as possible: no capabilities but those the
// configuration names, no way to new privileges, a limit of processes, and memory without swap.
//
// The agent gets into an image once: the first container of an image is made without being started, the agent is copied
// into it, and it is committed as an image of its own beside the other, "dayfly-agent/NAME:HASH". Containers made of
// that one need no copying, which would take a third of the time that it takes to start one. The engine keeps a few
// megabytes for each image that jobs use; the oldest are removed when there are many. A machine's own program, if its Spec
// has one, gets there in the same way, and needs no other image than an almost empty one that the provider makes.
//
// The first process in every container is the agent's init mode: it reaps, passes signals on, and ends the machine at the
// end of its lifetime, whoever is still watching. Below it runs the agent, or the image's entrypoint and the command.
//
// A machine's id is its name, which is also the container's. All that has to be known of it is in the container's labels.
package docker

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/moby/moby/client"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// Options are the optional parts of a [Provider]; the zero value of each is its default.
type Options struct {
	// Host is where the engine is: unix:///path, tcp://host:port. "": what the variable DOCKER_HOST says, or else the
	// first of Hosts that exists.
	Host string
	// Hosts are places to look for an engine when Host is not set, best first. nil: those of [Sockets].
	Hosts []string
	// TLS names the directory with ca.pem, cert.pem and key.pem for a tcp host. "": plain.
	TLS string
	// Network is what containers are attached to. "": the engine's default, called bridge.
	Network string
	// Capabilities are the Linux capabilities that containers keep, without "CAP_". Default: none.
	Capabilities []string
	// MemoryMB and Processes are the limits of machines whose Size does not say; 0: no limit of memory, and
	// DefaultProcesses.
	MemoryMB, Processes int
	// Credentials tells the user and password for a registry, "ghcr.io" for example, or neither. It is asked each time
	// that an image is pulled. nil: none.
	Credentials func(ctx context.Context, registry string) (*Credentials, error)
	// Logger is told what nobody else is. nil: discards.
	Logger *slog.Logger
}

// Credentials are what a registry knows somebody by: a name and password, or an identity token.
type Credentials struct {
	User, Password string
	IdentityToken  string
}

// DefaultProcesses is how many processes and threads a container may have when nobody says.
const DefaultProcesses = 4096

// Program is the agent's program, which gets into every image. The zero Program is this very program, whose main has to call
// dayfly.Main first of all; it can then be all of an agent but for carrying out jobs.
type Program struct {
	// File is the path of a static executable for Linux.
	File string
	// Args come before the agent's own arguments, for a program that is the agent only when it is told so.
	Args []string
}

// Provider makes machines of containers. Make it with [New]. It is safe for concurrent use.
type Provider struct {
	options Options
	agent   Program
	log     *slog.Logger

	executables executables

	mu     sync.Mutex
	engine *engine // nil before the first call, and after a Close

	names keyed // one Create of a name at a time
	fits  keyed // one image is given the agent at a time
	pulls keyed // one pull of a reference at a time
}

// engine is the engine that is talked to.
type engine struct {
	*client.Client
	host string
	cpus atomic.Int64 // the computer's; 0 before anybody wanted to know
}

var (
	_ machine.Provider  = (*Provider)(nil)
	_ machine.Preparer  = (*Provider)(nil)
	_ machine.Execer    = (*Provider)(nil)
	_ machine.Signaler  = (*Provider)(nil)
	_ machine.Suspender = (*Provider)(nil)
	_ machine.Logger    = (*Provider)(nil)
	_ machine.Watcher   = (*Provider)(nil)
	_ machine.Gateway   = (*Provider)(nil)
	_ machine.Carrier   = (*Provider)(nil)
)

// New returns a provider whose containers run this agent. It does nothing yet: an engine that does not answer, and an
// agent that cannot be used, are told to whoever asks for a machine.
func New(agent Program, o *Options) *Provider {
	p := &Provider{agent: agent}
	if agent.File == "" {
		p.agent = Program{File: machine.ThisProgram, Args: []string{machine.Helper}}
	}
	if o != nil {
		p.options = *o
	}
	if p.options.Processes == 0 {
		p.options.Processes = DefaultProcesses
	}
	if p.options.Network == "" {
		p.options.Network = "bridge"
	}
	if p.log = p.options.Logger; p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	return p
}

// Close closes the connections to the engine. Machines go on without them.
func (p *Provider) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.engine == nil {
		return nil
	}
	err := p.engine.Close()
	p.engine = nil
	return err
}

// Check reports whether an engine answers, and what and where it is, in a few words for a person. The error is one of
// fault.Unavailable, of fault.Denied when the socket is not for this user, or of fault.Unsupported when the agent cannot run in
// containers, with a sentence that says what to do.
func (p *Provider) Check(ctx context.Context) (string, error) {
	e, err := p.connect()
	if err != nil {
		return "", err
	}
	version, err := e.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return "", p.failed(ctx, e, "ask the engine for its version", err)
	}
	name := "Docker"
	for _, component := range version.Components {
		if component.Name == "Podman Engine" {
			name = "Podman"
		}
	}
	if version.Os != "linux" {
		return "", fault.Say(fault.Unsupported, "the engine at %s runs %s containers, and Dayfly needs Linux ones", e.host, version.Os)
	}
	if _, err := p.loadOf(nil); err != nil {
		return "", err
	}
	return name + " " + version.Version + " at " + e.host, nil
}

// keyed lets one caller at a time have a key.
type keyed struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// lock waits for the key, or for the end of ctx, whose error it returns.
func (k *keyed) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		free, held := k.held[key]
		if !held {
			if k.held == nil {
				k.held = map[string]chan struct{}{}
			}
			free = make(chan struct{})
			k.held[key] = free
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, key)
				k.mu.Unlock()
				close(free)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return nil, canceled(ctx)
		}
	}
}
