package dayfly_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
)

// detacher is a program that is killed while detached work of it goes on, which begins in the directory.
func detacher(dir string) {
	p, err := dayfly.NewPool(dayfly.Local(), &dayfly.PoolOptions{Name: "detacher", Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		detached := stamp.With(&dayfly.CallOptions{Detached: true})
		if _, err = detached.Place(context.Background(), p, filepath.Join(dir, "placed")); err == nil {
			err = detached.Cast(context.Background(), p, filepath.Join(dir, "cast"))
		}
		if _, own := stamp.Place(context.Background(), p, filepath.Join(dir, "attached")); own != nil {
			err = own
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-make(chan struct{})
}

// stamp makes one file when it begins and another when it was told to go on and not ended before.
var stamp = dayfly.Func("test/stamp", func(ctx context.Context, file string) (int, error) {
	if err := os.WriteFile(file+".begun", []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return 0, err
	}
	for !exists(filepath.Join(filepath.Dir(file), "go")) {
		select {
		case <-ctx.Done():
			return 0, errors.Join(ctx.Err(), os.WriteFile(file+".ended", nil, 0o600))
		case <-time.After(5 * time.Millisecond):
		}
	}
	return 0, os.WriteFile(file+".done", nil, 0o600)
})

// What the parent has placed or cast detached has the grace to come to its end even when the parent was killed, and nothing else has.
func TestDetachedWorkComesToItsEndThoughItsParentIsKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_DETACHER="+dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"placed", "cast", "attached"} {
		eventually(t, name+" to begin", func() bool { return exists(filepath.Join(dir, name+".begun")) })
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "the attached work to be ended", func() bool { return exists(filepath.Join(dir, "attached.ended")) })
	touch(t, filepath.Join(dir, "go"))
	for _, name := range []string{"placed", "cast"} {
		eventually(t, name+" to come to its end", func() bool { return exists(filepath.Join(dir, name+".done")) })
	}
	eventually(t, "the runner to end", func() bool { return len(children(t, "detacher")) == 0 })
}

func TestAFunctionThatTookTooLongEndsASingleUseRunnerAndNoOther(t *testing.T) {
	t.Parallel()
	patiently := whoami.With(&dayfly.CallOptions{Timeout: time.Minute})
	late := func(p *dayfly.Pool) (runner string) {
		t.Helper()
		_, err := wait.Call(t.Context(), p, waiting{Until: filepath.Join(t.TempDir(), "never")})
		failed, ok := errors.AsType[*dayfly.CallError](err)
		if !ok || !errors.Is(err, context.DeadlineExceeded) || !failed.Ran || failed.Runner == "" {
			t.Fatalf("got %v, want that its time was up on a runner", err)
		}
		return failed.Runner
	}
	shared := newPool(t, dayfly.PoolOptions{Name: "shared", Timeout: 50 * time.Millisecond})
	before := late(shared)
	eventually(t, "the function to end", func() bool { return shared.Stats().InUse == 0 })
	if after, err := patiently.Call(t.Context(), shared, struct{}{}); err != nil || after.Parent.Runner != before {
		t.Errorf("the next call: got %v on %s, want it to run on %s", err, after.Parent.Runner, before)
	}
	single := newPool(t, dayfly.PoolOptions{Name: "single", SingleUse: true, Min: 1, Timeout: 50 * time.Millisecond})
	before = late(single)
	if after, err := patiently.Call(t.Context(), single, struct{}{}); err != nil || after.Parent.Runner == before {
		t.Errorf("the next call with single use: got %v on %s, want it to run elsewhere", err, after.Parent.Runner)
	}
}

func TestCastsGrowThePoolToMaxAndNoFurther(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var mu sync.Mutex
	most := 0
	p := newPool(t, dayfly.PoolOptions{Max: 2, Concurrency: 1, OnGrow: func(g dayfly.Growth) {
		mu.Lock()
		defer mu.Unlock()
		most = max(most, g.Count)
	}})
	for i := range 6 {
		if err := stamp.Cast(t.Context(), p, filepath.Join(dir, strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "two to run and four to wait", func() bool { s := p.Stats(); return s.InUse == 2 && s.Queued == 4 })
	touch(t, filepath.Join(dir, "go"))
	pids := map[string]bool{}
	for i := range 6 {
		file := filepath.Join(dir, strconv.Itoa(i))
		eventually(t, "each to be done", func() bool { return exists(file + ".done") })
		pid, err := os.ReadFile(file + ".begun")
		if err != nil {
			t.Fatal(err)
		}
		pids[string(pid)] = true
	}
	mu.Lock()
	defer mu.Unlock()
	if len(pids) != 2 || most != 2 {
		t.Errorf("got %d processes and %d runners at most, want 2", len(pids), most)
	}
}
