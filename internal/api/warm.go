package api

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/fleet"
	"github.com/dayfly-run/dayfly/internal/store"
)

// warmCollector counts what is kept warm whenever somebody asks: the machines of pools and the runners of fleets.
type warmCollector struct {
	pools                      Pools
	fleets                     func() []dayfly.FleetStatus
	machines, runners, waiting *prometheus.Desc
}

func newWarmCollector(pools Pools, fleets func() []dayfly.FleetStatus) *warmCollector {
	return &warmCollector{pools, fleets,
		prometheus.NewDesc("dayfly_pool_machines", "Machines of the pools of jobs, by what they do.", []string{"pool", "provider", "state"}, nil),
		prometheus.NewDesc("dayfly_fleet_runners", "Runners that programs share, by what they do.", []string{"fleet", "provider", "token", "state"}, nil),
		prometheus.NewDesc("dayfly_fleet_waiting", "How many wait for a runner of a fleet.", []string{"fleet", "provider", "token"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *warmCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- c.machines
	descs <- c.runners
	descs <- c.waiting
}

// Collect implements prometheus.Collector. A state in which there is nothing counts 0, so that nobody has to wonder.
func (c *warmCollector) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	gauge := func(desc *prometheus.Desc, n int, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), labels...)
	}
	pools, err := c.pools.Pools(ctx)
	if err != nil {
		metrics <- prometheus.NewInvalidMetric(c.machines, err)
		return
	}
	for _, p := range pools {
		for _, state := range []store.RunnerState{store.RunnerWarming, store.RunnerIdle, store.RunnerBusy, store.RunnerRecycling, store.RunnerDraining} {
			gauge(c.machines, p.Machines[string(state)], p.Name, p.Provider, string(state))
		}
	}
	for _, f := range c.fleets() {
		for _, state := range fleet.States() {
			gauge(c.runners, f.Runners[state], f.Name, f.Provider, f.Token, state)
		}
		gauge(c.waiting, f.Waiting, f.Name, f.Provider, f.Token)
	}
}
