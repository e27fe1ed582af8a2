package link_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/link"
)

// never is a silence that ends no link while a test runs.
const never = time.Hour

// over waits until a link is over and returns why.
func over(t *testing.T, l *link.Link) *link.End {
	t.Helper()
	select {
	case <-l.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the link is not over after 30 s")
	}
	end, ok := errors.AsType[*link.End](l.Err())
	if !ok {
		t.Fatalf("Err: got %v, want an *End", l.Err())
	}
	return end
}

func TestARunnerThatIsKilledIsLostWithoutWaitingForItsSilence(t *testing.T) {
	t.Parallel()
	guest, i := expect(t, newHome(t, &link.HomeOptions{Silence: never}), "r", "unix:")
	runner, _ := start(t, -1, "runner", i.Encode())
	parent, err := guest.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = parent.Serve(func([]byte) {}) }()
	if err := runner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if end := over(t, parent); !end.Lost || end.Here || fault.Of(end) != fault.Unavailable {
		t.Errorf("the end: got %v, want a loss", end)
	}
}

func TestARunnerElsewhereThatIsKilledIsToldAsACut(t *testing.T) {
	t.Parallel()
	guest, i := expect(t, newHome(t, &link.HomeOptions{Silence: never}), "r", "tcp:")
	runner, _ := start(t, -1, "runner", i.Encode())
	parent, err := guest.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = parent.Serve(func([]byte) {}) }()
	if err := runner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-parent.Cuts():
	case <-time.After(30 * time.Second):
		t.Fatal("Cuts: got nothing within 30 s of the runner's death")
	}
	if parent.Err() != nil {
		t.Errorf("Err of a link that was cut: got %v, want nil, because the runner may come back", parent.Err())
	}
	parent.Lose(fault.Say(fault.Unavailable, "its machine has exited"))
}

func TestARunnerThatIsKilledIsLostEvenIfItsChildHoldsTheSocket(t *testing.T) {
	t.Parallel()
	guest, i := expect(t, newHome(t, &link.HomeOptions{Silence: never}), "r", "unix:")
	runner, said := start(t, -1, "leaky", i.Encode())
	var sleeper, held int
	if _, err := fmt.Sscan(said, &sleeper, &held); err != nil || held == 0 {
		t.Fatalf("the runner said %q, want the id of a process that holds a socket", said)
	}
	t.Cleanup(func() { _ = syscall.Kill(sleeper, syscall.SIGKILL) })
	parent, err := guest.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = parent.Serve(func([]byte) {}) }()
	if err := runner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if end := over(t, parent); !end.Lost {
		t.Errorf("the end: got %v, want a loss", end)
	}
	if err := syscall.Kill(sleeper, 0); err != nil {
		t.Errorf("the process that holds the socket: got %v, want it alive", err)
	}
}

func TestARunnerWhoseParentIsKilledEnds(t *testing.T) {
	t.Parallel()
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parent, invitation := start(t, -1, "parent", fmt.Sprint(t.TempDir(), "/home ", never, " ", way))
			runner, _ := start(t, -1, "runner", invitation)
			ask(t, parent, "are you there?")
			if err := parent.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- runner.Wait() }()
			select {
			case <-ended:
			case <-time.After(30 * time.Second):
				t.Fatal("the runner still runs 30 s after its parent was killed")
			}
		})
	}
}

// ask lets a parent's runner say something back.
func ask(t *testing.T, parent *child, what string) {
	t.Helper()
	if _, err := fmt.Fprintln(parent.in, what); err != nil {
		t.Fatal(err)
	}
	line, err := parent.said.ReadString('\n')
	if err != nil || strings.TrimSpace(line) != what {
		t.Fatalf("the runner said %q and %v, want %q", line, err, what)
	}
}

func TestARunnerThatIsStoppedIsLostWhenItHasBeenSilentForLong(t *testing.T) {
	t.Parallel()
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guest, i := expect(t, newHome(t, &link.HomeOptions{Silence: 2 * time.Second}), "r", way)
			runner, _ := start(t, -1, "runner", i.Encode())
			parent, err := guest.Wait(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			go func() { _ = parent.Serve(func([]byte) {}) }()
			if err := runner.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			if end := over(t, parent); !end.Lost {
				t.Errorf("the end: got %v, want a loss", end)
			}
			if err := runner.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			_ = runner.Wait() // a runner that was given up ends with an error
		})
	}
}

func TestProcessesThatWereStoppedTogetherDoNotTakeEachOtherForLost(t *testing.T) {
	t.Parallel()
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const silence = 4 * time.Second
			parent, invitation := start(t, -1, "parent", fmt.Sprint(t.TempDir(), "/home ", silence, " ", way))
			runner, _ := start(t, -1, "runner", invitation)
			ask(t, parent, "before")
			for _, p := range []*child{parent, runner} {
				if err := p.Process.Signal(syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			}
			<-time.After(silence * 3 / 2)
			for _, p := range []*child{parent, runner} {
				if err := p.Process.Signal(syscall.SIGCONT); err != nil {
					t.Fatal(err)
				}
			}
			ask(t, parent, "after")
		})
	}
}

func TestAHomeClearsAwayWhatAKilledOneLeft(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "home")
	killed, _ := start(t, -1, "parent", fmt.Sprint(dir, " ", never, " unix:"))
	living, invitation := start(t, -1, "parent", fmt.Sprint(dir, " ", never, " unix:"))
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = killed.Wait() // it was killed
	newHome(t, &link.HomeOptions{Dir: dir})
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("sockets of a killed, a living and a new home: got %v and %v, want two", entries, err)
	}
	for _, e := range entries {
		if pid, _, _ := strings.Cut(e.Name(), "-"); pid == strconv.Itoa(killed.Process.Pid) {
			t.Errorf("the socket %s of the killed home is still there", e.Name())
		}
	}
	start(t, -1, "runner", invitation)
	ask(t, living, "the living one was left alone")
}
