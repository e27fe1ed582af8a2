package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly"
)

// measureStart measures how long it takes from the moment a client begins to submit a job until the job's own code
// runs, and until the client knows that the job has succeeded, when nothing else is to be done. The job's code is a
// program that writes down the time when it begins. The baseline starts the same program with a bare os/exec.
func measureStart(ctx context.Context, b *bench, g *Group) error {
	server, err := b.serveDayfly(ctx)
	if err != nil {
		return err
	}
	defer server.close()
	client, err := server.client()
	if err != nil {
		return err
	}
	dir, err := b.place("stamps")
	if err != nil {
		return err
	}
	const bare = "os/exec of the same program, start to wait"
	running50 := g.figure("submit to code running, p50", "ms").against(bare).atMost(5)
	running99 := g.figure("submit to code running, p99", "ms").against(bare).atMost(15)
	done50 := g.figure("submit to done, p50", "ms").against(bare)
	done99 := g.figure("submit to done, p99", "ms").against(bare)

	sample := func(id int, how func(context.Context, string) error) (begun, done time.Duration, err error) {
		file := filepath.Join(dir, strconv.Itoa(id))
		before := monotonic()
		if err := how(ctx, file); err != nil {
			return 0, 0, err
		}
		done = monotonic() - before
		stamp, err := readStamp(file)
		return stamp - before, done, err
	}
	asJob := func(ctx context.Context, file string) error { return b.runAsJob(ctx, client, file) }
	asProcess := func(ctx context.Context, file string) error { return exec.CommandContext(ctx, b.stamp, file).Run() }

	id := 0
	take := func(count int, how func(context.Context, string) error) (begun, done []time.Duration, err error) {
		for range count {
			id++
			b, d, err := sample(id, how)
			if err != nil {
				return nil, nil, err
			}
			begun, done = append(begun, b), append(done, d)
			// The server is to be as idle as it is between two jobs of somebody at a terminal.
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return nil, nil, err
			}
		}
		return begun, done, nil
	}
	if _, _, err := take(max(b.starts/10, 3), asJob); err != nil {
		return err
	}
	return b.eachRound(ctx, func(int) error {
		bareBegun, bareDone, err := take(b.starts, asProcess)
		if err != nil {
			return fmt.Errorf("starting a process: %w", err)
		}
		begun, done, err := take(b.starts, asJob)
		if err != nil {
			return err
		}
		running50.add(milliseconds(percentile(begun, 0.50)), milliseconds(percentile(bareBegun, 0.50)))
		running99.add(milliseconds(percentile(begun, 0.99)), milliseconds(percentile(bareBegun, 0.99)))
		done50.add(milliseconds(percentile(done, 0.50)), milliseconds(percentile(bareDone, 0.50)))
		done99.add(milliseconds(percentile(done, 0.99)), milliseconds(percentile(bareDone, 0.99)))
		return nil
	})
}

// runAsJob runs the stamp program as a job and waits until it has succeeded, with the client a Go program would use.
func (b *bench) runAsJob(ctx context.Context, client *dayfly.Client, file string) error {
	job, err := client.Submit(ctx, &dayfly.JobSpec{Command: []string{b.stamp, file}}, nil)
	if err != nil {
		return err
	}
	if job, err = client.Wait(ctx, job.ID); err != nil {
		return err
	}
	return succeeded(job)
}

// succeeded returns an error unless the job succeeded with exit code 0.
func succeeded(job *dayfly.Job) error {
	if job.State != dayfly.Succeeded || job.ExitCode == nil || *job.ExitCode != 0 {
		return fmt.Errorf("%s did not succeed: it is %s (%s) %s", job.ID, job.State, job.Reason, job.Message)
	}
	return nil
}

// readStamp reads what the stamp program has written.
func readStamp(file string) (time.Duration, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("reading when the program began: %w", err)
	}
	n, err := strconv.ParseInt(string(data), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading when the program began: %w", err)
	}
	return time.Duration(n), nil
}
