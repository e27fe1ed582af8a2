package api_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/api"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

func TestAJobIsShownWithWhatItsAttemptsHaveCost(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 5, 4, 3, 0, 0, 0, time.UTC)
	g := newRig(t, func(o *api.Options) { o.Now = func() time.Time { return start.Add(time.Hour) } })
	price := &machine.Price{Rate: machine.DollarPerHour, Date: "2026-10-09"}
	show := func(change func(all []*store.Attempt)) *dayfly.Job {
		t.Helper()
		id := "job_" + strings.Repeat("a", len(g.engine.order)+1)
		g.engine.addJob(id, dayfly.Running, id+"_1", id+"_2")
		g.engine.change(id, func(j *jobRow) {
			for _, a := range j.AttemptLog {
				a.CreatedAt, a.Price, a.Machine = start, price, &store.Machine{Name: "m-" + a.ID, Lifetime: 10 * time.Hour}
			}
			j.AttemptLog[0].Machine.GoneAt = start.Add(30 * time.Minute)
			change(j.AttemptLog)
		})
		job := decode[dayfly.Job](t, g.do("GET", "/v1/jobs/"+id, ""), 200)
		return &job
	}
	for what, c := range map[string]struct {
		change     func(all []*store.Attempt)
		job, first dayfly.Cost
	}{
		"one over and one at work": {
			func([]*store.Attempt) {},
			dayfly.Cost{Amount: 1_500_000, Currency: "USD", Estimate: true, Hourly: machine.DollarPerHour, PricedOn: "2026-10-09"},
			dayfly.Cost{Amount: 500_000, Currency: "USD", Hourly: machine.DollarPerHour, PricedOn: "2026-10-09"},
		},
		"one that was refused": {
			func(all []*store.Attempt) { all[0].Unbilled = true },
			dayfly.Cost{Amount: 1_000_000, Currency: "USD", Estimate: true, Hourly: machine.DollarPerHour, PricedOn: "2026-10-09"},
			dayfly.Cost{Currency: "USD", Hourly: machine.DollarPerHour, PricedOn: "2026-10-09"},
		},
		"one of which nobody knows": {
			func(all []*store.Attempt) {
				all[0].Price, all[1].Machine.GoneAt = nil, start.Add(45*time.Minute)
			},
			dayfly.Cost{Amount: 750_000, Currency: "USD", Unknown: true, Hourly: machine.DollarPerHour, PricedOn: "2026-10-09"},
			dayfly.Cost{Currency: "USD", Unknown: true},
		},
	} {
		job := show(c.change)
		if job.Cost == nil || *job.Cost != c.job {
			t.Errorf("%s: the job costs %+v, want %+v", what, job.Cost, c.job)
		}
		if first := job.Attempts[0].Cost; first == nil || *first != c.first {
			t.Errorf("%s: the first attempt costs %+v, want %+v", what, first, c.first)
		}
	}
}

func TestAListSaysWhatJobsCostWhenItIsAsked(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.engine.addJob("job_a", dayfly.Succeeded, "att_1")
	g.engine.change("job_a", func(j *jobRow) {
		a := j.AttemptLog[0]
		a.Price = &machine.Price{Rate: machine.DollarPerHour}
		a.Machine = &store.Machine{Name: "m", Lifetime: time.Hour, GoneAt: a.CreatedAt.Add(36 * time.Second)}
	})
	type list struct{ Items []dayfly.Job }
	asked := decode[list](t, g.do("GET", "/v1/jobs?cost=true", ""), 200)
	i := slices.IndexFunc(asked.Items, func(j dayfly.Job) bool { return j.ID == "job_a" })
	if i < 0 || asked.Items[i].Cost == nil || asked.Items[i].Cost.Amount != 10_000 {
		t.Errorf("with cost=true: got %+v, want job_a with a cost of a cent", asked.Items)
	}
	if g.do("GET", "/v1/jobs?cost=perhaps", "").status != 422 {
		t.Error("cost=perhaps was not refused")
	}
}

func TestAQuoteIsMadeOfABodyAsForASubmission(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	const kind = "Content-Type: application/json"
	got := g.do("POST", "/v1/quotes", `{"command": ["true"], "max_cost": "0.50"}`, kind)
	quote := decode[dayfly.Quote](t, got, 200)
	if quote.Spec.MaxCost != 500_000 || len(quote.Offers) != 1 || *quote.Offers[0].Most != 12_345 {
		t.Errorf("got %s, want the engine's quote for a cap of half a dollar", got.body)
	}
	for _, exact := range []string{`"hourly":"0.0030474"`, `"most":"0.012345"`, `"max_cost":"0.50"`} {
		if !strings.Contains(string(got.body), exact) {
			t.Errorf("the quote %s lacks %s", got.body, exact)
		}
	}
	for _, wrong := range []string{`-1`, `"-0.5"`, `"NaN"`, `"0.0000001"`, `1e3`, `"1000000001"`, `true`, `"0,50"`, `"$1"`} {
		p := g.do("POST", "/v1/quotes", `{"command": ["true"], "max_cost": `+wrong+`}`, kind).want(t, "max_cost "+wrong, 422, fault.Invalid)
		if p.Field != "max_cost" {
			t.Errorf("max_cost %s: the problem is about %q, want max_cost", wrong, p.Field)
		}
	}
	g.do("POST", "/v1/quotes", `{"command": ["true"], "max_price": 1}`, kind).want(t, "an unknown field", 422, fault.Invalid)
}

func TestCostsAreShownByDayAndMeasured(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	got := g.do("GET", "/v1/costs?from=2026-05-01&to=2026-05-04", "")
	costs := decode[dayfly.Costs](t, got, 200)
	if len(costs.Items) != 1 || costs.Items[0].Amount != 1_500_000 || costs.Limits[0].Daily != 2_000_020 {
		t.Errorf("got %s, want what the engine says of these days", got.body)
	}
	metrics := string(g.do("GET", "/metrics", "").body)
	for _, want := range []string{
		`dayfly_cost_today_dollars{provider="fly",queue="default"} 1.5`,
		`dayfly_cost_limit_dollars{queue="default"} 2`,
		`dayfly_cost_limit_reached{queue="default"} 1`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}
