package memhome

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// Machine is a machine of a pool, as a [Home] keeps it. It is safe for concurrent use.
type Machine struct {
	Boot machine.Agent // what its agent is to be given

	home  *Home
	slots []*slot

	mu       sync.Mutex // guards what follows, and the slots
	instance string
	spoiled  string
	changed  chan struct{} // closed and replaced when something changes
}

// slot is one slot of a machine.
type slot struct {
	calls   []wire.ClaimRequest
	attempt string   // it has, or had last
	queue   []string // attempts that it is to have
	ready   bool     // its claim waits
	refused bool     // its next claim is refused
	over    bool     // it has been told so
}

// AddMachine makes a machine of a pool that is divided into so many slots.
func (h *Home) AddMachine(slots int) *Machine {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := fmt.Sprintf("%s%04d", wire.RunnerPrefix, len(h.machines)+1)
	m := &Machine{Boot: machine.Agent{URL: h.URL(), Attempt: id, Token: "bootstrap-" + id}, home: h, changed: make(chan struct{})}
	for range slots {
		m.slots = append(m.slots, &slot{})
	}
	h.machines[id] = m
	return m
}

// machine returns the machine that claims by an id, and which of its slots, or nil.
func (h *Home) machine(id string) (*Machine, *slot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	base, k := wire.SlotOf(id)
	m := h.machines[base]
	if m == nil || k > len(m.slots) {
		return nil, nil
	}
	return m, m.slots[k-1]
}

// Give gives slot k of the machine an attempt as soon as it is free, and returns the attempt.
func (m *Machine) Give(k int, job wire.Assignment) (attempt string) {
	attempt = m.home.Add(job).Attempt
	m.change(func() { m.slots[k-1].queue = append(m.slots[k-1].queue, attempt) })
	return attempt
}

// Refuse refuses what slot k of the machine claims from now on.
func (m *Machine) Refuse(k int) { m.change(func() { m.slots[k-1].refused = true }) }

// Spoiled returns why the machine cannot be used again, as its agent has said, or "".
func (m *Machine) Spoiled() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.spoiled
}

// Calls returns what slot k has claimed with.
func (m *Machine) Calls(k int) []wire.ClaimRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]wire.ClaimRequest(nil), m.slots[k-1].calls...)
}

// AwaitCall waits until slot k has claimed something, or its agent has ended, and reports which.
func (m *Machine) AwaitCall(k int, ended <-chan struct{}) bool {
	for {
		m.mu.Lock()
		called, changed := len(m.slots[k-1].calls) > 0, m.changed
		m.mu.Unlock()
		if called {
			return true
		}
		select {
		case <-changed:
		case <-ended:
			return false
		}
	}
}

// AwaitReady waits until slot k has nothing to do and waits for an attempt.
func (m *Machine) AwaitReady(k int) {
	m.await(k, "waits for an attempt", func(s *slot) bool { return s.ready && len(s.queue) == 0 })
}

// AwaitOver waits until slot k has been told that it is not wanted any more.
func (m *Machine) AwaitOver(k int) { m.await(k, "is refused", func(s *slot) bool { return s.over }) }

func (m *Machine) await(k int, what string, condition func(*slot) bool) {
	m.home.t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for {
		m.mu.Lock()
		done, changed := condition(m.slots[k-1]), m.changed
		m.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			m.home.t.Fatalf("slot %d of machine %s: waited in vain until it %s", k, m.Boot.Attempt, what)
		}
	}
}

func (m *Machine) change(how func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	how()
	close(m.changed)
	m.changed = make(chan struct{})
}

// claimNext answers a claim by the agent of a machine of a pool.
func (h *Home) claimNext(ctx context.Context, token string, c *wire.ClaimRequest) (*wire.Assignment, *refusal) {
	m, s := h.machine(c.Attempt)
	switch {
	case m == nil:
		return nil, refuse(fault.StaleAttempt, http.StatusConflict, "this machine is not wanted any more")
	case token != m.Boot.Token:
		return nil, refuse(fault.Unauthenticated, http.StatusUnauthorized, "the token is not that of the machine")
	}
	m.change(func() { m.note(s, c) })
	held := time.NewTimer(time.Duration(c.WaitMS) * time.Millisecond)
	defer held.Stop()
	for over := false; ; {
		m.mu.Lock()
		attempt, p, changed := m.next(s, c), m.unwanted(s), m.changed
		m.mu.Unlock()
		switch {
		case p != nil:
			return nil, p
		case attempt != "":
			own := *c
			own.Attempt = attempt
			job, p := h.claim("bootstrap-"+attempt, &own)
			if job != nil {
				job.Slots = len(m.slots)
			}
			return job, p
		// A machine that is divided hears of that at once.
		case over || len(m.slots) > 1 && len(m.Calls(1)) == 1:
			m.change(func() { s.ready = false })
			return &wire.Assignment{Wait: true, OrphanAfterMS: 60_000, Slots: len(m.slots)}, nil
		}
		select {
		case <-changed:
		case <-held.C:
			over = true
		case <-ctx.Done():
			over = true
		case <-h.closed:
			over = true
		}
	}
}

// note checks what a slot claims with. The caller holds mu.
func (m *Machine) note(s *slot, c *wire.ClaimRequest) {
	t := m.home.t
	if m.instance == "" {
		m.instance = c.Instance
	}
	switch {
	case c.Protocol != wire.Version || c.Instance != m.instance || c.Nonce == "":
		t.Errorf("the claim %+v of a machine that is %s is not complete", c, m.instance)
	case s.over:
		t.Errorf("slot %s claims again, although it was refused", c.Attempt)
	case len(s.calls) > 0 && s.calls[0].Nonce != c.Nonce:
		t.Errorf("slot %s claims with nonce %q, and had %q before", c.Attempt, c.Nonce, s.calls[0].Nonce)
	case c.WaitMS > 0 && c.Done != s.attempt:
		t.Errorf("slot %s asks for more when it has done %q, and had %q", c.Attempt, c.Done, s.attempt)
	}
	for i, other := range m.slots {
		if other != s && len(other.calls) > 0 && other.calls[0].Nonce == c.Nonce {
			t.Errorf("slot %s has the nonce of slot %d", c.Attempt, i+1)
		}
	}
	s.calls = append(s.calls, *c)
	if c.Spoiled != "" {
		m.spoiled = c.Spoiled
		for _, each := range m.slots { // those that are busy are told when they ask for more
			each.refused = true
		}
	}
	s.ready = c.WaitMS > 0
}

// next returns the attempt that a claim is answered with, or "". The caller holds mu.
func (m *Machine) next(s *slot, c *wire.ClaimRequest) string {
	switch {
	case c.WaitMS == 0:
		return s.attempt // it wants the same answer again
	case s.refused || len(s.queue) == 0:
		return ""
	}
	s.attempt, s.queue, s.ready = s.queue[0], s.queue[1:], false
	return s.attempt
}

// unwanted refuses a slot if it is to be refused. The caller holds mu.
func (m *Machine) unwanted(s *slot) *refusal {
	if !s.refused {
		return nil
	}
	s.ready, s.over = false, true
	close(m.changed)
	m.changed = make(chan struct{})
	return refuse(fault.StaleAttempt, http.StatusConflict, "this machine is not wanted any more")
}

// ofPool reports whether an id is that of a machine of a pool.
func ofPool(id string) bool { return strings.HasPrefix(id, wire.RunnerPrefix) }
