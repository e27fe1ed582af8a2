package engine

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/internal/store"
)

func TestAPoolTouchesNoMachineThatAJobHasAndStaysWithinItsBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 6).Draw(t, "max")
		p := &poolState{name: "warm", spec: "this", paused: rapid.Bool().Draw(t, "paused"), pool: &Pool{
			Max: most, Min: rapid.IntRange(0, most).Draw(t, "min"), Prewarm: rapid.SampledFrom([]float64{0, 0.3, 1}).Draw(t, "prewarm"),
			Idle: time.Minute, MaxAge: time.Hour,
		}}
		states := []store.RunnerState{store.RunnerWarming, store.RunnerIdle, store.RunnerBusy, store.RunnerRecycling, store.RunnerDraining}
		some := func(what string) time.Duration {
			return time.Duration(rapid.IntRange(0, 120).Draw(t, what)) * time.Minute
		}
		byName := map[string]runnerView{}
		for i := range rapid.IntRange(0, most).Draw(t, "machines") {
			r := runnerView{
				name: string(rune('a' + i)), state: rapid.SampledFrom(states).Draw(t, "state"), spec: rapid.SampledFrom([]string{"this", "that"}).Draw(t, "spec"),
				ended: rapid.Bool().Draw(t, "ended"), polls: rapid.Bool().Draw(t, "polls"), silence: some("silence"), idle: some("idle"),
				age: some("age"), since: some("since"), bringing: rapid.Bool().Draw(t, "bringing"),
			}
			if r.state != store.RunnerIdle && (r.state != store.RunnerWarming || rapid.Bool().Draw(t, "of an attempt")) {
				r.attempt = "att"
			}
			p.runners = append(p.runners, r)
			byName[r.name] = r
		}
		left, made := 0, 0
		for _, r := range p.runners {
			if r.state != store.RunnerDraining {
				left++
			}
		}
		drained := map[string]bool{}
		timers := defaultTimers()
		for _, a := range planPool(p, &timers, 5*time.Minute) {
			switch r := byName[a.machine]; a.kind {
			case warmRunner:
				made++
			case bringRunner:
				if r.state != store.RunnerWarming || r.attempt != "" || r.bringing {
					t.Fatalf("a machine is asked for that is %+v", r)
				}
			case drainRunner:
				if r.state == store.RunnerBusy || r.state == store.RunnerDraining || r.state == store.RunnerWarming && r.attempt != "" {
					t.Fatalf("a machine is destroyed that is %+v", r)
				}
				if drained[a.machine] {
					t.Fatalf("a machine is destroyed twice: %+v", r)
				}
				drained[a.machine] = true
				left--
			default:
				t.Fatalf("a pool does %s", a.kind)
			}
		}
		if made > 0 && (p.paused || left+made > most) {
			t.Fatalf("%d machines are made beside %d, of at most %d, paused: %v", made, left, most, p.paused)
		}
		if left < len(p.runners) && made == 0 && left < p.pool.Min && !p.paused {
			t.Fatalf("%d machines are left of at least %d, and none is made", left, p.pool.Min)
		}
	})
}
