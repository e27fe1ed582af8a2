package api

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// Accounts is the part that knows what jobs cost.
type Accounts interface {
	// Quote checks a spec as Submit does and says what the job would cost, without making anything.
	Quote(ctx context.Context, spec dayfly.JobSpec) (*dayfly.Quote, error)
	// Costs returns what jobs have cost from one day to another, both included; "" is today.
	Costs(ctx context.Context, from, to string) (*dayfly.Costs, error)
}

func (a *API) addCosts() {
	add(a, route{
		method: http.MethodPost, path: "/v1/quotes", id: "quote-job", body: reflect.TypeFor[dayfly.JobSpec](),
		summary: "Say what a job would cost, without running it",
		text: "Checks the job as submitting it would, with the same errors, and makes nothing. The answer says for each place where it may " +
			"run what a machine costs per hour and the most that the job can cost.",
	}, a.quote)
	add(a, route{
		method: http.MethodGet, path: "/v1/costs", id: "list-costs", summary: "Show what jobs have cost, by day, queue and provider",
		text: "A machine's cost belongs to the days, UTC, in which it came about, by the server's wall clock.",
	}, a.costs)
}

type quoteInput struct {
	caller
}

type quoteOutput struct {
	Body *dayfly.Quote
}

func (a *API) quote(ctx context.Context, in *quoteInput) (*quoteOutput, error) {
	if err := wantJSON(in.r); err != nil {
		return nil, err
	}
	var spec *dayfly.JobSpec
	err := readBody(in.w, in.r, maxSubmit, func(data []byte) (err error) {
		spec, err = a.decoders.spec.Decode(data)
		return err
	})
	if err != nil {
		return nil, err
	}
	quote, err := a.engine.Quote(ctx, *spec)
	if err != nil {
		return nil, err
	}
	return &quoteOutput{quote}, nil
}

type costsInput struct {
	caller
	From string `query:"from" maxLength:"40" doc:"The first day, as 2006-01-02. Default: today."`
	To   string `query:"to" maxLength:"40" doc:"The last day. Default: today."`
}

type costsOutput struct {
	Body *dayfly.Costs
}

func (a *API) costs(ctx context.Context, in *costsInput) (*costsOutput, error) {
	costs, err := a.engine.Costs(ctx, in.From, in.To)
	if err != nil {
		return nil, err
	}
	return &costsOutput{costs}, nil
}

// cost shows what an attempt has cost up to now.
func (v *view) cost(m store.Meter) *dayfly.Cost {
	c := &dayfly.Cost{Currency: dayfly.Currency, Amount: m.Cost(v.now), Unknown: !m.Known(), Estimate: !m.Final()}
	if m.Price != nil {
		c.Hourly, c.PricedOn = m.Price.Rate, m.Price.Date
	}
	return c
}

// costOf shows what all attempts of a job have cost up to now; nil if there are none.
func (v *view) costOf(attempts []*store.Attempt) *dayfly.Cost {
	if len(attempts) == 0 {
		return nil
	}
	sum := v.cost(attempts[len(attempts)-1].Meter())
	for _, a := range attempts[:len(attempts)-1] {
		c := v.cost(a.Meter())
		sum.Amount += c.Amount
		sum.Unknown, sum.Estimate = sum.Unknown || c.Unknown, sum.Estimate || c.Estimate
	}
	return sum
}

// addCostsOf reads what each of a page's jobs has cost.
func (a *API) addCostsOf(ctx context.Context, v *view, jobs []*dayfly.Job) error {
	for _, job := range jobs {
		whole, err := a.engine.Job(ctx, job.ID)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			continue // it has been deleted since the page was read
		}
		job.Cost = v.costOf(whole.AttemptLog)
	}
	return nil
}

// moneySchema describes a machine.Money, which cannot do so itself.
type moneySchema struct{}

// Schema implements huma.SchemaProvider.
func (moneySchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		OneOf:       []*huma.Schema{{Type: "string", Examples: []any{"0.50", "12"}}, {Type: "number", Minimum: new(float64)}},
		Description: `An amount of US dollars with at most six digits behind the point: a string such as "0.50". A number is taken too; answers have strings.`,
	}
}

// rateSchema describes a machine.Rate.
type rateSchema struct{}

// Schema implements huma.SchemaProvider.
func (rateSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: "string", Examples: []any{"0.0030474"}, Description: "US dollars per hour, with at most nine digits behind the point."}
}

// costCollector tells what today's jobs have cost whenever somebody asks.
type costCollector struct {
	accounts       Accounts
	amount, limits *prometheus.Desc
	stopped        *prometheus.Desc
}

func newCostCollector(accounts Accounts) *costCollector {
	return &costCollector{accounts,
		prometheus.NewDesc("dayfly_cost_today_dollars", "What jobs have cost today (UTC), running machines included.", []string{"provider", "queue"}, nil),
		prometheus.NewDesc("dayfly_cost_limit_dollars", "The daily limits, by queue; without a queue that of all.", []string{"queue"}, nil),
		prometheus.NewDesc("dayfly_cost_limit_reached", "1 while a daily limit keeps jobs from being launched.", []string{"queue"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *costCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- c.amount
	descs <- c.limits
	descs <- c.stopped
}

// Collect implements prometheus.Collector.
func (c *costCollector) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	costs, err := c.accounts.Costs(ctx, "", "")
	if err != nil {
		metrics <- prometheus.NewInvalidMetric(c.amount, err)
		return
	}
	dollars := func(m machine.Money) float64 { return float64(m) / float64(machine.Dollar) }
	for _, item := range costs.Items {
		metrics <- prometheus.MustNewConstMetric(c.amount, prometheus.GaugeValue, dollars(item.Amount), item.Provider, item.Queue)
	}
	for _, l := range costs.Limits {
		reached := 0.0
		if l.Stopped {
			reached = 1
		}
		metrics <- prometheus.MustNewConstMetric(c.limits, prometheus.GaugeValue, dollars(l.Daily), l.Queue)
		metrics <- prometheus.MustNewConstMetric(c.stopped, prometheus.GaugeValue, reached, l.Queue)
	}
}
