package agent_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/agent/memhome"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// minimal is the base environment of the machines in these tests.
var minimal = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"}

// script returns an assignment that runs a shell script, with times that suit a test.
func script(text string) wire.Assignment {
	return wire.Assignment{
		Name: "test", Command: []string{"/bin/sh", "-c", text},
		KillGraceMS: 10_000, HeartbeatMS: 100, OrphanAfterMS: 60_000,
	}
}

// newPlace returns a machine for the attempt, with real processes, that is taken down after the test. The test fails if
// anything runs in it then.
func newPlace(t testing.TB, boot machine.Agent) *agent.Place {
	t.Helper()
	return newSizedPlace(t, boot, machine.Size{})
}

// newSizedPlace is newPlace for a machine with limits. The test is skipped where they do not hold.
func newSizedPlace(t testing.TB, boot machine.Agent, size machine.Size) *agent.Place {
	t.Helper()
	host, err := process.NewHost(&process.Options{Prefix: fmt.Sprintf("dayfly-agent-test-%d", os.Getpid())})
	if err != nil {
		t.Fatal(err)
	}
	if able := host.Abilities(); size.Processes > 0 && !able.Processes {
		t.Skipf("no pids controller: %v", able.Why)
	}
	name := fmt.Sprintf("m%d", machines.Add(1))
	group, err := host.Group(name, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if empty, err := group.Empty(); err != nil || !empty {
			t.Errorf("after the attempt: empty = %v, %v; want nothing to run any more", empty, err)
			if err := group.Kill(context.Background()); err != nil {
				t.Error(err)
			}
		}
		if err := group.Close(); err != nil {
			t.Error(err)
		}
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	return &agent.Place{
		Boot: boot, Instance: name, Group: group, WorkDir: t.TempDir(), ScratchDir: t.TempDir(), Env: slices.Clone(minimal),
	}
}

var machines atomic.Int64

// eachLink runs a test over every transport.
func eachLink(t *testing.T, test func(t *testing.T, link agent.Link)) {
	t.Run("direct", func(t *testing.T) {
		t.Parallel()
		link := agent.NewDirect("test")
		t.Cleanup(link.Close)
		test(t, link)
	})
	t.Run("shared", func(t *testing.T) {
		t.Parallel()
		link := agent.NewShared("test")
		t.Cleanup(link.Close)
		test(t, link)
	})
}

// carryOut runs one attempt to its end over a link of its own, and returns what the server knows of it then.
func carryOut(t *testing.T, home *memhome.Home, job wire.Assignment) (machine.Exit, memhome.Attempt) {
	t.Helper()
	link := agent.NewShared("test")
	t.Cleanup(link.Close)
	boot := home.Add(job)
	exit := agent.Run(t.Context(), link, newPlace(t, boot), &agent.Options{Version: "test"})
	return exit, home.Attempt(boot.Attempt)
}

// succeed runs one attempt that must succeed.
func succeed(t *testing.T, home *memhome.Home, job wire.Assignment) memhome.Attempt {
	t.Helper()
	exit, a := carryOut(t, home, job)
	wantOutcome(t, exit, a, wire.Succeeded, "")
	return a
}

func wantOutcome(t *testing.T, exit machine.Exit, a memhome.Attempt, outcome wire.Outcome, reason string) {
	t.Helper()
	if exit.Code != 0 || a.Result == nil {
		t.Fatalf("the agent ended with %+v and result %+v; want an accepted result", exit, a.Result)
	}
	if a.Result.Outcome != outcome || a.Result.Reason != reason {
		t.Fatalf("outcome %s, reason %q, message %q, warnings %q; want %s, %q",
			a.Result.Outcome, a.Result.Reason, a.Result.Message, a.Result.Warnings, outcome, reason)
	}
}

// running is an attempt under way.
type running struct {
	place *agent.Place
	id    string
	stop  context.CancelFunc
	exit  chan machine.Exit
}

// begin starts an attempt in the background.
func begin(t *testing.T, home *memhome.Home, link agent.Link, job wire.Assignment, opts *agent.Options) *running {
	t.Helper()
	return beginAt(t, newPlace(t, home.Add(job)), link, opts)
}

// beginAt starts the attempt of the place in the background.
func beginAt(t *testing.T, place *agent.Place, link agent.Link, opts *agent.Options) *running {
	t.Helper()
	r := &running{place: place, id: place.Boot.Attempt, exit: make(chan machine.Exit, 1)}
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.exit <- agent.Run(ctx, link, r.place, opts)
	}()
	t.Cleanup(func() { stop(); <-done }) // before the machine is taken down
	return r
}

// wait returns how the agent ended, which must be soon.
func (r *running) wait(t *testing.T) machine.Exit {
	t.Helper()
	select {
	case exit := <-r.exit:
		return exit
	case <-time.After(30 * time.Second):
		t.Fatal("the agent has not ended after 30 s")
		return machine.Exit{}
	}
}

// awaitFile waits until the command has made a file in its working directory, and returns its content.
func (r *running) awaitFile(t *testing.T, name string) string {
	t.Helper()
	var content []byte
	eventually(t, "the command makes "+name, func() bool {
		var err error
		content, err = os.ReadFile(filepath.Join(r.place.WorkDir, name))
		return err == nil && len(content) > 0
	})
	return strings.TrimSpace(string(content))
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for !condition() {
		select {
		case <-poll.C:
		case <-deadline.C:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestEchoNeedsNoCallBesideClaimAndResult(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		got := 0
		// A busy computer may hold up a command for so long that what it has printed is sent before it ends.
		for tries := 0; tries < 20 && got != 2; tries++ {
			got = requestsOfEcho(t, link)
		}
		if got != 2 {
			t.Errorf("%d requests each time, want 2", got)
		}
	})
}

// requestsOfEcho returns how many requests an agent has made for a command that prints and ends.
func requestsOfEcho(t *testing.T, link agent.Link) int {
	t.Helper()
	home := memhome.New(t)
	boot := home.Add(script("echo hello; echo oops >&2"))
	exit := agent.Run(t.Context(), link, newPlace(t, boot), nil)
	a := home.Attempt(boot.Attempt)
	wantOutcome(t, exit, a, wire.Succeeded, "")
	if got := string(a.Streams[wire.Stdout].Data); got != "hello\n" {
		t.Errorf("stdout = %q, want %q", got, "hello\n")
	}
	if got := string(a.Streams[wire.Stderr].Data); got != "oops\n" {
		t.Errorf("stderr = %q, want %q", got, "oops\n")
	}
	r := a.Result
	if !r.Started || r.Exit == nil || !r.Exit.OK() || r.StartedMS == 0 {
		t.Errorf("result %+v: want it started, with an exit of 0 and what it used", r)
	}
	return home.Requests("")
}

func TestEnvironmentIsExactlyWhatWasPromised(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	job := script("")
	job.Command = []string{"/usr/bin/env"}
	job.Env = map[string]string{"LANG": "nl_NL.UTF-8", "GREETING": "hi there=you", "DAYFLY_AGENT_TOKEN": "leak", "DAYFLY_TOKEN": "mine"}
	job.Number = 3
	boot := home.Add(job)
	place := newPlace(t, boot)
	place.Env = append(place.Env, "DAYFLY_AGENT_URL=leak", "LANG=twice")
	exit := agent.Run(t.Context(), agent.NewDirect("test"), place, nil)
	a := home.Attempt(boot.Attempt)
	wantOutcome(t, exit, a, wire.Succeeded, "")

	got := strings.Split(strings.TrimSpace(string(a.Streams[wire.Stdout].Data)), "\n")
	got = slices.DeleteFunc(got, func(s string) bool { // package process's mark
		return strings.HasPrefix(s, "DAYFLY_GROUP=") || strings.HasPrefix(s, "DAYFLY_MACHINE=")
	})
	slices.Sort(got)
	want := []string{
		"DAYFLY_ATTEMPT=3",
		"DAYFLY_JOB_ID=" + a.Assignment.Job,
		"DAYFLY_PROGRESS=" + filepath.Join(place.ScratchDir, "progress"),
		"DAYFLY_RESULT=" + filepath.Join(place.ScratchDir, "result.json"),
		"DAYFLY_TOKEN=" + a.Assignment.JobToken,
		"DAYFLY_URL=" + home.URL(),
		"GREETING=hi there=you",
		"LANG=nl_NL.UTF-8",
		"PATH=/usr/local/bin:/usr/bin:/bin",
	}
	if !slices.Equal(got, want) {
		t.Errorf("environment:\ngot  %q\nwant %q", got, want)
	}
}

func TestPayloadIsInTheFileThatInputNames(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	job := script(`cat "$DAYFLY_INPUT"`)
	job.Payload = []byte(`{"video":"cat.mp4"}`)
	a := succeed(t, home, job)
	if got := string(a.Streams[wire.Stdout].Data); got != `{"video":"cat.mp4"}` {
		t.Errorf("the command read %q", got)
	}
	a = succeed(t, home, script(`test -z "${DAYFLY_INPUT+set}" && echo unset`))
	if got := string(a.Streams[wire.Stdout].Data); got != "unset\n" {
		t.Errorf("without a payload the command printed %q, want DAYFLY_INPUT to be unset", got)
	}
}

func TestResultFileBecomesTheValue(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	for name, c := range map[string]struct{ script, value, warning string }{
		"NothingWritten":                  {`true`, "", ""},
		"JSONIsTaken":                     {`echo '{ "a" : [1, "<&>"] }' > "$DAYFLY_RESULT"`, `{"a":[1,"<&>"]}`, ""},
		"EmptyIsNothing":                  {`: > "$DAYFLY_RESULT"`, "", ""},
		"NoJSONIsAWarning":                {`echo oops > "$DAYFLY_RESULT"`, "", "does not hold JSON"},
		"BytesThatAreNoTextAreAWarning":   {`printf '"a\377"' > "$DAYFLY_RESULT"`, "", "this is not UTF-8 (at byte 2)"},
		"NumberTooLargeIsAWarning":        {`echo '{"n":[1e999999]}' > "$DAYFLY_RESULT"`, "", "value: n[0]: is a number outside of what can be represented"},
		"NothingButSuchANumberIsAWarning": {`echo 1e999999 > "$DAYFLY_RESULT"`, "", "value: is a number outside of what can be represented"},
		"NameThatOccursTwiceIsAWarning":   {`echo '{"n":1,"n":2}' > "$DAYFLY_RESULT"`, "", `the name "n" occurs twice in one object`},
		"TooLargeIsAWarning":              {`head -c 1048577 /dev/zero | tr '\0' 1 > "$DAYFLY_RESULT"`, "", "larger than 1 MiB"},
		"JustAsLargeAsAllowedIsTaken":     {`(printf '"'; head -c 1048574 /dev/zero | tr '\0' 1; printf '"') > "$DAYFLY_RESULT"`, `"` + strings.Repeat("1", 1<<20-2) + `"`, ""},
		"APipeDoesNotMakeTheAgentWait":    {`mkfifo "$DAYFLY_RESULT"`, "", "not a regular file"},
		"ALinkOutOfTheDirectoryIsRefused": {`ln -s /etc/passwd "$DAYFLY_RESULT"`, "", "escapes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := succeed(t, home, script(c.script))
			if got := string(a.Result.Value); got != c.value {
				t.Errorf("value = %.100q, want %.100q", got, c.value)
			}
			if got := strings.Join(a.Result.Warnings, " "); (c.warning == "") != (got == "") || !strings.Contains(got, c.warning) {
				t.Errorf("warnings %q, want %q in them", got, c.warning)
			}
		})
	}
}

func TestExitsAreToldApart(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	notExecutable := filepath.Join(t.TempDir(), "readme.txt")
	if err := os.WriteFile(notExecutable, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(t.TempDir(), "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		command []string
		reason  string
		exit    *machine.Exit
		message string
	}{
		"StatusIsKept":           {[]string{"sh", "-c", "exit 3"}, "exit_nonzero", &machine.Exit{Code: 3}, "status 3"},
		"ShellCouldNotFindIt":    {[]string{"sh", "-c", "frobnicate 2>/dev/null"}, "exit_nonzero", &machine.Exit{Code: 127}, "not found"},
		"SignalIsNamed":          {[]string{"sh", "-c", "kill -9 $$"}, "signaled", &machine.Exit{Code: -1, Signal: "SIGKILL"}, "SIGKILL"},
		"ProgramIsMissing":       {[]string{"frobnicate"}, "command_not_found", &machine.Exit{Code: 127}, "PATH"},
		"ProgramPathIsMissing":   {[]string{"/nowhere/frobnicate"}, "command_not_found", &machine.Exit{Code: 127}, "/nowhere/frobnicate"},
		"ProgramIsNotExecutable": {[]string{notExecutable}, "command_not_found", &machine.Exit{Code: 126}, "The program " + notExecutable + " cannot be executed: permission denied. Make"},
		"ProgramIsALinkToItself": {[]string{loop}, "command_not_found", &machine.Exit{Code: 126}, loop + " cannot be executed: too many levels of symbolic links. Let"},
		"ArgumentIsTooLong":      {[]string{"true", strings.Repeat("a", 200_000)}, "command_not_found", &machine.Exit{Code: 126}, "argument 1, \"aaaa"},
		"ArgumentsAreTooLong":    {append([]string{"true"}, slices.Repeat([]string{strings.Repeat("a", 100_000)}, 70)...), "command_not_found", &machine.Exit{Code: 126}, "Put the long part into a file"},
		"ProgramNameIsTooLong":   {[]string{"/bin/" + strings.Repeat("a", 300)}, "command_not_found", &machine.Exit{Code: 126}, "has 305 bytes"},
		"NoneInPathIsExecutable": {[]string{"readme.txt"}, "command_not_found", &machine.Exit{Code: 126}, "The program " + notExecutable + " cannot be executed: permission denied. Make"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := script("")
			job.Command = c.command
			job.Env = map[string]string{"PATH": "/usr/local/bin:/usr/bin:/bin:" + filepath.Dir(notExecutable)}
			exit, a := carryOut(t, home, job)
			wantOutcome(t, exit, a, wire.Failed, c.reason)
			r := a.Result
			if want := c.reason != "command_not_found"; r.Started != want {
				t.Errorf("started = %v, want %v", r.Started, want)
			}
			if r.Exit == nil || r.Exit.Code != c.exit.Code || r.Exit.Signal != c.exit.Signal {
				t.Errorf("exit %+v, want %+v", r.Exit, c.exit)
			}
			if !strings.Contains(r.Message, c.message) || !strings.HasSuffix(r.Message, ".") {
				t.Errorf("message %q: want a sentence with %q", r.Message, c.message)
			}
			t.Log(r.Message)
		})
	}
}

func TestHundredsOfShortJobsLoseNoLineAndNoExitCode(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	link := agent.NewShared("test")
	defer link.Close()
	const workers, each = 4, 50
	done := make(chan error, workers)
	for w := range workers {
		place := newPlace(t, machine.Agent{})
		go func() {
			for i := range each {
				job := script(fmt.Sprintf("echo out-%d-%d; echo err-%d-%d >&2; exit %d", w, i, w, i, i%7))
				here := *place
				here.Boot = home.Add(job)
				if exit := agent.Run(t.Context(), link, &here, nil); exit.Code != 0 {
					done <- fmt.Errorf("the agent ended with %+v", exit)
					return
				}
				a := home.Attempt(here.Boot.Attempt)
				out, stderr := string(a.Streams[wire.Stdout].Data), string(a.Streams[wire.Stderr].Data)
				if out != fmt.Sprintf("out-%d-%d\n", w, i) || stderr != fmt.Sprintf("err-%d-%d\n", w, i) || a.Result.Exit.Code != i%7 {
					done <- fmt.Errorf("job %d-%d: stdout %q, stderr %q, exit %+v", w, i, out, stderr, a.Result.Exit)
					return
				}
			}
			done <- nil
		}()
	}
	for range workers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
