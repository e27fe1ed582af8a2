package engine_test

import (
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

// tariff is what an hour costs on the clouds of choosing: mem is a hundred times as dear as spare.
func tariff(change func(*engine.Options)) func(*engine.Options) {
	return func(o *engine.Options) {
		o.Prices = map[string]machine.Pricer{
			"mem": fixed{&machine.Price{Rate: 100 * machine.DollarPerHour}}, "spare": fixed{dollarAnHour()}, "last": fixed{nil},
		}
		if change != nil {
			change(o)
		}
	}
}

// capped gives a job a cap of half a dollar: half an hour on spare, and 18 seconds on mem.
func capped(places string) func(*dayfly.JobSpec) {
	return func(s *dayfly.JobSpec) { s.Provider, s.MaxCost = places, halfDollar }
}

func TestAJobRunsWhereItsCapPaysForIt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, _, _ := choosing(t, tariff(nil))
		asked := f.cloud.Fail(memmachine.Create, memmachine.Delay(0))
		began := time.Now()
		job := f.finished(f.submit(capped("last,mem:x,spare")).ID, time.Minute)
		check(t, job, dayfly.Succeeded, "", 1)
		if got := providersOf(job); got != "spare" || asked.Used() != 0 {
			t.Errorf("it was launched on %q and mem was asked %d times, want it on spare and mem never asked", got, asked.Used())
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("it took %v, want it to begin at once", took)
		}
		wantRefusals(t, job, "last unsupported", "mem:x unsupported")
		for _, r := range job.Refusals {
			if r.Reason != dayfly.ReasonCostLimit || !strings.Contains(r.Message, "max_cost of $0.50") {
				t.Errorf("got the refusal %+v, want it to say that it is for the money", r)
			}
		}
		again := f.finished(f.submit(on("mem:x,spare")).ID, time.Minute)
		if got := providersOf(again); got != "mem:x" {
			t.Errorf("one without a cap was launched on %q, want mem:x", got)
		}
	})
}

func TestWhyTellsWhichPlacesAreTooDear(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, spare, _ := choosing(t, tariff(nil))
		full := spare.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted))
		job := f.submit(capped("mem,spare"))
		wait(t.Context(), 5*time.Second)
		answers := func() string {
			why, err := f.engine.Load().Why(t.Context(), job.ID)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Join(why.Answers, "\n")
		}
		const want = "It is not tried on mem: Its max_cost of $0.50 does not pay for one start there: at $100.00 an hour"
		if got := answers(); !strings.Contains(got, want) || !strings.Contains(got, "The provider spare has had no room") {
			t.Errorf("while it waits: got %q, want %q and that spare is full", got, want)
		}
		f.work = workFor(time.Minute)
		full.Stop()
		for f.job(job.ID).State != dayfly.Running {
			wait(t.Context(), time.Second)
		}
		if got, want := answers(), "It is not on mem, which was too dear for it"; !strings.Contains(got, want) {
			t.Errorf("while it runs: got %q, want %q", got, want)
		}
		f.finished(job.ID, 10*time.Minute)
		if got, want := answers(), "It was not tried on mem: Its max_cost"; !strings.Contains(got, want) {
			t.Errorf("when it is over: got %q, want %q", got, want)
		}
	})
}

func TestAfterAnExpensiveAttemptTheNextIsWhereTheRestPaysForIt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, _, _ := choosing(t, tariff(nil))
		// Ten dollars are six minutes on mem. Four and a half of them fail there, and what is left is for spare.
		f.work = obedient(270*time.Second, 1)
		job := f.submit(func(s *dayfly.JobSpec) {
			s.Provider, s.MaxCost, s.Retry.MaxAttempts = "mem,spare", 10*machine.Dollar, 3
		})
		wait(t.Context(), 5*time.Minute)
		f.restart()
		done := f.finished(job.ID, time.Hour)
		check(t, done, dayfly.Failed, dayfly.ReasonExitNonzero, 3)
		if got := providersOf(done); got != "mem spare spare" {
			t.Errorf("it was launched on %q, want mem first and then spare", got)
		}
		wantRefusals(t, done, "mem unsupported")
		if got := costOf(done); got > 10*machine.Dollar || got < 7*machine.Dollar {
			t.Errorf("it has cost %s, want less than its cap and more than the first attempt", got)
		}
		passed := 0
		for _, e := range eventsOf(t, f, job.ID) {
			if e.Type == "queued" && strings.Contains(e.Message, "mem was passed over: Of its max_cost of $10.00 it has spent $7.") {
				passed++
			}
		}
		if passed != 1 {
			t.Errorf("%d events tell that mem was passed over, want one", passed)
		}
		f.settled(time.Minute)
	})
}

func eventsOf(t *testing.T, f *fleet, id string) []*dayfly.Event {
	t.Helper()
	events, err := f.store.Events(t.Context(), id, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func TestOnlyAJobThatNoPlaceIsCheapEnoughForFails(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, _, _ := choosing(t, tariff(nil))
		f.work = obedient(25*time.Minute, 1) // of thirty on spare
		job := f.finished(f.submit(func(s *dayfly.JobSpec) {
			capped("mem,spare")(s)
			s.Retry.MaxAttempts = 5
		}).ID, 3*time.Hour)
		check(t, job, dayfly.Failed, dayfly.ReasonCostLimit, 1)
		for _, want := range []string{"not enough at any of its places", "mem: Its max_cost of $0.50", "spare: Of its max_cost of $0.50 it has spent $0.4"} {
			if !strings.Contains(job.Message, want) {
				t.Errorf("it says %q, want %q in it", job.Message, want)
			}
		}
		wantRefusals(t, job, "mem unsupported", "spare unsupported")
		if n := f.engine.Load().OpenJobs(); n != 0 {
			t.Errorf("%d jobs count as unfinished, want none", n)
		}
		f.settled(time.Minute)

		_, _, err := f.engine.Load().Submit(t.Context(), &engine.Submission{Spec: dayfly.JobSpec{
			Command: []string{"true"}, Provider: "mem,last", MaxCost: halfDollar,
		}})
		if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "max_cost: is enough for none of the places") {
			t.Errorf("a cap that is enough nowhere: got %v, want it refused", err)
		}
	})
}

func TestAPriceThatHasRisenSendsAJobElsewhere(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, _, _ := choosing(t, tariff(nil))
		begin := time.Now().Add(time.Hour)
		job := f.submit(func(s *dayfly.JobSpec) {
			capped("spare,last")(s)
			s.RunAt = &begin
		})
		f.stop()
		f.options.Prices = map[string]machine.Pricer{"spare": fixed{&machine.Price{Rate: 100 * machine.DollarPerHour}}, "last": fixed{dollarAnHour()}}
		f.start()
		done := f.finished(job.ID, 2*time.Hour)
		// What was too dear when the job came is not asked for any more.
		check(t, done, dayfly.Failed, dayfly.ReasonCostLimit, 0)
		wantRefusals(t, done, "last unsupported", "spare unsupported")
		done = f.finished(f.submit(capped("spare,last")).ID, time.Minute)
		check(t, done, dayfly.Succeeded, "", 1)
		if got := providersOf(done); got != "last" {
			t.Errorf("a new job was launched on %q, want last", got)
		}
	})
}

// TestJobsThatAreTooPoorForAFreePlaceDoNotKeepOthersFromIt fills a lane with jobs that wait for spare, which is busy, and
// looks for one behind them that mem would take.
func TestJobsThatAreTooPoorForAFreePlaceDoNotKeepOthersFromIt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, _, _ := choosing(t, tariff(func(o *engine.Options) { o.MaxMachines = map[string]int{"spare": 1, "mem": 2} }))
		f.work = workFor(20 * time.Minute)
		var poor []*store.Job
		for range 150 {
			poor = append(poor, f.submit(capped("mem,spare")))
		}
		wait(t.Context(), time.Second)
		rich := f.submit(on("mem,spare"))
		wait(t.Context(), 10*time.Second)
		if got := f.job(rich.ID); got.State != dayfly.Running || providersOf(got) != "mem" {
			t.Errorf("the job without a cap is %s on %q, want it running on mem", got.State, providersOf(got))
		}
		if running := slices.IndexFunc(poor, func(j *store.Job) bool { return f.job(j.ID).State == dayfly.Running }); running != 0 {
			t.Errorf("of the others the first that runs has place %d, want 0", running)
		}
	})
}

func TestAQuoteTellsWhichPlacesAreTooDear(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, _, _ := choosing(t, tariff(nil))
		quote, err := f.engine.Load().Quote(t.Context(), dayfly.JobSpec{Command: []string{"true"}, Provider: "mem,spare,last", MaxCost: halfDollar})
		if err != nil {
			t.Fatal(err)
		}
		mem, spare, last := quote.Offers[0], quote.Offers[1], quote.Offers[2]
		if !strings.Contains(mem.Refused, "does not pay for one start there") || mem.Machines != 0 || mem.Most != nil || *mem.Hourly != 100*machine.DollarPerHour {
			t.Errorf("where it is too dear: got %+v, want the price, why and no machine", mem)
		}
		if spare.Refused != "" || spare.Machines == 0 || *spare.Most != halfDollar {
			t.Errorf("where the cap is enough: got %+v, want it to be an offer for the cap", spare)
		}
		if !strings.Contains(last.Refused, "Nobody knows") || !last.Unknown || last.Machines != 0 {
			t.Errorf("where nobody knows the price: got %+v, want that said and no machine", last)
		}
	})
}
