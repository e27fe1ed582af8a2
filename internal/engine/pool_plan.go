package engine

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// What the owner of a pool has asked for is kept by these decisions. They are pure, as those about attempts are.

// poolState is what is known of one pool with its machines.
type poolState struct {
	name    string
	pool    *Pool  // nil: it is not configured any more
	spec    string // what its machines are to be made as
	paused  bool   // too many of its machines have ended before they were ready
	runners []runnerView
}

// runnerView is what is known of one of its machines.
type runnerView struct {
	name, host, provider string
	state                store.RunnerState
	message              string // why it is draining
	spec                 string
	attempt              string // who has it
	ended                bool   // the provider has shown that it has
	exit                 string // and how
	polls                bool   // its agent waits in a call
	silence              time.Duration
	idle                 time.Duration // since it became idle
	age                  time.Duration
	since                time.Duration // since it was asked for, or its state is known; of a further slot, since the first was ready
	uses                 int           // attempts that were claimed on its machine
	bringing             bool          // it is being asked for
}

// hostView is a machine of a pool with all its slots. Most have one.
type hostView struct {
	slots  []*runnerView // that are not draining
	leaves string        // why one is, or is to be; "": none
}

// hosts returns the machines of a pool that are not on their way out, in the order of their first runners.
func (p *poolState) hosts(t *timers, boot time.Duration) []*hostView {
	byName := map[string]*hostView{}
	var hosts []*hostView
	for i := range p.runners {
		r := &p.runners[i]
		h := byName[r.host]
		if h == nil {
			h = &hostView{}
			byName[r.host] = h
			hosts = append(hosts, h)
		}
		if r.state == store.RunnerDraining {
			h.leaves = cmp.Or(h.leaves, leavesWith(r.message))
			continue
		}
		h.slots = append(h.slots, r)
		if why := p.useless(r, t, boot); why != "" {
			h.leaves = cmp.Or(h.leaves, leavesWith(why))
		}
	}
	return slices.DeleteFunc(hosts, func(h *hostView) bool { return len(h.slots) == 0 })
}

// used returns how many of a machine's slots have an attempt.
func (h *hostView) used() (n int) {
	for _, r := range h.slots {
		if r.state == store.RunnerBusy || r.attempt != "" {
			n++
		}
	}
	return n
}

// idleFor returns for how long nobody has used a machine: 0 if somebody does, or if it is not ready.
func (h *hostView) idleFor() time.Duration {
	least := time.Duration(math.MaxInt64)
	for _, r := range h.slots {
		switch {
		case r.missing():
		case r.state != store.RunnerIdle:
			return 0
		default:
			least = min(least, r.idle)
		}
	}
	return least
}

// missing reports whether a slot is one that the machine does not have: its agent could not divide it, or not so often.
func (r *runnerView) missing() bool {
	return r.state == store.RunnerWarming && r.attempt == "" && r.name != r.host && r.since > divideTTL
}

// planPool decides what becomes of the machines of one pool. Nothing that is busy is touched: those are decided about with
// their attempts.
func planPool(p *poolState, t *timers, boot time.Duration) []action {
	var actions []action
	drain := func(r *runnerView, why string) {
		actions = append(actions, action{kind: drainRunner, machine: r.name, provider: r.provider, attempt: r.attempt, why: why})
	}
	hosts := p.hosts(t, boot)
	have, staying, used := 0, 0, 0 // machines for jobs to come, all that are left, and slots with a job
	for _, h := range hosts {
		before := len(actions)
		for _, r := range h.slots {
			switch why := p.useless(r, t, boot); {
			case why != "":
				drain(r, why)
			case h.leaves != "" && r.state != store.RunnerBusy && r.attempt == "":
				drain(r, h.leaves)
			case r.state == store.RunnerWarming && r.attempt == "" && !r.bringing && r.name == r.host:
				actions = append(actions, action{kind: bringRunner, machine: r.name, provider: r.provider})
			}
		}
		used += h.used()
		switch drained := len(actions) - before; {
		case h.leaves == "":
			have++
			staying++
		case drained < len(h.slots):
			staying++
		}
	}
	if p.pool == nil {
		return actions
	}
	want := p.pool.Min
	if p.pool.Prewarm > 0 {
		want = max(want, int(math.Ceil(float64(used)/p.pool.Prewarm/float64(p.pool.slots()))))
	}
	want = min(want, p.pool.Max)
	for _, h := range hosts {
		if have > want && h.leaves == "" && h.idleFor() >= p.pool.Idle {
			for _, r := range h.slots {
				drain(r, fmt.Sprintf("nobody has used it for %v", p.pool.Idle))
			}
			have--
			staying--
		}
	}
	if !p.paused {
		for range min(want-have, p.pool.Max-staying, growAtOnce) {
			actions = append(actions, action{kind: warmRunner, why: p.name})
		}
	}
	return actions
}

// useless says why a machine that no attempt has is to go, or "".
func (p *poolState) useless(r *runnerView, t *timers, boot time.Duration) string {
	switch r.state {
	case store.RunnerWarming:
		switch {
		case r.attempt != "": // it is decided about with that
		case r.ended:
			return "it ended before its agent called" + r.exit
		case r.name == r.host && r.since > boot:
			return fmt.Sprintf("no agent called within %v", boot)
		}
	case store.RunnerIdle:
		switch {
		case r.ended:
			return "it ended while it waited" + r.exit
		case p.pool == nil:
			return "its pool is not configured any more"
		case r.spec != p.spec:
			return "its pool has other machines now"
		case p.pool.MaxUses > 0 && r.uses >= p.pool.MaxUses: // such as by a job that was canceled before its agent was told
			return usedUp(r.uses)
		case r.age >= p.pool.MaxAge:
			return fmt.Sprintf("it is as old as the pool's machines become, %v", p.pool.MaxAge)
		case !r.polls && r.silence > t.lostAfter:
			return fmt.Sprintf("its agent has been silent for %v", t.lostAfter)
		}
	case store.RunnerRecycling:
		switch {
		case r.ended:
			return "it ended while it was made ready for another job" + r.exit
		case r.silence > recycleTTL:
			return fmt.Sprintf("it was not ready for another job within %v", recycleTTL)
		}
	}
	return ""
}

// planUntold decides about an attempt that was given a machine of a pool which waited for one, and of which its agent has not
// been told. That asks at once, or there is something wrong with the machine: then the job goes on to another, and nothing
// is counted against it.
func planUntold(a *attemptView, t *timers) []action {
	again := verdict{state: dayfly.AttemptNeverStarted, reason: dayfly.ReasonNeverStarted, patient: true, again: true}
	switch {
	case a.cancel:
		return a.end(verdict{state: dayfly.AttemptCanceled, reason: dayfly.ReasonCanceled, message: "It was canceled before it began."})
	case a.overdue:
		return a.end(verdict{state: dayfly.AttemptNeverStarted, reason: dayfly.ReasonDeadline,
			message: "The job's total timeout passed before it began."})
	case a.pending != nil:
		return a.end(*a.pending)
	case a.gone, a.sight == machine.Exited || a.sight == machine.Gone, a.absent >= t.absentFor:
		again.message = "The warm machine ended before it took the job" + describeExit(a.exit) + "."
	case a.age > a.boot:
		again.message = fmt.Sprintf("The warm machine did not take the job within %v.", a.boot)
	default:
		return nil
	}
	return a.end(again)
}

// afterUse decides what becomes of a machine of a pool when its attempt has ended: by the attempt's last state and what its
// agent has reported, if it has. told is whether the agent may have heard of the attempt. p is nil when the pool is not configured any more.
func afterUse(p *pool, r *store.Runner, beside shared, v *verdict, told bool, report *wire.Result, now time.Time) (to store.RunnerState, why string) {
	exit := v.exit
	switch {
	case !told && r.State == store.RunnerBusy && (v.state == dayfly.AttemptCanceled || v.reason == dayfly.ReasonDeadline):
		return store.RunnerIdle, "" // nothing of the job has reached it
	case !told:
		return store.RunnerDraining, "its job never began on it: " + v.message
	case report == nil:
		return store.RunnerDraining, "its job ended without its agent's word: " + v.message
	case v.state == dayfly.AttemptTimedOut || v.state == dayfly.AttemptCanceled:
		return store.RunnerDraining, "its last job was ended by force"
	case exit != nil && exit.OOMKilled:
		return store.RunnerDraining, "its last job ran out of memory"
	case exit != nil && exit.DiskFull:
		return store.RunnerDraining, "its last job filled its disk"
	case report.Started && exit == nil:
		return store.RunnerDraining, "its last job could not be ended"
	case p != nil && p.OneUse:
		return store.RunnerDraining, "its pool uses no machine twice"
	}
	if why := retired(p, r, beside, now); why != "" {
		return store.RunnerDraining, why
	}
	return store.RunnerRecycling, ""
}

// retired says why a machine of a pool is given no more jobs, however clean it is, or "".
func retired(p *pool, r *store.Runner, beside shared, now time.Time) string {
	switch {
	case p == nil:
		return "its pool is not configured any more"
	case r.Spec != p.spec:
		return "its pool has other machines now"
	case beside.leaves != "":
		return beside.leaves
	case p.MaxUses > 0 && beside.uses >= p.MaxUses:
		return usedUp(beside.uses)
	case now.Sub(r.CreatedAt) >= p.MaxAge:
		return fmt.Sprintf("it is as old as the pool's machines become, %v", p.MaxAge)
	}
	return ""
}

// usedUp is why a machine is given up that has had as many jobs as its pool allows.
func usedUp(uses int) string {
	return fmt.Sprintf("it has carried out %d jobs, as many as the pool's machines do", uses)
}
