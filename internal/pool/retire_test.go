package pool_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/internal/pool"
)

func TestARunnerIsReplacedBeforeItEndsByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{takes: 10 * time.Second, life: time.Hour}
		p := start(t, c, &pool.Options{Min: 1})
		time.Sleep(10 * time.Second)
		for range 4 * 3600 { // a call each second, for four hours
			began := time.Now()
			s := take(t, p)
			if waited := time.Since(began); waited > 0 {
				t.Fatalf("a caller waited %v, want that the replacement is up before the old one retires", waited)
			}
			if left := time.Until(s.Runner().(*node).ends); left < 4*time.Minute {
				t.Fatalf("a caller got a runner that has %v to live, want that it is not used in its last minutes", left)
			}
			time.Sleep(time.Second)
			s.Release()
		}
		if got := c.booted(); got != 5 {
			t.Errorf("%d runners were booted in four hours, want 5 that live an hour", got)
		}
	})
}

func TestARetiringRunnerFinishesWhatItHas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{takes: time.Second, life: time.Hour}
		p := start(t, c, &pool.Options{Concurrency: 2, Retire: 10 * time.Minute})
		long := take(t, p)
		old := long.Runner().(*node)
		time.Sleep(50 * time.Minute) // it retires now
		time.Sleep(2 * time.Second)  // and its replacement is up
		began := time.Now()
		next := take(t, p)
		if waited := time.Since(began); next.Runner() == long.Runner() || waited != 0 {
			t.Errorf("a caller waited %v and got %s, want the replacement at once", waited, next.Runner().ID())
		}
		time.Sleep(5 * time.Minute)
		if old.stopped() > 0 {
			t.Error("the retiring runner was stopped while it had work and time")
		}
		long.Release()
		synctest.Wait()
		if old.stopped() != 1 {
			t.Errorf("when its work had ended the retiring runner was stopped %d times, want once", old.stopped())
		}
		next.Release()
	})
}

func TestWorkThatGoesOnTooLongIsToldWhenItsRunnerEndsSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var first sync.Once // it is the first to be told
		var told time.Duration
		c := &cloud{life: time.Hour, stop: func(ctx context.Context, _ *node) error {
			first.Do(func() { told = time.Since(began) })
			<-ctx.Done()
			return nil
		}}
		p := start(t, c, &pool.Options{ShutdownTimeout: time.Minute, Idle: pool.Never})
		placed := take(t, p)
		time.Sleep(time.Hour)
		synctest.Wait()
		if told != 59*time.Minute {
			t.Errorf("the placed work's runner was told to stop after %v, want after 59m, with a minute to live", told)
		}
		placed.Release()
	})
}

func TestWhereThereIsNoRoomForAReplacementItComesWhenTheOldOneIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{takes: time.Second, life: time.Hour}
		p := start(t, c, &pool.Options{Max: 1, Concurrency: 2})
		held := take(t, p)
		time.Sleep(56 * time.Minute)
		answers := ask(t.Context(), p)
		time.Sleep(time.Minute)
		held.Release()
		a := <-answers
		if a.err != nil || a.after != time.Minute+time.Second {
			t.Fatalf("the caller got %v after %v, want a slot a boot after the old one's last work", a.err, a.after)
		}
		if a.slot.Runner() == held.Runner() {
			t.Error("the caller got the runner that retires")
		}
		a.slot.Release()
		if _, most := c.exist(); most != 1 {
			t.Errorf("%d runners existed at once, want at most 1", most)
		}
	})
}

func TestARetiringRunnerServesOnWhileNoReplacementBoots(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{life: time.Hour, takes: time.Second, fails: func(n int) error {
			if n == 2 {
				return passing(n)
			}
			return nil
		}}
		p := start(t, c, &pool.Options{Min: 1, Concurrency: 2})
		time.Sleep(time.Second)
		time.Sleep(55*time.Minute + 100*time.Millisecond) // the replacement boots, and fails in 900 ms
		a := <-ask(t.Context(), p)
		if a.err != nil || a.after != 0 {
			t.Fatalf("a caller got %v after %v while the replacement boots, want the old runner at once", a.err, a.after)
		}
		time.Sleep(10 * time.Second)
		if got := c.up(); len(got) != 2 {
			t.Errorf("%d runners are up, want the old one, which has work, and the next", len(got))
		}
		a.slot.Release()
		wantUp(t, p, 1, "when the old one has done its work")
	})
}

func TestAnIdleRunnerThatRetiresIsNotReplacedWithoutNeed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{life: time.Hour}
		p := start(t, c, &pool.Options{Idle: pool.Never})
		take(t, p).Release()
		time.Sleep(2 * time.Hour)
		wantUp(t, p, 0, "when it has retired")
		if got := c.booted(); got != 1 {
			t.Errorf("%d runners were booted for one call, want 1", got)
		}
	})
}

func TestARunnerThatLivesShorterThanItRetiresIsStillOfUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{life: 20 * time.Second}
		p := start(t, c, &pool.Options{Min: 1})
		for range 100 {
			s := take(t, p)
			time.Sleep(time.Second)
			if s.Runner().(*node).stopped() > 0 {
				t.Fatal("a runner was stopped during a call of a second")
			}
			s.Release()
		}
		if got := c.booted(); got > 10 {
			t.Errorf("%d runners that live 20s were booted in 100s, want at most 10", got)
		}
	})
}

func TestARunnerThatDoesNotRetireIsUsedFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := 0
		c := &cloud{boot: func(_ context.Context, r *node) error {
			if n++; n == 3 {
				<-time.After(10 * time.Second)
			}
			r.ends = time.Now().Add(time.Duration(n) * time.Hour)
			return nil
		}}
		p := start(t, c, &pool.Options{Min: 2})
		oldest := c.up()[0]
		time.Sleep(55*time.Minute + time.Second)
		if s := p.Stats(); s.Up != 2 || s.Booting != 1 {
			t.Fatalf("got %+v, want two that are up and the replacement of the first booting", s)
		}
		if s := take(t, p); s.Runner() == pool.Runner(oldest) {
			t.Error("a caller got the runner that retires while another was idle")
		} else {
			s.Release()
		}
	})
}

func TestARetiringRunnerDoesNotWaitForABootThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		n := 0
		c := &cloud{boot: func(_ context.Context, r *node) error {
			if n++; n > 1 {
				<-stuck
				return passing(n)
			}
			r.ends = time.Now().Add(time.Hour)
			return nil
		}}
		p := start(t, c, &pool.Options{Min: 1, Max: 2})
		time.Sleep(55*time.Minute + 39*time.Second)
		wantUp(t, p, 1, "while the replacement boots")
		time.Sleep(2 * time.Second)
		wantUp(t, p, 0, "when the replacement is overdue")
		close(stuck)
	})
}

func TestARunnerWithWorkThatDoesNotEndIsStoppedWhenItsOtherWorkHasEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		told := make(chan pool.Shrinkage, 10)
		p := start(t, c, &pool.Options{Max: 2, Concurrency: 3, ShutdownTimeout: time.Second, OnShrink: func(s pool.Shrinkage) { told <- s }})
		hopeless, other := take(t, p), take(t, p)
		old := hopeless.Runner().(*node)
		if other.Runner() != hopeless.Runner() {
			t.Fatal("the two are on different runners, want both on one")
		}
		why := errors.New("it does not end")
		hopeless.Abandon(why)
		hopeless.Abandon(errors.New("it still does not"))
		next := take(t, p)
		if next.Runner() == hopeless.Runner() {
			t.Error("the next caller got the runner whose work does not end")
		}
		next.Release()
		time.Sleep(time.Minute)
		if old.stopped() > 0 {
			t.Error("the runner was stopped while other work went on")
		}
		hopeless.Release() // it has ended after all, which changes nothing
		if got := p.Stats().InUse; got != 1 {
			t.Errorf("%d slots are in use, want that of the other work", got)
		}
		other.Release()
		synctest.Wait()
		if old.stopped() != 1 {
			t.Errorf("when the other work had ended the runner was stopped %d times, want once", old.stopped())
		}
		for {
			s := <-told
			if s.Runner != old.name { // the other one has become idle
				continue
			}
			if s.Reason != pool.Retired || !errors.Is(s.Err, why) {
				t.Errorf("the runner left as %s because of %v, want that it was retired because of %v", s.Reason, s.Err, why)
			}
			return
		}
	})
}

func TestAClosedPoolDoesNotWaitForWorkThatWasAbandoned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{}, &pool.Options{SingleUse: true})
		s := take(t, p)
		s.Abandon(errors.New("it does not end"))
		if err := p.Close(); err != nil {
			t.Errorf("Close: got %v, want nil", err)
		}
		s.Abandon(nil)
		s.Release()
		if got := p.Stats(); got.InUse != 0 || got.Up != 0 {
			t.Errorf("got %+v, want nothing left", got)
		}
	})
}
