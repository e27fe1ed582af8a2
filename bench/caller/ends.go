package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/call"
	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// measureCold is "caller cold COUNT": calls for each of which a runner has to boot, and as many starts of this program.
func measureCold(args []string) (map[string]float64, error) {
	count, _ := strconv.Atoi(args[0]) // bench has written it
	pool, err := newPool(dayfly.PoolOptions{Max: 1, SingleUse: true}, "")
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	ctx := context.Background()
	var first time.Duration
	var calls, bares []time.Duration
	for i := range count + 1 {
		began := time.Now()
		if _, err := noop.Call(ctx, pool, struct{}{}); err != nil {
			return nil, err
		}
		if i == 0 {
			first = time.Since(began) // what holds machines had to be started, too
		} else {
			calls = append(calls, time.Since(began))
		}
		if err := until(10*time.Second, func() bool { s := pool.Stats(); return s.Up+s.Stopping == 0 }); err != nil {
			return nil, err
		}
		began = time.Now()
		if err := exec.Command("/proc/self/exe", "true").Run(); err != nil {
			return nil, err
		}
		bares = append(bares, time.Since(began))
	}
	return map[string]float64{
		"first": float64(first) / 1e6, "cold": micros(calls, 0.5) / 1e3, "bare": micros(bares, 0.5) / 1e3,
	}, nil
}

// measureRunnerMemory is "caller memory": the resident memory of a runner that has run some calls, and of this program when it waits.
func measureRunnerMemory([]string) (map[string]float64, error) {
	pool, err := newPool(dayfly.PoolOptions{Min: 1, Max: 1}, "")
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	for range 1000 {
		if _, err := noop.Call(context.Background(), pool, struct{}{}); err != nil {
			return nil, err
		}
	}
	pid, err := self.Call(context.Background(), pool, struct{}{})
	if err != nil {
		return nil, err
	}
	waiting := exec.Command("/proc/self/exe", "wait")
	in, err := waiting.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := waiting.Start(); err != nil {
		return nil, err
	}
	time.Sleep(time.Second)
	runner, err1 := resident(pid)
	bare, err2 := resident(waiting.Process.Pid)
	in.Close()
	return map[string]float64{"runner": runner, "bare": bare}, errors.Join(err1, err2, waiting.Wait())
}

// resident returns the resident memory of a process in MiB.
func resident(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			return float64(kib) / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no memory", pid)
}

// measureIdle is "caller idle COUNT": how much memory a pool with so many idle runners takes in its parent. They are all played by
// one other process, to which each has a TLS connection of its own.
func measureIdle(args []string) (map[string]float64, error) {
	count, _ := strconv.Atoi(args[0]) // bench has written it
	players := exec.Command("/proc/self/exe", "runners")
	in, err := players.StdinPipe()
	if err != nil {
		return nil, err
	}
	players.Stderr = os.Stderr
	if err := players.Start(); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	provider := memmachine.New(&memmachine.Options{Guest: func(ctx context.Context, spec *machine.Spec) machine.Exit {
		mu.Lock()
		_, err := fmt.Fprintln(in, spec.Env[boot.ParentVariable])
		mu.Unlock()
		if err != nil {
			return machine.Exit{Code: 1}
		}
		<-ctx.Done()
		return machine.Exit{}
	}})
	before, err := rested()
	if err != nil {
		return nil, err
	}
	pool, err := dayfly.NewPool(provider, &dayfly.PoolOptions{
		Min: count, Max: count, BootTimeout: 2 * time.Minute, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	if err := until(3*time.Minute, func() bool { return pool.Stats().Up >= count }); err != nil {
		return nil, err
	}
	after, err := rested()
	if err != nil {
		return nil, err
	}
	err = pool.Close()
	in.Close()
	return map[string]float64{"before": before, "after": after}, errors.Join(err, players.Wait())
}

// rested returns the resident memory of this process when it has done nothing for a while.
func rested() (float64, error) {
	time.Sleep(time.Second)
	debug.FreeOSMemory()
	return resident(os.Getpid())
}

// playRunners is "caller runners": it takes up each invitation that it reads, one a line, until there is no more.
func playRunners(from io.Reader) error {
	hello, err := link.ThisProcess()
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		invitation, err := link.ParseInvitation(lines.Text())
		if err != nil {
			return err
		}
		go func() {
			l, err := link.Dial(context.Background(), invitation, hello)
			if err != nil {
				fmt.Fprintln(os.Stderr, "caller: a runner:", err)
				return
			}
			_ = call.NewServer(&call.Registry{}, l, call.NewLogs()).Serve() // its parent knows why
		}()
	}
	return lines.Err()
}

// measureKilled is "caller killed COUNT": from the kill of a runner to the error of its caller, and the same with a bare connection.
func measureKilled(args []string) (map[string]float64, error) {
	count, _ := strconv.Atoi(args[0]) // bench has written it
	pool, err := newPool(dayfly.PoolOptions{Max: 1}, "")
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	var told, bare []time.Duration
	for range count {
		took, err := endOf(pool, syscall.SIGKILL)
		if err != nil {
			return nil, err
		}
		told = append(told, took)
		server, err := startEcho("")
		if err != nil {
			return nil, err
		}
		e, err := server.dial(small, small)
		if err == nil {
			err = e.round()
		}
		if err != nil {
			return nil, err
		}
		began := time.Now()
		err = server.command.Process.Kill()
		_, readErr := e.conn.Read(e.answer)
		bare = append(bare, time.Since(began))
		if err != nil || readErr == nil {
			return nil, fmt.Errorf("a killed process has answered (%w)", err)
		}
		_ = server.close() // it was killed
		e.conn.Close()
	}
	return map[string]float64{"told": micros(told, 0.5) / 1e3, "worst": micros(told, 1) / 1e3, "bare": micros(bare, 0.5) / 1e3}, nil
}

// measureSilent is "caller silent SILENCE": from when a runner is stopped to the error of its caller.
func measureSilent(args []string) (map[string]float64, error) {
	silence, err := time.ParseDuration(args[0])
	if err != nil {
		return nil, err
	}
	pool, err := newPool(dayfly.PoolOptions{Max: 1, Silence: silence}, "")
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	took, err := endOf(pool, syscall.SIGSTOP)
	return map[string]float64{"told": took.Seconds()}, err
}

// endOf sends a signal to a runner on which a call is under way, and returns how long it took until the call failed.
func endOf(pool *dayfly.Pool, signal syscall.Signal) (time.Duration, error) {
	ctx := context.Background()
	pid, err := self.Call(ctx, pool, struct{}{})
	if err != nil {
		return 0, err
	}
	placed, err := hang.Place(ctx, pool, struct{}{})
	if err != nil {
		return 0, err
	}
	time.Sleep(20 * time.Millisecond) // so that everybody waits
	began := time.Now()
	if err := syscall.Kill(pid, signal); err != nil {
		return 0, err
	}
	<-placed.Done()
	took := time.Since(began)
	if !errors.Is(placed.Err(), dayfly.ErrRunnerLost) {
		return 0, fmt.Errorf("the function did not end with its runner: %w", placed.Err())
	}
	return took, until(30*time.Second, func() bool { return !isRunning(pid) })
}

// hold is "caller hold SILENCE": it places a function, prints its runner's process and waits to be killed.
func hold(silence string) error {
	limit, err := time.ParseDuration(silence)
	if err != nil {
		return err
	}
	pool, err := newPool(dayfly.PoolOptions{Max: 1, Silence: limit}, "")
	if err != nil {
		return err
	}
	pid, err := self.Call(context.Background(), pool, struct{}{})
	if err != nil {
		return err
	}
	placed, err := hang.Place(context.Background(), pool, struct{}{})
	if err != nil {
		return err
	}
	fmt.Println(pid)
	<-placed.Done()
	return placed.Err()
}

// keep is hold without a pool: it starts a process that ends with its input, which is this process's end.
func keep() error {
	cmd := exec.Command("/proc/self/exe", "wait")
	if _, err := cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Println(cmd.Process.Pid)
	return cmd.Wait()
}
