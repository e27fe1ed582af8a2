package api

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// measures are what the API counts. Without a registry nothing is counted.
type measures struct {
	requests *prometheus.HistogramVec
	refused  prometheus.Counter
	in, out  prometheus.Counter
}

// newMeasures registers the API's metrics.
func newMeasures(registry *prometheus.Registry, source Engine, a *API) (*measures, error) {
	m := &measures{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dayfly_http_request_seconds", Help: "How long requests took, by route and status. Streams count for as long as they last.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, []string{"route", "status"}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "dayfly_tokens_refused_total", Help: "Requests with a token that is not valid."}),
		in:      prometheus.NewCounter(prometheus.CounterOpts{Name: "dayfly_upload_bytes_total", Help: "Bytes of files received."}),
		out:     prometheus.NewCounter(prometheus.CounterOpts{Name: "dayfly_download_bytes_total", Help: "Bytes of files sent."}),
	}
	if registry == nil {
		return m, nil
	}
	streams := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "dayfly_streams", Help: "Requests that wait for something to happen."},
		func() float64 { return float64(len(a.streams)) })
	for _, c := range []prometheus.Collector{m.requests, m.refused, m.in, m.out, streams, newJobCollector(source), newCostCollector(source), newWarmCollector(source, a.allFleets)} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// request measures one request. Whatever no route matches is one route.
func (m *measures) request(pattern string, status int, took time.Duration) {
	if pattern == "" || pattern == "/" {
		pattern = "none"
	}
	if status == 0 {
		status = 200
	}
	m.requests.WithLabelValues(pattern, strconv.Itoa(status)).Observe(took.Seconds())
}

func (m *measures) refusedToken()    { m.refused.Inc() }
func (m *measures) received(n int64) { m.in.Add(float64(n)) }
func (m *measures) sent(n int64)     { m.out.Add(float64(n)) }

// jobCollector counts the unfinished jobs whenever somebody asks.
type jobCollector struct {
	counts Commands
	jobs   *prometheus.Desc
}

func newJobCollector(counts Commands) *jobCollector {
	return &jobCollector{counts, prometheus.NewDesc("dayfly_jobs", "Unfinished jobs, by provider, queue and state.", []string{"provider", "queue", "state"}, nil)}
}

// Describe implements prometheus.Collector.
func (c *jobCollector) Describe(descs chan<- *prometheus.Desc) { descs <- c.jobs }

// Collect implements prometheus.Collector.
func (c *jobCollector) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	counts, err := c.counts.Counts(ctx)
	if err != nil {
		metrics <- prometheus.NewInvalidMetric(c.jobs, err)
		return
	}
	for _, n := range counts {
		metrics <- prometheus.MustNewConstMetric(c.jobs, prometheus.GaugeValue, float64(n.Jobs), n.Provider, n.Queue, string(n.State))
	}
}
