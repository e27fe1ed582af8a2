package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/blob/fileblob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/api"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/joblog"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/ticket"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// fake is an engine that remembers what it was asked and runs nothing.
type fake struct {
	key  ticket.Key
	logs *joblog.Store

	mu       sync.Mutex
	jobs     map[string]*store.Job
	order    []string
	events   map[string][]*dayfly.Event
	keys     map[string]submitted
	watchers map[string]chan struct{}
	watching int // watches that have not been stopped
	machines []*store.Machine
	entrance *engine.Entrance // of every job's machine; nil: none can be entered
	calls    []string         // what agents asked, as "claim att_1"
	err      error            // what every call fails with, if set
	boom     bool             // every call panics
	page     int              // how many jobs it lists at most, as if they were large; 0: as many as are asked for
	held     *wire.BeatOrder
	progress []wire.Progress
}

type submitted struct {
	hash []byte
	id   string
}

func newFake(key ticket.Key, logs *joblog.Store) *fake {
	return &fake{
		key: key, logs: logs, jobs: map[string]*store.Job{}, events: map[string][]*dayfly.Event{}, keys: map[string]submitted{},
		watchers: map[string]chan struct{}{},
	}
}

// enter locks the engine and returns its failure, if it has one.
func (f *fake) enter() error {
	f.mu.Lock()
	if f.boom {
		f.mu.Unlock()
		panic("the engine is out of order: secret-detail")
	}
	return f.err
}

func (f *fake) get(id string) (*store.Job, error) {
	j := f.jobs[id]
	if j == nil {
		return nil, fmt.Errorf("fake: %w: no job %s", fault.NotFound, id)
	}
	copied := *j
	copied.AttemptLog = nil
	for _, a := range j.AttemptLog {
		attempt := *a
		copied.AttemptLog = append(copied.AttemptLog, &attempt)
	}
	copied.Inputs = slices.Clone(j.Inputs)
	return &copied, nil
}

// change changes a job, adds an event and wakes who watches it.
func (f *fake) change(id string, do func(j *store.Job)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changeLocked(id, do)
}

func (f *fake) changeLocked(id string, do func(j *store.Job)) {
	j := f.jobs[id]
	do(j)
	j.Events++
	f.events[id] = append(f.events[id], &dayfly.Event{Seq: j.Events, Job: id, Time: time.Now().UTC(), Type: string(j.State), State: j.State})
	told := []string{id}
	if j.State.Terminal() {
		told = append(told, endOf(id))
	}
	for _, watched := range told {
		if c := f.watchers[watched]; c != nil {
			close(c)
			delete(f.watchers, watched)
		}
	}
}

// endOf is the name under which the end of a job is watched, and nothing else of it.
func endOf(id string) string { return "the end of " + id }

// addJob adds a job in the given state with attempts of the given ids, all but the last of which are lost.
func (f *fake) addJob(id string, state dayfly.State, attempts ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now().UTC()
	j := &store.Job{Seq: int64(len(f.order) + 1), ID: id, State: state, Spec: dayfly.JobSpec{Name: id, Command: []string{"true"}}, CreatedAt: now, QueuedAt: now}
	for i, a := range attempts {
		last := i == len(attempts)-1
		attempt := &store.Attempt{ID: a, JobID: id, Number: i + 1, State: dayfly.AttemptLost, CreatedAt: now, ClaimedAt: now}
		if last {
			if attempt.State = dayfly.AttemptRunning; state.Terminal() {
				attempt.State = dayfly.AttemptSucceeded
			}
		}
		j.AttemptLog, j.Attempt, j.Number = append(j.AttemptLog, attempt), a, i+1
	}
	f.jobs[id], f.order = j, append(f.order, id)
	f.changeLocked(id, func(*store.Job) {})
}

func (f *fake) Submit(_ context.Context, s *engine.Submission) (*store.Job, bool, error) {
	err := f.enter()
	defer f.mu.Unlock()
	if err != nil {
		return nil, false, err
	}
	if len(s.Spec.Command) == 0 {
		return nil, false, fault.Field("command", "must name a program")
	}
	if k, ok := f.keys[s.Key]; ok && s.Key != "" {
		if !bytes.Equal(k.hash, s.BodyHash) {
			return nil, false, fault.Say(fault.IdempotencyMismatch, "this key was used with another body")
		}
		j, err := f.get(k.id)
		return j, true, err
	}
	now := time.Now().UTC()
	id := fmt.Sprintf("job_%d", len(f.order)+1)
	j := &store.Job{Seq: int64(len(f.order) + 1), ID: id, State: dayfly.Queued, Spec: s.Spec, CreatedAt: now, QueuedAt: now, RetriedFrom: s.RetriedFrom}
	for _, in := range s.Spec.Inputs {
		j.State = dayfly.Created
		j.Inputs = append(j.Inputs, store.Input{Name: in.Name, ContentType: in.ContentType})
	}
	f.jobs[id], f.order = j, append(f.order, id)
	if s.Key != "" {
		f.keys[s.Key] = submitted{s.BodyHash, id}
	}
	f.changeLocked(id, func(*store.Job) {})
	out, err := f.get(id)
	return out, false, err
}

func (f *fake) move(id string, to dayfly.State) (*store.Job, error) {
	err := f.enter()
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	j, err := f.get(id)
	if err != nil {
		return nil, err
	}
	if j.State.Terminal() {
		return nil, fault.Say(fault.AlreadyFinished, "job %s has already finished (%s)", id, j.State)
	}
	f.changeLocked(id, func(j *store.Job) { j.State = to })
	return f.get(id)
}

func (f *fake) Start(_ context.Context, id string) (*store.Job, error) {
	return f.move(id, dayfly.Queued)
}
func (f *fake) Cancel(_ context.Context, id string) (*store.Job, error) {
	return f.move(id, dayfly.Canceled)
}

func (f *fake) Retry(ctx context.Context, id, key string) (*store.Job, bool, error) {
	old, err := f.Job(ctx, id)
	if err != nil {
		return nil, false, err
	}
	if !old.State.Terminal() {
		return nil, false, fault.Say(fault.Conflict, "job %s is %s; only a finished job can be retried", id, old.State)
	}
	return f.Submit(ctx, &engine.Submission{Spec: old.Spec, Key: key, BodyHash: []byte(id), RetriedFrom: id})
}

func (f *fake) Delete(_ context.Context, id string) error {
	err := f.enter()
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	j, err := f.get(id)
	if err != nil {
		return err
	}
	if !j.State.Terminal() {
		return fault.Say(fault.Conflict, "job %s is %s; cancel it before you delete it", id, j.State)
	}
	delete(f.jobs, id)
	f.order = slices.DeleteFunc(f.order, func(other string) bool { return other == id })
	return nil
}

func (f *fake) InputStored(_ context.Context, id string, in store.Input) error {
	err := f.enter()
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	j := f.jobs[id]
	if j == nil {
		return fmt.Errorf("fake: %w", fault.NotFound)
	}
	if j.State != dayfly.Created {
		return fault.Say(fault.Conflict, "job %s has been started", id)
	}
	for i := range j.Inputs {
		if j.Inputs[i].Name == in.Name {
			in.StoredAt = time.Now()
			j.Inputs[i] = in
			return nil
		}
	}
	return fault.Say(fault.NotFound, "job %s declares no input %s", id, in.Name)
}

func (f *fake) Job(_ context.Context, id string) (*store.Job, error) {
	err := f.enter()
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return f.get(id)
}

func (f *fake) Jobs(_ context.Context, q *store.Query) (out []*store.Job, more bool, err error) {
	err = f.enter()
	defer f.mu.Unlock()
	if err != nil {
		return nil, false, err
	}
	limit := q.Limit
	if f.page > 0 {
		limit = min(limit, f.page)
	}
	for _, id := range slices.Backward(f.order) {
		j := f.jobs[id]
		match := (q.Before == 0 || j.Seq < q.Before) && (q.Name == "" || q.Name == j.Spec.Name) && (len(q.States) == 0 || slices.Contains(q.States, j.State))
		for key, value := range q.Labels {
			match = match && j.Spec.Labels[key] == value
		}
		if match && len(out) < limit {
			out = append(out, j)
		}
	}
	return out, len(out) == limit, nil
}

func (f *fake) Events(_ context.Context, id string, after int64, limit int) ([]*dayfly.Event, error) {
	err := f.enter()
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if f.jobs[id] == nil {
		return nil, fmt.Errorf("fake: %w", fault.NotFound)
	}
	all := f.events[id]
	all = all[min(int(after), len(all)):]
	return all[:min(limit, len(all))], nil
}

func (f *fake) Watch(id string) (changed func() <-chan struct{}, stop func()) {
	changed = func() <-chan struct{} {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.watchers[id] == nil {
			f.watchers[id] = make(chan struct{})
		}
		return f.watchers[id]
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watching++
	return changed, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.watching--
	}
}

func (f *fake) WatchEnd(id string) (ended func() <-chan struct{}, stop func()) {
	return f.Watch(endOf(id))
}

func (f *fake) Machines(_ context.Context, q *store.MachineQuery) ([]*store.Machine, error) {
	err := f.enter()
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var out []*store.Machine
	for _, m := range f.machines {
		if (q.Before == "" || m.Name < q.Before) && (len(q.States) == 0 || slices.Contains(q.States, m.State)) && (q.Provider == "" || q.Provider == m.Provider) && len(out) < q.Limit {
			out = append(out, m)
		}
	}
	return out, nil
}

func (f *fake) Why(ctx context.Context, id string) (*dayfly.Why, error) {
	j, err := f.Job(ctx, id)
	if err != nil {
		return nil, err
	}
	return &dayfly.Why{Job: id, State: j.State, Answers: []string{"It waits."}}, nil
}

func (f *fake) Quote(_ context.Context, spec dayfly.JobSpec) (*dayfly.Quote, error) {
	err := f.enter()
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	rate, most := machine.Rate(3_047_400), dayfly.Money(12_345)
	return &dayfly.Quote{Spec: spec, Offers: []dayfly.Offer{{
		Provider: "fly", Currency: dayfly.Currency, Hourly: &rate, PricedOn: "2026-10-09", Most: &most, Machines: 5,
	}}}, nil
}

func (f *fake) Pools(context.Context) ([]dayfly.WarmPool, error) {
	err := f.enter()
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return []dayfly.WarmPool{{Name: "ffmpeg", Provider: "fly", Min: 1, Max: 4, Machines: map[string]int{"idle": 1}, Uses: 7}}, nil
}

func (f *fake) Costs(_ context.Context, from, to string) (*dayfly.Costs, error) {
	err := f.enter()
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return &dayfly.Costs{
		Currency: dayfly.Currency, Today: "2026-05-04",
		Items:  []dayfly.DayCost{{Day: "2026-05-04", Queue: "default", Provider: "fly", Amount: 1_500_000, Running: 2, Attempts: 3}},
		Limits: []dayfly.CostLimit{{Queue: "default", Daily: dayfly.Money(len(from+to)) + 2_000_000, Today: 1_500_000, Stopped: true}},
	}, nil
}

func (f *fake) Enter(_ context.Context, id string, _ time.Duration) (*engine.Entrance, error) {
	if _, err := f.get(id); err != nil {
		return nil, err
	}
	if f.entrance == nil {
		return nil, fault.Say(fault.Conflict, "job %s does not run", id)
	}
	return f.entrance, nil
}

func (f *fake) Release(_ context.Context, id string) (*store.Job, error) {
	return nil, fault.Say(fault.Conflict, "no machine of job %s is kept", id)
}

func (f *fake) Counts(context.Context) ([]store.Count, error) {
	return []store.Count{{Lane: store.Lane{Provider: "local", Queue: "default"}, State: dayfly.Queued, Jobs: 3}}, nil
}

// call notes what an agent asked.
func (f *fake) call(what, attempt string) error {
	err := f.enter()
	defer f.mu.Unlock()
	f.calls = append(f.calls, what+" "+attempt)
	return err
}

func (f *fake) Claim(_ context.Context, token string, c *wire.ClaimRequest) (*wire.Assignment, error) {
	if !f.key.CheckBootstrap(token, c.Attempt) {
		return nil, fault.Say(fault.Unauthenticated, "this is not the bootstrap token of attempt %s", c.Attempt)
	}
	if err := f.call("claim", c.Attempt); err != nil {
		return nil, err
	}
	return &wire.Assignment{Attempt: c.Attempt, Fence: 1, Token: f.key.Session(c.Attempt, 1), Command: []string{"true"}}, nil
}

func (f *fake) Beats(ctx context.Context, b *wire.Beats) (*wire.BeatsAnswer, error) {
	for _, beat := range b.Beats {
		if err := f.call("beat", beat.Attempt); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	order := f.held
	f.mu.Unlock()
	if order != nil {
		return &wire.BeatsAnswer{Orders: []wire.BeatOrder{*order}}, nil
	}
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(b.WaitMS) * time.Millisecond):
	}
	return &wire.BeatsAnswer{}, nil
}

func (f *fake) Log(_ context.Context, token string, c *wire.LogChunk) (*wire.LogAnswer, error) {
	attempt, _, err := f.key.CheckSession(token)
	if err != nil {
		return nil, err
	}
	if err := f.call("log", attempt); err != nil {
		return nil, err
	}
	stored, err := f.logs.Append(attempt, c, 1<<20)
	return &wire.LogAnswer{Stored: stored}, err
}

func (f *fake) Artifacts(_ context.Context, token string, r *wire.ArtifactRequest) (*wire.ArtifactAnswer, error) {
	attempt, _, err := f.key.CheckSession(token)
	if err != nil {
		return nil, err
	}
	return &wire.ArtifactAnswer{Uploads: make([]wire.Upload, len(r.Artifacts))}, f.call("artifacts", attempt)
}

func (f *fake) Result(_ context.Context, token string, _ *wire.Result) error {
	attempt, _, err := f.key.CheckSession(token)
	if err != nil {
		return err
	}
	return f.call("result", attempt)
}

func (f *fake) KeepArtifact(_ context.Context, attempt string) (done func(), err error) {
	err = f.enter()
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for _, j := range f.jobs {
		for _, a := range j.AttemptLog {
			if a.ID == attempt && !a.State.Terminal() {
				return func() {}, nil
			}
		}
	}
	return nil, fault.Say(fault.StaleAttempt, "attempt %s is over", attempt)
}

func (f *fake) Progress(_ context.Context, token string, p *wire.Progress) error {
	attempt, _, err := f.key.CheckJob(token)
	if err != nil {
		return err
	}
	if p.Fraction < 0 || p.Fraction > 1 {
		return fault.Field("fraction", "must be between 0 and 1")
	}
	if err := f.call("progress", attempt); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.progress = append(f.progress, *p)
	return nil
}

func (f *fake) InputURL(_ context.Context, token, name string) (string, error) {
	if err := f.call("input "+name, token); err != nil {
		return "", err
	}
	return "http://files/" + name + "?signature=s", nil
}

func (f *fake) JobOf(_ context.Context, token string) (string, error) {
	attempt, _, err := f.key.CheckJob(token)
	if err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, j := range f.jobs {
		if j.Attempt == attempt && !j.State.Terminal() {
			return id, nil
		}
	}
	return "", fault.Say(fault.StaleAttempt, "this attempt is over")
}

// keyring is a store of tokens in memory.
type keyring struct {
	mu     sync.Mutex
	tokens []*store.Token
	asked  int // how often it was asked for one
}

func (k *keyring) AddToken(_ context.Context, t *store.Token) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, other := range k.tokens {
		if other.Name == t.Name && other.RevokedAt.IsZero() {
			return fmt.Errorf("keyring: %w", fault.Conflict)
		}
	}
	k.tokens = append([]*store.Token{t}, k.tokens...)
	return nil
}

func (k *keyring) TokenByHash(_ context.Context, hash []byte) (*store.Token, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	for _, t := range k.tokens {
		if bytes.Equal(t.Hash, hash) {
			copied := *t
			return &copied, nil
		}
	}
	return nil, fmt.Errorf("keyring: %w", fault.NotFound)
}

func (k *keyring) Tokens(context.Context) ([]*store.Token, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.tokens), nil
}

func (k *keyring) RevokeToken(_ context.Context, idOrName string, at time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, t := range k.tokens {
		if (t.ID == idOrName || t.Name == idOrName) && t.RevokedAt.IsZero() {
			t.RevokedAt = at
			return nil
		}
	}
	return fmt.Errorf("keyring: %w", fault.NotFound)
}

// rig is an API with everything around it.
type rig struct {
	t       testing.TB
	api     *api.API
	engine  *fake
	logs    *joblog.Store
	blobs   *fileblob.Store
	key     ticket.Key
	tokens  *keyring
	metrics *prometheus.Registry
	url     string // of a server, once serve was called
}

// newRig returns an API; options may be changed before it is made.
func newRig(t testing.TB, change ...func(*api.Options)) *rig {
	t.Helper()
	dir := t.TempDir()
	logs, err := joblog.Open(filepath.Join(dir, "logs"), nil)
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := fileblob.Open(filepath.Join(dir, "blobs"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { logs.Close(); blobs.Close() })
	g := &rig{t: t, logs: logs, blobs: blobs, key: ticket.NewKey(), tokens: &keyring{}, metrics: prometheus.NewRegistry()}
	g.engine = newFake(g.key, logs)
	o := api.Options{
		Engine: g.engine, Logs: logs, Blobs: blobs, Key: g.key, Tokens: g.tokens, Version: "1.2.3", Metrics: g.metrics,
		BaseURL: func(r *http.Request) string {
			if r == nil {
				return "http://dayfly.example.com"
			}
			return "http://" + r.Host
		},
	}
	for _, c := range change {
		c(&o)
	}
	if g.api, err = api.New(o); err != nil {
		t.Fatalf("New: %v", err)
	}
	return g
}

// serve starts a server on loopback.
func (g *rig) serve() *rig {
	server := httptest.NewServer(g.api.Handler())
	g.t.Cleanup(func() {
		server.Close() // which waits for the answers under way
		g.engine.mu.Lock()
		defer g.engine.mu.Unlock()
		if n := g.engine.watching; n != 0 {
			g.t.Errorf("%d watches of jobs were not stopped", n)
		}
	})
	g.url = server.URL
	return g
}

// answer is an answer as tests look at it.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do makes a request without a network. Headers are given as "Name: value".
func (g *rig) do(method, target, body string, headers ...string) answer {
	g.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, target, reader)
	r.Host = "127.0.0.1:7700"
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	g.api.Handler().ServeHTTP(w, r.WithContext(g.t.Context()))
	return answer{w.Code, w.Header(), w.Body.Bytes()}
}

func (a answer) problem(t testing.TB) api.Problem {
	t.Helper()
	var p api.Problem
	if err := json.Unmarshal(a.body, &p); err != nil || a.header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("the answer %d of type %q is no problem: %s", a.status, a.header.Get("Content-Type"), a.body)
	}
	if p.Status != a.status || p.Title == "" || p.Detail == "" || p.Type == "" || p.Code == "" {
		t.Errorf("the problem is not complete, or does not agree with status %d: %s", a.status, a.body)
	}
	return p
}

// want checks the status and code of an answer that is a problem.
func (a answer) want(t testing.TB, what string, status int, code fault.Kind) api.Problem {
	t.Helper()
	if a.status != status {
		t.Errorf("%s: got status %d, want %d: %s", what, a.status, status, a.body)
		return api.Problem{}
	}
	p := a.problem(t)
	if p.Code != code {
		t.Errorf("%s: got code %q, want %q: %s", what, p.Code, code, a.body)
	}
	return p
}

func decode[T any](t testing.TB, a answer, status int) T {
	t.Helper()
	var v T
	if a.status != status {
		t.Fatalf("got status %d, want %d: %s", a.status, status, a.body)
	}
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("the answer does not decode: %v: %s", err, a.body)
	}
	return v
}

// token makes a token with these scopes and returns the header that carries it.
func (g *rig) token(name string, scopes ...string) string {
	g.t.Helper()
	return "Authorization: Bearer " + g.secret(name, scopes...)
}
