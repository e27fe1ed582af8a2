package dayfly_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly"
)

// kill kills one runner of the pool that has a call, without a word.
func kill(t *testing.T, p *dayfly.Pool) {
	t.Helper()
	found := children(t, p.Name())
	if len(found) == 0 {
		t.Fatal("no runner was found")
	}
	if err := syscall.Kill(found[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// children returns the processes that are runners of the pool, as far as their environment says so.
func children(t testing.TB, pool string) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		environment, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err == nil && strings.Contains(string(environment), "DAYFLY_MACHINE="+pool+"-") {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestAPoolIsRefusedToAProgramThatWouldStartItselfForEver(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_WITHOUT_MAIN=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "dayfly.Main()") {
		t.Errorf("got %s, %v, want it to be told to call Main", out, err)
	}
}

func TestAnInvitationThatNobodyHasWrittenIsRefusedByTheNameOfItsVariable(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "DAYFLY_PARENT=garbage")
	out, err := cmd.CombinedOutput()
	for _, want := range []string{"DAYFLY_PARENT", "unset it"} {
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("got %s, %v, want a failure that says %q", out, err, want)
		}
	}
}

// orphan is a program that is killed while a call runs that ignores its context.
func orphan() {
	p, err := dayfly.NewPool(dayfly.Local(), &dayfly.PoolOptions{Name: "orphan", Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		var id identity
		if id, err = whoami.Call(context.Background(), p, struct{}{}); err == nil {
			fmt.Println(id.PID)
			_, err = wait.Call(context.Background(), p, waiting{Until: "/nowhere", IgnoresContext: true})
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

func TestARunnerEndsWhenItsParentIsKilled(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_PARENT=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the parent said %q", line)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "the runner to end", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
}

func TestAnInterruptAtATerminalLeavesRunnersToTheirPool(t *testing.T) {
	t.Parallel()
	id, err := whoami.Call(t.Context(), newPool(t, dayfly.PoolOptions{}), struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	own, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	// A terminal signals the processes of one group, which is of one session: what the pool drains must not be among them.
	if other, err := unix.Getsid(id.PID); err != nil || other == own {
		t.Errorf("got session %d, %v for the runner, want another than this process's %d", other, err, own)
	}
}

func TestARunnerThatIsToldToEndFinishesItsWorkAndGetsNoMore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	gone := make(chan dayfly.Shrinkage, 10)
	p := newPool(t, dayfly.PoolOptions{Max: 2, OnShrink: func(s dayfly.Shrinkage) { gone <- s }})
	first, err := whoami.Call(t.Context(), p, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	working := make(chan error, 1)
	go func() {
		_, err := wait.Call(t.Context(), p, waiting{Begun: dir + "/begun", Until: dir + "/go"})
		working <- err
	}()
	eventually(t, "the work to begin", func() bool { return exists(dir + "/begun") })
	if err := syscall.Kill(first.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "other work to go elsewhere", func() bool {
		next, err := whoami.Call(t.Context(), p, struct{}{})
		if err != nil {
			t.Fatalf("a call meanwhile: %v", err)
		}
		return next.PID != first.PID
	})
	touch(t, dir+"/go")
	if err := <-working; err != nil {
		t.Errorf("the work on it: %v", err)
	}
	if s := <-gone; s.Err == nil || !strings.Contains(s.Err.Error(), "told to end") {
		t.Errorf("it left because of %v, want that it was told to", s.Err)
	}
	eventually(t, "it to end", func() bool { return errors.Is(syscall.Kill(first.PID, 0), syscall.ESRCH) })
}

func TestARunnerThatIsKilledTakesItsOwnCallsAndNoOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := newPool(t, dayfly.PoolOptions{Max: 2, Concurrency: 1})
	var calls sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		calls.Go(func() {
			_, errs[i] = wait.Call(t.Context(), p, waiting{Begun: fmt.Sprint(dir, "/", i), Until: dir + "/go"})
		})
	}
	eventually(t, "both to begin", func() bool { return exists(dir+"/0") && exists(dir+"/1") })
	queued := make(chan error, 1)
	go func() {
		id, err := whoami.Call(t.Context(), p, struct{}{})
		queued <- errors.Join(err, syscall.Kill(id.PID, 0))
	}()
	eventually(t, "the third to wait", func() bool { return p.Stats().Queued == 1 })
	kill(t, p)
	if err := <-queued; err != nil {
		t.Errorf("the call that waited for the runner that died: %v", err)
	}
	touch(t, dir+"/go")
	calls.Wait()
	lost := 0
	for _, err := range errs {
		if errors.Is(err, dayfly.ErrRunnerLost) {
			lost++
		} else if err != nil {
			t.Errorf("got %v, want none or that the runner was lost", err)
		}
	}
	if lost != 1 {
		t.Errorf("%d of two calls were lost, want that on the killed runner", lost)
	}
}
