package engine_test

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/wire"
)

func TestAJobIsLaunchedWithItsSubmissionWhenNothingWaits(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) { o.MaxMachines = map[string]int{"mem": 1} })
		f.work = workFor(time.Second)
		first := f.submit(nil)
		if first.State != dayfly.Starting || len(first.AttemptLog) != 1 || first.AttemptLog[0].ID != first.Attempt {
			t.Errorf("the first job: got state %s, attempt %s and %d attempts; want it starting, with its attempt",
				first.State, first.Attempt, len(first.AttemptLog))
		}
		second := f.submit(nil)
		if second.State != dayfly.Queued {
			t.Errorf("a job for which there is no room: got state %s, want queued", second.State)
		}
		check(t, f.finished(first.ID, 2*time.Second), dayfly.Succeeded, "", 1)
		check(t, f.finished(second.ID, 2*time.Second), dayfly.Succeeded, "", 1)
		if third := f.submit(func(s *dayfly.JobSpec) { s.Inputs = []dayfly.InputSpec{{Name: "in"}} }); third.State != dayfly.Created {
			t.Errorf("a job that waits for its input: got state %s, want created", third.State)
		}
		f.settled(10 * time.Second)
	})
}

func TestWhatWaitedForItsKeyGoesOnAsSoonAsTheKeyIsFree(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) {
			o.Queues = map[string]engine.QueueLimits{"default": {KeyConcurrency: 1}}
		})
		f.work = workFor(time.Second)
		began := time.Now()
		var ids []string
		for range 4 {
			ids = append(ids, f.submit(func(s *dayfly.JobSpec) { s.ConcurrencyKey = "one at a time" }).ID)
		}
		for _, id := range ids {
			check(t, f.finished(id, time.Minute), dayfly.Succeeded, "", 1)
		}
		if took := time.Since(began); took > 4*time.Second+500*time.Millisecond {
			t.Errorf("four jobs of a second, one after the other, took %v; want them to wait for nothing else", took)
		}
	})
}

// A lane's head is partly remembered and partly read. Whatever joins, leaves or is too large to be remembered, the
// order is that of the store.
func TestABacklogRunsInOrderWhateverIsRememberedOfIt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) { o.MaxMachines = map[string]int{"mem": 1} })
		var order []string
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
			order = append(order, a.Name) // one machine at a time
			wait(ctx, 10*time.Millisecond)
			return succeed(ctx, a)
		}
		large, err := json.Marshal(strings.Repeat("x", 20<<10))
		if err != nil {
			t.Fatal(err)
		}
		type waiting struct {
			id, name string
			priority int
		}
		var backlog []waiting
		add := func(i, priority int) {
			name := strconv.Itoa(i)
			job := f.submit(func(s *dayfly.JobSpec) {
				s.Name, s.Priority = name, priority
				if i%17 == 3 {
					s.Payload = large
				}
			})
			backlog = append(backlog, waiting{job.ID, name, priority})
		}
		hold := f.submit(func(s *dayfly.JobSpec) { s.Name = "hold" })
		for i := range 150 {
			add(i, []int{0, 0, 0, 2, -1}[i*7%5])
		}
		var want []string
		for i := 0; i < len(backlog); i += 11 {
			if _, err := f.engine.Load().Cancel(t.Context(), backlog[i].id); err != nil {
				t.Fatal(err)
			}
			backlog[i].name = ""
		}
		slices.SortStableFunc(backlog, func(a, b waiting) int { return -cmp.Compare(a.priority, b.priority) })
		for _, w := range backlog {
			if w.name != "" {
				want = append(want, w.name)
			}
		}
		check(t, f.finished(hold.ID, time.Minute), dayfly.Succeeded, "", 1)
		f.finished(backlog[len(backlog)-1].id, 10*time.Minute)
		f.settled(time.Minute)
		if got := order[1:]; !slices.Equal(got, want) {
			t.Errorf("order:\n got %v\nwant %v", got, want)
		}
	})
}
