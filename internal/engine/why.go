package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// Why explains in sentences, the most important first, why a job is where it is and what happens next.
func (e *Engine) Why(ctx context.Context, id string) (*dayfly.Why, error) {
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	job, err := e.store.Job(ctx, id)
	if err != nil {
		return nil, err
	}
	w := &dayfly.Why{Job: job.ID, State: job.State}
	switch job.State {
	case dayfly.Created:
		e.whyCreated(w, job)
	case dayfly.Scheduled:
		e.whyScheduled(w, job)
	case dayfly.Queued:
		err = e.whyQueued(ctx, w, job)
	case dayfly.Starting, dayfly.Running:
		e.whyActive(w, job)
	default:
		whyFinished(w, job)
	}
	return w, err
}

func say(w *dayfly.Why, format string, args ...any) {
	w.Answers = append(w.Answers, fmt.Sprintf(format, args...))
}

func (e *Engine) whyCreated(w *dayfly.Why, job *store.Job) {
	if missing := missingInputs(job); len(missing) > 0 {
		say(w, "It waits for its inputs: %s not been uploaded.", plural(missing, "has", "have"))
		w.Next = "Upload them to the URLs in the job's inputs, then start it."
		if job.Spec.Start != nil && *job.Spec.Start {
			w.Next = "Upload them to the URLs in the job's inputs; it starts by itself after the last one."
		}
		return
	}
	say(w, "It has everything it needs and waits to be started.")
	w.Next = "It begins when whoever submitted it starts it."
}

func (e *Engine) whyScheduled(w *dayfly.Why, job *store.Job) {
	if job.Number == 0 {
		say(w, "It is scheduled for %s, in %s.", job.RunAt.Format(time.RFC3339), spoken(job.RunAt.Sub(wallClock())))
		return
	}
	in := spoken(job.RunAt.Sub(e.clock.now()))
	say(w, "Attempt %d ended and it waits %s before the next one, so that what was wrong has time to pass.", job.Number, in)
	if job.Message != "" {
		say(w, "Attempt %d: %s", job.Number, job.Message)
	}
	say(w, "The command has been started %d of at most %d times; %d of at most %d machines in a row failed before that.",
		job.Starts, job.Spec.Retry.MaxAttempts, job.Launches, job.Spec.Retry.MaxLaunches)
	e.whyRefused(w, job)
	w.Next = "It goes back to its queue at " + job.RunAt.Format(time.RFC3339) + "."
}

func (e *Engine) whyQueued(ctx context.Context, w *dayfly.Why, job *store.Job) error {
	limits := e.options.Queues[job.Queue]
	e.mu.Lock()
	inQueue, ofKey := e.active[place{queue: job.Queue}], e.active[place{job.Queue, job.Key}]
	e.mu.Unlock()
	if !slices.ContainsFunc(choicesOf(job.Provider), func(c choice) bool { return e.providers[c.provider] != nil }) {
		say(w, "Its provider %s is not configured any more.", job.Provider)
		w.Next = "Configure the provider again, or cancel the job."
		return nil
	}
	e.whyRefused(w, job)
	if job.Key != "" && limits.KeyConcurrency > 0 && ofKey >= limits.KeyConcurrency {
		say(w, "Its concurrency key %q is at its limit: %d of %d jobs run.", job.Key, ofKey, limits.KeyConcurrency)
	}
	stopped, err := e.overLimit(ctx, job.Queue)
	if err != nil {
		return err
	}
	if stopped != nil {
		say(w, "%s Nothing more of it is launched before midnight, UTC, unless the limit is raised.", stopped)
	}
	if limits.Concurrency > 0 && inQueue >= limits.Concurrency {
		say(w, "The queue %s is at its limit: %d of %d jobs run.", job.Queue, inQueue, limits.Concurrency)
	}
	e.whyPool(w, job, nil)
	e.whyFull(w, job)
	ahead, err := e.store.Ahead(ctx, job)
	if err != nil {
		return err
	}
	switch {
	case ahead > 0:
		say(w, "%d jobs are ahead of it in queue %s.", ahead, job.Queue)
	case len(w.Answers) == 0:
		say(w, "Nothing holds it up: it is next, and is about to be started.")
	default:
		say(w, "It is the next in queue %s.", job.Queue)
	}
	total := job.TotalDeadline
	if d := job.QueueDeadline; !d.IsZero() && job.Starts == 0 && (total.IsZero() || !d.After(total)) {
		w.Next = fmt.Sprintf("It expires if it has not started by %s.", d.Format(time.RFC3339))
	} else if !total.IsZero() {
		w.Next = fmt.Sprintf("It fails at %s, when its total timeout passes, wherever it is then.", total.Format(time.RFC3339))
	}
	return nil
}

// percent says how far a preparation is, if that is known.
func percent(p machine.Preparation) string {
	if p.Total <= 0 {
		return ""
	}
	return fmt.Sprintf(", %d %%", min(100, p.Done*100/p.Total))
}

// whyFull says which of a job's providers have as many machines as they may have.
func (e *Engine) whyFull(w *dayfly.Why, job *store.Job) {
	room, dying := e.room(), e.doomed.count()
	e.mu.Lock()
	busy := maps.Clone(e.busy)
	for _, m := range e.kept {
		busy[m.provider]++
	}
	for _, r := range e.runners {
		if e.countsAlone(r) {
			busy[r.row.Provider]++
		}
	}
	e.mu.Unlock()
	var hired map[string]int
	if e.options.Hired != nil {
		hired = e.options.Hired()
	}
	told := map[string]bool{}
	for _, c := range choicesOf(job.Provider) {
		if told[c.provider] || e.providers[c.provider] == nil {
			continue
		}
		told[c.provider] = true
		switch busy, most := busy[c.provider]+hired[c.provider], e.maxMachines(c.provider); {
		case busy >= most:
			say(w, "The provider %s has as many machines as it may have: %d of %d.", c.provider, busy, most)
		case room[c.provider] <= 0 && dying[c.provider] > 0:
			say(w, "The provider %s has not confirmed yet that %d machines of jobs that are over are destroyed, beside %d at work; "+
				"together they may be %d. It is asked until it has.", c.provider, dying[c.provider], busy, 2*most)
		}
	}
}

// whyPool says what a job's pool has to do with where it is.
func (e *Engine) whyPool(w *dayfly.Why, job *store.Job, f *flight) {
	p := e.pools[job.Spec.Pool]
	if p == nil {
		return
	}
	now := e.clock.now()
	v := e.poolViews(now)[p.name]
	e.mu.Lock()
	paused, message, until := now.Before(p.until), p.pauseMessage(), p.until
	have := 0
	for _, r := range e.runners {
		if r.row.Pool == p.name && r.isHost() && store.Together(e.rowsOf(r)) != store.RunnerDraining {
			have++
		}
	}
	e.mu.Unlock()
	switch {
	case f != nil && f.runner != "":
		say(w, "The machine is one of pool %s, which keeps it for other jobs.", p.name)
	case paused:
		say(w, "The pool %s makes no machines for another %s: %s", p.name, spoken(until.Sub(now)), message)
	case f == nil && v.comes(job) >= 0:
		say(w, "A machine of pool %s boots that has room for it, or for one before it.", p.name)
	case f != nil && have >= p.Max:
		say(w, "No machine of pool %s was idle, and it has as many as it may have, %d; so this one is the job's alone.", p.name, p.Max)
	}
}

func (e *Engine) whyActive(w *dayfly.Why, job *store.Job) {
	if !job.CancelRequestedAt.IsZero() {
		say(w, "It is being stopped since %s, because it was canceled: the job is over when nothing of it runs.", clockTime(job.CancelRequestedAt))
	}
	f := e.flightOf(job.Attempt)
	if f == nil {
		say(w, "Attempt %d is changing hands; ask again in a moment.", job.Number)
		return
	}
	now := e.clock.now()
	e.mu.Lock()
	v := e.view(f, now)
	fetching := f.preparing
	var said machine.Preparation
	if fetching != nil {
		said = fetching.said
	}
	e.mu.Unlock()
	switch {
	case fetching != nil:
		say(w, "The provider %s has been fetching what machine %s needs for %s.", v.provider, v.machine, spoken(now.Sub(fetching.since)))
		if said.Text != "" {
			say(w, "It says of that: %s%s", said.Text, percent(said))
		}
	case v.untold:
		say(w, "It was given machine %s of pool %s %s ago, whose agent has not been told of it yet (of at most %s).", v.machine, job.Spec.Pool, spoken(v.age), spoken(v.boot))
	case v.state == dayfly.AttemptCreating:
		say(w, "The provider %s was asked for machine %s %s ago.", v.provider, v.machine, spoken(v.age))
	case v.state == dayfly.AttemptCreateUnknown:
		say(w, "The provider %s was asked for machine %s, and its answer was lost; Dayfly is finding out whether the machine exists.", v.provider, v.machine)
	case v.bare && v.state == dayfly.AttemptBooting:
		say(w, "Machine %s exists, and its provider has not said yet that it runs (%s of at most %s).", v.machine, spoken(v.age), spoken(v.boot))
	case v.state == dayfly.AttemptBooting:
		say(w, "Machine %s exists and its agent has not called yet (%s of at most %s).", v.machine, spoken(v.age), spoken(v.boot))
	case v.killed:
		say(w, "Machine %s is being destroyed; the attempt ends when that is confirmed.", v.machine)
	case v.bare:
		say(w, "Machine %s runs since %s, without an agent.", v.machine, spoken(v.running))
	case v.silence > e.timers.lostAfter:
		say(w, "It runs on machine %s, whose agent has been silent for %s; after %s the machine is destroyed.",
			v.machine, spoken(v.silence), spoken(e.timers.unreachableAfter))
	default:
		say(w, "Its command runs on machine %s since %s; its agent was last heard of %s ago.", v.machine, spoken(v.running), spoken(v.silence))
	}
	e.whyPool(w, job, f)
	for _, r := range job.Refusals {
		where, at := choice{r.Provider, r.Region}, r.At.Format(time.RFC3339)
		if tooDearThere(r) {
			say(w, "It is not on %s, which was too dear for it at %s: %s", where, at, r.Message)
		} else {
			say(w, "It is not on %s, which refused it at %s: %s", where, at, r.Message)
		}
	}
	if job.Progress != nil {
		say(w, "It says of itself: %.0f %% %s", job.Progress.Fraction*100, job.Progress.Text)
	}
	switch {
	case v.bare && v.state != dayfly.AttemptRunning:
		w.Next = "It runs as soon as its machine does."
	case v.state != dayfly.AttemptRunning:
		w.Next = "The command starts when the agent on its machine has called."
	case !job.CancelRequestedAt.IsZero():
		grace := time.Duration(job.Spec.Timeouts.Grace)
		w.Next = fmt.Sprintf("It has until %s to end, then it is killed.", clockTime(job.CancelRequestedAt.Add(grace)))
	default:
		w.Next = fmt.Sprintf("It may run for %s longer.", spoken(max(0, v.limit-v.running)))
	}
}

func whyFinished(w *dayfly.Why, job *store.Job) {
	message := strings.TrimSpace(job.Message)
	outcome := map[dayfly.State]string{
		dayfly.Succeeded: "It succeeded", dayfly.Failed: "It failed", dayfly.Canceled: "It was canceled", dayfly.Expired: "It expired",
	}[job.State]
	switch {
	case message == "":
		say(w, "%s.", outcome)
	case strings.HasPrefix(message, outcome):
		say(w, "%s", message)
	case message[0] >= 'A' && message[0] <= 'Z':
		say(w, "%s: %s", outcome, strings.ToLower(message[:1])+message[1:])
	default:
		say(w, "%s: %s", outcome, message)
	}
	for _, r := range job.Refusals {
		if tooDearThere(r) && !strings.Contains(message, r.Message) {
			say(w, "It was not tried on %s: %s", choice{r.Provider, r.Region}, r.Message)
		}
	}
	for _, a := range job.AttemptLog {
		if a.State == dayfly.AttemptSucceeded {
			continue
		}
		line := fmt.Sprintf("Attempt %d %s on %s", a.Number, fateOf(a), placeOf(a))
		if a.Machine != nil {
			line += ", machine " + a.Machine.Name
		}
		if a.MaxRSSKB > 0 {
			line += fmt.Sprintf(", largest process %d MiB", a.MaxRSSKB>>10)
		}
		line += "."
		if said := strings.TrimSpace(a.Message); said != message {
			line += " " + said
		}
		say(w, "%s", strings.TrimSpace(line))
	}
	switch job.Reason {
	case dayfly.ReasonOOMKilled:
		w.Next = "Give it more memory, such as by a larger size, then retry it."
	case dayfly.ReasonDiskFull:
		w.Next = "Give it more disk, or make room on the host, then retry it."
	case dayfly.ReasonTimeout:
		w.Next = "Submit it again with a longer run timeout if it needs more time."
	case dayfly.ReasonCostLimit:
		w.Next = "Submit it again with a higher max_cost if it is worth it."
	case dayfly.ReasonCommandNotFound:
		w.Next = "Check the command's first word, and that the program is installed where the job runs."
	case dayfly.ReasonMachineLost, dayfly.ReasonNeverStarted, dayfly.ReasonPoison:
		w.Next = "Retry it; give it retries if such failures should be retried without you."
	case dayfly.ReasonExitNonzero, dayfly.ReasonSignaled:
		w.Next = "Read its output, and retry it when what was wrong has been mended."
	}
}

// placeOf says where an attempt was launched.
func placeOf(a *store.Attempt) string {
	if a.Machine == nil {
		return a.Provider
	}
	return choice{a.Provider, a.Machine.Region}.String()
}

// fateOf says what became of an attempt, and how long its command ran.
func fateOf(a *store.Attempt) string {
	fate := map[dayfly.AttemptState]string{
		dayfly.AttemptFailed: "failed", dayfly.AttemptTimedOut: "ran out of time", dayfly.AttemptCanceled: "was canceled",
		dayfly.AttemptLost: "was lost", dayfly.AttemptNeverStarted: "never started",
	}[a.State]
	if a.Started && a.RunMS > 0 {
		fate += " after " + spoken(time.Duration(a.RunMS)*time.Millisecond)
	}
	return fate
}

func clockTime(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }

// spoken writes a length of time as one would say it, with no more digits than mean something.
func spoken(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = max(0, d); {
	case d < 950*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 59950*time.Millisecond:
		return strings.Replace(fmt.Sprintf("%.1f s", d.Seconds()), ".0 s", " s", 1)
	case d < time.Hour-time.Second/2: // else it is rounded to 60 minutes
		return pair(d.Round(time.Second), time.Minute, "min", time.Second, "s")
	case d < 2*day:
		return pair(d.Round(time.Minute), time.Hour, "h", time.Minute, "min")
	}
	return fmt.Sprintf("%d days", d.Round(day)/day)
}

// pair writes a length of time in a large and a small unit.
func pair(d, large time.Duration, largeName string, small time.Duration, smallName string) string {
	text := fmt.Sprintf("%d %s", d/large, largeName)
	if rest := d % large / small; rest > 0 {
		text += fmt.Sprintf(" %d %s", rest, smallName)
	}
	return text
}
