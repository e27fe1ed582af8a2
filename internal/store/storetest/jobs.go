package storetest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

func jobsCases() []testCase {
	return []testCase{
		{"ASubmittedJobIsReadBackWhole", submittedWhole},
		{"TheFirstEventOfAJobIsItsCreation", firstEvent},
		{"TimesAreMicrosecondsAndZeroIsNone", times},
		{"AJobMayHoldAnyText", anyText},
		{"AnIDIsUsedOnce", idOnce},
		{"SeqsRiseInTheOrderOfSubmission", seqsRise},
		{"AKeyUsedBeforeReturnsTheFirstJob", keyReplayed},
		{"AKeyUsedForAnotherBodyIsAMismatch", keyMismatch},
		{"AReplayAloneAddsNothing", keyOnlyReplay},
		{"ConcurrentSubmissionsWithOneKeyAddOneJob", keyRace},
		{"AKeyIsForgottenWithItsJob", keyForgotten},
		{"WhatDoesNotExistIsNotFound", notFound},
		{"ListIsPagedFromTheNewest", listPages},
		{"APageOfLargeJobsEndsEarly", listLarge},
		{"ListSelectsByStateQueueNameAndLabels", listSelects},
		{"ListRefusesALimitOutOfBounds", listLimit},
		{"EventsArePagedInOrder", eventPages},
		{"AMoveStartsAJob", moveStarts},
		{"AMoveWithAnOldVersionChangesNothing", moveStale},
		{"OfManyMovesOneWins", moveRace},
		{"ACancelBeforeLaunchIsTheEnd", cancelQueued},
		{"ACancelOfAnActiveJobIsAMark", cancelActive},
		{"AnInputIsStoredOnlyWhileTheJobIsCreated", storeInput},
	}
}

// full returns a submission in which every field has a value of its own.
func full(k *kit) *store.Submission {
	now := k.now()
	at := now.Add(time.Hour)
	start := true
	return &store.Submission{
		Job: &store.Job{
			ID: k.id("job"), State: dayfly.Scheduled, Provider: "fly", Queue: "video", Key: "customer-7", Priority: -3,
			CreatedAt: now, StartedAt: now.Add(1e6), RunAt: at, QueueDeadline: now.Add(3e9), TotalDeadline: now.Add(4e9),
			RetriedFrom: "job_before",
			Spec: dayfly.JobSpec{
				Name: "convert", Command: []string{"ffmpeg", "-i", "a b.wav"}, Env: map[string]string{"A": "1", "B": ""},
				Payload: json.RawMessage(`{"a":[1,2.5,"x"]}`), Provider: "fly", Image: "i", Size: "shared-cpu-1x", CPUs: 1.5,
				MemoryMB: 256, DiskMB: 10, Processes: 100, Inputs: []dayfly.InputSpec{{Name: "in/a.wav", ContentType: "audio/wav"}, {Name: "b"}},
				Outputs: []string{"**/*.mp3"}, Timeouts: dayfly.Timeouts{Queue: 1e9, Boot: 2e9, Run: 3e9, Total: 4e9, Grace: 5e9},
				Retry: dayfly.Retry{MaxAttempts: 3, MaxLaunches: 5, BackoffMin: 1e9, BackoffMax: 2e9, NonRetryableExits: []int{2}},
				Queue: "video", ConcurrencyKey: "customer-7", Priority: -3, RunAt: &at,
				Labels: map[string]string{"team": "red", "stage": "test"}, Start: &start,
			},
		},
		Inputs: []store.Input{
			{Name: "in/a.wav", ContentType: "audio/wav"},
			{Name: "b", Size: 3, SHA256: "abc", StoredAt: now.Add(1e3)},
		},
		Key: k.id("key"), BodyHash: hash("body"),
	}
}

func hash(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

func submittedWhole(k *kit) {
	s := full(k)
	want := *s.Job
	want.Version, want.Events, want.Inputs = 1, 1, slices.Clone(s.Inputs)
	added, replayed, err := k.store.Submit(k.ctx, s)
	k.must(err)
	want.Seq = added.Seq
	k.wantEqual("the job that Submit returned", added, &want)
	k.wantEqual("replayed", replayed, false)
	if added.Seq <= 0 {
		k.Errorf("got Seq %d, want a positive one", added.Seq)
	}
	k.wantEqual("the job read back", k.job(want.ID), &want)
	k.reopen()
	k.wantEqual("the job read back after a restart", k.job(want.ID), &want)
}

func firstEvent(k *kit) {
	for _, state := range []dayfly.State{dayfly.Created, dayfly.Scheduled, dayfly.Queued} {
		job := k.submit(inState(state))
		k.wantEqual("events", k.events(job.ID), []*dayfly.Event{
			{Seq: 1, Job: job.ID, Time: job.CreatedAt, Type: "created", State: state},
		})
	}
	for _, state := range []dayfly.State{dayfly.Starting, dayfly.Running, dayfly.Succeeded, "", "other"} {
		_, _, err := k.store.Submit(k.ctx, k.submission(inState(state)))
		k.wantKind(fmt.Sprintf("a submission in state %q", state), err, fault.Invalid)
	}
}

func times(k *kit) {
	zone := time.FixedZone("somewhere", 3600)
	at := time.Date(2026, 10, 25, 2, 30, 0, 987654321, zone)
	job := k.submit(func(s *store.Submission) { s.Job.CreatedAt = at })
	want := time.Date(2026, 10, 25, 1, 30, 0, 987654000, time.UTC)
	k.wantEqual("CreatedAt as Submit returned it", job.CreatedAt, want)
	read := k.job(job.ID)
	k.wantEqual("CreatedAt as it was read", read.CreatedAt, want)
	if !read.FinishedAt.IsZero() || !read.RunAt.IsZero() || !read.CancelRequestedAt.IsZero() {
		k.Errorf("times that were never set are %v, %v and %v, want zero", read.FinishedAt, read.RunAt, read.CancelRequestedAt)
	}
}

func anyText(k *kit) {
	const text = "' \" \\ $1 ?1 ; -- \u2028 𝄞 \r\n"
	job := k.submit(func(s *store.Submission) {
		s.Job.Queue, s.Job.Key, s.Job.Spec.Name = text, text, text
		s.Job.Spec.Env, s.Job.Spec.Labels = map[string]string{text: text}, map[string]string{text: text}
		s.Inputs = []store.Input{{Name: text, ContentType: text}}
		s.Key = text
	})
	k.wantEqual("the job", k.job(job.ID), job)
	k.wantEqual("the ready jobs", k.ready("local", text), []string{job.ID})
	found, _, err := k.store.List(k.ctx, &store.Query{Queue: text, Name: text, Labels: map[string]string{text: text}, Limit: 1})
	k.must(err)
	k.wantEqual("the list", ids(found), []string{job.ID})
}

func idOnce(k *kit) {
	job := k.submit()
	_, _, err := k.store.Submit(k.ctx, k.submission(func(s *store.Submission) { s.Job.ID = job.ID }))
	k.wantKind("a second job with the same id", err, fault.Conflict)
	k.wantEqual("the first job", k.job(job.ID), job)
}

func seqsRise(k *kit) {
	last := int64(0)
	for range 5 {
		job := k.submit()
		if job.Seq <= last {
			k.Fatalf("got Seq %d after %d, want it to rise", job.Seq, last)
		}
		last = job.Seq
	}
}

func keyReplayed(k *kit) {
	s := full(k)
	first, _, err := k.store.Submit(k.ctx, s)
	k.must(err)
	for range 2 {
		again := k.submission(func(n *store.Submission) { n.Key, n.BodyHash = s.Key, hash("body") })
		job, replayed, err := k.store.Submit(k.ctx, again)
		k.must(err)
		k.wantEqual("replayed", replayed, true)
		k.wantEqual("the job", job, first)
		_, err = k.store.Job(k.ctx, again.Job.ID)
		k.wantKind("the job that was not added", err, fault.NotFound)
		k.reopen()
	}
}

func keyOnlyReplay(k *kit) {
	wish := &store.Submission{Key: "key", BodyHash: []byte("body"), OnlyReplay: true}
	_, _, err := k.store.Submit(k.ctx, wish)
	k.wantKind("a key that has not been used", err, fault.NotFound)
	s := k.submission()
	s.Key, s.BodyHash = wish.Key, wish.BodyHash
	first, _, err := k.store.Submit(k.ctx, s)
	k.must(err)
	job, replayed, err := k.store.Submit(k.ctx, wish)
	k.must(err)
	k.wantEqual("replayed", replayed, true)
	k.wantEqual("the job", job, k.job(first.ID))
	wish.BodyHash = []byte("another")
	_, _, err = k.store.Submit(k.ctx, wish)
	k.wantKind("the same key with another body", err, fault.IdempotencyMismatch)
}

func keyMismatch(k *kit) {
	s := full(k)
	_, _, err := k.store.Submit(k.ctx, s)
	k.must(err)
	other := k.submission(func(n *store.Submission) { n.Key, n.BodyHash = s.Key, hash("another body") })
	_, _, err = k.store.Submit(k.ctx, other)
	k.wantKind("the same key with another body", err, fault.IdempotencyMismatch)
	_, err = k.store.Job(k.ctx, other.Job.ID)
	k.wantKind("the job that was not added", err, fault.NotFound)
}

// keyRace races more than once, because a store that is wrong and quick often wins.
func keyRace(k *kit) {
	const rounds, n = 20, 16
	for round := range rounds {
		submissions := make([]*store.Submission, n)
		for i := range submissions {
			submissions[i] = k.submission(func(s *store.Submission) { s.Key, s.BodyHash = fmt.Sprint("same ", round), hash("body") })
		}
		jobs := make([]*store.Job, n)
		fresh := make([]bool, n)
		for _, err := range race(n, func(i int) error {
			job, replayed, err := k.store.Submit(k.ctx, submissions[i])
			jobs[i], fresh[i] = job, !replayed
			return err
		}) {
			k.must(err)
		}
		added := 0
		for i := range n {
			if fresh[i] {
				added++
			}
			k.wantEqual("the job's id", jobs[i].ID, jobs[0].ID)
		}
		k.wantEqual("submissions that added a job", added, 1)
	}
	all, _, err := k.store.List(k.ctx, &store.Query{Limit: 2 * rounds})
	k.must(err)
	k.wantEqual("jobs in the store", len(all), rounds)
}

func keyForgotten(k *kit) {
	keyed := func(s *store.Submission) { s.Key, s.BodyHash = "again", hash("body") }
	first := k.cancel(k.submit(keyed))
	k.must(k.store.Delete(k.ctx, first.ID))
	second := k.submit(keyed)
	if second.ID == first.ID {
		k.Errorf("got job %s again, want a new one", second.ID)
	}
}

func notFound(k *kit) {
	_, err := k.store.Job(k.ctx, "none")
	k.wantKind("Job", err, fault.NotFound)
	_, err = k.store.Events(k.ctx, "none", 0, 10)
	k.wantKind("Events", err, fault.NotFound)
	_, err = k.store.Move(k.ctx, &store.Move{JobID: "none", From: dayfly.Created, To: dayfly.Queued, Time: k.now()})
	k.wantKind("Move", err, fault.NotFound)
	_, err = k.store.StoreInput(k.ctx, "none", store.Input{Name: "a"})
	k.wantKind("StoreInput", err, fault.NotFound)
	_, err = k.store.Attempt(k.ctx, "none")
	k.wantKind("Attempt", err, fault.NotFound)
	_, _, err = k.store.Claim(k.ctx, &store.Claim{Attempt: "none", By: "a", Time: k.now()})
	k.wantKind("Claim", err, fault.NotFound)
	_, err = k.store.End(k.ctx, &store.Ending{Attempt: "none", State: dayfly.AttemptLost, Job: store.Next{State: dayfly.Failed}})
	k.wantKind("End", err, fault.NotFound)
	k.wantKind("Delete", k.store.Delete(k.ctx, "none"), fault.NotFound)
	_, err = k.store.TokenByHash(k.ctx, hash("none"))
	k.wantKind("TokenByHash", err, fault.NotFound)
	k.wantKind("RevokeToken", k.store.RevokeToken(k.ctx, "none", k.now()), fault.NotFound)
}

func listPages(k *kit) {
	var want []string
	for range 7 {
		want = append([]string{k.submit().ID}, want...)
	}
	var got []string
	for before := int64(0); ; {
		page, _, err := k.store.List(k.ctx, &store.Query{Before: before, Limit: 3})
		k.must(err)
		for _, job := range page {
			k.wantEqual("a listed job", job, bare(k.job(job.ID)))
		}
		got = append(got, ids(page)...)
		if len(page) < 3 {
			break
		}
		before = page[2].Seq
	}
	k.wantEqual("the pages", got, want)
}

// listLarge submits jobs that come to more than a page, however many are asked for.
func listLarge(k *kit) {
	const each, jobs = 1 << 20, 9
	var want []string
	for range jobs {
		job := k.submit(func(s *store.Submission) { s.Job.Spec.Payload = json.RawMessage(`"` + strings.Repeat("x", each) + `"`) })
		want = append([]string{job.ID}, want...)
	}
	var got []string
	for q := (&store.Query{Limit: 1000}); ; {
		page, more, err := k.store.List(k.ctx, q)
		k.must(err)
		got = append(got, ids(page)...)
		if most := store.PageBytes/each + 1; len(page) > most {
			k.Errorf("a page has %d jobs of %d bytes each, want at most %d", len(page), each, most)
		}
		if !more {
			break
		}
		q.Before = page[len(page)-1].Seq
	}
	k.wantEqual("the pages of large jobs", got, want)
}

func listSelects(k *kit) {
	red := func(s *store.Submission) { s.Job.Spec.Labels = map[string]string{"team": "red", "n": "1"} }
	blue := func(s *store.Submission) { s.Job.Spec.Labels = map[string]string{"team": "blue", "n": "1"} }
	named := func(s *store.Submission) { s.Job.Spec.Name = "thumbnails" }
	created := k.submit(inState(dayfly.Created), red)
	scheduled := k.submit(inState(dayfly.Scheduled), blue)
	queued := k.submit(red, named)
	video := k.submit(inLane("local", "video"), blue, named)
	starting := k.launch(k.submit()).Job
	running := k.running().Job
	succeeded := k.finished()
	failed := k.end(k.failure(k.running(), dayfly.Failed))
	canceled := k.cancel(k.submit(red))
	all := []*store.Job{canceled, failed, succeeded, running, starting, video, queued, scheduled, created}
	for _, c := range []struct {
		query store.Query
		want  []*store.Job
	}{
		{store.Query{}, all},
		{store.Query{States: []dayfly.State{dayfly.Created}}, []*store.Job{created}},
		{store.Query{States: []dayfly.State{dayfly.Scheduled}}, []*store.Job{scheduled}},
		{store.Query{States: []dayfly.State{dayfly.Queued}}, []*store.Job{video, queued}},
		{store.Query{States: []dayfly.State{dayfly.Starting}}, []*store.Job{starting}},
		{store.Query{States: []dayfly.State{dayfly.Running}}, []*store.Job{running}},
		{store.Query{States: []dayfly.State{dayfly.Succeeded}}, []*store.Job{succeeded}},
		{store.Query{States: []dayfly.State{dayfly.Failed}}, []*store.Job{failed}},
		{store.Query{States: []dayfly.State{dayfly.Canceled}}, []*store.Job{canceled}},
		{store.Query{States: []dayfly.State{dayfly.Expired}}, nil},
		{store.Query{States: []dayfly.State{dayfly.Failed, dayfly.Running, dayfly.Created}}, []*store.Job{failed, running, created}},
		{store.Query{States: []dayfly.State{dayfly.Succeeded, dayfly.Queued}}, []*store.Job{succeeded, video, queued}},
		{store.Query{Queue: "video"}, []*store.Job{video}},
		{store.Query{Name: "thumbnails"}, []*store.Job{video, queued}},
		{store.Query{Labels: map[string]string{"team": "red"}}, []*store.Job{canceled, queued, created}},
		{store.Query{Labels: map[string]string{"team": "red", "n": "1"}}, []*store.Job{canceled, queued, created}},
		{store.Query{Labels: map[string]string{"team": "red", "n": "2"}}, nil},
		{store.Query{Labels: map[string]string{"team": "blue"}, Name: "thumbnails"}, []*store.Job{video}},
		{store.Query{Name: "thumbnails", States: []dayfly.State{dayfly.Queued}, Before: video.Seq}, []*store.Job{queued}},
		{store.Query{Queue: "none"}, nil},
	} {
		c.query.Limit = 100
		got, _, err := k.store.List(k.ctx, &c.query)
		k.must(err)
		k.wantEqual(fmt.Sprintf("%+v", c.query), ids(got), ids(c.want))
	}
}

func listLimit(k *kit) {
	for _, limit := range []int{-1, 0, 1001} {
		_, _, err := k.store.List(k.ctx, &store.Query{Limit: limit})
		k.wantKind(fmt.Sprintf("limit %d", limit), err, fault.Invalid)
	}
}

func eventPages(k *kit) {
	job := k.finished()
	all := k.events(job.ID)
	k.wantEqual("the number of events", len(all), 4)
	first, err := k.store.Events(k.ctx, job.ID, 0, 3)
	k.must(err)
	k.wantEqual("the first page", first, all[:3])
	second, err := k.store.Events(k.ctx, job.ID, 3, 3)
	k.must(err)
	k.wantEqual("the second page", second, all[3:])
	third, err := k.store.Events(k.ctx, job.ID, 4, 3)
	k.must(err)
	k.wantEqual("the number of events after the last", len(third), 0)
}

func moveStarts(k *kit) {
	for _, to := range []dayfly.State{dayfly.Queued, dayfly.Scheduled} {
		job := k.submit(inState(dayfly.Created))
		now := k.now()
		m := &store.Move{
			JobID: job.ID, Version: job.Version, From: dayfly.Created, To: to, Time: now, Event: string(to),
			StartedAt: now, QueueDeadline: now.Add(1e9), TotalDeadline: now.Add(2e9),
		}
		if to == dayfly.Queued {
			m.QueuedAt = now
		} else {
			m.RunAt = now.Add(5e9)
		}
		want := *job
		want.Version, want.Events, want.State = 2, 2, to
		want.StartedAt, want.QueueDeadline, want.TotalDeadline = m.StartedAt, m.QueueDeadline, m.TotalDeadline
		want.QueuedAt, want.RunAt = m.QueuedAt, m.RunAt
		moved, err := k.store.Move(k.ctx, m)
		k.must(err)
		k.wantEqual("the moved job", moved, &want)
		k.wantEqual("the job read", k.job(job.ID), &want)
		k.wantEqual("its last event", k.events(job.ID)[1],
			&dayfly.Event{Seq: 2, Job: job.ID, Time: now, Type: string(to), State: to})
	}
}

func moveStale(k *kit) {
	job := k.submit(inState(dayfly.Created))
	for what, change := range map[string]func(*store.Move){
		"an old version":    func(m *store.Move) { m.Version-- },
		"a version to come": func(m *store.Move) { m.Version++ },
		"another state":     func(m *store.Move) { m.From = dayfly.Scheduled },
	} {
		m := k.cancelMove(job)
		change(m)
		_, err := k.store.Move(k.ctx, m)
		k.wantKind("a cancel with "+what, err, fault.Conflict)
		k.wantEqual("the job after a cancel with "+what, k.job(job.ID), job)
		k.wantEqual("its number of events", len(k.events(job.ID)), 1)
	}
}

func moveRace(k *kit) {
	job := k.submit()
	m := k.cancelMove(job)
	won := k.accepted(race(20, func(int) error {
		_, err := k.store.Move(k.ctx, m)
		return err
	}), fault.Conflict)
	k.wantEqual("moves accepted", won, 1)
	k.wantEqual("events", len(k.events(job.ID)), 2)
}

func cancelQueued(k *kit) {
	for _, state := range []dayfly.State{dayfly.Created, dayfly.Scheduled, dayfly.Queued} {
		job := k.submit(inState(state))
		m := k.cancelMove(job)
		want := *job
		want.Version, want.Events, want.State, want.RunAt = 2, 2, dayfly.Canceled, time.Time{}
		want.CancelRequestedAt, want.FinishedAt = m.CancelRequestedAt, m.FinishedAt
		want.Reason, want.Message = m.Reason, m.Message
		moved, err := k.store.Move(k.ctx, m)
		k.must(err)
		k.wantEqual("the canceled job", moved, &want)
		k.wantEqual("the job read", k.job(job.ID), &want)
		k.wantEqual("its last event", k.events(job.ID)[1], &dayfly.Event{
			Seq: 2, Job: job.ID, Time: m.Time, Type: "canceled", State: dayfly.Canceled, Reason: m.Reason, Message: m.Message,
		})
	}
}

func cancelActive(k *kit) {
	for _, a := range []*store.Attempt{k.launch(k.submit()), k.running()} {
		job := bare(a.Job)
		m := k.cancelMove(job)
		want := *job
		want.Version++
		want.Events++
		want.CancelRequestedAt = m.CancelRequestedAt
		moved, err := k.store.Move(k.ctx, m)
		k.must(err)
		k.wantEqual("the marked job", moved, &want)
		k.wantEqual("the job read", bare(k.job(job.ID)), &want)
		k.wantEqual("its last event", k.events(job.ID)[want.Events-1], &dayfly.Event{
			Seq: want.Events, Job: job.ID, Time: m.Time, Type: "canceling", State: job.State,
		})
	}
}

func storeInput(k *kit) {
	job := k.submit(inState(dayfly.Created), func(s *store.Submission) {
		s.Inputs = []store.Input{{Name: "a", ContentType: "text/plain"}, {Name: "b"}}
	})
	in := store.Input{Name: "b", ContentType: "image/png", Size: 7, SHA256: "f00", Blob: "first", StoredAt: k.now()}
	replaced, err := k.store.StoreInput(k.ctx, job.ID, in)
	k.must(err)
	k.wantEqual("what the first upload replaced", replaced, "")
	want := *job
	want.Inputs = []store.Input{{Name: "a", ContentType: "text/plain"}, in}
	k.wantEqual("the job", k.job(job.ID), &want)
	in.Size, in.Blob = 8, "second"
	replaced, err = k.store.StoreInput(k.ctx, job.ID, in)
	k.must(err)
	k.wantEqual("what the second upload replaced", replaced, "first")
	k.wantEqual("the size of an input that was stored again", k.job(job.ID).Inputs[1].Size, int64(8))
	_, err = k.store.StoreInput(k.ctx, job.ID, store.Input{Name: "c"})
	k.wantKind("an input that was not declared", err, fault.NotFound)
	k.cancel(job)
	_, err = k.store.StoreInput(k.ctx, job.ID, in)
	k.wantKind("an input after the cancel", err, fault.Conflict)
}
