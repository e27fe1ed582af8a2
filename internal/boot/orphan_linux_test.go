package boot_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/machine"
)

// startParent starts another process that is a parent of three runners, and returns their process ids.
func startParent(t *testing.T, place, pool string) (cmd *exec.Cmd, runners []string) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = []string{roleVariable + "=parent", "PLACE=" + place, "POOL=" + pool, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir()}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if runners = strings.Fields(line); err != nil || len(runners) != 3 {
		t.Fatalf("the parent said %q (%v), want the ids of three runners", line, err)
	}
	return cmd, runners
}

// lives reports whether a process runs.
func lives(pid string) bool {
	text, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	return err == nil && !strings.Contains(string(text), ") Z ")
}

func TestNoRunnerOutlivesAParentThatIsKilledAndTheNextSweepsUp(t *testing.T) {
	t.Parallel()
	dir := place(t)
	pool := "sweep-" + fresh()
	p := newLocal(t, dir)
	killed, orphans := startParent(t, dir, pool)
	_, others := startParent(t, dir, pool+"-2") // the name of another pool: not this one's affair
	began := time.Now()
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := killed.Wait(); err == nil {
		t.Fatal("the parent has ended in order, want that it was killed")
	}
	eventually(t, "the runners of a killed parent to end", func() bool {
		return !lives(orphans[0]) && !lives(orphans[1]) && !lives(orphans[2])
	})
	t.Logf("the runners had ended %v after their parent was killed", time.Since(began).Round(time.Millisecond))

	b := newBooter(t, p, "runner", nil, pool)
	eventually(t, "what the killed parent has left to be swept", func() bool {
		list, err := p.List(t.Context(), b.Owner())
		return err == nil && len(list) == 0
	})
	for _, pid := range others {
		if !lives(pid) {
			t.Errorf("a runner of another parent, process %s, has ended; want that it runs", pid)
		}
	}
}

func TestNothingOfALivingParentIsSwept(t *testing.T) {
	t.Parallel()
	dir := place(t)
	pool := "alive-" + fresh()
	p := newLocal(t, dir)
	other, runners := startParent(t, dir, pool)
	b := newBooter(t, p, "runner", nil, pool)
	r, _ := bootOne(t, b)
	// One of the other's ends in sight of both. It is the other's to destroy, who may want to know how it ended.
	pid, err := strconv.Atoi(runners[0])
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the runner that was killed to be seen exited", func() bool {
		m, err := p.Get(t.Context(), pool+"-0")
		return err == nil && m.State == machine.Exited
	})
	boot.SweepNow(t.Context(), b)
	if list, err := p.List(t.Context(), b.Owner()); err != nil || len(list) != 4 {
		t.Errorf("got %d machines and error %v, want the other parent's three and this one's", len(list), err)
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = other.Wait() // it was killed
	eventually(t, "all of the other parent's to be swept when it is dead", func() bool {
		boot.SweepNow(t.Context(), b)
		list, err := p.List(t.Context(), b.Owner())
		return err == nil && len(list) == 1 && list[0].ID == r.Machine().ID
	})
	if err := r.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
