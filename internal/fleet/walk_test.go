package fleet_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// walk is a random walk: what several programs and their runners do, and what befalls them.
type walk struct {
	max, min int
	single   bool
	kinds    int // of runners that the programs want
	calm     bool
	steps    []step
}

// step is one thing that is done.
type step struct {
	what   string
	n      int
	length time.Duration
}

func (s step) String() string { return fmt.Sprintf("%s %d %v", s.what, s.n, s.length) }

const parents = 4

func drawWalk(t *rapid.T) walk {
	w := walk{
		max:    rapid.IntRange(1, 4).Draw(t, "max"),
		single: rapid.IntRange(0, 3).Draw(t, "single use") == 0,
		kinds:  rapid.IntRange(1, 2).Draw(t, "kinds"),
		calm:   rapid.IntRange(0, 2).Draw(t, "calm") == 0,
	}
	w.min = rapid.IntRange(0, min(2, w.max)).Draw(t, "min")
	what := []string{"create", "create", "create", "create", "release", "release", "release", "cancel", "sleep", "sleep"}
	if !w.calm {
		what = append(what, "kill a machine", "kill the server", "let the server be down", "kill a program", "silence a program",
			"creates are lost", "creates are refused", "destroys are lost", "destroys are slow", "boots fail", "messages are lost", "messages arrive")
	}
	lengths := []time.Duration{0, time.Millisecond, time.Second, 4 * time.Second, 15 * time.Second, 2 * time.Minute}
	w.steps = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			what: rapid.SampledFrom(what).Draw(t, "what"), n: rapid.IntRange(0, 9).Draw(t, "n"),
			length: rapid.SampledFrom(lengths).Draw(t, "length"),
		}
	}), 1, 40).Draw(t, "steps")
	return w
}

// walker takes a walk, and knows what must hold.
type walker struct {
	walk
	*world
	t        *testing.T
	programs []*program
	work     sync.WaitGroup

	mu      sync.Mutex
	wanted  int             // guarded by mu; how many have ever been asked for
	waiting []*want         // guarded by mu; in the order in which they came
	held    []*want         // guarded by mu
	had     []*want         // guarded by mu; all that were ever held
	killed  map[string]bool // guarded by mu; machines that the walk has ended
	lossy   *rand.Rand      // guarded by mu; nil: no message is lost
	blurred time.Time       // guarded by mu; until when messages were lost, or servers gone
	failing int             // guarded by mu; boots that are still to fail
	broken  error           // guarded by mu; the first rule that did not hold
}

// program is a parent that lives until it is killed.
type program struct {
	*parent
	life   context.Context
	end    context.CancelFunc
	silent context.CancelFunc
}

// want is a runner that a program wants, and may have.
type want struct {
	number int
	kind   string
	by     *program
	ctx    context.Context
	cancel context.CancelFunc
	have   *have
}

func (v *walker) wrong(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.broken == nil {
		v.broken = fmt.Errorf(format, args...)
	}
}

// take takes the walk and returns the first rule that did not hold.
func (w walk) take(t *testing.T) (broken error) {
	synctest.Test(t, func(t *testing.T) {
		v := &walker{walk: w, t: t, world: newWorld(t), killed: map[string]bool{}}
		v.world.lose, v.world.start, v.world.room = v.fate, v.boots, w.max+1
		for range parents {
			v.arrive()
		}
		watching, stop := context.WithCancel(t.Context())
		v.work.Go(func() {
			for ; watching.Err() == nil; pause(watching, 50*time.Millisecond) {
				v.look("meanwhile")
			}
		})
		for i, s := range w.steps {
			v.step(s)
			synctest.Wait()
			v.look(fmt.Sprintf("after step %d, %s", i, s))
		}
		v.heal()
		stop()
		v.work.Wait()
		broken = v.broken
	})
	return broken
}

// arrive starts one more program.
func (v *walker) arrive() {
	i := len(v.programs)
	p := &program{parent: v.parent(fmt.Sprintf("P%d", i), func(terms *wire.FleetTerms) {
		terms.Max, terms.Min, terms.SingleUse, terms.IdleMS = v.max, v.min, v.single, 20_000
		terms.Spec.Env = map[string]string{"KIND": fmt.Sprint(i % v.kinds)}
	})}
	p.life, p.end = context.WithCancel(v.t.Context())
	speaking, silent := context.WithCancel(p.life)
	p.silent = silent
	v.programs = append(v.programs, p)
	v.work.Go(func() { p.live(speaking) })
	v.work.Go(func() {
		for ; speaking.Err() == nil; pause(speaking, 3*time.Second) {
			_ = p.announce()
		}
	})
}

// fate decides about a message.
func (v *walker) fate(*http.Request) loss {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.lossy == nil {
		return lostNever
	}
	v.blurred = time.Now()
	switch v.lossy.IntN(5) {
	case 0:
		return lostRequest
	case 1:
		return lostAnswer
	}
	return lostNever
}

// boots is the start of a runner.
func (v *walker) boots(context.Context, *machine.Spec) *machine.Exit {
	if n := len(v.cloud.Machines()); n > v.max {
		v.wrong("there are %d machines, and Max is %d", n, v.max)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failing > 0 {
		v.failing--
		return &machine.Exit{Code: 2}
	}
	return nil
}

func (v *walker) step(s step) {
	p := v.programs[s.n%len(v.programs)]
	switch s.what {
	case "create":
		for range 1 + s.n%3 {
			v.create(p)
		}
	case "release":
		v.release(s.n)
	case "cancel":
		v.mu.Lock()
		if len(v.waiting) > 0 {
			v.waiting[s.n%len(v.waiting)].cancel()
		}
		v.mu.Unlock()
	case "sleep":
		pause(v.t.Context(), s.length)
	case "kill a machine":
		if all := v.cloud.Machines(); len(all) > 0 {
			m := all[s.n%len(all)]
			v.mu.Lock()
			v.killed[m.Name] = true
			v.mu.Unlock()
			v.cloud.Exit(m.ID, machine.Exit{Code: 137, Signal: "SIGKILL"})
		}
	case "kill the server", "let the server be down":
		v.stop()
		if s.what != "kill the server" {
			pause(v.t.Context(), s.length)
		}
		v.serve()
		v.mu.Lock()
		v.blurred = time.Now()
		v.mu.Unlock()
	case "kill a program":
		p.end()
		v.arrive()
	case "silence a program":
		p.silent()
	case "creates are lost":
		v.cloud.Fail(memmachine.Create, memmachine.ExecuteThenTimeout).Times(1 + s.n%3)
	case "creates are refused":
		v.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted)).Times(1 + s.n%3)
	case "destroys are lost":
		v.cloud.Fail(memmachine.Destroy, memmachine.ExecuteThenTimeout).Times(1 + s.n%3)
	case "destroys are slow":
		v.cloud.Fail(memmachine.Destroy, memmachine.Delay(3*time.Second)).Times(1 + s.n%3)
	case "boots fail":
		v.mu.Lock()
		v.failing = 1 + s.n%3
		v.mu.Unlock()
	case "messages are lost":
		v.mu.Lock()
		v.lossy = rand.New(rand.NewPCG(uint64(s.n), 1))
		v.mu.Unlock()
	case "messages arrive":
		v.mu.Lock()
		v.lossy = nil
		v.mu.Unlock()
	}
}

// create has a program ask for a runner.
func (v *walker) create(p *program) {
	c := &want{by: p, kind: p.terms.Spec.Env["KIND"]}
	c.ctx, c.cancel = context.WithCancel(p.life)
	v.mu.Lock()
	v.wanted++
	c.number = v.wanted
	v.waiting = append(v.waiting, c)
	v.mu.Unlock()
	v.work.Go(func() {
		defer c.cancel()
		for {
			h, err := p.create(c.ctx)
			v.mu.Lock()
			if err == nil || c.ctx.Err() != nil {
				v.waiting = slices.DeleteFunc(v.waiting, func(other *want) bool { return other == c })
			}
			if err == nil {
				c.have = h
				v.held = append(v.held, c)
				v.served(c)
			} else if v.calm && c.ctx.Err() == nil && v.broken == nil {
				v.broken = fmt.Errorf("want %d, though nothing goes wrong: %w", c.number, err)
			}
			v.mu.Unlock()
			if err == nil {
				v.work.Go(func() { v.use(c) })
				return
			}
			if c.ctx.Err() != nil {
				return
			}
			pause(c.ctx, time.Second)
		}
	})
	synctest.Wait() // its place in line is that of the step
}

// served checks that a want was not served after one that came later. mu is held.
func (v *walker) served(c *want) {
	for _, other := range v.had {
		if v.calm && other.number > c.number && other.kind == c.kind && other.have.given.Before(c.have.given) && v.broken == nil {
			v.broken = fmt.Errorf("want %d was served before want %d", other.number, c.number)
		}
	}
	v.had = append(v.had, c)
}

// use is a program's time with a runner: until it is given back, or the program dies.
func (v *walker) use(c *want) {
	h := c.have
	select {
	case <-c.by.life.Done(): // it does not say so to anybody, but its links are over
		v.drop(c)
		v.world.mu.Lock()
		delete(v.guests, h.invitation)
		v.world.mu.Unlock()
		close(h.guest.closed)
	case <-h.guest.leave:
		pause(v.t.Context(), 3*time.Second) // what goes on there
		if v.drop(c) {
			h.release()
		}
	case <-h.guest.lost:
		v.mu.Lock()
		innocent := v.lossless() && !v.killed[h.runner] && c.by.speaks()
		v.mu.Unlock()
		if innocent {
			v.wrong("runner %s of want %d was destroyed while it was needed", h.runner, c.number)
		}
		if v.drop(c) {
			h.release()
		}
	case <-h.guest.closed:
	}
}

// lossless reports whether all messages of late have arrived. mu is held.
func (v *walker) lossless() bool { return v.lossy == nil && time.Since(v.blurred) > time.Minute }

func (p *program) speaks() bool { return p.life.Err() == nil }

// drop takes a want from those that are held, and reports whether it was there.
func (v *walker) drop(c *want) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := len(v.held)
	v.held = slices.DeleteFunc(v.held, func(other *want) bool { return other == c })
	return len(v.held) < n
}

// release has one of the runners given back that somebody has.
func (v *walker) release(n int) {
	v.mu.Lock()
	var c *want
	if len(v.held) > 0 {
		c = v.held[n%len(v.held)]
	}
	v.mu.Unlock()
	if c != nil && v.drop(c) {
		c.have.release()
	}
}

// look checks what must hold at every moment.
func (v *walker) look(when string) {
	if n := len(v.cloud.Machines()); n > v.max {
		v.wrong("%s: there are %d machines, and Max is %d", when, n, v.max)
	}
	if server := v.running(); server != nil {
		if err := server.fleets.Check(); err != nil {
			v.wrong("%s: %w", when, err)
		}
	}
	v.world.mu.Lock()
	defer v.world.mu.Unlock()
	for name, lent := range v.lent {
		if v.single && len(lent) > 1 {
			v.wrong("%s: runner %s of single use was lent %d times", when, name, len(lent))
		}
	}
	serving := map[string]string{}
	for id, name := range v.serving {
		if other := serving[name]; other != "" {
			v.wrong("%s: runner %s serves both %s and %s", when, name, id, other)
		}
		serving[name] = id
	}
}

// heal ends all that goes wrong and checks that all who wait are served, and that then nothing is left.
func (v *walker) heal() {
	v.mu.Lock()
	v.lossy, v.failing = nil, 0
	v.mu.Unlock()
	v.cloud.Heal()
	for _, p := range v.programs { // who was silent long enough to have lost his runners is gone
		p.silent()
		if p.life.Err() == nil {
			v.work.Go(func() { p.live(p.life) })
		}
	}
	for began := time.Now(); ; pause(v.t.Context(), time.Second) {
		v.release(0)
		v.mu.Lock()
		waiting := len(v.waiting)
		held := len(v.held)
		v.mu.Unlock()
		if waiting+held == 0 {
			break
		}
		if time.Since(began) > 10*time.Minute {
			v.wrong("%d still wait for a runner, and %d have one, long after everything works", waiting, held)
			break
		}
	}
	v.idle()
	for _, p := range v.programs {
		p.end()
	}
	for began := time.Now(); len(v.cloud.Machines()) > 0 || v.running().hire.Counts()["mem"] > 0; pause(v.t.Context(), time.Second) {
		if time.Since(began) > 6*time.Minute {
			v.wrong("%d machines and %d written down are left when everybody is gone: %v", len(v.cloud.Machines()), v.running().hire.Counts()["mem"],
				v.running().fleets.Count("tenant", "mem", "thumbs"))
			break
		}
	}
}

// idle checks that Min runners are kept while somebody says so, and no more.
func (v *walker) idle() {
	p := v.programs[len(v.programs)-1]
	for _, other := range v.programs[:len(v.programs)-1] { // they may have announced others than p has
		other.end()
	}
	speaking, stop := context.WithCancel(p.life)
	defer stop()
	v.work.Go(func() {
		for ; speaking.Err() == nil; pause(speaking, 3*time.Second) {
			_ = p.announce()
		}
	})
	pause(v.t.Context(), 5*time.Minute)
	if n := len(v.cloud.Machines()); n != v.min {
		v.wrong("%d machines when nobody needs one, and %d are to be kept: %v", n, v.min, v.running().fleets.Count("tenant", "mem", "thumbs"))
	}
}

func TestWhateverHappensToProgramsRunnersAndServer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := drawWalk(rt)
		if err := w.take(t); err != nil {
			rt.Fatal(err)
		}
	})
}
