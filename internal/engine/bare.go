package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/failpoint"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// A bare machine runs an image as it is, without our agent. Its command begins when the machine does, so nothing can be
// claimed before: the server claims the attempt for the machine as soon as its provider says that it runs, or when what
// runs in it calls. From then on fences hold as for any attempt. How the machine ends is how the job ends; what it prints
// is fetched from the provider.

// byServer is who claims the attempts of bare machines. The name of an agent's claim has a slash.
const byServer = "server"

// bareEnvironment is what a bare machine finds in its environment.
func (e *Engine) bareEnvironment(f *flight, job *store.Job, home string) map[string]string {
	env := maps.Clone(job.Spec.Env)
	if env == nil {
		env = map[string]string{}
	}
	// The machine is described before its attempt is claimed. A claim raises the job's fence by one, and no other attempt
	// of the job can be claimed meanwhile, so it is known what the fence will be.
	e.mu.Lock()
	fence := f.fence
	e.mu.Unlock()
	if fence == 0 {
		fence = job.Fence + 1
	}
	env["DAYFLY_JOB_ID"], env["DAYFLY_ATTEMPT"] = job.ID, strconv.Itoa(f.number)
	env["DAYFLY_ATTEMPT_ID"] = f.id
	env["DAYFLY_URL"], env["DAYFLY_TOKEN"] = home, e.key.Session(f.id, fence)
	return env
}

// claimFor claims the attempt of a bare machine, which runs.
func (e *Engine) claimFor(ctx context.Context, f *flight) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	now := e.clock.now()
	job, attempt, err := e.store.Claim(ctx, &store.Claim{Attempt: f.id, By: byServer, Time: now})
	switch {
	case err == nil:
		attempt.Job = job
		e.refresh(f, attempt, now)
		e.mu.Lock()
		if f.commandAt.IsZero() {
			f.commandAt = now
		}
		e.mu.Unlock()
		e.tell(f.jobID, false)
		e.follow(f)
		e.consider(f)
	case errors.Is(err, fault.StaleAttempt), errors.Is(err, fault.NotFound):
		if _, err := e.settle(ctx, f); err != nil && ctx.Err() == nil {
			e.logger.Warn("an attempt that cannot be claimed could not be read", "attempt", f.id, "error", err)
		}
	case e.lifetime.Err() == nil:
		e.logger.Warn("the attempt of a bare machine could not be claimed; trying again", "attempt", f.id, "error", err)
	}
}

// introduce claims the attempt of a bare machine when what runs in it calls before its provider has said anything.
func (e *Engine) introduce(token string) {
	attempt, fence, err := e.key.CheckSession(token)
	if err != nil {
		return
	}
	e.mu.Lock()
	f := e.flights[attempt]
	first := f != nil && f.bare && f.fence == 0 && f.state != dayfly.AttemptRunning && fence == f.job.Fence+1 &&
		f.job.CancelRequestedAt.IsZero()
	e.mu.Unlock()
	if first {
		e.claimFor(e.lifetime, f)
	}
}

// terminate tells what runs in a bare machine to end.
func (e *Engine) terminate(ctx context.Context, f *flight) {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errProviderSlow)
	defer cancel()
	e.mu.Lock()
	id := f.providerID
	e.mu.Unlock()
	if err := machine.Signal(ctx, e.providers[f.provider], id, "SIGTERM"); err != nil {
		if !errors.Is(err, fault.Unsupported) && ctx.Err() == nil {
			e.logger.Warn("a bare machine cannot be told to end; it is destroyed", "machine", f.machine, "error", err)
		}
		e.mu.Lock()
		f.deaf = true
		e.mu.Unlock()
	}
	e.consider(f)
}

// logPatience is how long the end of a bare attempt waits for the last of what its machine has printed.
const logPatience = 10 * time.Second

// follow copies what a bare machine prints to its job's output, once.
func (e *Engine) follow(f *flight) {
	e.mu.Lock()
	again := f.logged != nil
	if !again {
		f.logged = make(chan struct{})
		f.over = make(chan struct{})
	}
	e.mu.Unlock()
	if again {
		return
	}
	e.background.Go(func() {
		defer close(f.logged)
		ctx, cancel := context.WithCancel(e.lifetime)
		defer cancel()
		e.background.Go(func() {
			select {
			case <-f.over:
				cancel()
			case <-ctx.Done():
			}
		})
		e.copyOutput(ctx, f)
	})
}

// copyOutput copies until the machine has ended and all is copied, or there is nothing to copy from.
func (e *Engine) copyOutput(ctx context.Context, f *flight) {
	if _, ok := e.providers[f.provider].(machine.Logger); !ok {
		return
	}
	for ctx.Err() == nil {
		e.mu.Lock()
		id := f.providerID
		e.mu.Unlock()
		if id != "" {
			// It begins at the start each time; what is stored already is passed over.
			err := e.callLogs(ctx, f.provider, id, &output{e, f, wire.Stdout, 0}, &output{e, f, wire.Stderr, 0})
			switch {
			case err == nil || errors.Is(err, fault.Unsupported) || errors.Is(err, fault.NotFound):
				return
			case ctx.Err() == nil:
				e.logger.Warn("what a bare machine prints cannot be read for now; trying again", "machine", f.machine, "error", err)
			}
		}
		pause(ctx, time.Second)
	}
}

// output is one stream of a bare machine.
type output struct {
	engine *Engine
	flight *flight
	stream wire.Stream
	offset int64
}

var _ io.Writer = (*output)(nil)

// Write stores the next bytes of the stream.
func (o *output) Write(p []byte) (int, error) {
	for data := range slices.Chunk(p, wire.MaxChunk) {
		chunk := &wire.LogChunk{Stream: o.stream, Offset: o.offset, TimeMS: time.Now().UnixMilli(), Data: data}
		if _, err := o.engine.logs.Append(o.flight.id, chunk, o.engine.logLimit()); err != nil {
			return 0, err
		}
		o.offset += int64(len(data))
	}
	return len(p), nil
}

// measured waits for the last output of a bare machine, and returns what is known of its run.
func (e *Engine) measured(f *flight) *ended {
	e.mu.Lock()
	logged, began, claimed := f.logged, f.commandAt, f.fence > 0
	e.mu.Unlock()
	if !f.bare || !claimed {
		return nil
	}
	if logged != nil {
		timer := time.NewTimer(logPatience)
		defer timer.Stop()
		select {
		case <-logged:
		case <-timer.C:
			e.logger.Warn("the last of what a bare machine has printed could not be read in time", "machine", f.machine)
		case <-e.lifetime.Done():
		}
	}
	r := &wire.Result{RunMS: e.clock.now().Sub(began).Milliseconds()}
	if stdout, stderr, err := e.logs.Lengths(f.id); err == nil {
		r.StdoutBytes, r.StderrBytes = stdout, stderr
	}
	return &ended{result: e.withProgress(f, r)}
}

// ownLogs refuses output that a program posts when it is read from the provider, too: nobody could put the two in order.
func (e *Engine) ownLogs(f *flight) error {
	if _, ok := e.providers[f.provider].(machine.Logger); ok && f.bare {
		return fault.Say(fault.Unsupported, "the output of a bare machine on %s is what its first process prints; print it instead of sending it", f.provider)
	}
	return nil
}

// InputURL returns where the machine of an attempt can GET one of its inputs. fault.Unauthenticated; fault.StaleAttempt
// once the attempt is over; fault.NotFound if there is no such input.
func (e *Engine) InputURL(ctx context.Context, token, name string) (string, error) {
	if err := e.await(ctx); err != nil {
		return "", err
	}
	f, err := e.airborne(token)
	if err != nil {
		return "", err
	}
	job, err := e.store.Job(ctx, f.jobID)
	if err != nil {
		return "", err
	}
	home, err := e.url(ctx, f.provider)
	if err != nil {
		return "", err
	}
	for i := range job.Inputs {
		if in := &job.Inputs[i]; in.Name == name {
			// By way of this server, because not every program keeps its token to itself when it is sent elsewhere.
			return e.inputURL(ctx, home, in, true)
		}
	}
	return "", fault.Say(fault.NotFound, "job %s has no input %.200q", f.jobID, name)
}

func (e *Engine) callPrepare(ctx context.Context, provider string, spec *machine.Spec, report func(machine.Preparation)) error {
	if err := failpoint.Hit("provider.prepare.before"); err != nil {
		return err
	}
	err := machine.Prepare(ctx, e.providers[provider], spec, report)
	if failed := failpoint.Hit("provider.prepare.after"); failed != nil {
		return failed
	}
	return err
}

func (e *Engine) callLogs(ctx context.Context, provider, id string, stdout, stderr io.Writer) error {
	if err := failpoint.Hit("provider.logs.before"); err != nil {
		return err
	}
	err := machine.Logs(ctx, e.providers[provider], id, true, stdout, stderr)
	if failed := failpoint.Hit("provider.logs.after"); failed != nil {
		return failed
	}
	return err
}

// checkBare checks what a job asks for that runs without our agent.
func checkBare(spec *dayfly.JobSpec) error {
	switch {
	case !spec.Bare && !spec.OwnAgent:
		return nil
	case spec.Bare && spec.OwnAgent:
		return fault.Field("own_agent", "cannot be true with bare: either the image claims its attempt by itself, or nobody in it does")
	case spec.OwnAgent && spec.Image == "":
		return fault.Field("own_agent", "needs an image, which brings the agent")
	case spec.Bare && spec.Image == "" && len(spec.Command) == 0:
		return fault.Field("bare", "needs an image or a command: there is nothing to run")
	case spec.Bare && spec.KeepOnFailure > 0:
		return fault.Field("keep_on_failure", "keeps a machine that runs, and a bare machine has ended when its job fails")
	case spec.Bare && len(spec.Outputs) > 0:
		return fault.Field("outputs", "no agent in a bare machine stores them: let the program upload its files with its token "+
			"(POST /agent/v1/attempts/ID/artifacts), or leave bare out if the image can run Dayfly's agent")
	}
	return nil
}

// planBare decides about an attempt whose machine runs the job's command as soon as it exists, and that has not been
// claimed. Whatever is done about it, its command may already run; so it is not over before its machine is gone, or was
// certainly never made.
func planBare(a *attemptView, t *timers) []action {
	late := a.age > a.boot
	unwanted := a.cancel || a.overdue || late
	never := a.state == dayfly.AttemptCreating && !a.sending || // the provider has not been asked, or has refused
		a.state == dayfly.AttemptCreateUnknown && a.absent >= t.absentFor
	switch {
	case a.gone:
		return a.end(a.unwantedVerdict(true))
	case a.killed:
		return nil // being destroyed until confirmed
	case (a.sight == machine.Running || a.sight == machine.Exited) && !a.cancel && !a.overdue:
		return []action{a.act(claimMachine, "its machine runs")}
	case a.sending:
		return nil // the answer comes within a minute
	case a.refused != nil && never:
		return a.end(*a.refused)
	case a.pending != nil && never:
		return a.end(*a.pending)
	case unwanted && never:
		return a.end(a.unwantedVerdict(false))
	case a.cancel || a.overdue:
		return a.remove()
	case a.absent >= t.absentFor && a.state == dayfly.AttemptBooting:
		return a.end(verdict{state: dayfly.AttemptLost, reason: dayfly.ReasonMachineLost, started: true,
			message: "The machine vanished. Whether its command had begun nobody knows."})
	case late:
		return a.remove()
	case a.state == dayfly.AttemptCreateUnknown && a.resendOK && a.refused == nil && a.sends < maxSends:
		return []action{a.act(resend, "the machine does not exist although it was asked for")}
	case a.state != dayfly.AttemptCreating && (a.lookDue || a.polls || a.sight == machine.Gone) && !a.asking:
		return []action{a.act(askProvider, "its provider does not say by itself that it runs")}
	}
	return nil
}

// remove has the machine of a bare attempt destroyed, once it is known that there is one or that there is none.
func (a *attemptView) remove() []action {
	if a.state == dayfly.AttemptBooting {
		return []action{a.act(killMachine, "it is not wanted any more, and its command may run")}
	}
	if a.state == dayfly.AttemptCreateUnknown && !a.asking {
		return []action{a.act(askProvider, "it is not wanted any more, and it is not known whether there is a machine")}
	}
	return nil
}

// unwantedVerdict is the verdict on a bare attempt that was given up before it was claimed. existed tells that there was a
// machine, so that its command may have begun.
func (a *attemptView) unwantedVerdict(existed bool) verdict {
	v := verdict{state: dayfly.AttemptNeverStarted, reason: dayfly.ReasonNeverStarted, started: existed}
	if existed {
		v.state, v.reason = dayfly.AttemptLost, dayfly.ReasonMachineLost
	}
	switch {
	case a.cancel:
		v.state, v.reason, v.started, v.message = dayfly.AttemptCanceled, dayfly.ReasonCanceled, false, "It was canceled; its machine is gone."
	case a.overdue:
		v.reason, v.message = dayfly.ReasonDeadline, "The job's total timeout passed while its machine was being made."
	case existed:
		v.message = fmt.Sprintf("The machine did not come up within the boot timeout of %v and was destroyed. Whether its command had begun nobody knows.", a.boot)
	default:
		v.message = fmt.Sprintf("There was no machine within the boot timeout of %v.", a.boot)
	}
	return v
}

// planBareRunning decides about an attempt that the server has claimed for its machine.
func planBareRunning(a *attemptView, t *timers) []action {
	ended := a.sight == machine.Exited || a.sight == machine.Gone
	switch {
	case a.sight == machine.Exited && a.exit != nil:
		return a.end(a.exitVerdict())
	case ended && !a.doubt || a.absent >= t.absentFor || a.gone:
		return a.end(a.afterLoss())
	case ended && !a.asking:
		return []action{a.act(askProvider, "its machine ended, and nobody knows how")}
	case a.killed:
		return nil // being destroyed until confirmed
	case a.order == "" && a.cancel:
		return []action{a.stop(wire.Canceled)}
	case a.order == "" && (a.overdue || a.limit > 0 && a.running > a.limit):
		return []action{a.stop(wire.TimedOut)}
	case a.order != "" && (a.deaf || a.ordered > a.grace):
		return []action{a.act(killMachine, "it did not end when it was told to")}
	case (a.polls || a.silence > t.lostAfter) && !a.asking:
		return []action{a.act(askProvider, "its provider does not say by itself that it has ended")}
	}
	return nil
}

// exitVerdict is the verdict on a bare attempt whose machine has ended.
func (a *attemptView) exitVerdict() verdict {
	x := a.exit
	v := verdict{state: dayfly.AttemptFailed, started: true, exit: x, message: "The machine ended" + describeExit(x) + "."}
	switch {
	case x.OK():
		v.state, v.message = dayfly.AttemptSucceeded, ""
	case a.cancel || a.order == wire.Canceled:
		v.state, v.reason, v.message = dayfly.AttemptCanceled, dayfly.ReasonCanceled, "It was canceled."
	case a.order == wire.TimedOut && a.overdue:
		v.state, v.reason, v.message = dayfly.AttemptTimedOut, dayfly.ReasonDeadline, "The job's total timeout passed."
	case a.order == wire.TimedOut || x.Expired:
		v.state = dayfly.AttemptTimedOut
		v.reason, v.message = a.outOfTime()
	case x.OOMKilled:
		v.reason = dayfly.ReasonOOMKilled
	case x.DiskFull:
		v.reason = dayfly.ReasonDiskFull
	case x.Signal != "":
		v.reason = dayfly.ReasonSignaled
	case x.Code < 0:
		v.reason, v.message = dayfly.ReasonNeverStarted, "The machine could not run its command"+describeExit(x)+"."
	case (x.Code == 126 || x.Code == 127) && x.Message != "":
		v.reason, v.final = dayfly.ReasonCommandNotFound, true
	default:
		v.reason = dayfly.ReasonExitNonzero
	}
	return v
}

// outOfTime says which limit a bare machine has reached.
func (a *attemptView) outOfTime() (dayfly.Reason, string) {
	if a.limitIsCost {
		return dayfly.ReasonCostLimit, "What the job may cost was used up, so its machine was ended. Give the job a higher max_cost, or make it faster."
	}
	return dayfly.ReasonTimeout, fmt.Sprintf("It ran longer than its run timeout of %v; raise timeouts.run if it needs more.", a.limit)
}
