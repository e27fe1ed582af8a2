package main

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
)

// parallel is how many processes the baselines run at once.
const parallel = 16

// measureNoop measures how many jobs that do nothing are run in a second: submitted over HTTP, each on a machine of its
// own, its output and exit status kept. The bound is a loop that only starts /bin/true and waits for it.
func measureNoop(ctx context.Context, b *bench, g *Group) error {
	minimal, err := b.serveMinimal(ctx, parallel)
	if err != nil {
		return err
	}
	defer minimal.close()
	server, err := b.serveDayfly(ctx)
	if err != nil {
		return err
	}
	defer server.close()
	if err := keepsOutput(ctx, server); err != nil {
		return err
	}
	bound := g.figure("jobs", "jobs/s").against("spawn limit: a bare loop of os/exec and wait, 16 at once").ratioAtLeast(0.6)
	obvious := g.figure("jobs, again", "jobs/s").against("the minimal program: HTTP, group-committed SQLite, 16 workers, group-committed ends")
	work := g.figure("processor time of a job, all of it", "µs").against("spawn limit: a bare loop of os/exec and wait, 16 at once")
	noop := &dayfly.JobSpec{Command: []string{"/bin/true"}}
	for _, s := range []*service{minimal, server} { // the first jobs of a server also pay for its first machines
		if _, err := runJobs(ctx, s, noop, 50); err != nil {
			return err
		}
	}
	var ours, theirs cost
	err = b.eachRound(ctx, func(int) error {
		spawned, err := spawn(ctx, b.spawns)
		if err != nil {
			return err
		}
		base, err := runJobs(ctx, minimal, noop, b.noops)
		if err != nil {
			return err
		}
		subject, err := runJobs(ctx, server, noop, b.noops)
		if err != nil {
			return err
		}
		theirs.add(base.own, b.noops)
		ours.add(subject.own, b.noops)
		bound.add(subject.rate, spawned.rate)
		obvious.add(subject.rate, base.rate)
		work.add(subject.each(), spawned.each())
		return nil
	})
	if err != nil {
		return err
	}
	g.note("processor time of a job, without the command's: the server and its supervisor %s, the minimal program %s", ours, theirs)
	g.note("every job was read back afterwards and had succeeded with exit status 0")
	return nil
}

// ran is how the running of a number of jobs, or bare processes, went.
type ran struct {
	count    int
	rate     float64       // per second, from the beginning of the first submit to the end of the last job
	own      time.Duration // processor time of the server and its supervisors
	commands time.Duration // processor time of what they ran
	client   time.Duration // processor time of this process
}

// each is the processor time of one job in microseconds, whoever spent it. Unlike a rate it hardly depends on what else
// the computer does meanwhile.
func (r *ran) each() float64 {
	return float64((r.own + r.commands + r.client).Microseconds()) / float64(r.count)
}

// runJobs submits jobs, waits until all have ended, and checks that all have succeeded.
func runJobs(ctx context.Context, s *service, spec *dayfly.JobSpec, count int) (*ran, error) {
	own, commands := s.cpu()
	submitted, err := (&load{address: s.address, count: count, spec: spec}).run(ctx)
	if err == nil {
		err = awaitLast(ctx, s.address, submitted.ids)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	r := &ran{count: count, client: submitted.clientCPU}
	r.own, r.commands = s.cpu() // before the jobs are read back
	r.own, r.commands = r.own-own, r.commands-commands
	ends, err := readEnds(ctx, s.address, submitted.ids)
	if err == nil {
		err = allSucceeded(submitted.ids, ends)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	r.rate = perSecond(count, lastEnd(ends).Sub(submitted.began))
	return r, nil
}

// spawn starts /bin/true and waits for it many times.
func spawn(ctx context.Context, count int) (*ran, error) {
	client, commands, began := ownCPU(), childrenCPU(), time.Now()
	err := inParallel(ctx, count, parallel, func(ctx context.Context, _ int) error {
		return exec.CommandContext(ctx, "/bin/true").Run()
	})
	if err != nil {
		return nil, fmt.Errorf("starting /bin/true: %w", err)
	}
	return &ran{
		count: count, rate: perSecond(count, time.Since(began)), client: ownCPU() - client, commands: childrenCPU() - commands,
	}, nil
}

// keepsOutput checks that what a job prints is kept, because a server that threw it away would be quicker.
func keepsOutput(ctx context.Context, s *service) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	job, err := client.Submit(ctx, &dayfly.JobSpec{Command: []string{"/bin/echo", "kept"}}, nil)
	if err != nil {
		return err
	}
	if job, err = client.Wait(ctx, job.ID); err != nil {
		return err
	}
	if err := succeeded(job); err != nil {
		return err
	}
	w, err := dial(ctx, s.address)
	if err != nil {
		return err
	}
	defer w.close()
	status, answer, err := w.do(http.MethodGet, "/v1/jobs/"+job.ID+"/logs", "", nil)
	if err != nil {
		return err
	}
	if status != http.StatusOK || !strings.Contains(string(answer), "kept") {
		return fmt.Errorf("the output of %s is not kept: %d %s", job.ID, status, excerpt(answer))
	}
	return nil
}
