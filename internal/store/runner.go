package store

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/internal/wire"
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
// A machine may be divided into slots, which carry out attempts side by side. Each slot is a Runner of its own, and what is drawn
// here holds for each. The first has the machine's name. They come into being together and have one tenant; the machine is
// destroyed when all are draining, be it one by one or, with [Machines].MoveMachine, at once; and they are gone together.
//
// A machine, or each of its slots, has one attempt at most: the launch that gives it one is a compare-and-set from idle, in the transaction that
// makes the attempt. That transaction claims the attempt as well, for the agent that waits on the machine; what Claim would
// ask is answered by then. An attempt on such a machine has a fence and a life of its own; what becomes of the machine is
// decided with the attempt's end, in the same transaction.
type Runners interface {
	// AddRunner commits the intent to make a machine for a pool, which is warming, with all its slots. fault.Exhausted if the
	// pool has so many machines already that are not draining; fault.Conflict if there is one of that name.
	AddRunner(ctx context.Context, r *Runner, most int) error
	// MoveRunner moves a machine between states, if it is in one of m.From and m.Attempt has it (""; nobody has), and
	// returns it as it is then. fault.Conflict if it is not; fault.NotFound if there is none.
	MoveRunner(ctx context.Context, m *RunnerMove) (*Runner, error)
	// Runners returns the machines of pools that are not gone, oldest first.
	Runners(ctx context.Context) ([]*Runner, error)
	// Runner returns one machine, or slot, by its name, or by the id that its agent claims with, gone or not; fault.NotFound.
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

// Runner is a machine of a pool, or one slot of it.
type Runner struct {
	Machine string // its name, which is the machine's, or that of [wire.Slot]
	ID      string // what its agent claims by
	Host    string // the machine that it is a slot of; its own name if it is the first. Set by the store
	Slots   int    // how many that has; at least 1. 0 counts as 1 when it is added
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
	Price     *machine.Price // the slot's share of it as it was when it was asked for; nil: nobody knows

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
// The launch's Machine is the machine's name, or the slot's, Lifetime and Price are what count for the attempt. A new machine's
// first slot is the attempt's, and the others are warming for nobody. Whoever gets one slot of a machine is the tenant of all.
type Lending struct {
	Tenant string
	By     string    // whom the attempt is claimed for, as in [Claim]; not looked at with New
	Wall   time.Time // what the wall clock shows at the launch's Time, to settle what the machine has cost its pool; zero: Time
	New    *Runner   // the first slot; its Attempt, JobID, Tenant, State and Host are set by the launch
	Most   int
}

// OnIdle reports whether the machine of a launch is one of a pool that waits, so that the launch claims the attempt as well.
func (l *Launch) OnIdle() bool { return l.Lend != nil && l.Lend.New == nil }

// ErrTaken is why a launch is refused whose machine of a pool is somebody else's by now.
var ErrTaken = errors.New("the machine of the pool is not free")

// Divided reports whether the machine has more than one slot.
func (r *Runner) Divided() bool { return r.Slots > 1 }

// AllSlots returns the slots of a machine that is to be made, beginning with r itself, which is the first.
func (r *Runner) AllSlots() []*Runner {
	first := *r
	first.Host, first.Slots = r.Machine, max(1, r.Slots)
	slots := []*Runner{&first}
	for k := 2; k <= first.Slots; k++ {
		slot := first
		slot.Machine, slot.ID = wire.Slot(r.Machine, k), wire.Slot(r.ID, k)
		slot.Attempt, slot.JobID, slot.FreeAt = "", "", r.CreatedAt
		slots = append(slots, &slot)
	}
	return slots
}

// Together returns what a machine does whose slots these are: the state of the slot that does most. So it is draining when all are.
func Together(slots []*Runner) RunnerState {
	most := RunnerGone
	states := []RunnerState{RunnerGone, RunnerDraining, RunnerWarming, RunnerIdle, RunnerRecycling, RunnerBusy}
	for _, r := range slots {
		if slices.Index(states, r.State) > slices.Index(states, most) {
			most = r.State
		}
	}
	return most
}

// MachineOf returns the ledger's entry of a machine of a pool. slots are all that it has, the first of them first.
func MachineOf(slots ...*Runner) *Machine {
	r := slots[0]
	m := &Machine{
		Name: r.Machine, Provider: r.Provider, ID: r.MachineID, Attempt: r.Attempt, JobID: r.JobID, State: Together(slots).Machine(), Lifetime: r.Lifetime,
		Region: r.Region, Image: r.Image, Location: r.Location, Message: r.Message,
		CreatedAt: r.CreatedAt, DeleteAt: r.DrainAt, GoneAt: r.GoneAt, Slots: slots,
	}
	if r.Divided() {
		m.Attempt, m.JobID = "", ""
	}
	for _, slot := range slots {
		m.ID, m.Image, m.Location = cmp.Or(m.ID, slot.MachineID), cmp.Or(m.Image, slot.Image), cmp.Or(m.Location, slot.Location)
		m.Message = cmp.Or(m.Message, slot.Message)
		if slot.DrainAt.After(m.DeleteAt) {
			m.DeleteAt = slot.DrainAt
		}
	}
	return m
}

// Machine returns what the ledger says of a machine of a pool that is in the state.
func (s RunnerState) Machine() MachineState {
	switch s {
	case RunnerWarming:
		return MachineCreating
	case RunnerDraining:
		return MachineDeleting
	case RunnerGone:
		return MachineGone
	}
	return MachinePresent
}

// Meter tells what the machine costs its pool: from when no attempt paid for it until one does, or it is gone.
func (r *Runner) Meter() Meter {
	return Meter{Price: r.Price, From: r.FreeAt, Until: r.GoneAt, Lifetime: max(r.Lifetime-r.FreeAt.Sub(r.CreatedAt), 0)}
}

// PoolQueue is what the cost of a pool's machines is entered under for the time in which no attempt has them, in place of
// a queue. No queue can be called so.
func PoolQueue(pool string) string { return "pool:" + pool }
