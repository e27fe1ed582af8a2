package storetest

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

func modelCases() []testCase {
	return []testCase{
		{"RandomOperationsAnswerAsTheModelDoes", random},
		{"RandomOperationsOnMachinesOfPoolsAnswerAsTheModelDoes", randomPools},
	}
}

// random drives a store and the model with the same operations and compares what they answer.
func random(k *kit) {
	walk(k, false, func(d *drive) map[string]func(*rapid.T) {
		return map[string]func(*rapid.T){
			"":            d.compare,
			"submit":      d.submit,
			"submit more": d.submit,
			"start":       d.start,
			"cancel":      d.cancel,
			"store input": d.storeInput,
			"launch":      d.launch,
			"launch more": d.launch,
			"promote":     d.promote,
			"claim":       d.claim,
			"note":        d.note,
			"end":         d.end,
			"end more":    d.end,
			"machine":     d.moveMachine,
			"delete":      d.delete,
			"reopen":      d.reopen,
			"boot":        d.boot,
		}
	})
}

// randomPools does the same with jobs that run on machines of pools, most of them.
func randomPools(k *kit) {
	walk(k, true, func(d *drive) map[string]func(*rapid.T) {
		return map[string]func(*rapid.T){
			"":            d.compareRunners,
			"submit":      d.submit,
			"submit more": d.submit,
			"launch":      d.launch,
			"launch more": d.launch,
			"claim":       d.claim,
			"cancel":      d.cancel,
			"note":        d.note,
			"end":         d.end,
			"end more":    d.end,
			"machine":     d.moveMachine,
			"delete":      d.delete,
			"reopen":      d.reopen,
			"add runner":  d.addRunner,
			"ready":       d.ready,
			"ready more":  d.ready,
			"move runner": d.moveRunner,
		}
	})
}

// walk drives a store and the model through steps at random.
func walk(k *kit, pools bool, steps func(*drive) map[string]func(*rapid.T)) {
	rapid.Check(k.TB, func(t *rapid.T) {
		d := &drive{T: t, kit: k, real: k.harness.New(k.TB), model: newModel(), pools: pools}
		defer func() {
			if err := d.real.Close(); err != nil {
				t.Errorf("Close returned %v, want nil", err)
			}
		}()
		t.Repeat(steps(d))
		d.compareWhole()
	})
}

// drive is one run of random operations. Times rise, so that no order depends on a tie.
type drive struct {
	*rapid.T
	kit   *kit
	real  store.Store
	model *model
	steps int
	names int
	pools bool            // there are pools
	ends  []*store.Ending // those tried so far, to try some again
}

func (d *drive) now() time.Time {
	d.steps++
	return epoch().Add(time.Duration(d.steps) * time.Second)
}

func (d *drive) name(kind string) string {
	d.names++
	return fmt.Sprintf("%s_%04d", kind, d.names)
}

// pick draws one of a list.
func pick[V any](t *rapid.T, label string, list ...V) V {
	return rapid.SampledFrom(list).Draw(t, label)
}

// job draws a job that there is, and sometimes an old version of it.
func (d *drive) job(t *rapid.T) *store.Job {
	if len(d.model.jobs) == 0 {
		t.Skip("no jobs yet")
	}
	job := pick(t, "job", d.model.jobs...).row()
	job.Version -= int64(pick(t, "age", 0, 0, 0, 0, 1))
	return job
}

// queued draws a job that may be launched, most of the time.
func (d *drive) queued(t *rapid.T) *store.Job {
	queued := d.model.inOrder(func(*modelJob) bool { return true })
	if len(queued) == 0 || pick(t, "any", 0, 0, 0, 0, 1) == 1 {
		return d.job(t)
	}
	return pick(t, "queued job", queued...).row()
}

// attempt draws an attempt that there is.
func (d *drive) attempt(t *rapid.T) (*modelJob, *store.Attempt) {
	var all []*store.Attempt
	for _, j := range d.model.jobs {
		all = append(all, j.attempts...)
	}
	if len(all) == 0 {
		t.Skip("no attempts yet")
	}
	// The newer ones are where something can happen.
	all = all[max(0, len(all)-4):]
	j, a, err := d.model.findAttempt(pick(t, "attempt", all...).ID)
	if err != nil {
		t.Fatal(err)
	}
	return j, a
}

// same fails unless both stores answered alike.
func (d *drive) same(what string, got, want any, gotErr, wantErr error) {
	d.Helper()
	if fault.Of(gotErr) != fault.Of(wantErr) {
		d.Fatalf("%s: got error %v, want %v", what, gotErr, wantErr)
	}
	if wantErr == nil && !reflect.DeepEqual(neutral(got), neutral(want)) {
		d.Fatalf("%s:\n got %s\nwant %s", what, show(neutral(got)), show(neutral(want)))
	}
}

// neutral takes out of an answer what a store may choose: the seqs of attempts, what it says to people, and whether a
// claimed attempt comes with its machine.
func neutral(answer any) any {
	switch v := answer.(type) {
	case *store.Job:
		if v == nil {
			return v
		}
		c := *v
		if c.State == dayfly.Expired || c.Reason == dayfly.ReasonDeadline {
			c.Message = givenUpMessage
		}
		c.AttemptLog = nil
		for _, a := range v.AttemptLog {
			c.AttemptLog = append(c.AttemptLog, neutral(a).(*store.Attempt))
		}
		return &c
	case *store.Attempt:
		if v == nil {
			return v
		}
		c := *v
		c.Seq = 0
		if v.Job != nil {
			c.Job = neutral(v.Job).(*store.Job)
		}
		return &c
	case []*store.Job:
		list := []*store.Job{}
		for _, j := range v {
			list = append(list, neutral(j).(*store.Job))
		}
		return list
	case []*dayfly.Event:
		list := []dayfly.Event{}
		for _, e := range v {
			c := *e
			if c.State == dayfly.Expired || c.Reason == dayfly.ReasonDeadline {
				c.Message = givenUpMessage
			}
			list = append(list, c)
		}
		return list
	}
	return answer
}

func (d *drive) submit(t *rapid.T) {
	now := d.now()
	s := &store.Submission{Job: &store.Job{
		ID: d.name("job"), State: pick(t, "state", dayfly.Queued, dayfly.Queued, dayfly.Queued, dayfly.Created, dayfly.Scheduled),
		Provider: pick(t, "provider", "local", "local", "fly"), Queue: pick(t, "queue", "a", "a", "b"),
		Key:      pick(t, "key", "", "x", "x", "x"),
		Priority: pick(t, "priority", 0, 0, 1, -1), CreatedAt: now, Spec: dayfly.JobSpec{Command: []string{"true"}},
	}}
	switch s.Job.State {
	case dayfly.Created:
		s.Inputs = []store.Input{{Name: "in"}}
	case dayfly.Scheduled:
		s.Job.RunAt = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "delay"))*time.Second + time.Millisecond)
	default:
		s.Job.QueuedAt = now
	}
	if pick(t, "expires", false, false, true) && s.Job.State != dayfly.Created {
		s.Job.QueueDeadline = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "deadline"))*time.Second + time.Microsecond)
	}
	if pick(t, "has a total timeout", false, false, true) && s.Job.State != dayfly.Created {
		s.Job.TotalDeadline = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "total"))*time.Second + 2*time.Microsecond)
	}
	if pick(t, "refused before", false, false, true) {
		s.Job.Refusals = d.refusals()
	}
	if pick(t, "keyed", false, true) {
		s.Key, s.BodyHash = pick(t, "idempotency key", "1", "2", "3"), hash(pick(t, "body", "a", "a", "b"))
	}
	if s.Job.State == dayfly.Queued && pick(t, "launched", d.pools, false, false, true) {
		s.Launch = &store.Launch{AttemptID: d.name("att"), Machine: d.name("mach"), Provider: s.Job.Provider, Lifetime: time.Hour,
			Price: d.price(t), Time: s.Job.CreatedAt, QueueLimit: pick(t, "queue limit", 0, 0, 2), KeyLimit: pick(t, "key limit", 0, 1, 1)}
		d.lending(t, s.Launch)
	}
	got, replayed, err := d.real.Submit(d.kit.ctx, s)
	want, wantReplayed, wantErr := d.model.Submit(d.kit.ctx, s)
	if err == nil && wantErr == nil && !replayed {
		added, _ := d.model.find(want.ID)
		if got.Seq <= want.Seq-1 && len(d.model.jobs) > 1 && got.Seq <= d.model.jobs[len(d.model.jobs)-2].Seq {
			t.Fatalf("got Seq %d, which is not above those before", got.Seq)
		}
		added.Seq, want.Seq, d.model.lastSeq = got.Seq, got.Seq, got.Seq
		for _, a := range append(added.attempts, want.AttemptLog...) {
			a.Seq = got.Seq<<20 | int64(a.Number)
		}
	}
	d.same("submit", got, want, err, wantErr)
	d.same("replayed", replayed, wantReplayed, err, wantErr)
}

func (d *drive) move(what string, m *store.Move) {
	got, err := d.real.Move(d.kit.ctx, m)
	want, wantErr := d.model.Move(d.kit.ctx, m)
	d.same(what, got, want, err, wantErr)
}

func (d *drive) start(t *rapid.T) {
	job := d.job(t)
	if job.State == dayfly.Starting || job.State == dayfly.Running {
		t.Skip("not a move of an active job")
	}
	now := d.now()
	m := &store.Move{JobID: job.ID, Version: job.Version, From: job.State, To: dayfly.Queued, Time: now, StartedAt: now,
		QueuedAt: now, Event: "queued"}
	if pick(t, "refused", false, false, true) {
		m.Refusals, m.Message = d.refusals(), "refused"
	}
	if pick(t, "later", false, true) {
		m.To, m.QueuedAt, m.RunAt, m.Event = dayfly.Scheduled, time.Time{}, now.Add(3*time.Second+time.Nanosecond*1000), "scheduled"
	}
	d.move("start", m)
}

func (d *drive) cancel(t *rapid.T) {
	job := d.job(t)
	now := d.now()
	m := &store.Move{JobID: job.ID, Version: job.Version, From: job.State, To: dayfly.Canceled, Time: now, CancelRequestedAt: now,
		FinishedAt: now, Reason: dayfly.ReasonCanceled, Message: "canceled", Event: "canceled"}
	if job.State == dayfly.Starting || job.State == dayfly.Running {
		m.To, m.Event = job.State, "canceling"
	}
	d.move("cancel", m)
}

func (d *drive) storeInput(t *rapid.T) {
	job := d.job(t)
	in := store.Input{Name: pick(t, "name", "in", "none"), Size: 1, SHA256: "a", Blob: d.name("blob"), StoredAt: d.now()}
	got, gotErr := d.real.StoreInput(d.kit.ctx, job.ID, in)
	want, wantErr := d.model.StoreInput(d.kit.ctx, job.ID, in)
	d.same("store input", got, want, gotErr, wantErr)
}

func (d *drive) launch(t *rapid.T) {
	var wishes []*store.Launch
	queueLimit, keyLimit := pick(t, "queue limit", 0, 2), pick(t, "key limit", 0, 1, 1)
	for range rapid.IntRange(1, 4).Draw(t, "launches") {
		job := d.queued(t)
		l := &store.Launch{JobID: job.ID, Version: job.Version, AttemptID: d.name("att"), Machine: d.name("mach"),
			Provider: job.Provider, Lifetime: time.Hour, Price: d.price(t), Time: d.now(), QueueLimit: queueLimit, KeyLimit: keyLimit}
		if pick(t, "passed over", false, false, true) {
			l.Provider, l.Region, l.Message, l.Refusals = "docker", "here", "passed over", d.refusals()
		}
		d.lending(t, l)
		wishes = append(wishes, l)
	}
	got, err := d.real.Launch(d.kit.ctx, wishes)
	want, wantErr := d.model.Launch(d.kit.ctx, wishes)
	d.same("launch", len(got), len(want), err, wantErr)
	for i := range want {
		d.same(fmt.Sprintf("launch %d of %s", i, wishes[i].JobID), nil, nil, got[i], want[i])
	}
}

func (d *drive) refusals() []dayfly.Refusal { return []dayfly.Refusal{refusal("ams", d.name("why"))} }

func (d *drive) promote(t *rapid.T) {
	wall := d.now()
	now := wall.Add(time.Duration(rapid.IntRange(-5, 15).Draw(t, "ahead")) * time.Second)
	limit := rapid.IntRange(1, 4).Draw(t, "limit")
	got, gotNext, err := d.real.Promote(d.kit.ctx, now, wall, limit)
	want, wantNext, wantErr := d.model.Promote(d.kit.ctx, now, wall, limit)
	byID := func(a, b *store.Job) int { return cmp.Compare(a.ID+string(a.State), b.ID+string(b.State)) }
	slices.SortFunc(got, byID)
	slices.SortFunc(want, byID)
	d.same("promote", got, want, err, wantErr)
	d.same("when to promote next", gotNext, wantNext, nil, nil)
}

func (d *drive) claim(t *rapid.T) {
	_, a := d.attempt(t)
	c := &store.Claim{Attempt: a.ID, By: pick(t, "by", "m/1", "m/1", "m/2"), Time: d.now()}
	gotJob, got, err := d.real.Claim(d.kit.ctx, c)
	wantJob, want, wantErr := d.model.Claim(d.kit.ctx, c)
	if got != nil {
		got.Machine = nil
	}
	d.same("the claimed job", gotJob, wantJob, err, wantErr)
	d.same("the claimed attempt", got, want, err, wantErr)
}

func (d *drive) note(t *rapid.T) {
	_, a := d.attempt(t)
	n := &store.Note{Attempt: a.ID, Time: d.now()}
	switch pick(t, "kind", "booted", "unknown", "progress", "prepared") {
	case "booted":
		n.Booted = &machine.Machine{ID: d.name("i"), Location: "ams", Image: d.name("image")}
	case "prepared":
		n.Prepared = true
	case "unknown":
		n.Unknown = d.name("unknown")
	default:
		n.Progress = &dayfly.Progress{Fraction: 0.5, Text: d.name("step")}
	}
	d.same("note", nil, nil, d.real.Note(d.kit.ctx, []*store.Note{n}), d.model.Note(d.kit.ctx, []*store.Note{n}))
}

func (d *drive) end(t *rapid.T) {
	j, a := d.attempt(t)
	e := &store.Ending{
		Attempt: a.ID, Fence: a.Fence, JobVersion: j.Version, Time: d.now(), Message: d.name("message"), Started: true,
		State:     pick(t, "state", dayfly.AttemptSucceeded, dayfly.AttemptFailed, dayfly.AttemptLost),
		Artifacts: []dayfly.Artifact{{Name: "out", Size: int64(d.steps)}}, Unbilled: pick(t, "unbilled", false, false, false, true),
		Job: store.Next{State: pick(t, "next", dayfly.Succeeded, dayfly.Failed, dayfly.Queued, dayfly.Scheduled),
			Starts: d.steps, ReleaseKey: pick(t, "release", true, true, true, false)},
	}
	if e.Job.State == dayfly.Scheduled {
		e.Job.RunAt = e.Time.Add(2*time.Second + time.Microsecond)
	}
	if pick(t, "refused", true, false) {
		e.Job.Refusals = d.refusals()
	}
	if pick(t, "says", true, false) {
		e.Result = &wire.Result{Progress: &wire.Progress{Fraction: 0.75, Text: d.name("last")}}
	}
	e.KeepUntil = pick(t, "keep", time.Time{}, e.Time.Add(time.Hour))
	if a.Runner != "" {
		e.Runner = pick(t, "runner", store.RunnerRecycling, store.RunnerIdle, store.RunnerDraining, "")
		e.Gone, e.Wall = d.name("gone"), pick(t, "wall", time.Time{}, e.Time.Add(36*time.Hour))
	}
	switch pick(t, "wrong", "", "", "", "fence", "version", "again") {
	case "fence":
		e.Fence++
	case "version":
		e.JobVersion--
	case "again":
		if len(d.ends) > 0 {
			e = pick(t, "earlier", d.ends...)
		}
	}
	d.ends = append(d.ends, e)
	got, err := d.real.End(d.kit.ctx, e)
	want, wantErr := d.model.End(d.kit.ctx, e)
	d.same("end", got, want, err, wantErr)
}

func (d *drive) moveMachine(t *rapid.T) {
	j, a := d.attempt(t)
	m := &store.MachineMove{Name: cmp.Or(a.Runner, j.machine[a.ID]), Time: d.now(), To: pick(t, "to", machineStates()...),
		From: []store.MachineState{pick(t, "from", machineStates()...), store.MachineDeleting}}
	m.Wall = pick(t, "wall", time.Time{}, m.Time, m.Time.Add(36*time.Hour), m.Time.Add(-27*time.Hour))
	d.same("move machine", nil, nil, d.real.MoveMachine(d.kit.ctx, []*store.MachineMove{m}),
		d.model.MoveMachine(d.kit.ctx, []*store.MachineMove{m}))
}

func (d *drive) delete(t *rapid.T) {
	job := d.job(t)
	d.same("delete", nil, nil, d.real.Delete(d.kit.ctx, job.ID), d.model.Delete(d.kit.ctx, job.ID))
}

func (d *drive) reopen(t *rapid.T) {
	if pick(t, "really", 0, 0, 0, 1) == 0 {
		t.Skip("it takes long")
	}
	d.real = d.kit.harness.Reopen(d.kit.TB, d.real)
}

func (d *drive) boot(*rapid.T) {
	got, err := d.real.Boot(d.kit.ctx)
	want, wantErr := d.model.Boot(d.kit.ctx)
	if err != nil {
		d.Fatal(err)
	}
	d.same("boot", got.Epoch, want.Epoch, err, wantErr)
}

// compare compares what a glance at the stores shows.
func (d *drive) compare(*rapid.T) {
	all := &store.Query{Limit: 1000}
	got, _, err := d.real.List(d.kit.ctx, all)
	want, _, _ := d.model.List(d.kit.ctx, all)
	d.same("all jobs", got, want, err, nil)

	gotLanes, err := d.real.Lanes(d.kit.ctx)
	wantLanes, _ := d.model.Lanes(d.kit.ctx)
	d.same("lanes", sorted(gotLanes), sorted(wantLanes), err, nil)
	for _, lane := range wantLanes {
		got, err := d.real.Ready(d.kit.ctx, lane, nil, 3)
		want, _ := d.model.Ready(d.kit.ctx, lane, nil, 3)
		d.same("ready jobs", ids(got), ids(want), err, nil)
		if len(want) > 0 {
			after := want[0]
			got, err = d.real.Ready(d.kit.ctx, lane, after, 3)
			want, _ = d.model.Ready(d.kit.ctx, lane, after, 3)
			d.same("ready jobs behind "+after.ID, ids(got), ids(want), err, nil)
		}
	}
	gotCounts, err := d.real.Counts(d.kit.ctx)
	wantCounts, _ := d.model.Counts(d.kit.ctx)
	d.same("counts", sorted(gotCounts), sorted(wantCounts), err, nil)
}

// sorted is a list as text, in an order of its own.
func sorted[V any](list []V) string {
	lines := make([]string, 0, len(list))
	for _, v := range list {
		lines = append(lines, fmt.Sprintf("%+v", v))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// compareWhole compares everything there is.
func (d *drive) compareWhole() {
	live, bad, err := d.real.Live(d.kit.ctx, 0, 1000)
	if err != nil || len(bad) > 0 {
		d.Fatalf("Live returned %v and error %v", bad, err)
	}
	wantLive, _, _ := d.model.Live(d.kit.ctx, 0, 1000)
	byID := func(a, b *store.Attempt) int { return cmp.Compare(a.ID, b.ID) }
	slices.SortFunc(live, byID)
	slices.SortFunc(wantLive, byID)
	d.same("number of live attempts", len(live), len(wantLive), nil, nil)
	for i := range wantLive {
		d.same("a live attempt", live[i], wantLive[i], nil, nil)
	}
	costs, err := d.real.Costs(d.kit.ctx, "0000", "9999")
	wantCosts, _ := d.model.Costs(d.kit.ctx, "0000", "9999")
	d.same("costs", fmt.Sprint(costs), fmt.Sprint(wantCosts), err, nil)
	charges, err := d.real.Unsettled(d.kit.ctx)
	wantCharges, _ := d.model.Unsettled(d.kit.ctx)
	d.same("unsettled", sorted(priced(charges)), sorted(priced(wantCharges)), err, nil)
	all := &store.MachineQuery{Limit: 10_000}
	got, err := d.real.Machines(d.kit.ctx, all)
	want, _ := d.model.Machines(d.kit.ctx, all)
	d.same("number of machines", len(got), len(want), err, nil)
	for i := range want {
		d.same("a machine", *got[i], *want[i], nil, nil)
	}
	for _, j := range d.model.jobs {
		got, err := d.real.Job(d.kit.ctx, j.ID)
		want, wantErr := d.model.Job(d.kit.ctx, j.ID)
		d.same("a job", got, want, err, wantErr)
		gotEvents, err := d.real.Events(d.kit.ctx, j.ID, 0, 1000)
		wantEvents, wantErr := d.model.Events(d.kit.ctx, j.ID, 0, 1000)
		d.same("its events", gotEvents, wantEvents, err, wantErr)
		ahead, err := d.real.Ahead(d.kit.ctx, got)
		wantAhead, wantErr := d.model.Ahead(d.kit.ctx, want)
		d.same("jobs ahead of it", ahead, wantAhead, err, wantErr)
	}
	d.compareRunners(d.T)
	gotIDs, err := d.real.Expendable(d.kit.ctx, epoch().Add(time.Hour), 1000)
	wantIDs, wantErr := d.model.Expendable(d.kit.ctx, epoch().Add(time.Hour), 1000)
	d.same("expendable jobs", sorted(gotIDs), sorted(wantIDs), err, wantErr)
}
