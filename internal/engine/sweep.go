package engine

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// The sweep looks often at first, because a start is when strays are likely, and then now and then.
const (
	sweepSoon   = 10 * time.Second
	sweepLater  = 30 * time.Second
	soonSweeps  = 20
	restoreHold = 15 * time.Minute // how long nothing unknown is destroyed once the store may be an older copy
)

// sweepLoop finds machines of ours that nobody remembers, and strays that are remembered and no longer exist.
func (e *Engine) sweepLoop(ctx context.Context, name string, p machine.Provider) {
	s := &sweep{engine: e, provider: name, firstSeen: map[string]time.Time{}}
	for n := 0; ctx.Err() == nil; n++ {
		if err := s.once(ctx, p); err != nil && ctx.Err() == nil {
			e.logger.Warn("a provider's machines could not be swept; trying again", "provider", name, "error", err)
		}
		if n < soonSweeps {
			pause(ctx, sweepSoon)
		} else {
			pause(ctx, sweepLater)
		}
	}
}

// sweep is what one provider's sweeps remember of each other.
type sweep struct {
	engine    *Engine
	provider  string
	firstSeen map[string]time.Time
	braked    int // sweeps in a row that the brake has stopped
}

// once lists the provider first and reads the store second. A machine made in between is in the store and not in the
// list; in the other order it would be in the list and not in the store, and would be killed.
func (s *sweep) once(ctx context.Context, p machine.Provider) error {
	e := s.engine
	listCtx, cancel := context.WithTimeoutCause(ctx, time.Minute, errProviderSlow)
	defer cancel()
	list, err := p.List(listCtx, ownerOf(e.identity.Install))
	if err != nil {
		return err
	}
	now := e.clock.now()
	if err := s.forgetGone(ctx, list, now); err != nil {
		return err
	}
	view, err := s.view(ctx, list, now)
	if err != nil {
		return err
	}
	for _, m := range list {
		e.saw(m)
	}
	w := world{now: now, timers: e.timers, listing: view}
	stopped := false
	for _, a := range plan(&w) {
		if a.kind == brake {
			stopped = true
		}
		if err := s.carryOut(ctx, a, now); err != nil {
			return err
		}
	}
	if stopped {
		s.braked++
	} else {
		s.braked = 0
	}
	return nil
}

// view reads what the store says of the machines that were listed.
func (s *sweep) view(ctx context.Context, list []*machine.Machine, now time.Time) (*listingView, error) {
	e := s.engine
	view := &listingView{provider: s.provider, agreed: s.braked}
	seen := make(map[string]time.Time, len(list))
	for _, m := range list {
		if m.Owner != ownerOf(e.identity.Install) {
			continue // a provider's mistake is not a reason to touch what is not ours
		}
		first, ok := s.firstSeen[m.Name]
		if !ok {
			first = now
		}
		seen[m.Name] = first
		item := listedMachine{machine: m, age: now.Sub(first)}
		known, live, err := s.attempt(ctx, m)
		if err != nil {
			return nil, err
		}
		item.known, item.live = known, live
		view.machines = append(view.machines, item)
		if !known && e.mayBeNewer(m) {
			e.noticeOlder(m, now)
		}
	}
	// The rows are read after the attempts: the end of an attempt says in one step that its machine is kept, so whoever
	// has seen the end sees that too.
	rows := map[string]*store.Machine{}
	for start := 0; start < len(list); start += 1000 {
		q := &store.MachineQuery{Provider: s.provider, Limit: 1000}
		for _, m := range list[start:min(start+1000, len(list))] {
			q.Names = append(q.Names, m.Name)
		}
		page, err := e.store.Machines(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, row := range page {
			rows[row.Name] = row
		}
	}
	for i := range view.machines {
		view.machines[i].row = rows[view.machines[i].machine.Name]
	}
	s.firstSeen = seen
	view.older = e.restored(now)
	return view, nil
}

// forgetGone closes the ledger's entries of strays that their provider no longer lists. Nobody waits for the end of a
// stray, so nothing but the list tells of it; and an entry that stayed would be taken for an open question at the next
// start. Should the machine be listed again after all, it is a stray again.
func (s *sweep) forgetGone(ctx context.Context, list []*machine.Machine, now time.Time) error {
	rows, err := s.engine.store.Machines(ctx, &store.MachineQuery{
		States: []store.MachineState{store.MachineQuarantined}, Provider: s.provider, Limit: 1000,
	})
	if err != nil || len(rows) == 0 {
		return err
	}
	listed := make(map[string]bool, len(list))
	for _, m := range list {
		listed[m.Name] = true
	}
	var moves []*store.MachineMove
	for _, row := range rows {
		if !listed[row.Name] {
			moves = append(moves, &store.MachineMove{
				Name: row.Name, From: []store.MachineState{store.MachineQuarantined}, To: store.MachineGone, Time: now,
				Message: "it is no longer listed",
			})
		}
	}
	return s.engine.store.MoveMachine(ctx, moves)
}

// attempt reports whether the store knows the attempt a machine was made for, and whether it is in flight on it.
func (s *sweep) attempt(ctx context.Context, m *machine.Machine) (known, live bool, err error) {
	id := m.Labels["attempt"]
	if strings.HasPrefix(id, wire.RunnerPrefix) { // a machine of a pool
		live, err := s.engine.livesAt(ctx, id)
		switch {
		case err == nil:
			return true, live, nil
		case fault.Of(err) == fault.NotFound:
			return false, false, nil
		default:
			return false, false, err
		}
	}
	if s.engine.flightOf(id) != nil {
		return true, true, nil
	}
	a, err := s.engine.store.Attempt(ctx, id)
	switch {
	case err == nil:
		return true, !a.State.Terminal(), nil
	case fault.Of(err) == fault.NotFound:
		return false, false, nil
	default:
		return false, false, err
	}
}

// mayBeNewer reports whether a machine whose attempt the store does not know can have been made after the store was
// copied, so that the store is a backup that was restored.
//
// An attempt is committed before its machine is asked for, and is deleted only after its machine is gone. So a store
// that has lost nothing knows the attempt of every machine, but for one: a machine that lands so late that its job has
// been deleted meanwhile. The epoch on the machine tells these apart as far as that is possible. This start has raised
// the epoch, so what counts is the one before, as it was in the store when that was opened. A machine of a later one
// was made by a start that the store has never heard of. A machine of that very one may have been made after the copy,
// while the same server went on. A machine of an earlier one was made before the copy, which knew of its attempt.
func (e *Engine) mayBeNewer(m *machine.Machine) bool {
	stored := e.identity.Epoch - 1
	epoch, err := strconv.ParseInt(m.Labels["epoch"], 10, 64)
	return err == nil && epoch >= stored
}

// noticeOlder raises the alarm: the store seems to be older than a machine of this installation, so what it does not
// know may well be wanted. For a while nothing unknown is removed, and a person can put the right store back.
func (e *Engine) noticeOlder(m *machine.Machine, now time.Time) {
	if e.older.Swap(true) {
		return
	}
	e.wary.Store(now.Add(restoreHold).UnixNano())
	e.logger.Error("a machine of this installation was made for an attempt that the store does not know: the store was restored from an older copy, "+
		"or is not the only one. Machines it does not know are left alone for a while; look at them with: dayfly machines audit",
		"machine", m.Name, "its_epoch", m.Labels["epoch"], "stored_epoch", e.identity.Epoch-1, "left_alone_for", restoreHold)
}

// restored reports whether the store may be an older copy, so that what it does not know is left alone.
func (e *Engine) restored(now time.Time) bool { return now.UnixNano() < e.wary.Load() }

// recallStrays goes on being wary when the last start ended with strays under watch. The epoch alone would not do:
// every start raises it, and the second one after a backup was restored would see nothing wrong any more.
func (e *Engine) recallStrays(ctx context.Context) error {
	strays, err := e.store.Machines(ctx, &store.MachineQuery{States: []store.MachineState{store.MachineQuarantined}, Limit: 1})
	if err != nil {
		return fmt.Errorf("engine: reading the machines in quarantine: %w", err)
	}
	if len(strays) > 0 {
		e.wary.Store(e.clock.now().Add(restoreHold).UnixNano())
		e.logger.Warn("machines that the store does not know were under watch when the last server ended; they are left alone for a while",
			"machine", strays[0].Name, "left_alone_for", restoreHold)
	}
	return nil
}

// carryOut does what plan decided about a listed machine.
func (s *sweep) carryOut(ctx context.Context, a action, now time.Time) error {
	e := s.engine
	switch a.kind {
	case brake:
		e.logger.Error("the sweep has stopped itself: too many machines at once look like strays; it goes on if the next sweeps agree",
			"provider", a.provider, "why", a.why, "agreeing", s.braked+1, "needed", agreeingSweeps)
		return nil
	case watchStray, adopt, removeStray:
	default:
		return nil
	}
	row := &store.Machine{
		Name: a.machine, Provider: a.provider, ID: a.listed.ID, Attempt: a.listed.Labels["attempt"], JobID: a.listed.Labels["job"],
		State: store.MachineQuarantined, Location: a.listed.Location, Message: a.why, CreatedAt: now,
	}
	if a.kind == adopt {
		row.State = store.MachinePresent
	}
	if err := e.store.AdoptMachine(ctx, row); err != nil && fault.Of(err) != fault.Conflict {
		return err
	}
	if a.kind != removeStray {
		e.logger.Warn("a machine was found that is not in the ledger", "machine", a.machine, "provider", a.provider, "what", a.kind)
		return nil
	}
	err := e.store.MoveMachine(ctx, []*store.MachineMove{{
		Name: a.machine, To: store.MachineDeleting, Time: now, Message: a.why,
		From: []store.MachineState{store.MachineCreating, store.MachinePresent, store.MachineQuarantined, store.MachineGone},
	}})
	if err != nil {
		return err
	}
	e.logger.Warn("removing a machine that no attempt in flight owns", "machine", a.machine, "provider", a.provider)
	e.doomed.add(a.provider, a.machine, a.listed.ID)
	return nil
}
