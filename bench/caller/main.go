// Command caller is what is measured of calls: a program that calls its own functions in other processes of itself, and beside it the
// same with bare sockets and processes. It is a program of its own because a runner is its parent's program, and the other benchmarks
// bring more along than a runner needs. What it measures it prints as JSON, a number for each name.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/machine"
)

var (
	noop = dayfly.Func("noop", func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil })
	size = dayfly.Func("size", func(_ context.Context, data []byte) (int, error) { return len(data), nil })
	echo = dayfly.Func("echo", func(_ context.Context, data []byte) ([]byte, error) { return data, nil })
	self = dayfly.Func("self", func(context.Context, struct{}) (int, error) { return os.Getpid(), nil })
	hang = dayfly.Func("hang", func(ctx context.Context, _ struct{}) (struct{}, error) {
		<-ctx.Done()
		return struct{}{}, ctx.Err()
	})
)

// cpuVariable names in the environment the processor on which a process is to run; without it it may run on all.
const cpuVariable = "DAYFLY_BENCH_CPU"

func main() {
	if err := settle(); err != nil {
		fmt.Fprintln(os.Stderr, "caller:", err)
		os.Exit(1)
	}
	dayfly.Main()
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "caller:", err)
		os.Exit(1)
	}
}

// run carries out one mode.
func run(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: caller MODE [ARG…]")
	}
	modes := map[string]func([]string) (map[string]float64, error){
		"warm":   measureWarm,
		"crowd":  measureCrowd,
		"cold":   measureCold,
		"memory": measureRunnerMemory,
		"idle":   measureIdle,
		"fleet":  measureFleet,
		"killed": measureKilled,
		"silent": measureSilent,
	}
	switch args[0] {
	case "echo":
		return serveEcho(args[1])
	case "true":
		return nil
	case "wait":
		_, _ = os.Stdin.Read(make([]byte, 1)) // until whoever started this process is gone
		return nil
	case "hold":
		return hold(args[1])
	case "keep":
		return keep()
	case "runners":
		return playRunners(os.Stdin)
	}
	measure := modes[args[0]]
	if measure == nil {
		return fmt.Errorf("there is no mode %q", args[0])
	}
	found, err := measure(args[1:])
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

// newPool returns a pool on this computer with so many runners that are up, and on that processor if it is not "".
func newPool(o dayfly.PoolOptions, cpu string) (*dayfly.Pool, error) {
	o.Logger = slog.New(slog.DiscardHandler)
	if cpu != "" {
		o.Spec = machine.Spec{Env: map[string]string{cpuVariable: cpu}}
	}
	pool, err := dayfly.NewPool(dayfly.Local(), &o)
	if err != nil {
		return nil, err
	}
	return pool, until(30*time.Second, func() bool { return pool.Stats().Up >= o.Min })
}

// until waits until the condition holds.
func until(limit time.Duration, holds func() bool) error {
	for began := time.Now(); !holds(); time.Sleep(time.Millisecond) {
		if time.Since(began) > limit {
			return fmt.Errorf("it did not come to that within %v", limit)
		}
	}
	return nil
}

// isRunning reports whether a process is there and has not ended.
func isRunning(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	rest := strings.TrimSpace(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}
