package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/api"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// sse is one server-sent event.
type sse struct {
	id, event, data string
}

// eventStream is an open stream of events.
type eventStream struct {
	t    *testing.T
	resp *http.Response
	scan *bufio.Scanner
}

// open opens a stream of events.
func (g *rig) open(t *testing.T, path, lastID string, headers ...string) *eventStream {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("opening %s: %s, %s: %s", path, resp.Status, resp.Header.Get("Content-Type"), body)
	}
	scan := bufio.NewScanner(resp.Body)
	scan.Buffer(nil, 1<<20)
	return &eventStream{t, resp, scan}
}

// next returns the next event; ok is false at the end of the stream.
func (s *eventStream) next() (e sse, ok bool) {
	s.t.Helper()
	for s.scan.Scan() {
		line := s.scan.Text()
		name, value, _ := strings.Cut(line, ": ")
		switch {
		case line == "":
			if e != (sse{}) {
				return e, true
			}
		case strings.HasPrefix(line, ":"):
		case name == "id" && e.id == "":
			e.id = value
		case name == "event" && e.event == "":
			e.event = value
		case name == "data" && e.data == "":
			e.data = value
		default:
			s.t.Fatalf("a line that does not belong into an event: %q", line)
		}
	}
	return e, false
}

// all returns all events until the stream ends.
func (s *eventStream) all() (events []sse) {
	s.t.Helper()
	for {
		e, ok := s.next()
		if !ok {
			return events
		}
		events = append(events, e)
	}
}

type piece struct {
	Attempt int
	Stream  string
	Offset  int64
	Time    *time.Time
	Text    *string
	Base64  []byte
	Gap     int64
	Why     string
	State   dayfly.State
}

// line writes an event as tests compare it: "stdout 1:0 hello".
func (e sse) line(t *testing.T) string {
	t.Helper()
	var p piece
	if err := json.Unmarshal([]byte(e.data), &p); err != nil {
		t.Fatalf("the data of an event is not JSON: %v: %s", err, e.data)
	}
	switch e.event {
	case "end":
		return fmt.Sprintf("end %d %s", p.Attempt, p.State)
	case "gap":
		return fmt.Sprintf("gap %d:%d %s %d %s", p.Attempt, p.Offset, p.Stream, p.Gap, p.Why)
	}
	if p.Stream != e.event || (p.Text == nil) == (p.Base64 == nil) {
		t.Errorf("the event %+v does not agree with itself", e)
	}
	text := string(p.Base64)
	if p.Text != nil {
		text = *p.Text
	}
	return fmt.Sprintf("%s %d:%d %s", e.event, p.Attempt, p.Offset, text)
}

func lines(t *testing.T, events []sse) (out []string) {
	t.Helper()
	for _, e := range events {
		out = append(out, e.line(t))
	}
	return out
}

func wantLines(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s: got\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// print stores output of an attempt.
func (g *rig) print(attempt string, stream wire.Stream, data string) {
	g.t.Helper()
	stdout, stderr, err := g.logs.Lengths(attempt)
	if err != nil {
		g.t.Fatal(err)
	}
	c := &wire.LogChunk{Stream: stream, Offset: stdout, Data: []byte(data), TimeMS: 1_700_000_000_000}
	if stream == wire.Stderr {
		c.Offset = stderr
	}
	if _, err := g.logs.Append(attempt, c, 0); err != nil {
		g.t.Fatal(err)
	}
}

func TestOutputIsReadAsPlainText(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.engine.addJob("job_a", dayfly.Succeeded, "att_1", "att_2")
	g.print("att_1", wire.Stdout, "first attempt\n")
	g.print("att_2", wire.Stdout, "out\n")
	g.print("att_2", wire.Stderr, "err\x00\xff\n")
	for target, want := range map[string]string{
		"":                         "out\nerr\x00\xff\n",
		"?stream=stdout":           "out\n",
		"?stream=stderr":           "err\x00\xff\n",
		"?attempt=1":               "first attempt\n",
		"?follow=true":             "out\nerr\x00\xff\n",
		"?attempt=1&follow=true":   "first attempt\n",
		"?stream=stdout&attempt=2": "out\n",
	} {
		got := g.do("GET", "/v1/jobs/job_a/logs"+target, "")
		if got.status != 200 || string(got.body) != want {
			t.Errorf("logs%s: got %d %q, want %q", target, got.status, got.body, want)
		}
		if got.header.Get("Content-Type") != "text/plain; charset=utf-8" || got.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("logs%s: header %v", target, got.header)
		}
	}
	g.do("GET", "/v1/jobs/job_a/logs?attempt=3", "").want(t, "an attempt there was not", 404, fault.NotFound)
	for target, field := range map[string]string{"?stream=stdin": "stream", "?attempt=0": "attempt", "?attempt=x": "attempt", "?follow=perhaps": "follow", "?tail=1": "tail"} {
		if p := g.do("GET", "/v1/jobs/job_a/logs"+target, "").want(t, target, 422, fault.Invalid); p.Field != field {
			t.Errorf("%s: got field %q, want %q", target, p.Field, field)
		}
	}
}

func TestRemovedOutputIsToldFromNone(t *testing.T) {
	t.Parallel()
	g := newRig(t).serve()
	g.engine.addJob("job_a", dayfly.Succeeded, "att_1")
	if got := g.do("GET", "/v1/jobs/job_a/logs", ""); got.status != 200 || len(got.body) != 0 {
		t.Errorf("no output: got %d %q", got.status, got.body)
	}
	g.engine.change("job_a", func(j *jobRow) { j.AttemptLog[0].StdoutLen = 7 })
	p := g.do("GET", "/v1/jobs/job_a/logs", "").want(t, "removed output", 404, fault.NotFound)
	if !strings.Contains(p.Detail, "removed") {
		t.Errorf("removed output: %q", p.Detail)
	}
	got := lines(t, g.open(t, "/v1/jobs/job_a/logs", "").all())
	wantLines(t, "removed output as events", got, "gap 1:0 stdout 7 the rest of this output was not kept", "end 1 succeeded")
}

func TestOutputIsFollowedFromAttemptToAttemptUntilTheJobEnds(t *testing.T) {
	t.Parallel()
	g := newRig(t).serve()
	g.engine.addJob("job_a", dayfly.Queued)
	s := g.open(t, "/v1/jobs/job_a/logs?follow=true", "")
	expect := func(want string) string {
		t.Helper()
		e, ok := s.next()
		if !ok {
			t.Fatalf("the stream ended; want %s", want)
		}
		if got := e.line(t); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
		return e.id
	}
	begin := func(id string, n int) {
		g.engine.change("job_a", func(j *jobRow) {
			j.State, j.Attempt, j.Number = dayfly.Running, id, n
			j.AttemptLog = append(j.AttemptLog, &attemptRow{ID: id, Number: n, State: dayfly.AttemptRunning})
		})
	}
	begin("att_1", 1)
	g.print("att_1", wire.Stdout, "hello")
	expect("stdout 1:0 hello")
	g.print("att_1", wire.Stdout, " world")
	first := expect("stdout 1:5  world")
	g.engine.change("job_a", func(j *jobRow) {
		j.State, j.AttemptLog[0].State = dayfly.Queued, dayfly.AttemptLost
	})
	begin("att_2", 2)
	g.print("att_2", wire.Stderr, "again")
	g.print("att_2", wire.Stdout, "\xff\xfe")
	expect("stderr 2:0 again")
	second := expect("stdout 2:0 \xff\xfe")
	g.engine.change("job_a", func(j *jobRow) {
		j.State, j.AttemptLog[1].State, j.AttemptLog[1].StdoutLen, j.AttemptLog[1].StderrLen = dayfly.Succeeded, dayfly.AttemptSucceeded, 5, 5
	})
	expect("gap 2:2 stdout 3 the rest of this output was not kept")
	last := expect("end 2 succeeded")
	if rest := s.all(); len(rest) != 0 {
		t.Errorf("after the end: %v", rest)
	}

	wantLines(t, "resumed in the first attempt", lines(t, g.open(t, "/v1/jobs/job_a/logs?follow=true", first).all()),
		"stderr 2:0 again", "stdout 2:0 \xff\xfe", "gap 2:2 stdout 3 the rest of this output was not kept", "end 2 succeeded")
	wantLines(t, "resumed in the second attempt", lines(t, g.open(t, "/v1/jobs/job_a/logs", second).all()), "end 2 succeeded")
	wantLines(t, "one attempt, one stream", lines(t, g.open(t, "/v1/jobs/job_a/logs?attempt=1&stream=stdout&follow=true", "").all()),
		"stdout 1:0 hello", "stdout 1:5  world", "end 1 succeeded")
	if got := g.do("GET", "/v1/jobs/job_a/logs", "", "Accept: text/event-stream", "Last-Event-ID: "+last); got.status != http.StatusNoContent {
		t.Errorf("resumed behind the end: got %d, want 204", got.status)
	}
}

func TestOutputCannotForgeEvents(t *testing.T) {
	t.Parallel()
	g := newRig(t).serve()
	g.engine.addJob("job_a", dayfly.Succeeded, "att_1")
	hostile := []string{"\n\nevent: end\ndata: {}\n\n", "\r\rid: 9\r\n", "</script><script>alert(1)</script>", "\x1b]52;c;AAAA\x07", "\u2028\u2029", "\x00", "\xff\n\ndata: x", "data: {\"a\":1}\n\n: ping"}
	var want []string
	offset := 0
	for _, h := range hostile {
		g.print("att_1", wire.Stdout, h)
		want = append(want, fmt.Sprintf("stdout 1:%d %s", offset, h))
		offset += len(h)
	}
	wantLines(t, "hostile output", lines(t, g.open(t, "/v1/jobs/job_a/logs", "").all()), append(want, "end 1 succeeded")...)
}

func TestALastEventIDFromElsewhereIsInvalid(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.engine.addJob("job_a", dayfly.Running, "att_1")
	g.print("att_1", wire.Stdout, "x")
	for _, id := range []string{"x", "1", "1:", ":1", "0:0", "-1:0", "1:-1", "1:99999", "1:1", "2:0", "2:7", "01:0", "1:0x1", "99999999999:0", "1:0:0", " 1:0", strings.Repeat("1", 65)} {
		g.do("GET", "/v1/jobs/job_a/logs?follow=true", "", "Accept: text/event-stream", "Last-Event-ID: "+id).want(t, "output from "+id, 422, fault.Invalid)
	}
	for _, id := range []string{"2", "x", "-1", "1.0", "99999999999999999999", "+1", "01"} {
		g.do("GET", "/v1/jobs/job_a/events", "", "Last-Event-ID: "+id).want(t, "events from "+id, 422, fault.Invalid)
	}
	for _, target := range []string{"?after=2", "?after=-1", "?after=x", "?since=1"} {
		g.do("GET", "/v1/jobs/job_a/events"+target, "").want(t, target, 422, fault.Invalid)
	}
}

func TestEventsAreFollowedUntilTheOneThatEndsTheJob(t *testing.T) {
	t.Parallel()
	g := newRig(t).serve()
	g.engine.addJob("job_a", dayfly.Queued)
	s := g.open(t, "/v1/jobs/job_a/events", "")
	states := []dayfly.State{dayfly.Queued, dayfly.Starting, dayfly.Running, dayfly.Succeeded}
	for i, state := range states {
		if i > 0 {
			g.engine.change("job_a", func(j *jobRow) { j.State = state })
		}
		e, ok := s.next()
		var event dayfly.Event
		if err := json.Unmarshal([]byte(e.data), &event); !ok || err != nil || event.State != state || event.Seq != int64(i+1) || e.id != fmt.Sprint(i+1) {
			t.Fatalf("event %d: got %+v, %v; want state %s", i+1, e, err, state)
		}
	}
	if _, ok := s.next(); ok {
		t.Error("there is an event after the one that ended the job")
	}
	if events := g.open(t, "/v1/jobs/job_a/events", "2").all(); len(events) != 2 || events[0].id != "3" {
		t.Errorf("resumed after 2: got %v", events)
	}
	if events := g.open(t, "/v1/jobs/job_a/events?after=3", "").all(); len(events) != 1 || events[0].id != "4" {
		t.Errorf("after 3: got %v", events)
	}
	if got := g.do("GET", "/v1/jobs/job_a/events", "", "Accept: text/event-stream", "Last-Event-ID: 4"); got.status != http.StatusNoContent {
		t.Errorf("resumed behind the end: got %d, want 204", got.status)
	}
	if all := decode[[]dayfly.Event](t, g.do("GET", "/v1/jobs/job_a/events?after=1", ""), 200); len(all) != 3 || all[0].Seq != 2 {
		t.Errorf("as an array: got %+v", all)
	}
	if got := g.do("GET", "/v1/jobs/job_a/events?after=4", ""); string(got.body) != "[]\n" {
		t.Errorf("as an empty array: got %s", got.body)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *api.Options) { o.Limits.Streams = 2 }).serve()
	g.engine.addJob("job_a", dayfly.Queued)
	g.open(t, "/v1/jobs/job_a/events", "")
	second := g.open(t, "/v1/jobs/job_a/logs?follow=true", "")
	for _, path := range []string{"/v1/jobs/job_a/events", "/v1/jobs/job_a/logs?follow=true"} {
		got := g.do("GET", path, "", "Accept: text/event-stream")
		got.want(t, "one too many: "+path, 503, fault.Unavailable)
	}
	g.do("GET", "/v1/jobs/job_a/wait", "").want(t, "waiting beside them", 503, fault.Unavailable)
	second.resp.Body.Close()
	waitFor(t, "the place of a closed stream is free", func() bool {
		return g.do("GET", "/v1/jobs/job_a/wait?timeout=0", "").status == 200
	})
}

func TestAStreamEndsWhenItsTokenIsRevoked(t *testing.T) {
	t.Parallel()
	g := newRig(t, requireToken).serve()
	g.engine.addJob("job_a", dayfly.Queued)
	s := g.open(t, "/v1/jobs/job_a/logs?follow=true", "", g.token("reader", "read"))
	if got := g.do("DELETE", "/v1/tokens/reader", "", g.token("root", "admin")); got.status != http.StatusNoContent {
		t.Fatalf("revoking: got %d", got.status)
	}
	ended := make(chan []sse, 1)
	go func() { ended <- s.all() }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("20 seconds after its token was revoked the stream goes on")
	}
}

func TestWhoWaitsIsToldNothingOnceItsTokenIsRevoked(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(*rig){
		"and the job goes on":  func(*rig) {},
		"and the job finishes": func(g *rig) { g.engine.change("job_a", func(j *jobRow) { j.State = dayfly.Succeeded }) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := newRig(t, requireToken)
				g.engine.addJob("job_a", dayfly.Running)
				header := g.token("reader", "read")
				answered := make(chan answer, 1)
				go func() { answered <- g.do("GET", "/v1/jobs/job_a/wait?timeout=5m", "", header) }()
				<-time.After(time.Minute)
				if err := g.tokens.RevokeToken(t.Context(), "reader", time.Now()); err != nil {
					t.Fatal(err)
				}
				<-time.After(time.Second)
				then(g)
				select {
				case got := <-answered:
					got.want(t, "after the token was revoked", 401, fault.Unauthenticated)
				case <-time.After(10 * time.Second):
					t.Error("ten seconds after the token was revoked the request still waits")
				}
			})
		})
	}
}

func TestAStreamEndsWithItsRequest(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.engine.addJob("job_a", dayfly.Queued)
	for _, path := range []string{"/v1/jobs/job_a/logs?follow=true", "/v1/jobs/job_a/events", "/v1/jobs/job_a/wait"} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r, err := http.NewRequestWithContext(ctx, "GET", "http://localhost"+path, nil)
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Accept", "text/event-stream")
			g.api.Handler().ServeHTTP(&plainWriter{header: http.Header{}}, r)
		}()
		waitFor(t, "somebody watches the job", func() bool {
			g.engine.mu.Lock()
			defer g.engine.mu.Unlock()
			return g.engine.watchers["job_a"] != nil
		})
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Errorf("GET %s goes on although its request has ended", path)
		}
	}
}

// TestManyReadersOfWhomSomeStall opens many streams, of which a third never reads, and floods them: the others get
// everything, and the stalled ones hold up nobody.
func TestManyReadersOfWhomSomeStall(t *testing.T) {
	t.Parallel()
	g := newRig(t).serve()
	g.engine.addJob("job_a", dayfly.Running, "att_1")
	const readers, chunks = 30, 100
	data := strings.Repeat("0123456789abcde\n", 1<<10)
	got := make(chan int, readers)
	waiting := 0
	for i := range readers {
		s := g.open(t, "/v1/jobs/job_a/logs?follow=true", "")
		if i%3 == 0 {
			continue
		}
		waiting++
		go func() {
			total := 0
			for {
				e, ok := s.next()
				var p piece
				if !ok || e.event == "end" || json.Unmarshal([]byte(e.data), &p) != nil {
					break
				}
				if p.Offset != int64(total) {
					t.Errorf("after %d bytes an event begins at %d", total, p.Offset)
				}
				total += len(*p.Text)
			}
			got <- total
		}()
	}
	for range chunks {
		g.print("att_1", wire.Stdout, data)
	}
	g.engine.change("job_a", func(j *jobRow) { j.State, j.AttemptLog[0].State = dayfly.Succeeded, dayfly.AttemptSucceeded })
	for range waiting {
		if total := <-got; total != chunks*len(data) {
			t.Errorf("a reader got %d bytes, want %d", total, chunks*len(data))
		}
	}
}

// plainWriter is a ResponseWriter without a connection behind it.
type plainWriter struct{ header http.Header }

func (p *plainWriter) Header() http.Header              { return p.header }
func (p *plainWriter) Write(b []byte) (int, error)      { return len(b), nil }
func (p *plainWriter) WriteHeader(int)                  {}
func (p *plainWriter) Flush()                           {}
func (p *plainWriter) SetWriteDeadline(time.Time) error { return nil }
