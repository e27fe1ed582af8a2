package memmachine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

var (
	_ machine.Preparer  = (*Provider)(nil)
	_ machine.Execer    = (*Provider)(nil)
	_ machine.Signaler  = (*Provider)(nil)
	_ machine.Suspender = (*Provider)(nil)
	_ machine.Logger    = (*Provider)(nil)
	_ machine.Carrier   = (*Provider)(nil)
	_ machine.Gateway   = (*Provider)(nil)
)

// Prepare fetches nothing, as [machine.Preparer] says; a rule with [Progress] makes it report.
func (p *Provider) Prepare(ctx context.Context, spec *machine.Spec, report func(machine.Preparation)) error {
	if err := spec.Validate(); err != nil {
		return fmt.Errorf("memmachine: %w", err)
	}
	if report == nil {
		report = func(machine.Preparation) {}
	}
	call := &Call{Method: Prepare, Key: spec.Name, Spec: cloneSpec(spec), Report: report, cloud: p.cloud}
	call.effect = func() error { return nil }
	return p.cloud.answer(ctx, call)
}

// Progress makes a Prepare report these steps, one after the other, and passes the call on.
func Progress(steps ...machine.Preparation) Fault {
	return func(ctx context.Context, c *Call) error {
		for _, step := range steps {
			c.Report(step)
		}
		return c.Do(ctx)
	}
}

// CheckProgram reports whether the program's file can be executed, as [machine.Carrier] says. Guests may run it or not.
func (p *Provider) CheckProgram(ctx context.Context, program *machine.Program) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("memmachine: %w: %w", fault.Canceled, context.Cause(ctx))
	}
	info, err := os.Stat(program.File)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fault.Say(fault.Unsupported, "the program %s is no file that can be executed", program.File)
	}
	return nil
}

// Gateway returns the loopback address, as [machine.Gateway] says: guests run in this process.
func (p *Provider) Gateway(ctx context.Context) (netip.Addr, error) {
	if err := ctx.Err(); err != nil {
		return netip.Addr{}, fmt.Errorf("memmachine: %w: %w", fault.Canceled, context.Cause(ctx))
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
}

// Exec calls the cloud's [Options.Exec], as [machine.Execer] says.
func (p *Provider) Exec(ctx context.Context, id string, cmd *machine.Command) (*machine.Exit, error) {
	if err := cmd.Validate(); err != nil {
		return nil, fmt.Errorf("memmachine: %w", err)
	}
	call := &Call{Method: Exec, Key: id, Command: cmd, cloud: p.cloud}
	call.effect = func() (err error) {
		i, err := p.cloud.running(id)
		if err != nil {
			return err
		}
		call.Exit, err = p.cloud.exec(ctx, i, cmd)
		return err
	}
	if err := p.cloud.answer(ctx, call); err != nil {
		return nil, err
	}
	if call.Exit == nil {
		return nil, call.failure(fault.Internal, "the fault reported success without an exit")
	}
	return call.Exit, nil
}

// Signal sends a signal to the guest, as [machine.Signaler] says. A guest that has asked for [Inside.Signals] receives
// it there; for any other it does what signals do to a program that does not care.
func (p *Provider) Signal(ctx context.Context, id, name string) error {
	if err := machine.CheckSignal(name); err != nil {
		return fmt.Errorf("memmachine: %w", err)
	}
	call := &Call{Method: Signal, Key: id, Signal: name, cloud: p.cloud}
	call.effect = func() error {
		p.cloud.mu.Lock()
		defer p.cloud.mu.Unlock()
		i, err := p.cloud.unended(id)
		if err == nil {
			p.cloud.signal(i, name)
		}
		return err
	}
	return p.cloud.answer(ctx, call)
}

// Suspend halts a machine, as [machine.Suspender] says: what its guest prints waits, and nothing can be run in it.
func (p *Provider) Suspend(ctx context.Context, id string) error {
	call := &Call{Method: Suspend, Key: id, cloud: p.cloud}
	call.effect = func() error {
		p.cloud.mu.Lock()
		defer p.cloud.mu.Unlock()
		i, err := p.cloud.unended(id)
		switch {
		case err != nil:
			return err
		case i.machine.State != machine.Running:
			return notRunning(id)
		case i.resumed == nil:
			i.resumed = make(chan struct{})
		}
		return nil
	}
	return p.cloud.answer(ctx, call)
}

// Resume lets a suspended machine go on, as [machine.Suspender] says.
func (p *Provider) Resume(ctx context.Context, id string) error {
	call := &Call{Method: Resume, Key: id, cloud: p.cloud}
	call.effect = func() error {
		p.cloud.mu.Lock()
		defer p.cloud.mu.Unlock()
		i, err := p.cloud.unended(id)
		if err == nil && i.resumed != nil {
			close(i.resumed)
			i.resumed = nil
		}
		return err
	}
	return p.cloud.answer(ctx, call)
}

// Logs writes what the guest has printed, as [machine.Logger] says. It keeps the last mebibyte of each stream at least.
func (p *Provider) Logs(ctx context.Context, id string, follow bool, stdout, stderr io.Writer) error {
	call := &Call{Method: Logs, Key: id, cloud: p.cloud}
	call.effect = func() error {
		p.cloud.mu.Lock()
		i := p.cloud.byID[id]
		p.cloud.mu.Unlock()
		if i == nil {
			return unknown(id)
		}
		err := p.cloud.logs(ctx, i, follow, stdout, stderr)
		if err != nil && ctx.Err() != nil {
			return call.canceled(ctx)
		}
		return err
	}
	return p.cloud.answer(ctx, call)
}

func unknown(id string) error { return fmt.Errorf("memmachine: machine %s: %w", id, fault.NotFound) }

func notRunning(id string) error {
	return fmt.Errorf("memmachine: machine %s: %w: it does not run", id, fault.Conflict)
}

// unended returns a machine that has not exited. c.mu is held.
func (c *Cloud) unended(id string) (*instance, error) {
	i := c.byID[id]
	if i == nil {
		return nil, unknown(id)
	}
	if i.machine.State.Rank() >= machine.Exited.Rank() {
		return nil, notRunning(id)
	}
	return i, nil
}

// running returns a machine that runs and is not suspended.
func (c *Cloud) running(id string) (*instance, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, err := c.unended(id)
	if err == nil && (i.machine.State != machine.Running || i.resumed != nil) {
		return nil, notRunning(id)
	}
	return i, err
}

// exec runs a command until it ends, or ctx or the machine does, or nobody takes its output any more.
func (c *Cloud) exec(ctx context.Context, i *instance, cmd *machine.Command) (*machine.Exit, error) {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	over := errors.New("the machine has ended")
	defer context.AfterFunc(i.life, func() { cancel(over) })()
	guarded := *cmd
	guarded.Stdout = &guard{w: orDiscard(cmd.Stdout), failed: cancel}
	guarded.Stderr = &guard{w: orDiscard(cmd.Stderr), failed: cancel}
	if guarded.Stdin == nil {
		guarded.Stdin = strings.NewReader("")
	}
	exit, err := c.commands(context.WithValue(inner, insideKey{}, &Inside{c, i}), cloneSpec(i.spec), &guarded)
	switch cause := context.Cause(inner); {
	case ctx.Err() != nil || errors.Is(cause, over):
		return nil, fmt.Errorf("memmachine: a command in machine %s: %w: %w", i.machine.ID, fault.Canceled, cause)
	case cause != nil:
		return nil, fmt.Errorf("memmachine: the output of a command in machine %s: %w", i.machine.ID, cause)
	}
	return exit, err
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// guard is a writer that tells of its failure.
type guard struct {
	w      io.Writer
	failed context.CancelCauseFunc
	mu     sync.Mutex
}

func (g *guard) Write(text []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, err := g.w.Write(text)
	if err != nil {
		g.failed(err)
	}
	return n, err
}

// Echo is what runs further commands in a cloud that was given nothing for it: {"exit", "3"} ends with status 3, echo
// prints its arguments, cat its input, and {"stay"} stays until it is ended. There is no other program, so anything
// else ends with status 127.
func Echo(ctx context.Context, _ *machine.Spec, cmd *machine.Command) (*machine.Exit, error) {
	switch name, rest := cmd.Args[0], cmd.Args[1:]; {
	case name == "exit" && len(rest) == 1:
		code, err := strconv.ParseUint(rest[0], 10, 8)
		if err != nil {
			return &machine.Exit{Code: 2}, nil
		}
		return &machine.Exit{Code: int(code)}, nil
	case name == "echo":
		if _, err := fmt.Fprintln(cmd.Stdout, strings.Join(rest, " ")); err != nil {
			return nil, err
		}
	case name == "cat":
		if _, err := io.Copy(cmd.Stdout, cmd.Stdin); err != nil {
			return nil, err
		}
	case name == "stay":
		<-ctx.Done()
		return &machine.Exit{Code: -1, Signal: "SIGKILL"}, nil
	default:
		_, _ = fmt.Fprintf(cmd.Stderr, "%s: not found\n", name) // as a shell says it; the status says it too
		return &machine.Exit{Code: 127}, nil
	}
	return &machine.Exit{}, nil
}
