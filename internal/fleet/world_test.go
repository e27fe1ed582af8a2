package fleet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/fleet"
	"github.com/dayfly-run/dayfly/internal/hire"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// world is a server with one provider, on whose machines runners live that follow invitations to parents, all in memory. It is made in a
// bubble of testing/synctest.
type world struct {
	t     *testing.T
	cloud *memmachine.Cloud
	dir   string
	room  int

	// lose is asked about each request and may lose it, or its answer.
	lose func(*http.Request) loss
	// build is that of the program on the provider's computer.
	build string
	// start is what a runner does before it calls, and may end it.
	start func(ctx context.Context, spec *machine.Spec) *machine.Exit

	mu      sync.Mutex
	server  *running                       // guarded by mu; nil while there is none
	guests  map[string]*guest              // guarded by mu; by invitation
	serving map[string]string              // guarded by mu; by reservation: the machine whose runner serves it
	lent    map[string]map[string]struct{} // guarded by mu; by machine: reservations whose invitations its runner has followed
	errs    []string                       // guarded by mu; what must not happen
}

type loss int

const (
	lostNever loss = iota
	lostRequest
	lostAnswer
)

// running is one process of the server.
type running struct {
	hire   *hire.Service
	fleets *fleet.Service
	http   http.Handler
	ctx    context.Context
	kill   context.CancelFunc
	over   sync.WaitGroup
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), room: 1000, build: "b1", guests: map[string]*guest{}, serving: map[string]string{}, lent: map[string]map[string]struct{}{}}
	w.cloud = memmachine.New(&memmachine.Options{Guest: w.runner, Boot: 200 * time.Millisecond}).Cloud()
	t.Cleanup(w.end)
	w.serve()
	return w
}

// end ends all that lives in the bubble.
func (w *world) end() {
	w.stop()
	w.cloud.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, err := range w.errs {
		w.t.Error(err)
	}
}

func (w *world) wrong(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errs) < 10 {
		w.errs = append(w.errs, fmt.Sprintf(format, args...))
	}
}

// mortal is the way of one process of the server to its provider, which ends with the process.
type mortal struct {
	*memmachine.Provider
	dead context.Context
}

func (p *mortal) Create(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
	if p.dead.Err() != nil {
		return nil, fault.Unavailable
	}
	m, err := p.Provider.Create(ctx, spec)
	if p.dead.Err() != nil {
		return nil, fault.Unavailable
	}
	return m, err
}

func (p *mortal) Destroy(ctx context.Context, id string) error {
	if p.dead.Err() != nil {
		return fault.Unavailable
	}
	err := p.Provider.Destroy(ctx, id)
	if p.dead.Err() != nil {
		return fault.Unavailable
	}
	return err
}

// serve starts a server on what the last one has left.
func (w *world) serve() {
	w.t.Helper()
	r := &running{}
	r.ctx, r.kill = context.WithCancel(context.Background())
	var err error
	room := func(string) int { return w.room - r.hire.Counts()["mem"] }
	r.hire, err = hire.New(hire.Options{
		Dir: filepath.Join(w.dir, "hired"), ProgramDir: filepath.Join(w.dir, "programs"), Providers: map[string]machine.Provider{"mem": &mortal{w.cloud.Connect(), r.ctx}},
		Owner: func() string { return "dayfly-hired-abc" },
		TakeRoom: func(at string, take func()) bool {
			free := room(at) > 0
			if free {
				take()
			}
			return free
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	r.fleets = fleet.New(fleet.Options{
		Hire: r.hire, Room: room, URL: func(context.Context, string) (string, error) { return "http://server", nil },
		Token: func(name string) string { return "token-of-" + name }, Genuine: func(token, name string) bool { return token == "token-of-"+name },
		Logger: slog.New(slog.DiscardHandler),
	})
	r.http = r.fleets.Handler(func(*http.Request) (string, error) { return "tenant", nil }, func(rw http.ResponseWriter, _ *http.Request, err error) {
		rw.Header().Set("Kind", string(fault.Of(err)))
		http.Error(rw, err.Error(), http.StatusTeapot)
	})
	r.over.Go(func() { _ = r.hire.Run(r.ctx) })
	r.over.Go(func() { _ = r.fleets.Run(r.ctx) })
	w.mu.Lock()
	w.server = r
	w.mu.Unlock()
}

// stop ends the server as if it were killed: what it was doing is not finished.
func (w *world) stop() {
	w.mu.Lock()
	r := w.server
	w.server = nil
	w.mu.Unlock()
	if r != nil {
		r.kill()
		r.over.Wait()
	}
}

func (w *world) running() *running {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.server
}

// errAway says that nobody knows what has become of a request.
var errAway = fault.Say(fault.Unavailable, "the server is away")

// ask makes a request of the server. out is filled in when the answer is 200, and wait when it is 202.
func (w *world) ask(ctx context.Context, method, path, token string, in, out, wait any) error {
	text, err := json.Marshal(in)
	if err != nil {
		return err
	}
	server := w.running()
	if server == nil {
		return errAway
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(server.ctx, cancel)()
	r := httptest.NewRequestWithContext(ctx, method, path, bytes.NewReader(text))
	r.Header.Set("Authorization", "Bearer "+token)
	fate := lostNever
	if w.lose != nil {
		fate = w.lose(r)
	}
	if fate == lostRequest {
		return errAway
	}
	answer := httptest.NewRecorder()
	server.http.ServeHTTP(answer, r)
	switch {
	case fate == lostAnswer, server.ctx.Err() != nil:
		return errAway
	case answer.Code == http.StatusTeapot:
		return fault.Say(fault.Kind(answer.Header().Get("Kind")), "%s", strings.TrimSpace(answer.Body.String()))
	case answer.Code == http.StatusAccepted:
		return json.Unmarshal(answer.Body.Bytes(), wait)
	case answer.Code == http.StatusOK:
		return json.Unmarshal(answer.Body.Bytes(), out)
	}
	return nil
}

// guest is a place that a parent keeps for a runner. It is taken once.
type guest struct {
	joined chan string   // the machine's name, when a runner has come
	leave  chan struct{} // closed when the runner asks to be let go
	closed chan struct{} // closed by the parent when the link is over
	lost   chan struct{} // closed when the runner is gone
	used   bool          // guarded by the world's mu
}

// runner plays the program on a machine.
func (w *world) runner(ctx context.Context, spec *machine.Spec) machine.Exit {
	if w.start != nil {
		if exit := w.start(ctx, spec); exit != nil {
			return *exit
		}
	}
	home, err := wire.ParseFleetHome(spec.Env[boot.ParentVariable])
	if err != nil || home.Machine != spec.Name {
		w.wrong("a runner was started with %q: %v", spec.Env[boot.ParentVariable], err)
		return machine.Exit{Code: 1}
	}
	c := wire.FleetCall{Instance: "process-of-" + spec.Name, Build: w.build}
	call := func() (*wire.FleetAnswer, bool) { // false: it is over
		for ctx.Err() == nil {
			c.Number++
			a := &wire.FleetAnswer{}
			err := w.ask(ctx, http.MethodPost, wire.FleetRunnerPrefix+spec.Name, home.Token, &c, a, nil)
			switch fault.Of(err) {
			case "":
				return a, !a.End
			case fault.Unauthenticated, fault.Denied, fault.NotFound, fault.Conflict, fault.Invalid, fault.Unsupported:
				return nil, false
			}
			if c.Serving != "" {
				return &wire.FleetAnswer{}, true
			}
			pause(ctx, 300*time.Millisecond)
		}
		return nil, false
	}
	for {
		c.Serving, c.WaitMS = "", 20_000
		a, ok := call()
		if !ok {
			return machine.Exit{Code: 3}
		}
		if a.Reservation == "" {
			continue
		}
		c.After, c.Broken = a.Reservation, ""
		c.Serving, c.WaitMS = a.Reservation, 0
		if _, ok := call(); !ok {
			return machine.Exit{Code: 3}
		}
		g, err := w.follow(ctx, spec.Name, a)
		if err != nil {
			c.Broken = err.Error()
			continue
		}
		ended := w.attend(ctx, g, call)
		w.mu.Lock()
		delete(w.serving, a.Reservation)
		w.mu.Unlock()
		if ctx.Err() != nil {
			close(g.lost)
			return machine.Exit{Code: 137}
		}
		if !ended {
			close(g.lost)
			return machine.Exit{Code: 3}
		}
	}
}

// attend is a runner's time with its parent.
func (w *world) attend(ctx context.Context, g *guest, call func() (*wire.FleetAnswer, bool)) bool {
	ticker := time.NewTicker(2 * time.Second)
	defer ticker.Stop()
	left := false
	for {
		select {
		case <-ctx.Done():
			return false
		case <-g.closed:
			return true
		case <-ticker.C:
			a, ok := call()
			if !ok {
				return false
			}
			if a.Leave && !left {
				left = true
				close(g.leave)
			}
		}
	}
}

// follow is a runner on its way to a parent.
func (w *world) follow(ctx context.Context, name string, a *wire.FleetAnswer) (*guest, error) {
	pause(ctx, time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.guests[a.Invitation]
	switch {
	case g == nil:
		return nil, errors.New("the parent is gone")
	case g.used:
		return nil, errors.New("the invitation was used")
	}
	g.used = true
	if w.lent[name] == nil {
		w.lent[name] = map[string]struct{}{}
	}
	w.lent[name][a.Reservation] = struct{}{}
	w.serving[a.Reservation] = name
	select {
	case g.joined <- name:
	default:
	}
	return g, nil
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// parent is a program that has a pool of a fleet.
type parent struct {
	w      *world
	holder string
	path   string
	terms  wire.FleetTerms
	number int // guarded by the world's mu; of the last runner that was asked for
}

// parent returns a new program that announces nothing.
func (w *world) parent(holder string, change func(*wire.FleetTerms)) *parent {
	p := &parent{w: w, holder: holder, path: wire.FleetPrefix + "mem/thumbs", terms: wire.FleetTerms{
		Holder: holder, Build: w.build, Max: 3, IdleMS: 30_000,
		Spec: machine.Spec{Lifetime: 24 * time.Hour, Command: []string{"thumbs"}, Labels: map[string]string{"parent": holder, "pool": "thumbs"}},
	}}
	if change != nil {
		change(&p.terms)
	}
	return p
}

// announce says once what the parent wants.
func (p *parent) announce() error {
	return p.w.ask(p.w.t.Context(), http.MethodPut, p.path, "hire", &p.terms, nil, nil)
}

// have is a runner that a parent has, with the link to it.
type have struct {
	p          *parent
	id, name   string
	invitation string
	runner     string
	given      time.Time // when the server reserved it
	guest      *guest
}

// begin makes a place for a runner.
func (p *parent) begin() *have {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.number++
	name := fmt.Sprintf("thumbs-%s-%d", strings.ToLower(p.holder), p.number)
	h := &have{p: p, name: name, invitation: "invitation-of-" + name, guest: &guest{
		joined: make(chan string, 1), leave: make(chan struct{}), closed: make(chan struct{}), lost: make(chan struct{}),
	}}
	p.w.guests[h.invitation] = h.guest
	return h
}

// ask asks once for the runner. It returns nil and no error when that is not there yet.
func (h *have) ask(ctx context.Context, waitMS int64) (*machine.Machine, *wire.FleetWait, error) {
	want := &wire.Reserve{FleetTerms: h.p.terms, WaitMS: waitMS}
	want.Spec.Name, want.Spec.Owner = h.name, "calls-thumbs"
	want.Spec.Env = map[string]string{boot.ParentVariable: h.invitation}
	var m machine.Machine
	var wait wire.FleetWait
	if err := h.p.w.ask(ctx, http.MethodPost, h.p.path+"/machines", "hire", want, &m, &wait); err != nil {
		return nil, nil, err
	}
	if wait.Failed != nil {
		return nil, nil, fault.Say(fault.Kind(wait.Failed.Code), "%s", wait.Failed.Detail)
	}
	if m.ID == "" {
		return nil, &wait, nil
	}
	h.id, h.given = m.ID, m.Created
	return &m, nil, nil
}

// create reserves a runner as a pool does, and waits until it has come.
func (p *parent) create(ctx context.Context) (*have, error) {
	h := p.begin()
	if err := h.create(ctx); err != nil {
		h.release()
		return nil, err
	}
	return h, nil
}

func (h *have) create(ctx context.Context) error {
	for {
		m, _, err := h.ask(ctx, 20_000)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %w", fault.Canceled, context.Cause(ctx))
		case errors.Is(err, errAway):
			pause(ctx, 200*time.Millisecond)
			continue
		case err != nil:
			return err
		case m == nil:
			continue
		case m.State == machine.Exited:
			return fault.Say(fault.Unavailable, "exited: %+v", m.Exit)
		}
		break
	}
	patience := time.After(40 * time.Second)
	for {
		select {
		case h.runner = <-h.guest.joined:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", fault.Canceled, context.Cause(ctx))
		case <-patience:
			return fault.Say(fault.Unavailable, "no runner came")
		case <-time.After(time.Second):
			if m, err := h.get(); err == nil && m.State == machine.Exited {
				return fault.Say(fault.Unavailable, "exited: %+v", m.Exit)
			}
		}
	}
}

func (h *have) get() (*machine.Machine, error) {
	var m machine.Machine
	err := h.p.w.ask(h.p.w.t.Context(), http.MethodGet, h.p.path+"/machines/"+h.id, "hire", nil, &m, nil)
	return &m, err
}

// release closes the link and gives the runner back.
func (h *have) release() {
	h.p.w.mu.Lock()
	delete(h.p.w.guests, h.invitation)
	h.guest.used = true
	h.p.w.mu.Unlock()
	close(h.guest.closed)
	for h.id != "" {
		if h.p.w.ask(h.p.w.t.Context(), http.MethodDelete, h.p.path+"/machines/"+h.id, "hire", nil, nil, nil) == nil {
			return
		}
		pause(h.p.w.t.Context(), 200*time.Millisecond)
	}
}

// list asks for the parent's reservations, which renews its lease.
func (p *parent) list() ([]*machine.Machine, error) {
	var all wire.Hired
	err := p.w.ask(p.w.t.Context(), http.MethodGet, p.path+"/machines?owner=calls-thumbs&holder="+p.holder, "hire", nil, &all, nil)
	return all.Machines, err
}

// live renews the parent's lease until ctx ends.
func (p *parent) live(ctx context.Context) {
	for ctx.Err() == nil {
		_, _ = p.list()
		pause(ctx, time.Second)
	}
}

// machines returns the names of those that there are, in order.
func (w *world) machines() []string {
	names := []string{}
	for _, m := range w.cloud.Machines() {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	return names
}

// gone waits until no machine is left, and nothing is written down.
func (w *world) gone(within time.Duration) {
	w.t.Helper()
	for began := time.Now(); len(w.cloud.Machines()) > 0 || w.running().hire.Counts()["mem"] > 0; pause(w.t.Context(), time.Second) {
		if time.Since(began) > within {
			w.t.Errorf("got the machines %v and %d written down after %v, want none", w.machines(), w.running().hire.Counts()["mem"], within)
			return
		}
	}
}
