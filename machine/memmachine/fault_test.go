package memmachine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

func names(list []*machine.Machine) []string {
	var all []string
	for _, m := range list {
		all = append(all, m.Name)
	}
	return all
}

func mustList(t *testing.T, p machine.Provider) []string {
	t.Helper()
	list, err := p.List(t.Context(), "me")
	if err != nil {
		t.Fatalf("List: got error %v, want a list", err)
	}
	return names(list)
}

func TestARefusalHasItsKindAndNoEffect(t *testing.T) {
	t.Parallel()
	for _, kind := range []fault.Kind{fault.Invalid, fault.Denied, fault.Exhausted, fault.Conflict, fault.Unavailable, fault.Internal} {
		p, cloud := open(t, nil)
		cloud.Fail(memmachine.Create, memmachine.Refuse(kind)).Times(1)
		if _, err := p.Create(t.Context(), spec("a")); fault.Of(err) != kind {
			t.Errorf("Create under Refuse(%s): got error %v, want that kind", kind, err)
		}
		if got := cloud.Machines(); len(got) != 0 {
			t.Errorf("machines after Refuse(%s): got %d, want 0", kind, len(got))
		}
		mustCreate(t, p, spec("a"))
	}
}

func TestARefusalCanBeHadForEveryMethod(t *testing.T) {
	t.Parallel()
	p, cloud := open(t, nil)
	m := mustCreate(t, p, spec("a"))
	calls := map[memmachine.Method]func() error{
		memmachine.Create:  func() error { _, err := p.Create(t.Context(), spec("b")); return err },
		memmachine.Get:     func() error { _, err := p.Get(t.Context(), m.ID); return err },
		memmachine.List:    func() error { _, err := p.List(t.Context(), "me"); return err },
		memmachine.Page:    func() error { _, err := p.List(t.Context(), "me"); return err },
		memmachine.Destroy: func() error { return p.Destroy(t.Context(), m.ID) },
	}
	for method, call := range calls {
		rule := cloud.Fail(method, memmachine.Refuse(fault.Denied))
		if err := call(); !errors.Is(err, fault.Denied) {
			t.Errorf("%s under a rule: got error %v, want fault.Denied", method, err)
		}
		rule.Stop()
		if rule.Used() != 1 {
			t.Errorf("%s: got a rule used %d times, want 1", method, rule.Used())
		}
	}
	if got, want := whats(cloud.Log()), "created started"; got != want {
		t.Errorf("log: got %q, want %q", got, want)
	}
}

func TestRulesReadAsAScript(t *testing.T) {
	t.Parallel()
	p, cloud := open(t, nil)
	cloud.Fail(memmachine.Get, memmachine.Refuse(fault.Exhausted)).Times(2)
	cloud.Fail(memmachine.Get, memmachine.Refuse(fault.Unavailable)).After(1).Times(1)
	cloud.Fail(memmachine.Get, memmachine.Refuse(fault.Denied)).For("other")
	var got []fault.Kind
	for range 5 {
		_, err := p.Get(t.Context(), "x")
		got = append(got, fault.Of(err))
	}
	want := []fault.Kind{fault.Exhausted, fault.Exhausted, fault.NotFound, fault.Unavailable, fault.NotFound}
	if !slices.Equal(got, want) {
		t.Errorf("five calls: got %v, want %v", got, want)
	}
	if _, err := p.Get(t.Context(), "other"); !errors.Is(err, fault.Denied) {
		t.Errorf("a call about another machine: got error %v, want fault.Denied", err)
	}
	cloud.Heal()
	if _, err := p.Get(t.Context(), "other"); !errors.Is(err, fault.NotFound) {
		t.Errorf("after Heal: got error %v, want fault.NotFound", err)
	}
	if n := cloud.Calls(memmachine.Get); n != 7 {
		t.Errorf("Calls(Get): got %d, want 7", n)
	}
}

func TestAConditionChoosesCalls(t *testing.T) {
	t.Parallel()
	p, cloud := open(t, nil)
	rule := cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted)).
		When(func(c *memmachine.Call) bool { return c.Spec.Size.GPU != "" }).
		When(func(c *memmachine.Call) bool { return c.Key == "b" })
	for _, name := range []string{"a", "b"} {
		for _, gpu := range []string{"", "a10"} {
			s := spec(name)
			s.Size.GPU = gpu
			_, err := p.Create(t.Context(), s)
			if want := name == "b" && gpu != ""; errors.Is(err, fault.Exhausted) != want {
				t.Errorf("Create(%s, gpu %q): got error %v, want refused: %v", name, gpu, err, want)
			}
		}
	}
	if rule.Used() != 1 {
		t.Errorf("Used: got %d, want 1", rule.Used())
	}
}

func TestTooManyRequestsSaysHowLongToWait(t *testing.T) {
	t.Parallel()
	p, cloud := open(t, nil)
	cloud.Fail(memmachine.Create, memmachine.TooManyRequests(7*time.Second))
	_, err := p.Create(t.Context(), spec("a"))
	failure, ok := errors.AsType[*memmachine.Failure](err)
	if !ok || failure.RetryAfter != 7*time.Second || fault.Of(err) != fault.Exhausted {
		t.Errorf("Create: got error %v, want fault.Exhausted and a wait of 7s", err)
	}
}

func TestExecuteThenTimeoutHasItsEffectAndAskingAgainFindsIt(t *testing.T) {
	t.Parallel()
	p, cloud := open(t, nil)
	cloud.Fail(memmachine.Create, memmachine.ExecuteThenTimeout).Times(1)
	if _, err := p.Create(t.Context(), spec("a")); !errors.Is(err, fault.Unavailable) {
		t.Fatalf("Create: got error %v, want fault.Unavailable", err)
	}
	there := cloud.Machines()
	if len(there) != 1 {
		t.Fatalf("machines: got %d, want 1", len(there))
	}
	if again := mustCreate(t, p, spec("a")); again.ID != there[0].ID {
		t.Errorf("Create again: got machine %s, want %s", again.ID, there[0].ID)
	}
	if n := len(cloud.Machines()); n != 1 {
		t.Errorf("machines after asking again: got %d, want 1", n)
	}

	cloud.Fail(memmachine.Destroy, memmachine.ExecuteThenTimeout).Times(1)
	if err := p.Destroy(t.Context(), there[0].ID); !errors.Is(err, fault.Unavailable) {
		t.Errorf("Destroy: got error %v, want fault.Unavailable", err)
	}
	if n := len(cloud.Machines()); n != 0 {
		t.Errorf("machines after Destroy: got %d, want 0", n)
	}
	// A definite no stays one: it was carried out, and there is nothing to be unsure of.
	cloud.Fail(memmachine.Get, memmachine.ExecuteThenTimeout)
	if _, err := p.Get(t.Context(), there[0].ID); !errors.Is(err, fault.NotFound) {
		t.Errorf("Get of nothing: got error %v, want fault.NotFound", err)
	}
}

func TestACallThatHangsEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for want, hang := range []memmachine.Fault{memmachine.Hang, memmachine.ExecuteThenHang} {
		synctest.Test(t, func(t *testing.T) {
			p, cloud := open(t, nil)
			cloud.Fail(memmachine.Create, hang)
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := p.Create(ctx, spec("a")); !errors.Is(err, fault.Canceled) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Create: got error %v, want fault.Canceled and context.DeadlineExceeded", err)
			}
			if took := time.Since(began); took != time.Minute {
				t.Errorf("Create: it took %v, want 1m", took)
			}
			if got := len(cloud.Machines()); got != want {
				t.Errorf("machines: got %d, want %d", got, want)
			}
		})
	}
}

func TestADelayTakesItsTimeOrEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, cloud := open(t, nil)
		cloud.Fail(memmachine.Create, memmachine.Delay(5*time.Second))
		cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted)).Times(1)
		began := time.Now()
		if _, err := p.Create(t.Context(), spec("a")); !errors.Is(err, fault.Exhausted) {
			t.Errorf("a slow refusal: got error %v, want fault.Exhausted", err)
		}
		mustCreate(t, p, spec("a"))
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("two calls: they took %v, want 10s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.Create(ctx, spec("b")); !errors.Is(err, fault.Canceled) {
			t.Errorf("a call that ends while it is delayed: got error %v, want fault.Canceled", err)
		}
		time.Sleep(time.Minute)
		if got := names(cloud.Machines()); !slices.Equal(got, []string{"a"}) {
			t.Errorf("machines: got %v, want [a]", got)
		}
	})
}

func TestALateCreateLandsWhateverWasDoneMeanwhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, cloud := open(t, nil)
		cloud.Fail(memmachine.Create, memmachine.LandLate(time.Minute)).Times(1)
		if _, err := p.Create(t.Context(), spec("a")); !errors.Is(err, fault.Unavailable) {
			t.Fatalf("Create: got error %v, want fault.Unavailable", err)
		}
		if got := mustList(t, p); len(got) != 0 {
			t.Fatalf("List before it lands: got %v, want nothing", got)
		}
		if err := p.Destroy(t.Context(), "mem-000001"); err != nil {
			t.Fatalf("Destroy before it lands: got error %v, want nil", err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := mustList(t, p); !slices.Equal(got, []string{"a"}) {
			t.Errorf("List after it has landed: got %v, want [a]", got)
		}
	})
}

func TestALateCreateLandsOnTheMachineThatIsThereByThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, cloud := open(t, nil)
		cloud.Fail(memmachine.Create, memmachine.LandLate(time.Minute)).Times(1)
		if _, err := p.Create(t.Context(), spec("a")); err == nil {
			t.Fatal("Create: got nil, want an error")
		}
		mustCreate(t, p, spec("a"))
		time.Sleep(time.Hour / 2)
		synctest.Wait()
		if n := len(cloud.Machines()); n != 1 {
			t.Errorf("machines: got %d, want 1", n)
		}
	})
}

func TestStartTwiceMakesTwoMachinesOfOneName(t *testing.T) {
	t.Parallel()
	p, cloud := open(t, nil)
	cloud.Fail(memmachine.Create, memmachine.StartTwice).Times(1)
	first := mustCreate(t, p, spec("a"))
	if got := mustList(t, p); !slices.Equal(got, []string{"a", "a"}) {
		t.Fatalf("List: got %v, want [a a]", got)
	}
	if again := mustCreate(t, p, spec("a")); again.ID != first.ID {
		t.Errorf("Create again: got machine %s, want %s, the first", again.ID, first.ID)
	}
	if err := p.Destroy(t.Context(), first.ID); err != nil {
		t.Fatalf("Destroy: got error %v, want nil", err)
	}
	if again := mustCreate(t, p, spec("a")); again.ID == first.ID {
		t.Errorf("Create after the first was destroyed: got machine %s, want the second", again.ID)
	}
	if n := len(cloud.Machines()); n != 1 {
		t.Errorf("machines: got %d, want 1", n)
	}
}

func TestListsLieAsTheyAreTold(t *testing.T) {
	t.Parallel()
	p, cloud := open(t, nil)
	for i := range 8 {
		mustCreate(t, p, spec(fmt.Sprintf("m%d", i)))
	}
	whole := mustList(t, p)

	cloud.Fail(memmachine.List, memmachine.Omit("m1", cloud.Machines()[2].ID)).Times(1)
	if got, want := mustList(t, p), append([]string{"m0"}, whole[3:]...); !slices.Equal(got, want) {
		t.Errorf("Omit: got %v, want %v", got, want)
	}
	cloud.Fail(memmachine.List, memmachine.EmptyList).Times(1)
	if got := mustList(t, p); len(got) != 0 {
		t.Errorf("EmptyList: got %v, want nothing and no error", got)
	}
	cloud.Fail(memmachine.List, memmachine.Duplicate).Times(1)
	if got := mustList(t, p); len(got) != 16 || got[0] != got[1] {
		t.Errorf("Duplicate: got %v, want each twice", got)
	}
	cloud.Fail(memmachine.List, memmachine.Shuffle(1)).Times(2)
	one, two := mustList(t, p), mustList(t, p)
	if slices.Equal(one, whole) || slices.Equal(one, two) {
		t.Errorf("Shuffle: got %v and %v, want two other orders than %v", one, two, whole)
	}
	slices.Sort(one)
	if !slices.Equal(one, whole) {
		t.Errorf("Shuffle: got %v when sorted, want %v", one, whole)
	}
	if got := mustList(t, p); !slices.Equal(got, whole) {
		t.Errorf("List afterwards: got %v, want %v", got, whole)
	}
}

func TestAPageThatFailsIsNotAShorterList(t *testing.T) {
	t.Parallel()
	p, cloud := open(t, &memmachine.Options{PageSize: 2})
	for i := range 5 {
		mustCreate(t, p, spec(fmt.Sprintf("m%d", i)))
	}
	cloud.Fail(memmachine.Page, memmachine.Refuse(fault.Unavailable)).After(2).Times(1)
	if list, err := p.List(t.Context(), "me"); !errors.Is(err, fault.Unavailable) || list != nil {
		t.Errorf("List whose third page fails: got %v and error %v, want nothing and fault.Unavailable", names(list), err)
	}
	if got := mustList(t, p); len(got) != 5 {
		t.Errorf("List afterwards: got %v, want five machines", got)
	}
	if n := cloud.Calls(memmachine.Page); n != 6 {
		t.Errorf("Calls(Page): got %d, want 6", n)
	}
}

func TestADestroyCanLieOrFailForAWhile(t *testing.T) {
	t.Parallel()
	p, cloud := open(t, nil)
	m := mustCreate(t, p, spec("a"))
	cloud.Fail(memmachine.Destroy, memmachine.PretendDestroyed).Times(1)
	cloud.Fail(memmachine.Destroy, memmachine.Refuse(fault.Unavailable)).Times(2)
	for i, want := range []fault.Kind{"", fault.Unavailable, fault.Unavailable, ""} {
		wantState(t, p, m.ID, machine.Running)
		if err := p.Destroy(t.Context(), m.ID); fault.Of(err) != want {
			t.Errorf("Destroy %d: got error %v, want kind %q", i+1, err, want)
		}
	}
	if _, err := p.Get(t.Context(), m.ID); !errors.Is(err, fault.NotFound) {
		t.Errorf("Get at the end: got error %v, want fault.NotFound", err)
	}
}

func TestATestMayWriteItsOwnFault(t *testing.T) {
	t.Parallel()
	p, cloud := open(t, nil)
	m := mustCreate(t, p, spec("a"))
	cloud.Fail(memmachine.Get, func(ctx context.Context, c *memmachine.Call) error {
		err := c.Do(ctx)
		if err == nil {
			c.Machine.State = machine.Creating // a stale answer
		}
		return err
	}).Times(1)
	wantState(t, p, m.ID, machine.Creating)
	wantState(t, p, m.ID, machine.Running)

	cloud.Fail(memmachine.Get, func(context.Context, *memmachine.Call) error { return nil }).Times(1)
	if got, err := p.Get(t.Context(), m.ID); !errors.Is(err, fault.Internal) {
		t.Errorf("a fault that forgets the machine: got %v and error %v, want fault.Internal", got, err)
	}
}
