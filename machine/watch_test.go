package machine_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// scripted is a provider whose lists follow a script; the last answer stays.
type scripted struct {
	machine.Provider // the other methods are not called
	answers          []answer
	calls            int
}

type answer struct {
	machines []*machine.Machine
	err      error
}

func (s *scripted) List(_ context.Context, owner string) ([]*machine.Machine, error) {
	if owner != "me" {
		return nil, fault.Internal
	}
	a := s.answers[min(s.calls, len(s.answers)-1)]
	s.calls++
	return a.machines, a.err
}

func list(states ...machine.State) answer {
	var a answer
	for i, state := range states {
		if state != "" {
			a.machines = append(a.machines, &machine.Machine{ID: string(rune('a' + i)), Owner: "me", State: state})
		}
	}
	return a
}

// follow returns what Watch yields for the script within the time the script takes.
func follow(t *testing.T, answers ...answer) []string {
	t.Helper()
	var got []string
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(len(answers))*time.Second-1)
		defer cancel()
		for m, err := range machine.Watch(ctx, &scripted{answers: answers}, "me", time.Second) {
			if err != nil {
				got = append(got, "error "+string(fault.Of(err)))
			} else {
				got = append(got, m.ID+" "+string(m.State))
			}
		}
	})
	return got
}

func TestAPolledWatchTellsTheDifferences(t *testing.T) {
	t.Parallel()
	const creating, running, exited = machine.Creating, machine.Running, machine.Exited
	cases := []struct {
		name    string
		answers []answer
		want    []string
	}{
		{
			"it begins with what there is",
			[]answer{list(running, exited)},
			[]string{"a running", "b exited"},
		}, {
			"it tells of changes only",
			[]answer{list(creating), list(creating), list(running), list(running), list(exited)},
			[]string{"a creating", "a running", "a exited"},
		}, {
			"it tells of new machines",
			[]answer{list(running), list(running, creating)},
			[]string{"a running", "b creating"},
		}, {
			"a machine is gone when two lists do not hold it, and that is told once",
			[]answer{list(running, running), list("", running), list("", running), list("", running), list("", running)},
			[]string{"a running", "b running", "a gone"},
		}, {
			"a machine that one list does not hold is not gone",
			[]answer{list(running), list(), list(running), list(), list(running)},
			[]string{"a running"},
		}, {
			"a list that failed says nothing about machines",
			[]answer{list(running), list(), {err: fault.Unavailable}, {err: fault.Unavailable}, list(running)},
			[]string{"a running", "error unavailable", "error unavailable"},
		}, {
			"an error at the beginning does not end it",
			[]answer{{err: fault.Denied}, list(running)},
			[]string{"error denied", "a running"},
		}, {
			"a machine that comes back after it was gone is told of again",
			[]answer{list(running), list(), list(), list(running)},
			[]string{"a running", "a gone", "a running"},
		}, {
			"a machine that is listed twice is told of once",
			[]answer{{machines: slices.Concat(list(running).machines, list(running).machines)}},
			[]string{"a running"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := follow(t, c.answers...); !slices.Equal(got, c.want) {
				t.Errorf("got  %v\nwant %v", got, c.want)
			}
		})
	}
}

func TestAPolledWatchListsOncePerInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &scripted{answers: []answer{list(machine.Running)}}
		ctx, cancel := context.WithTimeout(t.Context(), 95*time.Second)
		defer cancel()
		for range machine.Watch(ctx, p, "me", 10*time.Second) {
		}
		if p.calls != 10 {
			t.Errorf("lists within 95s at an interval of 10s: got %d, want 10", p.calls)
		}
	})
}

func TestAPolledWatchEndsWhenItsConsumerStops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cases := map[string][]answer{
			"at a machine":         {list(machine.Running, machine.Running)},
			"at an error":          {{err: fault.Unavailable}},
			"at a machine's death": {list(), list(machine.Running), list(), list()},
		}
		for name, answers := range cases {
			p := &scripted{answers: answers}
			seen := 0
			for m := range machine.Watch(t.Context(), p, "me", time.Second) {
				seen++
				if name != "at a machine's death" || m.State == machine.Gone {
					break
				}
			}
			if want := map[bool]int{true: 2, false: 1}[name == "at a machine's death"]; seen != want {
				t.Errorf("stopped %s: got %d yields, want %d", name, seen, want)
			}
		}
	})
}

func TestAPolledWatchEndsWithItsContextAndSaysNothingMore(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	p := &scripted{answers: []answer{{err: errors.New("the context is over")}}}
	cancel()
	for m, err := range machine.Watch(ctx, p, "me", time.Hour) {
		t.Errorf("Watch with a context that is over: got %v and error %v, want nothing", m, err)
	}
}

type watching struct {
	machine.Provider // not called
}

func (watching) Watch(context.Context, string) iter.Seq2[*machine.Machine, error] {
	return func(yield func(*machine.Machine, error) bool) {
		yield(&machine.Machine{ID: "from the watcher"}, nil)
	}
}

func TestAWatcherIsAskedInPlaceOfPolling(t *testing.T) {
	t.Parallel()
	var got []string
	for m := range machine.Watch(t.Context(), watching{}, "me", time.Second) {
		got = append(got, m.ID)
	}
	if want := []string{"from the watcher"}; !slices.Equal(got, want) {
		t.Errorf("Watch: got %v, want %v", got, want)
	}
}
