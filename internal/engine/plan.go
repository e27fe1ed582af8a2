package engine

import (
	"fmt"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// world is everything that decisions are made from. Each loop fills in the part it is about; an empty part yields no
// actions. All durations are counted on the engine's monotonic clock and are no older than this server's start.
type world struct {
	now      time.Time
	timers   timers
	lanes    []laneView
	room     map[string]int     // how many more machines each provider may have
	gates    map[string][]*gate // by provider: what it refuses
	attempts []attemptView
	listing  *listingView
	kept     []keptView
	idle     map[string]*poolView // by pool: what jobs may get of it
	pools    []poolState
}

// timers are how long the engine is patient.
type timers struct {
	lostAfter        time.Duration // of silence, until the provider is asked
	unreachableAfter time.Duration // of silence, until the machine is killed
	orderPatience    time.Duration // for an order to be obeyed, beyond the job's own grace
	absentFor        time.Duration // between two answers of "not found" that together count as gone
	strangerAge      time.Duration // how long a machine nobody knows is watched before it is removed
}

func defaultTimers() timers {
	return timers{
		lostAfter:        time.Minute,
		unreachableAfter: 5 * time.Minute,
		orderPatience:    30 * time.Second,
		absentFor:        10 * time.Second,
		strangerAge:      30 * time.Second,
	}
}

// laneView is a lane: the jobs at its head and how many more of its queue may run.
type laneView struct {
	heads     []*store.Job   // all with the same choices
	queueRoom int            // math.MaxInt when the queue has no limit
	keyRoom   map[string]int // for the keys of the heads, when the queue limits keys
}

// attemptView is what is known of one attempt in flight.
type attemptView struct {
	id, machine, provider string
	state                 dayfly.AttemptState
	fence                 int64

	cancel  bool          // the job is to be canceled
	overdue bool          // the job's total timeout has passed
	age     time.Duration // since the intent
	boot    time.Duration // the job's boot timeout
	silence time.Duration // since the agent was last heard of
	running time.Duration // since the command started, as far as the server knows
	limit   time.Duration // the job's run timeout
	grace   time.Duration // from SIGTERM to SIGKILL
	capped  bool          // its machine's lifetime is shorter because of what the job may cost

	sight  machine.State // how the provider last saw the machine; "" when it has not
	exit   *machine.Exit // when sight is Exited and the provider knows
	doubt  bool          // sight is of an end, and there may be another instance of the machine
	absent time.Duration // for how long the provider has said that there is no such machine; 0: it has not
	asking bool          // the provider is being asked

	pending     *verdict      // how it has ended before its agent called, if that could not be recorded yet
	refused     *verdict      // the provider has refused the machine, after an answer of its had been lost
	order       wire.Outcome  // what the agent has been told to stop for, or ""
	ordered     time.Duration // since then
	killed      bool          // its machine is being destroyed because nothing else helped
	killedFor   string        // why, if that was because of another attempt on the machine
	gone        bool          // and that has been confirmed
	sends       int           // how often the create was sent
	lookDue     bool          // create_unknown: time to look for the machine again
	untold      bool          // its machine is a pool's, which waited, and whose agent has not been told of it; boot is for that
	bare        bool          // its machine runs without an agent
	sending     bool          // a create has not been answered yet
	polls       bool          // bare: its provider does not tell of changes by itself
	deaf        bool          // bare: it cannot be told to end
	limitIsCost bool          // bare: limit is when what the job may cost is used up
	resendOK    bool          // create_unknown: it was looked for long enough to believe that it does not exist
}

// listingView is one provider's list of our machines together with what the store said of them afterwards.
type listingView struct {
	provider string
	machines []listedMachine
	older    bool // the store is older than a machine: it was restored from a backup
	agreed   int  // how many sweeps before this one were stopped by the brake over the same machines
}

type listedMachine struct {
	machine *machine.Machine
	age     time.Duration // since this server first saw it
	row     *store.Machine
	live    bool // its attempt is in flight and this is its machine
	known   bool // its attempt exists in the store
}

// actionKind says what an action does.
type actionKind string

// The actions that plan may decide on.
const (
	launchJob    actionKind = "launch" // commit the intent and ask the provider of the choice
	holdJob      actionKind = "hold"   // pass it over: its key is at the limit
	leaveJob     actionKind = "leave"  // to the clock: its total timeout has passed while it waited
	endAttempt   actionKind = "end"    // with the verdict
	orderStop    actionKind = "order"  // tell the agent to end the command
	askProvider  actionKind = "ask"    // how is this machine?
	resend       actionKind = "resend" // the same create again
	claimMachine actionKind = "claim"  // for a bare machine, which runs
	killMachine  actionKind = "kill"   // destroy it until confirmed; its attempt ends when it is gone
	removeStray  actionKind = "remove" // destroy a machine that no live attempt owns
	adopt        actionKind = "adopt"  // a listed machine belongs to a live attempt: record it
	watchStray   actionKind = "watch"  // record a stranger and wait
	dropKept     actionKind = "drop"   // a machine was kept long enough
	drainRunner  actionKind = "drain"  // destroy a machine of a pool
	warmRunner   actionKind = "warm"   // make a machine for a pool
	bringRunner  actionKind = "bring"  // ask for a machine of a pool, which was meant to be made
	brake        actionKind = "brake"  // too much at once: do nothing and raise the alarm
)

type action struct {
	kind     actionKind
	job      *store.Job
	choice   choice           // where to launch it
	passed   []dayfly.Refusal // the choices before that, and why not
	lent     string           // on this machine of its pool
	grow     bool             // on a machine that is its pool's afterwards
	attempt  string
	machine  string
	provider string
	order    wire.Outcome
	verdict  verdict
	listed   *machine.Machine
	why      string
}

// plan decides. It is pure: the same world always yields the same actions, and none of them is carried out here.
func plan(w *world) []action {
	actions := planLanes(w)
	for i := range w.attempts {
		actions = append(actions, planAttempt(&w.attempts[i], &w.timers)...)
	}
	actions = append(actions, planKept(w.kept, w.now)...)
	for i := range w.pools {
		actions = append(actions, planPool(&w.pools[i], &w.timers, defaultBoot)...)
	}
	if w.listing != nil {
		actions = append(actions, planListing(w.listing, &w.timers)...)
	}
	return actions
}

// head is a job at the head of a lane.
type head struct {
	job     *store.Job
	lane    *laneView
	choices []choice
}

// planLanes picks the jobs to launch, and where: over all lanes by priority, then age, as far as a provider, the queue and
// the key have room.
func planLanes(w *world) []action {
	var heads []head
	for i := range w.lanes {
		lane := &w.lanes[i]
		if len(lane.heads) == 0 {
			continue
		}
		choices := choicesOf(lane.heads[0].Provider)
		for _, job := range lane.heads {
			heads = append(heads, head{job, lane, choices})
		}
	}
	slices.SortStableFunc(heads, func(a, b head) int { return order(a.job, b.job) })
	room := make(map[string]int, len(w.room))
	for provider, n := range w.room {
		room[provider] = n
	}
	gates := gatesFor(w, heads)
	var actions []action
	for _, h := range heads {
		job, lane := h.job, h.lane
		if !job.TotalDeadline.IsZero() && !w.now.Before(job.TotalDeadline) {
			actions = append(actions, action{kind: leaveJob, job: job})
			continue
		}
		if lane.queueRoom <= 0 {
			continue
		}
		pool, lent := w.idle[job.Spec.Pool], -1
		if pool != nil {
			lent = pool.pick(job)
		}
		if n, _ := roomFor(h.choices, room, nil); n <= 0 && lent < 0 {
			continue
		}
		if left, limited := lane.keyRoom[job.Key]; limited && job.Key != "" && left <= 0 {
			// The store marks it held when the launch is refused; asking is what makes it so. What is asked for needs room all
			// the same, because the store may know better: without any, asking would change nothing, again and again.
			if at := slices.IndexFunc(h.choices, func(c choice) bool { return room[c.provider] > 0 }); at >= 0 {
				actions = append(actions, action{kind: holdJob, job: job, choice: h.choices[at]})
			}
			continue
		}
		if pool != nil && lent < 0 && pool.awaits(job) {
			// It is launched when the machine is ready, or is not to be. Until then it has its place in the queue and of its key,
			// as it would on a machine of its own that boots.
			lane.take(job)
			continue
		}
		a := action{kind: launchJob, job: job}
		if lent >= 0 {
			a.choice, a.lent = pool.pool.where, pool.take(lent, job).name
		} else {
			var ok bool
			if a.choice, a.passed, ok = selectChoice(h.choices, job, room, gates, w.now); !ok {
				continue
			}
			if room[a.choice.provider]--; pool != nil && pool.room > 0 {
				a.grow = true
				pool.grow(job)
			}
		}
		lane.take(job)
		actions = append(actions, a)
	}
	return actions
}

// take counts a job that gets one of the places that its queue and key have left.
func (l *laneView) take(job *store.Job) {
	if _, limited := l.keyRoom[job.Key]; limited && job.Key != "" {
		l.keyRoom[job.Key]--
	}
	l.queueRoom--
}

// gatesFor returns the gates of the world, each with the job that may go through it if only one may. That is nobody who
// can have an earlier choice.
func gatesFor(w *world, heads []head) map[string][]*gate {
	gates := make(map[string][]*gate, len(w.gates))
	for provider, list := range w.gates {
		for _, g := range list {
			g := *g
			var waiting []*store.Job
			for _, h := range heads {
				for _, c := range h.choices {
					if c.provider == provider && g.covers(sizeOfJob(h.job), c.region) {
						waiting = append(waiting, h.job)
						break
					}
					if w.room[c.provider] > 0 && len(w.gates[c.provider]) == 0 && !refusedForGood(h.job.Refusals, c) {
						break
					}
				}
			}
			g.choose(waiting)
			gates[provider] = append(gates[provider], &g)
		}
	}
	return gates
}

// planAttempt decides about one attempt in flight. At most one of its actions ends the attempt.
func planAttempt(a *attemptView, t *timers) []action {
	if a.state.Terminal() {
		return nil
	}
	switch running := a.state == dayfly.AttemptRunning; {
	case a.untold:
		return planUntold(a, t)
	case a.bare && running:
		return planBareRunning(a, t)
	case a.bare:
		return planBare(a, t)
	case running:
		return planRunning(a, t)
	}
	return planBooting(a, t)
}

// planBooting decides about an attempt whose agent has not called. No user code runs, so it may be ended at any time:
// the claim and the end race for the same compare-and-set.
func planBooting(a *attemptView, t *timers) []action {
	switch {
	case a.cancel:
		return a.end(verdict{state: dayfly.AttemptCanceled, reason: dayfly.ReasonCanceled, message: "It was canceled before it began."})
	case a.overdue:
		return a.end(verdict{state: dayfly.AttemptNeverStarted, reason: dayfly.ReasonDeadline,
			message: "The job's total timeout passed while its machine was being made."})
	case a.pending != nil:
		return a.end(*a.pending)
	case a.refused != nil && a.absent >= t.absentFor && a.state == dayfly.AttemptCreateUnknown:
		return a.end(*a.refused)
	case a.sight == machine.Exited || a.sight == machine.Gone:
		return a.end(verdict{state: dayfly.AttemptNeverStarted, reason: dayfly.ReasonNeverStarted,
			message: "The machine ended before its agent called" + describeExit(a.exit) + "."})
	case a.absent >= t.absentFor && a.state == dayfly.AttemptBooting:
		return a.end(verdict{state: dayfly.AttemptNeverStarted, reason: dayfly.ReasonNeverStarted,
			message: "The machine vanished before its agent called."})
	case a.age > a.boot:
		return a.end(verdict{state: dayfly.AttemptNeverStarted, reason: dayfly.ReasonNeverStarted,
			message: fmt.Sprintf("No agent called within the boot timeout of %v.", a.boot)})
	case a.state == dayfly.AttemptCreateUnknown && a.resendOK && a.refused == nil && a.sends < maxSends:
		return []action{a.act(resend, "the machine does not exist although it was asked for")}
	case a.state == dayfly.AttemptCreateUnknown && a.lookDue && !a.asking:
		return []action{a.act(askProvider, "the answer to its creation was lost")}
	}
	return nil
}

// maxSends bounds how often one create is sent. After that the boot timeout ends the attempt, and whatever lands late
// is refused its claim and swept.
const maxSends = 3

// planRunning decides about an attempt that has been claimed. Its user code may run until its machine is certainly
// gone, so nothing but that certainty, or its agent's word, ends it.
func planRunning(a *attemptView, t *timers) []action {
	ended := a.sight == machine.Exited || a.sight == machine.Gone
	if ended && !a.doubt || a.absent >= t.absentFor || a.gone {
		return a.end(a.afterLoss())
	}
	if ended && !a.asking {
		return []action{a.act(askProvider, "an instance of its machine ended, perhaps not the one that claimed it")}
	}
	if a.killed {
		return nil // being destroyed until confirmed
	}
	var actions []action
	switch {
	case a.order == "" && a.cancel:
		actions = append(actions, a.stop(wire.Canceled))
	case a.order == "" && a.overdue:
		actions = append(actions, a.stop(wire.TimedOut))
	case a.order != "" && a.ordered > a.grace+t.orderPatience:
		return []action{a.act(killMachine, "its agent did not stop it when it was told to")}
	case a.limit > 0 && a.running > a.limit+a.grace+t.orderPatience:
		return []action{a.act(killMachine, "its agent did not stop it at its run timeout")}
	case a.silence > t.unreachableAfter:
		return []action{a.act(killMachine, fmt.Sprintf("nothing was heard of its agent for %v", t.unreachableAfter))}
	}
	if a.silence > t.lostAfter && !a.asking {
		actions = append(actions, a.act(askProvider, "its agent is silent"))
	}
	return actions
}

// afterLoss is the verdict on a claimed attempt whose machine is gone.
func (a *attemptView) afterLoss() verdict {
	v := verdict{state: dayfly.AttemptLost, reason: dayfly.ReasonMachineLost, started: true, exit: nil}
	switch {
	case a.cancel || a.order == wire.Canceled:
		v.state, v.reason, v.message = dayfly.AttemptCanceled, dayfly.ReasonCanceled, "It was canceled; its machine is gone."
	case a.order == wire.TimedOut && a.bare && !a.overdue:
		v.state = dayfly.AttemptTimedOut
		v.reason, v.message = a.outOfTime()
	case a.order == wire.TimedOut:
		v.state, v.reason, v.message = dayfly.AttemptTimedOut, dayfly.ReasonDeadline, "The job's total timeout passed; its machine is gone."
	case a.killedFor != "":
		v.message = "Its machine was destroyed because of another job there: " + a.killedFor + "."
	case a.bare && a.killed && a.order == "":
		v.message = "Its machine was destroyed."
	case a.killed && a.limit > 0 && a.running > a.limit:
		v.state, v.reason = dayfly.AttemptTimedOut, dayfly.ReasonTimeout
		v.message = fmt.Sprintf("It ran longer than its run timeout of %v, and its agent did not stop it, so its machine was destroyed.", a.limit)
	case a.killed:
		v.message = "Its agent ceased to answer, so its machine was destroyed."
	case a.capped && a.exit != nil && a.exit.Expired:
		v.state, v.reason = dayfly.AttemptTimedOut, dayfly.ReasonCostLimit
		v.message = "What the job may cost was used up, so its machine ended itself. Give the job a higher max_cost, or make it faster."
	case a.exit != nil && a.exit.OOMKilled:
		v.reason, v.message = dayfly.ReasonOOMKilled, "The whole machine ran out of memory."
	case a.bare:
		v.message = "The machine ended or vanished, and its provider does not say how."
	default:
		v.message = "The machine ended while the command ran, and its agent did not report a result" + describeExit(a.exit) + "."
	}
	return v
}

func (a *attemptView) act(kind actionKind, why string) action {
	return action{kind: kind, attempt: a.id, machine: a.machine, provider: a.provider, why: why}
}

func (a *attemptView) end(v verdict) []action {
	act := a.act(endAttempt, v.message)
	act.verdict = v
	return []action{act}
}

func (a *attemptView) stop(reason wire.Outcome) action {
	act := a.act(orderStop, string(reason))
	act.order = reason
	return act
}

// planListing decides about the machines of one provider that bear our name. It is the most dangerous decision there
// is: what it takes for a stray is destroyed. So it acts upon a machine only when no live attempt owns it, only some
// time after it was first seen, never when the store may be older than the machines, and never upon many at once
// unless several sweeps agree.
func planListing(l *listingView, t *timers) []action {
	if len(l.machines) == 0 {
		return nil
	}
	var actions, strays []action
	for _, m := range l.machines {
		act := action{machine: m.machine.Name, provider: l.provider, listed: m.machine}
		switch {
		case m.live && m.row == nil:
			act.kind, act.why = adopt, "it belongs to an attempt in flight"
			actions = append(actions, act)
		case m.live:
			// As it should be.
		case m.row != nil && m.row.State == store.MachineDeleting:
			// Being destroyed.
		case m.row != nil && m.row.State == store.MachineKept:
			// It is kept for a while; see planKept.
		case m.age < t.strangerAge:
			if m.row == nil {
				act.kind, act.why = watchStray, "nobody knows of it"
				actions = append(actions, act)
			}
		case l.older && !m.known:
			// The store does not know what happened after its backup was made; only an operator does.
		default:
			act.kind, act.why = removeStray, "no attempt in flight owns it"
			strays = append(strays, act)
		}
	}
	if len(strays) > max(5, len(l.machines)/5) && l.agreed < agreeingSweeps {
		return append(actions, action{kind: brake, provider: l.provider,
			why: fmt.Sprintf("%d of %d machines look like strays", len(strays), len(l.machines))})
	}
	return append(actions, strays...)
}

// agreeingSweeps is how many sweeps in a row must want the same before many machines are removed at once.
const agreeingSweeps = 3

func describeExit(e *machine.Exit) string {
	switch {
	case e == nil:
		return ""
	case e.OOMKilled:
		return ": it ran out of memory"
	case e.DiskFull:
		return ": its disk was full"
	case e.Expired:
		return ": it reached the end of its lifetime"
	case e.Message != "":
		return ": " + e.Message
	case e.Signal != "":
		return " with signal " + e.Signal
	default:
		return fmt.Sprintf(" with exit status %d", e.Code)
	}
}
