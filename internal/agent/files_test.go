package agent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/agent/memhome"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

func TestInputsAreInPlaceBeforeTheCommandStarts(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t)
		large := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
		job := script("cat in.txt deep/down/data.bin empty | sha256sum; find . -type f | sort")
		job.Inputs = []wire.Input{
			home.Input("in.txt", []byte("hello")), home.Input("deep/down/data.bin", large), home.Input("empty", nil),
		}
		boot := home.Add(job)
		exit := agent.Run(t.Context(), link, newPlace(t, boot), nil)
		a := home.Attempt(boot.Attempt)
		wantOutcome(t, exit, a, wire.Succeeded, "")
		sum := sha256.Sum256(append([]byte("hello"), large...))
		want := hex.EncodeToString(sum[:]) + "  -\n./deep/down/data.bin\n./empty\n./in.txt\n"
		if got := string(a.Streams[wire.Stdout].Data); got != want {
			t.Errorf("stdout = %q, want %q", got, want)
		}
	})
}

func TestInputIsFetchedAgainAfterAFailureThatPasses(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]memhome.Failure{
		"NoAnswer":          {Drop: true},
		"ServerError":       {Status: http.StatusBadGateway},
		"ExpiredURL":        {Status: http.StatusForbidden},
		"TruncatedContent":  {Status: http.StatusOK, Body: "con"},
		"CorruptedContent":  {Status: http.StatusOK, Body: "comtent"},
		"TooLongContent":    {Status: http.StatusOK, Body: "content and more"},
		"NotThereAnyMore":   {Status: http.StatusNotFound},
		"TooManyDownloads":  {Status: http.StatusTooManyRequests},
		"NotModifiedAnswer": {Status: http.StatusNotModified},
	} {
		t.Run(name, func(t *testing.T) {
			eachLink(t, func(t *testing.T, link agent.Link) {
				home := memhome.New(t)
				home.Fault = func(c memhome.Call) memhome.Failure {
					if c.Kind == "get" && c.Number == 1 {
						return failure
					}
					return memhome.Failure{}
				}
				job := script("cat in")
				job.Inputs = []wire.Input{home.Input("in", []byte("content"))}
				boot := home.Add(job)
				exit := agent.Run(t.Context(), link, newPlace(t, boot), nil)
				a := home.Attempt(boot.Attempt)
				wantOutcome(t, exit, a, wire.Succeeded, "")
				if got := string(a.Streams[wire.Stdout].Data); got != "content" {
					t.Errorf("the command read %q", got)
				}
				if a.Claims != 2 {
					t.Errorf("%d claims, want the claim to be repeated for a fresh URL", a.Claims)
				}
			})
		})
	}
}

func TestInputThatCannotBeHadFailsTheAttempt(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	good := home.Input("good", []byte("content"))
	renamed := func(name string) wire.Input { i := good; i.Name = name; return i }
	corrupt := good
	corrupt.SHA256 = strings.Repeat("0", 64)
	missing := good
	missing.URL = home.URL() + "/blobs/in/missing"
	for name, c := range map[string]struct {
		inputs  []wire.Input
		message string
	}{
		"ContentIsAnother":      {[]wire.Input{corrupt}, "is not what was uploaded"},
		"NotThere":              {[]wire.Input{missing}, "404"},
		"NameLeadsOut":          {[]wire.Input{renamed("../escape")}, "does not lead into the working directory"},
		"NameIsAbsolute":        {[]wire.Input{renamed("/tmp/escape")}, "does not lead into the working directory"},
		"NameIsTheDirectory":    {[]wire.Input{renamed(".")}, "does not lead into the working directory"},
		"NameIsThatOfADirector": {[]wire.Input{renamed("dir/file"), renamed("dir")}, "input dir"},
		"OneOfMany":             {[]wire.Input{good, renamed("good2"), corrupt, renamed("good3")}, "is not what was uploaded"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := script("echo ran")
			job.Inputs = c.inputs
			exit, a := carryOut(t, home, job)
			wantOutcome(t, exit, a, wire.Failed, "input_failed")
			if r := a.Result; r.Started || r.Exit != nil || len(a.Streams[wire.Stdout].Data) > 0 || !strings.Contains(r.Message, c.message) {
				t.Errorf("result %+v: want it never started, and %q in the message", r, c.message)
			}
			t.Log(a.Result.Message)
		})
	}
}

func TestServerThatIsAwayWhileInputsAreFetchedIsWaitedFor(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	clock := newClock()
	var away atomic.Bool
	home.Fault = func(c memhome.Call) memhome.Failure {
		switch {
		case c.Kind == "get" && c.Number == 1:
			away.Store(true)
		case c.Kind == "claim" && away.Load():
			clock.advance(3 * time.Minute) // nine minutes in all, of the ten that an attempt goes on without a server
			away.Store(c.Number < 4)
		}
		if away.Load() && (c.Kind == "get" || c.Kind == "claim") {
			return memhome.Failure{Status: http.StatusBadGateway, Body: "there is no server behind this proxy"}
		}
		return memhome.Failure{}
	}
	link := agent.NewDirect("test")
	t.Cleanup(link.Close)
	job := script("cat in")
	job.OrphanAfterMS = 600_000
	job.Inputs = []wire.Input{home.Input("in", []byte("content"))}
	r := begin(t, home, link, job, &agent.Options{Clock: clock.now})
	exit := r.wait(t)
	a := home.Attempt(r.id)
	wantOutcome(t, exit, a, wire.Succeeded, "")
	if got := string(a.Streams[wire.Stdout].Data); got != "content" {
		t.Errorf("the command read %q", got)
	}
}

func TestInputsMayHaveTheNamesThatTemporaryFilesHad(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	home.Fault = func(c memhome.Call) memhome.Failure {
		if c.Name == "in/last" {
			return memhome.Failure{Wait: 300 * time.Millisecond} // the others are in place by then
		}
		return memhome.Failure{}
	}
	job := script("cat .dayfly-input-*.part last; ls -A")
	for _, name := range []string{".dayfly-input-2.part", ".dayfly-input-1.part", "last"} {
		job.Inputs = append(job.Inputs, home.Input(name, []byte("content of "+name+"\n")))
	}
	a := succeed(t, home, job)
	want := "content of .dayfly-input-1.part\ncontent of .dayfly-input-2.part\ncontent of last\n" +
		".dayfly-input-1.part\n.dayfly-input-2.part\nlast\n"
	if got := string(a.Streams[wire.Stdout].Data); got != want {
		t.Errorf("stdout = %q, want %q", got, want)
	}
}

// artifactNames returns the names of the result's artifacts.
func artifactNames(a memhome.Attempt) (names []string) {
	for _, artifact := range a.Result.Artifacts {
		names = append(names, artifact.Name)
	}
	return names
}

func TestOutputsAreThoseThatMatch(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	const tree = `mkdir -p out/a/b node_modules/x; echo 1 > out/1.txt; echo 2 > out/a/2.txt; echo 3 > out/a/b/3.log; echo t > top.txt
		: > empty; echo n > node_modules/x/n.txt; ln -s out/1.txt link.txt; ln -s /etc/passwd leak.txt; ln -s out latest; ln -s . loop; ln -s /etc etc; ln -s gone dangling.txt
		mkfifo pipe.txt; `
	for name, c := range map[string]struct {
		patterns, want []string
		warnings       []string
	}{
		"OneName":                    {[]string{"top.txt"}, []string{"top.txt"}, nil},
		"AStarStaysInItsDirectory":   {[]string{"out/*"}, []string{"out/1.txt"}, nil},
		"TwoStarsGoDown":             {[]string{"out/**/*.txt"}, []string{"out/1.txt", "out/a/2.txt"}, nil},
		"TwoStarsAtTheEnd":           {[]string{"out/**"}, []string{"out/1.txt", "out/a/2.txt", "out/a/b/3.log"}, nil},
		"OverlapIsListedOnce":        {[]string{"out/1.txt", "out/*.txt", "./out/1.txt"}, []string{"out/1.txt"}, nil},
		"AnEmptyFileIsAFile":         {[]string{"empty"}, []string{"empty"}, nil},
		"LinksAreFollowedInside":     {[]string{"link.txt"}, []string{"link.txt"}, nil},
		"LinksAreNotFollowedOut":     {[]string{"leak.txt"}, nil, []string{"leak.txt could not be read", "No file matched the output pattern leak.txt"}},
		"DanglingLinkIsNoFile":       {[]string{"dangling.txt"}, nil, []string{"dangling.txt could not be read", "No file matched"}},
		"LinkedDirectoryIsRead":      {[]string{"latest/**"}, []string{"latest/1.txt", "latest/a/2.txt", "latest/a/b/3.log"}, nil},
		"ItsNameMayBeAPattern":       {[]string{"lat*/?.txt"}, []string{"latest/1.txt"}, nil},
		"TwoStarsDoNotFollowIt":      {[]string{"**/2.txt", "latest/1.txt"}, []string{"latest/1.txt", "out/a/2.txt"}, nil},
		"TheyAloneFindNothingInIt":   {[]string{"**/latest/1.txt"}, nil, []string{"No file matched"}},
		"LinkToAboveIsNoEndlessLoop": {[]string{"loop/*/loop/top.txt", "*/*/top.txt"}, []string{"loop/loop/loop/top.txt", "loop/loop/top.txt"}, nil},
		"LinkedDirectoryIsOutside":   {[]string{"etc/*"}, nil, []string{"No file matched the output pattern etc/*: statat etc: path escapes"}},
		"PipeIsNoFile":               {[]string{"pipe.txt"}, nil, []string{"No file matched"}},
		"NothingMatches":             {[]string{"*.mp3", "top.txt"}, []string{"top.txt"}, []string{"No file matched the output pattern *.mp3."}},
		"DirectoryIsExplained":       {[]string{"out/a/"}, nil, []string{"it is a directory. Write out/a/** for all files in it"}},
		"BadPatternIsExplained":      {[]string{"[", "top.txt"}, []string{"top.txt"}, []string{"pattern [ is not a valid pattern"}},
		"PatternLeadsOut":            {[]string{"../**", "/etc/*"}, nil, []string{"No file matched", "No file matched"}},
		"EverythingButWhatIsNoFile":  {[]string{"**"}, []string{"empty", "link.txt", "node_modules/x/n.txt", "out/1.txt", "out/a/2.txt", "out/a/b/3.log", "top.txt"}, []string{"dangling.txt", "The output etc could", "leak.txt"}},
		"QuestionMarksAndCharacters": {[]string{"out/?.t[x-z]t"}, []string{"out/1.txt"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := script(tree)
			job.Outputs = c.patterns
			a := succeed(t, home, job)
			if got := artifactNames(a); !slices.Equal(got, c.want) {
				t.Errorf("artifacts %q, want %q", got, c.want)
			}
			if got := a.Result.Warnings; len(got) != len(c.warnings) {
				t.Fatalf("warnings %q, want %q", got, c.warnings)
			}
			for i, want := range c.warnings {
				if !strings.Contains(a.Result.Warnings[i], want) {
					t.Errorf("warning %q, want %q in it", a.Result.Warnings[i], want)
				}
			}
		})
	}
}

func TestInputsThatTheCommandLeftAloneAreNoOutputs(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	job := script("echo x >> grown; printf COMTENT > rewritten; cp same copied; printf content > again")
	job.Inputs = []wire.Input{
		home.Input("same", []byte("content")), home.Input("grown", []byte("content")),
		home.Input("rewritten", []byte("content")), home.Input("again", []byte("content")),
	}
	job.Outputs = []string{"*"}
	a := succeed(t, home, job)
	if got, want := artifactNames(a), []string{"copied", "grown", "rewritten"}; !slices.Equal(got, want) {
		t.Errorf("artifacts %q, want %q", got, want)
	}
}

func TestOutputsOfAFailedCommandAreKept(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	job := script("echo why > core.log; exit 4")
	job.Outputs = []string{"core.log", "result.bin"}
	exit, a := carryOut(t, home, job)
	wantOutcome(t, exit, a, wire.Failed, "exit_nonzero")
	if got := artifactNames(a); !slices.Equal(got, []string{"core.log"}) || len(a.Result.Warnings) != 1 {
		t.Errorf("artifacts %q, warnings %q; want core.log, and a warning that there is no result.bin", got, a.Result.Warnings)
	}
}

func TestUploadIsTriedAgainWithAFreshPlace(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]memhome.Failure{
		"NoAnswer":    {Drop: true},
		"LostAnswer":  {Drop: true, After: true},
		"ServerError": {Status: http.StatusInternalServerError},
		"ExpiredURL":  {Status: http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			eachLink(t, func(t *testing.T, link agent.Link) {
				home := memhome.New(t)
				home.Fault = func(c memhome.Call) memhome.Failure {
					if c.Kind == "put" && c.Number == 1 {
						return failure
					}
					return memhome.Failure{}
				}
				job := script(numbers(50_000) + " > big; echo small > small")
				job.Outputs = []string{"*"}
				boot := home.Add(job)
				exit := agent.Run(t.Context(), link, newPlace(t, boot), nil)
				a := home.Attempt(boot.Attempt)
				wantOutcome(t, exit, a, wire.Succeeded, "") // the server has compared sizes and sums
				if got := artifactNames(a); !slices.Equal(got, []string{"big", "small"}) {
					t.Errorf("artifacts %q", got)
				}
				if data, _ := home.Blob("out/" + boot.Attempt + "/big"); !bytes.Equal(data, numbersOutput(50_000)) {
					t.Errorf("big has %d bytes, and not those that were written", len(data))
				}
				if got := home.Requests("/artifacts"); got != 3 {
					t.Errorf("%d requests for places, want one for both and one again for each", got)
				}
			})
		})
	}
}

// breakingWeb breaks the first request off after its body has been on its way for longer than a file may stand still.
type breakingWeb struct {
	clock *clock
	tries atomic.Int64
}

func (w *breakingWeb) RoundTrip(r *http.Request) (*http.Response, error) {
	if w.tries.Add(1) > 1 {
		return http.DefaultTransport.RoundTrip(r)
	}
	defer r.Body.Close()
	for {
		w.clock.advance(time.Minute)
		if _, err := io.CopyN(io.Discard, r.Body, 16); err != nil {
			return nil, errors.New("the connection was reset")
		}
	}
}

func TestLongUploadThatBreaksOffIsTriedAgain(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	web := &breakingWeb{clock: newClock()}
	link := agent.NewDirect("test")
	t.Cleanup(link.Close)
	job := script("printf %0200d 0 > out")
	job.OrphanAfterMS = 36_000_000
	job.Outputs = []string{"out"}
	r := begin(t, home, link, job, &agent.Options{Clock: web.clock.now, Web: &http.Client{Transport: web}})
	exit := r.wait(t)
	wantOutcome(t, exit, home.Attempt(r.id), wire.Succeeded, "")
	if data, _ := home.Blob("out/" + r.id + "/out"); len(data) != 200 {
		t.Errorf("out has %d bytes, want 200", len(data))
	}
}

func TestUploadThatNeverSucceedsIsGivenUp(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	clock := newClock()
	var tries atomic.Int64
	home.Fault = func(c memhome.Call) memhome.Failure {
		if c.Kind != "put" {
			return memhome.Failure{}
		}
		tries.Add(1)
		clock.advance(2 * time.Minute) // all bytes were sent, and nothing moves any more
		return memhome.Failure{Status: http.StatusServiceUnavailable}
	}
	link := agent.NewDirect("test")
	t.Cleanup(link.Close)
	job := script("echo content > out")
	job.OrphanAfterMS = 36_000_000
	job.Outputs = []string{"out"}
	r := begin(t, home, link, job, &agent.Options{Clock: clock.now})
	exit := r.wait(t)
	wantOutcome(t, exit, home.Attempt(r.id), wire.Failed, "output_failed")
	if got := tries.Load(); got != 3 {
		t.Errorf("%d tries, want 3 of two minutes each", got)
	}
}

func TestOutputThatCannotBeStoredFailsTheAttempt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script, message string
		refuse          bool
	}{
		"RefusedByTheStore":  {"echo x > a; echo y > b", "output b", true},
		"TooMany":            {"seq 1 1001 | split -l 1 -a 4 - x", "More than 1000 files match", false},
		"NameThatNobodySees": {`touch "$(printf 'a\nb')"`, "has a name that cannot be shown", false},
		"NameThatIsNoText":   {`touch "$(printf 'a\377b')"`, "has a name that cannot be shown", false},
		"NameThatIsTooLong":  {`d=$(printf %0200d 0); mkdir -p $d/$d/$d/$d/$d; echo x > $d/$d/$d/$d/$d/$d`, "is longer than 1024 bytes", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := memhome.New(t)
			home.Fault = func(call memhome.Call) memhome.Failure {
				if call.Kind == "put" && c.refuse && strings.HasSuffix(call.Name, "/b") {
					return memhome.Failure{Status: http.StatusRequestEntityTooLarge}
				}
				return memhome.Failure{}
			}
			job := script(c.script)
			job.Outputs = []string{"**"}
			exit, a := carryOut(t, home, job)
			wantOutcome(t, exit, a, wire.Failed, "output_failed")
			if !strings.Contains(a.Result.Message, c.message) {
				t.Errorf("message %q, want %q in it", a.Result.Message, c.message)
			}
			if !a.Result.Exit.OK() {
				t.Errorf("exit %+v, want the command's own", a.Result.Exit)
			}
		})
	}
}

func TestOutputThatChangesDuringUploadFailsTheAttempt(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	link := agent.NewDirect("test")
	t.Cleanup(link.Close)
	var r *running
	started := make(chan struct{})
	home.Fault = func(c memhome.Call) memhome.Failure {
		if c.Kind == "artifacts" { // the sizes are known: now somebody outside the machine writes
			<-started
			if err := os.WriteFile(filepath.Join(r.place.WorkDir, "out"), []byte("longer than it was"), 0o644); err != nil {
				t.Error(err)
			}
		}
		return memhome.Failure{}
	}
	job := script("echo short > out")
	job.Outputs = []string{"out"}
	r = begin(t, home, link, job, nil)
	close(started)
	exit := r.wait(t)
	a := home.Attempt(r.id)
	wantOutcome(t, exit, a, wire.Failed, "output_failed")
	if !strings.Contains(a.Result.Message, "changed while it was uploaded") {
		t.Errorf("message %q", a.Result.Message)
	}
}

func TestResultSurvivesTheAgentWhileTheServerIsAway(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t)
		var away atomic.Bool
		home.Fault = func(c memhome.Call) memhome.Failure {
			return memhome.Failure{Drop: away.Load() && c.Kind == "result"}
		}
		away.Store(true)
		r := begin(t, home, link, script("echo the only run >> runs; cat runs"), nil)
		file := filepath.Join(r.place.ScratchDir, "undelivered.json")
		eventually(t, "the result is on disk", func() bool { _, err := os.Stat(file); return err == nil })
		r.stop() // as if the host was restarted
		if exit := r.wait(t); exit.Code != agent.ExitNotOurs {
			t.Errorf("the first agent ended with %+v", exit)
		}
		away.Store(false)
		exit := agent.Run(t.Context(), link, r.place, nil)
		a := home.Attempt(r.id)
		wantOutcome(t, exit, a, wire.Succeeded, "")
		if got := string(a.Streams[wire.Stdout].Data); got != "the only run\n" || a.Claims != 1 {
			t.Errorf("stdout %q and %d claims, want one run and one claim", got, a.Claims)
		}
		if _, err := os.Stat(file); err == nil {
			t.Error("the delivered result is still on disk")
		}
	})
}

func TestNamedPipesInTheScratchDirectoryDoNotHoldUpTheAgent(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	home.Fault = func(c memhome.Call) memhome.Failure {
		if c.Kind == "result" && c.Number == 1 {
			return memhome.Failure{Status: http.StatusServiceUnavailable, Code: "unavailable"} // so the result is kept on disk
		}
		return memhome.Failure{}
	}
	link := agent.NewDirect("test")
	t.Cleanup(link.Close)
	job := script(`cd "$(dirname "$DAYFLY_RESULT")"; mkfifo undelivered.json undelivered.json.new; cat "$DAYFLY_INPUT"`)
	job.Payload = []byte(`"payload"`)
	boot := home.Add(job)
	place := newPlace(t, boot)
	pipe := filepath.Join(place.ScratchDir, "input.json") // of an earlier command that had the directory
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan machine.Exit, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { done <- agent.Run(ctx, link, place, nil) }()
	select {
	case exit := <-done:
		a := home.Attempt(boot.Attempt)
		wantOutcome(t, exit, a, wire.Succeeded, "")
		if got := string(a.Streams[wire.Stdout].Data); got != `"payload"` {
			t.Errorf("the command read %q, want the payload", got)
		}
	case <-time.After(20 * time.Second):
		t.Error("the agent has not ended after 20 s: it waits for somebody to read a pipe")
		stop()
		for _, name := range []string{pipe, filepath.Join(place.ScratchDir, "undelivered.json.new")} {
			if reader, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0); err == nil {
				defer reader.Close()
			}
		}
		<-done
	}
}

func TestServerThatComesBackTakesTheResult(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t)
		home.Fault = func(c memhome.Call) memhome.Failure {
			return memhome.Failure{Drop: c.Kind == "result" && c.Number <= 3}
		}
		boot := home.Add(script("echo hi"))
		place := newPlace(t, boot)
		exit := agent.Run(t.Context(), link, place, nil)
		wantOutcome(t, exit, home.Attempt(boot.Attempt), wire.Succeeded, "")
		if left, err := os.ReadDir(place.ScratchDir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v; want nothing", left, err)
		}
	})
}

func TestResultThatTheServerCannotReadIsReportedAsSuch(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		value          string
		refusals       int
		outcome        wire.Outcome
		reason         string
		warnings, kept int
	}{
		"WithoutItsValue":         {`{"deep":1}`, 1, wire.Succeeded, "", 2, 1},
		"WhateverTheValue":        {`{"deep":1}`, 2, wire.Failed, "output_failed", 0, 1},
		"WhenThereNeverWasAValue": {"", 1, wire.Failed, "output_failed", 0, 1},
		"WithoutItsFiles":         {"", 2, wire.Failed, "output_failed", 0, 0},
		"WithNeither":             {`{"deep":1}`, 3, wire.Failed, "output_failed", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			eachLink(t, func(t *testing.T, link agent.Link) {
				home := memhome.New(t)
				home.Fault = func(call memhome.Call) memhome.Failure {
					if call.Kind == "result" && call.Number <= c.refusals {
						return memhome.Failure{Status: http.StatusBadRequest, Code: "invalid"}
					}
					return memhome.Failure{}
				}
				job := script(`echo hi; echo kept > kept; printf '` + c.value + `' > "$DAYFLY_RESULT"`)
				job.Outputs = []string{"kept", "missing"}
				boot := home.Add(job)
				exit := agent.Run(t.Context(), link, newPlace(t, boot), nil)
				a := home.Attempt(boot.Attempt)
				wantOutcome(t, exit, a, c.outcome, c.reason)
				r := a.Result
				if r.Value != nil || !r.Exit.OK() || string(a.Streams[wire.Stdout].Data) != "hi\n" {
					t.Errorf("result %+v, want the exit and the output without the value", r)
				}
				if len(r.Artifacts) != c.kept || len(r.Warnings) != c.warnings {
					t.Errorf("artifacts %v, warnings %q; want %d and %d", r.Artifacts, r.Warnings, c.kept, c.warnings)
				}
				if said := strings.Join(append(r.Warnings, r.Message), " "); !strings.Contains(said, "as the test wants it") {
					t.Errorf("warnings and message are %q, want the server's reason in them", said)
				}
			})
		})
	}
}

func TestLargestResultStaysWithinTheLimit(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t) // fails the test when a body is too large
		job := script(`d=$(printf '%0120d' 0 | tr 0 '"'); mkdir -p "$d"; cd "$d"; seq 1 1000 | split -l 1 -a 5 - "$(printf '%0120d' 0 | tr 0 '"')"
			head -c 65000 /dev/zero; head -c 65000 /dev/zero >&2
			(printf '"'; head -c 1048574 /dev/zero | tr '\0' '<'; printf '"') > "$DAYFLY_RESULT"`)
		job.Outputs = []string{"**"}
		boot := home.Add(job)
		began := time.Now()
		exit := agent.Run(t.Context(), link, newPlace(t, boot), nil)
		a := home.Attempt(boot.Attempt)
		wantOutcome(t, exit, a, wire.Succeeded, "")
		if len(a.Result.Value) != wire.MaxResultValue || len(a.Result.Artifacts) != wire.MaxArtifacts {
			t.Errorf("%d bytes of value and %d artifacts", len(a.Result.Value), len(a.Result.Artifacts))
		}
		t.Log(fmt.Sprint("1000 artifacts in ", time.Since(began)))
	})
}
