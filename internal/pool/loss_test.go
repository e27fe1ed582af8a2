package pool_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/pool"
)

var errOOM = errors.New("the machine has run out of memory")

func TestCallersInLineAreServedWhenTheOnlyRunnerDies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{takes: time.Second}
		p := start(t, c, &pool.Options{Max: 1, Concurrency: 1})
		held := take(t, p)
		waiting := ask(t.Context(), p)
		synctest.Wait()
		held.Runner().(*node).kill(errOOM)
		a := <-waiting
		if a.err != nil || a.after != time.Second {
			t.Fatalf("the caller in line got %v after %v, want a slot after the 1s that another boot takes", a.err, a.after)
		}
		held.Release()
		if got := p.Stats().InUse; got != 1 {
			t.Errorf("%d slots are in use when the dead runner's is released, want the other one", got)
		}
		a.slot.Release()
	})
}

func TestMinIsRestoredWhenRunnersDie(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		p := start(t, c, &pool.Options{Min: 3})
		spike(t, p, 3)
		for range 10 {
			for _, r := range c.up() {
				take(t, p).Release()
				r.kill(errOOM)
			}
			time.Sleep(time.Minute)
			wantUp(t, p, 3, "a minute after all have died")
		}
	})
}

func TestTheDeathOfARunnerIsToldAndHarmsNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told []pool.Shrinkage
		c := &cloud{}
		p := start(t, c, &pool.Options{Min: 3, Max: 3, Concurrency: 1, OnShrink: func(s pool.Shrinkage) { told = append(told, s) }})
		first, second, third := take(t, p), take(t, p), take(t, p)
		first.Runner().(*node).kill(errOOM)
		synctest.Wait()
		if len(told) != 1 || told[0].Reason != pool.Lost || !errors.Is(told[0].Err, errOOM) || told[0].Count != 2 {
			t.Errorf("OnShrink was told %v, want one lost, out of memory, and 2 left", told)
		}
		for _, s := range []*pool.Slot{second, third} {
			if r := s.Runner().(*node); r.isDone() || r.stopped() > 0 {
				t.Errorf("runner %s was stopped because another died", r.ID())
			}
		}
		if r := first.Runner().(*node); r.stopped() == 0 {
			t.Error("the dead runner was not stopped, so something of it may be left")
		}
		for _, s := range []*pool.Slot{first, second, third} {
			s.Release()
		}
	})
}

func TestNobodyIsGivenARunnerThatHasJustDied(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		p := start(t, c, &pool.Options{Min: 2})
		for range 100 {
			take(t, p).Release()
			dead := c.up()[0]
			dead.kill(errOOM)
			s := take(t, p) // before anybody had the time to notice
			if s.Runner() == pool.Runner(dead) {
				t.Fatal("a caller got a runner that was dead already")
			}
			s.Release()
			time.Sleep(time.Minute)
		}
	})
}

func TestARunnerThatIsLostGetsNoMoreWorkWhileItIsFoundOutWhy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told []pool.Shrinkage
		c := &cloud{takes: time.Second}
		p := start(t, c, &pool.Options{Max: 2, Concurrency: 2, OnShrink: func(s pool.Shrinkage) { told = append(told, s) }})
		held := take(t, p)
		lost := held.Runner().(*node)
		lost.doom(time.Hour, errOOM)
		other := take(t, p) // before anybody had the time to notice
		if other.Runner() == pool.Runner(lost) {
			t.Fatal("a caller got a runner that is lost")
		}
		synctest.Wait()
		if s := p.Stats(); s.Up != 1 || s.Stopping != 1 || s.InUse != 2 || lost.stopped() > 0 || len(told) > 0 {
			t.Errorf("while nobody knows why it is lost: got %+v, %d stops, OnShrink told %v; want it neither up nor stopped nor told", s, lost.stopped(), told)
		}
		held.Release() // its caller knows
		if a := <-ask(t.Context(), p); a.err != nil || a.slot.Runner() != other.Runner() {
			t.Errorf("a caller got %v, %v, want a slot of the other runner", a.slot, a.err)
		}
		waiting := ask(t.Context(), p)
		time.Sleep(time.Minute)
		if s := p.Stats(); s.Queued != 1 || lost.stopped() > 0 {
			t.Errorf("got %d callers in line and %d stops, want one that waits because there may be only two runners", s.Queued, lost.stopped())
		}
		lost.kill(errOOM)
		a := <-waiting
		if a.err != nil || a.slot.Runner() == other.Runner() {
			t.Errorf("the caller in line got %v, %v, want a slot of a new runner", a.slot, a.err)
		}
		synctest.Wait()
		if len(told) != 1 || told[0].Reason != pool.Lost || !errors.Is(told[0].Err, errOOM) || told[0].Count != 1 {
			t.Errorf("OnShrink was told %v, want one lost, why, and 1 left", told)
		}
	})
}

func TestALostRunnerIsReplacedBeforeItIsKnownWhyIfItHasWorked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{takes: time.Second}
		p := start(t, c, &pool.Options{Min: 1})
		time.Sleep(time.Minute)
		first := c.up()[0]
		take(t, p).Release()
		first.doom(time.Hour, errOOM)
		time.Sleep(2 * time.Second)
		wantUp(t, p, 1, "two seconds after the only runner was lost")
		if got := c.booted(); got != 2 {
			t.Errorf("got %d boots, want the one that replaces it", got)
		}
		second := c.up()[0]
		second.doom(time.Hour, errOOM) // it never worked, so the next might be lost like it, and boots have to pause
		time.Sleep(time.Minute)
		wantUp(t, p, 0, "while it is not known why a runner was lost that never worked")
		first.kill(errOOM)
		second.kill(errOOM)
		time.Sleep(time.Minute)
		wantUp(t, p, 1, "when it is known")
	})
}

func TestARunnerThatIsLostBeforeItIsUsedIsNotBootedInALoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{boot: func(_ context.Context, r *node) error { r.kill(errOOM); return nil }}
		p := start(t, c, &pool.Options{Min: 1, Patience: time.Minute})
		time.Sleep(10 * time.Minute)
		if got := c.booted(); got > 50 {
			t.Errorf("%d runners were booted in 10 minutes, want a pause that grows between them", got)
		}
		a := <-ask(t.Context(), p)
		if reason(a.err) != pool.BootFailed || !errors.Is(a.err, errOOM) || a.after != time.Minute {
			t.Errorf("a caller got %v after %v, want that no boot succeeds and why, after 1m", a.err, a.after)
		}
	})
}

func TestWorkThatKillsItsRunnerMakesNobodyElseWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{takes: time.Second}
		p := start(t, c, nil)
		for range 20 {
			s := take(t, p)
			s.Runner().(*node).kill(errOOM)
			s.Release()
			a := <-ask(t.Context(), p)
			if a.err != nil || a.after > time.Second {
				t.Fatalf("the next caller got %v after %v, want a slot after the 1s of a boot", a.err, a.after)
			}
			a.slot.Release()
		}
	})
}

func TestARunnerIsUsedOnceWhereUseIsSingle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stop := func(ctx context.Context, _ *node) error {
			select { // stopping takes a while, in which more calls come
			case <-time.After(5 * time.Second):
			case <-ctx.Done():
			}
			return nil
		}
		c := &cloud{takes: time.Second, stop: stop}
		p := start(t, c, &pool.Options{Min: 2, Max: 4, Concurrency: 100, SingleUse: true})
		used := map[pool.Runner]int{}
		for range 8 {
			s := take(t, p)
			used[s.Runner()]++
			if r := s.Runner().(*node); r.stopped() > 0 {
				t.Errorf("a caller got %s, which is being stopped", r.ID())
			}
			time.Sleep(time.Second)
			if r := s.Runner().(*node); r.stopped() > 0 {
				t.Errorf("%s was stopped before its call had ended", r.ID())
			}
			s.Release()
		}
		if len(used) != 8 {
			t.Errorf("8 calls were run by %d runners, want 8", len(used))
		}
		time.Sleep(time.Minute)
		wantUp(t, p, 2, "a minute later")
		if _, most := c.exist(); most > 4 {
			t.Errorf("%d runners existed at once, want at most 4", most)
		}
	})
}

func TestASlotIsTakenUntilItsWorkHasEndedWhoeverHasGoneAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{}, &pool.Options{Max: 1, Concurrency: 1})
		ctx, cancel := context.WithCancel(t.Context())
		a := <-ask(ctx, p)
		cancel() // the caller is gone, its work is not
		next := ask(t.Context(), p)
		time.Sleep(time.Hour)
		if s := p.Stats(); s.InUse != 1 || s.Queued != 1 {
			t.Errorf("%d slots are in use and %d callers wait, want 1 and 1: a runner would do more than it may", s.InUse, s.Queued)
		}
		a.slot.Release()
		(<-next).slot.Release()
	})
}

func TestARunnerThatCannotBeStoppedKeepsItsPlaceAndIsStoppedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		down.Store(true)
		c := &cloud{stop: func(context.Context, *node) error {
			if down.Load() {
				return fault.Say(fault.Unavailable, "the provider is down")
			}
			return nil
		}}
		p := start(t, c, &pool.Options{Max: 1, SingleUse: true})
		take(t, p).Release()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := p.Acquire(ctx)
		want := "pool pool: the caller waited 1h0m0s for a runner, of which 0 are up and 0 boot and there may be 1, with 0 more in line: context deadline exceeded; " +
			"a runner that takes up a place cannot be stopped: the provider is down"
		if err == nil || err.Error() != want {
			t.Errorf("a caller got\n%v\nwant\n%s", err, want)
		}
		r := c.up()[0]
		if r.stopped() < 100 || r.stopped() > 300 {
			t.Errorf("in an hour Stop was called %d times, want 100 to 300", r.stopped())
		}
		down.Store(false)
		a := <-ask(t.Context(), p)
		if a.err != nil || a.after > 30*time.Second {
			t.Fatalf("when it can be stopped a caller got %v after %v, want a slot within 30s", a.err, a.after)
		}
		a.slot.Release()
	})
}

func TestCallbacksThatPanicOrTakeLongHarmNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told []string
		p := start(t, &cloud{}, &pool.Options{
			Concurrency: 1,
			OnGrow: func(g pool.Growth) {
				time.Sleep(time.Minute)
				told = append(told, fmt.Sprint("grow ", g.Done, g.Count))
				panic("a bug of the user")
			},
			OnShrink: func(s pool.Shrinkage) {
				told = append(told, fmt.Sprint("shrink ", s.Count))
				panic(s)
			},
		})
		for range 5 {
			if a := <-ask(t.Context(), p); a.err != nil || a.after != 0 {
				t.Fatalf("a caller got %v after %v, want a slot at once", a.err, a.after)
			} else {
				a.slot.Runner().(*node).kill(errOOM)
				a.slot.Release()
			}
			synctest.Wait()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		want := ""
		for range 5 {
			want += " grow false 1 grow true 1 shrink 0"
		}
		if got := fmt.Sprint(told); got != "["+want[1:]+"]" {
			t.Errorf("the callbacks were told %s, want %s", got, want)
		}
	})
}

func TestCallbacksThatNeverReturnAreLeftBehindAndTheirLineIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		calls := 0
		p := create(t, &cloud{}, &pool.Options{OnGrow: func(pool.Growth) { calls++; <-stuck }})
		result := make(chan error, 1)
		go func() { result <- p.Run(t.Context()) }()
		for range 2000 {
			s := take(t, p)
			s.Runner().(*node).kill(errOOM)
			s.Release()
			synctest.Wait()
		}
		began := time.Now()
		err := p.Close()
		if took := time.Since(began); err != nil || took != pool.DefaultShutdownTimeout {
			t.Errorf("Close: got %v after %v, want no error after the %v that callbacks have", err, took, pool.DefaultShutdownTimeout)
		}
		close(stuck)
		synctest.Wait()
		if calls < 1000 || calls > 1002 {
			t.Errorf("of 4000 calls of OnGrow %d were made, want the first 1000 or so", calls)
		}
		<-result
	})
}

// slowLog is a slog.Handler that does what no handler should.
type slowLog struct {
	slog.Handler
	do func(message string)
}

func (l slowLog) Enabled(context.Context, slog.Level) bool      { return true }
func (l slowLog) Handle(_ context.Context, r slog.Record) error { l.do(r.Message); return nil }
func (l slowLog) WithAttrs([]slog.Attr) slog.Handler            { return l }
func (l slowLog) WithGroup(string) slog.Handler                 { return l }

func TestALoggerThatTakesLongPanicsOrAsksThePoolHarmsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var p *pool.Pool
		logged := map[string]int{}
		c := &cloud{}
		o := &pool.Options{Logger: slog.New(slowLog{do: func(message string) {
			logged[message]++
			p.Stats()
			<-time.After(time.Minute)
			panic("a bug of the user")
		}})}
		p = create(t, c, o)
		go p.Run(t.Context())
		for range 5 {
			a := <-ask(t.Context(), p)
			if a.err != nil || a.after != 0 {
				t.Fatalf("a caller got %v after %v, want a slot at once", a.err, a.after)
			}
			a.slot.Runner().(*node).kill(errOOM)
			a.slot.Release()
			synctest.Wait()
		}
		time.Sleep(time.Hour)
		if err := p.Close(); err != nil {
			t.Errorf("Close: got %v, want no error", err)
		}
		for _, message := range []string{"a runner boots", "a runner is up", "a runner leaves the pool"} {
			if logged[message] != 5 {
				t.Errorf("%q was logged %d times, want once for each of 5 runners", message, logged[message])
			}
		}
	})
}
