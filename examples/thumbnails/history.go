package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly"
)

const (
	sampleEvery = 100 * time.Millisecond
	maxSamples  = 20_000 // half an hour and a bit; then every second one is dropped
)

// history remembers what the pool was like. It is safe for concurrent use.
type history struct {
	pool  *dayfly.Pool
	began time.Time
	done  atomic.Int64 // thumbnails made

	mu      sync.Mutex
	samples []sample
}

func newHistory(pool *dayfly.Pool) *history {
	return &history{pool: pool, began: time.Now()}
}

// watch looks at the pool until the context ends.
func (h *history) watch(ctx context.Context) {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		h.look()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// look adds what the pool is like now, and returns it.
func (h *history) look() sample {
	stats := h.pool.Stats()
	now := sample{
		At: time.Since(h.began), Booting: stats.Booting, Up: stats.Up, Busy: stats.Busy,
		Running: stats.InUse, Queued: stats.Queued, Done: int(h.done.Load()),
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.samples) == maxSamples {
		for i := range maxSamples / 2 {
			h.samples[i] = h.samples[2*i]
		}
		h.samples = h.samples[:maxSamples/2]
	}
	h.samples = append(h.samples, now)
	return now
}

// untilNobodyRuns waits until the pool is as small as it began.
func (h *history) untilNobodyRuns(ctx context.Context) error {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		if now := h.look(); now.Up+now.Booting+now.Queued == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("interrupted before all runners had gone")
		case <-ticker.C:
		}
	}
}

// plot draws what has been so far.
func (h *history) plot() []byte {
	h.mu.Lock()
	samples := h.samples[:len(h.samples):len(h.samples)]
	h.mu.Unlock()
	var image bytes.Buffer
	writePlot(&image, samples) //nolint:errcheck // A buffer takes everything.
	return image.Bytes()
}

// save draws into a file, which it closes.
func (h *history) save(file *os.File) error {
	_, err := file.Write(h.plot())
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("the plot was not drawn: %w", err)
	}
	slog.Info("the plot is drawn", "file", file.Name())
	return nil
}
