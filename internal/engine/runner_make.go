package engine

import (
	"context"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// warm adds a machine to a pool that no job waits for.
func (e *Engine) warm(ctx context.Context, p *pool) error {
	at := &store.Launch{Provider: p.where.provider}
	if got := e.claim([]*store.Launch{at}); !got[0] {
		return nil
	}
	now, id := e.clock.now(), newID("rnr_")
	row := &store.Runner{
		Machine: machineName(e.identity.Install, id), ID: id, Pool: p.name, State: store.RunnerWarming, Version: 1, Spec: p.spec,
		Provider: p.where.provider, Region: p.where.region, Lifetime: p.lifetime(nil), Slots: p.slots(),
		Price: shareOf(e.price(p.where, &dayfly.JobSpec{Size: p.Size}), p.slots()), CreatedAt: now, FreeAt: now,
	}
	err := e.store.AddRunner(ctx, row, p.Max)
	var r *runner
	e.unclaim(at, func() {
		if err == nil {
			r = e.noteSlots(row)
		}
	})
	switch {
	case fault.Of(err) == fault.Exhausted:
		return e.recallRunners(ctx) // there are machines that this server does not know
	case err != nil:
		return err
	}
	e.mu.Lock()
	r.bringing = true
	e.mu.Unlock()
	e.background.Go(func() { e.bringRunner(e.lifetime, r) })
	return nil
}

// runnerSpec returns the machine of a pool to ask for, the same each time.
func (e *Engine) runnerSpec(ctx context.Context, row *store.Runner, image string, size machine.Size) (*machine.Spec, error) {
	home, err := e.url(ctx, row.Provider)
	if err != nil {
		return nil, err
	}
	return &machine.Spec{
		Name: row.Machine, Owner: ownerOf(e.identity.Install),
		Labels:   map[string]string{"pool": row.Pool, "attempt": row.ID, "epoch": formatEpoch(e.identity.Epoch)},
		Lifetime: row.Lifetime, Image: image, Region: row.Region, Size: size,
		Agent: &machine.Agent{URL: home, Attempt: row.ID, Token: e.key.Bootstrap(row.ID)},
	}, nil
}

// bringRunner asks for a machine of a pool until the provider has answered. An ambiguous answer is asked for again, with the
// same bytes, until the boot timeout is over; planPool ends it then.
func (e *Engine) bringRunner(ctx context.Context, r *runner) {
	e.mu.Lock()
	row, p := r.row, e.pools[r.row.Pool]
	r.since, r.fetching = e.clock.now(), true
	e.mu.Unlock()
	var err error
	if p == nil {
		err = fault.Say(fault.Invalid, "the pool is not configured any more")
	} else {
		err = e.askRunner(ctx, r, &row, p)
	}
	e.mu.Lock()
	r.fetching = false
	e.mu.Unlock()
	if err == nil || ctx.Err() != nil {
		return
	}
	if err := e.drain(ctx, r, "the provider refused it: "+sentenceOf(err)); err != nil && fault.Of(err) != fault.Conflict {
		e.logger.Warn("a machine of a pool that was refused could not be given up; it is at the boot timeout", "machine", row.Machine, "error", err)
	}
}

// askRunner returns nil when the machine exists, or when it is not wanted any more, and why it was refused.
func (e *Engine) askRunner(ctx context.Context, r *runner, row *store.Runner, p *pool) error {
	size, err := sizeOf(&dayfly.JobSpec{Size: p.Size})
	if err != nil {
		return err
	}
	pull, stop := context.WithTimeoutCause(ctx, defaultPull, errPullSlow)
	defer stop()
	_, prepares := e.providers[row.Provider].(machine.Preparer)
	for delay := time.Second; ; delay = min(2*delay, 30*time.Second) {
		spec, err := e.runnerSpec(ctx, row, p.Image, size)
		if err == nil && prepares {
			err = e.callPrepare(pull, row.Provider, spec, func(machine.Preparation) {})
		}
		var m *machine.Machine
		if err == nil {
			prepares = false
			e.mu.Lock()
			if r.fetching {
				r.since, r.fetching = e.clock.now(), false // the boot timeout begins
			}
			waits := r.row.State == store.RunnerWarming && e.runners[row.Machine] == r
			e.mu.Unlock()
			if !waits {
				return nil
			}
			create, cancel := context.WithTimeoutCause(ctx, time.Minute, errProviderSlow)
			m, err = e.callCreate(create, row.Provider, spec)
			cancel()
		}
		switch fault.Of(err) {
		case "":
			e.sawRunner(m)
			return nil
		case fault.Invalid, fault.Unsupported, fault.Exhausted, fault.Denied, fault.Unauthenticated, fault.Conflict, fault.NotFound:
			return err
		}
		if pull.Err() != nil {
			return err
		}
		e.logger.Warn("the answer to a create is ambiguous; asking again", "pool", row.Pool, "machine", row.Machine, "provider", row.Provider, "error", err)
		pause(ctx, delay)
	}
}
