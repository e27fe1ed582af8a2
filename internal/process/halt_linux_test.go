package process_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

func TestWhatIsStartedInAHaltedGroupWaitsForItToGoOn(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, scan bool) {
		group := newGroup(t, newHost(t, scan), machine.Size{})
		start(t, group, t.TempDir(), "sleep 600")
		for range 2 {
			if err := group.Halt(); err != nil {
				t.Fatalf("Halt: got error %v, want nil", err)
			}
		}
		started := make(chan error, 2)
		begin := func() {
			_, err := group.Start(&process.Command{Argv: []string{"true"}, Env: environment(), Dir: "/"})
			started <- err
		}
		go begin()
		select {
		case err := <-started:
			t.Fatalf("Start in a halted group: it returned error %v, want it to wait", err)
		case <-time.After(50 * time.Millisecond):
		}
		if err := group.Resume(); err != nil {
			t.Fatalf("Resume: got error %v, want nil", err)
		}
		if err := <-started; err != nil {
			t.Errorf("Start in a group that was halted and goes on: got error %v, want nil", err)
		}
		if err := group.Halt(); err != nil {
			t.Fatalf("Halt again: got error %v, want nil", err)
		}
		go begin()
		if err := group.Kill(context.Background()); err != nil {
			t.Fatalf("Kill of a halted group: got error %v, want nil", err)
		}
		if err := <-started; err != nil && !errors.Is(err, fault.Conflict) {
			t.Errorf("Start in a halted group that is killed: got error %v, want it to start and be killed, or fault.Conflict", err)
		}
		if err := group.Kill(context.Background()); err != nil {
			t.Fatalf("Kill: got error %v, want nil", err)
		}
		if err := group.Halt(); !errors.Is(err, fault.Conflict) {
			t.Errorf("Halt of a killed group: got error %v, want fault.Conflict", err)
		}
	})
}

func TestASignalReachesOneProcessAndItsSessionEndsWithoutTheOthers(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, scan bool) {
		group, dir := newGroup(t, newHost(t, scan), machine.Size{}), t.TempDir()
		other, _ := start(t, group, dir, "sleep 600")
		p, out := start(t, group, dir, "sleep 600 & echo $!; wait")
		child := 0
		eventually(t, "the job of the session runs", func() bool {
			child, _ = strconv.Atoi(strings.TrimSpace(read(t, out)))
			return child > 0
		})
		p.EndSession()
		if exit, _ := p.Exit(); exit.Signal != "SIGKILL" {
			t.Errorf("a process whose session was ended: got %+v, want SIGKILL", exit)
		}
		eventually(t, "the job of the session has ended", func() bool { return !alive(child) })
		if err := p.Signal(1); !errors.Is(err, fault.Conflict) {
			t.Errorf("Signal to a process that has ended: got error %v, want fault.Conflict", err)
		}
		if err := other.Signal(15); err != nil {
			t.Fatalf("Signal: got error %v, want nil", err)
		}
		if exit, _ := other.Exit(); exit.Signal != "SIGTERM" {
			t.Errorf("a process that was sent SIGTERM: got %+v, want that signal", exit)
		}
	})
}

func TestAKilledGroupCanBeUsedAgainOnceItIsRevived(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, scan bool) {
		group := newGroup(t, newHost(t, scan), machine.Size{Processes: 50})
		start(t, group, t.TempDir(), "sleep 600 & wait")
		if err := group.Revive(); err != nil {
			t.Errorf("Revive of a group that was not killed: got error %v, want nil", err)
		}
		if err := group.Kill(context.Background()); err != nil {
			t.Fatalf("Kill: got error %v, want nil", err)
		}
		if err := group.Revive(); err != nil {
			t.Fatalf("Revive: got error %v, want nil", err)
		}
		p, out := start(t, group, t.TempDir(), "echo again; sleep 600 & exit 3")
		if exit, _ := p.Exit(); exit.Code != 3 || read(t, out) != "again\n" {
			t.Errorf("a process in a revived group: got %+v and %q, want it to run", exit, read(t, out))
		}
		if err := group.Kill(context.Background()); err != nil {
			t.Fatalf("Kill of a revived group: got error %v, want nil", err)
		}
		if empty, err := group.Empty(); err != nil || !empty {
			t.Errorf("a revived group that was killed: got empty %v and error %v, want nothing left", empty, err)
		}
	})
}

func TestARenewedGroupHasItsLimitsAnewAndNothingOfTheTreeBefore(t *testing.T) {
	t.Parallel()
	host := newHost(t, false)
	group := newGroup(t, host, machine.Size{Processes: 64})
	p, _ := start(t, group, t.TempDir(), "sleep 1000 & exec sleep 1000")
	if err := group.Renew(); !errors.Is(err, fault.Conflict) {
		t.Errorf("Renew while something runs: got error %v, want fault.Conflict", err)
	}
	for range 2 {
		if err := group.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		if err := group.Renew(); err != nil {
			t.Fatalf("Renew of a group that was killed: got error %v, want nil", err)
		}
		if empty, err := group.Empty(); !empty || err != nil {
			t.Errorf("a renewed group: got empty %v and error %v, want true", empty, err)
		}
		p, _ = start(t, group, t.TempDir(), "exec sleep 1000")
	}
	if err := group.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := group.Close(); err != nil {
		t.Fatal(err)
	}
	if err := group.Renew(); !errors.Is(err, fault.Conflict) {
		t.Errorf("Renew of a group that is closed: got error %v, want fault.Conflict", err)
	}
}
