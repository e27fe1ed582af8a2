//go:build failpoint

package sqlite_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/failpoint"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
)

// TestAWriteThatFailsAtAPointIsDoneOrNotDone lets each operation fail, in a process of its own, before and after the
// commit, with an error and with a kill, and looks at what a new process finds.
func TestAWriteThatFailsAtAPointIsDoneOrNotDone(t *testing.T) {
	t.Parallel()
	for _, op := range sqlite.Ops() {
		for _, when := range []string{"before", "after"} {
			for _, action := range []string{"error", "kill"} {
				t.Run(op+"/"+when+"/"+action, func(t *testing.T) {
					t.Parallel()
					path := t.TempDir() + "/store.db"
					failAt(t, op, path, "store."+op+"."+when+"=1*"+action, action == "kill")
					s := open(t, path, nil)
					done, err := operations()[op].done(s)
					if err != nil {
						t.Fatal(err)
					}
					if want := when == "after"; done != want {
						t.Errorf("after a failure %s the commit the write is done: %v, want %v", when, done, want)
					}
				})
			}
		}
	}
}

// failAt carries out an operation in a process with these failpoints.
func failAt(t *testing.T, op, path, points string, killed bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), asOperator+"="+op, "DAYFLY_TEST_PATH="+path, failpoint.Variable+"="+points)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	output, err := cmd.Output()
	if complaints.Len() > 0 {
		t.Fatalf("with %s it said %q", points, complaints.String())
	}
	if killed {
		if cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("with %s it ended with %v, want it killed", points, err)
		}
		return
	}
	want := string(fault.Unavailable) + " ok\n"
	if err != nil || string(output) != want {
		t.Fatalf("with %s it printed %q, error %v; want %q: the error, and that the store goes on", points, output, err, want)
	}
}

func TestAMigrationThatIsKilledIsDoneByTheNextProcess(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before", "after"} {
		path := t.TempDir() + "/store.db"
		failAt(t, "submit", path, "store.migrate."+when+"=1*kill", true)
		submit(t, open(t, path, nil), 1)
	}
}
