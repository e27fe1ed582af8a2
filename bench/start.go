package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly"
)

// date is the code whose start is measured: it prints the time at which it runs, in nanoseconds. Everybody has it, and
// its own start is short: a Go program takes another millisecond before its first line, which is none of Dayfly's.
const (
	date       = "date"
	dateFormat = "+%s%N"
)

// measureStart measures how long it takes from the moment a client begins to submit a job until the job's own code
// runs, and until the client knows that the job has succeeded, when nothing else is to be done. The baseline starts
// the same program with a bare os/exec.
func measureStart(ctx context.Context, b *bench, g *Group) error {
	dir, err := b.place("pool")
	if err != nil {
		return err
	}
	config := filepath.Join(dir, "dayfly.toml")
	if err := os.WriteFile(config, []byte("[pools.warm]\nmin = 1\nmax = 1\n"), 0o600); err != nil {
		return err
	}
	server, err := b.serveDayfly(ctx, "--config", config)
	if err != nil {
		return err
	}
	defer server.close()
	client, err := server.client()
	if err != nil {
		return err
	}
	const bare = "os/exec of the same program, start to wait"
	running50 := g.figure("submit to code running, p50", "ms").against(bare).atMost(5)
	running99 := g.figure("submit to code running, p99", "ms").against(bare).atMost(15)
	done50 := g.figure("submit to done, p50", "ms").against(bare)
	done99 := g.figure("submit to done, p99", "ms").against(bare)

	warm50 := g.figure("submit to code running on a warm machine, p50", "ms").against(bare).atMost(4)
	warm99 := g.figure("submit to code running on a warm machine, p99", "ms").against(bare)

	asWarmJob := func() (begun, done time.Duration, err error) {
		return startJob(ctx, client, &dayfly.JobSpec{Command: []string{date, dateFormat}, Pool: "warm"})
	}
	asJob := func() (begun, done time.Duration, err error) { return startAsJob(ctx, client) }
	asProcess := func() (begun, done time.Duration, err error) { return startAsProcess(ctx) }
	take := func(count int, start func() (begun, done time.Duration, err error)) (begun, done []time.Duration, err error) {
		for range count {
			b, d, err := start()
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
		warm, _, err := take(b.starts, asWarmJob)
		if err != nil {
			return err
		}
		warm50.add(milliseconds(percentile(warm, 0.50)), milliseconds(percentile(bareBegun, 0.50)))
		warm99.add(milliseconds(percentile(warm, 0.99)), milliseconds(percentile(bareBegun, 0.99)))
		running50.add(milliseconds(percentile(begun, 0.50)), milliseconds(percentile(bareBegun, 0.50)))
		running99.add(milliseconds(percentile(begun, 0.99)), milliseconds(percentile(bareBegun, 0.99)))
		done50.add(milliseconds(percentile(done, 0.50)), milliseconds(percentile(bareDone, 0.50)))
		done99.add(milliseconds(percentile(done, 0.99)), milliseconds(percentile(bareDone, 0.99)))
		return nil
	})
}

// startAsJob runs date as a job, with the client a Go program would use, and waits until it has succeeded.
func startAsJob(ctx context.Context, client *dayfly.Client) (begun, done time.Duration, err error) {
	return startJob(ctx, client, &dayfly.JobSpec{Command: []string{date, dateFormat}})
}

// startJob runs a job that prints the time, and waits until it has succeeded.
func startJob(ctx context.Context, client *dayfly.Client, spec *dayfly.JobSpec) (begun, done time.Duration, err error) {
	began := time.Now()
	job, err := client.Submit(ctx, spec, nil)
	if err != nil {
		return 0, 0, err
	}
	if job, err = client.Wait(ctx, job.ID); err != nil {
		return 0, 0, err
	}
	done = time.Since(began)
	if err := succeeded(job); err != nil {
		return 0, 0, err
	}
	var printed []byte
	for record, err := range client.Logs(ctx, job.ID, nil) {
		if err != nil {
			return 0, 0, err
		}
		printed = append(printed, record.Data...)
	}
	begun, err = since(began, printed)
	return begun, done, err
}

// startAsProcess does the same without Dayfly.
func startAsProcess(ctx context.Context) (begun, done time.Duration, err error) {
	began := time.Now()
	printed, err := exec.CommandContext(ctx, date, dateFormat).Output()
	if err != nil {
		return 0, 0, fmt.Errorf("starting a process: %w", err)
	}
	done = time.Since(began)
	begun, err = since(began, printed)
	return begun, done, err
}

// succeeded returns an error unless the job succeeded with exit code 0.
func succeeded(job *dayfly.Job) error {
	if job.State != dayfly.Succeeded || job.ExitCode == nil || *job.ExitCode != 0 {
		return fmt.Errorf("%s did not succeed: it is %s (%s) %s", job.ID, job.State, job.Reason, job.Message)
	}
	return nil
}

// since returns how long after a time the one was that date has printed.
func since(began time.Time, printed []byte) (time.Duration, error) {
	then, err := strconv.ParseInt(string(bytes.TrimSpace(printed)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading what %s printed, which has to be that of GNU or the like: %w", date, err)
	}
	return time.Unix(0, then).Sub(began.Round(0)), nil
}
