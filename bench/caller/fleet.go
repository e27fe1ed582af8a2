package main

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly"
)

// measureFleet is "caller fleet URL TOKEN COUNT": calls for each of which a pool reserves a warm runner of a server's fleet, by one pool
// and by two that take turns with one runner, beside calls on a warm runner that a pool has and calls for which a runner has to boot.
func measureFleet(args []string) (map[string]float64, error) {
	count, _ := strconv.Atoi(args[2]) // bench has written it
	client, err := dayfly.NewClient(args[0], &dayfly.ClientOptions{Token: args[1]})
	if err != nil {
		return nil, err
	}
	fleet := client.Fleet("bench", "local", &dayfly.FleetOptions{Min: 1, Max: 1})
	var pools []*dayfly.Pool
	for range 2 {
		pool, err := dayfly.NewPool(fleet, &dayfly.PoolOptions{Idle: time.Millisecond, Max: 1, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, err
		}
		defer pool.Close()
		pools = append(pools, pool)
	}
	alone, err := callInTurns(pools[:1], count)
	if err != nil {
		return nil, err
	}
	turns, err := callInTurns(pools, count)
	if err != nil {
		return nil, err
	}
	own, err := newPool(dayfly.PoolOptions{Min: 1, Max: 1}, "")
	if err != nil {
		return nil, err
	}
	defer own.Close()
	var warm []time.Duration
	for range count + 1 {
		began := time.Now()
		if _, err := noop.Call(context.Background(), own, struct{}{}); err != nil {
			return nil, err
		}
		warm = append(warm, time.Since(began))
	}
	fresh, err := newPool(dayfly.PoolOptions{Name: "fresh", Max: 1, Idle: time.Millisecond}, "")
	if err != nil {
		return nil, err
	}
	defer fresh.Close()
	cold, err := callInTurns([]*dayfly.Pool{fresh}, count)
	if err != nil {
		return nil, err
	}
	return map[string]float64{
		"alone": micros(alone, 0.5) / 1e3, "turns": micros(turns, 0.5) / 1e3, "own": micros(warm[1:], 0.5) / 1e3, "cold": micros(cold, 0.5) / 1e3,
	}, nil
}

// callInTurns makes calls with one pool after another, each when the one before has no runner any more.
func callInTurns(pools []*dayfly.Pool, count int) (took []time.Duration, err error) {
	for i := range count + len(pools) {
		pool := pools[i%len(pools)]
		began := time.Now()
		if _, err := noop.Call(context.Background(), pool, struct{}{}); err != nil {
			return nil, err
		}
		if i >= len(pools) { // the first of each finds its way
			took = append(took, time.Since(began))
		}
		if err := until(10*time.Second, func() bool { s := pool.Stats(); return s.Up+s.Stopping == 0 }); err != nil {
			return nil, err
		}
	}
	return took, nil
}
