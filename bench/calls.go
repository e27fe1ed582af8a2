package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// callPlacement is where the two processes of a call run: waking another processor costs more than much of what is measured.
type callPlacement struct {
	name          string
	parent, other string // processors; "": any
}

func callPlacements() []callPlacement {
	return []callPlacement{{"unpinned", "", ""}, {"one CPU", "0", "0"}, {"two CPUs", "0", "1"}}
}

// cpuVariable is as in bench/caller.
const cpuVariable = "DAYFLY_BENCH_CPU"

// caller runs the program bench/caller, each time in a new process.
type caller struct {
	program string
	home    string
	shop    *workshop
}

func (w *workshop) newCaller(ctx context.Context) (*caller, error) {
	home, err := w.place("caller")
	if err != nil {
		return nil, err
	}
	c := &caller{program: filepath.Join(w.dir, "caller"), home: home, shop: w}
	return c, build(ctx, c.program, "./bench/caller")
}

func (c *caller) command(ctx context.Context, cpu string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.program, args...)
	cmd.Dir, cmd.Env = c.home, c.shop.environ(c.home)
	if cpu != "" {
		cmd.Env = append(cmd.Env, cpuVariable+"="+cpu)
	}
	return cmd
}

// measure runs a mode and returns what it has found.
func (c *caller) measure(ctx context.Context, cpu string, args ...string) (map[string]float64, error) {
	cmd := c.command(ctx, cpu, args...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("caller %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	var found map[string]float64
	if err := json.Unmarshal(out, &found); err != nil {
		return nil, fmt.Errorf("caller %s: %w", strings.Join(args, " "), err)
	}
	return found, nil
}

// measureCalls measures functions that are called in other processes of this computer: how long it takes, how many there are in a
// second, what they cost in memory, and how soon the end of one side is known to the other.
func measureCalls(ctx context.Context, b *bench, g *Group) error {
	c, err := b.newCaller(ctx)
	if err != nil {
		return err
	}
	for _, m := range []func(context.Context, *bench, *caller, *Group) error{measureWarmCalls, measureCrowds, measureColdCalls, measureFleet, measureEnds} {
		if err := m(ctx, b, c, g); err != nil {
			return err
		}
	}
	g.note("idle runners: one other process plays them all; each has its own TLS connection to the pool, its own machine at a provider in memory and its own slots")
	return nil
}

func measureWarmCalls(ctx context.Context, b *bench, c *caller, g *Group) error {
	const bare = "bare TCP echo of 64 bytes with a second process, same placement"
	placements := callPlacements()
	var p50, p99 []*Figure
	for i, p := range placements {
		if i == 2 && describeMachine().CPUs < 2 {
			placements = placements[:i]
			g.note("two CPUs: left out, this computer has one")
			break
		}
		p50 = append(p50, g.figure("warm no-op call, "+p.name+", p50", "µs").against(bare).ratioAtMost(2.5))
		p99 = append(p99, g.figure("warm no-op call, "+p.name+", p99", "µs").against(bare).ratioAtMost(5))
	}
	argument := g.figure("1 MiB argument, p50", "µs").against("1 MiB over bare TCP, and a byte back").atMost(400)
	echo := g.figure("1 MiB there and back, p50", "µs").against("1 MiB over bare TCP, and back").atMost(800)
	return b.eachRound(ctx, func(int) error {
		for i, p := range placements {
			larges := 0
			if p.parent == "" {
				larges = b.larges
			}
			found, err := c.measure(ctx, p.parent, "warm", p.other, strconv.Itoa(b.calls), strconv.Itoa(larges))
			if err != nil {
				return err
			}
			p50[i].add(found["noop_p50"], found["bare_noop_p50"])
			p99[i].add(found["noop_p99"], found["bare_noop_p99"])
			if larges > 0 {
				argument.add(found["argument_p50"], found["bare_argument_p50"])
				echo.add(found["echo_p50"], found["bare_echo_p50"])
			}
		}
		return nil
	})
}

func measureCrowds(ctx context.Context, b *bench, c *caller, g *Group) error {
	const bare = "64 bare TCP echoes of 64 bytes at once, with a second process"
	one := g.figure("64 callers, one runner", "calls/s").against(bare).atLeast(85_000)
	four := g.figure("64 callers, four runners", "calls/s").against("64 callers, one runner").ratioAtLeast(1)
	bareFour := g.figure("  64 bare echoes, four processes", "echoes/s").against(bare)
	return b.eachRound(ctx, func(int) error {
		count := strconv.Itoa(b.crowded)
		single, err := c.measure(ctx, "", "crowd", "1", count)
		if err != nil {
			return err
		}
		several, err := c.measure(ctx, "", "crowd", "4", count)
		if err != nil {
			return err
		}
		one.add(single["calls"], single["bare"])
		four.add(several["calls"], single["calls"])
		bareFour.add(several["bare"], single["bare"])
		return nil
	})
}

func measureColdCalls(ctx context.Context, b *bench, c *caller, g *Group) error {
	cold := g.figure("cold call: boot, run, result, p50", "ms").against("os/exec of the same program, start to wait").atMost(60)
	first := g.figure("the first call of a program", "ms").against("os/exec of the same program, start to wait")
	runner := g.figure("resident memory of a runner", "MiB").against("the same program, waiting").atMost(20)
	idle := g.figure(number(float64(b.idles))+" idle runners, in the parent", "MiB").atMost(50 * float64(b.idles) / 1000)
	return b.eachRound(ctx, func(int) error {
		found, err := c.measure(ctx, "", "cold", strconv.Itoa(b.colds))
		if err != nil {
			return err
		}
		cold.add(found["cold"], found["bare"])
		first.add(found["first"], found["bare"])
		if found, err = c.measure(ctx, "", "memory"); err != nil {
			return err
		}
		runner.add(found["runner"], found["bare"])
		if found, err = c.measure(ctx, "", "idle", strconv.Itoa(b.idles)); err != nil {
			return err
		}
		idle.add(found["after"] - found["before"])
		return nil
	})
}

// measureFleet measures what it takes to have a warm runner of a server's fleet for a call, which is given back afterwards.
func measureFleet(ctx context.Context, b *bench, c *caller, g *Group) error {
	alone := g.figure("a warm runner reserved and called, p50", "ms").against("cold call: boot, run, result")
	own := g.figure("  beside a warm runner that the pool has", "ms").against("a call on that")
	turns := g.figure("  by two pools in turns, one runner", "ms").against("cold call: boot, run, result")
	server, err := b.serveDayfly(ctx)
	if err != nil {
		return err
	}
	defer server.close()
	token, err := os.ReadFile(filepath.Join(server.command.Dir, "data", "token"))
	if err != nil {
		return fmt.Errorf("the server's token: %w", err)
	}
	return b.eachRound(ctx, func(int) error {
		found, err := c.measure(ctx, "", "fleet", "http://"+server.address, strings.TrimSpace(string(token)), strconv.Itoa(b.colds))
		if err != nil {
			return err
		}
		alone.add(found["alone"], found["cold"])
		own.add(found["alone"], found["own"])
		turns.add(found["turns"], found["cold"])
		return nil
	})
}

func measureEnds(ctx context.Context, b *bench, c *caller, g *Group) error {
	killed := g.figure("runner killed, caller told, p50", "ms").against("bare TCP: peer killed, connection ended").atMost(10)
	worst := g.figure("  at most", "ms")
	orphan := g.figure("parent killed, runner gone", "ms").against("a process that waits for the end of its input: parent killed, gone").atMost(1000)
	limit := fmt.Sprintf("silence of %v", b.silence)
	stopped := g.figure("runner stopped, caller told, "+limit, "s").atMost(b.silence.Seconds())
	alone := g.figure("parent stopped, runner gone, "+limit, "s").atMost(b.silence.Seconds() + 1)
	return b.eachRound(ctx, func(int) error {
		found, err := c.measure(ctx, "", "killed", strconv.Itoa(b.kills))
		if err != nil {
			return err
		}
		killed.add(found["told"], found["bare"])
		worst.add(found["worst"])
		gone, err := c.orphan(ctx, os.Kill, "hold", b.silence.String())
		if err != nil {
			return err
		}
		bare, err := c.orphan(ctx, os.Kill, "keep")
		if err != nil {
			return err
		}
		orphan.add(milliseconds(gone), milliseconds(bare))
		if found, err = c.measure(ctx, "", "silent", b.silence.String()); err != nil {
			return err
		}
		stopped.add(found["told"])
		if gone, err = c.orphan(ctx, syscall.SIGSTOP, "hold", b.silence.String()); err != nil {
			return err
		}
		alone.add(gone.Seconds())
		return nil
	})
}

// orphan starts a parent that prints the process of its runner, sends it a signal, and returns how long it took until the runner was
// gone.
func (c *caller) orphan(ctx context.Context, signal os.Signal, args ...string) (time.Duration, error) {
	cmd := c.command(ctx, "", args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, fmt.Errorf("starting a parent: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting a parent: %w", err)
	}
	defer func() {
		_ = cmd.Process.Kill() // it may be gone
		_ = cmd.Wait()         // it was killed
	}()
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		return 0, fmt.Errorf("a parent that says which runner it has: %w", err)
	}
	if err := pause(ctx, 50*time.Millisecond); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := cmd.Process.Signal(signal); err != nil {
		return 0, fmt.Errorf("ending a parent: %w", err)
	}
	for isRunning(pid) {
		if time.Since(began) > time.Minute {
			return 0, fmt.Errorf("the runner %d still runs a minute after its parent", pid)
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

// isRunning reports whether a process is there and has not ended.
func isRunning(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	state := bytes.TrimSpace(stat[bytes.LastIndexByte(stat, ')')+1:])
	return !bytes.HasPrefix(state, []byte("Z")) && !bytes.HasPrefix(state, []byte("X"))
}
