package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// state is what a runner does.
type state string

// The states, see the package comment.
const (
	unheard  state = "unheard"
	warming  state = "warming"
	idle     state = "idle"
	lent     state = "lent"
	busy     state = "busy"
	draining state = "draining"
)

// The timers of a fleet.
const (
	bootTTL   = time.Minute      // from when a machine was made to its runner's first call
	takeTTL   = 5 * time.Second  // for a runner to say that it serves whom it was lent to
	returnTTL = 10 * time.Second // for a runner to come back that was given back
	soon      = 2 * time.Second  // within which a runner that is between two calls is waited for rather than another made
)

// view is what is known of one fleet at one moment.
type view struct {
	max     int // machines at once
	room    int // how many more its provider may have now
	lease   time.Duration
	kinds   map[string]*kindView
	line    []waiterView // who came first is first
	runners []runnerView
}

// kindView is what is known of the runners that are made alike.
type kindView struct {
	min      int
	idle     time.Duration // after which one beyond min goes
	bootable bool          // it is known how, and there is no pause after a boot that failed
	careful  bool          // the last boot failed, so the next ones are made one by one
	single   bool          // each is lent once
	hopeless bool          // it failed for a reason that does not go away, so none is made for nobody
}

// waiterView is who waits for a runner.
type waiterView struct {
	id, kind, holder string
	here             bool // his request is open
}

// runnerView is what is known of a runner.
type runnerView struct {
	name, kind string
	state      state
	holder     string        // who has it
	open       bool          // its call is, in which it can be given an invitation
	since      time.Duration // in this state
	silence    time.Duration // since its last call
	ended      bool          // its machine has
	stranger   bool          // its program is of another build than the kind's
	old        bool          // it is near the end of its machine's life
	leaving    bool          // it was told to come back
	back       time.Duration // since it was given back; below 0: it was not
}

// deed is what is to be done.
type deed string

// The deeds.
const (
	makeOne deed = "make"  // a machine of the kind
	drain   deed = "drain" // the runner
	lend    deed = "lend"  // the runner to the waiter
	recall  deed = "recall"
)

// action is one of the things that are to be done now.
type action struct {
	deed   deed
	kind   string // makeOne
	runner string
	waiter string // lend
	why    string
	failed bool // drain: it never came to be idle, so its boot has failed
}

// plan decides what is to be done now. It reads nothing but v, which it may change.
func plan(v *view) []action {
	p := &planner{view: v}
	p.discard()
	p.serve()
	p.recallSome()
	p.replenish()
	p.shrink()
	return p.actions
}

// planner is a plan that is being made.
type planner struct {
	*view
	actions  []action
	total    int            // machines, those that are being destroyed too
	have     map[string]int // by kind, without those
	leaving  int            // machines that are about to be gone and leave their place to somebody who waits
	recalled int            // runners that were asked back for somebody who waits
	promised map[string]int // by holder, places that somebody leaves to him
	blocked  []waiterView   // who waits, and nobody leaves him a place
	expected map[string]int // by kind, runners that will be free by themselves before long
}

func (p *planner) do(a action) { p.actions = append(p.actions, a) }

func (p *planner) drain(r *runnerView, why string, failed bool) {
	p.do(action{deed: drain, runner: r.name, why: why, failed: failed})
	r.state = draining
	p.have[r.kind]--
	p.leaving++
}

// discard destroys what is of no use any more, and counts the others.
func (p *planner) discard() {
	p.have, p.expected = map[string]int{}, map[string]int{}
	p.total = len(p.runners)
	for i := range p.runners {
		r := &p.runners[i]
		if r.state == draining {
			p.leaving++
			continue
		}
		p.have[r.kind]++
		if why, failed := p.useless(r); why != "" {
			p.drain(r, why, failed)
			continue
		}
		if p.comes(r) {
			p.expected[r.kind]++
		}
		if r.old && !r.leaving && r.state == busy && r.back < 0 {
			p.do(action{deed: recall, runner: r.name, why: "its machine ends before long"})
			r.leaving = true
		}
		switch {
		case !r.leaving || r.back >= 0:
		case r.old:
			p.leaving++
		default:
			p.recalled++
		}
	}
}

// comes reports whether a runner can be expected to be free before long, without anything being done.
func (p *planner) comes(r *runnerView) bool {
	switch {
	case r.old:
		return false
	case r.back >= 0:
		return r.back < soon && (p.kinds[r.kind] == nil || !p.kinds[r.kind].single)
	case r.state == unheard:
		return r.since < soon
	case r.state == idle:
		return !r.open && r.silence < soon
	}
	return r.state == warming
}

// useless says why a runner is to go, or "", and whether that is a boot that has failed.
func (p *planner) useless(r *runnerView) (why string, failed bool) {
	switch {
	case r.ended:
		return "its machine has ended", r.state == warming
	case r.back > returnTTL:
		return fmt.Sprintf("it was given back and has not come within %v", returnTTL), false
	case r.state == warming && r.since > bootTTL:
		return fmt.Sprintf("it has not called within %v", bootTTL), true
	case r.state == unheard && r.since > p.lease:
		return fmt.Sprintf("it has not called within %v since the server was started", p.lease), false
	case r.state == idle && !r.open && r.silence > p.lease:
		return fmt.Sprintf("it has been silent for %v", p.lease), false
	case r.state == lent && r.since > takeTTL && r.back < 0:
		return fmt.Sprintf("it has not taken what it was lent for within %v", takeTTL), false
	case r.state == idle && r.old:
		return "its machine ends before long", false
	case r.state == idle && r.stranger:
		return "its program is of another build", false
	}
	return "", false
}

// serve does what can be done for each of those who wait, and what is done for one is not left to who came later, also if that one wants
// runners of another kind: as long as some of a kind wait, none of that kind is idle for long, and who waits for another would never
// have a place.
func (p *planner) serve() {
	free := p.free()
	p.promised = map[string]int{}
	for _, w := range p.line {
		k, list := p.kinds[w.kind], free[w.kind]
		switch {
		case !w.here:
		case len(list) > 0:
			r := list[len(list)-1]
			free[w.kind] = list[:len(list)-1]
			p.do(action{deed: lend, runner: r.name, waiter: w.id})
			r.state, r.holder, r.open, r.since = lent, w.holder, false, 0
		case p.expected[w.kind] > 0:
			p.expected[w.kind]--
		case k == nil || !k.bootable:
		case p.full():
			p.makeRoom(w, free)
		default:
			p.make(w.kind)
			if k.careful {
				k.bootable = false
			}
		}
	}
}

// free returns the runners that can be lent, by kind. The one that was used last is the last in its list, and the first to be used
// again, so the others go when they are not needed.
func (p *planner) free() map[string][]*runnerView {
	free := map[string][]*runnerView{}
	for i := range p.runners {
		if r := &p.runners[i]; r.state == idle && r.open {
			free[r.kind] = append(free[r.kind], r)
		}
	}
	for _, list := range free {
		slices.SortFunc(list, longerIdle)
	}
	return free
}

// longerIdle orders runners: the one that was not used for longest is the first.
func longerIdle(a, b *runnerView) int {
	return cmp.Or(cmp.Compare(b.since, a.since), cmp.Compare(b.name, a.name))
}

// makeRoom finds a place for somebody who waits: that of a runner which leaves anyway, or of one of another kind that is idle.
func (p *planner) makeRoom(w waiterView, free map[string][]*runnerView) {
	if p.leaving == 0 {
		var longest *runnerView
		for kind, list := range free {
			if kind != w.kind && len(list) > 0 && (longest == nil || longerIdle(list[0], longest) < 0) {
				longest = list[0]
			}
		}
		if longest == nil {
			p.blocked = append(p.blocked, w)
			return
		}
		free[longest.kind] = free[longest.kind][1:]
		p.drain(longest, "a runner of another kind is wanted", false)
	}
	p.leaving--
	p.promised[w.holder]++
}

func (p *planner) full() bool { return p.total >= p.max || p.room <= 0 }

func (p *planner) make(kind string) {
	p.do(action{deed: makeOne, kind: kind})
	p.total++
	p.room--
	p.have[kind]++
}

// recallSome asks whoever has most to give one back to who waits, while there is no room.
func (p *planner) recallSome() {
	if len(p.blocked) == 0 {
		return
	}
	counts := p.promised
	for i := range p.runners {
		if r := &p.runners[i]; (r.state == lent || r.state == busy) && !r.leaving && r.back < 0 {
			counts[r.holder]++
		}
	}
	for _, w := range p.blocked {
		r := p.tooMany(counts, w)
		switch {
		case r == nil:
			continue
		case p.recalled > 0: // for one who has so little one comes back, and there is no need for all to
			p.recalled--
		default:
			p.do(action{deed: recall, runner: r.name, why: "somebody else waits, who has less"})
			r.leaving = true
			counts[r.holder]--
		}
		counts[w.holder]++
	}
}

// tooMany returns a runner of whoever has most, if that is at least two more than the waiter has, or nil. It is one of the kind
// that is waited for, if there is.
func (p *planner) tooMany(counts map[string]int, w waiterView) *runnerView {
	var most *runnerView
	for i := range p.runners {
		r := &p.runners[i]
		if r.state != busy || r.leaving || r.back >= 0 || counts[r.holder] < counts[w.holder]+2 {
			continue
		}
		if most == nil || cmp.Or(cmp.Compare(counts[r.holder], counts[most.holder]), compareBool(r.kind == w.kind, most.kind == w.kind), cmp.Compare(r.since, most.since)) > 0 {
			most = r
		}
	}
	return most
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// replenish makes what is to be there although nobody waits.
func (p *planner) replenish() {
	for _, id := range p.kindNames() {
		k := p.kinds[id]
		for p.have[id] < k.min && k.bootable && !k.hopeless && !p.full() {
			p.make(id)
			if k.careful {
				k.bootable = false
			}
		}
	}
}

// shrink destroys runners that nobody has needed for a while, the one that was not used for longest first. One that is between two calls
// may be waited for.
func (p *planner) shrink() {
	var unused []*runnerView
	for i := range p.runners {
		if r := &p.runners[i]; r.state == idle && r.open && p.kinds[r.kind] != nil && r.since >= p.kinds[r.kind].idle {
			unused = append(unused, r)
		}
	}
	slices.SortFunc(unused, longerIdle)
	for _, r := range unused {
		if k := p.kinds[r.kind]; p.have[r.kind] > k.min {
			p.drain(r, fmt.Sprintf("nobody has needed it for %v", k.idle), false)
		}
	}
}

func (p *planner) kindNames() []string {
	names := make([]string, 0, len(p.kinds))
	for id := range p.kinds {
		names = append(names, id)
	}
	slices.Sort(names)
	return names
}
