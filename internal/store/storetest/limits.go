package storetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

func limitsCases() []testCase {
	return []testCase{
		{"AQueueHasNoMoreActiveJobsThanItsLimit", queueLimit},
		{"AKeyHasNoMoreActiveJobsThanItsLimit", keyLimit},
		{"AKeyIsOfOneQueue", keyOfQueue},
		{"ConcurrentLaunchesExceedNoLimit", limitRace},
		{"AJobOverItsKeysLimitIsHeld", held},
		{"AHeldJobGoesOnWhenItsKeyIsReleased", heldGoesOn},
		{"HeldJobsGoOnByPriorityAndThenByAge", heldOrder},
		{"AnEndThatKeepsItsPlaceReleasesNobody", heldStays},
		{"AReleasedJobThatLeavesPassesItsTurnOn", heldPassedOn},
		{"OneHeldJobOfEachProviderGoesOn", heldOnProviders},
		{"AHeldJobThatIsCanceledReleasesNobody", heldCanceled},
		{"BootReleasesAllHeldJobs", heldBoot},
	}
}

// try launches jobs in one call with these limits and returns the refusals.
func (k *kit) try(queue, key int, jobs ...*store.Job) []error {
	k.Helper()
	var wishes []*store.Launch
	for _, job := range jobs {
		l := k.wish(job)
		l.QueueLimit, l.KeyLimit = queue, key
		wishes = append(wishes, l)
	}
	refusals, err := k.store.Launch(k.ctx, wishes)
	k.must(err)
	return refusals
}

// wantRefused checks which launches were refused for want of a place.
func (k *kit) wantRefused(what string, refusals []error, want ...bool) {
	k.Helper()
	for i, err := range refusals {
		if want[i] && !errors.Is(err, fault.Exhausted) || !want[i] && err != nil {
			k.Fatalf("%s: launch %d got %v, want it refused as exhausted: %v", what, i, err, want[i])
		}
	}
}

func queueLimit(k *kit) {
	a, b, c := k.submit(), k.submit(), k.submit()
	other := k.submit(inLane("local", "other"))
	refusals := k.try(2, 0, a, b, other, c)
	k.wantRefused("three with limit 2", refusals, false, false, false, true)
	k.wantEqual("held for its key", errors.Is(refusals[3], store.ErrHeld), false)
	k.wantEqual("the refused job", k.job(c.ID), c)
	k.wantEqual("ready jobs", k.ready("local", "default"), []string{c.ID})
	k.wantRefused("again", k.try(2, 0, c), true)
	// The limit is that of the queue, whoever runs it.
	far := k.submit(inLane("far", "default"))
	k.wantRefused("one of another provider", k.try(2, 0, far), true)
	k.end(k.success(k.claim(k.job(a.ID).Attempt, "agent/1")))
	k.wantRefused("when one has ended", k.try(2, 0, c, far), false, true)
}

func keyLimit(k *kit) {
	key := withKey("key")
	a, b, c := k.submit(key), k.submit(key), k.submit(key)
	free, other := k.submit(), k.submit(withKey("other"))
	k.wantRefused("three of a key with limit 2", k.try(0, 2, a, free, b, c, other), false, false, false, true, false)
	k.wantRefused("jobs without a key", k.try(0, 1, k.submit(), k.submit()), false, false)
	// A job that is over its key's limit takes no place of its queue.
	d := k.submit(key, inLane("local", "small"))
	e, f := k.submit(key, inLane("local", "small")), k.submit(inLane("local", "small"))
	k.wantRefused("a queue of two places", k.try(2, 1, d, e, f), false, true, false)
}

func keyOfQueue(k *kit) {
	a, b := k.submit(withKey("key")), k.submit(withKey("key"), inLane("local", "other"))
	k.wantRefused("one key in two queues", k.try(0, 1, a, b), false, false)
}

// limitRace races in many queues, because a store that is wrong and quick often wins.
func limitRace(k *kit) {
	for round := range 12 {
		queue := fmt.Sprint("queue-", round)
		const n, queueLimit, keyLimit = 18, 5, 2
		keys := []string{"", "a", "b"}
		wishes := make([]*store.Launch, n)
		for i := range wishes {
			wishes[i] = k.wish(k.submit(inLane("local", queue), withKey(keys[i%3])))
			wishes[i].QueueLimit, wishes[i].KeyLimit = queueLimit, keyLimit
		}
		won := k.accepted(race(n, func(i int) error {
			refusals, err := k.store.Launch(k.ctx, wishes[i:i+1])
			if err != nil {
				return err
			}
			return refusals[0]
		}), fault.Exhausted)
		k.wantEqual("launches accepted", won, queueLimit)
		active := map[string]int{}
		for _, l := range wishes {
			if job := k.job(l.JobID); job.State == dayfly.Starting {
				active[job.Key]++
			}
		}
		if active["a"] > keyLimit || active["b"] > keyLimit {
			k.Errorf("got active jobs per key %v, want at most %d of a and b", active, keyLimit)
		}
	}
}

// heldJobs returns a running job of a key with limit 1 and jobs with these priorities that are held by it.
func (k *kit) heldJobs(priorities ...int) (running *store.Attempt, held []*store.Job) {
	k.Helper()
	a := k.running(withKey("key"))
	for _, p := range priorities {
		job := k.submit(withKey("key"), withPriority(p))
		refusals := k.try(0, 1, job)
		k.wantRefused("one over the limit", refusals, true)
		k.wantEqual("held for its key", errors.Is(refusals[0], store.ErrHeld), true)
		held = append(held, job)
	}
	return a, held
}

// release is a success that gives up the key's place.
func (k *kit) release(a *store.Attempt) *store.Ending {
	e := k.success(a)
	e.Job.ReleaseKey = true
	return e
}

func held(k *kit) {
	_, jobs := k.heldJobs(0)
	want := *jobs[0]
	want.Held = true
	k.wantEqual("the held job", k.job(want.ID), &want)
	k.wantEqual("ready jobs", k.ready("local", "default"), []string{})
	found, err := k.store.Lanes(k.ctx)
	k.must(err)
	k.wantEqual("number of lanes", len(found), 0)
	listed, _, err := k.store.List(k.ctx, &store.Query{States: []dayfly.State{dayfly.Queued}, Limit: 10})
	k.must(err)
	k.wantEqual("queued jobs", ids(listed), []string{want.ID})
}

func heldGoesOn(k *kit) {
	a, jobs := k.heldJobs(0)
	k.end(k.release(a))
	k.wantEqual("the job", k.job(jobs[0].ID), jobs[0])
	k.wantEqual("ready jobs", k.ready("local", "default"), ids(jobs))
	k.wantRefused("its launch", k.try(0, 1, jobs[0]), false)
	k.wantEqual("its held", k.job(jobs[0].ID).Held, false)
}

func heldOrder(k *kit) {
	a, jobs := k.heldJobs(1, 9, 1, 9, -1)
	other := k.submit(withKey("key"), inLane("local", "other"))
	k.launch(k.submit(withKey("key"), inLane("local", "other")))
	k.wantRefused("one of another queue", k.try(0, 1, other), true)
	for _, i := range []int{1, 3, 0, 2, 4} {
		k.end(k.release(a))
		k.wantEqual("ready jobs", k.ready("local", "default"), []string{jobs[i].ID})
		a = k.claim(k.launch(jobs[i]).ID, "agent/1")
	}
	k.wantEqual("the job of another queue is held", k.job(other.ID).Held, true)
}

func heldStays(k *kit) {
	a, _ := k.heldJobs(0)
	k.end(k.success(a))
	k.wantEqual("ready jobs", k.ready("local", "default"), []string{})
}

func heldPassedOn(k *kit) {
	a, jobs := k.heldJobs(3, 2, 1, 0)
	k.end(k.release(a))
	k.cancel(k.job(jobs[0].ID))
	k.wantEqual("ready jobs after a cancel", k.ready("local", "default"), []string{jobs[1].ID})
	job := k.job(jobs[1].ID)
	_, err := k.store.Move(k.ctx, &store.Move{JobID: job.ID, Version: job.Version, From: dayfly.Queued, To: dayfly.Scheduled,
		Time: k.now(), RunAt: epoch().Add(time.Hour), Event: "scheduled"})
	k.must(err)
	k.wantEqual("ready jobs after one was put off", k.ready("local", "default"), []string{jobs[2].ID})

	first := k.submit(withKey("other"), queueDeadline(epoch().Add(time.Hour)))
	second := k.submit(withKey("other"))
	k.launch(k.submit(withKey("other")))
	k.wantRefused("the second", k.try(0, 1, second), true)
	k.promote(epoch().Add(2*time.Hour), 10)
	k.wantEqual("the state of the first", k.job(first.ID).State, dayfly.Expired)
	k.wantEqual("the second is held after the first expired", k.job(second.ID).Held, false)
}

func heldOnProviders(k *kit) {
	a := k.running(withKey("key"))
	far := inLane("far", "default")
	b, c := k.submit(withKey("key"), far), k.submit(withKey("key"), far)
	d, e := k.submit(withKey("key")), k.submit(withKey("key"))
	k.wantRefused("four of a key at its limit", k.try(0, 1, b, c, d, e), true, true, true, true)
	k.end(k.release(a))
	k.wantEqual("ready jobs of one provider", k.ready("far", "default"), []string{b.ID})
	k.wantEqual("ready jobs of the other", k.ready("local", "default"), []string{d.ID})
	k.wantRefused("their launches", k.try(0, 1, d, b), false, true)
	k.wantEqual("the first of the other provider is held", k.job(b.ID).Held, true)
}

func heldCanceled(k *kit) {
	_, jobs := k.heldJobs(1, 0)
	k.cancel(k.job(jobs[0].ID))
	k.wantEqual("ready jobs", k.ready("local", "default"), []string{})
	k.wantEqual("the canceled job is held", k.job(jobs[0].ID).Held, false)
}

func heldBoot(k *kit) {
	_, jobs := k.heldJobs(0, 1)
	_, err := k.store.Boot(k.ctx)
	k.must(err)
	k.wantEqual("ready jobs", k.ready("local", "default"), []string{jobs[1].ID, jobs[0].ID})
}
