package fleet

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// settle does what there is to be done now. It is called whenever something has happened, with the service's mu held.
func (f *fleet) settle() {
	for _, a := range plan(f.view(time.Now())) {
		switch a.deed {
		case makeOne:
			f.make(f.kinds[a.kind])
		case drain:
			f.discard(f.runners[a.runner], a.why, a.failed)
		case lend:
			f.lend(f.runners[a.runner], f.reservations[a.waiter])
		case recall:
			f.runners[a.runner].recalled = a.why
		}
	}
}

// view is the fleet as plan sees it.
func (f *fleet) view(now time.Time) *view {
	v := &view{max: f.max, room: f.room(), lease: f.service.Lease, kinds: make(map[string]*kindView, len(f.kinds))}
	booting := map[*kind]int{}
	for _, name := range slices.Sorted(maps.Keys(f.runners)) {
		r := f.runners[name]
		if r.state == warming {
			booting[r.kind]++
		}
		v.runners = append(v.runners, r.view(now))
	}
	for id, k := range f.kinds {
		v.kinds[id] = &kindView{
			min: f.min(k), idle: k.idle, single: k.single, careful: k.row > 0, hopeless: k.configuration,
			bootable: k.spec != nil && !now.Before(k.until) && (k.row == 0 || booting[k] == 0),
		}
	}
	for _, res := range f.line {
		v.line = append(v.line, waiterView{id: res.id, kind: res.kind.id, holder: res.holder, here: res.here(now)})
	}
	return v
}

func (r *runner) view(now time.Time) runnerView {
	v := runnerView{
		name: r.name, kind: r.kind.id, state: r.state, open: r.open != nil, since: now.Sub(r.since), silence: now.Sub(r.heard),
		ended: r.ended() && !r.making, stranger: r.isStranger(), leaving: r.recalled != "", back: -1, old: r.old(now),
	}
	if r.state == warming && r.making { // the time for its first call begins when it is made
		v.since = 0
	}
	if res := r.held; res != nil {
		v.holder = res.holder
		if !res.back.IsZero() {
			v.back = now.Sub(res.back)
		}
	}
	return v
}

// retire is how long before its machine's end a runner is lent no more, if that is not more than a quarter of its life.
const retire = 5 * time.Minute

func (r *runner) old(now time.Time) bool {
	return r.ends.Sub(now) <= min(retire, r.ends.Sub(r.created)/4)
}

// room returns how many machines more the provider may have, those that are about to be written down counted.
func (f *fleet) room() int {
	room := f.service.Room(f.provider)
	for _, other := range f.service.runners {
		if other.fleet.provider == f.provider && other.making && !other.entered {
			room--
		}
	}
	return room
}

// lend reserves a runner. That is the one place where it is done: under the lock, of one that is idle and whose call is open.
func (f *fleet) lend(r *runner, res *reservation) {
	if r == nil || res == nil || r.state != idle || r.open == nil || res.runner != nil || res.over {
		return
	}
	now := time.Now()
	r.become(lent)
	r.held, res.runner, res.ends = res, r, r.ends
	if res.given.IsZero() {
		res.given = now
	}
	f.unline(res)
	r.answer(&wire.FleetAnswer{Reservation: res.id, Invitation: res.invitation})
	res.change()
}

// make begins to make a machine.
func (f *fleet) make(k *kind) {
	now := time.Now()
	r := &runner{
		fleet: f, kind: k, name: f.name + "-" + strings.ToLower(rand.Text()[:10]), state: warming, since: now, heard: now,
		created: now, ends: now.Add(k.spec.Lifetime), making: true,
	}
	f.runners[r.name], f.service.runners[r.name] = r, r
	f.service.Logger.Info("a runner boots", "fleet", f.name, "provider", f.provider, "runner", r.name)
	spec := *k.spec
	f.service.work.Go(func() { f.service.boot(r, spec) })
}

// discard begins to destroy a runner's machine. What it did for somebody is over, or goes on elsewhere.
func (f *fleet) discard(r *runner, why string, failed bool) {
	s := f.service
	was := r.state
	r.answer(&wire.FleetAnswer{End: true, Why: "This runner is to end: " + why + "."})
	var ending *reservation
	if res := r.held; res != nil {
		r.held = nil
		ending = f.lose(r, res, was)
	}
	r.become(draining)
	if failed {
		r.kind.stumble()
	}
	level := s.Logger.Info
	if was == busy && why != "" && r.recalled == "" {
		level = s.Logger.Warn
	}
	level("a runner ends", "fleet", f.name, "provider", f.provider, "runner", r.name, "state", string(was), "why", why)
	s.work.Go(func() {
		if failed {
			s.bootFailed(r, why)
		}
		if ending != nil {
			s.tellEnd(r, ending)
		}
		s.destroy(r)
	})
}

// lose decides what becomes of a reservation whose runner is being destroyed. It returns one that is to be ended when it is known
// what the machine has printed.
func (f *fleet) lose(r *runner, res *reservation, was state) *reservation {
	if res.runner != r || !res.back.IsZero() {
		return nil // it is nobody's any more
	}
	res.runner = nil
	if was == lent && !r.ended() {
		// It was not taken, so the invitation is good for another runner, before all who came later.
		f.line = slices.Insert(f.line, 0, res)
		return nil
	}
	if r.ended() && wantsWords(r.machine.Exit) {
		res.ending = true
		return res
	}
	res.end(r, nil)
	return nil
}

// wantsWords reports whether what a machine has printed says more about its end than its exit does.
func wantsWords(exit *machine.Exit) bool {
	return exit != nil && !exit.OOMKilled && !exit.Expired && exit.Signal == "" && exit.Message == ""
}

// wordsTTL is how long a provider may take to say what a machine has printed whose parent waits to hear how it ended.
const wordsTTL = 300 * time.Millisecond

// tellEnd ends a reservation whose machine has ended, and says what that has printed last.
func (s *Service) tellEnd(r *runner, res *reservation) {
	ctx, cancel := context.WithTimeout(s.life, wordsTTL)
	defer cancel()
	s.mu.Lock()
	m := r.machine
	s.mu.Unlock()
	printed, err := boot.Printed(ctx, s.Hire.At(r.fleet.provider), m.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	exit := *m.Exit
	if err == nil && printed != "" {
		exit.Message = fmt.Sprintf("It ended with status %d. The last it printed is: %s", exit.Code, printed)
	}
	res.end(r, &exit)
}

// end notes that a reservation is over before it was given back.
func (r *reservation) end(had *runner, exit *machine.Exit) {
	if had != nil && had.machine != nil {
		exit = cmp.Or(exit, had.machine.Exit)
		r.image, r.location = had.machine.Image, had.machine.Location
	}
	r.over, r.ended, r.runner, r.ending = true, exit, nil, false
	r.change()
}
