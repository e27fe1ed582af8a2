package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// machineSpec returns the machine to ask for, the same each time it is asked for.
func (e *Engine) machineSpec(ctx context.Context, f *flight, job *store.Job) (*machine.Spec, error) {
	if f.runner != "" { // what it is made as is what the job asks for
		e.mu.Lock()
		r := e.runners[f.runner]
		if r == nil {
			e.mu.Unlock()
			return nil, fmt.Errorf("engine: machine %s: %w: it is not known any more", f.runner, fault.Unavailable)
		}
		row := r.row
		e.mu.Unlock()
		return e.runnerSpec(ctx, &row, job.Spec.Image, sizeOfJob(job))
	}
	home, err := e.url(ctx, f.provider)
	if err != nil {
		return nil, err
	}
	spec := &machine.Spec{
		Name: f.machine, Owner: ownerOf(e.identity.Install),
		Labels:   map[string]string{"job": job.ID, "attempt": f.id, "epoch": formatEpoch(e.identity.Epoch)},
		Lifetime: f.meter.Lifetime,
		Image:    job.Spec.Image, Region: f.region, Size: sizeOfJob(job),
	}
	token := e.key.Bootstrap(f.id)
	switch {
	case job.Spec.Bare:
		spec.Command, spec.Env = job.Spec.Command, e.bareEnvironment(f, job, home)
	case job.Spec.OwnAgent:
		// Its agent is told what providers tell ours. What it is to run comes with its claim.
		spec.Env = map[string]string{"DAYFLY_AGENT_URL": home, "DAYFLY_AGENT_ATTEMPT": f.id, "DAYFLY_AGENT_TOKEN": token}
		maps.Copy(spec.Env, job.Spec.Env)
	default:
		spec.Agent = &machine.Agent{URL: home, Attempt: f.id, Token: token}
	}
	return spec, nil
}

// create asks the provider for a flight's machine and deals with the answer.
func (e *Engine) create(ctx context.Context, f *flight) {
	e.mu.Lock()
	job := f.job
	if e.flights[f.id] != f || f.bare && f.ending {
		e.mu.Unlock()
		return // it was canceled before: what is not asked for need not be destroyed
	}
	f.sends++
	f.sending++
	e.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errProviderSlow)
	defer cancel()
	var m *machine.Machine
	spec, err := e.machineSpec(ctx, f, job)
	if err == nil {
		m, err = e.callCreate(ctx, f.provider, spec)
	}
	e.mu.Lock()
	f.sending--
	// Whoever is refused the first time has no machine. After a lost answer it is only that there is no second one.
	unbilled := f.sends == 1 && f.state == dayfly.AttemptCreating
	e.mu.Unlock()
	defer e.doom(f)
	if err == nil {
		e.created(f, m)
	} else if v := e.turnedDown(f, err); v != nil {
		v.unbilled = unbilled
		e.refuseFlight(f, *v)
	} else {
		e.unanswered(f, err)
	}
}

// turnedDown is the verdict on an attempt whose machine the provider will not make, and nil if the error does not tell.
func (e *Engine) turnedDown(f *flight, err error) *verdict {
	kind, said := fault.Of(err), sentenceOf(err)
	v := &verdict{state: dayfly.AttemptNeverStarted, reason: dayfly.ReasonNeverStarted}
	switch kind {
	case fault.Invalid, fault.Unsupported:
		v.reason, v.patient = dayfly.ReasonRefused, true
		v.message = "The provider refused the machine: " + said
	case fault.Exhausted:
		e.refused(f, said, false)
		v.patient, v.wait, v.elsewhere = true, e.soonest(f), e.elsewhere(f)
		v.message = "The provider has no room: " + said
	case fault.Denied, fault.Unauthenticated:
		e.refused(f, said, true)
		v.patient, v.wait, v.elsewhere = true, e.soonest(f), e.elsewhere(f)
		v.message = "The provider refused Dayfly's credentials: " + said
	case fault.Conflict:
		v.message = "The machine's name is taken by something that is not Dayfly's: " + said
		return v
	default:
		return nil
	}
	v.refusal = refusalOf(f, kind, said, e.clock.now())
	return v
}

// refuseFlight ends an attempt whose machine was refused. When an earlier answer was lost, that has to wait: what was
// asked for then may still come into being, and nobody may go on to another provider before it is known that it has not.
func (e *Engine) refuseFlight(f *flight, v verdict) {
	e.mu.Lock()
	doubt := f.state == dayfly.AttemptCreateUnknown
	if doubt {
		f.refused, f.askedAt, f.absentAt, f.absent, f.looks = &v, e.clock.now(), time.Time{}, 0, 0
	}
	e.mu.Unlock()
	if !doubt {
		e.finish(f, v)
	}
}

var errProviderSlow = errors.New("the provider did not answer in time")

// created records that the machine exists.
func (e *Engine) created(f *flight, m *machine.Machine) {
	e.mu.Lock()
	f.see(m)
	claimed := f.state == dayfly.AttemptRunning
	if f.state == dayfly.AttemptCreating || f.state == dayfly.AttemptCreateUnknown {
		f.state = dayfly.AttemptBooting
	}
	f.refused = nil
	f.image = m.Image
	over := e.flights[f.id] != f
	e.granted(f)
	e.mu.Unlock()
	if f.runner != "" {
		e.sawRunner(m)
	}
	// Where the provider calls the machine by our name, a claim has recorded all there is to know.
	if over || claimed && m.ID == m.Name && m.Image == "" {
		return
	}
	e.notes.add(e.lifetime, &store.Note{Attempt: f.id, Time: e.clock.now(), Booted: m})
	e.consider(f)
}

// unanswered records that nobody knows whether the machine exists.
func (e *Engine) unanswered(f *flight, cause error) {
	e.logger.Warn("the answer to a create is ambiguous", "attempt", f.id, "machine", f.machine, "provider", f.provider, "error", cause)
	e.mu.Lock()
	if f.state == dayfly.AttemptCreating {
		f.state = dayfly.AttemptCreateUnknown
	}
	f.askedAt, f.absentAt, f.absent, f.looks = e.clock.now(), time.Time{}, 0, 0
	unclaimed := f.state == dayfly.AttemptCreateUnknown
	e.mu.Unlock()
	if unclaimed {
		e.notes.add(e.lifetime, &store.Note{Attempt: f.id, Time: e.clock.now(), Unknown: sentenceOf(cause)})
	}
}
