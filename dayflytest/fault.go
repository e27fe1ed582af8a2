package dayflytest

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/rehearsal"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// Rule is a fault and when it happens: from when the method that made it returns, whenever it can. Of several rules for the same moment
// the oldest holds. The methods of a rule return it, to be chained, and may be called at any time.
type Rule struct {
	function string                                                     // whose runs it is about
	before   bool                                                       // the function is not run
	exit     machine.Exit                                               // how the runner ends then
	begin    func(ctx context.Context, p *rehearsal.Part) *machine.Exit // what happens to a runner that begins; nil: not about those

	mu    sync.Mutex
	off   bool // guarded by mu
	skip  int  // guarded by mu
	limit int  // guarded by mu; 0: none
	used  int  // guarded by mu
}

// Times limits the rule to n times, those that have been already included.
func (r *Rule) Times(n int) *Rule {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit = n
	return r
}

// After lets the next n times pass at which the fault could have happened.
func (r *Rule) After(n int) *Rule {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.skip = n
	return r
}

// Stop ends the rule.
func (r *Rule) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.off = true
}

// Used returns how often the fault has happened.
func (r *Rule) Used() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used
}

// applies reports whether the fault happens now, and counts it.
func (r *Rule) applies() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.off:
		return false
	case r.skip > 0:
		r.skip--
		return false
	case r.limit > 0 && r.used >= r.limit:
		return false
	}
	r.used++
	return true
}

// Heal ends all faults: those of the network, all rules, and all rules of the Cloud. Runners that were killed stay so.
func (r *Runners) Heal() {
	r.mu.Lock()
	for _, rule := range r.rules {
		rule.Stop()
	}
	r.rules = nil
	r.mu.Unlock()
	r.cloud.Heal()
	r.network.heal()
}

// Kill ends a runner at once, as SIGKILL and crashes do, and reports whether there was one of that name. What it had not sent yet nobody hears
// of. The contexts of its functions end.
func (r *Runners) Kill(name string) bool { return r.kill(name, killed()) }

// TellToEnd tells a runner to end, and reports whether there was one of that name. That is what SIGTERM does before a computer goes, and
// what a fleet does that wants a runner back for somebody else: it gets no more calls, dayfly.Draining tells its functions, and it ends
// when those have returned.
func (r *Runners) TellToEnd(name string) bool {
	r.mu.Lock()
	tell := r.tell[name]
	r.mu.Unlock()
	if tell != nil {
		tell()
	}
	return tell != nil
}

// KillBefore kills each runner that is about to run the function of this name, which it then does not.
func (r *Runners) KillBefore(function string) *Rule {
	return r.add(&Rule{function: function, before: true, exit: killed()})
}

// KillAfter kills each runner that has run the function of this name, before the caller hears of it.
func (r *Runners) KillAfter(function string) *Rule {
	return r.add(&Rule{function: function, exit: killed()})
}

// OutOfMemory lets each runner end for want of memory that begins to run the function of this name.
func (r *Runners) OutOfMemory(function string) *Rule {
	exit := killed()
	exit.OOMKilled = true
	return r.add(&Rule{function: function, before: true, exit: exit})
}

// RefuseBoots lets the provider refuse machines with an error of this kind: fault.Exhausted for want of room, fault.Denied for
// wrong credentials, fault.Invalid for a configuration that cannot work, fault.Unavailable for an answer that says nothing, and so on.
func (r *Runners) RefuseBoots(kind fault.Kind) *Rule {
	rule := r.add(&Rule{})
	refuse := memmachine.Refuse(kind)
	r.cloud.Fail(memmachine.Create, func(ctx context.Context, c *memmachine.Call) error {
		if rule.applies() {
			return refuse(ctx, c)
		}
		return c.Do(ctx)
	})
	return rule
}

// SlowBoots lets runners take so long from when their machine runs until they dial home.
func (r *Runners) SlowBoots(d time.Duration) *Rule {
	return r.add(&Rule{begin: func(ctx context.Context, _ *rehearsal.Part) *machine.Exit {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			exit := killed()
			return &exit
		}
	}})
}

// CrashBoots lets runners print a text and end with this status, 0 to 255, before they dial home.
func (r *Runners) CrashBoots(status int, printed string) *Rule {
	return r.add(&Rule{begin: func(ctx context.Context, _ *rehearsal.Part) *machine.Exit {
		say(ctx, printed)
		return &machine.Exit{Code: status}
	}})
}

// OtherBuild lets runners be of another build than their parent, as after a deployment that has changed the image in between.
func (r *Runners) OtherBuild() *Rule {
	return r.add(&Rule{begin: func(_ context.Context, p *rehearsal.Part) *machine.Exit {
		p.Build = "another build"
		return nil
	}})
}

// Cut breaks the network between the pool and these runners, or all when none is named, until Heal: connections end with an
// error on both sides, and new ones cannot be made. Runners live on, and calls go on if it heals within PoolOptions.Silence.
func (r *Runners) Cut(names ...string) { r.network.disturb(names, cut) }

// Mute lets nothing through between the pool and these runners, or all when none is named, until Heal. Neither side is told: it
// is as if the other had stopped. What was sent arrives after Heal, if the silence has not ended the link before.
func (r *Runners) Mute(names ...string) { r.network.disturb(names, mute) }

// add makes a rule hold.
func (r *Runners) add(rule *Rule) *Rule {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = append(r.rules, rule)
	return rule
}

// first returns the first rule that fits and applies, or nil.
func (r *Runners) first(fits func(*Rule) bool) *Rule {
	r.mu.Lock()
	rules := slices.Clone(r.rules)
	r.mu.Unlock()
	for _, rule := range rules {
		if fits(rule) && rule.applies() {
			return rule
		}
	}
	return nil
}

// begin lets the faults of a boot happen. It returns how the runner ends, or nil when it goes on.
func (r *Runners) begin(ctx context.Context, p *rehearsal.Part) *machine.Exit {
	if rule := r.first(func(rule *Rule) bool { return rule.begin != nil }); rule != nil {
		return rule.begin(ctx, p)
	}
	return nil
}

// around runs a function on a runner, with the fault that happens then.
func (r *Runners) around(runner, function string, run func()) {
	rule := r.first(func(rule *Rule) bool { return rule.function != "" && rule.function == function })
	if rule == nil || !rule.before {
		run()
	}
	if rule != nil {
		r.kill(runner, rule.exit)
	}
}
