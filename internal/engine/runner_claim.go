package engine

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// poll is one call of the agent of a machine of a pool, in which it waits for an attempt.
type poll struct {
	wake   signal
	number int64              // later ones have higher numbers
	by     string             // instance and nonce of the agent
	says   *wire.ClaimRequest // what it has asked with
}

// greeting is what a call of the agent of a machine of a pool comes to.
type greeting string

const (
	waits      greeting = "waits"      // there is nothing for it yet
	takes      greeting = "takes"      // the machine has an attempt
	isReady    greeting = "is ready"   // it has booted, or was made ready after an attempt
	isSpoiled  greeting = "is spoiled" // it cannot be made ready for another attempt
	isLost     greeting = "is lost"    // it does not know what it has done
	superseded greeting = "superseded" // a later call of the agent waits
	isAnother  greeting = "is another" // the machine has another agent
	isUnwanted greeting = "unwanted"   // the machine is to go
)

// claimNext is a claim by the agent of a machine of a pool: it waits until there is an attempt for the machine, and takes that.
// See package wire.
func (e *Engine) claimNext(ctx context.Context, c *wire.ClaimRequest) (*wire.Assignment, error) {
	r, err := e.runnerOf(ctx, c.Attempt)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, unwanted()
	}
	call := &poll{wake: newSignal(), number: e.polls.Add(1), by: c.Instance + "/" + c.Nonce, says: c}
	defer e.hangUp(r, call)
	held, cancel := context.WithTimeout(ctx, time.Duration(min(max(0, c.WaitMS), wire.MaxHold))*time.Millisecond)
	defer cancel()
	defer context.AfterFunc(e.lifetime, cancel)()
	for {
		greeting, attempt := e.greet(r, call)
		switch greeting {
		case waits:
			if held.Err() != nil {
				return e.nothingYet(r), nil
			}
			select {
			case <-call.wake:
			case <-held.Done():
			}
		case takes:
			w, err := e.take(ctx, r, call, attempt)
			switch {
			case w != nil:
				return w, nil
			case err != nil && ctx.Err() != nil:
				return e.nothingYet(r), nil // it asks again, and is given the same attempt
			case err != nil:
				return nil, err
			}
		case superseded:
			return e.nothingYet(r), nil
		case isAnother:
			// A second instance, which a provider has made of the name, ends by itself. So does a machine whose agent was
			// started again, because nobody knows what is left on it; then that is seen, as the end of any machine is.
			return nil, fault.Say(fault.AlreadyClaimed, "another agent has this machine; end this one")
		case isUnwanted:
			return nil, unwanted()
		default:
			switch err := e.receive(ctx, r, call, greeting, attempt); {
			case ctx.Err() != nil:
				return e.nothingYet(r), nil
			case err != nil:
				return nil, err
			}
		}
	}
}

// hangUp ends a call.
func (e *Engine) hangUp(r *runner, call *poll) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.poll == call {
		r.poll = nil
	}
	r.heard = e.clock.now()
}

// greet says what a call comes to, by what the machine is. A call that may wait is the one in which the machine does.
func (e *Engine) greet(r *runner, call *poll) (_ greeting, attempt string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r.heard = e.clock.now()
	row := &r.row
	switch {
	case e.runners[r.name] != r, row.State == store.RunnerDraining, row.State == store.RunnerGone:
		return isUnwanted, ""
	case row.By != "" && row.By != call.by:
		return isAnother, ""
	case row.State == store.RunnerWarming && row.Attempt == "":
		return isReady, ""
	case row.State == store.RunnerBusy && call.says.Done == row.Attempt:
		return isLost, row.Attempt // what it reports of that comes before it asks for more
	case row.State == store.RunnerRecycling && call.says.Spoiled != "":
		return isSpoiled, row.Attempt
	case row.State == store.RunnerRecycling && call.says.Done != row.Attempt:
		return isLost, row.Attempt
	case row.State == store.RunnerRecycling:
		return isReady, row.Attempt
	case row.State != store.RunnerIdle && !e.flights[row.Attempt].takenBack():
		return takes, row.Attempt
	case r.poll != nil && r.poll.number > call.number:
		return superseded, ""
	case r.poll != call:
		r.wake() // an earlier call, which the agent does not wait for any more
		r.poll = call
		e.wakeQueue.set()
	}
	return waits, ""
}

// take gives the agent of a machine of a pool its attempt, or nil if it is to look again: the attempt is not the machine's any
// more.
func (e *Engine) take(ctx context.Context, r *runner, call *poll, attempt string) (*wire.Assignment, error) {
	w, err := e.assignmentOf(ctx, r, call, attempt)
	switch fault.Of(err) {
	case "":
		if !e.tellAgent(attempt) {
			return nil, nil
		}
		w.Slots = e.slotsToTell(r)
		return w, nil
	case fault.StaleAttempt, fault.AlreadyClaimed, fault.NotFound:
		// It was canceled in this moment, or the machine was given up: the store knows.
		if err := e.syncRunner(ctx, r.name); err != nil {
			return nil, err
		}
		if e.attemptOfRunner(r) != attempt {
			return nil, nil
		}
	}
	return nil, err
}

// assignmentOf returns what the agent of a machine of a pool is to do. If the machine waited for the attempt, the launch has
// claimed it: what the store would answer to a claim is known then, unless it takes reading.
func (e *Engine) assignmentOf(ctx context.Context, r *runner, call *poll, attempt string) (*wire.Assignment, error) {
	now := e.clock.now()
	e.mu.Lock()
	if f := e.flights[attempt]; f != nil && f.untold && len(f.job.Spec.Inputs) == 0 {
		job, a := f.job, &store.Attempt{ID: f.id, Number: f.number, Fence: f.fence}
		e.mu.Unlock()
		return e.assignment(ctx, f, job, a, now, call.says.Detour)
	}
	e.mu.Unlock()
	job, a, err := e.store.Claim(ctx, &store.Claim{Attempt: attempt, By: call.by, Time: now})
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	pool := r.row.Pool
	if r.row.Attempt == attempt && r.row.State == store.RunnerWarming {
		r.row.State, r.row.By = store.RunnerBusy, call.by
		r.row.Uses++
		r.row.Version++
	}
	e.mu.Unlock()
	e.revived(pool)
	return e.boarded(ctx, job, a, now, call.says.Detour)
}

// tellAgent notes that an agent is told of its attempt, whose command may run from then on, and reports whether it may be told. It
// may not when the attempt ends because it has not been.
func (e *Engine) tellAgent(attempt string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.flights[attempt]
	if f == nil || f.takenBack() {
		return false
	}
	f.untold = false
	f.alive(e.clock.now())
	return true
}

// takenBack reports whether a flight is being ended whose agent has not been told of it. The caller holds mu.
func (f *flight) takenBack() bool { return f != nil && f.untold && f.ending }

// receive does what an agent says of its machine.
func (e *Engine) receive(ctx context.Context, r *runner, call *poll, says greeting, attempt string) (err error) {
	switch says {
	case isReady:
		err = e.readied(ctx, r, attempt, call.by)
	case isSpoiled:
		err = e.drain(ctx, r, "it could not be made ready for another job: "+sentenceIn(call.says.Spoiled))
	case isLost:
		err = e.drain(ctx, r, "its agent has lost count of its jobs")
	}
	if fault.Of(err) == fault.Conflict { // somebody else was first
		return e.syncRunner(ctx, r.name)
	}
	return err
}

// runnerOf returns the machine of a pool whose agent claims by an id, or nil.
func (e *Engine) runnerOf(ctx context.Context, id string) (*runner, error) {
	e.mu.Lock()
	for _, r := range e.runners {
		if r.row.ID == id {
			e.mu.Unlock()
			return r, nil
		}
	}
	e.mu.Unlock()
	row, err := e.store.Runner(ctx, id) // the answer to what has made it may have been lost
	switch {
	case errors.Is(err, fault.NotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return e.noteRunner(row), nil
}

func (e *Engine) attemptOfRunner(r *runner) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return r.row.Attempt
}

// readied lets a machine wait for an attempt: it has booted, or has been made ready after another.
func (e *Engine) readied(ctx context.Context, r *runner, attempt, by string) error {
	now := e.clock.now()
	e.mu.Lock()
	p, row, beside := e.pools[r.row.Pool], r.row, e.share(r)
	e.mu.Unlock()
	if why := retired(p, &row, beside, now); why != "" && attempt != "" {
		return e.drain(ctx, r, why)
	}
	moved, err := e.store.MoveRunner(ctx, &store.RunnerMove{
		Machine: row.Machine, From: []store.RunnerState{store.RunnerWarming, store.RunnerRecycling}, Attempt: attempt, To: store.RunnerIdle,
		Time: now, By: by, MachineID: row.MachineID, Image: row.Image, Location: row.Location,
	})
	if err != nil {
		return err
	}
	e.revived(row.Pool)
	e.noteRunner(moved)
	return nil
}

// nothingYet tells an agent to ask again.
func (e *Engine) nothingYet(r *runner) *wire.Assignment {
	return &wire.Assignment{Wait: true, OrphanAfterMS: e.orphanAfter().Milliseconds(), Slots: e.slotsToTell(r)}
}

// slotsToTell returns what an agent is told of how its machine is divided: nothing when it is not.
func (e *Engine) slotsToTell(r *runner) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !r.row.Divided() {
		return 0
	}
	return r.row.Slots
}

// unwanted refuses the agent of a machine that is not to go on.
func unwanted() error {
	return fault.Say(fault.StaleAttempt, "this machine is not wanted any more; end it")
}

// sentenceIn bounds what an agent says.
func sentenceIn(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 500 {
		text = strings.ToValidUTF8(text[:500], "") + "…"
	}
	return text
}
