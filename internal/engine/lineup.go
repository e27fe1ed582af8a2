package engine

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/internal/store"
)

// lineup is the head of a lane as this server knows it: the first of its ready jobs, in the order in which they are to
// be launched. It is a memory of the store's order and never more than that: a job that has changed since is refused by
// the version it is launched with. Reading the head for each launch was a tenth of the server's work, and a job that
// is alone in its lane is launched without being read at all.
type lineup struct {
	jobs    []*store.Job
	more    bool // the store may have jobs behind these
	heavy   bool // its jobs are too large to be kept for later
	changes int  // how often something was noted about the lane

	behind   *store.Job // the last that was looked at behind the head; nil: none
	searchAt time.Time  // when to look at others
}

// The bounds of what is kept of a lane.
const (
	lineupLength = 64
	lineupWeight = 16 << 10 // of one job, in bytes
)

// How often the jobs behind the head of a lane are looked at: some of them, and all.
const (
	searchEvery = 100 * time.Millisecond
	searchRound = 2 * time.Second
)

// order compares the places of two jobs that wait: higher priority first, then older first.
func order(a, b *store.Job) int {
	return cmp.Or(-cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Seq, b.Seq))
}

// lineupOf returns a lane's lineup, which is new if nothing was known of the lane. The caller holds mu.
func (e *Engine) lineupOf(lane store.Lane) *lineup {
	l := e.lanes[lane]
	if l == nil {
		l = &lineup{}
		e.lanes[lane] = l
		if len(e.named) < maxNamed {
			e.named[lane.Provider] = true
		}
	}
	l.changes++
	return l
}

// stirred notes that a lane may have ready jobs that this server has not seen, anywhere in its order.
func (e *Engine) stirred(lane store.Lane) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.lineupOf(lane)
	l.jobs, l.more = nil, true
}

// joined notes that a job has become ready.
func (e *Engine) joined(job *store.Job) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.lineupOf(laneOf(job))
	n := len(l.jobs)
	switch {
	case n > 0 && order(job, l.jobs[n-1]) < 0: // it is not the last, so what is known is not the head any more
		l.jobs, l.more = nil, true
	case l.more: // it is behind jobs that are not known
	case n >= lineupLength || heavy(job):
		l.more = true
	default:
		l.jobs = append(l.jobs, job)
	}
}

// maxNamed bounds how many ways to name providers are remembered. Lanes of others are found by reading, in [laneScan].
const maxNamed = 1024

// freed notes that a job has given up its place: another that was held back for its key may be ready now, on any provider.
func (e *Engine) freed(job *store.Job) {
	if job.Key == "" || e.options.Queues[job.Queue].KeyConcurrency == 0 {
		return
	}
	e.mu.Lock()
	named := maps.Clone(e.named)
	e.mu.Unlock()
	for provider := range e.providers {
		named[provider] = true
	}
	for provider := range named {
		e.stirred(store.Lane{Provider: provider, Queue: job.Queue})
	}
}

// left notes that jobs are not ready any more, because they were launched or because they were found to have changed.
func (e *Engine) left(lane store.Lane, jobs map[*store.Job]bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.lanes[lane]
	if l == nil {
		return
	}
	l.jobs = slices.DeleteFunc(l.jobs, func(job *store.Job) bool { return jobs[job] })
	if first := slices.IndexFunc(l.jobs, heavy); first >= 0 {
		clear(l.jobs[first:])
		l.jobs, l.more = l.jobs[:first], true
	}
	if len(l.jobs) == 0 && !l.more {
		delete(e.lanes, lane)
	}
}

// head returns the first jobs of a lane, at most limit, from what is known or else from the store.
func (e *Engine) head(ctx context.Context, lane store.Lane, limit int) ([]*store.Job, error) {
	e.mu.Lock()
	l := e.lanes[lane]
	if l == nil {
		e.mu.Unlock()
		return nil, nil
	}
	if len(l.jobs) >= limit || !l.more {
		jobs := slices.Clone(l.jobs[:min(limit, len(l.jobs))])
		e.mu.Unlock()
		return jobs, nil
	}
	changes, read := l.changes, max(limit, lineupLength)
	if l.heavy {
		read = limit
	}
	e.mu.Unlock()
	jobs, err := e.store.Ready(ctx, lane, nil, read)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if l := e.lanes[lane]; l != nil && l.changes == changes {
		l.jobs, l.more, l.heavy = slices.Clone(jobs), len(jobs) == read, slices.ContainsFunc(jobs, heavy)
		if len(jobs) == 0 {
			delete(e.lanes, lane)
		}
	}
	return jobs[:min(limit, len(jobs))], nil
}

// search returns some of the jobs behind the head of a lane, and when to search on: others each time, until all have been
// seen, and then again. Its provider refuses machines, and if it is those that the head wants, a smaller one may be had
// for somebody behind.
func (e *Engine) search(ctx context.Context, lane store.Lane, head []*store.Job, now time.Time) (some []*store.Job, again time.Time, err error) {
	e.mu.Lock()
	l := e.lanes[lane]
	if l == nil { // meanwhile its last job has left it
		e.mu.Unlock()
		return nil, now.Add(searchRound), nil
	}
	after, again := l.behind, l.searchAt
	e.mu.Unlock()
	if now.Before(again) {
		return nil, again, nil
	}
	if last := head[len(head)-1]; after == nil || order(after, last) < 0 {
		after = last
	}
	if some, err = e.store.Ready(ctx, lane, after, launchGroup); err != nil {
		return nil, now.Add(searchRound), err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(some) == launchGroup {
		last := some[len(some)-1]
		l.behind, l.searchAt = &store.Job{Priority: last.Priority, Seq: last.Seq}, now.Add(searchEvery)
	} else {
		l.behind, l.searchAt = nil, now.Add(searchRound) // it may be long until something changes
	}
	return some, l.searchAt, nil
}

func laneOf(job *store.Job) store.Lane { return store.Lane{Provider: job.Provider, Queue: job.Queue} }

// heavy reports whether a job takes much memory.
func heavy(job *store.Job) bool {
	n := len(job.Spec.Payload)
	for _, arg := range job.Spec.Command {
		n += len(arg)
	}
	for name, value := range job.Spec.Env {
		n += len(name) + len(value)
	}
	return n > lineupWeight
}
