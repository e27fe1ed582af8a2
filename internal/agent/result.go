package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// warn adds a warning to the result.
func (a *attempt) warn(r *wire.Result, format string, args ...any) {
	if len(r.Warnings) < wire.MaxWarnings {
		r.Warnings = append(r.Warnings, printable(fmt.Sprintf(format, args...), wire.MaxSentence))
	}
}

// finish does what is to be done once the command has ended: it stores the outputs, and fills in what the command said.
// Outputs are also stored when the command failed, because they may say why; but not when the server wants it to stop.
func (a *attempt) finish(r *wire.Result) {
	began := a.line.clock()
	defer func() {
		for _, s := range a.out {
			s.close()
		}
	}()
	a.status.enter(wire.Finishing)
	if r.Started {
		if len(a.job.Outputs) > 0 && a.work.Err() == nil {
			a.storeOutputs(r)
		}
		a.takeValue(r)
		r.Progress = a.status.settle(a.files)
		for _, s := range a.out {
			r.Logs = append(r.Logs, s.flush()...)
		}
		r.StdoutBytes, r.StderrBytes = a.out[0].backlog.length(), a.out[1].backlog.length()
	}
	r.FinishMS = (a.line.clock() - began).Milliseconds()
	r.Message = printable(r.Message, wire.MaxSentence)
}

// storeOutputs uploads what matches the output patterns. If that fails, the job has failed, whatever the command says.
func (a *attempt) storeOutputs(r *wire.Result) {
	c := a.collect(a.job.Outputs)
	for _, warning := range c.warnings {
		a.warn(r, "%s", warning)
	}
	problem := c.problem
	stored, err := a.upload(a.work, c.found)
	r.Artifacts = stored
	if outcome := ordered(a.work); outcome != "" {
		r.Outcome, r.Reason, r.Message = outcome, "", "The server told it to stop while its outputs were being stored."
		r.Artifacts = nil
		return
	}
	if err != nil {
		problem = "An output could not be stored: " + plain(err) + "."
	}
	switch {
	case problem == "":
	case r.Outcome == wire.Succeeded:
		r.Outcome, r.Reason, r.Message = wire.Failed, "output_failed", problem
	default:
		a.warn(r, "%s", problem)
	}
}

func (a *attempt) takeValue(r *wire.Result) {
	value, warning := a.files.readValue()
	if warning != "" {
		a.warn(r, "%s", warning)
	}
	r.Value = value
}

// deliver reports the result until the server has accepted or refused it. When the server is not there, the result is
// kept on disk as well, so that it survives the agent.
func (a *attempt) deliver(r *wire.Result) error {
	send := func(ctx context.Context, to Address) error {
		err := a.line.link.Result(ctx, to, r)
		// A server that has accepted the result may destroy the machine before its answer is here. That is no reason
		// to write anything.
		if err != nil && retryable(err) && !a.kept && a.line.life.Err() == nil {
			a.kept = true
			a.keep(to.Token, r)
		}
		return err
	}
	err := a.line.do(a.line.life, send)
	if fault.Of(err) == fault.Conflict && len(r.Logs) > 0 {
		// The server has lost output that it had acknowledged, so the last chunks begin beyond its end.
		if err = a.shipAll(r.Logs); err == nil {
			r.Logs = nil
			err = a.line.do(a.line.life, send)
		}
	}
	if fault.Of(err).General() == fault.Invalid && r.Value != nil && a.line.over() == nil {
		r = a.withoutValue(r, err)
		err = a.line.do(a.line.life, send)
	}
	// The outputs are stored, and say more than the report of a failure. So they are left out only if that is refused, too.
	for artifacts := r.Artifacts; err != nil && !retryable(err) && a.line.over() == nil; artifacts = nil {
		a.log.Warn("the server refused the result; reporting a failure instead", "artifacts", len(artifacts), "error", err)
		r = refusedResult(r, artifacts, err)
		err = a.line.do(a.line.life, send)
		if len(artifacts) == 0 {
			break
		}
	}
	if a.kept && (err == nil || final(err)) {
		if err := a.files.forgetUndelivered(); err != nil {
			a.log.Warn("a result that is not needed any more could not be removed", "error", err)
		}
	}
	if over := a.line.over(); over != nil && err != nil {
		err = over
	}
	if err != nil {
		return fmt.Errorf("agent: reporting the result: %w", err)
	}
	return nil
}

// shipAll stores chunks by calls of their own, each after a record of what is missing before it.
func (a *attempt) shipAll(chunks []wire.LogChunk) error {
	for _, chunk := range chunks {
		store := func(ctx context.Context, to Address) error {
			_, err := a.line.link.Log(ctx, to, &chunk)
			return err
		}
		err := a.line.do(a.line.life, store)
		if r, ok := errors.AsType[*Refusal](err); ok && r.Stored >= 0 && r.Stored < chunk.Offset {
			whole := chunk
			chunk = wire.LogChunk{Stream: whole.Stream, Offset: r.Stored, Gap: whole.Offset - r.Stored, Why: goneWhy}
			if err = a.line.do(a.line.life, store); err == nil {
				chunk = whole
				err = a.line.do(a.line.life, store)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keep saves the result. If that fails too, the agent still has it, and goes on.
func (a *attempt) keep(token string, r *wire.Result) {
	u := &undelivered{Attempt: a.place.Boot.Attempt, Token: token, OrphanMS: a.line.patience().Milliseconds(), Result: r}
	if err := a.files.saveUndelivered(u); err != nil {
		a.log.Warn("the server is away and the result could not be saved", "error", err)
	}
}

// withoutValue is what is reported when the server does not take the result: the value, the one part of it that the
// command has written itself, is the likeliest reason, and no job fails for it.
func (a *attempt) withoutValue(r *wire.Result, err error) *wire.Result {
	reduced := *r
	reduced.Value = nil
	a.warn(&reduced, "The server refused what was written to DAYFLY_RESULT, so the job has no result value: %v.", err)
	return &reduced
}

// refusedResult is what is reported when the server does not take the result as it is, so that the attempt ends with
// the truth and not with silence: what the command did, which of its outputs are stored, and that its result was refused.
func refusedResult(r *wire.Result, artifacts []wire.Artifact, err error) *wire.Result {
	reduced := &wire.Result{
		Outcome: wire.Failed, Exit: r.Exit, Started: r.Started, Reason: "output_failed",
		Message:     printable(fmt.Sprintf("The server refused the attempt's result: %v.", err), wire.MaxSentence),
		StdoutBytes: r.StdoutBytes, StderrBytes: r.StderrBytes,
		FetchMS: r.FetchMS, RunMS: r.RunMS, FinishMS: r.FinishMS, MaxRSSKB: r.MaxRSSKB, UserMS: r.UserMS, SystemMS: r.SystemMS,
		StartedMS: r.StartedMS, AgentInfo: r.AgentInfo, Artifacts: artifacts,
	}
	if r.Outcome != wire.Succeeded {
		reduced.Outcome, reduced.Reason = r.Outcome, r.Reason
	}
	if fault.Of(err) != fault.TooLarge {
		reduced.Logs = r.Logs
	}
	return reduced
}
