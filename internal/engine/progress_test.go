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

// full is a store that takes no notes while its disk is full.
type full struct {
	store.Store
	disk atomic.Bool
}

func (s *full) Note(ctx context.Context, notes []*store.Note) error {
	if s.disk.Load() {
		return fmt.Errorf("the disk is full: %w", fault.StoreFull)
	}
	return s.Store.Note(ctx, notes)
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
