package local

import (
	"context"
	"log/slog"
	"time"

	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

// Options configure a [Provider]. Dir and Supervisor are required.
type Options struct {
	// Dir is the state directory: the machines, what they write, and their supervisors. It is made with mode 0700.
	// It may be as long as a path can be. Whoever uses the same directory sees the same machines.
	Dir string
	// Supervisor is the program, with arguments, that starts a supervisor. "--dir" and the supervisor's own directory
	// are appended; the program passes it to [Supervise].
	Supervisor []string
	// Home is the base URL at which agents find the server. Supervisors are told when they are connected to, and
	// again by SetHome. "": agents keep the URL in their Spec.
	Home string
	// Logger is told what nobody asked for: supervisors that die or do not answer. Default: discards.
	Logger *slog.Logger

	// AnswerTimeout is how long a supervisor may be silent before another takes its place. Default: 2 seconds.
	AnswerTimeout time.Duration
	// StartTimeout is how long a new supervisor may take until it answers. Default: 15 seconds.
	StartTimeout time.Duration
	// DisableCgroups makes trees be found by searching /proc, as on a computer without cgroups. Pass the same to
	// the supervisors.
	DisableCgroups bool
}

// SupervisorOptions configure [Supervise]. Dir is required.
type SupervisorOptions struct {
	// Dir is the supervisor's own directory, as the provider appended it to the arguments.
	Dir string
	// Guest carries out a machine whose Spec has an Agent. It returns when its work is done, and promptly when ctx
	// ends; the Exit is the machine's. Many are called at once. nil: such machines are refused.
	Guest func(ctx context.Context, c *Cell) machine.Exit
	// Logger is told what goes wrong. Default: discards.
	Logger *slog.Logger

	// Idle is how long to stay without a running machine and without a connection. Default: 30 seconds.
	Idle time.Duration
	// Grace is how long a machine has between SIGTERM and SIGKILL at the end of its lifetime. Default: 5 seconds.
	Grace time.Duration
	// MaxMachines is how many machines may exist at once, exited ones included; each part of a divided one counts. Default: 4096, or fewer if the limit
	// on open files is low.
	MaxMachines int
	// DisableCgroups is as in [Options].
	DisableCgroups bool
}

// Cell is what a [SupervisorOptions] Guest is given: one machine, before anything runs in it.
type Cell struct {
	Spec       *machine.Spec  // as it was asked for; not to be modified
	WorkDir    string         // an empty directory for what runs in the machine
	ScratchDir string         // an empty directory for the guest itself
	Group      *process.Group // where to start processes; the supervisor ends what is left and closes it
	Env        []string       // the environment of what runs in the machine: the minimum and the Spec's own
	// Home returns the server's current base URL, or "" if no provider has named one, and a channel that is closed when
	// a provider names one again, be it the same: a server has started then.
	Home func() (url string, renewed <-chan struct{})
	// Renew makes WorkDir, ScratchDir, the directory for temporary files and Group as they were when the guest began, so that
	// it can start something else in them. It is called when nothing runs any more. fault.Conflict, with a sentence: they
	// cannot be made so, or the machine is to end.
	Renew func(context.Context) error
	// Divide divides the machine into parts, from 2 to 128, in which the guest can run as many things at once. Each is a Cell
	// of its own, with an equal share of the machine's memory, processes and disk; the processors they share as they need
	// them. Renew makes a part as it was, and the others take no notice. What is done to the machine is done to all its parts.
	// Nothing is to be started in the machine's own Group afterwards. It can be called once; nil for a part.
	//
	// fault.Exhausted: the supervisor cannot have so many machines, as each of which a part counts.
	Divide func(parts int) ([]*Cell, error)
}
