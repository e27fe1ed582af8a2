package engine

import (
	"slices"
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
		for i := range rapid.IntRange(0, 3*most).Draw(t, "slots") {
			r := runnerView{
				name: string(rune('a' + i)), host: string(rune('a' + rapid.IntRange(0, min(i, most-1)).Draw(t, "machine"))), state: rapid.SampledFrom(states).Draw(t, "state"), spec: rapid.SampledFrom([]string{"this", "that"}).Draw(t, "spec"),
				ended: rapid.Bool().Draw(t, "ended"), polls: rapid.Bool().Draw(t, "polls"), silence: some("silence"), idle: some("idle"),
				age: some("age"), since: some("since"), bringing: rapid.Bool().Draw(t, "bringing"),
			}
			if r.state != store.RunnerIdle && (r.state != store.RunnerWarming || rapid.Bool().Draw(t, "of an attempt")) {
				r.attempt = "att"
			}
			p.runners = append(p.runners, r)
			byName[r.name] = r
		}
		made, drained := 0, map[string]bool{}
		// stay counts the machines of which a slot is left, and those which are not about to go.
		stay := func() (left, useful int) {
			slots, leaving := map[string]int{}, map[string]bool{}
			for _, r := range p.runners {
				if r.state == store.RunnerDraining || drained[r.name] {
					leaving[r.host] = true
				} else {
					slots[r.host]++
				}
			}
			for host := range slots {
				if !leaving[host] {
					useful++
				}
			}
			return len(slots), useful
		}
		timers := defaultTimers()
		for _, a := range planPool(p, &timers, 5*time.Minute) {
			switch r := byName[a.machine]; a.kind {
			case warmRunner:
				made++
			case bringRunner:
				if r.state != store.RunnerWarming || r.attempt != "" || r.bringing || r.name != r.host {
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
			default:
				t.Fatalf("a pool does %s", a.kind)
			}
		}
		left, useful := stay()
		if made > 0 && (p.paused || left+made > most) {
			t.Fatalf("%d machines are made beside %d, of at most %d, paused: %v", made, left, most, p.paused)
		}
		if made == 0 && useful < p.pool.Min && left < most && !p.paused {
			t.Fatalf("%d machines stay of at least %d, and none is made", useful, p.pool.Min)
		}
		for _, r := range p.runners {
			leaves := slices.ContainsFunc(p.runners, func(o runnerView) bool {
				return o.host == r.host && (o.state == store.RunnerDraining || drained[o.name])
			})
			if leaves && r.state == store.RunnerIdle && !drained[r.name] {
				t.Fatalf("a slot waits for a job on a machine that leaves: %+v", r)
			}
		}
	})
}

func TestAMachineThatWaitsAndHasHadAllItsJobsIsGivenUp(t *testing.T) {
	t.Parallel()
	timers := defaultTimers()
	for uses, want := range map[int]int{2: 0, 3: 2, 4: 2} {
		p := &poolState{name: "warm", spec: "this", pool: &Pool{Max: 1, Min: 1, MaxUses: 3, Concurrency: 2, Idle: time.Hour, MaxAge: time.Hour}}
		for _, name := range []string{"a", "a.2"} {
			p.runners = append(p.runners, runnerView{name: name, host: "a", state: store.RunnerIdle, spec: "this", polls: true, uses: uses})
		}
		drained := 0
		for _, a := range planPool(p, &timers, time.Minute) {
			if a.kind == drainRunner {
				drained++
			}
		}
		if drained != want {
			t.Errorf("slots that are given up after %d of 3 jobs: got %d, want %d", uses, drained, want)
		}
	}
}
