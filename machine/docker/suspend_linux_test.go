package docker_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/dockertest"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/docker"
)

// The first process of a container is scheduled when it is. It must not matter whether it comes to see an order before the
// next one is given.
func TestAContainerDoesWhatItWasToldLast(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]*dockertest.Engine{"Docker": dockertest.Shared(t), "Podman": dockertest.SharedPodman(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := providerOf(t, e, nil)
			spec := fresh(t, e, e.Image(t, "dayfly-test/here:1", "WORKDIR /tmp"), "sleep", "600")
			spec.Lifetime = 10 * time.Minute // a busy computer takes long for all that follows
			m, err := p.Create(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			pids := awaitTree(t, m)
			for _, orders := range [][]string{
				{"resume", "suspend"},
				{"suspend", "resume"},
				{"suspend", "resume", "suspend"},
				{"resume", "suspend", "resume"},
			} {
				whileHalted(t, pids[0], func() { give(t, p, m.ID, orders) })
				want := orders[len(orders)-1] == "suspend"
				awaitHalted(t, pids[1], want, fmt.Sprintf("after %v", orders))
			}
		})
	}
}

// give gives a machine orders, one after the other.
func give(t *testing.T, p *docker.Provider, id string, orders []string) {
	t.Helper()
	for _, order := range orders {
		call := p.Suspend
		if order == "resume" {
			call = p.Resume
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		err := call(ctx, id)
		cancel()
		if err != nil {
			t.Fatalf("%s of a machine whose first process is not scheduled: got error %v, want nil", order, err)
		}
	}
}

// whileHalted halts a process, as a computer does that is busy with others, while it calls do.
func whileHalted(t *testing.T, pid int, do func()) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	}()
	do()
}

// awaitTree waits until a machine runs its first process and one more, and returns them.
func awaitTree(t *testing.T, m *machine.Machine) [2]int {
	t.Helper()
	var pids [2]int
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; <-tick.C {
		for _, dir := range processes(t, m) {
			pid, err := strconv.Atoi(filepath.Base(dir))
			if err != nil {
				t.Fatal(err)
			}
			args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
			switch {
			case strings.Contains(string(args), "\x00init\x00"):
				pids[0] = pid
			case strings.HasPrefix(string(args), "sleep\x00"):
				pids[1] = pid
			}
		}
		if pids[0] != 0 && pids[1] != 0 {
			return pids
		}
		if time.Now().After(deadline) {
			t.Fatalf("the processes of machine %s: got %v, want its first and its command", m.ID, pids)
		}
	}
}

// awaitHalted waits until a process is halted, or is not, and checks that it stays so for a while.
func awaitHalted(t *testing.T, pid int, want bool, when string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	same := 0
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(text), "\nState:\tT"); got == want {
			if same++; same == 20 {
				return
			}
		} else if same = 0; time.Now().After(deadline) {
			t.Fatalf("a machine %s: got halted=%t, want %t", when, got, want)
		}
	}
}
