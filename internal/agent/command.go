package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

const (
	// tick is how often a running command's deadline, progress and silence are looked at. Between two ticks the
	// computer may have been suspended, which Go's timers do not count; so the clock is asked each time.
	tick = 250 * time.Millisecond
	// maxKill is how long the agent waits for a killed tree to be gone. Only a process stuck in the kernel takes so
	// long; the machine's own end has to take it then.
	maxKill = 10 * time.Second
	// maxDrain is how long the agent goes on reading output after the last process has ended. Nobody writes any more,
	// unless a descriptor was passed to something outside the machine.
	maxDrain = 5 * time.Second
)

// run runs the command and fills in how it went. On return nothing of it is left, and all its output has been read.
func (a *attempt) run(r *wire.Result) {
	limit := a.job.LogLimit
	if limit <= 0 {
		limit = wire.DefaultLogLimit
	}
	kept := newAllowance(limit)
	last := make(chan struct{})
	a.out[0] = newStream(wire.Stdout, a.line, a.place.ScratchDir, kept, last)
	a.out[1] = newStream(wire.Stderr, a.line, a.place.ScratchDir, kept, last)

	env, err := a.environment()
	if err != nil {
		a.failStart(r, err)
		return
	}
	child, pipes, began, err := a.insist(env)
	if err != nil {
		a.failStart(r, err)
		return
	}
	r.Started, r.StartedMS = true, time.Now().UnixMilli()
	a.status.enter(wire.Running)
	for i, s := range a.out {
		go s.read(pipes[i])
	}

	stopped := a.watch(child, began)
	if err := a.endTree(child); err != nil {
		a.warn(r, "Some processes of the command could not be ended: %v.", err)
	}
	r.RunMS = (a.line.clock() - began).Milliseconds()
	a.drain(r, pipes)
	close(last)
	a.conclude(r, child, stopped)
}

// startPatience is for how long a command is started again that a lack of processes, memory or descriptors keeps from
// starting: other commands of the computer end meanwhile. Nothing of it has run, so it may be started again.
const startPatience = time.Minute

// insist is start, repeated with growing pauses for as long as there is no room for the command. It returns also when
// the try began that succeeded: the command may have run for a while, and the machine been suspended, before anybody here
// looks at the clock again.
func (a *attempt) insist(env []string) (child *process.Process, pipes [2]*os.File, began time.Duration, err error) {
	limit := a.line.clock() + min(startPatience, milliseconds(a.job.RunTimeoutMS, startPatience))
	for tries := 0; ; tries++ {
		began = a.line.clock()
		child, pipes, err = a.start(env)
		if fault.Of(err) != fault.Exhausted || a.line.clock() >= limit || !pause(a.work, backoff(tries, nil)) || !a.line.listen() {
			return child, pipes, began, err
		}
	}
}

// start starts the command and returns the reading ends of its two outputs.
func (a *attempt) start(env []string) (*process.Process, [2]*os.File, error) {
	var reading, writing [2]*os.File
	closeAll := func(files [2]*os.File) {
		for _, f := range files {
			if f != nil {
				f.Close()
			}
		}
	}
	for i := range reading {
		var err error
		if reading[i], writing[i], err = newPipe(); err != nil {
			closeAll(reading)
			closeAll(writing)
			return nil, reading, fmt.Errorf("the pipes for its output: %w: %w", fault.Exhausted, err)
		}
	}
	child, err := a.place.Group.Start(&process.Command{
		Argv:   slices.Concat(a.place.Entrypoint, a.job.Command),
		Env:    env,
		Dir:    a.place.WorkDir,
		Stdout: writing[0],
		Stderr: writing[1],
	})
	closeAll(writing) // the command has its own copies
	if err != nil {
		closeAll(reading)
	}
	return child, reading, err
}

// stopping is why the agent ended a command; the zero stopping is that it did not.
type stopping struct {
	outcome         wire.Outcome
	reason, message string
}

// watch waits until the command has ended, or has been told to and did not. It returns why the agent ended it.
func (a *attempt) watch(child *process.Process, began time.Duration) stopping {
	var deadline time.Duration
	if a.job.RunTimeoutMS > 0 {
		deadline = began + milliseconds(a.job.RunTimeoutMS, 0)
	}
	timer := time.NewTimer(a.untilTick(deadline))
	defer timer.Stop()
	for {
		select {
		case <-child.Done():
			return stopping{}
		case <-a.work.Done():
			return a.stop(child, byOrder(ordered(a.work)))
		case <-timer.C:
		}
		a.line.listen()
		a.status.poll(a.files)
		if deadline > 0 && a.line.clock() >= deadline {
			return a.stop(child, byTimeout(a.job))
		}
		timer.Reset(a.untilTick(deadline))
	}
}

// untilTick returns how long to sleep at most before looking at the clock again; deadline 0 is none.
func (a *attempt) untilTick(deadline time.Duration) time.Duration {
	if deadline == 0 {
		return tick
	}
	return min(tick, max(0, deadline-a.line.clock()))
}

// stop tells the command to end and gives it and its descendants their grace, unless the attempt's life has ended: then
// there is nothing to wait for. It returns why, or the zero stopping if the command had ended by itself already.
func (a *attempt) stop(child *process.Process, why stopping) stopping {
	select {
	case <-child.Done():
		return stopping{}
	default:
	}
	if a.line.over() != nil {
		return why
	}
	if err := a.place.Group.Signal(syscall.SIGTERM); err != nil {
		a.log.Warn("SIGTERM did not reach every process of the command", "error", err)
	}
	killAt := a.line.clock() + milliseconds(a.job.KillGraceMS, 0)
	timer := time.NewTimer(0)
	defer timer.Stop()
	ended, next := child.Done(), tick
	for {
		select {
		case <-ended:
			// The grace is for all that was told to end: a shell dies of SIGTERM at once, and what it started may need
			// the time to save its work.
			ended, next = nil, firstLook
		case <-a.line.life.Done():
			return why
		case <-timer.C:
		}
		a.line.listen()
		if a.line.clock() >= killAt || ended == nil && a.nothingRuns() {
			return why
		}
		timer.Reset(max(min(next, a.untilTick(killAt)), time.Millisecond))
		next = min(2*next, tick)
	}
}

// firstLook is how long after the end of a command that was told to end the agent looks again whether its descendants
// have ended too. Each pause is twice as long as the one before, since a look may be a search of /proc.
const firstLook = 5 * time.Millisecond

// nothingRuns reports whether the command and all its descendants have ended. When nobody knows, something may run.
func (a *attempt) nothingRuns() bool {
	empty, err := a.place.Group.Empty()
	return err == nil && empty
}

// endTree kills whatever is left of the command. Descendants do not outlive it: a machine lives only as long as its
// job.
func (a *attempt) endTree(child *process.Process) error {
	// Also when the attempt's life is over, and then above all, the tree has to go.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.line.life), maxKill)
	defer cancel()
	if err := a.place.Group.Kill(ctx); err != nil {
		return err
	}
	select {
	case <-child.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("agent: process %d has not ended %v after SIGKILL", child.Pid(), maxKill)
	}
}

// drain waits until both outputs were read to their end.
func (a *attempt) drain(r *wire.Result, pipes [2]*os.File) {
	patience, cancel := context.WithTimeout(context.Background(), maxDrain)
	defer cancel()
	for i, s := range a.out {
		if s.awaitEnd(patience) {
			continue
		}
		a.warn(r, "Something outside the machine still held the command's %s open %v after its end; what it wrote later is not kept.",
			s.backlog.stream, maxDrain)
		if err := pipes[i].SetReadDeadline(time.Now()); err != nil {
			pipes[i].Close()
		}
		<-s.ended
	}
}

// conclude says how the command ended.
func (a *attempt) conclude(r *wire.Result, child *process.Process, stopped stopping) {
	select {
	case <-child.Done():
	default: // it could not be killed; the warning says so
		r.Outcome, r.Message = wire.Failed, "The command could not be ended."
		if stopped.outcome != "" {
			r.Outcome = stopped.outcome
		}
		return
	}
	exit, usage := child.Exit()
	r.MaxRSSKB, r.UserMS, r.SystemMS = usage.MaxRSSKB, usage.User.Milliseconds(), usage.System.Milliseconds()
	r.Exit = &exit
	switch {
	case stopped.outcome != "":
		r.Outcome, r.Reason, r.Message = stopped.outcome, stopped.reason, stopped.message
	case exit.OK():
		r.Outcome = wire.Succeeded
	default:
		r.Outcome = wire.Failed
		r.Reason, r.Message = explain(&exit)
	}
}

func byOrder(outcome wire.Outcome) stopping {
	return stopping{outcome: outcome, message: "The server told the command to stop."}
}

func byTimeout(job *wire.Assignment) stopping {
	limit := milliseconds(job.RunTimeoutMS, 0)
	if job.RunIsTotal {
		return stopping{wire.TimedOut, "deadline_exceeded", fmt.Sprintf(
			"The job's total timeout passed; this attempt had %v of it left. Give the job a longer total timeout.", limit)}
	}
	if job.RunIsCost {
		return stopping{wire.TimedOut, "cost_limit", fmt.Sprintf(
			"What the job may cost was used up after %v of this command. Give the job a higher max_cost, or make it faster.", limit)}
	}
	return stopping{wire.TimedOut, "timeout", fmt.Sprintf(
		"The command was still running after %v, its run timeout. Give the job a longer run timeout, or make it faster.", limit)}
}

// explain returns why a command failed, as a code and as a sentence that says what to do.
func explain(exit *machine.Exit) (reason, message string) {
	reason = "exit_nonzero"
	how := fmt.Sprintf("exited with status %d", exit.Code)
	if exit.Signal != "" {
		reason, how = "signaled", "was ended by "+exit.Signal
	}
	switch {
	case exit.OOMKilled:
		return "oom_killed", "The command " + how + " because its memory ran out. Give the job more memory, or make it use less."
	case exit.DiskFull:
		return "disk_full", "The command " + how + " because its disk was full. Give the job more disk, or make it write less."
	case exit.Message != "": // the machine saw why
		return reason, "The command " + how + ". " + exit.Message
	case exit.Signal != "":
		return reason, "The command " + how + ", which Dayfly did not send. Its output may say why."
	case exit.Code == statusNotExecutable:
		return reason, "The command " + how + ", which from a shell means that a program could not be executed."
	case exit.Code == statusNotFound:
		return reason, "The command " + how + ", which from a shell means that a program was not found."
	default:
		return reason, "The command " + how + ". Its output should say why."
	}
}

// What shells make the exit status of a program that they cannot execute, and of one that they do not find.
const (
	statusNotExecutable = 126
	statusNotFound      = 127
)

// failStart fills in the result of a command that could not be started. When that is because of its program, the exit
// is the one that a shell would have made of it.
func (a *attempt) failStart(r *wire.Result, err error) {
	if outcome := ordered(a.work); outcome != "" {
		r.Outcome, r.Message = outcome, stoppedBeforeStart
		return
	}
	r.Outcome, r.Reason = wire.Failed, "never_started"
	text := strings.TrimPrefix(strings.TrimPrefix(plain(err), string(fault.NotFound)+": "), string(fault.TooLarge)+": ")
	switch {
	case errors.Is(err, exec.ErrNotFound):
		r.Reason, r.Exit = "command_not_found", &machine.Exit{Code: statusNotFound}
		r.Message = "The program was not found: " + strings.TrimPrefix(text, exec.ErrNotFound.Error()+": ") +
			". Check the spelling, give its full path, or use a machine or image that has it."
	case errors.Is(err, syscall.ELOOP):
		r.Reason, r.Exit = "command_not_found", &machine.Exit{Code: statusNotExecutable}
		r.Message = "The program " + text + ". Let its symbolic links, and those of the program that is to read it, end at a file."
	case errors.Is(err, syscall.E2BIG):
		r.Reason, r.Exit = "command_not_found", &machine.Exit{Code: statusNotExecutable}
		r.Message = "The command cannot be executed: " + text + ". Put the long part into a file, as an input of the job for example, and name the file in the command."
	case errors.Is(err, syscall.ENAMETOOLONG):
		r.Reason, r.Exit = "command_not_found", &machine.Exit{Code: statusNotExecutable}
		r.Message = "The program cannot be executed: " + text + ". Check the command, or give the program a shorter name."
	case fault.Of(err) == fault.NotFound:
		r.Reason, r.Exit = "command_not_found", &machine.Exit{Code: statusNotExecutable}
		r.Message = "The program " + text + ". Make the file executable, or name the program that is to read it."
	default:
		r.Message = "The command could not be started: " + text + "."
	}
}
