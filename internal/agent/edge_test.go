package agent_test

import (
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/agent/memhome"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// TestRunLeavesNoGoroutineBehind does not run in parallel, so that the goroutines of other tests do not count.
func TestRunLeavesNoGoroutineBehind(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Run("attempts", func(t *testing.T) {
		home := memhome.New(t)
		job := script("echo hello; cp in out; sleep 0.3")
		job.Inputs, job.Outputs = []wire.Input{home.Input("in", []byte("content"))}, []string{"out"}
		shared, direct := agent.NewShared("test"), agent.NewDirect("test")
		for _, link := range []agent.Link{shared, direct} {
			web := &http.Client{Transport: &http.Transport{}}
			boot := home.Add(job)
			exit := agent.Run(t.Context(), link, newPlace(t, boot), &agent.Options{Web: web})
			wantOutcome(t, exit, home.Attempt(boot.Attempt), wire.Succeeded, "")
			web.CloseIdleConnections()
		}
		shared.Close()
		direct.Close()
	})
	goleak.VerifyNone(t, before)
}

func TestOutputHeldOpenFromOutsideDoesNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	link := agent.NewShared("test")
	t.Cleanup(link.Close)
	r := begin(t, home, link, script("echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done; echo last words"), nil)
	held, err := os.OpenFile("/proc/"+r.awaitFile(t, "pid")+"/fd/1", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	touch(t, r, "go")
	exit := r.wait(t)
	a := home.Attempt(r.id)
	wantOutcome(t, exit, a, wire.Succeeded, "")
	if got := string(a.Streams[wire.Stdout].Data); got != "last words\n" {
		t.Errorf("stdout = %q", got)
	}
	if len(a.Result.Warnings) != 1 || !strings.Contains(a.Result.Warnings[0], "held the command's stdout open") {
		t.Errorf("warnings %q, want one about the pipe", a.Result.Warnings)
	}
}

func TestSuspendWhileInputsAreFetchedStartsNothing(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	clock := newClock()
	link := agent.NewDirect("test")
	t.Cleanup(link.Close)
	home.Fault = func(c memhome.Call) memhome.Failure {
		if c.Kind == "get" {
			clock.advance(time.Hour)
		}
		return memhome.Failure{}
	}
	job := script("echo ran > ran")
	job.HeartbeatMS = 60_000
	job.Inputs = []wire.Input{home.Input("in", []byte("content"))}
	r := begin(t, home, link, job, &agent.Options{Clock: clock.now})
	if exit := r.wait(t); exit.Code != agent.ExitNotOurs {
		t.Errorf("exit %+v, want code %d", exit, agent.ExitNotOurs)
	}
	if a := home.Attempt(r.id); a.Result != nil || r.has("ran") {
		t.Errorf("result %+v, ran = %v; want neither", a.Result, r.has("ran"))
	}
}

func TestServerThatStoresNoOutputDoesNotHoldUpTheEndForEver(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	clock := newClock()
	link := agent.NewDirect("test")
	t.Cleanup(link.Close)
	home.Fault = func(c memhome.Call) memhome.Failure {
		if c.Kind == "log" {
			return memhome.Failure{Status: http.StatusInsufficientStorage, Code: "store_full"}
		}
		return memhome.Failure{}
	}
	job := script("head -c 200000 /dev/zero; echo ended > ended")
	job.HeartbeatMS = 20
	r := begin(t, home, link, job, &agent.Options{Clock: clock.now})
	r.awaitFile(t, "ended")
	eventually(t, "the result is in", func() bool {
		// The server goes on answering heartbeats, so the silence is never long.
		clock.advance(100 * time.Millisecond)
		return home.Attempt(r.id).Result != nil
	})
	exit := r.wait(t)
	a := home.Attempt(r.id)
	wantOutcome(t, exit, a, wire.Succeeded, "")
	if s := a.Streams[wire.Stdout]; len(s.Gaps) != 1 || s.Gaps[0].Gap != 200_000 || !strings.Contains(s.Gaps[0].Why, "did not store the end of the output") {
		t.Errorf("gaps %+v, want one of all bytes with the reason", s.Gaps)
	}
}

func TestMachineThatCannotStartAnythingSaysSo(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	boot := home.Add(script("echo ran > ran"))
	place := newPlace(t, boot)
	if err := place.Group.Close(); err != nil {
		t.Fatal(err)
	}
	exit := agent.Run(t.Context(), agent.NewDirect("test"), place, nil)
	a := home.Attempt(boot.Attempt)
	wantOutcome(t, exit, a, wire.Failed, "never_started")
	if a.Result.Started || !strings.Contains(a.Result.Message, "could not be started") {
		t.Errorf("started = %v, message %q", a.Result.Started, a.Result.Message)
	}
}

// crowd fills the machine's group with processes until no other can be started, and returns what makes room again.
func crowd(t *testing.T, group *process.Group) (leave func()) {
	t.Helper()
	var crowd []*process.Process
	leave = func() {
		for _, p := range crowd {
			if err := syscall.Kill(p.Pid(), syscall.SIGKILL); err != nil {
				t.Error(err)
			}
			<-p.Done()
		}
		crowd = nil
	}
	t.Cleanup(func() { leave() })
	for {
		p, err := group.Start(&process.Command{Argv: []string{"sleep", "1000"}, Env: minimal, Dir: "/"})
		if fault.Of(err) == fault.Exhausted {
			return leave
		}
		if err != nil {
			t.Fatal(err)
		}
		crowd = append(crowd, p)
	}
}

func TestCommandThatThereIsNoRoomForIsStartedWhenThereIs(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	link := agent.NewDirect("test")
	t.Cleanup(link.Close)
	boot := home.Add(script("echo ran"))
	place := newSizedPlace(t, boot, machine.Size{Processes: 2})
	leave := crowd(t, place.Group)
	r := beginAt(t, place, link, nil)
	home.Await(r.id, "it beats, and so is about to start its command", func(a memhome.Attempt) bool { return len(a.Phases) > 0 })
	leave()
	exit := r.wait(t)
	a := home.Attempt(r.id)
	wantOutcome(t, exit, a, wire.Succeeded, "")
	if got := string(a.Streams[wire.Stdout].Data); got != "ran\n" {
		t.Errorf("stdout = %q, want %q", got, "ran\n")
	}
}

func TestCommandThatThereIsNeverRoomForIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		passes  time.Duration // at each look at the clock
		stop    bool
		outcome wire.Outcome
		reason  string
		message string
	}{
		"AfterAMinute":   {10 * time.Second, false, wire.Failed, "never_started", "could not be started"},
		"WhenToldToStop": {0, true, wire.Canceled, "", "told to stop before its command started"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := memhome.New(t)
			clock := newClock()
			link := agent.NewDirect("test")
			t.Cleanup(link.Close)
			job := script("echo ran > ran")
			job.OrphanAfterMS = 36_000_000
			place := newSizedPlace(t, home.Add(job), machine.Size{Processes: 2})
			leave := crowd(t, place.Group)
			r := beginAt(t, place, link, &agent.Options{Clock: func() time.Duration {
				clock.advance(c.passes)
				return clock.now()
			}})
			if c.stop {
				home.Await(r.id, "it beats", func(a memhome.Attempt) bool { return len(a.Phases) > 0 })
				home.Order(r.id, wire.Canceled)
			}
			exit := r.wait(t)
			leave()
			a := home.Attempt(r.id)
			wantOutcome(t, exit, a, c.outcome, c.reason)
			if a.Result.Started || r.has("ran") || !strings.Contains(a.Result.Message, c.message) {
				t.Errorf("started = %v, ran = %v, message %q; want neither, and %q", a.Result.Started, r.has("ran"), a.Result.Message, c.message)
			}
			t.Log(a.Result.Message)
		})
	}
}

func TestMissingDirectoriesEndTheAgent(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	boot := home.Add(script("true"))
	place := newPlace(t, boot)
	place.ScratchDir += "/missing"
	if exit := agent.Run(t.Context(), agent.NewDirect("test"), place, nil); exit.Code != agent.ExitNotOurs || !strings.Contains(exit.Message, "scratch directory") {
		t.Errorf("exit %+v, want code %d and why", exit, agent.ExitNotOurs)
	}
	place = newPlace(t, boot)
	place.WorkDir += "/missing"
	exit := agent.Run(t.Context(), agent.NewDirect("test"), place, nil)
	if a := home.Attempt(boot.Attempt); exit.Code != 0 || a.Result == nil || a.Result.Outcome != wire.Failed || a.Result.Started {
		t.Errorf("exit %+v, result %+v; want a failure that was never started", exit, a.Result)
	} else {
		t.Log(a.Result.Message)
	}
}

func TestGarbageInTheUndeliveredResultIsPassedOver(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	for name, content := range map[string]string{
		"Truncated":      `{"attempt":"att_`,
		"AnotherAttempt": `{"attempt":"att_other","token":"t","result":{"outcome":"succeeded"}}`,
		"NoResult":       `{"attempt":"att_0001"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			boot := home.Add(script("echo hello"))
			place := newPlace(t, boot)
			if err := os.WriteFile(place.ScratchDir+"/undelivered.json", []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			exit := agent.Run(t.Context(), agent.NewDirect("test"), place, nil)
			a := home.Attempt(boot.Attempt)
			wantOutcome(t, exit, a, wire.Succeeded, "")
		})
	}
}

func TestReasonsFollowTheExit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		exit    machine.Exit
		reason  string
		message string
	}{
		"Memory":            {machine.Exit{Code: -1, Signal: "SIGKILL", OOMKilled: true}, "oom_killed", "more memory"},
		"MemoryOfAChild":    {machine.Exit{Code: 1, OOMKilled: true}, "oom_killed", "more memory"},
		"Disk":              {machine.Exit{Code: 1, DiskFull: true}, "disk_full", "more disk"},
		"FileSize":          {machine.Exit{Code: -1, Signal: "SIGXFSZ", DiskFull: true}, "disk_full", "more disk"},
		"KilledFromOutside": {machine.Exit{Code: -1, Signal: "SIGKILL"}, "signaled", "SIGKILL"},
		"Processes":         {machine.Exit{Code: 2, Message: "It reached its limit of 8 processes."}, "exit_nonzero", "limit of 8 processes."},
		"ProcessesSignaled": {machine.Exit{Code: -1, Signal: "SIGABRT", Message: "It reached its limit of 8 processes."}, "signaled", "limit of 8 processes."},
		"Status137":         {machine.Exit{Code: 137}, "exit_nonzero", "137"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reason, message := agent.Explain(&c.exit)
			if reason != c.reason || !strings.Contains(message, c.message) || !strings.HasSuffix(message, ".") {
				t.Errorf("%q, %q; want %q and a sentence with %q", reason, message, c.reason, c.message)
			}
		})
	}
}
