package engine_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// choosing starts an engine with two more clouds, spare and last, beside mem.
func choosing(t *testing.T, change func(*engine.Options)) (f *fleet, spare, last *memmachine.Cloud) {
	t.Helper()
	f = newFleet(t, func(o *engine.Options) {
		for _, name := range []string{"spare", "last"} {
			p := memmachine.New(&memmachine.Options{Guest: func(ctx context.Context, spec *machine.Spec) machine.Exit { return f.agent(ctx, spec) }})
			o.Providers[name] = p
			if name == "spare" {
				spare = p.Cloud()
			} else {
				last = p.Cloud()
			}
		}
		if change != nil {
			change(o)
		}
	})
	t.Cleanup(func() { spare.Close(); last.Close() })
	return f, spare, last
}

// on names where a job may run.
func on(places string) func(*dayfly.JobSpec) {
	return func(s *dayfly.JobSpec) { s.Provider = places }
}

// wantRefusals fails unless the job was refused by these places for these reasons, in alphabetical order.
func wantRefusals(t *testing.T, job *store.Job, want ...string) {
	t.Helper()
	var got []string
	for _, r := range job.Refusals {
		got = append(got, strings.TrimSuffix(r.Provider+":"+r.Region, ":")+" "+string(r.Kind))
		if r.Message == "" || r.At.IsZero() {
			t.Errorf("the refusal %+v says nothing, or not when", r)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("refusals: got %v, want %v", got, want)
	}
}

// providersOf returns where the attempts of a job were launched.
func providersOf(job *store.Job) string {
	var list []string
	for _, a := range job.AttemptLog {
		list = append(list, strings.TrimSuffix(a.Provider+":"+a.Machine.Region, ":"))
	}
	return strings.Join(list, " ")
}

func TestAJobGoesOnToTheNextOfItsChoicesAtOnce(t *testing.T) {
	t.Parallel()
	for _, kind := range []fault.Kind{fault.Exhausted, fault.Denied, fault.Unsupported, fault.Invalid} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				f, spare, _ := choosing(t, nil)
				f.cloud.Fail(memmachine.Create, memmachine.Refuse(kind))
				spare.Fail(memmachine.Create, memmachine.Refuse(kind)).When(func(c *memmachine.Call) bool { return c.Spec.Region == "ams" })
				began := time.Now()
				job := f.finished(f.submit(on("mem, spare:ams,spare:fra,last")).ID, time.Minute)
				check(t, job, dayfly.Succeeded, "", 3)
				if took := time.Since(began); took > 500*time.Millisecond {
					t.Errorf("it took %v, want it to go on at once", took)
				}
				if got, want := providersOf(job), "mem spare:ams spare:fra"; kind != fault.Denied && got != want {
					t.Errorf("it was launched on %q, want %q", got, want)
				}
				if job.Provider != "mem,spare:ams,spare:fra,last" {
					t.Errorf("its providers are kept as %q", job.Provider)
				}
				refusals := []string{"mem " + string(kind), "spare:ams " + string(kind)}
				if kind == fault.Denied { // which is no matter of the region
					refusals = append(refusals, "spare:fra denied")
				}
				wantRefusals(t, job, refusals...)
				if job.Launches != 0 || job.Starts != 1 {
					t.Errorf("got %d launches and %d starts, want none and 1: a refusal counts as neither", job.Launches, job.Starts)
				}
				events, err := f.store.Events(t.Context(), job.ID, 0, 100)
				if err != nil {
					t.Fatal(err)
				}
				ended := 0
				for _, e := range events {
					if e.Type == "attempt_ended" && strings.Contains(e.Message, "refused by a rule") {
						ended++
					}
				}
				if ended != 2 {
					t.Errorf("%d events tell of a refusal, want 2", ended)
				}
				f.settled(time.Minute)
			})
		})
	}
}

func TestCredentialsAreRefusedForEveryRegion(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, spare, _ := choosing(t, nil)
		asked := spare.Fail(memmachine.Create, memmachine.Refuse(fault.Denied))
		job := f.finished(f.submit(on("spare:ams,spare:fra,mem")).ID, time.Minute)
		check(t, job, dayfly.Succeeded, "", 2)
		wantRefusals(t, job, "spare:ams denied", "spare:fra denied")
		if n := asked.Used(); n != 1 {
			t.Errorf("a provider that refuses the credentials was asked %d times, want once", n)
		}
	})
}

func TestAJobThatEveryChoiceRefusesForGoodFails(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, spare, _ := choosing(t, nil)
		f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Unsupported))
		spare.Fail(memmachine.Create, memmachine.Refuse(fault.Invalid))
		job := f.finished(f.submit(on("mem,spare")).ID, time.Minute)
		check(t, job, dayfly.Failed, dayfly.ReasonRefused, 2)
		for _, want := range []string{"mem: ", "spare: "} {
			if !strings.Contains(job.Message, want) {
				t.Errorf("its message is %q, want it to tell what %s said", job.Message, want)
			}
		}
	})
}

func TestAChoiceThatRefusedForGoodIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, _, _ := choosing(t, nil)
		never := f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Unsupported))
		f.work = fail(1)
		job := f.finished(f.submit(func(s *dayfly.JobSpec) {
			s.Provider, s.Retry.MaxAttempts = "mem,spare", 3
		}).ID, time.Hour)
		check(t, job, dayfly.Failed, dayfly.ReasonExitNonzero, 4)
		if n := never.Used(); n != 1 {
			t.Errorf("it was asked %d times, want once", n)
		}
	})
}

func TestARetryBeginsWithTheFirstChoice(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, _, _ := choosing(t, nil)
		full := f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted))
		f.work = fail(1)
		job := f.submit(func(s *dayfly.JobSpec) {
			s.Provider, s.Retry.MaxAttempts, s.Retry.BackoffMin = "mem,spare", 2, dayfly.Duration(time.Hour)
		})
		wait(t.Context(), 30*time.Millisecond)
		full.Stop()
		check(t, f.finished(job.ID, 2*time.Hour), dayfly.Failed, dayfly.ReasonExitNonzero, 3)
		if got, want := providersOf(f.job(job.ID)), "mem spare mem"; got != want {
			t.Errorf("it was launched on %q, want %q", got, want)
		}
	})
}

func TestWhenEveryChoiceIsFullTheJobWaitsAndBeginsAgainAtTheFirst(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, spare, _ := choosing(t, nil)
		full := f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted))
		alsoFull := spare.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted))
		job := f.submit(on("mem,spare"))
		wait(t.Context(), 10*time.Minute)
		if n := full.Used(); n < 10 || n > 40 {
			t.Errorf("the first was asked %d times in ten minutes, want now and then", n)
		}
		if n := alsoFull.Used(); n < 10 || n > 40 {
			t.Errorf("the second was asked %d times in ten minutes, want now and then", n)
		}
		why, err := f.engine.Load().Why(t.Context(), job.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"The provider mem has had no room", "The provider spare has had no room"} {
			if !strings.Contains(strings.Join(why.Answers, " "), want) {
				t.Errorf("why says %q, want %q in it", why.Answers, want)
			}
		}
		full.Stop()
		done := f.finished(job.ID, 2*time.Minute)
		if done.State != dayfly.Succeeded || done.AttemptLog[len(done.AttemptLog)-1].Provider != "mem" {
			t.Errorf("it is %s on %s, want it succeeded on mem", done.State, providersOf(done))
		}
		wantRefusals(t, done, "mem exhausted", "spare exhausted")
	})
}

func TestAJobWhoseFirstChoiceHasAsManyMachinesAsItMayIsLaunchedOnTheNext(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, _, _ := choosing(t, func(o *engine.Options) { o.MaxMachines = map[string]int{"mem": 2, "spare": 3} })
		f.work = workFor(time.Minute)
		var ids []string
		for range 6 {
			ids = append(ids, f.submit(on("mem,spare")).ID)
			wait(t.Context(), 100*time.Millisecond)
		}
		for i, id := range ids {
			want := []string{"mem", "mem", "spare", "spare", "spare", ""}[i]
			job := f.job(id)
			if got := providersOf(job); got != want {
				t.Errorf("job %d was launched on %q, want %q", i, got, want)
			}
			if want != "spare" {
				continue
			}
			wantRefusals(t, job, "mem exhausted")
			events, err := f.store.Events(t.Context(), id, 0, 100)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(events, func(e *dayfly.Event) bool {
				return e.Type == "starting" && strings.Contains(e.Message, "mem was passed over: It has as many machines as it may have.")
			}) {
				t.Errorf("no event of job %d says that mem was passed over", i)
			}
		}
		why, err := f.engine.Load().Why(t.Context(), ids[5])
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"The provider mem has as many machines as it may have: 2 of 2.", "The provider spare has as many machines as it may have: 3 of 3."} {
			if !slices.Contains(why.Answers, want) {
				t.Errorf("why says %q, want %q in it", why.Answers, want)
			}
		}
		for _, id := range ids {
			if job := f.finished(id, time.Hour); job.State != dayfly.Succeeded {
				t.Errorf("a job is %s, want it succeeded", job.State)
			}
		}
	})
}

func TestAnAmbiguousCreateGoesOnNowhereElseBeforeItIsKnownThatThereIsNoMachine(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault memmachine.Fault
		after int    // how many calls get past the refusals that follow
		on    string // where the job ends up
	}{
		"it was made":                          {memmachine.ExecuteThenTimeout, 1, "mem"},
		"it was not made, and is refused then": {memmachine.Refuse(fault.Unavailable), 0, "mem spare"},
		"it is made late, and refused before":  {memmachine.LandLate(15 * time.Second), 0, "mem"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				f, spare, _ := choosing(t, nil)
				f.cloud.Fail(memmachine.Create, c.fault).Times(1)
				f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted)).After(c.after)
				asked := spare.Fail(memmachine.Create, memmachine.Delay(0))
				began := time.Now()
				job := f.submit(on("mem,spare"))
				wait(t.Context(), 9*time.Second)
				if n := asked.Used(); n != 0 {
					t.Errorf("the second was asked %d times before it was known what became of the first", n)
				}
				done := f.finished(job.ID, 10*time.Minute)
				if done.State != dayfly.Succeeded || providersOf(done) != c.on {
					t.Errorf("it is %s on %q after %v, want it succeeded on %q", done.State, providersOf(done), time.Since(began), c.on)
				}
				if total, most := f.startsOf(); total != 1 || most != 1 {
					t.Errorf("user code was started %d times, want once", total)
				}
				f.settled(10 * time.Minute)
			})
		})
	}
}

func TestWhereAJobRunsIsCheckedWhenItIsSubmitted(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, _, _ := choosing(t, nil)
		for places, want := range map[string]string{
			"nowhere":                       `there is no provider "nowhere"; the providers are last, mem, spare`,
			"mem,,spare":                    `there is no provider ""`,
			"mem,mem":                       "mem is named twice",
			"mem:a b":                       `"a b" is not a region of mem`,
			"mem:":                          `is not a region of mem`,
			"mem:a:b":                       `"a:b" is not a region of mem`,
			strings.Repeat("mem,", 9) + "x": "names 10 places; at most 8 are allowed",
		} {
			_, _, err := f.engine.Load().Submit(t.Context(), &engine.Submission{Spec: dayfly.JobSpec{Command: []string{"true"}, Provider: places}})
			if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "provider") {
				t.Errorf("provider %q: got %v, want an invalid field provider that %s", places, err, want)
			}
		}
	})
}

func TestAQueueSaysWhereItsJobsRun(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, _, _ := choosing(t, func(o *engine.Options) {
			o.Queues = map[string]engine.QueueLimits{"far": {Provider: "spare:fra,last"}}
		})
		job := f.finished(f.submit(func(s *dayfly.JobSpec) { s.Queue = "far" }).ID, time.Minute)
		if got := providersOf(job); got != "spare:fra" {
			t.Errorf("it was launched on %q, want spare:fra", got)
		}
		job = f.finished(f.submit(func(s *dayfly.JobSpec) { s.Queue, s.Provider = "far", "mem" }).ID, time.Minute)
		if got := providersOf(job); got != "mem" {
			t.Errorf("one that says it itself was launched on %q, want mem", got)
		}
		o := f.options
		o.Queues = map[string]engine.QueueLimits{"far": {Provider: "nowhere"}}
		if _, err := engine.New(o); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "queues.far.provider") {
			t.Errorf("an engine with a queue on no provider: got %v, want it invalid", err)
		}
	})
}

func TestAJobInTheMiddleOfItsChoicesGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, spare, _ := choosing(t, nil)
		never := f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Unsupported))
		spare.Fail(memmachine.Create, memmachine.Delay(20*time.Second)).Times(1)
		job := f.submit(on("mem,spare:fra"))
		wait(t.Context(), 5*time.Second)
		f.restart()
		done := f.finished(job.ID, 10*time.Minute)
		if done.State != dayfly.Succeeded || providersOf(done) != "mem spare:fra" || never.Used() != 1 {
			t.Errorf("it is %s on %q, and mem was asked %d times; want it succeeded on \"mem spare:fra\" and mem asked once",
				done.State, providersOf(done), never.Used())
		}
		wantRefusals(t, done, "mem unsupported")
		for _, m := range spare.Machines() {
			if m.Name != done.AttemptLog[1].Machine.Name {
				t.Errorf("there is a machine %s that no attempt has", m.Name)
			}
		}
	})
}

func TestAHeldJobWithSeveralChoicesGoesOnWhenItsKeyHasRoom(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, _, _ := choosing(t, func(o *engine.Options) {
			o.Queues = map[string]engine.QueueLimits{"narrow": {KeyConcurrency: 1}}
		})
		f.work = workFor(time.Second)
		var ids []string
		for i := range 6 {
			ids = append(ids, f.submit(func(s *dayfly.JobSpec) {
				s.Queue, s.ConcurrencyKey, s.Provider = "narrow", "k", []string{"mem,spare", "spare,mem", "mem"}[i%3]
			}).ID)
		}
		began := time.Now()
		for _, id := range ids {
			f.finished(id, time.Minute)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("six jobs of a second, one after the other, took %v; want no pause between them", took)
		}
	})
}
