package storetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

func queueCases() []testCase {
	return []testCase{
		{"LanesAreThoseWithReadyJobs", lanes},
		{"ReadyJobsComeByPriorityAndThenByAge", readyOrder},
		{"ReadyJobsBehindOneAreFound", readyBehind},
		{"AheadCountsTheReadyJobsBeforeOne", ahead},
		{"ALaunchCommitsAttemptMachineAndEvent", launchCommits},
		{"ASubmissionMayLaunchItsJob", launchWithSubmit},
		{"ASubmissionThatIsReplayedLaunchesNothing", launchWithReplay},
		{"ASubmissionOverALimitWaits", launchWithSubmitLimited},
		{"ALaunchOfAJobThatHasMovedIsAConflict", launchConflict},
		{"ALaunchThatIsRefusedLeavesTheOthersAlone", launchOthers},
		{"OfManyLaunchesOfAJobOneWins", launchRace},
		{"PromoteMovesDueJobsInOrder", promoteOrder},
		{"PromoteMovesNoMoreThanItsLimit", promoteLimit},
		{"PromoteLooksForNamedTimesByTheWallClock", promoteByTwoClocks},
		{"PromoteExpiresJobsThatWereNeverStarted", promoteExpires},
		{"PromoteFailsJobsThatWaitWhenTheirTotalTimeoutPasses", promoteFails},
		{"PromoteSaysWhenThereIsMoreToDo", promoteNext},
		{"CountsFollowEveryTransition", counts},
	}
}

func lanes(k *kit) {
	k.submit(inLane("local", "default"))
	k.submit(inLane("local", "default"))
	k.submit(inLane("local", "video"))
	k.submit(inLane("fly", "default"))
	k.submit(inLane("none", "created"), inState(dayfly.Created))
	k.submit(inLane("none", "scheduled"), inState(dayfly.Scheduled))
	k.running(inLane("none", "running"))
	k.cancel(k.submit(inLane("none", "canceled")))
	got, err := k.store.Lanes(k.ctx)
	k.must(err)
	slices.SortFunc(got, func(a, b store.Lane) int {
		return strings.Compare(a.Provider+" "+a.Queue, b.Provider+" "+b.Queue)
	})
	k.wantEqual("lanes", got, []store.Lane{{Provider: "fly", Queue: "default"}, {Provider: "local", Queue: "default"},
		{Provider: "local", Queue: "video"}})
}

func readyOrder(k *kit) {
	a, b := k.submit(), k.submit(withPriority(5))
	c, d := k.submit(withPriority(-5)), k.submit(withPriority(5))
	e := k.submit()
	k.submit(inLane("local", "other"))
	k.submit(inLane("other", "default"))
	k.wantEqual("ready jobs", k.ready("local", "default"), ids([]*store.Job{b, d, a, e, c}))
	some, err := k.store.Ready(k.ctx, store.Lane{Provider: "local", Queue: "default"}, nil, 2)
	k.must(err)
	k.wantEqual("the first two", ids(some), ids([]*store.Job{b, d}))
	k.wantEqual("a ready job", some[0], b)
}

func readyBehind(k *kit) {
	low, high := k.submit(withPriority(-3)), k.submit(withPriority(7))
	first, second, third := k.submit(), k.submit(), k.submit()
	lowest := k.submit(withPriority(-4))
	k.submit(inLane("local", "other"))
	k.submit(inState(dayfly.Created))
	lane := store.Lane{Provider: "local", Queue: "default"}
	order := []*store.Job{high, first, second, third, low, lowest}
	for i, job := range order {
		for limit := range order {
			rest := order[i+1:]
			jobs, err := k.store.Ready(k.ctx, lane, job, limit)
			k.must(err)
			k.wantEqual(fmt.Sprintf("%d jobs behind job %d", limit, i), ids(jobs), ids(rest[:min(limit, len(rest))]))
		}
	}
	k.cancel(second)
	jobs, err := k.store.Ready(k.ctx, lane, second, 2)
	k.must(err)
	k.wantEqual("jobs behind one that is not ready any more", ids(jobs), ids([]*store.Job{third, low}))
}

func ahead(k *kit) {
	low, high := k.submit(withPriority(-1)), k.submit(withPriority(1))
	first, second := k.submit(), k.submit()
	k.submit(inLane("local", "other"), withPriority(9))
	for _, c := range []struct {
		job  *store.Job
		want int
	}{{high, 0}, {first, 1}, {second, 2}, {low, 3}} {
		got, err := k.store.Ahead(k.ctx, c.job)
		k.must(err)
		k.wantEqual(fmt.Sprintf("jobs ahead of one with priority %d", c.job.Priority), got, c.want)
	}
}

func launchCommits(k *kit) {
	job := k.submit(withKey("key"))
	l := k.wish(job)
	refusals, err := k.store.Launch(k.ctx, []*store.Launch{l})
	k.must(err)
	k.wantEqual("refusals", refusals, []error{nil})

	want := *job
	want.Version, want.Events, want.State, want.Attempt, want.Number = 2, 2, dayfly.Starting, l.AttemptID, 1
	got := k.attempt(l.AttemptID)
	k.wantEqual("the attempt's job", got.Job, &want)
	attempt := store.Attempt{
		Seq: got.Seq, ID: l.AttemptID, JobID: job.ID, Number: 1, State: dayfly.AttemptCreating, Provider: l.Provider,
		QueuedAt: job.QueuedAt, CreatedAt: l.Time, Job: got.Job,
		Machine: &store.Machine{
			Name: l.Machine, Provider: l.Provider, Attempt: l.AttemptID, JobID: job.ID, State: store.MachineCreating,
			Lifetime: l.Lifetime, CreatedAt: l.Time,
		},
	}
	k.wantEqual("the attempt", got, &attempt)
	attempt.Job = nil
	want.AttemptLog = []*store.Attempt{&attempt}
	k.wantEqual("the job", k.job(job.ID), &want)
	k.wantEqual("its last event", k.events(job.ID)[1],
		&dayfly.Event{Seq: 2, Job: job.ID, Time: l.Time, Type: "starting", State: dayfly.Starting, Attempt: 1})
}

// withLaunch has the submission launch its job.
func (k *kit) withLaunch(queueLimit, keyLimit int) func(*store.Submission) {
	return func(s *store.Submission) {
		s.Launch = k.wish(s.Job)
		s.Launch.QueueLimit, s.Launch.KeyLimit = queueLimit, keyLimit
	}
}

func launchWithSubmit(k *kit) {
	s := k.submission(withKey("key"), k.withLaunch(0, 0))
	job, _, err := k.store.Submit(k.ctx, s)
	k.must(err)
	k.wantEqual("the job's state", job.State, dayfly.Starting)
	k.wantEqual("its attempt", job.Attempt, s.Launch.AttemptID)
	k.wantEqual("the job", k.job(job.ID), job)
	k.wantEqual("ready jobs", k.ready("local", "default"), []string{})
	var types []string
	for _, e := range k.events(job.ID) {
		types = append(types, e.Type)
	}
	k.wantEqual("its events", types, []string{"created", "starting"})
	k.end(k.success(k.claim(job.Attempt, "agent/1")))
	k.wantEqual("how it ends", k.job(job.ID).State, dayfly.Succeeded)

	s = k.submission(inState(dayfly.Created), k.withLaunch(0, 0))
	_, _, err = k.store.Submit(k.ctx, s)
	k.wantKind("launching a job that waits for its inputs", err, fault.Invalid)
	_, err = k.store.Job(k.ctx, s.Job.ID)
	k.wantKind("that job", err, fault.NotFound)
}

func launchWithReplay(k *kit) {
	keyed := func(s *store.Submission) { s.Key, s.BodyHash = "again", hash("body") }
	first := k.submit(keyed)
	s := k.submission(keyed, k.withLaunch(0, 0))
	job, replayed, err := k.store.Submit(k.ctx, s)
	k.must(err)
	k.wantEqual("replayed", replayed, true)
	k.wantEqual("the job", job, first)
	_, err = k.store.Attempt(k.ctx, s.Launch.AttemptID)
	k.wantKind("the attempt", err, fault.NotFound)
}

func launchWithSubmitLimited(k *kit) {
	k.submit(k.withLaunch(1, 0))
	second := k.submit(k.withLaunch(1, 0))
	k.wantEqual("the state of a job over its queue's limit", second.State, dayfly.Queued)
	k.wantEqual("that job", k.job(second.ID), second)
	k.wantEqual("ready jobs", k.ready("local", "default"), []string{second.ID})

	video := inLane("local", "video")
	k.submit(video, withKey("key"), k.withLaunch(0, 1))
	held := k.submit(video, withKey("key"), k.withLaunch(0, 1))
	k.wantEqual("a job over its key's limit is held", held.Held, true)
	k.wantEqual("that job", k.job(held.ID), held)
	k.wantEqual("ready jobs", k.ready("local", "video"), []string{})
}

func launchConflict(k *kit) {
	launched, canceled, gone := k.launch(k.submit()).Job, k.cancel(k.submit()), *k.submit()
	gone.ID = "none"
	old := *k.submit()
	old.Version++
	for what, job := range map[string]*store.Job{
		"has been launched": launched, "has been canceled": canceled, "does not exist": &gone, "is at another version": &old,
		"is scheduled": k.submit(inState(dayfly.Scheduled)), "is created": k.submit(inState(dayfly.Created)),
	} {
		l := k.wish(job)
		refusals, err := k.store.Launch(k.ctx, []*store.Launch{l})
		k.must(err)
		k.wantKind("a launch of a job that "+what, refusals[0], fault.Conflict)
		_, err = k.store.Attempt(k.ctx, l.AttemptID)
		k.wantKind("its attempt", err, fault.NotFound)
	}
}

func launchOthers(k *kit) {
	a, b, c := k.submit(), k.submit(), k.submit()
	stale := *b
	stale.Version++
	wishes := []*store.Launch{k.wish(a), k.wish(&stale), k.wish(c)}
	refusals, err := k.store.Launch(k.ctx, wishes)
	k.must(err)
	if len(refusals) != 3 || refusals[0] != nil || refusals[2] != nil {
		k.Fatalf("got refusals %v, want only the second refused", refusals)
	}
	k.wantKind("the second", refusals[1], fault.Conflict)
	for i, want := range []dayfly.State{dayfly.Starting, dayfly.Queued, dayfly.Starting} {
		k.wantEqual(fmt.Sprintf("the state of job %d", i), k.job(wishes[i].JobID).State, want)
	}
}

func launchRace(k *kit) {
	job := k.submit()
	wishes := make([]*store.Launch, 20)
	for i := range wishes {
		wishes[i] = k.wish(job)
	}
	won := k.accepted(race(len(wishes), func(i int) error {
		refusals, err := k.store.Launch(k.ctx, wishes[i:i+1])
		if err != nil {
			return err
		}
		return refusals[0]
	}), fault.Conflict)
	k.wantEqual("launches accepted", won, 1)
	k.wantEqual("attempts", len(k.job(job.ID).AttemptLog), 1)
}

func runAt(at time.Time) func(*store.Submission) {
	return func(s *store.Submission) { s.Job.State, s.Job.RunAt = dayfly.Scheduled, at }
}

func queueDeadline(at time.Time) func(*store.Submission) {
	return func(s *store.Submission) { s.Job.QueueDeadline = at }
}

// promote promotes with one clock for all and returns the ids of the moved jobs, and when to come again.
func (k *kit) promote(now time.Time, limit int) ([]string, time.Time) {
	k.Helper()
	moved, next, err := k.store.Promote(k.ctx, now, now, limit)
	k.must(err)
	for _, job := range moved {
		k.wantEqual("a job that Promote returned", job, bare(k.job(job.ID)))
	}
	return ids(moved), next
}

func promoteOrder(k *kit) {
	now := epoch().Add(time.Hour)
	late, due := k.submit(runAt(now)), k.submit(runAt(now.Add(-time.Minute)))
	k.submit(runAt(now.Add(1e3)))
	got, _ := k.promote(now, 10)
	k.wantEqual("promoted jobs", got, ids([]*store.Job{due, late}))
	want := *due
	want.Version, want.Events, want.State, want.RunAt, want.QueuedAt = 2, 2, dayfly.Queued, time.Time{}, now
	k.wantEqual("the job", k.job(due.ID), &want)
	k.wantEqual("its last event", k.events(due.ID)[1],
		&dayfly.Event{Seq: 2, Job: due.ID, Time: now, Type: "queued", State: dayfly.Queued})
	k.wantEqual("ready jobs", k.ready("local", "default"), ids([]*store.Job{late, due}))
	again, _ := k.promote(now, 10)
	k.wantEqual("jobs promoted again", len(again), 0)
}

func promoteLimit(k *kit) {
	now := epoch().Add(time.Hour)
	var want []string
	for i := range 5 {
		want = append(want, k.submit(runAt(now.Add(time.Duration(i-10)*time.Second))).ID)
	}
	var got []string
	for i := range 3 {
		moved, next := k.promote(now, 2)
		got = append(got, moved...)
		if due := !next.IsZero() && !next.After(now); due != (i < 2) {
			k.Errorf("after %d of 5 there is more to do at %v, want that to be due: %v", len(got), next, i < 2)
		}
	}
	k.wantEqual("promoted jobs", got, want)
	_, _, err := k.store.Promote(k.ctx, now, now, 0)
	k.wantKind("a limit of 0", err, fault.Invalid)
}

// promoteByTwoClocks makes sure that what an owner named is looked for by the wall clock, and all else by the other.
func promoteByTwoClocks(k *kit) {
	for name, ahead := range map[string]time.Duration{"ahead of": time.Hour, "behind": -time.Hour} {
		now := epoch().Add(24 * time.Hour)
		wall := now.Add(-ahead)
		due := k.submit(runAt(wall), queueDeadline(wall.Add(time.Minute)), totalDeadline(wall.Add(2*time.Minute)))
		early := k.submit(runAt(wall.Add(time.Second)), queueDeadline(wall.Add(2*time.Second)), totalDeadline(wall.Add(3*time.Second)))
		end := k.failure(k.running(), dayfly.Scheduled)
		end.Job.RunAt = now
		again := k.end(end)
		end = k.failure(k.running(), dayfly.Scheduled)
		end.Job.RunAt = now.Add(2 * time.Second)
		waits := k.end(end)
		moved, next, err := k.store.Promote(k.ctx, now, wall, 10)
		k.must(err)
		k.wantEqual("promoted jobs with a clock "+name+" the wall's", ids(moved), ids([]*store.Job{due, again}))
		k.wantEqual("when to come again with a clock "+name+" the wall's", next, now.Add(time.Second))
		want := *due
		want.Version, want.Events, want.State, want.RunAt, want.QueuedAt = 2, 2, dayfly.Queued, time.Time{}, now
		want.QueueDeadline, want.TotalDeadline = now.Add(time.Minute), now.Add(2*time.Minute)
		k.wantEqual("the job whose time has come", k.job(due.ID), &want)
		k.wantEqual("the job whose time has not come", k.job(early.ID), early)
		k.wantEqual("the job that was put off", k.job(waits.ID).RunAt, waits.RunAt)
		k.wantEqual("the deadlines of a job that comes back", k.job(again.ID).QueueDeadline, again.QueueDeadline)
		for _, id := range []string{due.ID, early.ID, again.ID, waits.ID} {
			k.cancel(k.job(id))
		}
	}
}

func promoteExpires(k *kit) {
	now := epoch().Add(time.Hour)
	past := queueDeadline(now.Add(-1e3))
	queued, scheduled := k.submit(past), k.submit(runAt(now.Add(-time.Minute)), past)
	at := k.submit(queueDeadline(now))
	created := k.submit(inState(dayfly.Created), past)
	later := k.submit(runAt(now.Add(time.Hour)), past) // its deadline counts when it has become ready
	active := k.launch(k.submit(past))
	retried := k.end(k.failure(k.running(past), dayfly.Queued))
	refusal := k.failure(k.launch(k.submit(past)), dayfly.Scheduled)
	refusal.Started, refusal.Job.Starts, refusal.Job.RunAt = false, 0, now // it is due as well, and moves once
	refused := k.end(refusal)
	moved, _, err := k.store.Promote(k.ctx, now, now, 10)
	k.must(err)
	k.wantEqual("the job that became ready first", moved[0].ID, scheduled.ID)
	got := ids(moved[1:])
	slices.Sort(got)
	k.wantEqual("expired jobs", got, slices.Sorted(slices.Values([]string{queued.ID, scheduled.ID, refused.ID})))
	for i, job := range []*store.Job{queued, scheduled} {
		want, moves := *job, int64(i+1)
		want.Version, want.Events, want.State, want.FinishedAt = 1+moves, 1+moves, dayfly.Expired, now
		want.Reason, want.RunAt = dayfly.ReasonQueueTimeout, time.Time{}
		if job == scheduled {
			want.QueuedAt = now
		}
		read := k.job(job.ID)
		if read.Message == "" {
			k.Errorf("an expired job has no message, want a sentence")
		}
		want.Message = read.Message
		k.wantEqual("the expired job", read, &want)
		k.wantEqual("its last event", k.events(job.ID)[moves], &dayfly.Event{
			Seq: 1 + moves, Job: job.ID, Time: now, Type: "expired", State: dayfly.Expired, Reason: want.Reason, Message: want.Message,
		})
	}
	for _, job := range []*store.Job{at, created, later, active.Job, retried} {
		k.wantEqual("a job that does not expire", k.job(job.ID).State, job.State)
	}
}

func totalDeadline(at time.Time) func(*store.Submission) {
	return func(s *store.Submission) { s.Job.TotalDeadline = at }
}

func promoteFails(k *kit) {
	now := epoch().Add(time.Hour)
	past := totalDeadline(now.Add(-1e3))
	queued, scheduled := k.submit(past), k.submit(runAt(now.Add(-time.Minute)), past)
	failure := k.failure(k.running(past), dayfly.Scheduled)
	failure.Job.RunAt = now.Add(time.Hour)
	retried := k.end(failure)
	at := k.submit(totalDeadline(now))
	later := k.submit(runAt(now.Add(time.Hour)), past) // its deadline counts when it has become ready
	created := k.submit(inState(dayfly.Created), past)
	active, running := k.launch(k.submit(past)), k.running(past)
	moved, _, err := k.store.Promote(k.ctx, now, now, 10)
	k.must(err)
	got := ids(moved[1:]) // the first became ready, and is too late
	slices.Sort(got)
	k.wantEqual("failed jobs", got, slices.Sorted(slices.Values([]string{queued.ID, scheduled.ID, retried.ID})))
	for _, job := range []*store.Job{queued, scheduled, retried} {
		read := k.job(job.ID)
		k.wantEqual("its state", read.State, dayfly.Failed)
		k.wantEqual("its reason", read.Reason, dayfly.ReasonDeadline)
		k.wantEqual("when it finished", read.FinishedAt, now)
		if read.Message == "" {
			k.Errorf("a job that failed for its total timeout has no message, want a sentence")
		}
		events := k.events(job.ID)
		k.wantEqual("its last event", events[len(events)-1], &dayfly.Event{Seq: read.Events, Job: job.ID, Time: now,
			Type: "failed", State: dayfly.Failed, Reason: dayfly.ReasonDeadline, Message: read.Message})
	}
	for _, job := range []*store.Job{at, created, later, active.Job, running.Job} {
		k.wantEqual("a job that does not fail", k.job(job.ID).State, job.State)
	}
}

func promoteNext(k *kit) {
	start := epoch().Add(time.Hour)
	_, next := k.promote(start, 10)
	k.wantEqual("when to come again with nothing to do", next, time.Time{})
	scheduled := k.submit(runAt(start.Add(20 * time.Second)))
	_, next = k.promote(start, 10)
	k.wantEqual("when to come again for a scheduled job", next, scheduled.RunAt)
	deadline := k.submit(queueDeadline(start.Add(10 * time.Second))).QueueDeadline
	_, next = k.promote(start, 10)
	if !next.After(deadline) || next.After(deadline.Add(time.Millisecond)) {
		k.Errorf("got %v as when to come again for a deadline of %v, want just after it", next, deadline)
	}
	moved, next := k.promote(next, 10)
	k.wantEqual("jobs that expired then", len(moved), 1)
	k.wantEqual("when to come again after that", next, scheduled.RunAt)
	moved, next = k.promote(next, 10)
	k.wantEqual("jobs that were due then", moved, []string{scheduled.ID})
	k.wantEqual("when to come again in the end", next, time.Time{})
}

// counted reads the counts as a map.
func (k *kit) counted() map[store.Count]int {
	k.Helper()
	list, err := k.store.Counts(k.ctx)
	k.must(err)
	m := map[store.Count]int{}
	for _, c := range list {
		n := c.Jobs
		c.Jobs = 0
		if m[c] != 0 || n < 1 {
			k.Fatalf("got counts %+v, want each place once and with jobs", list)
		}
		m[c] = n
	}
	return m
}

func counts(k *kit) {
	check := func(want map[dayfly.State]int) {
		k.Helper()
		full := map[store.Count]int{}
		for state, n := range want {
			full[store.Count{Lane: store.Lane{Provider: "local", Queue: "default"}, State: state}] = n
		}
		k.wantEqual("counts", k.counted(), full)
	}
	check(nil)
	now := epoch().Add(time.Hour)
	k.submit(inState(dayfly.Created))
	k.submit(runAt(now))
	k.submit(runAt(now.Add(time.Hour)))
	k.submit(withKey("key"))
	held := k.submit(withKey("key"))
	check(map[dayfly.State]int{dayfly.Created: 1, dayfly.Scheduled: 2, dayfly.Queued: 2})
	k.promote(now, 1)
	check(map[dayfly.State]int{dayfly.Created: 1, dayfly.Scheduled: 1, dayfly.Queued: 3})
	a := k.launch(k.submit(withKey("key")))
	l := k.wish(held)
	l.KeyLimit = 1
	_, err := k.store.Launch(k.ctx, []*store.Launch{l})
	k.must(err)
	want := map[dayfly.State]int{dayfly.Created: 1, dayfly.Scheduled: 1, dayfly.Queued: 3, dayfly.Starting: 1}
	check(want)
	k.reopen()
	check(want)
	a = k.claim(a.ID, "agent/1")
	check(map[dayfly.State]int{dayfly.Created: 1, dayfly.Scheduled: 1, dayfly.Queued: 3, dayfly.Running: 1})
	k.reopen()
	k.end(k.failure(a, dayfly.Scheduled))
	check(map[dayfly.State]int{dayfly.Created: 1, dayfly.Scheduled: 2, dayfly.Queued: 3})
	k.cancel(k.job(held.ID))
	check(map[dayfly.State]int{dayfly.Created: 1, dayfly.Scheduled: 2, dayfly.Queued: 2})
}
