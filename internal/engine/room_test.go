package engine_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/engine"
)

// TestTheLastRoomIsHadByOne lets somebody hire a machine in the middle of each write that is for the last one there may be.
func TestTheLastRoomIsHadByOne(t *testing.T) {
	t.Parallel()
	for write, c := range map[string]struct {
		pool  bool // whose machine it is, and not a job's
		waits bool // the job waits for room first
	}{
		"submit":     {},
		"launch":     {waits: true},
		"add runner": {pool: true},
	} {
		t.Run(write, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				var hired, tried, had atomic.Int64
				f, s := newForgetfulFleet(t, func(o *engine.Options) {
					o.MaxMachines = map[string]int{"mem": 1}
					o.Hired = func() map[string]int { return map[string]int{"mem": int(hired.Load())} }
					if c.pool {
						o.Pools = map[string]engine.Pool{"warm": {Min: 1, Max: 1, Idle: time.Hour, MaxAge: time.Hour}}
						hired.Store(1) // until everything is in place
					}
				})
				hire := func() bool { return f.engine.Load().TakeRoom("mem", func() { hired.Add(1) }) }
				if c.waits && !hire() {
					t.Fatal("TakeRoom: got false, want true when there is nothing")
				}
				s.set(func(w string) fate {
					if w == write {
						tried.Add(1)
						if hire() {
							had.Add(1)
						}
					}
					return done
				})
				var job string
				if !c.pool {
					job = f.submit(nil).ID
				}
				if hired.Load() > 0 {
					wait(t.Context(), 10*time.Second)
					if tried.Load() > 0 {
						t.Errorf("%s: got %d tries without room, want none", write, tried.Load())
					}
					hired.Store(0)
					f.engine.Load().RoomFreed()
				}
				wait(t.Context(), 10*time.Second)
				if tried.Load() == 0 || had.Load() > 0 {
					t.Errorf("%s: got %d tries to hire meanwhile, and %d that got the room, want some and none", write, tried.Load(), had.Load())
				}
				if job != "" {
					if got := f.finished(job, time.Minute).State; got != dayfly.Succeeded {
						t.Errorf("the job is %s, want it succeeded", got)
					}
					f.settled(time.Minute)
				}
				if got, want := hire(), !c.pool; got != want {
					t.Errorf("TakeRoom afterwards: got %v, want %v", got, want)
				}
			})
		})
	}
}

func TestAJobBeginsAsSoonAsAHiredMachineIsGone(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		var hired atomic.Int64
		f := newFleet(t, func(o *engine.Options) {
			o.MaxMachines = map[string]int{"mem": 1}
			o.Hired = func() map[string]int { return map[string]int{"mem": int(hired.Load())} }
		})
		if !f.engine.Load().TakeRoom("mem", func() { hired.Add(1) }) {
			t.Fatal("TakeRoom: got false, want true when there is nothing")
		}
		job := f.submit(nil)
		wait(t.Context(), 11*time.Second)
		if got := f.job(job.ID).State; got != dayfly.Queued {
			t.Errorf("the job without room is %s, want it queued", got)
		}
		hired.Store(0)
		f.engine.Load().RoomFreed()
		f.finished(job.ID, time.Second)
	})
}
