package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/ticket"
)

// Submission is a job as a client asks for it.
type Submission struct {
	Spec        dayfly.JobSpec
	Key         string // the Idempotency-Key, or ""
	BodyHash    []byte // SHA-256 of the request's body, when Key is set
	RetriedFrom string // the job it repeats, or ""
}

// Submit checks the spec, fills in its defaults and adds the job. It returns when the job is durable. replayed is set
// when the Idempotency-Key was used before with the same body: the job is the one it made then.
// fault.Invalid (a fault.FieldError naming the field), fault.IdempotencyMismatch, or fault.Exhausted when there are too
// many jobs.
func (e *Engine) Submit(ctx context.Context, s *Submission) (job *store.Job, replayed bool, err error) {
	if err := e.await(ctx); err != nil {
		return nil, false, err
	}
	now, wall := e.clock.now(), wallClock()
	spec := s.Spec
	refusal := e.normalize(&spec, wall)
	if refusal == nil {
		refusal = e.admit()
	}
	if refusal != nil {
		return e.replay(ctx, s, refusal)
	}
	job = &store.Job{
		ID: newID("job_"), Spec: spec, State: dayfly.Created,
		Provider: spec.Provider, Queue: spec.Queue, Key: spec.ConcurrencyKey, Priority: spec.Priority,
		CreatedAt: now, RetriedFrom: s.RetriedFrom,
	}
	if dear := e.tooDear(&spec, now); len(dear) < len(choicesOf(spec.Provider)) { // else prices have risen since it was checked
		job.Refusals = dear
	}
	sub := &store.Submission{Job: job, Key: s.Key, BodyHash: s.BodyHash}
	for _, in := range spec.Inputs {
		sub.Inputs = append(sub.Inputs, store.Input{Name: in.Name, ContentType: in.ContentType})
	}
	// With inputs the job waits for them. "start": true then means: as soon as the last one is here.
	if len(spec.Inputs) == 0 && (spec.Start == nil || *spec.Start) {
		start := startOf(job, now, wall)
		job.State, job.StartedAt, job.RunAt, job.QueuedAt = start.To, start.StartedAt, start.RunAt, start.QueuedAt
		job.QueueDeadline, job.TotalDeadline = start.QueueDeadline, start.TotalDeadline
	}
	boarding := e.board(ctx, sub, now)
	stored, replayed, err := e.store.Submit(ctx, sub)
	e.depart(boarding, stored, err)
	if fault.Of(err) == fault.IdempotencyMismatch {
		return nil, false, &fault.FieldError{Field: "Idempotency-Key", Kind: fault.IdempotencyMismatch,
			Message: "was used before with another request; use a new key for this one"}
	}
	if err != nil {
		return nil, false, err
	}
	if !replayed {
		e.open.Add(1)
		e.moved(stored)
	}
	return stored, replayed, nil
}

// admit refuses jobs while there are as many as there may be.
func (e *Engine) admit() error {
	limit := e.options.MaxOpenJobs
	if limit == 0 {
		limit = DefaultMaxOpenJobs
	}
	if e.open.Load() < int64(limit) {
		return nil
	}
	return fault.Say(fault.Exhausted, "there are %d unfinished jobs, which is the limit; try again when some have finished", limit)
}

// replay returns the job that an earlier call with the same key has made, or else the refusal: what has been taken once
// is not refused when the client did not hear of it and asks again.
func (e *Engine) replay(ctx context.Context, s *Submission, refusal error) (job *store.Job, replayed bool, err error) {
	if s.Key == "" {
		return nil, false, refusal
	}
	job, replayed, err = e.store.Submit(ctx, &store.Submission{Key: s.Key, BodyHash: s.BodyHash, OnlyReplay: true})
	if errors.Is(err, fault.NotFound) {
		err = refusal
	}
	return job, replayed, err
}

// startOf returns the move that starts a job now. A run_at is a time by its owner's clock, and so is what counts from
// then; see [clock].
func startOf(job *store.Job, now, wall time.Time) *store.Move {
	m := &store.Move{
		JobID: job.ID, Version: job.Version, From: dayfly.Created, To: dayfly.Queued, Event: "queued",
		Time: now, StartedAt: now, QueuedAt: now,
	}
	begin := now
	if at := job.Spec.RunAt; at != nil && at.After(wall) {
		begin = at.UTC()
		m.To, m.Event, m.RunAt, m.QueuedAt = dayfly.Scheduled, "scheduled", begin, time.Time{}
	}
	t := job.Spec.Timeouts
	if t.Total > 0 {
		m.TotalDeadline = begin.Add(time.Duration(t.Total))
	}
	if t.Queue > 0 {
		m.QueueDeadline = begin.Add(time.Duration(t.Queue))
	}
	return m
}

// moved wakes the loops that a job's new state concerns, and those who watch it.
func (e *Engine) moved(job *store.Job) {
	switch job.State {
	case dayfly.Queued:
		e.joined(job)
		e.wakeQueue.set()
		e.due(job.QueueDeadline)
		e.due(job.TotalDeadline)
	case dayfly.Scheduled:
		e.due(e.clock.now().Add(job.RunAt.Sub(wallClock())))
	case dayfly.Canceled, dayfly.Expired, dayfly.Failed:
		e.freed(job)
		e.wakeQueue.set()
	}
	e.tell(job.ID, job.State.Terminal())
}

// change reads a job and carries out the transition that decide returns, again and again while others change the job
// in between. A nil move means that there is nothing to do.
func (e *Engine) change(ctx context.Context, id string, decide func(*store.Job) (*store.Move, error)) (*store.Job, error) {
	for range 16 {
		job, err := e.store.Job(ctx, id)
		if err != nil {
			return nil, err
		}
		move, err := decide(job)
		if err != nil || move == nil {
			return job, err
		}
		changed, err := e.store.Move(ctx, move)
		if err == nil {
			if !job.State.Terminal() && changed.State.Terminal() {
				e.open.Add(-1)
			}
			e.moved(changed)
			return changed, nil
		}
		if fault.Of(err) != fault.Conflict {
			return nil, err
		}
	}
	return nil, fault.Say(fault.Unavailable, "job %s kept changing; try again", id)
}

// Start moves a created job on to its queue. Starting a job that has been started is no error and changes nothing, even
// if it has ended since: the answer to the call that started it may have been lost. fault.NotFound; fault.Conflict, with
// a sentence, while inputs are missing; fault.AlreadyFinished if it was canceled before it was started.
func (e *Engine) Start(ctx context.Context, id string) (*store.Job, error) {
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	return e.change(ctx, id, func(job *store.Job) (*store.Move, error) {
		if !job.StartedAt.IsZero() {
			return nil, nil
		}
		if job.State.Terminal() {
			return nil, fault.Say(fault.AlreadyFinished, "job %s is %s and cannot be started", id, job.State)
		}
		if missing := missingInputs(job); len(missing) > 0 {
			return nil, fault.Say(fault.Conflict, "job %s cannot start: %s not been uploaded", id, plural(missing, "has", "have"))
		}
		return startOf(job, e.clock.now(), wallClock()), nil
	})
}

func missingInputs(job *store.Job) []string {
	var missing []string
	for _, in := range job.Inputs {
		if in.StoredAt.IsZero() {
			missing = append(missing, in.Name)
		}
	}
	return missing
}

// plural lists names with the verb that fits their number.
func plural(names []string, one, many string) string {
	if len(names) == 1 {
		return names[0] + " " + one
	}
	if len(names) > 5 {
		return fmt.Sprintf("%s and %d more %s", strings.Join(names[:5], ", "), len(names)-5, many)
	}
	return strings.Join(names, ", ") + " " + many
}

// Cancel asks for the job's end. It returns when the wish is durable; a job that has no machine is canceled by then.
// Canceling again is no error. fault.NotFound; fault.AlreadyFinished once a result has been accepted.
func (e *Engine) Cancel(ctx context.Context, id string) (*store.Job, error) {
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	job, err := e.change(ctx, id, func(job *store.Job) (*store.Move, error) {
		now := e.clock.now()
		m := &store.Move{JobID: id, Version: job.Version, From: job.State, To: job.State, Time: now, CancelRequestedAt: now, Event: "canceling"}
		switch {
		case job.State == dayfly.Canceled:
			return nil, nil
		case job.State.Terminal():
			return nil, fault.Say(fault.AlreadyFinished, "job %s has already finished (%s)", id, job.State)
		case job.State == dayfly.Starting || job.State == dayfly.Running:
			if !job.CancelRequestedAt.IsZero() {
				return nil, nil
			}
			return m, nil
		}
		m.To, m.Event, m.FinishedAt = dayfly.Canceled, "canceled", now
		m.Reason, m.Message = dayfly.ReasonCanceled, "The job was canceled before it started."
		if job.Number > 0 {
			m.Message = "The job was canceled while it waited for another attempt."
		}
		return m, nil
	})
	if err != nil || job.State.Terminal() {
		return job, err
	}
	if f := e.flightOf(job.Attempt); f != nil {
		e.mu.Lock()
		if job.Version > f.job.Version {
			f.job = job
		}
		e.mu.Unlock()
		e.consider(f)
	}
	return job, nil
}

// Retry adds a new job with the spec and inputs of a terminal one. key is an Idempotency-Key, or "": with a key, a call
// that broke off half-way is finished by the next, and replayed is set if an earlier one has made the job.
// fault.NotFound; fault.Conflict while the job is not terminal.
func (e *Engine) Retry(ctx context.Context, id, key string) (job *store.Job, replayed bool, err error) {
	if err := e.await(ctx); err != nil {
		return nil, false, err
	}
	old, err := e.store.Job(ctx, id)
	if err != nil {
		return nil, false, err
	}
	if !old.State.Terminal() {
		return nil, false, fault.Say(fault.Conflict, "job %s is %s; only a finished job can be retried", id, old.State)
	}
	if missing := missingInputs(old); len(missing) > 0 {
		return nil, false, fault.Say(fault.Conflict, "job %s cannot be retried: %s never been uploaded", id, plural(missing, "has", "have"))
	}
	spec := old.Spec
	spec.RunAt = nil
	job, replayed, err = e.Submit(ctx, &Submission{Spec: spec, Key: key, BodyHash: []byte("retry of " + id), RetriedFrom: id})
	if err != nil || job.State != dayfly.Created {
		return job, replayed, err
	}
	started, err := e.supply(ctx, old, job.ID)
	if err != nil && key == "" {
		// Nobody can come back to it, least of all a client that has hung up.
		cleanup, cancel := context.WithTimeout(e.lifetime, 30*time.Second)
		defer cancel()
		_, cancelErr := e.Cancel(cleanup, job.ID)
		err = errors.Join(err, cancelErr)
	}
	return started, replayed, err
}

// supply gives a job, which repeats old, the inputs of that which it does not have yet, and starts it. Two callers may
// do so at once: they copy the same bytes, and whoever is second finds the job started.
func (e *Engine) supply(ctx context.Context, old *store.Job, id string) (*store.Job, error) {
	job, err := e.store.Job(ctx, id)
	if err != nil {
		return nil, err
	}
	missing := missingInputs(job)
	for _, in := range old.Inputs {
		if !slices.Contains(missing, in.Name) {
			continue
		}
		stored, err := e.copyInput(ctx, old.ID, id, in)
		if err != nil {
			return nil, fmt.Errorf("engine: copying input %s of %s: %w", in.Name, old.ID, err)
		}
		if err := e.storeInput(ctx, id, stored); fault.Of(err) == fault.Conflict {
			break
		} else if err != nil {
			return nil, err
		}
	}
	return e.Start(ctx, id)
}

// copyInput copies an input to a blob of another job. It refuses bytes that are not those that were recorded, which the
// job that is repeated would not have run with either.
func (e *Engine) copyInput(ctx context.Context, from, to string, in store.Input) (store.Input, error) {
	r, err := e.blobs.Get(ctx, in.Blob, 0, -1)
	if err != nil {
		return in, err
	}
	defer r.Close()
	copied := ticket.NewUploadKey(to)
	info, err := e.blobs.Put(ctx, copied, r, &blob.PutOptions{ContentType: in.ContentType, Size: in.Size})
	if err != nil {
		return in, err
	}
	if info.SHA256 != in.SHA256 {
		e.discard(ctx, copied)
		return in, fault.Say(fault.Conflict, "input %s of job %s is damaged: its SHA-256 is %s instead of %s; submit a new job and upload it again",
			in.Name, from, info.SHA256, in.SHA256)
	}
	in.Blob, in.StoredAt = copied, e.clock.now()
	return in, nil
}

// deletePatience is how long a delete waits for the machines of a job that has just ended. Most are gone in less than a
// second.
const deletePatience = 5 * time.Second

// Delete removes a terminal job with its logs, inputs and artifacts, once its machines are gone: it waits a while for
// that. fault.NotFound; fault.Conflict while the job is not terminal or a machine of it is not gone.
func (e *Engine) Delete(ctx context.Context, id string) error {
	if err := e.await(ctx); err != nil {
		return err
	}
	job, err := e.store.Job(ctx, id)
	if err != nil {
		return err
	}
	if !job.State.Terminal() {
		return fault.Say(fault.Conflict, "job %s is %s; cancel it before you delete it", id, job.State)
	}
	if e.keptOfJob(job) != nil {
		return fault.Say(fault.Conflict, "job %s cannot be deleted yet: its machine is kept; end that first, with: dayfly release %s", id, id)
	}
	if err := e.awaitMachines(ctx, job); err != nil {
		return err
	}
	if job, err = e.store.Job(ctx, id); err != nil {
		return err
	}
	return e.remove(ctx, job)
}

// awaitMachines waits until the machines of a job are gone, or deletePatience is over.
func (e *Engine) awaitMachines(ctx context.Context, job *store.Job) error {
	patience, cancel := context.WithTimeout(ctx, deletePatience)
	defer cancel()
	for _, a := range job.AttemptLog {
		if a.Machine == nil {
			continue
		}
		if err := e.awaitGone(patience, a.Machine); err != nil && patience.Err() == nil {
			return err
		}
	}
	return nil
}

// awaitGone waits until the ledger says that a machine is gone.
func (e *Engine) awaitGone(ctx context.Context, m *store.Machine) error {
	changed, stop := e.changes.watch(m.Name)
	defer stop()
	for m.State != store.MachineGone {
		moved := changed()
		rows, err := e.store.Machines(ctx, &store.MachineQuery{Names: []string{m.Name}, Limit: 1})
		if err != nil || len(rows) == 0 {
			return err
		}
		if m = rows[0]; m.State == store.MachineGone {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// remove removes first what the rows lead to, and then the rows: whatever is interrupted is found again. An upload that
// ends meanwhile may still put a file there, and is about to remove it: see [Engine.orphanLoop].
func (e *Engine) remove(ctx context.Context, job *store.Job) error {
	for _, a := range job.AttemptLog {
		if a.Machine != nil && a.Machine.State != store.MachineGone {
			return fault.Say(fault.Conflict, "job %s cannot be deleted yet: its machine %s is being destroyed, and provider %s has not "+
				"confirmed that it is gone; it is asked until it has, so delete the job later", job.ID, a.Machine.Name, a.Machine.Provider)
		}
	}
	for _, folder := range ticket.Folders() {
		if _, err := e.removeFiles(ctx, folder+job.ID+"/"); err != nil {
			return err
		}
	}
	for _, a := range job.AttemptLog {
		if err := e.logs.Remove(a.ID); err != nil {
			return err
		}
	}
	return e.store.Delete(ctx, job.ID)
}

// removeFiles removes the files whose keys begin with prefix, and returns how many it has removed.
func (e *Engine) removeFiles(ctx context.Context, prefix string) (n int, err error) {
	for info, err := range e.blobs.List(ctx, prefix) {
		if err == nil {
			err = e.blobs.Delete(ctx, info.Key)
		}
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// Job returns a job with everything that belongs to it, or fault.NotFound.
func (e *Engine) Job(ctx context.Context, id string) (*store.Job, error) {
	job, err := e.store.Job(ctx, id)
	if err != nil {
		return nil, err
	}
	return e.withPreparation(job), nil
}

// Jobs lists jobs, newest first. more tells that there may be others behind them.
func (e *Engine) Jobs(ctx context.Context, q *store.Query) (jobs []*store.Job, more bool, err error) {
	return e.store.List(ctx, q)
}

// Events returns up to limit events of a job after the given Seq; fault.NotFound if there is no such job.
func (e *Engine) Events(ctx context.Context, id string, after int64, limit int) ([]*dayfly.Event, error) {
	return e.store.Events(ctx, id, after, limit)
}

// Watch begins to watch a job. changed returns a channel that is closed at the job's next event or progress; take it
// before reading, so that no change between the two is missed. stop ends the watch, and must be called.
func (e *Engine) Watch(id string) (changed func() <-chan struct{}, stop func()) {
	return e.changes.watch(id)
}

// WatchEnd is [Engine.Watch] for who only wants to know when the job has finished: nothing else wakes him, so that he
// does not read the job at the very moment its machine and its command are being started. The channel may be closed
// before the job has finished, and then has to be taken anew.
func (e *Engine) WatchEnd(id string) (ended func() <-chan struct{}, stop func()) {
	return e.ends.watch(id)
}

// tell wakes who watches a job; over tells that it has finished, or may have.
func (e *Engine) tell(jobID string, over bool) {
	e.changes.notify(jobID)
	if over {
		e.ends.notify(jobID)
	}
}

// Machines lists machines of the ledger.
func (e *Engine) Machines(ctx context.Context, q *store.MachineQuery) ([]*store.Machine, error) {
	return e.store.Machines(ctx, q)
}

// Counts returns how many unfinished jobs there are, by lane and state.
func (e *Engine) Counts(ctx context.Context) ([]store.Count, error) { return e.store.Counts(ctx) }

// InputStored records an uploaded input, and starts the job if it asked to be started and this was the last one. An
// upload that is refused is removed, and so is the one that it replaces.
// fault.NotFound; fault.Conflict once the job has been started.
func (e *Engine) InputStored(ctx context.Context, jobID string, in store.Input) error {
	if err := e.await(ctx); err != nil {
		e.discard(ctx, in.Blob)
		return err
	}
	// What follows from the upload is not given up because the client, which has sent all of it, hangs up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	in.StoredAt = e.clock.now()
	err := e.storeInput(ctx, jobID, in)
	if fault.Of(err) == fault.Conflict {
		return fault.Say(fault.Conflict, "job %s was started or canceled before all of input %s had come; the upload was discarded", jobID, in.Name)
	}
	if err != nil {
		return err
	}
	job, err := e.store.Job(ctx, jobID)
	if err != nil {
		return err
	}
	e.tell(jobID, false)
	if job.Spec.Start != nil && *job.Spec.Start && job.State == dayfly.Created && len(missingInputs(job)) == 0 {
		_, err = e.Start(ctx, jobID)
	}
	return err
}

// storeInput records an upload and removes the one that does not count any more: the one it replaces, or itself if it
// comes too late. After any other error it may have been recorded nevertheless, and stays until its job is deleted.
func (e *Engine) storeInput(ctx context.Context, jobID string, in store.Input) error {
	replaced, err := e.store.StoreInput(ctx, jobID, in)
	switch {
	case err == nil && replaced != "":
		e.discard(ctx, replaced)
	case fault.Of(err) == fault.Conflict, fault.Of(err) == fault.NotFound:
		e.discard(ctx, in.Blob)
	}
	return err
}

// discard removes an upload that does not count. The client may have gone, which is no reason to keep it. What cannot be
// removed now goes with its job.
func (e *Engine) discard(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := e.blobs.Delete(ctx, key); err != nil {
		e.logger.Warn("an upload that does not count could not be removed; it goes when its job is deleted", "blob", key, "error", err)
	}
}
