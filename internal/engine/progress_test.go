package engine_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// full is a store that takes no notes while its disk is full, and counts those that it took and those that it refused.
type full struct {
	store.Store
	disk           atomic.Bool
	taken, refused atomic.Int64
	after          func() // what happens before the answer to a write that was taken
}

func (s *full) Note(ctx context.Context, notes []*store.Note) error {
	if s.disk.Load() {
		s.refused.Add(1)
		return fmt.Errorf("the disk is full: %w", fault.StoreFull)
	}
	s.taken.Add(1)
	err := s.Store.Note(ctx, notes)
	if s.after != nil {
		s.after()
	}
	return err
}

func TestHeartbeatsAreAnsweredWhileProgressCannotBeWritten(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		s := new(full)
		f := newFleet(t, func(o *engine.Options) {
			s.Store = o.Store
			o.Store = s
		})
		s.disk.Store(true)
		var late atomic.Int64
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
			for i := range 2000 {
				began := time.Now()
				ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
				_, err := f.engine.Load().Beats(ctx, &wire.Beats{Beats: []wire.Beat{{
					Attempt: a.Attempt, Token: a.Token, Phase: wire.Running, Progress: &wire.Progress{Fraction: float64(i) / 2000},
				}}})
				cancel()
				if took := time.Since(began); err != nil || took > time.Second {
					late.Add(1)
				}
				wait(ctx, 100*time.Millisecond)
			}
			s.disk.Store(false)
			wait(ctx, 20*time.Second)
			return succeed(ctx, a)
		}
		job := f.submit(nil)
		wait(t.Context(), 230*time.Second)
		if n := late.Load(); n != 0 {
			t.Errorf("%d of 2000 heartbeats were not answered within a second, want none", n)
		}
		if p := f.job(job.ID).Progress; p == nil || p.Fraction != 0.9995 {
			t.Errorf("when the disk has room again the progress is %+v, want the last, 0.9995", p)
		}
		check(t, f.finished(job.ID, time.Hour), dayfly.Succeeded, "", 1)
	})
}

func TestAStoreThatRefusesProgressIsAskedLessAndLessOften(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		s := new(full)
		f := newFleet(t, func(o *engine.Options) {
			s.Store = o.Store
			o.Store = s
		})
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
			say := func(fraction float64) {
				if err := f.engine.Load().Progress(ctx, a.JobToken, &wire.Progress{Fraction: fraction}); err != nil {
					t.Errorf("progress: got %v, want nil", err)
				}
			}
			s.after = func() {
				if s.taken.Load() == 10 { // The job speaks and the disk fills while the store writes.
					say(0.5)
					s.disk.Store(true)
				}
			}
			for i := range 10 {
				say(float64(i) / 100)
				wait(ctx, time.Second)
			}
			for i := range 600 {
				say(float64(i) / 1000)
				wait(ctx, 100*time.Millisecond)
			}
			s.disk.Store(false)
			wait(ctx, 10*time.Second)
			return succeed(ctx, a)
		}
		check(t, f.finished(f.submit(nil).ID, time.Hour), dayfly.Succeeded, "", 1)
		if n := s.taken.Load(); n <= 10 {
			t.Errorf("the store took %d writes of progress, want more than the 10 before its disk was full", n)
		}
		if n := s.refused.Load(); n < 10 || n > 30 {
			t.Errorf("the store was asked %d times in the minute in which it refused, want between 10 and 30 times", n)
		}
	})
}

func TestTheLastProgressOfAJobIsKeptWhenItEndsAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
			if err := f.engine.Load().Progress(ctx, a.JobToken, &wire.Progress{Fraction: 1, Text: "all done"}); err != nil {
				t.Errorf("progress: got %v, want nil", err)
			}
			return succeed(ctx, a)
		}
		job := f.finished(f.submit(nil).ID, time.Minute)
		if p := job.Progress; p == nil || *p != (dayfly.Progress{Fraction: 1, Text: "all done"}) {
			t.Errorf("the progress of the finished job is %+v, want what it said last", p)
		}
	})
}
