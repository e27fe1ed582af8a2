package process_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

// restart makes the test binary start one short process after the other in the group "one" until it is killed.
const restart = "DAYFLY_TEST_RESTART"

func startAgainAndAgain() int {
	host, err := process.NewHost(&process.Options{Prefix: os.Getenv("DAYFLY_TEST_PREFIX"), DisableCgroups: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	group, err := host.Group("one", machine.Size{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for {
		p, err := group.Start(&process.Command{Argv: []string{"true"}, Env: environment(), Dir: "/"})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		p.Exit()
		fmt.Println("again")
	}
}

func TestWhoeverEndsAGroupSparesTheProgramThatStartsProcessesInIt(t *testing.T) {
	t.Parallel()
	prefix := newPrefix()
	starter := exec.Command(os.Args[0])
	starter.Env = append(environment(), restart+"=1", "DAYFLY_TEST_PREFIX="+prefix)
	starter.Stderr = os.Stderr
	out, err := starter.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = starter.Process.Kill()
		_ = starter.Wait()
	}()
	host, err := process.NewHost(&process.Options{Prefix: prefix, DisableCgroups: true})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	var word string
	for range 20 {
		if _, err := fmt.Fscan(out, &word); err != nil {
			t.Fatalf("got %v, want a program that starts processes and lives on", err)
		}
		group, err := host.Find("one")
		if err != nil {
			t.Fatal(err)
		}
		// There may always be one more, so it need not come to an end.
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := group.Kill(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
	}
	for range 100 {
		if _, err := fmt.Fscan(out, &word); err != nil {
			t.Fatalf("got %v, want a program that starts processes and lives on", err)
		}
	}
}

func TestKillSparesWhatTheProgramStartsByOtherMeans(t *testing.T) {
	t.Parallel()
	host := newHost(t, true)
	group := newGroup(t, host, machine.Size{})
	over := make(chan struct{})
	var starts sync.WaitGroup
	starts.Go(func() {
		for {
			select {
			case <-over:
				return
			default:
			}
			if p, err := group.Start(&process.Command{Argv: []string{"true"}, Env: environment(), Dir: "/"}); err == nil {
				p.Exit()
			}
		}
	})
	var helpers []*exec.Cmd
	for range 50 {
		helper := exec.Command("sleep", "1000")
		helper.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
		if err := helper.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = helper.Process.Kill()
			_ = helper.Wait()
		}()
		helpers = append(helpers, helper)
	}
	close(over)
	starts.Wait()
	if err := group.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, helper := range helpers {
		if !alive(helper.Process.Pid) {
			t.Errorf("process %d was killed, which was not started in the group", helper.Process.Pid)
		}
	}
}

// TestKillWhileProcessesAreStarted collects garbage meanwhile, for which every thread has to come to a halt: none may
// wait for a process that is stopped until the search for others is over.
func TestKillWhileProcessesAreStarted(t *testing.T) {
	t.Parallel()
	host := newHost(t, true)
	for i := range 20 {
		group, err := host.Group(fmt.Sprint(i), machine.Size{})
		if err != nil {
			t.Fatal(err)
		}
		var starts sync.WaitGroup
		begun := make(chan struct{}, 1)
		starts.Go(func() {
			defer close(begun)
			for range 10 {
				_, err := group.Start(&process.Command{Argv: []string{"sleep", "1000"}, Env: environment(), Dir: filepath.Dir(os.Args[0])})
				if err != nil && !errors.Is(err, fault.Conflict) {
					t.Error(err)
				}
				select {
				case begun <- struct{}{}:
				default:
				}
			}
		})
		<-begun
		starts.Go(func() {
			for range 20 {
				runtime.GC()
			}
		})
		if err := group.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		starts.Wait()
		if err := group.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := group.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
