package local_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine/local"
)

// TestNothingRunsTwiceNorStaysWhateverHappensToSupervisors makes and destroys machines while supervisors are stopped,
// woken and killed. Whatever a caller was told, a name is started at most once, and once its destroy has succeeded
// nothing of it runs, then or later.
func TestNothingRunsTwiceNorStaysWhateverHappensToSupervisors(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		p := newProviderWith(t, newDir(t), scan, func(o *local.Options) { o.AnswerTimeout = 300 * time.Millisecond })
		running(t, p)
		ledger := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var group sync.WaitGroup
		group.Go(func() { // Eight seconds, or longer on a slow computer, until enough has happened.
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for began := time.Now(); ctx.Err() == nil; <-tick.C {
				if started, err := os.ReadDir(ledger); time.Since(began) > 8*time.Second && (err != nil || len(started) >= 5) {
					cancel()
				}
			}
		})
		group.Go(func() { disturb(ctx, t, p.dir) })
		for worker := range 6 {
			group.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					oneTroubledLife(t, p, fmt.Sprintf("m%d-%d", worker, i), ledger)
				}
			})
		}
		group.Wait()

		entries, err := os.ReadDir(ledger)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			text, err := os.ReadFile(filepath.Join(ledger, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if starts := strings.Count(string(text), "\n"); starts > 1 {
				t.Errorf("machine %s was started %d times, want once at most", e.Name(), starts)
			}
		}
		t.Logf("%d machines were started, by %d supervisors", len(entries), newestSupervisor(t, p.dir))
		if len(entries) < 5 {
			t.Errorf("got %d machines started, want enough of them to say anything", len(entries))
		}
		if list, err := p.List(t.Context(), "tests"); err != nil || len(list) != 0 {
			t.Errorf("got %d machines, %v, want none", len(list), err)
		}
		// Also what wakes up only now must start nothing.
		for number := range newestSupervisor(t, p.dir) {
			if pid, ok := livingSupervisor(p.dir, number+1); ok {
				_ = syscall.Kill(pid, syscall.SIGCONT)
			}
		}
		eventually(t, "every supervisor but the newest that lives has ended", func() bool {
			living := 0
			for number := range newestSupervisor(t, p.dir) {
				if _, ok := livingSupervisor(p.dir, number+1); ok {
					living++
				}
			}
			return living <= 1
		})
		if pids := machineProcesses(t, p.dir); len(pids) != 0 {
			t.Errorf("processes %v are left, want none", pids)
		}
	})
}

// oneTroubledLife makes a machine and destroys it, each until it is certain.
func oneTroubledLife(t *testing.T, p *testProvider, name, ledger string) {
	spec := newSpec(name, fmt.Sprintf("echo $$ >> %s/%s; (setsid sleep 1000 &); sleep 0.0%d; exit 3", ledger, name, rand.IntN(10)))
	m, err := p.Create(context.Background(), spec)
	if err != nil && !errors.Is(err, fault.Unavailable) {
		t.Errorf("got %v from Create, want fault.Unavailable at worst", err)
	}
	if m != nil && rand.IntN(2) == 0 {
		_, _ = p.Get(context.Background(), name)
	}
	for {
		err := p.Destroy(context.Background(), name)
		if err == nil {
			break
		}
		if !errors.Is(err, fault.Unavailable) {
			t.Errorf("got %v from Destroy, want fault.Unavailable at worst", err)
			return
		}
	}
	text, err := os.ReadFile(filepath.Join(ledger, name))
	if err != nil {
		return // It never started.
	}
	for line := range strings.Lines(string(text)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && alive(pid) && isMachine(pid, p.dir) {
			t.Errorf("process %d of machine %s lives after its destroy", pid, name)
		}
	}
}

// disturb stops, wakes and kills supervisors until ctx ends, and then wakes them all.
func disturb(ctx context.Context, t *testing.T, dir string) {
	for ctx.Err() == nil {
		number := newestSupervisor(t, dir)
		if number > 1 && rand.IntN(3) == 0 {
			number -= rand.IntN(2)
		}
		pid, ok := livingSupervisor(dir, number)
		wait := time.Duration(50+rand.IntN(700)) * time.Millisecond
		switch {
		case !ok:
			wait = 20 * time.Millisecond
		case rand.IntN(5) == 0:
			_ = syscall.Kill(pid, syscall.SIGKILL)
		default:
			_ = syscall.Kill(pid, syscall.SIGSTOP)
			time.AfterFunc(time.Duration(rand.IntN(2000))*time.Millisecond, func() {
				if pid, ok := livingSupervisor(dir, number); ok {
					_ = syscall.Kill(pid, syscall.SIGCONT)
				}
			})
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	for number := range newestSupervisor(t, dir) {
		if pid, ok := livingSupervisor(dir, number+1); ok {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
}

// newestSupervisor returns the highest number there is.
func newestSupervisor(t *testing.T, dir string) int {
	entries, err := os.ReadDir(filepath.Join(dir, "supervisors"))
	if err != nil {
		t.Error(err)
	}
	newest := 0
	for _, e := range entries {
		number, _ := strconv.Atoi(e.Name())
		newest = max(newest, number)
	}
	return newest
}

// livingSupervisor returns the process id of a supervisor, if it lives and has said so.
func livingSupervisor(dir string, number int) (int, bool) {
	text, err := os.ReadFile(filepath.Join(dir, "supervisors", strconv.Itoa(number), "info.json"))
	if err != nil {
		return 0, false
	}
	_, rest, _ := bytes.Cut(text, []byte(`"pid":`))
	digits, _, _ := bytes.Cut(rest, []byte(","))
	pid, err := strconv.Atoi(string(digits))
	return pid, err == nil && isSupervisor(pid, dir)
}

// isMachine reports whether a process belongs to a machine of the state directory.
func isMachine(pid int, dir string) bool {
	id, err := os.ReadFile(filepath.Join(dir, "id"))
	if err != nil {
		return false
	}
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && bytes.Contains(environment, []byte("DAYFLY_GROUP=dayfly-"+string(id)+"/"))
}

func machineProcesses(t *testing.T, dir string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && alive(pid) && isMachine(pid, dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}
