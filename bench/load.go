package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly"
	"golang.org/x/sync/errgroup"
)

// connections is how many clients submit at once.
const connections = 16

// load is a number of equal submissions, made as fast as they are answered.
type load struct {
	address string
	count   int
	spec    *dayfly.JobSpec
	keys    string // when not empty, each carries an Idempotency-Key that begins with it
}

// loaded is what came of a load.
type loaded struct {
	ids       []string // in no particular order across connections
	latencies []time.Duration
	began     time.Time
	elapsed   time.Duration
	clientCPU time.Duration // what this process used meanwhile
}

// run submits on 16 connections that stay open. It fails with the first answer that is not 201.
func (l *load) run(ctx context.Context) (*loaded, error) {
	body, err := json.Marshal(l.spec)
	if err != nil {
		return nil, fmt.Errorf("encoding a job: %w", err)
	}
	wires := make([]*wire, connections)
	for i := range wires {
		if wires[i], err = dial(ctx, l.address); err != nil {
			return nil, err
		}
		defer wires[i].close()
	}
	result := &loaded{ids: make([]string, l.count), latencies: make([]time.Duration, l.count)}
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	cpu := ownCPU()
	result.began = time.Now()
	for _, w := range wires {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= l.count {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				began := time.Now()
				id, err := l.submit(w, body, i)
				if err != nil {
					return err
				}
				result.ids[i], result.latencies[i] = id, time.Since(began)
			}
		})
	}
	err = group.Wait()
	result.elapsed, result.clientCPU = time.Since(result.began), ownCPU()-cpu
	return result, err
}

func (l *load) submit(w *wire, body []byte, i int) (string, error) {
	header := ""
	if l.keys != "" {
		header = "Idempotency-Key: " + l.keys + strconv.Itoa(i) + "\r\n"
	}
	status, answer, err := w.do(http.MethodPost, "/v1/jobs", header, body)
	if err != nil {
		return "", err
	}
	if status != http.StatusCreated {
		return "", fmt.Errorf("a submit was answered with %d: %s", status, excerpt(answer))
	}
	return idOf(answer)
}

// ended is the end of one job.
type ended struct {
	State      dayfly.State     `json:"state"`
	Reason     dayfly.Reason    `json:"reason"`
	Message    string           `json:"message"`
	ExitCode   *int             `json:"exit_code"`
	FinishedAt time.Time        `json:"finished_at"`
	Attempts   []dayfly.Attempt `json:"attempts"`
}

// patience is how long one job may take to end, the jobs that are before it included.
const patience = 3 * time.Minute

// awaitLast waits until the job that was submitted last has ended, and with it most of the others: asking for one job
// now and then disturbs the server little while it runs the rest.
func awaitLast(ctx context.Context, address string, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	w, err := dial(ctx, address)
	if err != nil {
		return err
	}
	defer w.close()
	_, err = awaitEnd(ctx, w, ids[len(ids)-1])
	return err
}

// awaitEnds waits until all the jobs have ended and returns their ends in the order of ids. When each has ended is in
// the jobs themselves, so it does not matter how late they are read.
func awaitEnds(ctx context.Context, address string, ids []string) ([]ended, error) {
	if err := awaitLast(ctx, address, ids); err != nil {
		return nil, err
	}
	return readEnds(ctx, address, ids)
}

// readEnds reads the jobs on several connections, and waits for those that have not ended.
func readEnds(ctx context.Context, address string, ids []string) ([]ended, error) {
	ends := make([]ended, len(ids))
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range 4 {
		group.Go(func() error {
			w, err := dial(ctx, address)
			if err != nil {
				return err
			}
			defer w.close()
			for {
				i := int(next.Add(1)) - 1
				if i >= len(ids) {
					return nil
				}
				end, err := awaitEnd(ctx, w, ids[i])
				if err != nil {
					return err
				}
				ends[i] = *end
			}
		})
	}
	return ends, group.Wait()
}

// awaitEnd asks for a job until it has ended.
func awaitEnd(ctx context.Context, w *wire, id string) (*ended, error) {
	for began := time.Now(); ; {
		job, err := readJob(w, id)
		if err != nil {
			return nil, err
		}
		if job.State.Terminal() {
			return job, nil
		}
		if time.Since(began) > patience {
			return nil, fmt.Errorf("%s is still %s after %v", id, job.State, patience)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// readJob reads what a job is now.
func readJob(w *wire, id string) (*ended, error) {
	status, answer, err := w.do(http.MethodGet, "/v1/jobs/"+id, "", nil)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("reading %s was answered with %d: %s", id, status, excerpt(answer))
	}
	job := &ended{}
	if err := json.Unmarshal(answer, job); err != nil {
		return nil, fmt.Errorf("reading %s: %w", id, err)
	}
	return job, nil
}

// allSucceeded returns an error unless every job succeeded with exit code 0.
func allSucceeded(ids []string, ends []ended) error {
	for i, e := range ends {
		if e.State != dayfly.Succeeded || e.ExitCode == nil || *e.ExitCode != 0 {
			return fmt.Errorf("%s did not succeed: it is %s (%s) %s", ids[i], e.State, e.Reason, e.Message)
		}
	}
	return nil
}

// lastEnd returns when the last of the jobs ended.
func lastEnd(ends []ended) time.Time {
	var last time.Time
	for _, e := range ends {
		if e.FinishedAt.After(last) {
			last = e.FinishedAt
		}
	}
	return last
}

// endTimes returns when each of the jobs ended.
func endTimes(ends []ended) []time.Time {
	times := make([]time.Time, len(ends))
	for i, e := range ends {
		times[i] = e.FinishedAt
	}
	return times
}

// pause waits, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// inParallel calls work count times, at most width at once, and returns the first error.
func inParallel(ctx context.Context, count, width int, work func(context.Context, int) error) error {
	var next atomic.Int64
	var wait sync.WaitGroup
	errs := make(chan error, width)
	for range width {
		wait.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= count {
					return
				}
				err := ctx.Err()
				if err == nil {
					err = work(ctx, i)
				}
				if err != nil {
					next.Store(int64(count))
					errs <- err
					return
				}
			}
		})
	}
	wait.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}
