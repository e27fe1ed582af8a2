//go:build failpoint

package failpoint

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// TestMain runs the program that the tests start again with failpoints set: it hits the point "a" once, and exits
// with 0 when that returned nil and with 3 when it returned the right error.
func TestMain(m *testing.M) {
	if os.Getenv("HIT_AND_EXIT") == "" {
		os.Exit(m.Run())
	}
	switch err := Hit("a"); {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, fault.Unavailable):
		os.Exit(3)
	}
	os.Exit(1)
}

// hit runs this test binary with a program for the point "a" and returns how it ended.
func hit(t *testing.T, program string) (*os.ProcessState, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "HIT_AND_EXIT=1", Variable+"="+program)
	output, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("the program could not be started: %v", err)
	}
	return cmd.ProcessState, string(output)
}

func TestEachActionDoesWhatItsNameSays(t *testing.T) {
	t.Parallel()
	for program, want := range map[string]int{"": 0, "b=error": 0, "a=off": 0, "a=error": 3, "a=1*off->error": 0} {
		if got, output := hit(t, program); got.ExitCode() != want {
			t.Errorf("%q exited with %d, want %d\n%s", program, got.ExitCode(), want, output)
		}
	}
	if _, output := hit(t, "a=panic"); !strings.Contains(output, "failpoint a") {
		t.Errorf("panic printed %q, want a panic that names the point", output)
	}
	state, _ := hit(t, "a=kill")
	if status := state.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Errorf("kill ended with %v, want SIGKILL", state)
	}
	start := time.Now()
	if state, _ := hit(t, "a=delay(200)"); state.ExitCode() != 0 || time.Since(start) < 200*time.Millisecond {
		t.Errorf("delay(200) exited with %d after %v, want 0 after at least 200ms", state.ExitCode(), time.Since(start))
	}
	if _, output := hit(t, "nonsense"); !strings.Contains(output, "NAME=PROGRAM") {
		t.Errorf("nonsense printed %q, want a panic that says what is wrong", output)
	}
}
