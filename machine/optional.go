package machine

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"github.com/dayfly-run/dayfly/fault"
)

// The interfaces of this file are optional: a [Provider] has those that its machines can do. Beside each stands a
// function that asks any provider, and answers fault.Unsupported, with a sentence, for one that cannot.

// Preparer is a provider that has something to fetch before it can create a machine, such as its image.
type Preparer interface {
	// Prepare makes what Create will need for the spec be there, and returns when it is. It may be repeated and called
	// at once for many specs; what is there already costs little. It creates no machine and leaves nothing that has to
	// be destroyed. report is called with how far it is, from one goroutine at a time, and may be nil.
	//
	// Errors are those of Create, except that none is ambiguous: fault.Unavailable means only to try again.
	// A Create without a Prepare does the same itself.
	Prepare(ctx context.Context, spec *Spec, report func(Preparation)) error
}

// Preparation says how far a Prepare is.
type Preparation struct {
	// Text says what is being done, in a few words: "pulling debian:12".
	Text string
	// Done of Total bytes; Total is 0 when it is not known.
	Done, Total int64
}

// Prepare calls the provider's Prepare, if it has one; one that has nothing to fetch is ready.
func Prepare(ctx context.Context, p Provider, spec *Spec, report func(Preparation)) error {
	if preparer, ok := p.(Preparer); ok {
		return preparer.Prepare(ctx, spec, report)
	}
	return nil
}

// Execer is a provider that can run a further command in a machine that runs.
type Execer interface {
	// Exec runs a command in the machine and returns how it ended, whatever its status. It ends with the machine, and
	// when ctx ends, and then Exec returns fault.Canceled or the context's error. It returns after all output has been
	// written. Writers that block make the command wait; one that fails ends the call.
	//
	// fault.NotFound if there is no such machine, fault.Conflict if it does not run, fault.Invalid for a command that
	// nobody could run. A program that does not exist is no error but an Exit with code 127, as in a shell.
	Exec(ctx context.Context, id string, cmd *Command) (*Exit, error)
}

// Command is what to run in a machine beside what runs there already.
type Command struct {
	Args []string          // the program, found in the machine's PATH, and its arguments
	Env  map[string]string // beyond the machine's own environment
	Dir  string            // the working directory; "": the machine's own
	User string            // "": the machine's own

	Stdin  io.Reader // nil: empty
	Stdout io.Writer // nil: discarded
	Stderr io.Writer // nil: discarded; unused with a Terminal, whose output is one stream

	// Terminal gives the command a terminal. Resize tells the sizes of the window, the first one at once; it is read
	// until the command ends. nil: 80 columns and 24 rows.
	Terminal bool
	Resize   <-chan Window
}

// Window is the size of a terminal, in characters.
type Window struct {
	Columns, Rows int
}

// Exec runs a command in a machine, as [Execer] describes. fault.Unsupported if the provider's machines cannot be
// entered.
func Exec(ctx context.Context, p Provider, id string, cmd *Command) (*Exit, error) {
	if execer, ok := p.(Execer); ok {
		return execer.Exec(ctx, id, cmd)
	}
	return nil, unsupported("run a further command in a machine")
}

// Signaler is a provider that can send a signal to what runs in a machine.
type Signaler interface {
	// Signal sends the signal, named as in "SIGTERM", to the machine's first process. Sending one to a machine that has
	// exited is fault.Conflict; fault.NotFound if there is no such machine, fault.Invalid for a name that is none.
	Signal(ctx context.Context, id, name string) error
}

// Signal sends a signal to a machine's first process, as [Signaler] describes. fault.Unsupported if the provider
// cannot.
func Signal(ctx context.Context, p Provider, id, name string) error {
	if signaler, ok := p.(Signaler); ok {
		return signaler.Signal(ctx, id, name)
	}
	return unsupported("send signals")
}

// Suspender is a provider that can halt a machine and let it go on where it was.
type Suspender interface {
	// Suspend halts everything in the machine; its memory is kept. Its Lifetime goes on. Repeating it is no error.
	// fault.Conflict if the machine does not run.
	Suspend(ctx context.Context, id string) error
	// Resume lets a suspended machine go on. Repeating it is no error. fault.Conflict if the machine has exited.
	Resume(ctx context.Context, id string) error
}

// Suspend halts a machine, as [Suspender] describes. fault.Unsupported if the provider cannot.
func Suspend(ctx context.Context, p Provider, id string) error {
	if suspender, ok := p.(Suspender); ok {
		return suspender.Suspend(ctx, id)
	}
	return unsupported("suspend a machine")
}

// Resume lets a suspended machine go on, as [Suspender] describes. fault.Unsupported if the provider cannot.
func Resume(ctx context.Context, p Provider, id string) error {
	if suspender, ok := p.(Suspender); ok {
		return suspender.Resume(ctx, id)
	}
	return unsupported("resume a machine")
}

// Logger is a provider that keeps what a machine prints.
type Logger interface {
	// Logs writes what the machine has printed since its start, each stream to its writer; a nil writer discards. With
	// follow it goes on as the machine prints and returns when the machine has exited and all is written. Without, it
	// returns when it has written what there is. What it printed survives until the machine is destroyed; a provider
	// may keep only the last of very much, at least 1 MiB.
	//
	// fault.NotFound if there is no such machine; a writer's error ends the call.
	Logs(ctx context.Context, id string, follow bool, stdout, stderr io.Writer) error
}

// Logs writes what a machine has printed, as [Logger] describes. fault.Unsupported if the provider does not keep it.
func Logs(ctx context.Context, p Provider, id string, follow bool, stdout, stderr io.Writer) error {
	if logger, ok := p.(Logger); ok {
		return logger.Logs(ctx, id, follow, stdout, stderr)
	}
	return unsupported("show what a machine prints")
}

// Gateway is a provider whose machines reach the computer that asks it by an address of their own, as containers do by
// that of their bridge. A server that listens on loopback only can then also be reached by them.
type Gateway interface {
	// Gateway returns that address. It is one that this computer has, or will have as soon as there is a machine, for some
	// networks come and go with who is in them.
	//
	// fault.Unsupported if there is none, because the machines are made elsewhere for example; otherwise errors are those
	// of Prepare.
	Gateway(ctx context.Context) (netip.Addr, error)
}

// Carrier is a provider that brings a program of the computer it is asked on into its machines, as Spec.Program wants it.
type Carrier interface {
	// CheckProgram reports whether the provider's machines can run the program, as far as that can be known before there
	// is one. It makes nothing, and may be repeated.
	//
	// fault.Unsupported, with a sentence that says what to do: the program is for another kind of computer, or needs
	// libraries that are not in the machine. Other errors are those of Prepare.
	CheckProgram(ctx context.Context, program *Program) error
}

// CheckProgram reports whether a provider's machines can run the program, as [Carrier] describes. fault.Unsupported if the
// provider brings none along.
func CheckProgram(ctx context.Context, p Provider, program *Program) error {
	if carrier, ok := p.(Carrier); ok {
		return carrier.CheckProgram(ctx, program)
	}
	return unsupported("bring a program along into a machine")
}

func unsupported(what string) error {
	return fmt.Errorf("machine: %w", fault.Say(fault.Unsupported, "this provider cannot %s", what))
}
