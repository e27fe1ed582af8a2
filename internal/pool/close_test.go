package pool_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/pool"
)

func TestAClosingPoolLetsTheWorkEndWithinItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var slots sync.WaitGroup
		c := &cloud{stop: func(ctx context.Context, _ *node) error {
			ended := make(chan struct{})
			go func() { slots.Wait(); close(ended) }()
			select {
			case <-ended:
				return nil
			case <-ctx.Done():
				return errors.New("work was cut off")
			}
		}}
		p := create(t, c, &pool.Options{Max: 2, Concurrency: 2, ShutdownTimeout: time.Minute})
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		result := make(chan error, 1)
		go func() { result <- p.Run(ctx) }()
		for n := range 4 {
			s := take(t, p)
			slots.Go(func() {
				<-time.After(time.Duration(n+1) * 10 * time.Second)
				s.Release()
			})
		}
		waiting := ask(t.Context(), p)
		synctest.Wait()
		cancel()
		if a := <-waiting; reason(a.err) != pool.Closed || fault.Of(a.err) != fault.Conflict || a.after != 0 {
			t.Errorf("who waited got %v of kind %s after %v, want at once that the pool is closed", a.err, fault.Of(a.err), a.after)
		}
		if _, err := p.Acquire(t.Context()); reason(err) != pool.Closed {
			t.Errorf("who comes now got %v, want that the pool is closed", err)
		}
		if err, took := <-result, time.Since(began); err != nil || took != 40*time.Second {
			t.Errorf("Run: got %v after %v, want no error when the last work has ended, after 40s", err, took)
		}
	})
}

func TestWorkThatDoesNotEndIsCutOffWhenItsTimeIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{stop: func(ctx context.Context, _ *node) error { <-ctx.Done(); return nil }}
		p := create(t, c, &pool.Options{ShutdownTimeout: 17 * time.Second})
		go p.Run(t.Context())
		take(t, p)
		began := time.Now()
		if err := p.Close(); err != nil {
			t.Errorf("Close: got %v, want no error", err)
		}
		if took := time.Since(began); took != 17*time.Second {
			t.Errorf("Close took %v, want 17s", took)
		}
	})
}

func TestAClosingPoolGivesUpItsBootsAndStopsThoseThatSucceed(t *testing.T) {
	t.Parallel()
	for name, obeys := range map[string]bool{"the backend gives up": true, "the backend is late": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := &cloud{boot: func(ctx context.Context, _ *node) error {
					<-ctx.Done()
					if obeys {
						return ctx.Err()
					}
					<-time.After(3 * time.Second)
					return nil
				}}
				var told []pool.Growth
				p := create(t, c, &pool.Options{Min: 3, OnGrow: func(g pool.Growth) { told = append(told, g) }})
				go p.Run(t.Context())
				synctest.Wait()
				began, want := time.Now(), time.Duration(0)
				if !obeys {
					want = 3 * time.Second
				}
				if err := p.Close(); err != nil || time.Since(began) != want {
					t.Errorf("Close: got %v after %v, want no error after %v", err, time.Since(began), want)
				}
				if left, _ := c.exist(); left != 0 || c.booted() != 3 {
					t.Errorf("%d of %d runners are left, want 0 of 3", left, c.booted())
				}
				if s := p.Stats(); s != (pool.Stats{Boots: s.Boots}) {
					t.Errorf("the statistics are %+v, want nothing left and no failure", s)
				}
				if len(told) != 6 {
					t.Errorf("OnGrow was told %d times, want of 3 boots that began and ended", len(told))
				}
			})
		})
	}
}

func TestRunSaysWhichRunnersMayBeLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{stop: func(context.Context, *node) error { return fault.Say(fault.Unavailable, "the provider is down") }}
		p := create(t, c, &pool.Options{Min: 2, ShutdownTimeout: 20 * time.Second})
		result := make(chan error, 1)
		go func() { result <- p.Run(t.Context()) }()
		synctest.Wait()
		began := time.Now()
		err := p.Close()
		if took := time.Since(began); took < 29*time.Second || took > 30*time.Second {
			t.Errorf("Close took %v, want nearly the 20s of the shutdown and 10s more", took)
		}
		for _, r := range c.up() {
			if err == nil || !strings.Contains(err.Error(), "runner "+r.ID()+" may be left: the provider is down") {
				t.Errorf("Close: got %v, want it to name %s and why", err, r.ID())
			}
		}
		if run := <-result; run == nil || run.Error() != err.Error() || fault.Of(run) != fault.Unavailable {
			t.Errorf("Run: got %v, want what Close returned: %v", run, err)
		}
	})
}

func TestAPoolRunsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{}, nil)
		if err := p.Run(t.Context()); fault.Of(err) != fault.Conflict {
			t.Errorf("the second Run: got %v, want an error of kind conflict", err)
		}
		take(t, p).Release()
	})
}

func TestAPoolThatWasClosedBeforeItRanNeverRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		p := create(t, c, &pool.Options{Min: 1})
		waiting := ask(t.Context(), p)
		synctest.Wait()
		for range 2 {
			if err := p.Close(); err != nil {
				t.Errorf("Close: got %v, want no error", err)
			}
		}
		if a := <-waiting; reason(a.err) != pool.Closed {
			t.Errorf("who waited got %v, want that the pool is closed", a.err)
		}
		if err := p.Run(t.Context()); err != nil || c.booted() != 0 {
			t.Errorf("Run after Close: got %v and %d boots, want neither", err, c.booted())
		}
	})
}

func TestCallersWaitForRunAndLearnThatItWasNeverCalled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		p := create(t, c, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := p.Acquire(ctx)
		want := "pool pool: the caller waited 1m0s for a runner, of which 0 are up and 0 boot and there may be 10, with 0 more in line: context deadline exceeded; " +
			"the pool boots nothing because its Run was never called"
		if err == nil || err.Error() != want {
			t.Errorf("got\n%v\nwant\n%s", err, want)
		}
		waiting := ask(t.Context(), p)
		synctest.Wait()
		if got := c.booted(); got != 0 {
			t.Errorf("%d runners were booted before Run, want none", got)
		}
		go p.Run(t.Context())
		if a := <-waiting; a.err != nil {
			t.Errorf("who waited for Run got %v, want a slot", a.err)
		}
		p.Close()
	})
}

func TestCloseMayBeCalledByMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{stop: func(context.Context, *node) error { <-time.After(time.Second); return nil }}, &pool.Options{Min: 2})
		var closes sync.WaitGroup
		for range 10 {
			closes.Go(func() {
				if err := p.Close(); err != nil {
					t.Errorf("Close: got %v, want no error", err)
				}
				if s := p.Stats(); s.Up+s.Stopping+s.Booting != 0 {
					t.Errorf("after Close: got %+v, want nothing left", s)
				}
			})
		}
		closes.Wait()
	})
}

func TestAClosingPoolDoesNotWaitForTheNextTryToStopARunner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mended atomic.Bool
		c := &cloud{stop: func(context.Context, *node) error {
			if mended.Load() {
				return nil
			}
			return passing(0)
		}}
		p := start(t, c, &pool.Options{Idle: time.Second})
		take(t, p).Release()
		time.Sleep(10*time.Minute + 100*time.Millisecond)
		mended.Store(true)
		began := time.Now()
		if err := p.Close(); err != nil || time.Since(began) != 0 {
			t.Errorf("Close: got %v after %v, want no error at once", err, time.Since(began))
		}
	})
}

func TestAClosingPoolWaitsForCallbacksThatTakeLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Int64
		p := start(t, &cloud{}, &pool.Options{OnShrink: func(pool.Shrinkage) { <-time.After(5 * time.Second); told.Add(1) }})
		take(t, p).Release()
		began := time.Now()
		if err := p.Close(); err != nil || time.Since(began) != 5*time.Second || told.Load() != 1 {
			t.Errorf("Close: got %v after %v, OnShrink was told %d times; want no error after its 5s, and once", err, time.Since(began), told.Load())
		}
	})
}
