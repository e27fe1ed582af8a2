package engine

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/ticket"
)

// clockLoop moves jobs on whose time has come: from scheduled to queued, and from the queue to expired. It sleeps until
// the earliest of them, or until a new one may be earlier, or for a minute, because the wall clock may be set.
func (e *Engine) clockLoop(ctx context.Context) {
	const most = 500 // of each sort
	for ctx.Err() == nil {
		e.armed.Store(math.MaxInt64) // whatever is scheduled from here on may be missed by the read below
		moved, next, err := e.store.Promote(ctx, e.clock.now(), wallClock(), most)
		if err != nil && ctx.Err() == nil {
			e.logger.Warn("scheduled jobs could not be moved on; trying again", "error", err)
			pause(ctx, time.Second)
			continue
		}
		for _, job := range moved {
			if job.State.Terminal() {
				e.open.Add(-1)
			}
			e.moved(job)
		}
		if len(moved) >= most {
			continue
		}
		wait := time.Minute
		if !next.IsZero() {
			wait = min(wait, max(0, next.Sub(e.clock.now())))
		}
		e.armed.Store(e.clock.now().Add(wait).UnixNano())
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-e.wakeClock:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// due wakes the clock if the time is earlier than the one it waits for. Most are not, and moving jobs on is a write.
func (e *Engine) due(at time.Time) {
	if !at.IsZero() && at.UnixNano() < e.armed.Load() {
		e.wakeClock.set()
	}
}

// retentionLoop removes finished jobs when their time is over.
func (e *Engine) retentionLoop(ctx context.Context) {
	if e.options.Retention <= 0 {
		<-ctx.Done()
		return
	}
	for ctx.Err() == nil {
		failed := map[string]bool{}
		for n := -1; n != 0 && ctx.Err() == nil; {
			var err error
			if n, err = e.expend(ctx, failed); err != nil && ctx.Err() == nil {
				e.logger.Warn("old jobs could not be removed; trying again", "error", err)
			}
		}
		pause(ctx, min(time.Minute, e.options.Retention))
	}
}

// expend removes some jobs whose retention is over and returns how many it has tried. Those that it cannot remove are
// added to failed, and are passed over the next time, so that they keep no other.
func (e *Engine) expend(ctx context.Context, failed map[string]bool) (tried int, err error) {
	ids, err := e.store.Expendable(ctx, e.clock.now().Add(-e.options.Retention), 100+len(failed))
	if err != nil {
		return 0, err
	}
	var failures error
	for _, id := range ids {
		if failed[id] {
			continue
		}
		tried++
		job, err := e.store.Job(ctx, id)
		if err == nil {
			err = e.remove(ctx, job)
		}
		if err != nil && fault.Of(err) != fault.NotFound {
			failed[id] = true
			failures = errors.Join(failures, err)
		}
	}
	return tried, failures
}

// The sweep for files of no job is in no hurry.
const (
	orphanSweep = time.Hour            // from the end of one to the next; the first is so long after the start
	orphanPause = 5 * time.Millisecond // from one folder to the next
	maxOrphans  = 1000                 // that are remembered from one sweep to the next
)

// orphanLoop removes files that belong to no job. A job is written down before its files and deleted after them, so
// there is one way to such a file: an upload ended when its job was being deleted, and the server was killed before it
// had removed what it had just put there.
func (e *Engine) orphanLoop(ctx context.Context) {
	var orphans map[string]bool
	for {
		pause(ctx, orphanSweep)
		if ctx.Err() != nil {
			return
		}
		var err error
		if orphans, err = e.sweepOrphans(ctx, orphans); err != nil && ctx.Err() == nil {
			e.logger.Warn("the files could not be searched for those of no job; trying again", "error", err)
		}
	}
}

// sweepOrphans removes the folders of jobs that do not exist, if the sweep before found them too, and returns those that
// it has found now. In between somebody can notice that this is not the store that the files belong to.
func (e *Engine) sweepOrphans(ctx context.Context, before map[string]bool) (found map[string]bool, err error) {
	found = map[string]bool{}
	if owns := e.options.OwnsBlobs; owns != nil {
		if err := owns(ctx); err != nil {
			return found, err
		}
	}
	for _, folder := range ticket.Folders() {
		for job, failed := range e.blobs.Folders(ctx, folder) {
			if failed != nil {
				return found, errors.Join(err, failed)
			}
			pause(ctx, orphanPause)
			// The files are listed before the store is read, so a job that has just been submitted is known.
			if _, known := e.store.Events(ctx, job, 0, 1); fault.Of(known) != fault.NotFound {
				continue
			}
			if prefix := folder + job + "/"; before[prefix] && !e.restored(e.clock.now()) {
				err = errors.Join(err, e.removeOrphans(ctx, prefix)) // one that cannot be removed keeps no other
			} else if len(found) < maxOrphans {
				found[prefix] = true
			}
		}
	}
	return found, err
}

func (e *Engine) removeOrphans(ctx context.Context, prefix string) error {
	n, err := e.removeFiles(ctx, prefix)
	if n > 0 {
		e.logger.Warn("files that belong to no job were removed", "folder", prefix, "files", n)
	}
	return err
}
