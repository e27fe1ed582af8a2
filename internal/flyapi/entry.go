package flyapi

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/flyapi/ledger"
	"github.com/dayfly-run/dayfly/machine"
)

// entry is one machine in memory.
type entry struct {
	changing sync.Mutex // held by whoever changes the record, from reading it until it is committed
	current  atomic.Pointer[state]

	mu       sync.Mutex
	changed  chan struct{}      // guarded by mu; closed when the record or what is seen of the launch has changed
	seen     *machine.Machine   // guarded by mu; the newest launch as it was last seen, see decide
	signaled bool               // guarded by mu; the launch has been sent the signal of stopping
	refused  map[int]error      // guarded by mu; why the provider refused a launch for good
	working  bool               // guarded by mu; a goroutine is at it
	wanted   bool               // guarded by mu; there may be something new to do
	wake     chan struct{}      // holds one when wanted is set
	abort    context.CancelFunc // guarded by mu; gives up the provider's call that is under way
}

// state is a machine at one moment: its record with the configuration of that version.
type state struct {
	record *record
	config *config
}

func newEntry(r *record, c *config) *entry {
	e := &entry{changed: make(chan struct{}), wake: make(chan struct{}, 1), refused: map[int]error{}}
	e.current.Store(&state{r, c})
	return e
}

func (e *entry) state() *state   { return e.current.Load() }
func (e *entry) record() *record { return e.state().record }
func (e *entry) config() *config { return e.state().config }

// news returns a channel that is closed at the next change. Take it before looking.
func (e *entry) news() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

func (e *entry) tell() {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.changed)
	e.changed = make(chan struct{})
}

// observe takes in what a provider says of the newest launch. What is older than what is known is passed over.
func (e *entry) observe(m *machine.Machine) (new bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.record().machineName() != m.Name || e.seen != nil && m.State.Rank() <= e.seen.State.Rank() {
		return false
	}
	if m.State == machine.Gone && e.seen != nil && m.Exit == nil {
		gone := *m
		gone.Exit = e.seen.Exit
		m = &gone
	}
	e.seen = m
	close(e.changed)
	e.changed = make(chan struct{})
	return true
}

// sight returns what was last seen of the newest launch, and whether it has been sent its signal.
func (e *entry) sight() (seen *machine.Machine, signaled bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen, e.signaled
}

// refusal returns why a launch was refused, or nil.
func (e *entry) refusal(launch int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.refused[launch]
}

// errUnchanged is what an edit returns that has nothing to do; change then commits nothing.
var errUnchanged = fmt.Errorf("flyapi: nothing to change: %w", fault.Conflict)

// change commits a new record of a machine: edit is given a copy to change, and may refuse. With a config, the record has
// become of that version. op names the commit for the failpoints. It returns the record as committed.
func (s *Service) change(ctx context.Context, e *entry, op string, edit func(*record) error) (*record, error) {
	return s.changeConfig(ctx, e, op, nil, nil, edit)
}

func (s *Service) changeConfig(ctx context.Context, e *entry, op string, raw []byte, c *config, edit func(*record) error) (*record, error) {
	e.changing.Lock()
	defer e.changing.Unlock()
	before := e.state()
	r := before.record.clone()
	if err := edit(r); err != nil {
		return before.record, err
	}
	r.Updated = s.Now().UTC()
	data, err := json.Marshal(r)
	if err != nil {
		return before.record, fmt.Errorf("flyapi: %w: %w", fault.Internal, err)
	}
	change := &ledger.Change{Machines: map[string][]byte{r.ID: data}}
	now := &state{r, before.config}
	if c != nil {
		change.Configs = []ledger.Config{{Machine: r.ID, Version: r.Instance, Config: raw}}
		now.config = c
	}
	if err := s.ledger.Commit(ctx, op, change); err != nil {
		return before.record, err
	}
	e.store(now)
	if r.State == destroyed {
		s.release(e)
	}
	e.tell()
	s.kick(e)
	return r, nil
}

// store makes a committed state the current one. What was seen belongs to the launch that it was seen of.
func (e *entry) store(now *state) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.current.Swap(now).record
	if before.Launch != now.record.Launch {
		e.seen, e.signaled = nil, false
		delete(e.refused, before.Launch)
	}
	urgent := before.State != now.record.State && (now.record.State == destroying || now.record.State == stopping)
	if urgent && e.abort != nil {
		e.abort() // what is under way is not wanted any more
	}
}

// happened adds an event to a record.
func (s *Service) happened(r *record, kind, status, source string, ask *eventAsk) {
	now := s.Now()
	r.Events = append(r.Events, event{ID: s.ids.ulid(now), Type: kind, Status: status, Source: source, Timestamp: now.UnixMilli(), Request: ask})
	if len(r.Events) > keepEvents {
		r.Events = r.Events[len(r.Events)-keepEvents:]
	}
}

// launchOf takes the name of a provider's machine apart.
func launchOf(name string) (id string, ok bool) {
	rest, ours := strings.CutPrefix(name, "fly-")
	id, _, found := strings.Cut(rest, "-")
	return id, ours && found
}

// until waits for a channel, a moment or the end of ctx, and reports which it was not.
func until(ctx context.Context, news <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-news:
	case <-timer.C:
	}
	return true
}
