//go:build linux

package survival_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
)

// TestNothingSurvivesAKilledAgent kills the supervisor of a command that has started a daemon far away from itself.
func TestNothingSurvivesAKilledAgent(t *testing.T) {
	t.Parallel()
	in := install(t)
	in.start("")
	spec, file := in.daemonizing(t)
	spec.Retry.MaxAttempts = 1
	job := in.submit(spec)
	run := in.running(job.ID)
	daemon := in.pidIn(file)

	killAgent(t, run)
	began := time.Now()
	in.check(job.ID, outcome{state: dayfly.Failed, reason: dayfly.ReasonMachineLost, exit: -1, attempts: 1})
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the attempt ended %v after its agent was killed, want at most 15s", took)
	}
	in.empty()
	in.gone(daemon)
}

// TestAJobWhoseAgentIsKilledIsTriedAgain kills the supervisor of the first attempt only.
func TestAJobWhoseAgentIsKilledIsTriedAgain(t *testing.T) {
	t.Parallel()
	in := install(t)
	in.start("")
	job := in.submit(in.shell(ledgerLine("start") + `echo "attempt $DAYFLY_ATTEMPT"; [ "$DAYFLY_ATTEMPT" = 1 ] && sleep 600; ` + ledgerLine("end") + "exit 0"))
	run := in.running(job.ID)
	bystander := in.submit(in.spec(task{lines: 10, exit: taskExit}))
	killAgent(t, run)

	ended := in.check(job.ID, outcome{state: dayfly.Succeeded, attempts: 2})
	if got := ended.Attempts[0]; got.State != dayfly.AttemptLost || got.Reason != dayfly.ReasonMachineLost {
		t.Errorf("the first attempt: got %s %s, want lost machine_lost", got.State, got.Reason)
	}
	if got, want := string(in.printed(job.ID, 2, "stdout")), "attempt 2\n"; got != want {
		t.Errorf("the second attempt printed %q, want %q", got, want)
	}
	// Machines of other jobs may have gone down with the agent, but no job has.
	if got := in.ended(bystander.ID); got.Reason != dayfly.ReasonExitNonzero {
		t.Errorf("a job beside it ended as %s, reason %q, want its own exit code: %s", got.State, got.Reason, attemptsOf(got))
	}
	in.empty()
}

// TestAZombieIsRefused stops the agent of an attempt until it has been given up and another attempt has won, and then
// lets it go on.
func TestAZombieIsRefused(t *testing.T) {
	t.Parallel()
	in := install(t, "DAYFLY_TIMEOUTS_LOST_AFTER=1s", "DAYFLY_TIMEOUTS_UNREACHABLE_AFTER=2s")
	in.start("")
	// The first attempt is about to succeed whenever it is let; if it ever does, that is on record.
	job := in.submit(in.shell(ledgerLine("start") + `
		if [ "$DAYFLY_ATTEMPT" = 1 ]; then
			while [ ! -e "$LEDGER.go" ]; do sleep 0.02; done
			echo zombie > "$DAYFLY_RESULT"; ` + ledgerLine("end") + `exit 0
		fi
		echo '"second"' > "$DAYFLY_RESULT"; ` + ledgerLine("end") + "exit 0"))
	zombie := in.running(job.ID)
	if err := syscall.Kill(zombie.parent, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ended := in.check(job.ID, outcome{state: dayfly.Succeeded, attempts: 2})
	if got := ended.Attempts[0].State; got != dayfly.AttemptLost {
		t.Errorf("the attempt whose agent was stopped is %s, want lost: %s", got, attemptsOf(ended))
	}

	if err := os.WriteFile(in.ledgerFile()+".go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	// If the agent has been killed meanwhile, so much the better.
	_ = syscall.Kill(zombie.parent, syscall.SIGCONT)
	in.empty()
	in.gone(zombie.pid)
	after := in.check(job.ID, outcome{state: dayfly.Succeeded, attempts: 2})
	if got := string(after.Result); got != `"second"` {
		t.Errorf("the job's result is %s, want that of the second attempt", got)
	}
	if len(in.entries("end", job.ID)) != 1 {
		t.Errorf("got these ends in the ledger: %v, want only that of the second attempt", in.entries("end", job.ID))
	}
	// Whoever comes after it finds the house in order.
	k := task{lines: 3, exit: taskExit}
	in.checkTask(in.submit(in.spec(k)).ID, k)
	in.empty()
}

// TestAProcessThatGotADeadAgentsIDIsLeftAlone makes another process look like the agent that has died.
func TestAProcessThatGotADeadAgentsIDIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(info map[string]any){
		"in the same boot": func(map[string]any) {},
		"in another boot":  func(info map[string]any) { info["boot"] = "00000000-0000-0000-0000-000000000000" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := install(t)
			s := in.start("")
			spec := in.shell(ledgerLine("start") + "exec sleep 600")
			spec.Retry.MaxAttempts = 1
			job := in.submit(spec)
			run := in.running(job.ID)
			s.kill(t)
			killAgent(t, run)
			null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer null.Close()
			other, err := hire([]string{"/bin/sleep", "600"}, os.Environ(), null)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := other.dismiss(); err != nil {
					t.Error(err)
				}
			}()
			in.changeAgentInfo(func(info map[string]any) {
				info["pid"] = other.pid
				change(info)
			})

			in.start("")
			in.check(job.ID, outcome{state: dayfly.Failed, reason: dayfly.ReasonMachineLost, exit: -1, attempts: 1})
			in.empty()
			select {
			case <-other.ended:
				t.Errorf("the other process was ended: %s", describe(other.status))
			default:
			}
		})
	}
}

// changeAgentInfo changes what the installation's only agent has written about itself.
func (in *installation) changeAgentInfo(change func(info map[string]any)) {
	in.t.Helper()
	files, err := filepath.Glob(filepath.Join(in.dir, "machines", "supervisors", "*", "info.json"))
	if err != nil || len(files) != 1 {
		in.t.Fatalf("got these files of agents: %v (%v), want one", files, err)
	}
	var info map[string]any
	if err := json.Unmarshal([]byte(read(in.t, files[0])), &info); err != nil {
		in.t.Fatal(err)
	}
	change(info)
	text, err := json.Marshal(info)
	if err == nil {
		err = os.WriteFile(files[0], text, 0o600)
	}
	if err != nil {
		in.t.Fatal(err)
	}
}

// killAgent kills the process that has started a command.
func killAgent(t *testing.T, run entry) {
	t.Helper()
	agent, ok := lookAt(run.parent)
	if !ok || filepath.Dir(agent.program) != workshop() {
		t.Fatalf("the command's parent is %v, which is not an agent of ours", agent)
	}
	if err := syscall.Kill(run.parent, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// daemonizing returns a job that starts a daemon and goes on, and the file in which the daemon notes its process id.
func (in *installation) daemonizing(t *testing.T) (*dayfly.JobSpec, string) {
	file := filepath.Join(in.files, "daemon")
	start := strings.Join(helper(t, "daemon", file), " ")
	return in.shell(start + " && " + ledgerLine("start") + "while :; do sleep 1; done"), file
}

// pidIn reads a process id from a file and makes sure that the process lives.
func (in *installation) pidIn(file string) int {
	in.t.Helper()
	var pid int
	eventually(in.t, patience, "the daemon begins", func() error {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		pid, err = strconv.Atoi(string(text))
		return err
	})
	if p, ok := lookAt(pid); !ok {
		in.t.Fatalf("the daemon %v does not live, so that its end would prove nothing", p)
	}
	return pid
}

// gone makes sure that a process of the installation has ended.
func (in *installation) gone(pid int) {
	in.t.Helper()
	eventually(in.t, 10*time.Second, fmt.Sprintf("process %d ends", pid), func() error {
		for _, p := range below(in.nannies()...) {
			if p.pid == pid {
				return fmt.Errorf("it is there: %v", p)
			}
		}
		return nil
	})
}
