package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// fleet is the runners of one name at one provider. The service's mu guards all of it, and of what follows in this file.
type fleet struct {
	service *Service
	place
	kinds        map[string]*kind
	terms        map[string]*terms       // what each holder has announced last
	line         []*reservation          // who waits, in the order in which they came
	reservations map[string]*reservation // by id, those that wait, too
	runners      map[string]*runner      // by the machine's name, those that are being destroyed, too
	over         map[string]time.Time    // ids that were given back, and when, for a runner who says that it serves one
	max          int
	restored     bool // it had machines when the server was started
	failure      string
	failedAt     time.Time
}

// kind is what runners are made alike by: nobody gets one of another kind than he has asked for.
type kind struct {
	id     string
	spec   *machine.Spec // nil as long as nobody has said since the server was started
	build  string
	single bool          // each is lent once
	idle   time.Duration // as announced by whoever has announced longest
	trouble
}

// trouble is what is known of boots that fail.
type trouble struct {
	row           int // how many in a row
	until         time.Time
	err           error // why the last did; nil when one has succeeded since
	configuration bool  // it cannot get better by itself
}

// terms are what one holder has announced.
type terms struct {
	kind     *kind
	min, max int
	idle     time.Duration
}

// runner is a machine with the program of some kind.
type runner struct {
	fleet    *fleet
	name     string
	kind     *kind
	state    state
	since    time.Time // in this state
	created  time.Time
	ends     time.Time
	machine  *machine.Machine // as it was last seen; nil before
	instance string           // the process that calls
	build    string           // of its program, as it says
	number   int64            // of its last call
	heard    time.Time
	open     *openCall // nil: none is
	held     *reservation
	recalled string // why it is to come back; "": it is not
	after    string // what it said last of whom it has served
	broken   int    // invitations in a row that it could not follow
	making   bool   // the machine is being asked for
	entered  bool   // it is written down, and so counts against what the provider may have
}

// openCall is the call in which a runner waits.
type openCall struct {
	answer *wire.FleetAnswer
	done   chan struct{} // closed when there is an answer
}

// reservation is a runner as its parent sees it: a machine, from when it is asked for until it is given back.
type reservation struct {
	id, name, owner, holder string
	labels                  map[string]string
	kind                    *kind
	invitation              string
	runner                  *runner       // who serves it; nil as long as it waits, and when it is over
	asking                  int           // requests that are open
	asked                   time.Time     // when the last of them ended
	told                    time.Time     // when the last was answered that there is none yet
	given                   time.Time     // when a runner was reserved first, which whoever waits was told
	ends                    time.Time     // when its machine ends
	back                    time.Time     // when it was given back
	ended                   *machine.Exit // how it ended without having been given back
	over                    bool          // it did
	ending                  bool          // it did, and is told so in a moment
	image, location         string
	err                     error         // what whoever waits is to be told instead
	changed                 chan struct{} // closed at every change
}

// here reports whether somebody is there to have a runner: his request is open, was answered already, or comes again at once.
func (r *reservation) here(now time.Time) bool {
	return r.asking > 0 || !r.given.IsZero() || now.Sub(r.told) < againTTL
}

// againTTL is how long whoever was told to ask again has for that before others are served before him.
const againTTL = 500 * time.Millisecond

func (r *reservation) change() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// fleet returns the fleet at a place, or makes it. mu is held.
func (s *Service) fleet(at place) *fleet {
	f := s.fleets[at]
	if f == nil {
		f = &fleet{
			service: s, place: at, kinds: map[string]*kind{}, terms: map[string]*terms{}, reservations: map[string]*reservation{},
			runners: map[string]*runner{}, over: map[string]time.Time{},
		}
		s.fleets[at] = f
	}
	return f
}

// defaultIdle is how long runners are kept of which nobody has said it.
const defaultIdle = time.Minute

// kind returns the kind of that id, or makes one of which nothing is known yet.
func (f *fleet) kind(id string) *kind {
	k := f.kinds[id]
	if k == nil {
		k = &kind{id: id, idle: defaultIdle, single: strings.HasPrefix(id, singlePrefix)}
		f.kinds[id] = k
	}
	return k
}

// kindOf tells which runners are alike, and returns what their machines are made as and the invitation that was in it. Two
// files of one build are the same program.
func kindOf(t *wire.FleetTerms) (id string, spec *machine.Spec, invitation string, err error) {
	own := t.Spec
	own.Name, own.Owner = "", ""
	own.Env, own.Labels = maps.Clone(own.Env), maps.Clone(own.Labels)
	invitation = own.Env[boot.ParentVariable]
	delete(own.Env, boot.ParentVariable)
	delete(own.Labels, boot.LabelParent)
	delete(own.Labels, boot.LabelPool)
	alike := own
	if alike.Program != nil {
		alike.Program = &machine.Program{Args: alike.Program.Args}
	}
	if len(alike.Env) == 0 {
		alike.Env = nil
	}
	if len(alike.Labels) == 0 {
		alike.Labels = nil
	}
	text, err := json.Marshal([]any{t.Build, t.SingleUse, &alike})
	if err != nil {
		return "", nil, "", err
	}
	sum := sha256.Sum256(text)
	id = hex.EncodeToString(sum[:8])
	if t.SingleUse {
		id = singlePrefix + id
	}
	return id, &own, invitation, nil
}

// singlePrefix begins the id of a kind whose runners are lent once. The ledger has the id, so a server that is started knows that
// before anybody has announced it.
const singlePrefix = "single-"

// announce takes note of what a holder wants the fleet to be.
func (f *fleet) announce(t *wire.FleetTerms, id string, spec *machine.Spec) *kind {
	k := f.kind(id)
	k.spec, k.build = spec, t.Build
	f.terms[t.Holder] = &terms{kind: k, min: t.Min, max: t.Max, idle: time.Duration(t.IdleMS) * time.Millisecond}
	f.agree()
	return k
}

// agree makes of what all holders have announced what holds: the most of it.
func (f *fleet) agree() {
	most := 0
	idle := map[*kind]time.Duration{}
	for _, t := range f.terms {
		most = max(most, t.max)
		idle[t.kind] = max(idle[t.kind], t.idle)
	}
	if most > 0 { // else the last word holds
		f.max = most
	}
	for k, d := range idle {
		k.idle = d
	}
}

// min returns how many runners of a kind are kept although nobody waits.
func (f *fleet) min(k *kind) int {
	n := 0
	for _, t := range f.terms {
		if t.kind == k {
			n = max(n, t.min)
		}
	}
	return n
}

// expire forgets what nobody says any more, and gives back what those have who are silent.
func (f *fleet) expire(now time.Time) {
	s := f.service
	maps.DeleteFunc(f.terms, func(as string, _ *terms) bool { return s.over(holder{f.tenant, as}, now) })
	f.agree()
	for _, res := range f.line {
		if !res.here(now) && now.Sub(res.asked) > placeTTL {
			delete(f.reservations, res.id)
		}
	}
	f.line = slices.DeleteFunc(f.line, func(res *reservation) bool { return f.reservations[res.id] != res })
	for _, res := range f.reservations {
		switch {
		case res.err != nil && res.asking == 0 && now.Sub(res.asked) > placeTTL:
			delete(f.reservations, res.id)
		case (!res.given.IsZero() || res.over) && s.over(holder{f.tenant, res.holder}, now):
			s.Logger.Info("a runner is given back: nobody has asked for it for a while", "fleet", f.name, "reservation", res.name)
			f.giveBack(res)
		}
	}
	maps.DeleteFunc(f.over, func(_ string, at time.Time) bool { return now.Sub(at) > 2*s.Lease })
	used := map[*kind]bool{}
	for _, t := range f.terms {
		used[t.kind] = true
	}
	for _, r := range f.runners {
		used[r.kind] = true
	}
	for _, res := range f.reservations {
		used[res.kind] = true
	}
	maps.DeleteFunc(f.kinds, func(_ string, k *kind) bool { return !used[k] && !now.Before(k.until) })
}

// placeTTL is how long who waits may be silent before he has lost his place.
const placeTTL = 5 * time.Second

// forgettable reports whether nothing is lost when the fleet is forgotten.
func (f *fleet) forgettable() bool {
	return len(f.runners) == 0 && len(f.reservations) == 0 && len(f.terms) == 0 && len(f.over) == 0 && len(f.kinds) == 0
}

// giveBack ends a reservation from the parent's side.
func (f *fleet) giveBack(res *reservation) {
	now := time.Now()
	delete(f.reservations, res.id)
	f.unline(res)
	f.remember(res.id, now)
	res.back = now
	res.change()
}

func (f *fleet) remember(id string, now time.Time) {
	if len(f.over) >= maxOver {
		for old := range f.over {
			delete(f.over, old) // any: who is not remembered is taken for one who holds on
			break
		}
	}
	f.over[id] = now
}

// see takes note of the runner's machine, and reports whether that changes anything.
func (r *runner) see(m *machine.Machine) bool {
	if r.machine != nil && r.machine.ID == m.ID && r.machine.State.Rank() >= m.State.Rank() {
		return false
	}
	seen := *m
	if r.machine != nil && seen.Exit == nil {
		seen.Exit = r.machine.Exit
	}
	r.machine = &seen
	return true
}

// isStranger reports whether it is known that the runner's program is another than the kind's.
func (r *runner) isStranger() bool {
	return r.build != "" && r.kind.build != "" && r.build != r.kind.build
}

func (r *runner) ended() bool {
	return r.machine != nil && r.machine.State.Rank() >= machine.Exited.Rank()
}

// become changes the runner's state.
func (r *runner) become(to state) {
	if r.state != to {
		r.state, r.since = to, time.Now()
	}
}

// answer answers the runner's open call, if there is one.
func (r *runner) answer(a *wire.FleetAnswer) {
	if r.open != nil {
		r.open.answer = a
		close(r.open.done)
		r.open = nil
	}
}
