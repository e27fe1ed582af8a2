package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

// runner is what the service needs of whoever runs its workers. Safe for concurrent use; one that does not answer is
// fault.Unavailable.
type runner interface {
	// Launch runs the worker for a job and returns the run's id. Doing it again returns the same run.
	Launch(ctx context.Context, o *order) (string, error)
	// Find returns the id of the run that was launched for a job; fault.NotFound.
	Find(ctx context.Context, job string) (string, error)
	// Wait returns how a run has ended, once it has; fault.NotFound.
	Wait(ctx context.Context, run string) (*outcome, error)
	// Remove ends every run of a job, also one whose id never arrived, and removes what is left of it. When it
	// returns, nothing of it runs.
	Remove(ctx context.Context, job string) error
}

// order is what a worker is told.
type order struct {
	job    string
	apiURL string // with the run's token in it
	size   string
}

// outcome is how a run has ended.
type outcome struct {
	good bool
	why  string // if not
}

// workerScript is what workers run. A worker image brings the tools; the script comes with the job, so that a service
// and its workers are always of one version.
//
//go:embed worker/start.sh
var workerScript string

// sourceFault is the worker's exit status when the source is to blame, so that trying again is pointless.
const sourceFault = 65

// label marks the service's jobs in Dayfly with the id of the job here.
const label = "audio-transcoder"

// patience is how long a request of a client may wait for Dayfly.
const patience = 5 * time.Second

// dayflyRuns runs workers as jobs of Dayfly.
type dayflyRuns struct {
	client   *dayfly.Client
	provider string
	queue    string
	image    string
	command  []string // nil: the script
	attempts int
	timeout  time.Duration // from start to the end, however often it is tried
	largest  int64         // bytes of a source
}

// Launch implements runner. The key is the job's id, so Dayfly makes one job of it however often it is asked.
func (d *dayflyRuns) Launch(ctx context.Context, o *order) (string, error) {
	command := d.command
	if command == nil {
		command = []string{"sh", "-c", workerScript, "transcode"}
	}
	spec := &dayfly.JobSpec{
		Name: "transcode", Command: command, Provider: d.provider, Image: d.image, Size: o.size, Queue: d.queue,
		Env: map[string]string{
			"API_URL": o.apiURL, "JOB_ID": o.job, "MAX_SOURCE_BYTES": strconv.FormatInt(d.largest, 10),
		},
		Labels:   map[string]string{label: o.job},
		Timeouts: dayfly.Timeouts{Run: dayfly.Duration(d.timeout), Total: dayfly.Duration(d.timeout), Grace: dayfly.Duration(2 * time.Second)},
		Retry:    dayfly.Retry{MaxAttempts: d.attempts, NonRetryableExits: []int{sourceFault}},
	}
	made, err := d.client.Submit(ctx, spec, &dayfly.SubmitOptions{IdempotencyKey: label + "/" + o.job})
	if errors.Is(err, fault.IdempotencyMismatch) { // an earlier request did reach Dayfly, before the configuration changed
		return d.Find(ctx, o.job)
	}
	if err != nil {
		return "", err
	}
	return made.ID, nil
}

// Find implements runner.
func (d *dayflyRuns) Find(ctx context.Context, job string) (string, error) {
	for j, err := range d.client.Jobs(ctx, &dayfly.Query{Labels: map[string]string{label: job}, Limit: 1}) {
		if err != nil {
			return "", err
		}
		return j.ID, nil
	}
	return "", fmt.Errorf("the run of job %s: %w", job, fault.NotFound)
}

// Wait implements runner.
func (d *dayflyRuns) Wait(ctx context.Context, run string) (*outcome, error) {
	j, err := d.client.Wait(ctx, run)
	if err != nil {
		return nil, err
	}
	if j.State == dayfly.Succeeded {
		return &outcome{good: true}, nil
	}
	why := j.Message
	if why == "" {
		why = fmt.Sprintf("The run ended as %s.", j.State)
	}
	if words := d.lastWords(ctx, run); words != "" {
		why += " Its last words: " + words
	}
	return &outcome{why: why}, nil
}

// maxWords bounds what of a worker's output becomes part of a job's error, in bytes.
const maxWords = 500

// lastWords returns the last line that the run's worker has written to stderr, or "".
func (d *dayflyRuns) lastWords(ctx context.Context, run string) string {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var tail string
	for record, err := range d.client.Logs(ctx, run, &dayfly.LogOptions{Stream: "stderr"}) {
		if err != nil {
			break // what has arrived is better than nothing
		}
		tail += string(record.Data)
		tail = tail[max(0, len(tail)-8*maxWords):]
	}
	tail = strings.TrimSpace(tail)
	line := strings.TrimSpace(tail[strings.LastIndexAny(tail, "\r\n")+1:])
	return strings.ToValidUTF8(line[:min(len(line), maxWords)], "")
}

// Remove implements runner.
func (d *dayflyRuns) Remove(ctx context.Context, id string) error {
	for j, err := range d.client.Jobs(ctx, &dayfly.Query{Labels: map[string]string{label: id}}) {
		if err != nil {
			return err
		}
		if !j.State.Terminal() {
			if _, err := d.client.Cancel(ctx, j.ID); err != nil && !errors.Is(err, fault.AlreadyFinished) {
				return err
			}
			if _, err := d.client.Wait(ctx, j.ID); err != nil {
				return err
			}
		}
		// A machine that is slow to go keeps its job in Dayfly a little longer. It does nothing any more, so that is
		// left to Dayfly, which removes both.
		if err := d.client.Delete(ctx, j.ID); err != nil && !errors.Is(err, fault.NotFound) && !errors.Is(err, fault.Conflict) {
			return err
		}
	}
	return nil
}
