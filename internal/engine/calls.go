package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/failpoint"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// Every call to a provider goes through this file: it has a deadline, and a failpoint before and after its effect.

func (e *Engine) callCreate(ctx context.Context, provider string, spec *machine.Spec) (*machine.Machine, error) {
	if err := failpoint.Hit("provider.create.before"); err != nil {
		return nil, err
	}
	p := e.providers[provider]
	if p == nil {
		return nil, fmt.Errorf("engine: %w: there is no provider %q any more", fault.Unavailable, provider)
	}
	m, err := p.Create(ctx, spec)
	if failed := failpoint.Hit("provider.create.after"); failed != nil {
		return nil, failed
	}
	return m, err
}

// look finds a machine by the provider's id, or every instance of that name when the id is "". fault.NotFound is a
// definite answer; without an error there is at least one.
func (e *Engine) look(ctx context.Context, provider, name, id string) ([]*machine.Machine, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errProviderSlow)
	defer cancel()
	p := e.providers[provider]
	if p == nil {
		return nil, fmt.Errorf("engine: %w: there is no provider %q any more", fault.Unavailable, provider)
	}
	if id != "" {
		m, err := p.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		return []*machine.Machine{m}, nil
	}
	list, err := p.List(ctx, ownerOf(e.identity.Install))
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(m *machine.Machine) bool { return m.Name != name })
	if len(list) == 0 {
		return nil, fmt.Errorf("engine: %w: no machine %s at %s", fault.NotFound, name, provider)
	}
	return list, nil
}

// destroyer ends machines and repeats it until the provider confirms. It takes the machines of one sort only: those
// that the ledger holds as deleting.
type destroyer struct {
	engine *Engine
	wake   signal

	mu     sync.Mutex
	doomed map[string]*doom // by machine name
	counts map[string]int   // by provider
}

type doom struct {
	provider, name, id string
	tries              int
	due                time.Time // of the next try, by the engine's clock
	trying             bool
	since              time.Time
}

// destroysAtOnce bounds the destroy calls to one provider.
const destroysAtOnce = 16

func newDestroyer(e *Engine) *destroyer {
	return &destroyer{engine: e, wake: newSignal(), doomed: map[string]*doom{}, counts: map[string]int{}}
}

// add takes a machine that the ledger holds as deleting.
func (d *destroyer) add(provider, name, id string) {
	now := d.engine.clock.now()
	d.mu.Lock()
	if d.doomed[name] == nil {
		d.doomed[name] = &doom{provider: provider, name: name, id: id, due: now, since: now}
		d.counts[provider]++
	}
	d.mu.Unlock()
	d.wake.set()
}

// count returns how many machines of each provider are on their way out.
func (d *destroyer) count() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	counts := make(map[string]int, len(d.counts))
	for provider, n := range d.counts {
		counts[provider] = n
	}
	return counts
}

func (d *destroyer) run(ctx context.Context) {
	slots := map[string]chan struct{}{}
	for name := range d.engine.providers {
		slots[name] = make(chan struct{}, destroysAtOnce)
	}
	for ctx.Err() == nil {
		now := d.engine.clock.now()
		next := now.Add(time.Minute)
		d.mu.Lock()
		for _, m := range d.doomed {
			slot := slots[m.provider]
			if slot == nil || m.trying {
				continue
			}
			if m.due.After(now) {
				next = earlier(next, m.due)
				continue
			}
			select {
			case slot <- struct{}{}:
				m.trying = true
				d.engine.background.Go(func() {
					d.try(d.engine.lifetime, m)
					<-slot
					d.wake.set()
				})
			default:
			}
		}
		d.mu.Unlock()
		timer := time.NewTimer(next.Sub(now))
		select {
		case <-ctx.Done():
		case <-d.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// try destroys one machine once.
func (d *destroyer) try(ctx context.Context, m *doom) {
	e := d.engine
	err := e.callDestroy(ctx, m)
	if err == nil {
		d.mu.Lock()
		delete(d.doomed, m.name)
		d.counts[m.provider]--
		d.mu.Unlock()
		e.moves.add(ctx, &store.MachineMove{Name: m.name, From: []store.MachineState{store.MachineDeleting},
			To: store.MachineGone, Time: e.clock.now(), Wall: wallClock()})
		e.machineGone(m.name)
		e.wakeQueue.set()
		return
	}
	d.mu.Lock()
	m.tries++
	m.trying = false
	m.due = e.clock.now().Add(min(time.Second<<min(m.tries-1, 6), time.Minute))
	tries, stuck := m.tries, e.clock.now().Sub(m.since)
	d.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	level := e.logger.Warn
	if stuck > 5*time.Minute {
		level = e.logger.Error
	}
	level("a machine could not be destroyed yet", "machine", m.name, "provider", m.provider, "tries", tries, "for", stuck.Round(time.Second), "error", err)
}

func (e *Engine) callDestroy(ctx context.Context, m *doom) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errProviderSlow)
	defer cancel()
	id := m.id
	if id == "" {
		found, err := e.look(ctx, m.provider, m.name, "")
		switch {
		case errors.Is(err, fault.NotFound):
			// It never existed, or is gone, or it will land late: then the sweep finds it, and it is refused its claim.
			return nil
		case err != nil:
			return err
		}
		id = found[0].ID
	}
	if err := failpoint.Hit("provider.destroy.before"); err != nil {
		return err
	}
	err := e.providers[m.provider].Destroy(ctx, id)
	if failed := failpoint.Hit("provider.destroy.after"); failed != nil {
		return failed
	}
	return err
}

// machineGone tells the attempts of a machine that are still in flight that the machine is certainly gone.
func (e *Engine) machineGone(name string) {
	names, flights := []string{name}, []*flight{}
	e.mu.Lock()
	if r := e.runners[name]; r != nil && store.Together(e.rowsOf(r)) == store.RunnerDraining {
		names = nil
		for _, slot := range e.slotsOf(r) {
			names = append(names, slot.name)
			delete(e.runners, slot.name)
			slot.wake()
		}
		e.wakePools.set()
	}
	for _, name := range names {
		if f := e.byMachine[name]; f != nil {
			f.gone = true
			flights = append(flights, f)
		}
	}
	e.mu.Unlock()
	for _, f := range flights {
		e.consider(f)
	}
}

func (e *Engine) flushMoves(ctx context.Context, moves []*store.MachineMove) error {
	err := e.store.MoveMachine(ctx, moves)
	if err != nil && ctx.Err() == nil {
		e.logger.Warn("the ledger of machines could not be written; trying again", "machines", len(moves), "error", err)
	}
	if err == nil {
		for _, m := range moves {
			e.changes.notify(m.Name)
		}
	}
	return err
}

// flushNotes writes what was learnt about attempts. Of one that has ended meanwhile only how it was prepared and what its
// machine ran is news.
func (e *Engine) flushNotes(ctx context.Context, notes []*store.Note) error {
	e.mu.Lock()
	// The list stays as it is: when the store refuses, it is flushed again.
	current := slices.DeleteFunc(slices.Clone(notes), func(n *store.Note) bool {
		f := e.flights[n.Attempt]
		if n.Prepared || n.Booted != nil && n.Booted.Image != "" {
			return false
		}
		return f == nil || n.Booted != nil && f.state == "running" && n.Booted.ID == n.Booted.Name
	})
	e.mu.Unlock()
	if len(current) == 0 {
		return nil
	}
	err := e.store.Note(ctx, current)
	if err != nil && ctx.Err() == nil {
		e.logger.Warn("notes on attempts could not be written; trying again", "notes", len(current), "error", err)
	}
	return err
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func formatEpoch(epoch int64) string { return strconv.FormatInt(epoch, 10) }

// sentenceOf returns what a person may read of an error: the sentence made for people if there is one, else its text
// on one line, bounded.
func sentenceOf(err error) string {
	text, ok := fault.Sentence(err)
	if !ok {
		text = err.Error()
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 500 {
		text = strings.ToValidUTF8(text[:500], "") + "…"
	}
	return text
}
