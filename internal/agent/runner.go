package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// ofPool reports whether what an agent claims by is that of a machine of a pool.
func ofPool(attempt string) bool { return strings.HasPrefix(attempt, wire.RunnerPrefix) }

// pooled is the agent of a machine of a pool: one runner, or one in each slot of a machine that is divided.
type pooled struct {
	version string
	web     *http.Client
	log     *slog.Logger
	link    Link
	clock   func() time.Duration
	running sync.WaitGroup // the runners

	mu      sync.Mutex
	spoiled string // guarded by mu: why nothing more is to be run on the machine; told by every slot from then on
	err     error  // guarded by mu: of the runner that has ended last
}

// serve returns when the last slot of the machine has ended, and why that has. The slots end one by one when the server does
// not want them any more, and all at once with ctx.
func (p *pooled) serve(ctx context.Context, place *Place) error {
	p.start(ctx, &runner{place: place, log: p.log, whole: true, alone: true})
	p.running.Wait()
	return p.err
}

// start starts a runner.
func (p *pooled) start(ctx context.Context, r *runner) {
	r.pooled, r.nonce = p, rand.Text()
	p.running.Go(func() {
		err := r.serve(ctx)
		if !r.alone {
			r.log.Info("the slot ends", "error", err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.err = err
	})
}

// spoil notes that the machine must not be used again.
func (p *pooled) spoil(why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spoiled = cmp.Or(p.spoiled, why)
}

func (p *pooled) spoiling() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spoiled
}

// runner carries out one attempt after the other in one slot of a machine of a pool, and waits in between.
type runner struct {
	*pooled
	place *Place
	log   *slog.Logger
	nonce string // of all its claims: the server knows by it that this is still the same agent
	whole bool   // the machine may yet be divided: it has not heard from the server how many slots it has
	alone bool   // the machine has no other slot
}

const (
	// hold is how long a claim is held open.
	hold = 25 * time.Second
	// firstHold is how long the first claim of a machine is held open. Its answer says into how many slots the machine is to be
	// divided, and until then no other slot claims.
	firstHold = 100 * time.Millisecond
)

// serve carries out attempts until the slot is not wanted any more, and returns why.
func (r *runner) serve(ctx context.Context) error {
	line := newLine(ctx, r.link, r.place, r.clock)
	defer line.end(nil)
	line.open(r.place.Boot.Token, maxBoot)
	for done := ""; ; {
		job, err := r.next(ctx, line, done)
		if err != nil {
			return err
		}
		r.begin()
		err = r.carryOut(line.life, job)
		if ctx.Err() == nil && (err == nil || !r.alone) { // a slot that ends must leave nothing to the others
			r.renew(ctx)
		}
		if err != nil {
			return err
		}
		done = job.Attempt
		line.open(r.place.Boot.Token, milliseconds(job.OrphanAfterMS, defaultOrphanAfter)) // the attempt has heard the server
	}
}

// begin says that an attempt begins. What is wrong with the place shows when that needs it; no other is to find it so.
func (r *runner) begin() {
	if r.place.Begin == nil {
		return
	}
	if err := r.place.Begin(); err != nil {
		r.log.Warn("the machine cannot be made as it was", "error", err)
		r.spoil(sentenceOf(err))
	}
}

// renew makes the slot ready for another attempt, or notes why it cannot be.
func (r *runner) renew(ctx context.Context) {
	if r.place.Renew == nil {
		r.spoil("This machine cannot be made ready for another attempt.")
		return
	}
	if err := r.place.Renew(ctx); err != nil {
		r.log.Info("the machine cannot be made as it was", "error", err)
		r.spoil(sentenceOf(err))
	}
}

// next waits for an attempt. The first answer may say that the machine is to be divided.
func (r *runner) next(ctx context.Context, line *line, done string) (job *wire.Assignment, err error) {
	for {
		err := line.do(line.life, func(ctx context.Context, to Address) error {
			claim := &wire.ClaimRequest{
				Attempt: r.place.Boot.Attempt, Instance: r.place.Instance, Nonce: r.nonce, Protocol: wire.Version, Agent: r.version,
				WaitMS: hold.Milliseconds(), Done: done, Spoiled: r.spoiling(),
			}
			if r.whole {
				claim.WaitMS = firstHold.Milliseconds()
			}
			job, err = r.link.Claim(ctx, to, claim)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("agent: waiting for an attempt: %w", err)
		}
		if r.whole && job.Slots > 1 {
			r.divide(ctx, min(job.Slots, wire.MaxSlots))
		}
		r.whole = false
		if !job.Wait {
			return job, nil
		}
		line.open(r.place.Boot.Token, milliseconds(job.OrphanAfterMS, defaultOrphanAfter))
	}
}

// divide divides the machine into slots, of which this runner has the first, and starts a runner in each of the others. If
// that cannot be, the machine has one slot: the server gives none an attempt that does not claim.
func (r *runner) divide(ctx context.Context, slots int) {
	if r.place.Divide == nil {
		r.log.Warn("the machine has one slot: nothing can divide it", "wanted", slots)
		return
	}
	places, err := r.place.Divide(slots)
	if err != nil {
		r.log.Warn("the machine has one slot: it cannot be divided", "wanted", slots, "error", err)
		return
	}
	r.log.Info("the machine is divided", "slots", slots)
	r.alone = false
	r.place, r.log = places[0], r.log.With("slot", 1)
	for i, place := range places[1:] {
		place.Boot.Attempt = wire.Slot(r.place.Boot.Attempt, i+2)
		r.start(ctx, &runner{place: place, log: r.pooled.log.With("slot", i+2)})
	}
}

// carryOut carries out one attempt, which has been claimed.
func (r *runner) carryOut(ctx context.Context, job *wire.Assignment) error {
	place := *r.place
	place.Boot = machine.Agent{URL: r.place.Boot.URL, Attempt: job.Attempt, Token: r.place.Boot.Token}
	a := &attempt{
		place: &place, version: r.version, web: r.web, status: newStatus(), job: job, nonce: r.nonce, claims: r.place.Boot.Attempt,
		log: r.log.With("attempt", job.Attempt, "job", job.Job),
	}
	a.line = newLine(ctx, r.link, &place, r.clock)
	a.line.open(job.Token, milliseconds(job.OrphanAfterMS, defaultOrphanAfter))
	a.log.Info("a job has begun")
	err := a.carryOut()
	a.line.end(nil)
	a.background.Wait()
	if err == nil {
		a.log.Info("the job has ended", "outcome", a.outcome)
	}
	return err
}
