package engine

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// The properties below hold for every world, not for the worlds somebody thought of.

func durations(limit time.Duration) *rapid.Generator[time.Duration] {
	return rapid.Custom(func(t *rapid.T) time.Duration {
		return time.Duration(rapid.Int64Range(0, int64(limit)).Draw(t, "duration"))
	})
}

func attempts() *rapid.Generator[attemptView] {
	states := []dayfly.AttemptState{
		dayfly.AttemptCreating, dayfly.AttemptCreateUnknown, dayfly.AttemptBooting, dayfly.AttemptRunning,
		dayfly.AttemptSucceeded, dayfly.AttemptFailed, dayfly.AttemptTimedOut, dayfly.AttemptCanceled,
		dayfly.AttemptLost, dayfly.AttemptNeverStarted,
	}
	return rapid.Custom(func(t *rapid.T) attemptView {
		hour := durations(time.Hour)
		return attemptView{
			id: "att_1", machine: "m-1", provider: "p",
			state:    rapid.SampledFrom(states).Draw(t, "state"),
			cancel:   rapid.Bool().Draw(t, "cancel"),
			overdue:  rapid.Bool().Draw(t, "overdue"),
			age:      hour.Draw(t, "age"),
			boot:     hour.Draw(t, "boot"),
			silence:  hour.Draw(t, "silence"),
			running:  hour.Draw(t, "running"),
			limit:    hour.Draw(t, "limit"),
			grace:    durations(time.Minute).Draw(t, "grace"),
			sight:    rapid.SampledFrom([]machine.State{"", machine.Creating, machine.Running, machine.Exited, machine.Gone}).Draw(t, "sight"),
			doubt:    rapid.Bool().Draw(t, "doubt"),
			absent:   durations(time.Minute).Draw(t, "absent"),
			asking:   rapid.Bool().Draw(t, "asking"),
			order:    rapid.SampledFrom([]wire.Outcome{"", wire.Canceled, wire.TimedOut}).Draw(t, "order"),
			ordered:  hour.Draw(t, "ordered"),
			killed:   rapid.Bool().Draw(t, "killed"),
			gone:     rapid.Bool().Draw(t, "gone"),
			sends:    rapid.IntRange(0, 5).Draw(t, "sends"),
			lookDue:  rapid.Bool().Draw(t, "lookDue"),
			resendOK: rapid.Bool().Draw(t, "resendOK"),
		}
	})
}

func only(actions []action, kind actionKind) []action {
	return slices.DeleteFunc(slices.Clone(actions), func(a action) bool { return a.kind != kind })
}

func TestARunningAttemptEndsOnlyWhenItsMachineIsCertainlyGone(t *testing.T) {
	t.Parallel()
	timers := defaultTimers()
	rapid.Check(t, func(t *rapid.T) {
		a := attempts().Draw(t, "attempt")
		a.state = dayfly.AttemptRunning
		gone := (a.sight == machine.Exited || a.sight == machine.Gone) && !a.doubt || a.absent >= timers.absentFor || a.gone
		ends := only(planAttempt(&a, &timers), endAttempt)
		if got := len(ends) == 1; got != gone {
			t.Fatalf("attempt ended: got %v, want %v for %+v", got, gone, a)
		}
	})
}

func TestSilenceAloneKillsNothingBeforeItsTime(t *testing.T) {
	t.Parallel()
	timers := defaultTimers()
	rapid.Check(t, func(t *rapid.T) {
		a := attempts().Draw(t, "attempt")
		a.state = dayfly.AttemptRunning
		a.order, a.limit, a.silence, a.doubt = "", 0, a.silence%timers.lostAfter, false
		for _, got := range planAttempt(&a, &timers) {
			if got.kind == killMachine || got.kind == askProvider {
				t.Fatalf("got %s after %v of silence, want nothing before %v", got.kind, a.silence, timers.lostAfter)
			}
		}
	})
}

func TestAnAttemptIsNeverEndedTwiceNorTouchedAfterItsEnd(t *testing.T) {
	t.Parallel()
	timers := defaultTimers()
	rapid.Check(t, func(t *rapid.T) {
		a := attempts().Draw(t, "attempt")
		actions := planAttempt(&a, &timers)
		if a.state.Terminal() && len(actions) > 0 {
			t.Fatalf("actions on an attempt in %s: got %v, want none", a.state, actions)
		}
		ends := only(actions, endAttempt)
		if len(ends) > 1 || len(ends) == 1 && len(actions) > 1 {
			t.Fatalf("got %d actions with %d ends, want one end alone", len(actions), len(ends))
		}
		for _, e := range ends {
			if !e.verdict.state.Terminal() || e.verdict.message == "" {
				t.Fatalf("verdict %+v: want a terminal state and a sentence", e.verdict)
			}
			if a.state != dayfly.AttemptRunning && e.verdict.started {
				t.Fatalf("an attempt that was never claimed counts as started: %+v", e.verdict)
			}
		}
	})
}

// What may be killed now may be killed at any later time: a killer that is slow or repeats itself does no harm.
func TestWhatMayBeKilledMayBeKilledForEverAfter(t *testing.T) {
	t.Parallel()
	timers := defaultTimers()
	rapid.Check(t, func(t *rapid.T) {
		a := attempts().Draw(t, "attempt")
		a.state = dayfly.AttemptRunning
		a.doubt = false
		later := a
		more := durations(time.Hour).Draw(t, "more")
		later.age, later.silence, later.running, later.ordered = a.age+more, a.silence+more, a.running+more, a.ordered+more
		acts := func(v attemptView) bool {
			actions := planAttempt(&v, &timers)
			return len(only(actions, killMachine))+len(only(actions, endAttempt)) > 0
		}
		if acts(a) && !acts(later) {
			t.Fatalf("killed or ended now and left alone %v later: %+v", more, a)
		}
	})
}

func TestACancelIsAlwaysActedUpon(t *testing.T) {
	t.Parallel()
	timers := defaultTimers()
	rapid.Check(t, func(t *rapid.T) {
		a := attempts().Filter(func(a attemptView) bool { return !a.state.Terminal() }).Draw(t, "attempt")
		a.cancel, a.order, a.killed, a.doubt = true, "", false, false
		actions := planAttempt(&a, &timers)
		for _, got := range actions {
			if got.kind == orderStop && got.order == wire.Canceled || got.kind == killMachine ||
				got.kind == endAttempt && got.verdict.state == dayfly.AttemptCanceled {
				return
			}
		}
		t.Fatalf("got %v, want an order to stop, a kill or the end for %+v", actions, a)
	})
}

func jobs() *rapid.Generator[*store.Job] {
	return rapid.Custom(func(t *rapid.T) *store.Job {
		seq := rapid.Int64Range(1, 1_000_000).Draw(t, "seq")
		return &store.Job{
			Seq: seq, ID: fmt.Sprintf("job_%d", seq), State: dayfly.Queued,
			Priority: rapid.IntRange(-3, 3).Draw(t, "priority"),
			Key:      rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "key"),
			Refusals: rapid.SampledFrom([][]dayfly.Refusal{nil, nil, nil, {{Provider: "a", Kind: fault.Invalid}},
				{{Provider: "a", Kind: fault.Exhausted}}, {{Provider: "b", Region: "x", Kind: fault.Unsupported}}}).Draw(t, "refusals"),
		}
	})
}

func TestLaunchesRespectEveryLimitAndTheOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := world{now: time.Unix(1000, 0), timers: defaultTimers(), room: map[string]int{
			"a": rapid.IntRange(-1, 10).Draw(t, "room a"), "b": rapid.IntRange(-1, 10).Draw(t, "room b"),
		}}
		queueRoom, keyRoom := map[string]int{}, map[string]map[string]int{}
		for _, q := range []string{"q1", "q2", "q3"} {
			heads := rapid.SliceOfN(jobs(), 0, 20).Draw(t, q)
			queueRoom[q] = rapid.SampledFrom([]int{0, 1, 5, math.MaxInt}).Draw(t, q+" room")
			lane := laneView{heads: heads, queueRoom: queueRoom[q]}
			if rapid.Bool().Draw(t, q+" limits keys") {
				keyRoom[q] = map[string]int{"x": rapid.IntRange(0, 3).Draw(t, "x"), "y": rapid.IntRange(0, 3).Draw(t, "y")}
				lane.keyRoom = map[string]int{"x": keyRoom[q]["x"], "y": keyRoom[q]["y"], "": math.MaxInt}
			}
			named := rapid.SampledFrom([]string{"a", "b", "a,b", "b:x,a", "b:x,b:y"}).Draw(t, q+" names")
			for _, j := range heads {
				j.Queue, j.Provider = q, named
			}
			w.lanes = append(w.lanes, lane)
		}
		room := map[string]int{"a": w.room["a"], "b": w.room["b"]}

		actions := plan(&w)
		for _, held := range only(actions, holdJob) {
			if w.room[held.choice.provider] <= 0 { // the launch would not be tried, and be planned again for ever
				t.Fatalf("%s is to be held on %s, which has no room", held.job.ID, held.choice)
			}
		}
		launched := only(actions, launchJob)
		for i, l := range launched {
			if i > 0 && (l.job.Priority > launched[i-1].job.Priority ||
				l.job.Priority == launched[i-1].job.Priority && l.job.Seq < launched[i-1].job.Seq) {
				t.Fatalf("%s (priority %d) is launched after %s (priority %d)", l.job.ID, l.job.Priority, launched[i-1].job.ID, launched[i-1].job.Priority)
			}
			checkChoice(t, &l, room)
			queueRoom[l.job.Queue]--
			if limits := keyRoom[l.job.Queue]; limits != nil && l.job.Key != "" {
				if limits[l.job.Key]--; limits[l.job.Key] < 0 {
					t.Fatalf("key %s of %s is over its limit", l.job.Key, l.job.Queue)
				}
			}
			if queueRoom[l.job.Queue] < 0 {
				t.Fatalf("launching %s leaves room %d in %s; want none below 0", l.job.ID, queueRoom[l.job.Queue], l.job.Queue)
			}
		}
		// Nothing that could run is left waiting.
		ran := map[*store.Job]bool{}
		for _, l := range launched {
			ran[l.job] = true
		}
		for _, lane := range w.lanes {
			for _, j := range lane.heads {
				limits := keyRoom[j.Queue]
				nowhere := !slices.ContainsFunc(choicesOf(j.Provider), func(c choice) bool { return room[c.provider] > 0 && !refusedForGood(j.Refusals, c) })
				full := nowhere || queueRoom[j.Queue] <= 0 || limits != nil && j.Key != "" && limits[j.Key] <= 0
				if !ran[j] && !full {
					t.Fatalf("%s waits although there is room everywhere", j.ID)
				}
			}
		}
	})
}

// checkChoice fails unless a job is launched on the first of its choices that has room and has not refused it for good,
// and takes the room.
func checkChoice(t *rapid.T, l *action, room map[string]int) {
	for _, c := range choicesOf(l.job.Provider) {
		if refusedForGood(l.job.Refusals, c) || room[c.provider] <= 0 && c != l.choice {
			continue
		}
		if c != l.choice || room[c.provider] <= 0 {
			t.Fatalf("%s is launched on %s with room %v, want %s", l.job.ID, l.choice, room, c)
		}
		room[c.provider]--
		return
	}
	t.Fatalf("%s is launched on %s, which is none of its choices %s", l.job.ID, l.choice, l.job.Provider)
}

func listings() *rapid.Generator[*listingView] {
	return rapid.Custom(func(t *rapid.T) *listingView {
		l := &listingView{provider: "p", older: rapid.Bool().Draw(t, "older"), agreed: rapid.IntRange(0, 4).Draw(t, "agreed")}
		for i := range rapid.IntRange(0, 40).Draw(t, "machines") {
			m := listedMachine{
				machine: &machine.Machine{Name: fmt.Sprintf("m-%d", i)},
				age:     durations(2*time.Minute).Draw(t, "age"),
				live:    rapid.Bool().Draw(t, "live"),
			}
			m.known = m.live || rapid.Bool().Draw(t, "known")
			if rapid.Bool().Draw(t, "row") {
				m.row = &store.Machine{State: rapid.SampledFrom([]store.MachineState{
					store.MachineCreating, store.MachinePresent, store.MachineDeleting, store.MachineGone, store.MachineQuarantined}).Draw(t, "state")}
			}
			l.machines = append(l.machines, m)
		}
		return l
	})
}

func TestTheSweepRemovesOnlyStraysThatHaveBeenWatched(t *testing.T) {
	t.Parallel()
	timers := defaultTimers()
	rapid.Check(t, func(t *rapid.T) {
		l := listings().Draw(t, "listing")
		byName := map[string]listedMachine{}
		for _, m := range l.machines {
			byName[m.machine.Name] = m
		}
		removed := only(planListing(l, &timers), removeStray)
		for _, a := range removed {
			m := byName[a.machine]
			switch {
			case m.live:
				t.Fatalf("%s is removed although its attempt is in flight", a.machine)
			case m.age < timers.strangerAge:
				t.Fatalf("%s is removed after %v, want at least %v", a.machine, m.age, timers.strangerAge)
			case l.older && !m.known:
				t.Fatalf("%s is removed although the store may be a backup that does not know it", a.machine)
			}
		}
		if len(removed) > max(5, len(l.machines)/5) && l.agreed < agreeingSweeps {
			t.Fatalf("%d of %d machines are removed at once without agreement", len(removed), len(l.machines))
		}
	})
}

func TestPlanIsPure(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := world{timers: defaultTimers(), attempts: rapid.SliceOfN(attempts(), 0, 5).Draw(t, "attempts"), listing: listings().Draw(t, "listing")}
		if first, second := plan(&w), plan(&w); !reflect.DeepEqual(first, second) {
			t.Fatalf("the same world yields %v and then %v", first, second)
		}
	})
}

func TestNextNeverExceedsTheJobsLimits(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	rapid.Check(t, func(t *rapid.T) {
		job := &store.Job{
			Starts: rapid.IntRange(0, 5).Draw(t, "starts"), Launches: rapid.IntRange(0, 5).Draw(t, "launches"), Losses: rapid.IntRange(0, 2).Draw(t, "losses"),
			Spec: dayfly.JobSpec{Retry: dayfly.Retry{
				MaxAttempts: rapid.IntRange(1, 5).Draw(t, "max_attempts"), MaxLaunches: rapid.IntRange(1, 5).Draw(t, "max_launches"),
				BackoffMin: dayfly.Duration(time.Second), BackoffMax: dayfly.Duration(time.Minute), NonRetryableExits: []int{3},
			}},
		}
		if rapid.Bool().Draw(t, "canceled") {
			job.CancelRequestedAt = now
		}
		if rapid.Bool().Draw(t, "overdue") {
			job.TotalDeadline = now.Add(-time.Second)
		}
		v := verdict{
			state: rapid.SampledFrom([]dayfly.AttemptState{dayfly.AttemptSucceeded, dayfly.AttemptFailed, dayfly.AttemptTimedOut,
				dayfly.AttemptCanceled, dayfly.AttemptLost, dayfly.AttemptNeverStarted}).Draw(t, "state"),
			started: rapid.Bool().Draw(t, "started"), patient: rapid.Bool().Draw(t, "patient"), final: rapid.Bool().Draw(t, "final"),
			exit: &machine.Exit{Code: rapid.IntRange(0, 4).Draw(t, "code")},
			wait: durations(time.Minute).Draw(t, "wait"),
		}
		v.started = v.started || v.state == dayfly.AttemptSucceeded
		n := next(job, v, now, rapid.Float64Range(0, 0.999).Draw(t, "luck"))

		again := n.State == dayfly.Scheduled
		switch {
		case again && (!job.CancelRequestedAt.IsZero() || v.state == dayfly.AttemptSucceeded || v.final || !job.TotalDeadline.IsZero()):
			t.Fatalf("a job that must end goes on: %+v after %+v", n, v)
		case again && v.started && n.Starts >= job.Spec.Retry.MaxAttempts:
			t.Fatalf("started %d times of at most %d, and goes on", n.Starts, job.Spec.Retry.MaxAttempts)
		case again && !v.started && n.Launches >= job.Spec.Retry.MaxLaunches:
			t.Fatalf("launched %d times of at most %d, and goes on", n.Launches, job.Spec.Retry.MaxLaunches)
		case again && v.exit.Code == 3:
			t.Fatalf("exit status 3 is not to be retried, and is")
		case again && (n.RunAt.Before(now.Add(v.wait)) || n.RunAt.After(now.Add(max(v.wait, time.Minute)))):
			t.Fatalf("the next attempt is at %v, want between %v and %v from now", n.RunAt.Sub(now), v.wait, max(v.wait, time.Minute))
		case !again && !n.State.Terminal():
			t.Fatalf("the job is %s; want scheduled or terminal", n.State)
		case n.State == dayfly.Succeeded && v.state != dayfly.AttemptSucceeded:
			t.Fatalf("the job succeeded after an attempt that was %s", v.state)
		case n.Starts < job.Starts || n.Starts > job.Starts+1:
			t.Fatalf("starts go from %d to %d", job.Starts, n.Starts)
		}
	})
}
