package main

import (
	"context"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly"
)

// measureBacklog measures whether a long queue slows down the running of what is at its head: the rate at which jobs
// end while the queue has 100,000 of them, against the rate while it has 1,000. Two servers take turns, and the one
// whose turn it is not stands still behind its gate.
func measureBacklog(ctx context.Context, b *bench, g *Group) error {
	short, err := newBacklog(ctx, b)
	if err != nil {
		return err
	}
	defer short.close()
	long, err := newBacklog(ctx, b)
	if err != nil {
		return err
	}
	defer long.close()
	fmt.Fprintf(b.err, "bench:   queueing %d jobs\n", b.backlog)
	filled, err := long.add(ctx, b.backlog)
	if err != nil {
		return err
	}
	rate := g.figure(fmt.Sprintf("with %s jobs queued", number(float64(b.backlog))), "jobs/s").
		against(fmt.Sprintf("the same with %s jobs queued", number(float64(b.shallow)))).ratioAtLeast(0.95)
	err = b.eachRound(ctx, func(int) error {
		if _, err := short.add(ctx, b.shallow-len(short.ids)); err != nil {
			return err
		}
		base, err := short.drain(ctx, b.drained)
		if err != nil {
			return err
		}
		subject, err := long.drain(ctx, b.drained)
		if err != nil {
			return err
		}
		rate.add(subject, base)
		return nil
	})
	if err != nil {
		return err
	}
	g.note("queueing %s jobs took %s s", number(float64(b.backlog)), number(filled.Seconds()))
	return nil
}

// backlog is a server with jobs that wait behind a gate.
type backlog struct {
	server *service
	gate   *gate
	ids    []string // of the jobs that wait, in the order in which they will run as far as that is known
}

func newBacklog(ctx context.Context, b *bench) (*backlog, error) {
	server, err := b.serveDayfly(ctx)
	if err != nil {
		return nil, err
	}
	l := &backlog{server: server}
	// The first jobs of a server also pay for its first machines.
	if _, err = runJobs(ctx, server, &dayfly.JobSpec{Command: []string{"/bin/true"}}, 50); err == nil {
		l.gate, err = closeGate(ctx, server)
	}
	if err != nil {
		server.close()
		return nil, err
	}
	return l, nil
}

func (l *backlog) close() {
	l.gate.open()
	l.server.close()
}

// add queues more jobs.
func (l *backlog) add(ctx context.Context, count int) (time.Duration, error) {
	submitted, err := (&load{address: l.server.address, count: count, spec: &dayfly.JobSpec{Command: []string{"/bin/true"}}}).run(ctx)
	if err != nil {
		return 0, err
	}
	l.ids = append(l.ids, submitted.ids...)
	return submitted.elapsed, nil
}

// drain opens the gate until about count jobs have ended, closes it again, and returns at which rate they ended.
func (l *backlog) drain(ctx context.Context, count int) (rate float64, err error) {
	head := l.ids[:count]
	l.gate.open()
	ends, err := awaitEnds(ctx, l.server.address, head)
	if err == nil {
		err = allSucceeded(head, ends)
	}
	if err != nil {
		return 0, err
	}
	if l.gate, err = closeGate(ctx, l.server); err != nil {
		return 0, err
	}
	// More have run until the gate was closed again. They are left out: other things were going on by then.
	l.ids, err = l.stillQueued(ctx, l.ids[count:])
	return steadyRate(endTimes(ends)), err
}

// stillQueued returns the jobs from the first one on that has not been started. Those of one connection of the load
// may have overtaken those of another by a few places, so a few in a row have to be waiting.
func (l *backlog) stillQueued(ctx context.Context, ids []string) ([]string, error) {
	w, err := dial(ctx, l.server.address)
	if err != nil {
		return nil, err
	}
	defer w.close()
	row := 0
	for i, id := range ids {
		job, err := readJob(w, id)
		if err != nil {
			return nil, err
		}
		if job.State != dayfly.Queued {
			row = 0
			continue
		}
		if row++; row == 2*connections {
			return ids[i+1-row:], nil
		}
	}
	return ids[len(ids)-row:], nil
}
