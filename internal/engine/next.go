package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// verdict is how an attempt ended, whoever found out: its agent, its provider or the clock.
type verdict struct {
	state   dayfly.AttemptState
	reason  dayfly.Reason
	message string
	exit    *machine.Exit
	value   json.RawMessage
	// started says that user code may have run: then the attempt counts against max_attempts. A lost attempt that
	// was claimed counts, because nobody knows better.
	started bool
	// patient is set for a refusal that is nobody's fault and will pass, such as no capacity: it counts as nothing.
	patient bool
	// again is set when the job may go on at once, on another machine.
	again bool
	// final is set when trying again is pointless.
	final bool
	// refusal is what the provider said, when it refused the machine. elsewhere is set when another of the job's choices may
	// take it at once.
	refusal   *dayfly.Refusal
	elsewhere bool
	// unbilled is set when it is certain that no machine was made.
	unbilled bool
	// wait is the least time to wait before the next try.
	wait time.Duration
}

// poisonAfter is how many machines in a row a job may take down before it is taken for the cause.
const poisonAfter = 3

// next decides what becomes of a job whose attempt has ended. It is pure: luck is a number in [0, 1) that spreads
// retries out.
func next(job *store.Job, v verdict, now time.Time, luck float64) store.Next {
	n := store.Next{
		Reason: v.reason, Message: v.message, Value: v.value,
		Starts: job.Starts, Launches: job.Launches, Losses: 0,
		ReleaseKey: job.Key != "",
	}
	if v.exit != nil && v.exit.Signal == "" && v.exit.Code >= 0 {
		code := v.exit.Code
		n.ExitCode = &code
	}
	switch {
	case v.started:
		n.Starts, n.Launches = job.Starts+1, 0
	case !v.patient:
		n.Launches = job.Launches + 1
	}
	if v.state == dayfly.AttemptLost {
		n.Losses = job.Losses + 1
	}

	untried := true // whether there is a choice that has not refused the job for good
	if v.refusal != nil {
		n.Refusals = withRefusals(job.Refusals, *v.refusal)
		untried = len(open(job, n.Refusals)) > 0
	}

	end := func(state dayfly.State, reason dayfly.Reason, message string) store.Next {
		n.State, n.Reason, n.Message = state, reason, message
		return n
	}
	retry := job.Spec.Retry
	overdue := !job.TotalDeadline.IsZero() && !now.Before(job.TotalDeadline)
	switch {
	case !job.CancelRequestedAt.IsZero() || v.state == dayfly.AttemptCanceled:
		return end(dayfly.Canceled, dayfly.ReasonCanceled, "The job was canceled.")
	case v.state == dayfly.AttemptSucceeded:
		return end(dayfly.Succeeded, "", v.message)
	case overdue:
		return end(dayfly.Failed, dayfly.ReasonDeadline, deadlineMessage(job, v))
	case v.final || v.reason == dayfly.ReasonCostLimit:
		return end(dayfly.Failed, v.reason, v.message)
	case !untried:
		reason, message := refusedBy(n.Refusals)
		return end(dayfly.Failed, reason, message)
	case n.Losses >= poisonAfter:
		return end(dayfly.Failed, dayfly.ReasonPoison, fmt.Sprintf(
			"%d machines in a row were lost while they ran this job, so it is taken for the cause. The last one: %s", n.Losses, v.message))
	case !v.started && n.Launches >= retry.MaxLaunches:
		return end(dayfly.Failed, dayfly.ReasonNeverStarted, fmt.Sprintf(
			"%d machines in a row failed before the command started. The last one: %s", n.Launches, v.message))
	case v.started && n.Starts >= retry.MaxAttempts:
		return end(dayfly.Failed, v.reason, v.message)
	case v.exit != nil && slices.Contains(retry.NonRetryableExits, v.exit.Code):
		return end(dayfly.Failed, v.reason, v.message+" This exit code is not retried.")
	case v.reason == dayfly.ReasonOOMKilled && !retry.OOMKilled:
		return end(dayfly.Failed, v.reason, v.message+" The same size would fail the same way, so it was not tried again; set retry.oom_killed to do so.")
	}

	if v.again || v.refusal != nil && (v.elsewhere || forGood(v.refusal.Kind)) {
		n.State = dayfly.Queued // for the next of its choices, or another machine of its pool
		return n
	}
	n.State = dayfly.Scheduled
	n.RunAt = now.Add(max(v.wait, backoff(retry, max(n.Starts, n.Launches), luck)))
	return n
}

// refusedBy says why a job will run nowhere, when all of its places have refused it for good.
func refusedBy(refusals []dayfly.Refusal) (dayfly.Reason, string) {
	forMoney := slices.ContainsFunc(refusals, tooDearThere)
	switch {
	case len(refusals) == 1 && !forMoney:
		return dayfly.ReasonRefused, "The provider refused the machine: " + refusals[0].Message
	case !forMoney:
		return dayfly.ReasonRefused, "Each of its providers refused the machine: " + eachOf(refusals, "; ")
	case slices.ContainsFunc(refusals, func(r dayfly.Refusal) bool { return !tooDearThere(r) }):
		return dayfly.ReasonRefused, "It can run at none of its places: " + eachOf(refusals, "; ")
	}
	return dayfly.ReasonCostLimit, "What it may cost is not enough at any of its places: " + eachOf(refusals, "; ") + " Give it a higher max_cost."
}

// tooDearThere reports whether it is the job's money that keeps it from a place.
func tooDearThere(r dayfly.Refusal) bool { return r.Reason == dayfly.ReasonCostLimit }

// eachOf says of each place why a job does not run there.
func eachOf(refusals []dayfly.Refusal, between string) string {
	texts := make([]string, len(refusals))
	for i, r := range refusals {
		texts[i] = fmt.Sprintf("%s: %s", choice{r.Provider, r.Region}, r.Message)
	}
	return strings.Join(texts, between)
}

// backoff returns how long to wait after the n-th failure: anything from nothing to an exponentially growing bound.
// Spreading over the whole range keeps jobs that failed together from coming back together.
func backoff(r dayfly.Retry, n int, luck float64) time.Duration {
	bound := time.Duration(r.BackoffMin)
	for i := 1; i < n && bound < time.Duration(r.BackoffMax); i++ {
		bound *= 2
	}
	return time.Duration(luck * float64(min(bound, time.Duration(r.BackoffMax))))
}

func deadlineMessage(job *store.Job, v verdict) string {
	text := fmt.Sprintf("The job's total timeout of %v passed.", job.Spec.Timeouts.Total)
	if v.message != "" && v.reason != dayfly.ReasonDeadline {
		text += " The last attempt: " + v.message
	}
	return text
}
