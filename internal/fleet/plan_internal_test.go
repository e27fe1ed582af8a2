package fleet

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// drawView draws what may be known of a fleet, however it came about.
func drawView(t *rapid.T) *view {
	kinds := []string{"a", "b", "c"}[:rapid.IntRange(1, 3).Draw(t, "kinds")]
	holders := []string{"P", "Q", "R"}
	ages := rapid.SampledFrom([]time.Duration{0, time.Second, 4 * time.Second, 8 * time.Second, 20 * time.Second, 2 * time.Minute})
	v := &view{max: rapid.IntRange(1, 6).Draw(t, "max"), room: rapid.IntRange(-1, 6).Draw(t, "room"), lease: time.Minute, kinds: map[string]*kindView{}}
	for _, id := range kinds {
		v.kinds[id] = &kindView{
			min: rapid.IntRange(0, 3).Draw(t, "min"), idle: ages.Draw(t, "idle"), bootable: rapid.IntRange(0, 3).Draw(t, "bootable") > 0,
			careful: rapid.IntRange(0, 3).Draw(t, "careful") == 0, single: rapid.IntRange(0, 3).Draw(t, "single") == 0,
			hopeless: rapid.IntRange(0, 5).Draw(t, "hopeless") == 0,
		}
	}
	rarely := func(what string) bool { return rapid.IntRange(0, 7).Draw(t, what) == 0 }
	states := rapid.SampledFrom([]state{unheard, warming, idle, idle, idle, lent, busy, busy, draining})
	for n := range rapid.IntRange(0, 8).Draw(t, "runners") {
		r := runnerView{
			name: fmt.Sprint("r", n), kind: rapid.SampledFrom(kinds).Draw(t, "kind"), state: states.Draw(t, "state"), back: -1,
			since: ages.Draw(t, "since"), silence: ages.Draw(t, "silence"), ended: rarely("ended"), stranger: rarely("stranger"), old: rarely("old"),
		}
		switch r.state {
		case idle:
			r.open = !rarely("closed")
		case lent, busy:
			r.holder, r.leaving = rapid.SampledFrom(holders).Draw(t, "holder"), rarely("leaving")
			if rarely("given back") {
				r.back = ages.Draw(t, "back")
			}
		}
		v.runners = append(v.runners, r)
	}
	for n := range rapid.IntRange(0, 8).Draw(t, "line") {
		v.line = append(v.line, waiterView{
			id: fmt.Sprint("w", n), kind: rapid.SampledFrom(kinds).Draw(t, "wants"), holder: rapid.SampledFrom(holders).Draw(t, "who"), here: !rarely("away"),
		})
	}
	return v
}

// clone returns a view that has nothing in common with v.
func clone(v *view) *view {
	c := *v
	c.line, c.runners, c.kinds = slices.Clone(v.line), slices.Clone(v.runners), maps.Clone(v.kinds)
	for id, k := range c.kinds {
		own := *k
		c.kinds[id] = &own
	}
	return &c
}

// carryOut returns the view in which everything has been done, and nothing else has happened. It returns an error if something cannot be
// done.
func carryOut(v *view, actions []action) (*view, error) {
	next := clone(v)
	find := func(name string) *runnerView {
		i := slices.IndexFunc(next.runners, func(r runnerView) bool { return r.name == name })
		if i < 0 {
			return &runnerView{}
		}
		return &next.runners[i]
	}
	for i, a := range actions {
		r := find(a.runner)
		switch a.deed {
		case makeOne:
			k := next.kinds[a.kind]
			if !k.bootable {
				return nil, fmt.Errorf("a runner of kind %s is made, which cannot be", a.kind)
			}
			k.bootable = !k.careful
			next.room--
			next.runners = append(next.runners, runnerView{name: fmt.Sprint("new", i), kind: a.kind, state: warming, back: -1})
		case drain:
			if r.name == "" || r.state == draining {
				return nil, fmt.Errorf("%q is drained, which is %q", a.runner, r.state)
			}
			*r = runnerView{name: r.name, kind: r.kind, state: draining, back: -1}
		case lend:
			at := slices.IndexFunc(next.line, func(w waiterView) bool { return w.id == a.waiter })
			switch {
			case at < 0:
				return nil, fmt.Errorf("%s gets %s and does not wait", a.waiter, a.runner)
			case r.state != idle || !r.open:
				return nil, fmt.Errorf("%s gets %s, which is %s, and waits for an invitation: %v", a.waiter, a.runner, r.state, r.open)
			case !next.line[at].here || next.line[at].kind != r.kind:
				return nil, fmt.Errorf("%+v gets %+v", next.line[at], *r)
			}
			r.state, r.open, r.since, r.holder = lent, false, 0, next.line[at].holder
			next.line = slices.Delete(next.line, at, at+1)
		case recall:
			if r.state != busy || r.leaving || r.back >= 0 {
				return nil, fmt.Errorf("%+v is asked back", *r)
			}
			r.leaving = true
		}
	}
	return next, nil
}

// counts are the runners of a kind that are not being destroyed, and all that there are.
func counts(v *view, kind string) (have, total int) {
	for _, r := range v.runners {
		if r.kind == kind && r.state != draining {
			have++
		}
	}
	return have, len(v.runners)
}

// judge returns the first rule that a plan breaks.
func judge(before *view, actions []action) error {
	after, err := carryOut(before, actions)
	if err != nil {
		return err
	}
	made := len(after.runners) - len(before.runners)
	if made > 0 && (len(after.runners) > before.max || made > before.room) {
		return fmt.Errorf("%d more are made of %d, and %d may be, at most %d in all", made, len(before.runners), before.room, before.max)
	}
	noRoom := len(after.runners) >= before.max || after.room <= 0
	for id, k := range before.kinds {
		if err := judgeKind(before, after, id, k, noRoom); err != nil {
			return fmt.Errorf("of kind %s: %w", id, err)
		}
	}
	for _, a := range actions {
		if err := judgeAction(before, after, a); err != nil {
			return err
		}
	}
	if again := plan(clone(after)); len(again) > 0 {
		return fmt.Errorf("a second look at what has come of it wants %+v", again)
	}
	return nil
}

// judgeKind is judge for the runners of a kind and those who wait for one.
func judgeKind(before, after *view, id string, k *kindView, noRoom bool) error {
	passedOver := ""
	for _, w := range before.line {
		waits := slices.ContainsFunc(after.line, func(other waiterView) bool { return other.id == w.id })
		switch {
		case w.kind != id:
		case waits && w.here && passedOver == "":
			passedOver = w.id
		case !waits && passedOver != "":
			return fmt.Errorf("%s is served before %s, who came first", w.id, passedOver)
		}
	}
	waiting, coming, free := 0, 0, 0
	for _, w := range after.line {
		if w.kind == id && w.here {
			waiting++
		}
	}
	fresh := &planner{view: clone(after)}
	for i := range fresh.runners {
		r := &fresh.runners[i]
		switch {
		case r.kind != id || r.state == draining:
		case r.state == idle && r.open:
			free++
		case fresh.comes(r):
			coming++
		}
	}
	have, _ := counts(after, id)
	switch {
	case waiting > 0 && free > 0:
		return fmt.Errorf("%d wait, and %d are free", waiting, free)
	case waiting > coming && k.bootable && !k.careful && !noRoom:
		return fmt.Errorf("%d wait, %d come, and none is made, though there is room", waiting, coming)
	case waiting > coming && k.bootable && k.careful && !noRoom && after.kinds[id].bootable:
		return fmt.Errorf("%d wait, %d come, and not one is made, though there is room", waiting, coming)
	case have < k.min && k.bootable && !k.careful && !k.hopeless && !noRoom:
		return fmt.Errorf("there are %d, %d are to be kept, and there is room", have, k.min)
	}
	for i := range after.runners {
		if r := &after.runners[i]; r.kind == id && r.state == idle && r.open && r.since >= k.idle && have > k.min {
			return fmt.Errorf("%s is kept, idle for %v, with %d of which %d are to be kept", r.name, r.since, have, k.min)
		}
	}
	return nil
}

// judgeAction is judge for one of the things that are done.
func judgeAction(before, after *view, a action) error {
	if a.deed != drain && a.deed != lend {
		return nil
	}
	i := slices.IndexFunc(before.runners, func(r runnerView) bool { return r.name == a.runner })
	r := before.runners[i]
	for _, other := range after.runners {
		if a.deed == lend && other.state == idle && other.open && other.kind == r.kind && other.since < r.since {
			return fmt.Errorf("%s is lent, which was not used for longer than %s", r.name, other.name)
		}
	}
	switch {
	case a.deed == lend, r.ended || r.back > returnTTL:
	case r.state == busy:
		return fmt.Errorf("%+v is destroyed while somebody uses it", r)
	case r.state == lent && r.since <= takeTTL, r.state == warming && r.since <= bootTTL, r.state == unheard && r.since <= before.lease:
		return fmt.Errorf("%+v is destroyed before its time is over", r)
	case a.failed && r.state != warming:
		return fmt.Errorf("%+v is taken for a boot that has failed", r)
	}
	return nil
}

func TestAPlanKeepsItsRulesWhateverItSees(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		for range 50 { // it costs next to nothing
			v := drawView(t)
			actions := plan(clone(v))
			if err := judge(v, actions); err != nil {
				t.Fatalf("%v\nthe plan: %+v\nthe kinds: %+v %+v %+v", err, actions, v.kinds["a"], v.kinds["b"], v.kinds["c"])
			}
			if again := plan(clone(v)); !slices.Equal(again, actions) {
				t.Fatalf("the same is seen twice, and planned are %+v and %+v", actions, again)
			}
		}
	})
}

// play is a fleet that does what is planned, second after second: machines boot, runners serve whom they are lent to for as long as each
// wants, and somebody else is always there to want one.
type play struct {
	*view
	t     *rapid.T
	work  map[string]time.Duration // by runner: how long it is still needed
	came  map[string]time.Duration // by waiter
	last  int
	clock time.Duration
}

// The times of a play.
const (
	playBoot  = 3 * time.Second
	playWork  = 5 * time.Second // the longest
	playDrain = 2 * time.Second
	playIdle  = 8 * time.Second
)

func drawPlay(t *rapid.T) *play {
	p := &play{t: t, work: map[string]time.Duration{}, came: map[string]time.Duration{}}
	p.view = &view{max: rapid.IntRange(1, 5).Draw(t, "max"), lease: time.Minute, kinds: map[string]*kindView{}}
	for _, id := range []string{"a", "b"} {
		p.kinds[id] = &kindView{min: rapid.IntRange(0, p.max/2).Draw(t, "min"), idle: playIdle, bootable: true}
	}
	p.kinds["b"].single = rapid.Bool().Draw(t, "single")
	return p
}

// come lets somebody wait.
func (p *play) come(kind, holder string) {
	p.last++
	w := waiterView{id: fmt.Sprint("w", p.last), kind: kind, holder: holder, here: true}
	p.line = append(p.line, w)
	p.came[w.id] = p.clock
}

// act carries out what is planned, until nothing is.
func (p *play) act() error {
	for range 3 {
		p.room = p.max - len(p.runners)
		actions := plan(clone(p.view))
		if len(actions) == 0 {
			return nil
		}
		if err := judge(p.view, actions); err != nil {
			return fmt.Errorf("%w\nthe plan: %+v\nof: %+v", err, actions, p.runners)
		}
		for _, a := range actions {
			if a.deed == lend {
				p.work[a.runner] = time.Duration(rapid.IntRange(1, int(playWork/time.Second)).Draw(p.t, "seconds")) * time.Second
				delete(p.came, a.waiter)
			}
		}
		next, err := carryOut(p.view, actions)
		if err != nil {
			return err
		}
		for i := range next.runners {
			if r := &next.runners[i]; r.state == warming && r.since == 0 && r.name[0] == 'n' {
				p.last++
				r.name = fmt.Sprint("r", p.last)
			}
		}
		p.view = next
	}
	return fmt.Errorf("there is no end to what is planned of %+v", p.runners)
}

// tick lets a second pass.
func (p *play) tick() error {
	if err := p.act(); err != nil {
		return err
	}
	p.clock += time.Second
	for i := range p.runners {
		r := &p.runners[i]
		r.since += time.Second
		switch {
		case r.state == warming && r.since >= playBoot:
			r.state, r.since, r.open = idle, 0, true
		case r.state == lent:
			r.state, r.since = busy, 0
		case r.state == busy:
			if p.work[r.name] -= time.Second; p.work[r.name] > 0 {
				continue
			}
			k := p.kinds[r.kind]
			*r = runnerView{name: r.name, kind: r.kind, state: idle, open: true, back: -1}
			if k.single {
				r.state, r.open = draining, false
			}
		}
	}
	p.runners = slices.DeleteFunc(p.runners, func(r runnerView) bool { return r.state == draining && r.since >= playDrain })
	return p.act()
}

func TestNobodyIsLeftWaitingHoweverManyOthersCome(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPlay(t)
		crowd := rapid.IntRange(1, 3).Draw(t, "crowd")
		for second := range 120 {
			// A crowd wants runners of one kind all the time, and now and then somebody comes who wants one of the other.
			for len(p.line) < p.max+crowd {
				p.come("a", rapid.SampledFrom([]string{"P", "Q"}).Draw(t, "who"))
			}
			if second%20 == 10 {
				p.come("b", "R")
			}
			if err := p.tick(); err != nil {
				t.Fatal(err)
			}
			for id, since := range p.came {
				// All who may be before him, one after the other, as if there were one runner.
				if most := time.Duration(p.max+crowd+2) * (playWork + playBoot + playDrain + 2*time.Second); p.clock-since > most {
					t.Fatalf("%s has waited for %v: the line is %+v, the runners %+v", id, p.clock-since, p.line, p.runners)
				}
			}
		}
		p.line = nil
		for range 60 {
			if err := p.tick(); err != nil {
				t.Fatal(err)
			}
		}
		for id, k := range p.kinds {
			if have, _ := counts(p.view, id); have != k.min {
				t.Fatalf("of kind %s there are %d when nobody comes any more, and %d are to be kept: %+v", id, have, k.min, p.runners)
			}
		}
	})
}
