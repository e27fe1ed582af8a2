package store

import (
	"context"
	"errors"
	"time"

	"github.com/dayfly-run/dayfly/machine"
)

// Runners is the ledger of the machines of pools, which outlive the attempts they carry out.
//
//	          AddRunner, Launch            MoveRunner              Launch
//	(none) ─────────────────────> warming ────────────────> idle ──────────> busy
//	                                │ │                     ▲ │ ▲            ▲ │ │ End
//	                                │ └──────── Claim ──────┼─┼─┼────────────┘ │ └──────> recycling
//	                                │                       │ │ └───── End ────┘              │
//	                                │                       └─┼────────── MoveRunner ─────────┤
//	                                ▼                         ▼                               ▼
//	                             draining <──────── MoveRunner, MoveMachine, End ─────────────┘
//	                                └── MoveMachine ──> gone
//
// A machine has one attempt at most: the launch that gives it one is a compare-and-set from idle, in the transaction that
// makes the attempt. That transaction claims the attempt as well, for the agent that waits on the machine; what Claim would
// ask is answered by then. An attempt on such a machine has a fence and a life of its own; what becomes of the machine is
// decided with the attempt's end, in the same transaction.
type Runners interface {
	// AddRunner commits the intent to make a machine for a pool, which is warming. fault.Exhausted if the pool has so
	// many machines already that are not draining; fault.Conflict if there is one of that name.
	AddRunner(ctx context.Context, r *Runner, most int) error
	// MoveRunner moves a machine between states, if it is in one of m.From and m.Attempt has it (""; nobody has), and
	// returns it as it is then. fault.Conflict if it is not; fault.NotFound if there is none.
	MoveRunner(ctx context.Context, m *RunnerMove) (*Runner, error)
	// Runners returns the machines of pools that are not gone, oldest first.
	Runners(ctx context.Context) ([]*Runner, error)
	// Runner returns one machine by its name, or by the id that its agent claims with, gone or not; fault.NotFound.
	Runner(ctx context.Context, nameOrID string) (*Runner, error)
}

// RunnerState is where a machine of a pool is.
type RunnerState string

// The states of a machine of a pool.
const (
	RunnerWarming   RunnerState = "warming"   // it was or will be asked for, and its agent has not called
	RunnerIdle      RunnerState = "idle"      // it waits for an attempt
	RunnerBusy      RunnerState = "busy"      // it has an attempt, which is claimed
	RunnerRecycling RunnerState = "recycling" // its attempt is over, and its agent cleans up
	RunnerDraining  RunnerState = "draining"  // it is to be destroyed until that is confirmed
	RunnerGone      RunnerState = "gone"      // confirmed
)

// Runner is a machine of a pool.
type Runner struct {
	Machine string // its name
	ID      string // what its agent claims by
	Pool    string
	State   RunnerState
	Version int64  // raised by every change
	Spec    string // what it was made as: whoever wants something else does not get it
	Tenant  string // whose attempts it carries out; "": nobody's yet
	Attempt string // whom it is made for, or carries out, or cleans up after; else ""
	JobID   string // of that
	By      string // instance and nonce of its agent, once that has called
	Uses    int    // how many attempts were claimed on it

	Provider  string
	MachineID string // the provider's name for it, once known
	Region    string // where it was asked for, or ""
	Image     string // what it runs, with its digest, once known
	Location  string
	Lifetime  time.Duration
	Price     *machine.Price // as it was when it was asked for; nil: nobody knows

	CreatedAt time.Time
	IdleAt    time.Time // when it last became idle; zero: never
	FreeAt    time.Time // since when no attempt pays for it; zero: one does
	DrainAt   time.Time
	GoneAt    time.Time
	Message   string // why it is draining
}

// RunnerMove moves one machine of a pool.
type RunnerMove struct {
	Machine string
	From    []RunnerState
	Attempt string // whom it has to have
	To      RunnerState
	Time    time.Time
	Message string

	// By is set by the first call of its agent, and kept when "". So are MachineID, Image and Location.
	By, MachineID, Image, Location string
}

// Lending is the part of a launch that is about a machine of a pool.
//
// Without New the machine is idle, and its agent, By, waits for an attempt: the launch claims the attempt for it. So the attempt
// is running, with a fence, and its job, too, after a second event; the machine is busy. fault.Conflict and [ErrTaken] if it
// is not idle, another tenant's, or has another agent; fault.Conflict alone if the job is being canceled. The agent is answered by [Attempts].Claim, which returns the rows to
// who has claimed already, as often as it asks. With New the machine is to be made, and is warming for the attempt, which is
// creating: ErrTaken if the pool has Most machines that are not draining.
//
// The launch's Machine is the machine's name, Lifetime and Price are what count for the attempt.
type Lending struct {
	Tenant string
	By     string    // whom the attempt is claimed for, as in [Claim]; not looked at with New
	Wall   time.Time // what the wall clock shows at the launch's Time, to settle what the machine has cost its pool; zero: Time
	New    *Runner   // its Attempt, JobID, Tenant and State are set by the launch
	Most   int
}

// OnIdle reports whether the machine of a launch is one of a pool that waits, so that the launch claims the attempt as well.
func (l *Launch) OnIdle() bool { return l.Lend != nil && l.Lend.New == nil }

// ErrTaken is why a launch is refused whose machine of a pool is somebody else's by now.
var ErrTaken = errors.New("the machine of the pool is not free")

// MachineOf returns the ledger's entry of a machine of a pool.
func (r *Runner) MachineOf() *Machine {
	state := MachinePresent
	switch r.State {
	case RunnerWarming:
		state = MachineCreating
	case RunnerDraining:
		state = MachineDeleting
	case RunnerGone:
		state = MachineGone
	}
	return &Machine{
		Name: r.Machine, Provider: r.Provider, ID: r.MachineID, Attempt: r.Attempt, JobID: r.JobID, State: state, Lifetime: r.Lifetime,
		Region: r.Region, Image: r.Image, Location: r.Location, Message: r.Message,
		CreatedAt: r.CreatedAt, DeleteAt: r.DrainAt, GoneAt: r.GoneAt, Runner: r,
	}
}

// Meter tells what the machine costs its pool: from when no attempt paid for it until one does, or it is gone.
func (r *Runner) Meter() Meter {
	return Meter{Price: r.Price, From: r.FreeAt, Until: r.GoneAt, Lifetime: max(r.Lifetime-r.FreeAt.Sub(r.CreatedAt), 0)}
}

// PoolQueue is what the cost of a pool's machines is entered under for the time in which no attempt has them, in place of
// a queue. No queue can be called so.
func PoolQueue(pool string) string { return "pool:" + pool }
