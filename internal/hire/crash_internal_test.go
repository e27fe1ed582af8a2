//go:build failpoint

package hire

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/dayfly-run/dayfly/internal/failpoint"
)

// asKeeper is the environment variable that makes the test's program keep programs in this directory.
const asKeeper = "HIRE_TEST_PROGRAMS"

// TestMain is that program, when it is told to be.
func TestMain(m *testing.M) {
	if dir := os.Getenv(asKeeper); dir != "" {
		keepTwo(dir)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// keepTwo uploads two programs, of which one may be kept, and prints what was acknowledged. What fails is done again.
func keepTwo(dir string) {
	p := &programs{dir: dir, most: 1, mostBytes: 1 << 20, life: DefaultProgramLife, needed: func(string) bool { return false }, log: quiet()}
	if err := p.open(); err != nil {
		fmt.Println(err)
	}
	for _, name := range []string{"first", "second"} {
		program := text(name, 5000)
		_, err := p.receive(all("web", name, program), bytes.NewReader(program))
		if err != nil {
			_, err = p.receive(all("web", name, program), bytes.NewReader(program))
		}
		fmt.Println(name, err)
	}
}

// TestAProgramIsWholeOrNotThereWhenTheServerIsKilled lets a server fail at each point, and looks at what the next one finds.
func TestAProgramIsWholeOrNotThereWhenTheServerIsKilled(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"program.put.before", "program.put.after", "program.delete.before", "program.delete.after"} {
		for _, action := range []string{"1*error", "1*kill", "1*off->1*kill"} {
			if strings.HasPrefix(action, "1*off") && strings.HasPrefix(point, "program.delete") {
				continue // which is passed once
			}
			t.Run(point+"="+action, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				cmd := exec.CommandContext(t.Context(), os.Args[0])
				cmd.Env = append(os.Environ(), asKeeper+"="+dir, failpoint.Variable+"="+point+"="+action)
				said, err := cmd.Output()
				killed := cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled()
				if killed != strings.HasSuffix(action, "kill") {
					t.Fatalf("the program ended with %v and said %s, want it killed if it was to be", err, said)
				}
				again := newPrograms(t, dir, 1, 1<<20, nil)
				for _, name := range []string{"first", "second"} {
					program := text(name, 5000)
					digest := digestOf(program)
					there := again.state("web", digest).Whole
					if there {
						file, release, err := again.use(digest)
						if err != nil {
							t.Fatal(err)
						}
						if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, program) {
							t.Errorf("the %s program: got %d bytes and error %v, want it whole", name, len(got), err)
						}
						release()
					}
					if name == "second" && !there && !killed { // the first has given way to it
						t.Errorf("the second program is not there, and the server said %s", said)
					}
				}
				if entries := left(t, dir); len(entries) > 1 {
					t.Errorf("got %q in the directory, want one program at most", entries)
				}
			})
		}
	}
}
