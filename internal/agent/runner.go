package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// ofPool reports whether what an agent claims by is that of a machine of a pool.
func ofPool(attempt string) bool { return strings.HasPrefix(attempt, wire.RunnerPrefix) }

// runner is the agent of a machine of a pool: it carries out one attempt after the other, and waits in between.
type runner struct {
	place   *Place
	version string
	web     *http.Client
	log     *slog.Logger
	link    Link
	clock   func() time.Duration
	nonce   string // of all its claims: the server knows by it that this is still the same agent
}

// hold is how long a claim is held open.
const hold = 25 * time.Second

// serve carries out attempts until the machine is not wanted any more, and returns why.
func (r *runner) serve(ctx context.Context) error {
	line := newLine(ctx, r.link, r.place, r.clock)
	defer line.end(nil)
	line.open(r.place.Boot.Token, maxBoot)
	// What is there now is what has to be there before each attempt. Looking may take a moment in a large image.
	var done, spoiled string
	if r.place.Renew == nil {
		spoiled = "This machine cannot be made ready for another attempt."
	}
	for first := true; ; first = false {
		if !first && spoiled == "" {
			if err := r.place.Renew(line.life); err != nil {
				r.log.Info("the machine cannot be made as it was", "error", err)
				spoiled = sentenceOf(err)
			}
		}
		say := spoiled
		if first {
			say = ""
		}
		job, err := r.next(line, done, say)
		if err != nil {
			return err
		}
		if err := r.carryOut(line.life, job); err != nil {
			return err
		}
		done = job.Attempt
		line.open(r.place.Boot.Token, milliseconds(job.OrphanAfterMS, defaultOrphanAfter)) // the attempt has heard the server
	}
}

// next waits for an attempt.
func (r *runner) next(line *line, done, spoiled string) (job *wire.Assignment, err error) {
	for {
		err := line.do(line.life, func(ctx context.Context, to Address) error {
			job, err = r.link.Claim(ctx, to, &wire.ClaimRequest{
				Attempt: r.place.Boot.Attempt, Instance: r.place.Instance, Nonce: r.nonce, Protocol: wire.Version, Agent: r.version,
				WaitMS: hold.Milliseconds(), Done: done, Spoiled: spoiled,
			})
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("agent: waiting for an attempt: %w", err)
		}
		if !job.Wait {
			return job, nil
		}
		line.open(r.place.Boot.Token, milliseconds(job.OrphanAfterMS, defaultOrphanAfter))
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
	err := a.carryOut()
	a.line.end(nil)
	a.background.Wait()
	return err
}
