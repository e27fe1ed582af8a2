package pool

import (
	"context"
	cryptorand "crypto/rand"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// The pauses after failed boots: the first, and the longest.
const (
	firstPause   = time.Second
	longestPause = 30 * time.Second
)

// boot is a boot under way.
type boot struct {
	name    string
	began   moment
	series  uint64 // of the trouble when it began
	overdue bool   // its time is over, and it has not returned; it has been counted as failed
}

// trouble is what is known of boots that fail.
type trouble struct {
	err           error  // why the last boot failed; nil when one has succeeded since
	row           int    // how many in a row failed, where those of one burst count once
	series        uint64 // grows with each of these
	configuration bool   // it cannot get better by itself, so it is tried again only for a reason
	again         bool   // there is one: somebody has called or a runner has left since
	until         moment // no boot begins before; 0: boots may begin
}

// grow boots what is wanted.
func (p *Pool) grow() {
	for p.wantsRunner() {
		p.boot()
	}
}

// wantsRunner reports whether one more runner is to be booted, and may be.
func (p *Pool) wantsRunner() bool {
	switch {
	case !p.mayBoot():
		return false
	case p.booting*p.o.Concurrency < p.line.length:
		return true
	case p.trouble.configuration && !p.trouble.again:
		return false
	case p.serving+p.booting < p.floor:
		return true
	default:
		return p.prewarmWants(p.serving + p.booting)
	}
}

// mayBoot reports whether a boot could begin now.
func (p *Pool) mayBoot() bool {
	switch {
	case !p.running || p.closed || p.isFull() || p.trouble.until > 0 || p.doubtful > 0:
		return false
	case p.trouble.row > 0 && p.booting > 0:
		return false // one at a time finds out whether it works again
	default:
		return true
	}
}

// isFull reports whether Max runners exist.
func (p *Pool) isFull() bool { return len(p.members)+len(p.boots) >= p.o.Max }

// prewarmWants reports whether so many runners are too few for the share that is to be free.
func (p *Pool) prewarmWants(runners int) bool {
	return p.o.Prewarm > 0 && p.inUse > 0 && p.inUse >= p.prewarmAt(runners)
}

// prewarmAt returns how many slots of so many runners are in use when one more is booted.
func (p *Pool) prewarmAt(runners int) int {
	return int(math.Ceil(p.o.Prewarm * float64(runners*p.o.Concurrency)))
}

// counted is called when the number of serving or booting runners has changed.
func (p *Pool) counted() {
	if p.o.Prewarm > 0 {
		p.prewarm = max(1, p.prewarmAt(p.serving+p.booting))
	}
	p.nudge()
}

// boot begins one boot.
func (p *Pool) boot() {
	b := &boot{name: p.o.Name + "-" + strings.ToLower(cryptoText()), began: p.now(), series: p.trouble.series}
	p.boots[b] = struct{}{}
	p.booting++
	p.counted()
	p.say(slog.LevelInfo, "a runner boots", "runner", b.name)
	p.tellGrowth(Growth{Runner: b.name, Count: p.up() + p.booting})
	p.work.Go(func() {
		ctx, cancel := context.WithTimeout(p.life, p.o.BootTimeout)
		defer cancel()
		runner, err := p.backend.Boot(ctx, b.name)
		if err == nil && runner == nil {
			err = fault.Say(fault.Internal, "the backend returned neither a runner nor an error")
		}
		if err != nil {
			err = bootError(ctx, err, p.o.BootTimeout)
		}
		p.bootEnded(b, runner, err)
	})
}

// cryptoText returns ten characters which nobody else gets.
func cryptoText() string { return cryptorand.Text()[:10] }

func (p *Pool) bootEnded(b *boot, runner Runner, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	delete(p.boots, b)
	if !b.overdue {
		p.booting--
	}
	if err != nil {
		p.bootFailed(b, now, err)
	} else {
		p.join(b, now, runner)
	}
	p.counted()
	growth := Growth{Runner: b.name, Done: true, Err: err, Took: now - b.began, Count: p.up()}
	p.tellGrowth(growth)
	if p.closed {
		return
	}
	p.settle()
	p.endRetirement()
}

func (p *Pool) bootFailed(b *boot, now moment, err error) {
	if p.closed {
		p.say(slog.LevelInfo, "a boot was given up because the pool closes", "runner", b.name, "error", err)
		return
	}
	p.say(slog.LevelWarn, "a runner did not boot", "runner", b.name, "took", now-b.began, "error", err)
	p.failed(b.series, now, err, b.overdue)
}

// failed notes a failure. Those of one burst lengthen the pause once, and a boot that was counted when its time was over
// is not counted again.
func (p *Pool) failed(series uint64, now moment, err error, counted bool) {
	if !counted {
		p.failures++
	}
	p.trouble.err = err
	p.trouble.configuration, p.trouble.again = isConfiguration(err), false
	if counted || series != p.trouble.series {
		return
	}
	p.trouble.series++
	p.trouble.row++
	p.trouble.until = now + pause(p.trouble.row)
	p.nudge()
}

// pause returns how long to wait after the nth failure in a row: a second, doubling up to half a minute, and between half
// of that and all of it, so that many pools do not come back at once.
func pause(n int) time.Duration {
	whole := longestPause
	if shift := n - 1; shift < 5 {
		whole = firstPause << shift
	}
	return whole/2 + rand.N(whole/2+1)
}

// join makes a runner that has booted a member.
func (p *Pool) join(b *boot, now moment, runner Runner) {
	p.booted++
	p.number++
	m := &member{
		pool: p, runner: runner, done: runner.Done(), gone: make(chan struct{}), name: b.name,
		number: p.number, upAt: now, row: p.trouble.row, place: -1, state: serving, restedAt: now,
	}
	if runner, ok := runner.(Failing); ok {
		m.failing = runner.Failing()
	}
	p.members = append(p.members, m)
	p.serving++
	p.work.Go(func() { p.watch(m) })
	if p.closed {
		p.stop(m, Closed, nil)
		return
	}
	if b.series == p.trouble.series {
		p.trouble = trouble{series: p.trouble.series + 1}
	}
	p.say(slog.LevelInfo, "a runner is up", "runner", b.name, "took", now-b.began)
	p.mortality(m, now)
	p.shelf.put(m)
}

// up returns how many runners are up and not stopping.
func (p *Pool) up() int {
	n := 0
	for _, m := range p.members {
		if m.state < failing {
			n++
		}
	}
	return n
}

// giveUp tells those in line who wait in vain: none is up that could become free, none boots, and what failed is
// either a matter of configuration or has failed for longer than they have to bear.
func (p *Pool) giveUp() {
	if p.line.length == 0 || p.hope() {
		return
	}
	now := p.now()
	for w := p.line.first; w != nil; w = p.line.first {
		waited := now - w.since
		if !p.trouble.configuration && (p.o.Patience < 0 || waited < p.o.Patience) {
			return
		}
		p.line.remove(w)
		w.refuse(p.refusal(BootFailed, waited))
	}
}

// hope reports whether it can be foreseen that somebody in line is served.
func (p *Pool) hope() bool {
	if p.serving > 0 || p.booting > 0 || p.trouble.err == nil {
		return true
	}
	return p.doubtful > 0 || p.trouble.until == 0 && !p.isFull()
}
