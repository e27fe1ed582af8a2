package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly"
)

// measureSubmit measures how fast jobs are taken and made durable, and how long each submit waits for that: jobs that
// wait for a time far away, the same with an Idempotency-Key as Dayfly's clients send it, and jobs that begin to run
// at once and compete with the submits for the processors.
func measureSubmit(ctx context.Context, b *bench, g *Group) error {
	minimal, err := b.serveMinimal(ctx, 0)
	if err != nil {
		return err
	}
	defer minimal.close()
	server, err := b.serveDayfly(ctx)
	if err != nil {
		return err
	}
	defer server.close()
	busy, err := b.serveDayfly(ctx)
	if err != nil {
		return err
	}
	defer busy.close()

	later := time.Now().Add(30 * 24 * time.Hour).UTC().Truncate(time.Second)
	waiting := &dayfly.JobSpec{Command: []string{"/bin/true"}, RunAt: &later}
	running := &dayfly.JobSpec{Command: []string{"/bin/true"}}

	const obvious = "the minimal program: HTTP, group-committed SQLite, 201"
	kinds := []struct {
		address string
		spec    *dayfly.JobSpec
		count   int
		keys    bool
		row     *submitRow
	}{
		{server.address, waiting, b.submits, false, newSubmitRow(g, "jobs that wait", obvious, true)},
		{server.address, waiting, b.submits, true, newSubmitRow(g, "with a key", obvious, true)},
		{busy.address, running, b.submits / 10, false, newSubmitRow(g, "jobs that run", obvious, false)},
	}
	warmUp := max(b.submits/20, 50)
	for _, address := range []string{minimal.address, server.address} {
		if _, err := (&load{address: address, count: warmUp, spec: waiting}).run(ctx); err != nil {
			return err
		}
	}
	var client, ours, theirs cost
	err = b.eachRound(ctx, func(int) error {
		for _, k := range kinds {
			base, err := measured(ctx, minimal, &load{address: minimal.address, count: k.count, spec: k.spec}, &theirs)
			if err != nil {
				return err
			}
			l := &load{address: k.address, count: k.count, spec: k.spec}
			if k.keys {
				l.keys = rand.Text()
			}
			into := &ours
			if k.address == busy.address {
				into = &cost{} // what it costs to run them is not what it costs to submit them
			}
			subject, err := measured(ctx, server, l, into)
			if err != nil {
				return err
			}
			client.add(subject.clientCPU, k.count)
			k.row.add(subject, base)
			if k.address == busy.address {
				if _, err := awaitEnds(ctx, busy.address, subject.ids); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	g.note("processor time per submit: the server %s, the minimal program %s, the client %s", ours, theirs, client)
	return nil
}

// measured runs a load and adds what the server used for it.
func measured(ctx context.Context, s *service, l *load, used *cost) (*loaded, error) {
	before, _ := s.cpu()
	result, err := l.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	after, _ := s.cpu()
	used.add(after-before, l.count)
	return result, nil
}

// cost is processor time spent on a number of things.
type cost struct {
	cpu   time.Duration
	count int
}

func (c *cost) add(cpu time.Duration, count int) { c.cpu, c.count = c.cpu+cpu, c.count+count }

func (c cost) String() string {
	if c.count == 0 {
		return "unknown"
	}
	return fmt.Sprintf("%s µs", number(float64(c.cpu.Microseconds())/float64(c.count)))
}

// submitRow is the three figures of one kind of submit.
type submitRow struct{ rate, p50, p99 *Figure }

func newSubmitRow(g *Group, name, baseline string, targets bool) *submitRow {
	r := &submitRow{
		rate: g.figure(name, "jobs/s").against(baseline),
		p50:  g.figure("  one submit, p50", "ms").against(baseline),
		p99:  g.figure("  one submit, p99", "ms").against(baseline),
	}
	if targets {
		r.rate.atLeast(10_000)
		r.p99.below(10)
	}
	return r
}

func (r *submitRow) add(subject, base *loaded) {
	r.rate.add(perSecond(len(subject.ids), subject.elapsed), perSecond(len(base.ids), base.elapsed))
	r.p50.add(milliseconds(percentile(subject.latencies, 0.50)), milliseconds(percentile(base.latencies, 0.50)))
	r.p99.add(milliseconds(percentile(subject.latencies, 0.99)), milliseconds(percentile(base.latencies, 0.99)))
}
