package agent_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/agent/memhome"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// clock is a clock that a test can set forward, as waking from suspend does. It also goes on by itself.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func newClock() *clock { return &clock{} }

func (c *clock) now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return agent.BootClock() + c.ahead
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// has reports whether the command has made the file.
func (r *running) has(name string) bool {
	_, err := os.Stat(filepath.Join(r.place.WorkDir, name))
	return err == nil
}

// alive reports whether the process whose id the command has written to the file can still do something. One that has
// ended may wait for a while until init takes notice.
func (r *running) alive(t *testing.T, file string) bool {
	t.Helper()
	stat, err := os.ReadFile("/proc/" + r.awaitFile(t, file) + "/stat")
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

func TestRunTimeoutEndsTheCommand(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	for name, c := range map[string]struct {
		script        string
		grace         int64
		total         bool
		reason        string
		atLeast, most time.Duration
		stdout        string
	}{
		"WithSIGTERMFirst":      {`trap 'echo cleaning up; exit 0' TERM; while :; do sleep 0.05; done`, 10_000, false, "timeout", 0, 5 * time.Second, "cleaning up\n"},
		"WithSIGKILLAfterGrace": {`trap '' TERM; while :; do sleep 0.05; done`, 300, false, "timeout", 600 * time.Millisecond, 5 * time.Second, ""},
		"AtTheTotalTimeout":     {`sleep 60`, 10_000, true, "deadline_exceeded", 0, 5 * time.Second, ""},
		"WithAllDescendants":    {`setsid sh -c 'trap "" TERM; while :; do sleep 0.05; done' & sleep 60`, 300, false, "timeout", 0, 5 * time.Second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := script(c.script)
			job.RunTimeoutMS, job.KillGraceMS, job.RunIsTotal = 300, c.grace, c.total
			exit, a := carryOut(t, home, job)
			wantOutcome(t, exit, a, wire.TimedOut, c.reason)
			took := time.Duration(a.Result.RunMS) * time.Millisecond
			if took < 300*time.Millisecond+min(c.atLeast, 300*time.Millisecond) || took > c.most {
				t.Errorf("the command ran for %v, want at least %v and at most %v", took, c.atLeast, c.most)
			}
			if got := string(a.Streams[wire.Stdout].Data); got != c.stdout {
				t.Errorf("stdout = %q, want %q", got, c.stdout)
			}
			if a.Result.Exit == nil || !strings.HasSuffix(a.Result.Message, ".") {
				t.Errorf("exit %+v, message %q; want both", a.Result.Exit, a.Result.Message)
			}
		})
	}
}

func TestTimeoutCountsSuspend(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	link := agent.NewShared("test")
	t.Cleanup(link.Close)
	clock := newClock()
	job := script("echo $$ > pid; exec sleep 3600")
	job.RunTimeoutMS, job.OrphanAfterMS = 3_000_000, 36_000_000
	r := begin(t, home, link, job, &agent.Options{Clock: clock.now})
	r.awaitFile(t, "pid")
	clock.advance(time.Hour)
	if exit := r.wait(t); exit.Code != 0 {
		t.Errorf("the agent ended with %+v", exit)
	}
	if a := home.Attempt(r.id); a.Result == nil || a.Result.Outcome != wire.TimedOut {
		t.Errorf("result %+v, want it timed out", a.Result)
	}
}

func TestSuspendedMachineEndsItselfOnResume(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t)
		clock := newClock()
		job := script("echo $$ > pid; exec sleep 3600")
		job.HeartbeatMS = 20_000 // one waits at the server while the machine sleeps
		r := begin(t, home, link, job, &agent.Options{Clock: clock.now})
		r.awaitFile(t, "pid")
		clock.advance(30 * time.Minute)
		resumed := time.Now()
		exit := r.wait(t)
		if exit.Code != agent.ExitNotOurs || !strings.Contains(exit.Message, "has not answered for 30m") {
			t.Errorf("exit %+v, want code %d because of the silence", exit, agent.ExitNotOurs)
		}
		if took := time.Since(resumed); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
		if a := home.Attempt(r.id); a.Result != nil || r.alive(t, "pid") {
			t.Errorf("result %+v, command alive = %v; want neither", a.Result, r.alive(t, "pid"))
		}
	})
}

func TestSilentServerOrphansTheAttempt(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t)
		var away atomic.Bool
		home.Fault = func(memhome.Call) memhome.Failure { return memhome.Failure{Drop: away.Load()} }
		job := script("trap '' TERM; echo $$ > pid; while :; do echo still here; sleep 0.05; done")
		job.OrphanAfterMS = 1500
		r := begin(t, home, link, job, nil)
		r.awaitFile(t, "pid")
		away.Store(true)
		if exit := r.wait(t); exit.Code != agent.ExitNotOurs {
			t.Errorf("exit %+v, want code %d", exit, agent.ExitNotOurs)
		}
		if r.alive(t, "pid") {
			t.Error("the command is still alive")
		}
	})
}

func TestOnlyAnAnswerOfTheServerBreaksItsSilence(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		failure   memhome.Failure
		delivered bool
	}{
		"StoreIsFull":      {memhome.Failure{Status: http.StatusInsufficientStorage, Code: "store_full"}, true},
		"Unavailable":      {memhome.Failure{Status: http.StatusServiceUnavailable, Code: "unavailable"}, true},
		"SomebodyElsesBad": {memhome.Failure{Status: http.StatusBadGateway, Body: "<html>bad gateway</html>"}, false},
		"SomebodyElses507": {memhome.Failure{Status: http.StatusInsufficientStorage, Body: "no room"}, false},
		"NoAnswer":         {memhome.Failure{Drop: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			eachLink(t, func(t *testing.T, link agent.Link) {
				home := memhome.New(t)
				clock := newClock()
				home.Fault = func(call memhome.Call) memhome.Failure {
					if of := call.Kind == "result" || call.Kind == "batch" && call.Number > 1; of && call.Number <= 3 {
						clock.advance(40 * time.Second) // no single pause is too long, all together are
						return c.failure
					}
					return memhome.Failure{}
				}
				r := begin(t, home, link, script("true"), &agent.Options{Clock: clock.now})
				exit := r.wait(t)
				if !c.delivered {
					if a := home.Attempt(r.id); exit.Code != agent.ExitNotOurs || a.Result != nil || !strings.Contains(exit.Message, "has not answered") {
						t.Errorf("exit %+v, result %+v; want code %d because the server was silent", exit, a.Result, agent.ExitNotOurs)
					}
					return
				}
				wantOutcome(t, exit, home.Attempt(r.id), wire.Succeeded, "")
			})
		})
	}
}

func TestOrderToStopIsObeyed(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		for _, reason := range []wire.Outcome{wire.Canceled, wire.TimedOut} {
			home := memhome.New(t)
			job := script(`trap 'echo bye; exit 7' TERM; echo $$ > pid; touch out.txt; while :; do sleep 0.05; done`)
			job.Outputs = []string{"out.txt"}
			job.HeartbeatMS = 10_000 // the order must not have to wait for the next heartbeat
			r := begin(t, home, link, job, nil)
			r.awaitFile(t, "pid")
			home.Await(r.id, "it beats", func(a memhome.Attempt) bool { return len(a.Phases) > 0 })
			ordered := time.Now()
			home.Order(r.id, reason)
			exit := r.wait(t)
			if took := time.Since(ordered); took > 5*time.Second {
				t.Errorf("it took %v to obey", took)
			}
			a := home.Attempt(r.id)
			wantOutcome(t, exit, a, reason, "")
			if got := string(a.Streams[wire.Stdout].Data); got != "bye\n" || a.Result.Exit.Code != 7 {
				t.Errorf("stdout %q, exit %+v; want the last words and the status of the command", got, a.Result.Exit)
			}
			if len(a.Result.Artifacts) > 0 {
				t.Errorf("artifacts %v of a command that was told to stop", a.Result.Artifacts)
			}
		}
	})
}

func TestGraceIsAlsoForWhatAShellHasStarted(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	link := agent.NewShared("test")
	t.Cleanup(link.Close)
	// The outer shell dies of SIGTERM at once. The inner one is at work for longer than that takes.
	job := script(`sh -c 'trap "sleep 0.5; echo saved; exit 0" TERM; echo $$ > pid; while :; do sleep 0.05; done'; true`)
	job.KillGraceMS = 600_000 // also the end of the last process ends the grace
	r := begin(t, home, link, job, nil)
	r.awaitFile(t, "pid")
	home.Await(r.id, "it beats", func(a memhome.Attempt) bool { return len(a.Phases) > 0 })
	home.Order(r.id, wire.Canceled)
	exit := r.wait(t)
	a := home.Attempt(r.id)
	wantOutcome(t, exit, a, wire.Canceled, "")
	if got := string(a.Streams[wire.Stdout].Data); got != "saved\n" {
		t.Errorf("stdout = %q, want %q: the worker was to have its grace", got, "saved\n")
	}
	if a.Result.Exit == nil || a.Result.Exit.Signal != "SIGTERM" {
		t.Errorf("exit %+v, want that of the shell, which SIGTERM ended", a.Result.Exit)
	}
}

func TestOrderWhileInputsAreFetchedStartsNothing(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	link := agent.NewDirect("test")
	t.Cleanup(link.Close)
	home.Fault = func(c memhome.Call) memhome.Failure {
		if c.Kind == "get" {
			return memhome.Failure{Status: http.StatusServiceUnavailable}
		}
		return memhome.Failure{}
	}
	job := script("echo ran > ran")
	job.Inputs = []wire.Input{home.Input("a", []byte("content"))}
	r := begin(t, home, link, job, nil)
	home.Await(r.id, "it beats", func(a memhome.Attempt) bool { return len(a.Phases) > 0 })
	home.Order(r.id, wire.Canceled)
	exit := r.wait(t)
	a := home.Attempt(r.id)
	wantOutcome(t, exit, a, wire.Canceled, "")
	if a.Result.Started || a.Result.Exit != nil || r.has("ran") {
		t.Errorf("result %+v, ran = %v; want it never started", a.Result, r.has("ran"))
	}
}

func TestStaleAttemptIsKilledAndDiscarded(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t)
		r := begin(t, home, link, script("trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done"), nil)
		r.awaitFile(t, "pid")
		home.Await(r.id, "it beats", func(a memhome.Attempt) bool { return len(a.Phases) > 0 })
		superseded := time.Now()
		home.Supersede(r.id)
		if exit := r.wait(t); exit.Code != agent.ExitNotOurs || !strings.Contains(exit.Message, "the attempt is over") {
			t.Errorf("exit %+v, want code %d and why", exit, agent.ExitNotOurs)
		}
		if took := time.Since(superseded); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		if a := home.Attempt(r.id); a.Results != 0 || r.alive(t, "pid") {
			t.Errorf("%d results were sent, command alive = %v; want neither", a.Results, r.alive(t, "pid"))
		}
	})
}

func TestEveryRefusalOfTheAttemptEndsIt(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"log", "result"} {
		for _, code := range []string{"stale_attempt", "unauthenticated", "not_found", "denied"} {
			t.Run(kind+" "+code, func(t *testing.T) {
				eachLink(t, func(t *testing.T, link agent.Link) {
					home := memhome.New(t)
					home.Fault = func(c memhome.Call) memhome.Failure {
						if c.Kind == kind {
							return memhome.Failure{Status: http.StatusConflict, Code: code}
						}
						return memhome.Failure{}
					}
					job := "echo hi; echo $$ > pid; exec sleep 3600"
					if kind == "result" {
						job = "echo $$ > pid; exec true"
					}
					r := begin(t, home, link, script(job), nil)
					if exit := r.wait(t); exit.Code != agent.ExitNotOurs {
						t.Errorf("exit %+v, want code %d", exit, agent.ExitNotOurs)
					}
					if a := home.Attempt(r.id); a.Result != nil || r.alive(t, "pid") {
						t.Errorf("result %+v, command alive = %v; want neither", a.Result, r.alive(t, "pid"))
					}
				})
			})
		}
	}
}

func TestCanceledContextEndsEverythingAtOnce(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t)
		r := begin(t, home, link, script(`trap '' TERM; setsid sleep 3600 & echo $! > child; echo $$ > pid; while :; do sleep 0.05; done`), nil)
		r.awaitFile(t, "pid")
		stopped := time.Now()
		r.stop()
		if exit := r.wait(t); exit.Code != agent.ExitNotOurs {
			t.Errorf("exit %+v, want code %d", exit, agent.ExitNotOurs)
		}
		if took := time.Since(stopped); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
		if a := home.Attempt(r.id); a.Result != nil || r.alive(t, "pid") || r.alive(t, "child") {
			t.Errorf("result %+v, alive %v %v; want nothing", a.Result, r.alive(t, "pid"), r.alive(t, "child"))
		}
	})
}

func TestDescendantsEndWithTheCommand(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	link := agent.NewShared("test")
	t.Cleanup(link.Close)
	// The daemon keeps both pipes open and has left the command's session.
	r := begin(t, home, link, script(`setsid sh -c 'echo $$ > daemon; trap "" HUP TERM; while :; do sleep 0.05; done' & while [ ! -s daemon ]; do sleep 0.01; done; echo done`), nil)
	began := time.Now()
	exit := r.wait(t)
	a := home.Attempt(r.id)
	wantOutcome(t, exit, a, wire.Succeeded, "")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if got := string(a.Streams[wire.Stdout].Data); got != "done\n" || r.alive(t, "daemon") {
		t.Errorf("stdout %q, daemon alive = %v; want the output and no daemon", got, r.alive(t, "daemon"))
	}
	if len(a.Result.Warnings) > 0 {
		t.Errorf("warnings %q", a.Result.Warnings)
	}
}

func TestProgressIsTold(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t)
		job := script(`echo 0.25 encoding > "$DAYFLY_PROGRESS"; while [ ! -e go ]; do sleep 0.02; done
			printf '50%% half\ngarbage\n0.75 not yet whole' >> "$DAYFLY_PROGRESS"; while [ ! -e on ]; do sleep 0.02; done
			printf 1 > "$DAYFLY_PROGRESS"`)
		job.HeartbeatMS = 20_000 // progress does not wait for the next heartbeat
		r := begin(t, home, link, job, nil)
		told := func(want wire.Progress) func(memhome.Attempt) bool {
			return func(a memhome.Attempt) bool {
				return len(a.Progress) > 0 && a.Progress[len(a.Progress)-1] == want
			}
		}
		home.Await(r.id, "the first progress is told", told(wire.Progress{Fraction: 0.25, Text: "encoding"}))
		touch(t, r, "go")
		home.Await(r.id, "the second progress is told", told(wire.Progress{Fraction: 0.5, Text: "half"}))
		touch(t, r, "on")
		exit := r.wait(t)
		a := home.Attempt(r.id)
		wantOutcome(t, exit, a, wire.Succeeded, "")
		if a.Result.Progress == nil || *a.Result.Progress != (wire.Progress{Fraction: 1}) {
			t.Errorf("last progress %+v, want 1", a.Result.Progress)
		}
		if len(a.Progress) != 2 {
			t.Errorf("progress was told %d times: %+v; want each once", len(a.Progress), a.Progress)
		}
	})
}

func touch(t *testing.T, r *running, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(r.place.WorkDir, name), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestPhasesAreToldInOrder(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	link := agent.NewDirect("test")
	t.Cleanup(link.Close)
	home.Fault = func(c memhome.Call) memhome.Failure {
		if c.Kind == "get" || c.Kind == "put" {
			return memhome.Failure{Wait: 400 * time.Millisecond}
		}
		return memhome.Failure{}
	}
	job := script("cp in out; sleep 0.4")
	job.HeartbeatMS = 50
	job.Inputs, job.Outputs = []wire.Input{home.Input("in", []byte("content"))}, []string{"out"}
	r := begin(t, home, link, job, nil)
	exit := r.wait(t)
	a := home.Attempt(r.id)
	wantOutcome(t, exit, a, wire.Succeeded, "")
	if len(a.Phases) != 3 || a.Phases[0] != wire.Fetching || a.Phases[1] != wire.Running || a.Phases[2] != wire.Finishing {
		t.Errorf("phases %q", a.Phases)
	}
	if x := a.Result; x.FetchMS < 300 || x.RunMS < 300 || x.FinishMS < 300 {
		t.Errorf("fetch %d ms, run %d ms, finish %d ms; want each at least 300", x.FetchMS, x.RunMS, x.FinishMS)
	}
}
