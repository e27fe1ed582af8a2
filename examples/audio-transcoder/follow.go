package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/dayfly-run/dayfly/fault"
)

const (
	followedAtOnce = 64               // connections to Dayfly
	followTurn     = 20 * time.Second // how long one run keeps a connection when others may want it
	followPause    = 2 * time.Second  // after a failure
)

// followSoon tells Run that there may be a run to follow.
func (s *service) followSoon() {
	select {
	case s.wake <- struct{}{}:
	default: // it has been told already
	}
}

// Run sees the runs of all started jobs end, also of those that were started before this process was, until ctx ends.
// A worker tells itself that it is done; this is for those that cannot.
func (s *service) Run(ctx context.Context) error {
	followed := map[string]bool{}
	done := make(chan string)
	turns := semaphore.NewWeighted(followedAtOnce)
	look := time.NewTicker(10 * time.Second) // for what did not work at once
	defer look.Stop()
	s.followSoon()
	for {
		select {
		case <-ctx.Done():
			for range followed {
				<-done
			}
			return nil
		case id := <-done:
			delete(followed, id)
			continue
		case <-s.wake:
		case <-look.C:
		}
		if err := s.adopt(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("runs that may have been launched cannot be looked for; trying again", "error", err)
		}
		jobs, err := s.store.running(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.log.Error("the started jobs cannot be read", "error", err)
			}
			continue
		}
		for _, j := range jobs {
			if !followed[j.id] {
				followed[j.id] = true
				go func() {
					s.follow(ctx, turns, j)
					done <- j.id
				}()
			}
		}
	}
}

// adopt writes down the runs whose launch had no answer, or none that this process lived to write down.
func (s *service) adopt(ctx context.Context) error {
	jobs, err := s.store.intended(ctx)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if err := s.adoptOne(ctx, j.id); err != nil {
			return err // the others would fare no better now
		}
	}
	return nil
}

func (s *service) adoptOne(ctx context.Context, id string) error {
	defer s.locks.lock(id)()
	j, err := s.store.job(ctx, id)
	if errors.Is(err, fault.NotFound) || err == nil && (j.token == "" || j.run != "") {
		return nil // removed or launched, while this waited for its turn
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	run, err := s.runs.Find(ctx, id)
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.store.launched(ctx, id, j.token, run)
}

// follow waits until the run of a job has ended and ends the job accordingly.
func (s *service) follow(ctx context.Context, turns *semaphore.Weighted, j *job) {
	for ctx.Err() == nil {
		err := s.followOnce(ctx, turns, j)
		switch {
		case err == nil:
			return
		case ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded):
			continue
		}
		s.log.Warn("a run cannot be followed; trying again", "job", j.id, "run", j.run, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(followPause):
		}
	}
}

func (s *service) followOnce(ctx context.Context, turns *semaphore.Weighted, j *job) error {
	if err := turns.Acquire(ctx, 1); err != nil {
		return err
	}
	defer turns.Release(1)
	wait, cancel := context.WithTimeout(ctx, followTurn)
	defer cancel()
	end, err := s.runs.Wait(wait, j.run)
	switch {
	case errors.Is(err, fault.NotFound):
		end = &outcome{why: "Dayfly does not know its run any more."}
	case err != nil:
		return err
	}
	return s.settle(ctx, j, end)
}

// settle ends a job whose run has ended, if the worker has not said itself that it is done: with its result, when the
// run went well and left one, or else as failed. A job that has ended or is removed stays as it is.
func (s *service) settle(ctx context.Context, j *job, end *outcome) error {
	if !end.good {
		return s.store.fail(ctx, j.id, j.token, end.why)
	}
	stored, err := s.resultStored(ctx, j)
	switch {
	case err != nil:
		return fmt.Errorf("looking for the result: %w", err)
	case stored:
		return s.store.complete(ctx, j.id, j.token)
	default:
		return s.store.fail(ctx, j.id, j.token, "The worker ended without storing a result.")
	}
}
