package engine

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/ticket"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// The calls of agents, as package wire describes them. token is the bearer token as it came.

// stale refuses an attempt that is over. Whoever hears it kills its command and discards its result.
func stale() error {
	return fault.Say(fault.StaleAttempt, "this attempt is over or another one has taken its place; stop the command and discard its result")
}

// Claim gives the attempt to the claimant. fault.Unauthenticated; fault.AlreadyClaimed or fault.StaleAttempt: run
// nothing.
func (e *Engine) Claim(ctx context.Context, token string, c *wire.ClaimRequest) (*wire.Assignment, error) {
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	switch {
	case !e.key.CheckBootstrap(token, machineOfClaim(c.Attempt)):
		return nil, fault.Say(fault.Unauthenticated, "this is not the token that claims %.128s; send the one that the machine was given "+
			"with it, as DAYFLY_AGENT_TOKEN beside DAYFLY_AGENT_ATTEMPT", c.Attempt)
	case c.Protocol != wire.Version:
		return nil, fault.Field("protocol", "is %d; this server speaks %d: run the agent that came with it", c.Protocol, wire.Version)
	case c.Instance == "" || len(c.Instance) > 128:
		return nil, fault.Field("instance", "must be 1 to 128 bytes")
	case c.Nonce == "" || len(c.Nonce) > 64:
		return nil, fault.Field("nonce", "must be 1 to 64 bytes")
	}
	if strings.HasPrefix(c.Attempt, wire.RunnerPrefix) {
		return e.claimNext(ctx, c)
	}
	now := e.clock.now()
	job, attempt, err := e.store.Claim(ctx, &store.Claim{Attempt: c.Attempt, By: c.Instance + "/" + c.Nonce, Time: now})
	if err != nil {
		return nil, err
	}
	return e.boarded(ctx, job, attempt, now, c.Detour)
}

// machineOfClaim returns what a token for a claim is made out to: the attempt, or on a machine of a pool what that was booted
// with, which the token opens for all its slots.
func machineOfClaim(id string) string {
	if strings.HasPrefix(id, wire.RunnerPrefix) {
		id, _ = wire.SlotOf(id)
	}
	return id
}

// boarded answers a claim that has succeeded.
func (e *Engine) boarded(ctx context.Context, job *store.Job, attempt *store.Attempt, now time.Time, detour bool) (*wire.Assignment, error) {
	attempt.Job = job
	f := e.flightOf(attempt.ID)
	if f == nil {
		// The launch was committed although its answer was lost; the machine is the first to tell.
		known, err := e.store.Attempt(ctx, attempt.ID) // with its machine
		if err != nil {
			return nil, err
		}
		if known.State.Terminal() {
			return nil, stale()
		}
		e.addFlight(newFlight(known, now))
		f = e.flightOf(attempt.ID)
	}
	if f == nil {
		return nil, stale() // it has ended in this very moment
	}
	e.refresh(f, attempt, now)
	e.tell(job.ID, false)
	return e.assignment(ctx, f, job, attempt, now, detour)
}

func (e *Engine) assignment(ctx context.Context, f *flight, job *store.Job, a *store.Attempt, now time.Time, detour bool) (*wire.Assignment, error) {
	spec := &job.Spec
	or := func(d, otherwise time.Duration) int64 {
		if d <= 0 {
			d = otherwise
		}
		return d.Milliseconds()
	}
	w := &wire.Assignment{
		Job: job.ID, Attempt: a.ID, Number: a.Number, Fence: a.Fence,
		Token: e.key.Session(a.ID, a.Fence), JobToken: e.key.Job(a.ID, a.Fence),
		Name: spec.Name, Command: spec.Command, Env: spec.Env, Payload: spec.Payload, Outputs: spec.Outputs,
		RunTimeoutMS: time.Duration(spec.Timeouts.Run).Milliseconds(), KillGraceMS: time.Duration(spec.Timeouts.Grace).Milliseconds(),
		HeartbeatMS:   or(e.options.Heartbeat, wire.DefaultHeartbeat*time.Millisecond),
		OrphanAfterMS: e.orphanAfter().Milliseconds(),
		LogLimit:      e.logLimit(),
		HashOutputs:   e.options.Direct != nil,
		KeepMS:        time.Duration(spec.KeepOnFailure).Milliseconds(),
	}
	if !job.TotalDeadline.IsZero() {
		left := max(1, job.TotalDeadline.Sub(now).Milliseconds())
		if left < w.RunTimeoutMS {
			w.RunTimeoutMS, w.RunIsTotal = left, true
		}
	}
	if paid, capped := paidRun(spec, f.meter, now); capped && paid.Milliseconds() < w.RunTimeoutMS {
		w.RunTimeoutMS, w.RunIsTotal, w.RunIsCost = paid.Milliseconds(), false, true
	}
	if len(job.Inputs) == 0 {
		return w, nil
	}
	home, err := e.url(ctx, f.provider)
	if err != nil {
		return nil, err
	}
	for i := range job.Inputs {
		in := &job.Inputs[i]
		from, err := e.inputURL(ctx, home, in, detour)
		if err != nil {
			return nil, err
		}
		w.Inputs = append(w.Inputs, wire.Input{Name: in.Name, Size: in.Size, SHA256: in.SHA256, URL: from})
	}
	return w, nil
}

// orphanAfter is how long an agent goes on without an answer.
func (e *Engine) orphanAfter() time.Duration {
	if d := e.options.OrphanAfter; d > 0 {
		return d
	}
	return DefaultOrphanAfter
}

// fileTTL is how long an agent's signed URL is good for: enough to move a large file slowly, and the agent asks for
// the claim's answer again when it runs out. It is told by the wall clock, as is whether it has run out.
const fileTTL = time.Hour

func (e *Engine) logLimit() int64 {
	if e.options.LogLimit > 0 {
		return e.options.LogLimit
	}
	return wire.DefaultLogLimit
}

// airborne returns the flight a session token speaks for, having noted a sign of life.
func (e *Engine) airborne(token string) (*flight, error) {
	attempt, fence, err := e.key.CheckSession(token)
	if err != nil {
		return nil, err
	}
	e.introduce(token)
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.flights[attempt]
	if f == nil || f.fence != fence || f.state != dayfly.AttemptRunning {
		return nil, stale()
	}
	f.alive(e.clock.now())
	return f, nil
}

// AttemptOf returns the attempt that a session token speaks for. fault.Unauthenticated; fault.StaleAttempt if it is
// over.
func (e *Engine) AttemptOf(token string) (attempt string, err error) {
	if err := e.await(e.lifetime); err != nil {
		return "", err
	}
	f, err := e.airborne(token)
	if err != nil {
		return "", err
	}
	return f.id, nil
}

// maxHold is the longest that heartbeats are held open.
const maxHold = 30 * time.Second

// Beats takes heartbeats of any number of attempts and waits up to WaitMS for an order to any of them.
func (e *Engine) Beats(ctx context.Context, b *wire.Beats) (*wire.BeatsAnswer, error) {
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	if len(b.Beats) > wire.MaxBatchCalls {
		return nil, fault.Field("beats", "there are %d; at most %d are allowed", len(b.Beats), wire.MaxBatchCalls)
	}
	wake := make(chan struct{}, 1)
	var flights []*flight
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, f := range flights {
			delete(f.listeners, wake)
		}
	}()
	answer := &wire.BeatsAnswer{}
	for _, beat := range b.Beats {
		f, err := e.airborne(beat.Token)
		if err != nil {
			answer.Orders = append(answer.Orders, wire.BeatOrder{Attempt: beat.Attempt, Error: problemOf(err)})
			continue
		}
		flights = append(flights, f)
		e.beat(f, beat, wake)
	}
	if len(flights) == 0 { // nobody waits who may
		return answer, nil
	}
	timer := time.NewTimer(min(time.Duration(max(0, b.WaitMS))*time.Millisecond, maxHold))
	defer timer.Stop()
	for {
		if answer.Orders = append(answer.Orders, e.orders(flights)...); len(answer.Orders) > 0 {
			return answer, nil
		}
		select {
		case <-wake:
		case <-timer.C:
			return answer, nil
		case <-ctx.Done():
			return answer, nil
		case <-e.lifetime.Done():
			return answer, nil
		}
	}
}

// beat takes one heartbeat.
func (e *Engine) beat(f *flight, beat wire.Beat, wake chan struct{}) {
	now := e.clock.now()
	e.mu.Lock()
	if f.listeners == nil {
		f.listeners = map[chan struct{}]struct{}{}
	}
	f.listeners[wake] = struct{}{}
	if beat.Phase != wire.Fetching && f.commandAt.IsZero() {
		f.commandAt = now
	}
	f.unheard = f.unheard && beat.Phase == wire.Finishing // then its result is about to come
	e.mu.Unlock()
	if p := beat.Progress; p != nil {
		e.progress(f, p)
	}
}

// orders returns what the agents of the flights have to do.
func (e *Engine) orders(flights []*flight) []wire.BeatOrder {
	e.mu.Lock()
	defer e.mu.Unlock()
	var orders []wire.BeatOrder
	for _, f := range flights {
		switch {
		case e.flights[f.id] != f:
			orders = append(orders, wire.BeatOrder{Attempt: f.id, Error: problemOf(stale())})
		case f.order != "":
			orders = append(orders, wire.BeatOrder{Attempt: f.id, Order: wire.OrderStop, Reason: f.order})
		}
	}
	return orders
}

func problemOf(err error) *wire.Problem {
	kind := fault.Of(err)
	return &wire.Problem{Code: string(kind), Title: string(kind), Detail: sentenceOf(err)}
}

// Log stores one chunk of output. fault.Conflict when the chunk begins beyond the end of the stream: the answer then
// holds the offset that is wanted.
func (e *Engine) Log(ctx context.Context, token string, c *wire.LogChunk) (*wire.LogAnswer, error) {
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	f, err := e.airborne(token)
	if err != nil {
		return nil, err
	}
	if err := e.ownLogs(f); err != nil {
		return nil, err
	}
	stored, err := e.logs.Append(f.id, c, e.logLimit())
	return &wire.LogAnswer{Stored: stored}, err
}

// Artifacts says where to put outputs: at URLs that permit this attempt's own keys and nothing else.
func (e *Engine) Artifacts(ctx context.Context, token string, r *wire.ArtifactRequest) (*wire.ArtifactAnswer, error) {
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	f, err := e.airborne(token)
	if err != nil {
		return nil, err
	}
	if err := checkArtifactNames(r.Artifacts, func(a wire.ArtifactWant) string { return a.Name }); err != nil {
		return nil, err
	}
	home, err := e.url(ctx, f.provider)
	if err != nil {
		return nil, err
	}
	answer := &wire.ArtifactAnswer{}
	for i, want := range r.Artifacts {
		if want.Size < 0 {
			return nil, fault.Field(fmt.Sprintf("artifacts[%d].size", i), "is negative")
		}
		if raw, err := hex.DecodeString(want.SHA256); err != nil || len(raw) != 0 && len(raw) != 32 || strings.ToLower(want.SHA256) != want.SHA256 {
			return nil, fault.Field(fmt.Sprintf("artifacts[%d].sha256", i), "is not a SHA-256 in lower-case hex")
		}
		place, err := e.outputPlace(ctx, home, ticket.ArtifactKey(f.jobID, f.id, want.Name), &want)
		if err != nil {
			return nil, err
		}
		answer.Uploads = append(answer.Uploads, place)
	}
	return answer, nil
}

// KeepArtifact holds up the result of an attempt, until done is called, so that what has come of an artifact can be put
// into its place before the result is accepted or not at all. fault.StaleAttempt if the attempt is over.
func (e *Engine) KeepArtifact(ctx context.Context, attempt string) (done func(), err error) {
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	f := e.flightOf(attempt)
	if f == nil {
		return nil, errLate(attempt)
	}
	f.artifacts.RLock()
	if e.flightOf(attempt) != f {
		f.artifacts.RUnlock()
		return nil, errLate(attempt)
	}
	return f.artifacts.RUnlock, nil
}

func errLate(attempt string) error {
	return fault.Say(fault.StaleAttempt, "attempt %.128s is over; its artifacts cannot be changed", attempt)
}

// checkArtifactNames refuses more or longer names than the protocol allows.
func checkArtifactNames[A any](artifacts []A, nameOf func(A) string) error {
	if len(artifacts) > wire.MaxArtifacts {
		return fault.Field("artifacts", "there are %d; at most %d are allowed", len(artifacts), wire.MaxArtifacts)
	}
	bytes := 0
	for i, a := range artifacts {
		name := nameOf(a)
		if err := checkArtifactName(fmt.Sprintf("artifacts[%d].name", i), name); err != nil {
			return err
		}
		bytes += len(name)
	}
	if bytes > wire.MaxArtifactNames {
		return &fault.FieldError{Field: "artifacts", Kind: fault.TooLarge,
			Message: fmt.Sprintf("their names are %d bytes together; at most %d are allowed", bytes, wire.MaxArtifactNames)}
	}
	return nil
}

// checkArtifactName refuses names that could lead anywhere but below the attempt. Unlike the names of inputs, which
// a person chose, they may hold any character that can be shown.
func checkArtifactName(field, name string) error {
	if err := checkText(field, name, wire.MaxArtifactName); err != nil {
		return err
	}
	if strings.ContainsFunc(name, unicode.IsControl) {
		return fault.Field(field, "holds a control character")
	}
	if !filepath.IsLocal(name) || filepath.Clean(name) != name || name == "." {
		return fault.Field(field, "%q is not a path inside the working directory", name)
	}
	return nil
}

// Result accepts or refuses an attempt's result. It returns nil when the result is durable.
func (e *Engine) Result(ctx context.Context, token string, r *wire.Result) error {
	if err := e.await(ctx); err != nil {
		return err
	}
	if err := checkResult(r); err != nil {
		return err
	}
	attempt, fence, err := e.key.CheckSession(token)
	if err != nil {
		return err
	}
	f, err := e.airborne(token)
	if errors.Is(err, fault.StaleAttempt) {
		// Its result may have been accepted by an answer that was lost. The store knows.
		return e.resultAgain(ctx, attempt, fence, r)
	}
	if err != nil {
		return err
	}
	for i := range r.Logs {
		if _, err := e.logs.Append(f.id, &r.Logs[i], e.logLimit()); err != nil {
			return err
		}
	}
	f.artifacts.Lock() // what is verified must not change before it is published
	defer f.artifacts.Unlock()
	artifacts, err := e.verify(ctx, f, r.Artifacts)
	if err != nil {
		return err
	}
	// A short job says something of itself between two heartbeats, or never hears one.
	return e.end(ctx, f, verdictOf(r, e.jobOf(f)), &ended{result: e.withProgress(f, r), artifacts: artifacts})
}

// resultAgain answers a result for an attempt that is no longer in flight.
func (e *Engine) resultAgain(ctx context.Context, attempt string, fence int64, r *wire.Result) error {
	a, err := e.store.Attempt(ctx, attempt)
	if err != nil {
		return err
	}
	if a.Fence != fence || !a.State.Terminal() || a.State != verdictOf(r, a.Job).state {
		return stale()
	}
	return nil
}

func checkResult(r *wire.Result) error {
	switch r.Outcome {
	case wire.Succeeded, wire.Failed, wire.TimedOut, wire.Canceled:
	default:
		return fault.Field("outcome", "must be succeeded, failed, timed_out or canceled")
	}
	switch {
	case len(r.Value) > wire.MaxResultValue:
		return &fault.FieldError{Field: "value", Kind: fault.TooLarge, Message: fmt.Sprintf("is %d bytes; at most %d are allowed", len(r.Value), wire.MaxResultValue)}
	case len(r.Reason) > 64:
		return fault.Field("reason", "is %d bytes; at most 64 are allowed", len(r.Reason))
	case len(r.Message) > wire.MaxSentence:
		return fault.Field("message", "is %d bytes; at most %d are allowed", len(r.Message), wire.MaxSentence)
	case r.Exit != nil && len(r.Exit.Message) > wire.MaxSentence:
		return fault.Field("exit.message", "is %d bytes; at most %d are allowed", len(r.Exit.Message), wire.MaxSentence)
	case len(r.Warnings) > wire.MaxWarnings:
		return fault.Field("warnings", "there are %d; at most %d are allowed", len(r.Warnings), wire.MaxWarnings)
	case slices.ContainsFunc(r.Warnings, func(w string) bool { return len(w) > wire.MaxSentence }):
		return fault.Field("warnings", "one is longer than %d bytes", wire.MaxSentence)
	case r.Outcome == wire.Succeeded && r.Exit != nil && !r.Exit.OK():
		return fault.Field("outcome", "is succeeded, but the exit is not a success")
	}
	return checkArtifactNames(r.Artifacts, func(a wire.Artifact) string { return a.Name })
}

// verify makes sure that every artifact an agent reports is stored whole, with the bytes the agent sent. Only then may
// it be seen.
func (e *Engine) verify(ctx context.Context, f *flight, artifacts []wire.Artifact) ([]dayfly.Artifact, error) {
	var verified []dayfly.Artifact
	for i, a := range artifacts {
		field := fmt.Sprintf("artifacts[%d]", i)
		info, err := e.blobs.Stat(ctx, ticket.ArtifactKey(f.jobID, f.id, a.Name))
		switch {
		case errors.Is(err, fault.NotFound):
			return nil, fault.Field(field, "%q has not been uploaded", a.Name)
		case err != nil:
			return nil, err
		case info.Size != a.Size || info.SHA256 != a.SHA256:
			return nil, fault.Field(field, "%q was stored as %d bytes with SHA-256 %s, but reported as %d bytes with %s; upload it again",
				a.Name, info.Size, info.SHA256, a.Size, a.SHA256)
		}
		verified = append(verified, dayfly.Artifact{Name: a.Name, Size: info.Size, SHA256: info.SHA256, ContentType: info.ContentType})
	}
	return verified, nil
}

// Progress takes what a running command says of itself, authorized by its own token.
func (e *Engine) Progress(ctx context.Context, jobToken string, p *wire.Progress) error {
	f, err := e.ofJobToken(ctx, jobToken)
	if err != nil {
		return err
	}
	if p.Fraction < 0 || p.Fraction > 1 {
		return fault.Field("fraction", "must be between 0 and 1")
	}
	e.progress(f, p)
	return nil
}

// JobOf returns the job that a running command's own token may read. fault.Unauthenticated; fault.StaleAttempt once
// the attempt is over.
func (e *Engine) JobOf(ctx context.Context, jobToken string) (jobID string, err error) {
	f, err := e.ofJobToken(ctx, jobToken)
	if err != nil {
		return "", err
	}
	return f.jobID, nil
}

func (e *Engine) ofJobToken(ctx context.Context, token string) (*flight, error) {
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	attempt, fence, err := e.key.CheckJob(token)
	if err != nil { // a bare machine has one token for everything
		if f, err := e.airborne(token); !errors.Is(err, fault.Unauthenticated) {
			return f, err
		}
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.flights[attempt]
	if f == nil || f.fence != fence {
		return nil, stale()
	}
	return f, nil
}
