package process_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

// The tests with a bomb run alone: its processes come and go so fast that another test's search of /proc, which goes
// after all that is forked meanwhile, would not come to an end.

// bomb is a script that forks a tree of more than 20,000 processes, each of which would stay, and then behaves as said.
// A shell that cannot fork ends, which makes room for another to try, so that it never comes to rest.
func bomb(after string) string {
	return `grow() { [ $1 -gt 0 ] && { grow $(($1-1)) & grow $(($1-1)) & }; exec sleep 1000; }; grow 14 & ` + after
}

// members returns how many processes there are below a cgroup directory of the host.
func members(t *testing.T, host *process.Host, group string) int {
	t.Helper()
	text, err := os.ReadFile(host.Places()[0] + "/" + group + "/cgroup.procs")
	if err != nil {
		t.Fatal(err)
	}
	return len(strings.Fields(string(text)))
}

// bombHost returns a host whose brake holds if the limit that is tested does not.
func bombHost(t *testing.T, brake int) *process.Host {
	t.Helper()
	host, err := process.NewHost(&process.Options{Prefix: newPrefix(), Brake: brake})
	if err != nil {
		t.Fatal(err)
	}
	if !host.Abilities().Processes {
		t.Skipf("no pids controller: %v", host.Abilities().Why)
	}
	t.Cleanup(func() {
		eventually(t, "the host can be closed", func() bool { return host.Close() == nil })
		for _, place := range host.Places() {
			if _, err := os.Stat(place); err == nil {
				t.Errorf("%s is left, want nothing", place)
			}
		}
	})
	return host
}

func TestAForkBombIsHeldToItsLimitAndOthersGoOn(t *testing.T) {
	host := bombHost(t, 1000)
	group := newGroup(t, host, machine.Size{Processes: 64})
	p, file := start(t, group, "/", bomb("exec sleep 1000"))
	eventually(t, "the bomb has reached its limit", func() bool { return strings.Contains(read(t, file), "fork") })
	other, err := host.Group("other", machine.Size{})
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if n := members(t, host, "one"); n > 64 {
			t.Errorf("the bomb has %d processes, want at most 64", n)
		}
		if q, _ := start(t, other, "/", "true | true"); q != nil {
			if exit, _ := q.Exit(); !exit.OK() {
				t.Errorf("beside the bomb: got %+v, want success", exit)
			}
		}
	}
	if err := group.Kill(t.Context()); err != nil {
		t.Errorf("Kill: got %v, want nil", err)
	}
	if exit, _ := p.Exit(); exit.Signal != "SIGKILL" {
		t.Errorf("got %+v, want SIGKILL", exit)
	}
	eventually(t, "the other group can be removed", func() bool { return other.Close() == nil })
}

func TestWhoFailsForWantOfProcessesIsToldSo(t *testing.T) {
	t.Parallel()
	group := newGroup(t, bombHost(t, 1000), machine.Size{Processes: 8})
	p, _ := start(t, group, "/", `for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done`)
	if exit, _ := p.Exit(); exit.OK() || !strings.Contains(exit.Message, "limit of 8 processes") {
		t.Errorf("got %+v, want a failure that names the limit", exit)
	}
}

func TestTheBrakeHoldsAllGroupsTogether(t *testing.T) {
	host := bombHost(t, 50)
	first := newGroup(t, host, machine.Size{})
	_, file := start(t, first, "/", bomb("exec sleep 1000"))
	eventually(t, "the bomb has reached the brake", func() bool { return strings.Contains(read(t, file), "fork") })
	for range 20 {
		if n := members(t, host, "one"); n > 50 {
			t.Errorf("the bomb has %d processes, want at most 50", n)
		}
	}
	// There is no room for others, which are told so, until the bomb is ended.
	second, err := host.Group("second", machine.Size{})
	if err != nil {
		t.Fatal(err)
	}
	again := &process.Command{Argv: []string{"true"}, Env: environment(), Dir: "/"}
	eventually(t, "another group is refused a process", func() bool {
		_, err := second.Start(again)
		return fault.Of(err) == fault.Exhausted
	})
	if err := first.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err := second.Start(again)
	if err != nil {
		t.Fatalf("after the bomb was ended: %v", err)
	}
	if exit, _ := p.Exit(); !exit.OK() {
		t.Errorf("after the bomb was ended: got %+v, want success", exit)
	}
	eventually(t, "the second group can be removed", func() bool { return second.Close() == nil })
}

// TestWithoutCgroupsAUserIsHeldToWhatThereIsAndTheBrake runs a supervisor as a user of its own, since the kernel does
// not hold root to a limit on processes.
func TestWithoutCgroupsAUserIsHeldToWhatThereIsAndTheBrake(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can start a supervisor as another user, of whom there are no other processes")
	}
	supervisor := exec.Command("/proc/self/exe")
	supervisor.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 64_123, Gid: 64_123}}
	// The processes of other users leave room for so many more, so what holds is the sum.
	supervisor.Env = append(environment(), "DAYFLY_TEST_PREFIX="+newPrefix(), "DAYFLY_TEST_SCAN=1", "DAYFLY_TEST_BRAKE=40",
		supervise+`=sleep 0.2; sed -n "s/^Max processes *\([0-9]*\) *\([0-9]*\).*/\1 \2/p" /proc/$$/limits; cut -d/ -f2 /proc/loadavg | cut -d" " -f1`)
	out, err := supervisor.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	supervisor.Stderr = os.Stderr
	if err := supervisor.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = supervisor.Process.Kill()
		_ = supervisor.Wait()
	}()
	var soft, hard, present int
	if _, err := fmt.Fscan(out, &soft, &hard, &present); err != nil {
		t.Fatal(err)
	}
	// Others start and end processes meanwhile.
	if soft != hard || soft < present/2 || soft > 2*present+1000 {
		t.Errorf("got limits of %d and %d where there are %d processes and threads, want 40 more than that", soft, hard, present)
	}
}
