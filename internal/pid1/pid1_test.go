package pid1_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/pid1"
	"github.com/dayfly-run/dayfly/machine"
)

// TestMain is also the program under test, which takes the signals and the children of its process.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 2 && os.Args[1] == "run":
		lifetime, err := time.ParseDuration(os.Args[2])
		if err != nil {
			panic(err)
		}
		removed := func() bool { return false }
		if file := os.Getenv("NOTE"); file != "" {
			note, err := pid1.Begin(file)
			if err != nil {
				panic(err)
			}
			removed = note.Removed
		}
		exit := pid1.Run(os.Args[3:], lifetime, agent.BootClock, removed, func() pid1.Order { return pid1.LastOrder(os.Getenv("ORDER")) })
		text, err := json.Marshal(exit)
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(os.Stderr, "%s", text)
		os.Exit(pid1.Status(&exit))
	case len(os.Args) > 3 && os.Args[1] == "exec":
		status, err := pid1.Exec(os.Args[3:], os.Args[2], 0, 0)
		fmt.Fprint(os.Stderr, err)
		os.Exit(status)
	}
	os.Exit(m.Run())
}

// begin starts the program; its output is complete when it has ended.
func begin(t *testing.T, args ...string) (cmd *exec.Cmd, stdout, stderr *strings.Builder) {
	t.Helper()
	cmd = exec.Command(os.Args[0], args...)
	stdout, stderr = &strings.Builder{}, &strings.Builder{}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, stdout, stderr
}

func TestHowAProgramEndedIsToldByStatusAndInFull(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		lifetime string
		argv     []string
		status   int
		want     machine.Exit
	}{
		"a status":           {"1m", []string{"sh", "-c", "exit 7"}, 7, machine.Exit{Code: 7}},
		"success":            {"1m", []string{"true"}, 0, machine.Exit{}},
		"a signal":           {"1m", []string{"sh", "-c", "kill -SEGV $$"}, 128 + 11, machine.Exit{Code: -1, Signal: "SIGSEGV"}},
		"its lifetime":       {"100ms", []string{"sleep", "60"}, 128 + 15, machine.Exit{Code: -1, Signal: "SIGTERM", Expired: true}},
		"its lifetime, well": {"500ms", []string{"sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done"}, 128 + 15, machine.Exit{Expired: true}},
		"no program": {"1m", []string{"no-such-program-anywhere"}, 127, machine.Exit{Code: 127,
			Message: `The program "no-such-program-anywhere" was not found; check its spelling, or use an image that has it.`}},
		"no executable": {"1m", []string{"/etc/passwd"}, 126, machine.Exit{Code: 126, Message: `The program "/etc/passwd" cannot be executed: permission denied.`}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			cmd, _, stderr := begin(t, append([]string{"run", c.lifetime}, c.argv...)...)
			_ = cmd.Wait() // its status is looked at below
			var got machine.Exit
			text := stderr.String()
			if err := json.Unmarshal([]byte(text[max(0, strings.LastIndex(text, "{")):]), &got); err != nil {
				t.Fatalf("it said %q: %v", text, err)
			}
			if !reflect.DeepEqual(got, c.want) || cmd.ProcessState.ExitCode() != c.status {
				t.Errorf("got %+v and status %d, want %+v and status %d", got, cmd.ProcessState.ExitCode(), c.want, c.status)
			}
		})
	}
}

func TestSignalsReachTheProgram(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		send syscall.Signal
		name string
	}{{syscall.SIGINT, "INT"}, {syscall.SIGTERM, "TERM"}, {syscall.SIGTERM + 33, "TERM"}, {syscall.SIGURG + 33, "URG"}, {syscall.SIGCHLD + 33, "CHLD"}} {
		t.Run(c.send.String(), func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "ready")
			cmd, stdout, _ := begin(t, "run", "1m", "sh", "-c", "trap 'echo got; trap - CHLD; exit 3' "+c.name+"; : >"+file+"; while :; do read x </dev/null; done")
			awaitFile(t, file)
			if err := cmd.Process.Signal(c.send); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if stdout.String() != "got\n" || cmd.ProcessState.ExitCode() != 3 {
				t.Errorf("got %q and status %d, want what the trap prints, and 3", stdout, cmd.ProcessState.ExitCode())
			}
		})
	}
}

func awaitFile(t *testing.T, file string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		if _, err := os.Stat(file); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: got nothing, want the program to make it", file)
		}
	}
}

func TestExecBecomesTheProgramInItsDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd, stdout, stderr := begin(t, "exec", dir, "sh", "-c", "pwd; exit 5")
	_ = cmd.Wait()
	if got := strings.TrimSpace(stdout.String()); got != dir || cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("got %q, %q and status %d, want %q and 5", got, stderr, cmd.ProcessState.ExitCode(), dir)
	}
	for dir, status := range map[string]int{"/no/such/place": 126} {
		cmd, _, stderr := begin(t, "exec", dir, "true")
		_ = cmd.Wait()
		if cmd.ProcessState.ExitCode() != status || !strings.Contains(stderr.String(), dir) {
			t.Errorf("in %s: got status %d and %q, want %d and the directory's name", dir, cmd.ProcessState.ExitCode(), stderr, status)
		}
	}
}

func TestKillEndsWhatHasTheVariableAndNothingElse(t *testing.T) {
	t.Parallel()
	mark := fmt.Sprintf("DAYFLY_TEST_MARK=%d-%d", os.Getpid(), time.Now().UnixNano())
	start := func(env ...string) (cmd *exec.Cmd, ended chan struct{}) {
		cmd = exec.Command("sleep", "60")
		cmd.Env = append(os.Environ(), env...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended = make(chan struct{})
		go func() { defer close(ended); _ = cmd.Wait() }()
		t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
		return cmd, ended
	}
	_, ended := start(mark)
	_, spared := start(mark + "1")
	pid1.Kill(mark)
	<-ended
	select {
	case <-spared:
		t.Error("a process with another variable: got its end, want it to run")
	default:
	}
}

func TestANoteTellsThatAMachineHasBegunAndHowItEnded(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "note")
	if _, err := pid1.Begin(file); err == nil {
		t.Error("Begin of a file that does not exist: got no error, want one")
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	note, err := pid1.Begin(file)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "\n" {
		t.Errorf("after Begin: got %q and error %v, want an empty line", text, err)
	}
	if err := note.End(&machine.Exit{Code: 126, Message: "no"}); err != nil {
		t.Fatal(err)
	}
	var exit machine.Exit
	if text, err := os.ReadFile(file); err != nil || json.Unmarshal(text, &exit) != nil || exit.Code != 126 || exit.Message != "no" {
		t.Errorf("after End: got %q and error %v, want the exit as it was given", text, err)
	}
}

func TestAProgramEndsWhenItsContainerIsRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, ready := filepath.Join(dir, "note"), filepath.Join(dir, "ready")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "run", "10m", "sh", "-c", ": >"+ready+"; exec sleep 600")
	cmd.Env = append(os.Environ(), "NOTE="+file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	awaitFile(t, ready)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its status is looked at below
	if got, want := cmd.ProcessState.ExitCode(), 128+int(syscall.SIGKILL); got != want {
		t.Errorf("a program whose container was removed: got status %d, want %d", got, want)
	}
}
