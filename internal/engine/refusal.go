package engine

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// refusal is what a provider refuses for now: in one region machines of a size and all that are as large or larger, for want
// of room, or every machine, for want of credentials. Asking for each job would only make it worse, so one machine is asked for now and
// then. Each one that is granted lets one more be asked for at once, until the refusal is forgotten: a provider that has
// room for one more machine does not have it for all that wait.
type refusal struct {
	region string
	size   machine.Size
	all    bool   // it refuses whatever it is asked for
	why    string // in the provider's words
	since  time.Time
	wait   time.Duration // from one refusal to the next time it is asked
	until  time.Time     // when it is asked again
	allow  int           // how many of the machines may be asked for at once
}

// The first and the longest time between two machines that a provider without room is asked for. Each refusal doubles it.
// Credentials do not come back by themselves: there it is always the longest.
const (
	refusalWait    = time.Second
	maxRefusalWait = 30 * time.Second
)

// maxRefusals bounds what is kept of one provider: regions are words of those who submit jobs.
const maxRefusals = 64

// covers reports whether a machine of that size in that region is refused, too.
func (r *refusal) covers(size machine.Size, region string) bool {
	return r.all || r.region == region && asLarge(size, r.size)
}

// asLarge reports whether a machine is at least as large as another in every respect.
func asLarge(size, than machine.Size) bool {
	return size.GPU == than.GPU && size.CPUs >= than.CPUs && size.MemoryMB >= than.MemoryMB && size.DiskMB >= than.DiskMB &&
		size.Processes >= than.Processes
}

// refuse returns what a provider refuses after it has refused r.
func refuse(known []*refusal, r refusal, now time.Time) []*refusal {
	r.since, r.wait, r.allow = now, refusalWait, 1
	if i := slices.IndexFunc(known, func(k *refusal) bool { return k.all == r.all && k.covers(r.size, r.region) }); i >= 0 {
		k := known[i]
		if now.Before(k.until) {
			return known // it was asked before it was known to refuse
		}
		// The smallest machine of those that wait was asked for. If it was larger than the one that was refused before,
		// nobody knows whether that would be granted now.
		r.since, r.wait = k.since, min(2*k.wait, maxRefusalWait)
		known = slices.Delete(known, i, i+1)
	}
	if r.all {
		r.wait = maxRefusalWait
	}
	known = slices.DeleteFunc(known, func(k *refusal) bool {
		narrower := !k.all && r.covers(k.size, k.region)
		if narrower && k.since.Before(r.since) {
			r.since = k.since
		}
		return narrower
	})
	r.until = now.Add(r.wait)
	if len(known) >= maxRefusals {
		known = slices.Delete(known, 0, 1)
	}
	return append(known, &r)
}

// grant returns what a provider still refuses after it has made a machine of that size in that region.
func grant(known []*refusal, size machine.Size, region string, most int) []*refusal {
	return slices.DeleteFunc(known, func(r *refusal) bool {
		if !r.covers(size, region) {
			return false
		}
		r.allow++
		r.wait, r.until = refusalWait/2, time.Time{}
		return r.all || r.allow > most
	})
}

// refused notes that a provider has refused the machine of a flight.
func (e *Engine) refused(f *flight, why string, all bool) {
	now := e.clock.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	size := sizeOfJob(f.job)
	e.refusals[f.provider] = refuse(e.refusals[f.provider], refusal{region: f.region, size: size, all: all, why: why}, now)
}

// soonest returns how long it takes until one of the choices of a flight's job is asked again.
func (e *Engine) soonest(f *flight) time.Duration {
	now := e.clock.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	size, least := sizeOfJob(f.job), time.Duration(math.MaxInt64)
	for _, c := range open(f.job, f.job.Refusals) {
		wait := time.Duration(0)
		for _, r := range e.refusals[c.provider] {
			if r.covers(size, c.region) {
				wait = max(wait, r.until.Sub(now))
			}
		}
		least = min(least, wait)
	}
	return least
}

// granted notes that a provider has made the machine of a flight. The caller holds mu.
func (e *Engine) granted(f *flight) {
	known := e.refusals[f.provider]
	if len(known) == 0 {
		return
	}
	if known = grant(known, sizeOfJob(f.job), f.region, e.maxMachines(f.provider)); len(known) == 0 {
		delete(e.refusals, f.provider)
	} else {
		e.refusals[f.provider] = known
	}
	e.wakeQueue.set()
}

// refuses reports whether one of the providers that a job names has refused anything lately.
func (e *Engine) refuses(named string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.refusals) > 0 && slices.ContainsFunc(choicesOf(named), func(c choice) bool { return len(e.refusals[c.provider]) > 0 })
}

// gates returns, by provider, what is refused and how many of those machines may be asked for now.
func (e *Engine) gates(now time.Time) map[string][]*gate {
	e.mu.Lock()
	defer e.mu.Unlock()
	gates := make(map[string][]*gate, len(e.refusals))
	for provider, known := range e.refusals {
		for _, r := range known {
			g := &gate{refusal: *r}
			if !now.Before(r.until) {
				g.free = r.allow - e.creating(provider, r)
			}
			gates[provider] = append(gates[provider], g)
		}
	}
	return gates
}

// creating counts the machines of a refusal that have been asked for without an answer yet. The caller holds mu.
func (e *Engine) creating(provider string, r *refusal) (n int) {
	for _, f := range e.flights {
		asked := f.state == dayfly.AttemptCreating && (f.sends == 0 || f.sending > 0)
		if asked && f.provider == provider && r.covers(sizeOfJob(f.job), f.region) {
			n++
		}
	}
	return n
}

// nextProbe returns how long it takes until a provider that refuses machines is asked again, at most the limit.
func (e *Engine) nextProbe(limit time.Duration) time.Duration {
	now := e.clock.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, known := range e.refusals {
		for _, r := range known {
			if left := r.until.Sub(now); left > 0 {
				limit = min(limit, left)
			}
		}
	}
	return limit
}

// gate lets through as many machines of a refusal as may be asked for now.
type gate struct {
	refusal
	free  int
	probe *store.Job // the only one to go through; nil: any
}

// choose picks who goes through a gate that lets only one through: the smallest machine, because a larger one may be
// refused although there is room for others; of those the first in order. With those who want to, in their order.
func (g *gate) choose(waiting []*store.Job) {
	if g.allow > 1 {
		return
	}
	for _, job := range waiting {
		size := sizeOfJob(job)
		if g.probe == nil || asLarge(sizeOfJob(g.probe), size) && !asLarge(size, sizeOfJob(g.probe)) {
			g.probe = job
		}
	}
}

// pass lets a job go through all gates that stand in its way, or through none and returns one that is shut.
func pass(gates []*gate, job *store.Job, region string) (shut *gate) {
	if len(gates) == 0 {
		return nil
	}
	size := sizeOfJob(job)
	for _, g := range gates {
		if g.covers(size, region) && (g.free <= 0 || g.probe != nil && g.probe != job) {
			return g
		}
	}
	for _, g := range gates {
		if g.covers(size, region) {
			g.free--
		}
	}
	return nil
}

// sizeOfJob returns the size of a job's machine.
func sizeOfJob(job *store.Job) machine.Size {
	size, err := sizeOf(&job.Spec)
	if err != nil {
		// The size was known when the job was submitted; a later version has dropped it. The numbers are what counts.
		size = machine.Size{CPUs: job.Spec.CPUs, MemoryMB: job.Spec.MemoryMB, DiskMB: job.Spec.DiskMB, Processes: job.Spec.Processes}
	}
	return size
}

// whyRefused says which of its choices refuse the job's machine: for good, or now.
func (e *Engine) whyRefused(w *dayfly.Why, job *store.Job) {
	for _, c := range choicesOf(job.Provider) {
		if refusedForGood(job.Refusals, c) {
			i := slices.IndexFunc(job.Refusals, func(r dayfly.Refusal) bool { return r.Provider == c.provider && r.Region == c.region })
			if r := job.Refusals[i]; tooDearThere(r) {
				say(w, "It is not tried on %s: %s", c, r.Message)
			} else {
				say(w, "The provider %s will never run it: %s", c, r.Message)
			}
			continue
		}
		e.whyShut(w, job, c)
	}
}

// whyShut says whether a choice refuses the job's machine now.
func (e *Engine) whyShut(w *dayfly.Why, job *store.Job, c choice) {
	now := e.clock.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	size := sizeOfJob(job)
	for _, r := range e.refusals[c.provider] {
		if r.allow > 1 || !r.covers(size, c.region) {
			continue
		}
		again := "as soon as a job needs one"
		if r.until.After(now) {
			again = "at " + r.until.Format(time.RFC3339)
		}
		since := r.since.Format(time.RFC3339)
		if r.all {
			say(w, "The provider %s has refused Dayfly's credentials since %s: %s", c.provider, since, r.why)
			w.Next = fmt.Sprintf("Mend the provider's credentials; Dayfly asks again %s, for one machine, and goes on when it is granted.", again)
			return
		}
		say(w, "The provider %s has had no room for a machine of this size since %s: %s", c, since, r.why)
		w.Next = fmt.Sprintf("Dayfly asks again %s, for one machine, and goes on when it is granted.", again)
	}
}
