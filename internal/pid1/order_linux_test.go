package pid1_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/pid1"
)

// ordered starts a program below one that takes orders from a file, and returns that one and the program's number.
func ordered(t *testing.T, file string) (first *os.Process, pid int) {
	t.Helper()
	told := filepath.Join(t.TempDir(), "pid")
	cmd := exec.Command(os.Args[0], "run", "10m", "sh", "-c", "echo $$ >"+told+".new; mv "+told+".new "+told+"; while :; do read x </dev/null; done")
	cmd.Env = append(os.Environ(), "ORDER="+file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitFile(t, told)
	text, err := os.ReadFile(told)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		_ = cmd.Wait() // it ends as its program was ended
	})
	return cmd.Process, pid
}

func order(t *testing.T, file string, order pid1.Order) {
	t.Helper()
	if err := os.WriteFile(file, []byte(order), 0o600); err != nil {
		t.Fatal(err)
	}
}

func send(t *testing.T, p *os.Process, signals ...syscall.Signal) {
	t.Helper()
	for _, s := range signals {
		if err := p.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitState waits until a process is halted, or is not.
func awaitState(t *testing.T, pid int, halted bool, when string) {
	t.Helper()
	awaitStatus(t, pid, "State:\tT", halted, when)
}

// awaitStatus waits until a line of what the kernel says of a process begins so, or none does.
func awaitStatus(t *testing.T, pid int, line string, want bool, when string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\n"+line) == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: got %t, want %t, of %q in:\n%s", when, !want, want, line, text)
		}
	}
}

func TestTheLastOrderCountsWhateverWasOrderedBeforeItWasSeen(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "order")
	first, pid := ordered(t, file)
	for _, orders := range [][]pid1.Order{
		{pid1.Suspend},
		{pid1.Resume, pid1.Suspend},
		{pid1.Suspend, pid1.Resume},
		{pid1.Suspend, "", pid1.Resume, pid1.Suspend},
		{pid1.Resume},
	} {
		send(t, first, syscall.SIGSTOP)
		for _, one := range orders {
			order(t, file, one)
			send(t, first, pid1.Ordered)
		}
		send(t, first, syscall.SIGCONT)
		awaitState(t, pid, orders[len(orders)-1] == pid1.Suspend, fmt.Sprintf("after %q", orders))
	}
}

func TestAnOrderThatWasGivenBeforeThereWasAnybodyToHearItIsCarriedOut(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "order")
	order(t, file, pid1.Suspend)
	cmd := exec.Command(os.Args[0], "run", "10m", "sleep", "600")
	cmd.Env = append(os.Environ(), "ORDER="+file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	t.Cleanup(func() {
		if pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); pid == 0; <-tick.C {
		children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range children {
			if text, err := os.ReadFile(name); err == nil {
				_, _ = fmt.Sscan(string(text), &pid) // most threads have none
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the program: got none, want it to be started")
		}
	}
	awaitState(t, pid, true, "a program that was suspended before it was started")
}

func TestWhoeverLetsTheFirstProcessGoOnDoesNotWakeWhatIsSuspended(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "order")
	first, pid := ordered(t, file)
	order(t, file, pid1.Suspend)
	send(t, first, pid1.Ordered)
	awaitState(t, pid, true, "after it was suspended")
	// The signal after it is seen to have come, as it waits for the program, which it would end.
	send(t, first, syscall.SIGCONT, syscall.SIGUSR1+33)
	awaitStatus(t, pid, "ShdPnd:\t0000000000000200", true, "SIGUSR1 of a suspended program")
	awaitState(t, pid, true, "after its first process was let go on")
}

func TestWhatIsNoOrderIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	order(t, whole, pid1.Suspend)
	pipe, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "link")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(whole, link); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]pid1.Order{whole: pid1.Suspend, "": "", filepath.Join(dir, "none"): "", dir: "", pipe: "", link: "", "/dev/zero": ""} {
		if got := pid1.LastOrder(file); got != want {
			t.Errorf("LastOrder(%q): got %q, want %q", file, got, want)
		}
	}
}
