package local_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
)

// enter runs a script in a machine: "TESTBINARY enter DIR MACHINE SCRIPT".
func enter(args []string) error {
	p, err := local.New(local.Options{Dir: args[0], Supervisor: []string{os.Args[0], "supervise"}})
	if err != nil {
		return err
	}
	cmd := &machine.Command{Args: []string{"sh", "-c", args[2]}, Stdout: os.Stdout, Stderr: os.Stderr}
	_, err = p.Exec(context.Background(), args[1], cmd)
	return err
}

func TestACommandEndsWithTheProcessThatWantedItAndTheMachineRunsOn(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, scan bool) {
		dir := newDir(t)
		p := newProvider(t, dir, scan)
		m, err := p.Create(t.Context(), &machine.Spec{
			Name: "m1", Owner: "me", Lifetime: 10 * time.Minute, Command: []string{"sleep", "600"},
		})
		if err != nil {
			t.Fatal(err)
		}
		child := exec.Command(os.Args[0], "enter", dir, m.ID, "sleep 600 & echo $! $$; wait")
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		said, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatalf("the command said %q, and then: %v", said, err)
		}
		_ = child.Process.Kill()
		_ = child.Wait()
		for text := range strings.FieldsSeq(said) {
			pid, err := strconv.Atoi(text)
			if err != nil {
				t.Fatalf("the command said %q, want two process ids", said)
			}
			eventually(t, fmt.Sprintf("process %d of the command has ended", pid), func() bool { return !alive(pid) })
		}
		if got, err := p.Get(t.Context(), m.ID); err != nil || got.State != machine.Running {
			t.Errorf("the machine after that: got %+v and error %v, want it to run on", got, err)
		}
		if err := p.Destroy(t.Context(), m.ID); err != nil {
			t.Errorf("Destroy: got error %v, want nil", err)
		}
	})
}
