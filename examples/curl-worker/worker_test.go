// Package curlworker_test runs the example against a server.
package curlworker_test

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/agent/memhome"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// worker is the example under way.
type worker struct {
	cmd    *exec.Cmd
	dir    string
	output bytes.Buffer
}

// start starts the example for an attempt.
func start(t *testing.T, home *memhome.Home, job wire.Assignment) (*worker, string) {
	t.Helper()
	script, err := filepath.Abs("worker.sh")
	if err != nil {
		t.Fatal(err)
	}
	return startScript(t, home, script, job)
}

func startScript(t *testing.T, home *memhome.Home, script string, job wire.Assignment) (*worker, string) {
	t.Helper()
	for _, tool := range []string{"curl", "jq", "setsid"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("the example needs %s: %v", tool, err)
		}
	}
	boot := home.Add(job)
	w := &worker{cmd: exec.CommandContext(t.Context(), "sh", script), dir: t.TempDir()}
	w.cmd.Dir = w.dir
	w.cmd.Stderr = &w.output
	w.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir(),
		"DAYFLY_AGENT_URL=" + boot.URL, "DAYFLY_AGENT_ATTEMPT=" + boot.Attempt, "DAYFLY_AGENT_TOKEN=" + boot.Token,
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return w, boot.Attempt
}

// wait returns the exit code of the example.
func (w *worker) wait(t *testing.T) int {
	t.Helper()
	err := w.cmd.Wait()
	if err != nil && w.cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if w.output.Len() > 0 {
		t.Logf("the worker says: %s", w.output.String())
	}
	return w.cmd.ProcessState.ExitCode()
}

func shell(text string) wire.Assignment {
	return wire.Assignment{Name: "test", Command: []string{"sh", "-c", text}, KillGraceMS: 5000, HeartbeatMS: 1000, OrphanAfterMS: 60_000}
}

func TestWorkerCarriesOutAnAttempt(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	job := shell(`cat "$DAYFLY_INPUT" deep/in.txt; echo "$GREETING" >&2; env | grep DAYFLY_AGENT; seq 1 100000; printf out > out.txt
		echo '{"answer": 42}' > "$DAYFLY_RESULT"; sleep 1.2; echo bye`)
	job.Payload = []byte(`{"a":1}`)
	job.Env = map[string]string{"GREETING": `it's "quoted" & $odd`}
	job.Inputs, job.Outputs = []wire.Input{home.Input("deep/in.txt", []byte("content\n"))}, []string{"*.txt", "*.none"}
	w, id := start(t, home, job)
	if code := w.wait(t); code != 0 {
		t.Errorf("exit %d, want 0", code)
	}
	a := home.Attempt(id)
	if a.Result == nil || a.Result.Outcome != wire.Succeeded || !a.Result.Exit.OK() || !a.Result.Started {
		t.Fatalf("result %+v", a.Result)
	}
	var want strings.Builder
	want.WriteString("{\"a\":1}\ncontent\n")
	seq, err := exec.Command("seq", "1", "100000").Output()
	if err != nil {
		t.Fatal(err)
	}
	want.Write(seq)
	want.WriteString("bye\n")
	if got := string(a.Streams[wire.Stdout].Data); got != want.String() {
		t.Errorf("stdout has %d bytes, want %d", len(got), want.Len())
	}
	if got := string(a.Streams[wire.Stderr].Data); got != "it's \"quoted\" & $odd\n" {
		t.Errorf("stderr = %q", got)
	}
	if got := string(a.Result.Value); !strings.Contains(got, "42") {
		t.Errorf("value %s", got)
	}
	if data, ok := home.Blob("out/" + id + "/out.txt"); !ok || string(data) != "out" || len(a.Result.Artifacts) != 1 {
		t.Errorf("artifacts %+v with %q", a.Result.Artifacts, data)
	}
	if len(a.Phases) == 0 {
		t.Error("there was no heartbeat")
	}
}

func TestWorkerReportsWhatWentWrong(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	missing := home.Input("missing", []byte("x"))
	missing.SHA256 = strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		change  func(job *wire.Assignment)
		outcome wire.Outcome
		reason  string
		code    int
		signal  string
	}{
		"Status":    {func(j *wire.Assignment) { j.Command[2] = "exit 7" }, wire.Failed, "exit_nonzero", 7, ""},
		"Signal":    {func(j *wire.Assignment) { j.Command[2] = "kill -9 $$" }, wire.Failed, "signaled", -1, "SIGKILL"},
		"NoProgram": {func(j *wire.Assignment) { j.Command = []string{"frobnicate"} }, wire.Failed, "command_not_found", 127, ""},
		"BadInput":  {func(j *wire.Assignment) { j.Inputs = []wire.Input{missing} }, wire.Failed, "input_failed", 0, ""},
		"Timeout": {func(j *wire.Assignment) {
			j.Command[2], j.RunTimeoutMS = `trap "exit 3" TERM; while :; do sleep 0.1; done`, 1000
		}, wire.TimedOut, "", 3, ""},
		"IgnoredSIGTERM": {func(j *wire.Assignment) {
			j.Command[2], j.RunTimeoutMS, j.KillGraceMS = `trap "" TERM; while :; do sleep 0.1; done`, 1000, 1000
		}, wire.TimedOut, "", -1, "SIGKILL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := shell("true")
			c.change(&job)
			w, id := start(t, home, job)
			if code := w.wait(t); code != 0 {
				t.Errorf("exit %d, want 0: the result was accepted", code)
			}
			r := home.Attempt(id).Result
			if r == nil || r.Outcome != c.outcome || r.Reason != c.reason {
				t.Fatalf("result %+v, want %s, %s", r, c.outcome, c.reason)
			}
			if began := r.Reason != "command_not_found" && r.Reason != "input_failed"; r.Started != began {
				t.Errorf("started = %v, want %v", r.Started, began)
			}
			if (r.Exit == nil) != (c.reason == "input_failed") || r.Exit != nil && (r.Exit.Code != c.code || r.Exit.Signal != c.signal) {
				t.Errorf("exit %+v, want %d %s", r.Exit, c.code, c.signal)
			}
		})
	}
}

func TestWorkerEndsWhenItsAttemptDoes(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	w, id := start(t, home, shell("echo started; exec sleep 3600"))
	home.Await(id, "it runs", func(a memhome.Attempt) bool { return len(a.Phases) > 0 })
	home.Supersede(id)
	if code := w.wait(t); code != 75 {
		t.Errorf("exit %d, want 75", code)
	}
	if a := home.Attempt(id); a.Result != nil {
		t.Errorf("result %+v of an attempt that is over", a.Result)
	}
}

func TestWorkerObeysTheOrderToStop(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	w, id := start(t, home, shell("echo started; exec sleep 3600"))
	home.Await(id, "it runs", func(a memhome.Attempt) bool { return len(a.Phases) > 0 })
	home.Order(id, wire.Canceled)
	if code := w.wait(t); code != 0 {
		t.Errorf("exit %d, want 0", code)
	}
	if a := home.Attempt(id); a.Result == nil || a.Result.Outcome != wire.Canceled || a.Result.Exit.Signal != "SIGTERM" {
		t.Errorf("result %+v, want it canceled by SIGTERM", a.Result)
	}
}

func TestWorkerWithoutAClaimRunsNothing(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	w, id := start(t, home, shell("echo ran > ran; sleep 0.1"))
	if code := w.wait(t); code != 0 {
		t.Errorf("exit %d, want 0", code)
	}
	again := exec.CommandContext(t.Context(), "sh", w.cmd.Args[1])
	again.Dir, again.Env = t.TempDir(), w.cmd.Env
	if output, err := again.CombinedOutput(); again.ProcessState.ExitCode() != 75 {
		t.Errorf("the second worker: %v, %s; want exit 75", err, output)
	}
	if _, err := os.Stat(filepath.Join(again.Dir, "ran")); err == nil || home.Attempt(id).Claims != 1 {
		t.Error("the second worker has run the command")
	}
}

func TestWorkerRepeatsWhatGotNoAnswer(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	home.Fault = func(c memhome.Call) memhome.Failure {
		switch {
		case c.Number == 1 && c.Kind != "get" && c.Kind != "put":
			return memhome.Failure{Drop: true, After: true}
		case c.Number == 2 && c.Kind == "result":
			return memhome.Failure{Status: http.StatusServiceUnavailable, Code: "unavailable", Wait: time.Second}
		}
		return memhome.Failure{}
	}
	w, id := start(t, home, shell("echo hello"))
	if code := w.wait(t); code != 0 {
		t.Errorf("exit %d, want 0", code)
	}
	a := home.Attempt(id)
	if a.Result == nil || a.Result.Outcome != wire.Succeeded || string(a.Streams[wire.Stdout].Data) != "hello\n" || a.Claims != 2 {
		t.Errorf("result %+v, stdout %q, %d claims", a.Result, a.Streams[wire.Stdout].Data, a.Claims)
	}
}

// TestWorkerInTheDocumentation runs the script that docs/writing-a-worker.md shows.
func TestWorkerInTheDocumentation(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/writing-a-worker.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(page), "```sh\n#!/bin/sh\n")
	text, _, closed := strings.Cut(text, "\n```")
	if !ok || !closed {
		t.Fatal("the page shows no script")
	}
	script := filepath.Join(t.TempDir(), "worker.sh")
	if err := os.WriteFile(script, []byte(text+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	home := memhome.New(t)
	for command, outcome := range map[string]wire.Outcome{"echo 'hello  world'; echo oops >&2": wire.Succeeded, "echo 'hello  world'; echo oops >&2; exit 3": wire.Failed} {
		w, id := startScript(t, home, script, shell(command))
		if code := w.wait(t); code != 0 {
			t.Errorf("exit %d, want 0", code)
		}
		a := home.Attempt(id)
		if a.Result == nil || a.Result.Outcome != outcome {
			t.Fatalf("result %+v, want %s", a.Result, outcome)
		}
		if out, stderr := string(a.Streams[wire.Stdout].Data), string(a.Streams[wire.Stderr].Data); out != "hello  world\n" || stderr != "oops\n" {
			t.Errorf("stdout %q, stderr %q", out, stderr)
		}
	}
	home = memhome.New(t)
	home.Fault = func(memhome.Call) memhome.Failure {
		return memhome.Failure{Status: http.StatusConflict, Code: "already_claimed"}
	}
	w, _ := startScript(t, home, script, shell("echo ran > ran"))
	if code := w.wait(t); code != 75 {
		t.Errorf("exit %d of a worker whose claim was refused, want 75", code)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "ran")); err == nil {
		t.Error("a worker whose claim was refused has run the command")
	}
}
