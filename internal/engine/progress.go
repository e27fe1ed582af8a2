package engine

import (
	"context"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// Of what a job says of itself only the last counts, so that is all that is kept until it is written. Nobody waits for
// that: who reports progress also sends heartbeats, and a store that refuses writes must not make the agents of healthy
// jobs look silent.

// progress takes what a job says of itself.
func (e *Engine) progress(f *flight, p *wire.Progress) {
	said := boundedProgress(p)
	e.mu.Lock()
	if e.flights[f.id] == f {
		e.said[f.id] = said
	}
	e.mu.Unlock()
	e.wakeProgress.set()
}

// boundedProgress returns what may be stored of what a job says of itself.
func boundedProgress(p *wire.Progress) *dayfly.Progress {
	text := p.Text
	if len(text) > wire.MaxProgressText {
		text = text[:wire.MaxProgressText]
	}
	return &dayfly.Progress{Fraction: min(1, max(0, p.Fraction)), Text: strings.ToValidUTF8(text, "�")}
}

// withProgress returns a result with the last that its job said of itself: to its agent, or to this server just before.
func (e *Engine) withProgress(f *flight, r *wire.Result) *wire.Result {
	e.mu.Lock()
	said := e.said[f.id]
	e.mu.Unlock()
	if r.Progress != nil {
		said = boundedProgress(r.Progress)
	}
	if said == nil {
		return r
	}
	whole := *r
	whole.Progress = &wire.Progress{Fraction: said.Fraction, Text: said.Text}
	return &whole
}

// progressLoop writes what jobs have said of themselves, of many jobs together.
func (e *Engine) progressLoop(ctx context.Context) {
	const shortest, longest = 50 * time.Millisecond, 5 * time.Second
	delay := shortest
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-e.wakeProgress:
		}
		pause(ctx, 20*time.Millisecond) // so that what many jobs say is one write
		notes := e.unwritten()
		if len(notes) == 0 {
			continue
		}
		if err := e.store.Note(ctx, notes); err != nil {
			if ctx.Err() == nil {
				e.logger.Warn("the progress of jobs could not be written; trying again", "jobs", len(notes), "error", err)
			}
			pause(ctx, delay)
			delay = min(2*delay, longest)
			e.wakeProgress.set()
			continue
		}
		delay = shortest
		e.written(notes)
		if len(notes) == batchSize {
			e.wakeProgress.set() // there may be more
		}
	}
}

// unwritten returns some of what is to be written. What was said by attempts that have landed was written with their end.
func (e *Engine) unwritten() (notes []*store.Note) {
	now := e.clock.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for attempt, said := range e.said {
		if e.flights[attempt] == nil {
			delete(e.said, attempt)
		} else if len(notes) < batchSize {
			notes = append(notes, &store.Note{Attempt: attempt, Time: now, Progress: said})
		}
	}
	return notes
}

// written forgets what has been written, unless something else has been said since.
func (e *Engine) written(notes []*store.Note) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range notes {
		if e.said[n.Attempt] == n.Progress {
			delete(e.said, n.Attempt)
		}
	}
}
