package pool_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/pool"
)

// walk is a random walk: a pool, and what is done with it.
type walk struct {
	o     pool.Options
	life  time.Duration // of runners; 0: for ever
	steps []step
}

// step is one thing that is done.
type step struct {
	what   string
	n      int
	length time.Duration
}

func (s step) String() string { return fmt.Sprintf("%s %d %v", s.what, s.n, s.length) }

func drawWalk(t *rapid.T) walk {
	w := walk{
		o: pool.Options{
			Min:         rapid.IntRange(0, 3).Draw(t, "min"),
			Concurrency: rapid.IntRange(1, 3).Draw(t, "concurrency"),
			SingleUse:   rapid.IntRange(0, 3).Draw(t, "single use") == 0,
			MinIdle:     rapid.SampledFrom([]time.Duration{0, 0, 2 * time.Minute}).Draw(t, "min idle"),
			Prewarm:     rapid.SampledFrom([]float64{0, 0, 0.5, 1}).Draw(t, "prewarm"),
			Packing:     rapid.SampledFrom([]pool.Packing{pool.LeastLoaded, pool.FewestRunners}).Draw(t, "packing"),
			MaxQueued:   rapid.SampledFrom([]int{0, 4}).Draw(t, "max queued"),
			Patience:    rapid.SampledFrom([]time.Duration{0, pool.Never}).Draw(t, "patience"),
		},
		life: rapid.SampledFrom([]time.Duration{0, 0, 10 * time.Minute}).Draw(t, "life"),
	}
	w.o.Max = max(1, w.o.Min) + rapid.IntRange(0, 3).Draw(t, "max")
	if w.o.SingleUse {
		w.o.Concurrency = 1
	}
	lengths := []time.Duration{0, time.Millisecond, time.Second, 10 * time.Second, 30 * time.Second, 5 * time.Minute}
	w.steps = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			what: rapid.SampledFrom([]string{
				"call", "call", "call", "call with a deadline", "release", "release", "release all", "cancel", "kill", "doom", "sleep", "sleep",
				"boots succeed", "boots fail", "boots are refused", "boots take", "stops succeed", "stops fail",
			}).Draw(t, "what"),
			n:      rapid.IntRange(0, 9).Draw(t, "n"),
			length: rapid.SampledFrom(lengths).Draw(t, "length"),
		}
	}), 1, 60).Draw(t, "steps")
	return w
}

// caller is one who called, in the order of coming.
type caller struct {
	ctx     context.Context
	cancel  context.CancelFunc
	answers <-chan answer
	slot    *pool.Slot
	on      *node
}

// walker takes a walk, and knows what must hold.
type walker struct {
	walk
	p       *pool.Pool
	c       *cloud
	callers []*caller // who waits or holds a slot
	uses    map[*node]int
	killed  map[*node]bool
	failing error // what boots return
	ailing  error // what Stop returns
	failed  bool  // boots have failed
	closed  bool
	broken  error // the first rule that did not hold

	acquire func(context.Context) (*pool.Slot, error)
	release func(*pool.Slot)
}

// take takes the walk with a pool of the options given, which are those of the walk unless the test wants them not to be,
// and returns the first rule that did not hold.
func (w walk) take(t *testing.T, o pool.Options, breakIt func(*walker)) (broken error) {
	synctest.Test(t, func(t *testing.T) {
		v := &walker{walk: w, uses: map[*node]int{}, killed: map[*node]bool{}}
		v.c = &cloud{life: w.life, fails: func(int) error { return v.failing }}
		v.c.stop = func(context.Context, *node) (err error) {
			v.c.change(func() { err = v.ailing })
			return err
		}
		v.p = create(t, v.c, &o)
		v.acquire, v.release = v.p.Acquire, (*pool.Slot).Release
		if breakIt != nil {
			breakIt(v)
		}
		go v.p.Run(t.Context())
		for i, s := range w.steps {
			v.step(t, s)
			v.look(fmt.Sprintf("after step %d, %s", i, s))
		}
		v.heal(t)
		v.shut(t)
		broken = v.broken
	})
	return broken
}

func (v *walker) step(t *testing.T, s step) {
	alive := v.c.up()
	switch s.what {
	case "call":
		for range s.n % 4 {
			v.call(context.WithCancel(t.Context()))
		}
	case "call with a deadline":
		v.call(context.WithTimeout(t.Context(), s.length))
	case "release":
		if held := v.held(); len(held) > 0 {
			v.give(held[s.n%len(held)])
		}
	case "release all":
		for _, c := range v.held() {
			v.give(c)
		}
	case "cancel":
		if len(v.callers) > 0 {
			v.callers[s.n%len(v.callers)].cancel()
		}
	case "kill":
		if len(alive) > 0 {
			v.killed[alive[s.n%len(alive)]] = true
			alive[s.n%len(alive)].kill(errOOM)
		}
	case "doom":
		if len(alive) > 0 {
			v.killed[alive[s.n%len(alive)]] = true
			alive[s.n%len(alive)].doom(s.length, errOOM)
		}
	case "sleep":
		<-time.After(s.length)
	default:
		v.c.change(func() { v.turn(s) })
	}
}

// turn makes the fake do something else from now on.
func (v *walker) turn(s step) {
	switch s.what {
	case "boots succeed":
		v.failing = nil
	case "boots fail":
		v.failing, v.failed = passing(0), true
	case "boots are refused":
		v.failing, v.failed = fault.Say(fault.Denied, "not you"), true
	case "boots take":
		v.c.takes = s.length
		v.failed = v.failed || s.length >= pool.DefaultBootTimeout
	case "stops succeed":
		v.ailing = nil
	case "stops fail":
		v.ailing = passing(0)
	}
}

func (v *walker) call(ctx context.Context, cancel context.CancelFunc) {
	answers := make(chan answer, 1)
	go func() {
		s, err := v.acquire(ctx)
		answers <- answer{slot: s, err: err}
	}()
	synctest.Wait()
	v.callers = append(v.callers, &caller{ctx: ctx, cancel: cancel, answers: answers})
}

func (v *walker) held() []*caller {
	return slices.DeleteFunc(slices.Clone(v.callers), func(c *caller) bool { return c.slot == nil })
}

func (v *walker) waiting() []*caller {
	return slices.DeleteFunc(slices.Clone(v.callers), func(c *caller) bool { return c.slot != nil })
}

func (v *walker) give(c *caller) {
	v.release(c.slot)
	c.cancel()
	v.callers = slices.DeleteFunc(v.callers, func(other *caller) bool { return other == c })
}

// must notes that a rule does not hold.
func (v *walker) must(holds bool, when, format string, args ...any) {
	if !holds && v.broken == nil {
		v.broken = fmt.Errorf("%s: %s; %+v", when, fmt.Sprintf(format, args...), v.p.Stats())
	}
}

// look takes in what has been answered, and checks every rule.
func (v *walker) look(when string) {
	synctest.Wait()
	v.answered(when)
	v.countRunners(when)
	v.countSlots(when)
	v.countLine(when)
}

func (v *walker) answered(when string) {
	passedOver := false
	for _, c := range slices.Clone(v.callers) {
		if c.slot != nil {
			continue
		}
		select {
		case a := <-c.answers:
			v.must(a.err != nil || !passedOver, when, "somebody was served before one who had come earlier")
			if a.err != nil {
				v.refused(when, c, a.err)
				continue
			}
			c.slot, c.on = a.slot, a.slot.Runner().(*node)
			v.uses[c.on]++
			v.must(!v.o.SingleUse || v.uses[c.on] == 1, when, "a runner of single use was used %d times", v.uses[c.on])
		default:
			passedOver = true
			v.must(c.ctx.Err() == nil, when, "somebody waits whose context has ended")
		}
	}
}

func (v *walker) refused(when string, c *caller, err error) {
	why := reason(err)
	right := why == pool.TimeUp && c.ctx.Err() != nil || why == pool.Full && v.o.MaxQueued > 0 || why == pool.Closed && v.closed ||
		why == pool.BootFailed && (v.failed || len(v.killed) > 0)
	v.must(right, when, "somebody was refused for no good reason: %v", err)
	c.cancel()
	v.callers = slices.DeleteFunc(v.callers, func(other *caller) bool { return other == c })
}

func (v *walker) countRunners(when string) {
	s := v.p.Stats()
	exist, most := v.c.exist()
	v.must(most <= v.o.Max, when, "%d runners existed at once, which are more than %d", most, v.o.Max)
	v.must(s.Up+s.Booting+s.Stopping == exist, when, "the pool knows %d runners, and there are %d", s.Up+s.Booting+s.Stopping, exist)
}

func (v *walker) countSlots(when string) {
	load, inUse, serving := map[*node]int{}, 0, 0
	for _, c := range v.held() {
		load[c.on]++
		if !c.on.isGone() {
			inUse++
		}
		if !c.on.isDone() && c.on.stopped() == 0 {
			serving++
		}
		v.must(load[c.on] <= v.o.Concurrency, when, "a runner has %d slots taken, which are more than %d", load[c.on], v.o.Concurrency)
		endsSoon := v.life > 0 && time.Until(c.on.ends) <= v.life/4
		v.must(c.on.stopped() == 0 || v.killed[c.on] || endsSoon || v.closed, when, "a runner was stopped while it had work")
	}
	v.must(v.p.Stats().InUse == inUse, when, "the pool counts %d slots taken, and there are %d", v.p.Stats().InUse, inUse)
	if s := v.p.Stats(); v.o.Prewarm > 0 && serving > 0 && v.life == 0 && s.LastError == nil && s.Booting == 0 && s.Up+s.Stopping < v.o.Max && !v.doubts() {
		slots := s.Up * v.o.Concurrency
		v.must(float64(serving) < v.o.Prewarm*float64(slots), when, "%d of %d slots are taken, and nothing boots ahead", serving, slots)
	}
	if len(v.waiting()) > 0 && v.life == 0 {
		for _, r := range v.c.up() {
			v.must(load[r] == v.o.Concurrency || r.stopped() > 0, when, "somebody waits, and a runner has %d of %d slots taken", load[r], v.o.Concurrency)
		}
	}
}

// doubts reports whether a runner is lost and it is not known why, so that boots may have to wait for that.
func (v *walker) doubts() bool {
	v.c.mu.Lock()
	defer v.c.mu.Unlock()
	return slices.ContainsFunc(v.c.nodes, (*node).isFailing)
}

func (v *walker) countLine(when string) {
	s := v.p.Stats()
	v.must(s.Queued == len(v.waiting()), when, "the pool counts %d callers in line, and there are %d", s.Queued, len(v.waiting()))
	if s.Queued > 0 {
		hope := s.Busy > 0 || s.Booting > 0 || s.Stopping > 0 || s.NextBoot > 0
		v.must(hope, when, "somebody waits, and nothing will happen")
	}
}

// heal makes everything work again, and checks that everybody is served then, that Min is restored, and that nothing more is kept.
func (v *walker) heal(t *testing.T) {
	v.c.change(func() { v.failing, v.ailing, v.c.takes = nil, nil, time.Second })
	for range 200 {
		<-time.After(time.Minute)
		v.look("when everything works again")
		for _, c := range v.held() {
			v.give(c)
		}
	}
	v.must(len(v.waiting()) == 0, "when everything has worked for hours", "%d callers still wait", len(v.waiting()))
	v.call(context.WithCancel(t.Context()))
	<-time.After(time.Minute)
	v.look("when everything works again")
	for _, c := range v.held() {
		v.give(c)
	}
	<-time.After(time.Minute)
	v.look("at rest")
	up := v.p.Stats().Up
	v.must(up >= v.o.Min, "at rest", "%d runners are up, which are fewer than %d", up, v.o.Min)
	<-time.After(time.Hour)
	up = v.p.Stats().Up
	v.must(up <= v.o.Min || v.life > 0, "at rest", "%d runners are up, which are more than %d", up, v.o.Min)
	v.must(up == 0 || v.o.MinIdle == 0 || v.life > 0, "long after MinIdle", "%d runners are up, want none", up)
}

// shut closes the pool with callers of both kinds.
func (v *walker) shut(t *testing.T) {
	for range 3 * v.o.Max {
		v.call(context.WithCancel(t.Context()))
	}
	v.look("before the pool closes")
	v.closed = true
	err := v.p.Close()
	v.must(err == nil, "when the pool has closed", "Close returned %v", err)
	v.look("when the pool has closed")
	v.must(len(v.waiting()) == 0, "when the pool has closed", "%d callers still wait", len(v.waiting()))
	left, _ := v.c.exist()
	v.must(left == 0, "when the pool has closed", "%d runners are left", left)
	for _, c := range v.held() {
		v.give(c)
	}
}

func TestWhateverHappensTheRulesHold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := drawWalk(rt)
		if err := w.take(t, w.o, nil); err != nil {
			rt.Fatal(err)
		}
	})
}

// TestTheRulesCatchPoolsThatBreakThem walks with pools that do not do what was asked of them. Without it nobody knew whether
// the walk above could fail.
func TestTheRulesCatchPoolsThatBreakThem(t *testing.T) {
	t.Parallel()
	for name, breakIt := range map[string]func(*pool.Options, *walker){
		"one runner more than Max":         func(o *pool.Options, _ *walker) { o.Max++ },
		"one slot more than Concurrency":   func(o *pool.Options, _ *walker) { o.Concurrency++ },
		"one slot less than Concurrency":   func(o *pool.Options, _ *walker) { o.Concurrency = max(1, o.Concurrency-1) },
		"one runner less than Min":         func(o *pool.Options, _ *walker) { o.Min = max(0, o.Min-1) },
		"one runner more than Min":         func(o *pool.Options, _ *walker) { o.Min = min(o.Max, o.Min+1) },
		"single use is forgotten":          func(o *pool.Options, _ *walker) { o.SingleUse = false },
		"idle runners are kept":            func(o *pool.Options, _ *walker) { o.Idle = pool.Never },
		"runners with work are stopped":    breakStop,
		"who goes away frees its slot":     breakAbandonment,
		"a slot is lost now and then":      breakRelease,
		"who waits is passed over":         breakOrder,
		"who waits is not told of the end": breakEnd,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			draw := rapid.Custom(drawWalk)
			for seed := range 500 {
				w := draw.Example(seed)
				o := w.o
				breakIt(&o, &walker{})
				if err := w.take(t, o, func(v *walker) { breakIt(&pool.Options{}, v) }); err != nil {
					t.Logf("caught after %d walks: %v", seed+1, err)
					return
				}
			}
			t.Error("500 walks have noticed nothing")
		})
	}
}

func breakAbandonment(_ *pool.Options, v *walker) {
	v.acquire = func(ctx context.Context) (*pool.Slot, error) {
		s, err := v.p.Acquire(ctx)
		if err == nil {
			context.AfterFunc(ctx, s.Release)
		}
		return s, err
	}
}

func breakRelease(_ *pool.Options, v *walker) {
	n := 0
	v.release = func(s *pool.Slot) {
		if n++; n%5 != 0 {
			s.Release()
		}
	}
}

// breakOrder makes those in line go away and come again, as they would in a pool that is asked again and again.
func breakOrder(_ *pool.Options, v *walker) {
	v.acquire = func(ctx context.Context) (*pool.Slot, error) {
		for {
			short, cancel := context.WithTimeout(ctx, 1700*time.Millisecond)
			s, err := v.p.Acquire(short)
			cancel()
			if reason(err) != pool.TimeUp || ctx.Err() != nil {
				return s, err
			}
		}
	}
}

func breakEnd(_ *pool.Options, v *walker) {
	v.acquire = func(ctx context.Context) (*pool.Slot, error) {
		s, err := v.p.Acquire(ctx)
		if reason(err) == pool.Closed {
			<-ctx.Done()
		}
		return s, err
	}
}

// breakStop makes a runner stop whenever it is used for the third time.
func breakStop(_ *pool.Options, v *walker) {
	var mu sync.Mutex
	uses := map[pool.Runner]int{}
	v.acquire = func(ctx context.Context) (*pool.Slot, error) {
		s, err := v.p.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		if uses[s.Runner()]++; uses[s.Runner()] == 3 {
			_ = s.Runner().Stop(ctx)
		}
		return s, nil
	}
}
