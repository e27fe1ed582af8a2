package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/dayfly-run/dayfly"
)

// measureMemory measures how much memory the server keeps: when it has just started, with a long queue, and after it
// has run many jobs, which must not depend on how many they were.
func measureMemory(ctx context.Context, b *bench, g *Group) error {
	queued, ran := number(float64(b.backlog)), number(float64(b.memoried))
	m := &memoryFigures{
		idle:        g.figure("idle", "MiB").atMost(40),
		queued:      g.figure("with "+queued+" jobs queued", "MiB").atMost(128),
		queuedPeak:  g.figure("  at most, while they came", "MiB"),
		once:        g.figure("after "+ran+" jobs", "MiB").atMost(80),
		twice:       g.figure("after "+number(float64(2*b.memoried))+" jobs", "MiB").against("after " + ran + " jobs"),
		ranPeak:     g.figure("  at most, while they ran", "MiB"),
		supervisor:  g.figure("the supervisor after "+ran+" jobs", "MiB"),
		supervisor2: g.figure("the supervisor after "+number(float64(2*b.memoried))+" jobs", "MiB"),
	}
	err := b.eachRound(ctx, func(int) error {
		if err := m.measureQueued(ctx, b); err != nil {
			return err
		}
		return m.measureRun(ctx, b, g)
	})
	if err != nil {
		return err
	}
	g.note("VmRSS of the server's process, %v after the last request; it includes the pages of the program file in use", b.settling)
	return nil
}

type memoryFigures struct {
	idle, queued, queuedPeak, once, twice, ranPeak, supervisor, supervisor2 *Figure
}

// measureQueued looks at a fresh server and then at one with many jobs that wait.
func (m *memoryFigures) measureQueued(ctx context.Context, b *bench) error {
	server, err := b.serveDayfly(ctx)
	if err != nil {
		return err
	}
	defer server.close()
	idle, err := b.settled(ctx, server.pid())
	if err != nil {
		return err
	}
	gate, err := closeGate(ctx, server)
	if err != nil {
		return err
	}
	defer gate.open()
	spec := &dayfly.JobSpec{Command: []string{"/bin/true"}}
	if _, err := (&load{address: server.address, count: b.backlog, spec: spec}).run(ctx); err != nil {
		return err
	}
	queued, err := b.settled(ctx, server.pid())
	if err != nil {
		return err
	}
	m.idle.add(mebibytes(idle.resident))
	m.queued.add(mebibytes(queued.resident))
	m.queuedPeak.add(mebibytes(queued.peak))
	return nil
}

// measureRun looks at a server after it has run some jobs, and after it has run as many again.
func (m *memoryFigures) measureRun(ctx context.Context, b *bench, g *Group) error {
	server, err := b.serveDayfly(ctx)
	if err != nil {
		return err
	}
	defer server.close()
	var after, supervisor [2]memory
	for i := range after {
		if _, err := runJobs(ctx, server, &dayfly.JobSpec{Command: []string{"/bin/true"}}, b.memoried); err != nil {
			return err
		}
		if after[i], err = b.settled(ctx, server.pid()); err != nil {
			return err
		}
		if supervisor[i], err = largest(server.supervisors()); err != nil {
			return err
		}
	}
	m.once.add(mebibytes(after[0].resident))
	m.twice.add(mebibytes(after[1].resident), mebibytes(after[0].resident))
	m.ranPeak.add(mebibytes(after[1].peak))
	m.supervisor.add(mebibytes(supervisor[0].resident))
	m.supervisor2.add(mebibytes(supervisor[1].resident))
	if len(g.Notes) == 0 {
		g.note("of that not pages of files, after %d jobs: the server %s MiB, its supervisor %s MiB", 2*b.memoried,
			number(mebibytes(after[1].private)), number(mebibytes(supervisor[1].private)))
	}
	return nil
}

// settled returns the memory of a process that has been left alone for a while.
func (b *bench) settled(ctx context.Context, pid int) (memory, error) {
	if err := pause(ctx, b.settling); err != nil {
		return memory{}, err
	}
	return memoryOf(pid)
}

// largest returns the memory of the process that uses most of it, or nothing if there is no process.
func largest(pids []int) (memory, error) {
	var all []memory
	for _, pid := range pids {
		m, err := memoryOf(pid)
		if err != nil {
			return memory{}, fmt.Errorf("the supervisor: %w", err)
		}
		all = append(all, m)
	}
	if len(all) == 0 {
		return memory{}, nil
	}
	return slices.MaxFunc(all, func(a, b memory) int { return int(a.resident - b.resident) }), nil
}

func mebibytes(kib int64) float64 { return float64(kib) / 1024 }
