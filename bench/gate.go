package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly"
)

// gate keeps the queue of a server from moving without any setting: jobs of the highest priority hold every place
// there is for machines. Each reads a named pipe that nobody writes to, so they cost nothing, and all of them end at
// once when the pipe is closed, which the kernel does even if this program is killed.
type gate struct {
	pipe *os.File
	wire *wire
}

// The size of a gate.
const (
	gateStep = 64   // jobs that are added at a time, until some have to wait
	gateMost = 1024 // jobs, before a server counts as one that cannot be filled
)

// closeGate fills the server. It returns when all its places are held by the gate. Jobs that run at the time end
// first.
func closeGate(ctx context.Context, s *service) (*gate, error) {
	dir, err := os.MkdirTemp(s.command.Dir, "gate-")
	if err != nil {
		return nil, fmt.Errorf("making a gate: %w", err)
	}
	path := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		return nil, fmt.Errorf("making a gate: %w", err)
	}
	g := &gate{}
	// Opened for reading and writing, a pipe opens at once and keeps readers waiting.
	if g.pipe, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
		return nil, fmt.Errorf("making a gate: %w", err)
	}
	if g.wire, err = dial(ctx, s.address); err == nil {
		err = g.fill(ctx, &dayfly.JobSpec{Name: "gate", Command: []string{"/bin/cat", path}, Priority: 1000})
	}
	if err != nil {
		g.open()
		return nil, fmt.Errorf("making a gate: %w", err)
	}
	return g, nil
}

// fill adds jobs until some have to wait for the others, and takes back those that wait: once the gate is open they
// would find no pipe to read.
func (g *gate) fill(ctx context.Context, spec *dayfly.JobSpec) error {
	body, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	var ids []string
	for len(ids) < gateMost {
		for range gateStep {
			status, answer, err := g.wire.do(http.MethodPost, "/v1/jobs", "", body)
			if err != nil {
				return err
			}
			if status != http.StatusCreated {
				return fmt.Errorf("a submit was answered with %d: %s", status, excerpt(answer))
			}
			id, err := idOf(answer)
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		waiting, err := g.waiting(ctx, ids)
		if err != nil {
			return err
		}
		for _, id := range waiting {
			status, answer, err := g.wire.do(http.MethodPost, "/v1/jobs/"+id+"/cancel", "", []byte{})
			if err != nil {
				return err
			}
			if status >= 300 {
				return fmt.Errorf("canceling %s was answered with %d: %s", id, status, excerpt(answer))
			}
		}
		if len(waiting) > 0 {
			return nil
		}
	}
	return fmt.Errorf("%d jobs run at once and none has to wait", len(ids))
}

// waiting returns those of the jobs that are queued while others run, once that has not changed for a while.
func (g *gate) waiting(ctx context.Context, ids []string) ([]string, error) {
	const still = 500 * time.Millisecond
	began := time.Now()
	changed, running := began, -1
	for {
		var queued []string
		now := 0
		for _, id := range ids {
			job, err := readJob(g.wire, id)
			if err != nil {
				return nil, err
			}
			switch job.State {
			case dayfly.Queued:
				queued = append(queued, id)
			case dayfly.Running:
				now++
			case dayfly.Starting:
			default:
				return nil, fmt.Errorf("%s is %s: %s", id, job.State, job.Message)
			}
		}
		if now != running {
			changed, running = time.Now(), now
		}
		if running > 0 && running+len(queued) == len(ids) && time.Since(changed) > still {
			return queued, nil
		}
		if time.Since(began) > patience {
			return nil, fmt.Errorf("only %d of %d jobs run after %v", running, len(ids), patience)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// open lets the queue move. Opening a gate again does nothing.
func (g *gate) open() {
	g.pipe.Close()
	if g.wire != nil {
		g.wire.close()
		g.wire = nil
	}
}
