package memmachine_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

func spec(name string) *machine.Spec {
	return &machine.Spec{Name: name, Owner: "me", Lifetime: time.Hour, Command: []string{"stay"}}
}

// open returns a provider whose cloud ends with the test, so that it may be used inside a synctest bubble.
func open(t *testing.T, o *memmachine.Options) (*memmachine.Provider, *memmachine.Cloud) {
	t.Helper()
	p := memmachine.New(o)
	t.Cleanup(p.Cloud().Close)
	return p, p.Cloud()
}

func mustCreate(t *testing.T, p machine.Provider, s *machine.Spec) *machine.Machine {
	t.Helper()
	m, err := p.Create(t.Context(), s)
	if err != nil {
		t.Fatalf("Create(%s): got error %v, want a machine", s.Name, err)
	}
	return m
}

func wantState(t *testing.T, p machine.Provider, id string, want machine.State) *machine.Machine {
	t.Helper()
	m, err := p.Get(t.Context(), id)
	if err != nil {
		t.Fatalf("Get(%s): got error %v, want state %s", id, err, want)
	}
	if m.State != want {
		t.Fatalf("Get(%s): got state %s, want %s", id, m.State, want)
	}
	return m
}

func whats(log []memmachine.Effect) string {
	var words []string
	for _, e := range log {
		words = append(words, string(e.What))
	}
	return strings.Join(words, " ")
}

func TestAMachineLivesByTheBubblesClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, cloud := open(t, &memmachine.Options{Boot: 3 * time.Second})
		m := mustCreate(t, p, spec("a"))
		if m.State != machine.Creating {
			t.Errorf("state right after Create: got %s, want creating", m.State)
		}
		time.Sleep(3*time.Second - time.Nanosecond)
		synctest.Wait()
		wantState(t, p, m.ID, machine.Creating)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		wantState(t, p, m.ID, machine.Running)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := wantState(t, p, m.ID, machine.Exited); got.Exit == nil || !got.Exit.Expired {
			t.Errorf("Exit at the end of the lifetime: got %+v, want Expired", got.Exit)
		}
		if got, want := whats(cloud.Log()), "created started ended"; got != want {
			t.Errorf("log: got %q, want %q", got, want)
		}
	})
}

func TestAMachineLivesByAManualClock(t *testing.T) {
	t.Parallel()
	clock := memmachine.NewManualClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	p, _ := open(t, &memmachine.Options{Boot: time.Minute, Clock: clock})
	m := mustCreate(t, p, spec("a"))
	if want := clock.Now().Add(time.Hour); !m.Expires.Equal(want) {
		t.Errorf("Expires: got %v, want %v", m.Expires, want)
	}
	clock.Advance(59 * time.Second)
	wantState(t, p, m.ID, machine.Creating)
	clock.Advance(time.Second)
	wantState(t, p, m.ID, machine.Running)
	clock.Advance(2 * time.Hour)
	wantState(t, p, m.ID, machine.Exited)
}

func TestAManualClockCallsInOrderAndAtTheirOwnTime(t *testing.T) {
	t.Parallel()
	start := time.Unix(0, 0)
	clock := memmachine.NewManualClock(start)
	var got []string
	note := func(name string) func() {
		return func() { got = append(got, name+"@"+clock.Now().Sub(start).String()) }
	}
	clock.AfterFunc(3*time.Second, note("late"))
	clock.AfterFunc(time.Second, func() {
		note("early")()
		clock.AfterFunc(time.Second, note("set by early"))
	})
	clock.AfterFunc(2*time.Second, note("stopped"))()
	clock.AfterFunc(time.Minute, note("never"))
	clock.Advance(3 * time.Second)
	want := []string{"early@1s", "set by early@2s", "late@3s"}
	if !slices.Equal(got, want) {
		t.Errorf("calls: got %v, want %v", got, want)
	}
	if now := clock.Now().Sub(start); now != 3*time.Second {
		t.Errorf("Now after Advance: got %v, want 3s", now)
	}
}

func TestAGuestDecidesHowItsMachineEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told *machine.Spec
		p, _ := open(t, &memmachine.Options{Guest: func(_ context.Context, s *machine.Spec) machine.Exit {
			told = s
			return machine.Exit{Code: 9, OOMKilled: true}
		}})
		s := spec("a")
		s.Command, s.Agent = nil, &machine.Agent{URL: "http://home", Attempt: "att_1", Token: "secret"}
		m := mustCreate(t, p, s)
		synctest.Wait()
		if told == nil || told.Agent == nil || *told.Agent != *s.Agent || told.Agent == s.Agent {
			t.Errorf("the guest's spec: got %+v, want a copy of %+v", told, s)
		}
		got := wantState(t, p, m.ID, machine.Exited)
		if got.Exit == nil || *got.Exit != (machine.Exit{Code: 9, OOMKilled: true}) {
			t.Errorf("Exit: got %+v, want what the guest returned", got.Exit)
		}
	})
}

func TestAGuestIsToldWhyItMustEnd(t *testing.T) {
	t.Parallel()
	ways := map[string]struct {
		end  func(t *testing.T, p *memmachine.Provider, id string)
		want string
	}{
		"destroyed": {func(t *testing.T, p *memmachine.Provider, id string) {
			if err := p.Destroy(t.Context(), id); err != nil {
				t.Fatalf("Destroy: got error %v, want nil", err)
			}
		}, "destroyed"},
		"at its end date": {func(*testing.T, *memmachine.Provider, string) { <-time.After(time.Hour) }, "lifetime"},
		"killed": {func(t *testing.T, p *memmachine.Provider, id string) {
			if !p.Cloud().Exit(id, machine.Exit{Code: -1, Signal: "SIGKILL"}) {
				t.Fatalf("Exit(%s): got false, want true", id)
			}
		}, "made to exit"},
		"vanished": {func(t *testing.T, p *memmachine.Provider, id string) {
			if !p.Cloud().Vanish(id) {
				t.Fatalf("Vanish(%s): got false, want true", id)
			}
		}, "vanished"},
		"with its cloud": {func(_ *testing.T, p *memmachine.Provider, _ string) { p.Cloud().Close() }, "closed"},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var cause error
				p, _ := open(t, &memmachine.Options{Guest: func(ctx context.Context, _ *machine.Spec) machine.Exit {
					<-ctx.Done()
					cause = context.Cause(ctx)
					return machine.Exit{}
				}})
				m := mustCreate(t, p, spec("a"))
				way.end(t, p, m.ID)
				synctest.Wait()
				if cause == nil || !strings.Contains(cause.Error(), way.want) {
					t.Errorf("cause of the guest's end: got %v, want one about %q", cause, way.want)
				}
			})
		})
	}
}

func TestTheExitOfAGuestThatWasEndedDoesNotCount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, cloud := open(t, nil) // Idle returns SIGTERM when it is ended
		m := mustCreate(t, p, spec("a"))
		killed := machine.Exit{Code: -1, Signal: "SIGKILL", Message: "the host died"}
		cloud.Exit(m.ID, killed)
		synctest.Wait()
		if got := wantState(t, p, m.ID, machine.Exited); *got.Exit != killed {
			t.Errorf("Exit: got %+v, want %+v", *got.Exit, killed)
		}
		cloud.Exit(m.ID, machine.Exit{Code: 0})
		if got := wantState(t, p, m.ID, machine.Exited); *got.Exit != killed {
			t.Errorf("Exit after a second end: got %+v, want the first, %+v", *got.Exit, killed)
		}
	})
}

func TestEndingWhatIsNotThereIsReported(t *testing.T) {
	t.Parallel()
	_, cloud := open(t, nil)
	if cloud.Exit("mem-000001", machine.Exit{}) || cloud.Vanish("mem-000001") {
		t.Error("Exit and Vanish of an unknown id: got true, want false")
	}
}

func TestANewProcessSeesWhatTheOldOneMade(t *testing.T) {
	t.Parallel()
	old, cloud := open(t, nil)
	m := mustCreate(t, old, spec("a"))
	fresh := cloud.Connect()
	list, err := fresh.List(t.Context(), "me")
	if err != nil || len(list) != 1 || list[0].ID != m.ID {
		t.Errorf("List by a new process: got %v and error %v, want machine %s", list, err, m.ID)
	}
}

func TestCloseWaitsForGuestsAndLeavesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var running atomic.Int64
		p := memmachine.New(&memmachine.Options{Guest: func(ctx context.Context, _ *machine.Spec) machine.Exit {
			running.Add(1)
			<-ctx.Done()
			<-time.After(time.Second) // it takes its time
			running.Add(-1)
			return machine.Exit{}
		}})
		for _, name := range []string{"a", "b", "c"} {
			mustCreate(t, p, spec(name))
		}
		p.Cloud().Fail(memmachine.Destroy, memmachine.PretendDestroyed)
		p.Cloud().Close()
		if got := running.Load(); got != 0 {
			t.Errorf("guests running after Close: got %d, want 0", got)
		}
		if got := p.Cloud().Machines(); len(got) != 0 {
			t.Errorf("machines after Close: got %d, want 0", len(got))
		}
		if _, err := p.Create(t.Context(), spec("d")); !errors.Is(err, fault.Unavailable) {
			t.Errorf("Create after Close: got error %v, want fault.Unavailable", err)
		}
	})
}

func TestTheLogTellsWhatReallyHappened(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, cloud := open(t, nil)
		a, b := mustCreate(t, p, spec("a")), mustCreate(t, p, spec("b"))
		mustCreate(t, p, spec("a"))
		cloud.Vanish(a.ID)
		if err := p.Destroy(t.Context(), b.ID); err != nil {
			t.Fatalf("Destroy: got error %v, want nil", err)
		}
		synctest.Wait()
		var got []string
		for _, e := range cloud.Log() {
			got = append(got, e.Name+" "+string(e.What))
			if e.Owner != "me" || e.ID == "" || e.Time.IsZero() {
				t.Errorf("effect: got %+v, want an owner, an id and a time", e)
			}
		}
		want := []string{"a created", "a started", "b created", "b started", "a vanished", "b destroyed"}
		if !slices.Equal(got, want) {
			t.Errorf("log: got %v, want %v", got, want)
		}
		if n := cloud.Calls(memmachine.Create); n != 3 {
			t.Errorf("Calls(Create): got %d, want 3", n)
		}
	})
}

func TestWatchTellsTheLatestStateToASlowConsumer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, cloud := open(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		first := mustCreate(t, p, spec("a"))
		var got []string
		for m, err := range p.Watch(ctx, "me") {
			if err != nil {
				t.Fatalf("Watch: got error %v, want none", err)
			}
			got = append(got, m.Name+" "+string(m.State))
			switch len(got) {
			case 1: // while the consumer is here, three things happen to b and one to a
				b := mustCreate(t, p, spec("b"))
				cloud.Exit(b.ID, machine.Exit{})
				cloud.Exit(first.ID, machine.Exit{Code: 1})
			case 3:
				cloud.Vanish(first.ID)
			case 4:
				cancel()
			}
		}
		want := []string{"a running", "a exited", "b exited", "a gone"}
		if !slices.Equal(got, want) {
			t.Errorf("Watch: got %v, want %v", got, want)
		}
	})
}
