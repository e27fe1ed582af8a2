// Package memhome is a server as agents see it, in memory, for tests of agents.
//
// A [Home] keeps to package wire to the letter: it compares and sets claims, checks tokens, stores output by offset and
// refuses what is out of order. What a test wants to go wrong it says in [Home.Fault]. Whatever an agent does that the
// protocol forbids is reported to the test as an error.
package memhome

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// Home is a server for agents. It is safe for concurrent use.
type Home struct {
	// Fault decides what goes wrong with a call; nil: nothing. It must be set before the first call.
	Fault func(c Call) Failure

	t      testing.TB
	server *httptest.Server
	closed chan struct{}

	mu       sync.Mutex // guards what follows
	attempts map[string]*Attempt
	machines map[string]*Machine
	nobody   Attempt // counts the calls that are of no attempt
	blobs    map[string][]byte
	requests []string // the path of every request
}

// Call describes a call to [Home.Fault].
type Call struct {
	Kind    string // claim, beat, log, artifacts, result, get, put, batch or beats
	Attempt string // "" for get, put, batch and beats
	Number  int    // how many calls of this kind and attempt there have been, from 1
	Name    string // the blob of a get or put
	Calls   int    // how many calls a batch holds
}

// Failure is what goes wrong with a call. The zero Failure is nothing.
type Failure struct {
	Drop   bool          // close the connection without an answer
	After  bool          // but only after the call has been carried out: its answer is lost
	Status int           // answer with this status, if not 0
	Code   string        // and this code of package fault
	Body   string        // or this body instead of a problem
	Wait   time.Duration // ask for so much patience, or with Status 0 be so slow
}

// Attempt is what a [Home] knows of one attempt. Its fields are those of a moment; see [Home.Attempt].
type Attempt struct {
	Assignment wire.Assignment
	Bootstrap  string
	By         string // instance and nonce of the claimant
	Claims     int    // how often it was claimed with success, repetitions included
	Refused    int    // how often a claim was refused
	Phases     []wire.Phase
	Progress   []wire.Progress
	Streams    map[wire.Stream]*Stream
	Chunks     int // how many log calls stored something
	Result     *wire.Result
	Results    int // how often a result came, refused ones included
	Stale      bool
	order      wire.HeartbeatAnswer
	changed    chan struct{} // closed and replaced when order or Stale changes
	counts     map[string]int
}

// Stream is what is stored of one output.
type Stream struct {
	Data   []byte // without gaps
	Gaps   []wire.LogChunk
	Length int64 // with gaps
}

// New starts a server that ends with the test.
func New(t testing.TB) *Home {
	h := &Home{t: t, closed: make(chan struct{}), attempts: make(map[string]*Attempt), machines: make(map[string]*Machine), blobs: make(map[string][]byte)}
	h.nobody.counts = make(map[string]int)
	h.server = httptest.NewServer(h)
	t.Cleanup(func() {
		close(h.closed)
		h.server.CloseClientConnections()
		h.server.Close()
	})
	return h
}

// URL returns the server's base URL.
func (h *Home) URL() string { return h.server.URL }

// Add makes an attempt that can be claimed. Job, Attempt, tokens and numbers that are missing are filled in.
func (h *Home) Add(job wire.Assignment) machine.Agent {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.attempts) + 1
	if job.Attempt == "" {
		job.Attempt = fmt.Sprintf("att_%04d", n)
	}
	if job.Job == "" {
		job.Job = fmt.Sprintf("job_%04d", n)
	}
	if job.Number == 0 {
		job.Number = 1
	}
	job.Fence, job.Token, job.JobToken = int64(n), "session-"+job.Attempt, "jobtoken-"+job.Attempt
	h.attempts[job.Attempt] = &Attempt{
		Assignment: job,
		Bootstrap:  "bootstrap-" + job.Attempt,
		Streams:    map[wire.Stream]*Stream{wire.Stdout: {}, wire.Stderr: {}},
		changed:    make(chan struct{}),
		counts:     make(map[string]int),
	}
	return machine.Agent{URL: h.URL(), Attempt: job.Attempt, Token: "bootstrap-" + job.Attempt}
}

// Input stores a blob and returns the input that names it.
func (h *Home) Input(name string, data []byte) wire.Input {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.blobs["in/"+name] = bytes.Clone(data)
	sum := sha256.Sum256(data)
	return wire.Input{Name: name, URL: h.URL() + "/blobs/in/" + name, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}
}

// Blob returns a blob that was stored: "in/NAME" of an input, "out/ATTEMPT/NAME" of an artifact.
func (h *Home) Blob(key string) ([]byte, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	data, ok := h.blobs[key]
	return bytes.Clone(data), ok
}

// Order tells the attempt to stop.
func (h *Home) Order(attempt string, reason wire.Outcome) {
	h.change(attempt, func(a *Attempt) { a.order = wire.HeartbeatAnswer{Order: wire.OrderStop, Reason: reason} })
}

// Supersede makes every later call of the attempt stale.
func (h *Home) Supersede(attempt string) { h.change(attempt, func(a *Attempt) { a.Stale = true }) }

func (h *Home) change(attempt string, how func(*Attempt)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.attempts[attempt]
	how(a)
	close(a.changed)
	a.changed = make(chan struct{})
}

// Attempt returns what is known of an attempt now.
func (h *Home) Attempt(id string) Attempt {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := *h.attempts[id]
	a.Streams = map[wire.Stream]*Stream{}
	for name, s := range h.attempts[id].Streams {
		a.Streams[name] = &Stream{Data: bytes.Clone(s.Data), Gaps: append([]wire.LogChunk(nil), s.Gaps...), Length: s.Length}
	}
	a.Phases = append([]wire.Phase(nil), a.Phases...)
	a.Progress = append([]wire.Progress(nil), a.Progress...)
	return a
}

// Requests returns how many requests there were whose path ends so.
func (h *Home) Requests(suffix string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, path := range h.requests {
		if strings.HasSuffix(path, suffix) {
			n++
		}
	}
	return n
}

// Await waits until the condition holds of the attempt, and fails the test if it does not within 20 seconds.
func (h *Home) Await(id, what string, condition func(a Attempt) bool) Attempt {
	h.t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		if a := h.Attempt(id); condition(a) {
			return a
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			h.t.Fatalf("attempt %s: waited in vain until %s", id, what)
		}
	}
}

// ServeHTTP answers agents.
func (h *Home) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.requests = append(h.requests, r.URL.Path)
	h.mu.Unlock()
	if r.URL.RawQuery != "" && strings.Contains(r.URL.RawQuery, "token") {
		h.t.Errorf("a token in the URL %s", r.URL)
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	path, _ := strings.CutPrefix(r.URL.Path, "/agent/v1/")
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<30))
	if err != nil {
		return // the agent gave up
	}
	h.checkBody(path, r.Header.Get("Content-Type"), len(body))
	switch {
	case strings.HasPrefix(r.URL.Path, "/blobs/"):
		h.serveBlob(w, r, strings.TrimPrefix(r.URL.Path, "/blobs/"), body)
	case path == "claim":
		h.serveClaim(w, r, token, body)
	case path == "batch":
		h.serveBatch(w, token, body)
	case path == "heartbeats":
		h.serveBeats(w, r, token, body)
	case strings.HasPrefix(path, "attempts/"):
		id, call, _ := strings.Cut(strings.TrimPrefix(path, "attempts/"), "/")
		h.serveAttempt(w, r, id, call, token, body)
	default:
		h.t.Errorf("an unknown path %s", r.URL.Path)
		http.NotFound(w, r)
	}
}

func (h *Home) checkBody(path, contentType string, size int) {
	limit, want := wire.MaxRequest, "application/json"
	switch {
	case path == "batch":
		limit = wire.MaxBatchBytes
	case strings.HasPrefix(path, "/blobs/"):
		return
	case strings.HasSuffix(path, "/logs"):
		limit, want = wire.MaxChunk, "application/octet-stream"
	}
	if size > limit || contentType != want {
		h.t.Errorf("%s: a body of %d bytes of %s; want at most %d of %s", path, size, contentType, limit, want)
	}
}

func decode(t testing.TB, body []byte, v any) bool {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Errorf("decoding %.200s: %v", body, err)
		return false
	}
	return true
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the agent may be gone; then it asks again
}

// refusal is a problem, where the stream ends if it is about one.
type refusal struct {
	wire.Problem
	Stored *int64 `json:"stored,omitempty"`
}

func refuse(kind fault.Kind, status int, format string, args ...any) *refusal {
	return &refusal{Problem: wire.Problem{
		Status: status, Title: http.StatusText(status), Code: string(kind), Detail: fmt.Sprintf(format, args...),
	}}
}

func (p *refusal) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

// Stored returns how many bytes of output are stored of an attempt.
func (h *Home) Stored(attempt string) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	var n uint64
	for _, s := range h.attempts[attempt].Streams {
		n += uint64(cap(s.Data))
	}
	return n
}

// Forget loses what is stored of a stream without gaps beyond the given length.
func (h *Home) Forget(attempt string, stream wire.Stream, length int) {
	h.change(attempt, func(a *Attempt) {
		s := a.Streams[stream]
		s.Data, s.Length = s.Data[:length], int64(length)
	})
}
