package call_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/call"
)

type pairOf struct {
	A int
	B string
}

func TestAFunctionGetsItsArgumentAndItsCallerTheResult(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f := declare(t, j.registry, "swap", func(_ context.Context, p pairOf) (pairOf, error) {
		return pairOf{len(p.B), strings.Repeat("x", p.A)}, nil
	})
	for range 3 { // the later ones without the description of their types
		got, err := f.call(t.Context(), j, pairOf{3, "four"})
		if want := (pairOf{4, "xxx"}); err != nil || got != want {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
}

func TestValuesOfAllSizesArriveWhole(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	raw := declare(t, j.registry, "raw", func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	coded := declare(t, j.registry, "coded", func(_ context.Context, b [][]byte) ([][]byte, error) { return b, nil })
	for _, size := range []int{0, 1, 255, 256, 257, 40 << 10, 64 << 10, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3<<20 + 17} {
		want := bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7}, size/7+1)[:size]
		got, err := raw.call(t.Context(), j, want)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d bytes, %v", size, len(got), err)
		}
		also, err := coded.call(t.Context(), j, [][]byte{want})
		if err != nil || len(also) != 1 || !bytes.Equal(also[0], want) {
			t.Errorf("%d bytes in a slice: got %d slices, %v", size, len(also), err)
		}
	}
}

func TestManyCallsAtOnceDoNotMixUpTheirResults(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f := declare(t, j.registry, "repeat", func(_ context.Context, p pairOf) (string, error) {
		return strings.Repeat(p.B, p.A), nil
	})
	var running sync.WaitGroup
	for i := range 16 {
		running.Go(func() {
			for n := range 40 {
				size := n * n * 40
				got, err := f.call(t.Context(), j, pairOf{size, string(rune('a' + i))})
				if err != nil || len(got) != size || strings.Trim(got, string(rune('a'+i))) != "" {
					t.Errorf("caller %d: got %d bytes, %v, want %d of its own", i, len(got), err, size)
					return
				}
			}
		})
	}
	running.Wait()
}

var errOwn = errors.New("an error of the function's own package")

func TestAFunctionsErrorKeepsItsTextAndKindAndIsNoFailureOfTheCall(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	fails := declare(t, j.registry, "fails", func(_ context.Context, kind string) (int, error) {
		switch kind {
		case "":
			return 1, fmt.Errorf("it went wrong: %w", errOwn)
		case "context":
			return 1, fmt.Errorf("somebody else's time: %w", context.DeadlineExceeded)
		}
		return 1, fmt.Errorf("no room: %w", fault.Kind(kind))
	})
	for _, c := range []struct {
		kind string
		want fault.Kind
		text string
	}{
		{"", fault.Internal, "it went wrong: an error of the function's own package"},
		{"exhausted", fault.Exhausted, "no room: exhausted"},
		{"unavailable", fault.Unavailable, "no room: unavailable"},
		{"context", fault.Canceled, "somebody else's time: context deadline exceeded"},
	} {
		_, err := fails.call(t.Context(), j, c.kind)
		own, ok := errors.AsType[*call.FunctionError](err)
		if !ok || own.Message != c.text || fault.Of(err) != c.want || own.Stack != "" {
			t.Errorf("%q: got %#v, want a FunctionError %q of kind %s", c.kind, err, c.text, c.want)
		}
		if _, ok := errors.AsType[*call.Failure](err); ok || errors.Is(err, call.ErrLost) {
			t.Errorf("%q: got an error that looks like a failure of the call: %v", c.kind, err)
		}
		if errors.Is(err, errOwn) {
			t.Errorf("%q: a sentinel has traveled, and it cannot", c.kind)
		}
	}
}

func TestAPanicComesBackWithItsStackAndTheRunnerLivesOn(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f := declare(t, j.registry, "panics", func(_ context.Context, how string) (string, error) {
		switch how {
		case "panic":
			_ = []int{}[len(how)]
		case "error":
			panic(fmt.Errorf("an error in a panic: %w", errOwn))
		case "goexit":
			runtime.Goexit()
		}
		return "fine", nil
	})
	for how, text := range map[string]string{"panic": "index out of range", "error": "an error in a panic", "goexit": "Goexit"} {
		s := newSlot()
		k, err := f.start(t.Context(), j, how, call.Request{Slot: s})
		if err != nil {
			t.Fatal(err)
		}
		err = k.Wait(t.Context())
		own, ok := errors.AsType[*call.FunctionError](err)
		if !ok || !strings.Contains(own.Message, text) {
			t.Errorf("%s: got %#v, want a FunctionError about %q", how, err, text)
			continue
		}
		if how != "goexit" && !strings.Contains(own.Stack, "call_test.go") {
			t.Errorf("%s: got the stack %s, want one that leads to the function", how, own.Stack)
		}
		if s.taken() {
			t.Errorf("%s: the slot is still taken", how)
		}
	}
	if got, err := f.call(t.Context(), j, ""); err != nil || got != "fine" {
		t.Errorf("afterwards: got %q, %v, want fine", got, err)
	}
}

func TestAnUnknownFunctionIsRefusedWithTheNamesOfThoseThatAreKnown(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	declare(t, j.registry, "known", func(context.Context, int) (int, error) { return 0, nil })
	other := declare(t, &call.Registry{}, "unknown", func(context.Context, []byte) (int, error) { return 0, nil })
	for _, size := range []int{1, 3 << 20} {
		s := newSlot()
		k, err := other.start(t.Context(), j, make([]byte, size), call.Request{Slot: s})
		if err == nil {
			err = k.Wait(t.Context())
		}
		f, ok := errors.AsType[*call.Failure](err)
		if !ok || f.Ran || !errors.Is(err, fault.NotFound) || !strings.Contains(err.Error(), `"unknown"`) || !strings.Contains(err.Error(), "known") {
			t.Errorf("got %#v: %v, want a Failure of kind not_found with both names", err, err)
		}
		if s.taken() {
			t.Error("the slot is still taken")
		}
	}
}

func TestTwoFunctionsOfOneNameAreRefusedWithBothPlaces(t *testing.T) {
	t.Parallel()
	r := &call.Registry{}
	if err := r.Add(&call.Function{Name: "a", Place: "one.go:1"}); err != nil {
		t.Fatal(err)
	}
	err := r.Add(&call.Function{Name: "a", Place: "two.go:2"})
	if !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "one.go:1") || !strings.Contains(err.Error(), "two.go:2") {
		t.Errorf("got %v, want a conflict that names one.go:1 and two.go:2", err)
	}
	for _, name := range []string{"", "a b", strings.Repeat("a", 101), "a\n"} {
		if err := r.Add(&call.Function{Name: name}); !errors.Is(err, fault.Invalid) {
			t.Errorf("the name %q: got %v, want it to be invalid", name, err)
		}
	}
}

func TestWhatIsOverTheLimitIsRefusedBySayingWhich(t *testing.T) {
	t.Parallel()
	s := settings()
	s.MaxArgument, s.MaxResult = 100, 200
	j := join(t, s, nil)
	f := declare(t, j.registry, "grow", func(_ context.Context, b []byte) ([]byte, error) { return make([]byte, 3*len(b)), nil })
	items := declareStream(t, j.registry, "items", func(_ context.Context, n int, yield func([]byte) error) error { return yield(make([]byte, n)) })

	_, err := f.call(t.Context(), j, make([]byte, 101))
	if e, ok := errors.AsType[*call.Failure](err); !ok || e.Ran || !errors.Is(err, fault.TooLarge) || !strings.Contains(err.Error(), "argument") {
		t.Errorf("an argument: got %v, want a Failure before it ran, of kind too_large", err)
	}
	_, err = f.call(t.Context(), j, make([]byte, 67))
	if e, ok := errors.AsType[*call.Failure](err); !ok || !e.Ran || !errors.Is(err, fault.TooLarge) || !strings.Contains(err.Error(), "result") {
		t.Errorf("a result: got %v, want a Failure after it ran, of kind too_large", err)
	}
	k, err := items.start(t.Context(), j, 201, call.Request{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = k.Next(t.Context(), func(string, []byte) error { return nil })
	if e, ok := errors.AsType[*call.Failure](err); !ok || !e.Ran || !errors.Is(err, fault.TooLarge) || !strings.Contains(err.Error(), "item") {
		t.Errorf("an item: got %v, want a Failure of kind too_large", err)
	}
	if got, err := f.call(t.Context(), j, make([]byte, 66)); err != nil || len(got) != 198 {
		t.Errorf("afterwards: got %d bytes, %v, want 198", len(got), err)
	}
}

func TestAResultThatCannotBeEncodedSaysSo(t *testing.T) {
	t.Parallel()
	type unregistered struct{ N int }
	j := join(t, settings(), nil)
	f := declare(t, j.registry, "any", func(context.Context, struct{}) (any, error) { return unregistered{1}, nil })
	_, err := f.call(t.Context(), j, struct{}{})
	if e, ok := errors.AsType[*call.Failure](err); !ok || !e.Ran || !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "registered") {
		t.Errorf("got %v, want a Failure after it ran, of kind invalid", err)
	}
}

// endless is a function that runs until it is told, whatever its context says, and tells how its context ended.
func endless(t testing.TB, j *joined) (f function[string, string], begun chan string, ended chan error, release chan struct{}) {
	begun, ended, release = make(chan string, 10), make(chan error, 10), make(chan struct{})
	f = declare(t, j.registry, "endless", func(ctx context.Context, how string) (string, error) {
		begun <- how
		select {
		case <-ctx.Done():
			ended <- context.Cause(ctx)
		case <-release:
			return "released", nil
		}
		if how == "ignores" {
			<-release
		}
		return "", ctx.Err()
	})
	return f, begun, ended, release
}

func TestTheEndOfTheCallersContextEndsTheFunctionsToo(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f, begun, ended, _ := endless(t, j)
	ctx, cancel := context.WithCancel(t.Context())
	s := newSlot()
	k, err := f.start(ctx, j, "obeys", call.Request{Slot: s})
	if err != nil {
		t.Fatal(err)
	}
	receive(t, begun, "the function to begin")
	cancel()
	err = k.Wait(ctx)
	if e, ok := errors.AsType[*call.Failure](err); !ok || !e.Ran || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want a Failure that is canceled", err)
	}
	if why := receive(t, ended, "the function's context to end"); !errors.Is(why, call.ErrCallerGone) || !errors.Is(why, context.Canceled) {
		t.Errorf("the function was told %v, want that its caller is gone", why)
	}
	receive(t, s.free, "the slot")
}

func TestTheDeadlineIsKeptByTheRunnerWhenNobodyWaits(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f, begun, ended, _ := endless(t, j)
	k, err := f.start(t.Context(), j, "obeys", call.Request{Deadline: time.Now().Add(20 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	receive(t, begun, "the function to begin")
	if why := receive(t, ended, "the function's context to end"); !errors.Is(why, context.DeadlineExceeded) {
		t.Errorf("the function was told %v, want that its time is up", why)
	}
	err = k.Wait(t.Context())
	if _, ok := errors.AsType[*call.Failure](err); !ok || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the caller was told %v, want that the time is up", err)
	}
}

func TestAFunctionThatIgnoresItsDeadlineKeepsItsSlotAndNotItsCaller(t *testing.T) {
	t.Parallel()
	stuck := make(chan string, 1)
	j := join(t, settings(), &call.ClientOptions{Patience: time.Millisecond, Stuck: func(r *call.Request) { stuck <- r.Function }})
	f, begun, _, release := endless(t, j)
	s := newSlot()
	k, err := f.start(t.Context(), j, "ignores", call.Request{Slot: s, Deadline: time.Now().Add(10 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	receive(t, begun, "the function to begin")
	if err := k.Wait(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want that the time is up", err)
	}
	if got := receive(t, stuck, "word of the stuck function"); got != "endless" {
		t.Errorf("%q is stuck, want endless", got)
	}
	if !s.taken() {
		t.Error("the slot is free while the function runs")
	}
	close(release)
	receive(t, s.free, "the slot")
}

func TestADetachedCallOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f, begun, ended, release := endless(t, j)
	ctx, cancel := context.WithCancel(t.Context())
	s := newSlot()
	k, err := f.start(ctx, j, "obeys", call.Request{Slot: s, Detached: true})
	if err != nil {
		t.Fatal(err)
	}
	receive(t, begun, "the function to begin")
	cancel()
	if err := k.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that the caller was canceled", err)
	}
	// Another call goes the same way after it, so a cancel would have arrived by now.
	if _, err := declare(t, j.registry, "other", func(context.Context, int) (int, error) { return 0, nil }).call(t.Context(), j, 1); err != nil {
		t.Fatal(err)
	}
	select {
	case why := <-ended:
		t.Errorf("the function's context has ended: %v", why)
	default:
	}
	close(release)
	receive(t, s.free, "the slot")
}

func TestCallsUnderWayEndWhenTheLinkDoes(t *testing.T) {
	t.Parallel()
	why := errors.New("the runner was killed for want of memory")
	j := join(t, settings(), &call.ClientOptions{Lost: func(error) error { return why }})
	f, begun, ended, _ := endless(t, j)
	s := newSlot()
	k, err := f.start(t.Context(), j, "obeys", call.Request{Slot: s})
	if err != nil {
		t.Fatal(err)
	}
	receive(t, begun, "the function to begin")
	j.wire.cut(errors.New("cut"))
	err = k.Wait(t.Context())
	e, ok := errors.AsType[*call.Failure](err)
	if !ok || !e.Ran || !errors.Is(err, call.ErrLost) || !errors.Is(err, why) || !errors.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want a lost call with the reason", err)
	}
	receive(t, s.free, "the slot")
	if why := receive(t, ended, "the function's context to end"); !errors.Is(why, call.ErrCallerGone) {
		t.Errorf("the function was told %v, want that its caller is gone", why)
	}
	receive(t, j.served, "the server to end")
	_, err = f.call(t.Context(), j, "later")
	if e, ok := errors.AsType[*call.Failure](err); !ok || e.Ran || !errors.Is(err, call.ErrLost) {
		t.Errorf("a later call: got %v, want one that was not run", err)
	}
}

func TestDetachedWorkHasItsGraceWhenTheParentIsGone(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f, begun, ended, release := endless(t, j)
	if _, err := f.start(t.Context(), j, "detached", call.Request{Detached: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.start(t.Context(), j, "attached", call.Request{}); err != nil {
		t.Fatal(err)
	}
	receive(t, begun, "one to begin")
	receive(t, begun, "the other to begin")
	j.wire.cut(errors.New("cut"))
	if why := receive(t, ended, "the attached one to end"); !errors.Is(why, call.ErrCallerGone) {
		t.Errorf("the attached one was told %v", why)
	}
	select {
	case <-j.served:
		t.Fatal("the server has ended before the detached work")
	case why := <-ended:
		t.Fatalf("the detached one was told %v within its grace", why)
	default:
	}
	close(release)
	receive(t, j.served, "the server to end when the work has")
}

func TestDetachedWorkThatOutlastsItsGraceIsCanceled(t *testing.T) {
	t.Parallel()
	s := settings()
	s.Grace = 20 * time.Millisecond
	j := join(t, s, nil)
	f, begun, ended, _ := endless(t, j)
	if _, err := f.start(t.Context(), j, "detached", call.Request{Detached: true}); err != nil {
		t.Fatal(err)
	}
	receive(t, begun, "it to begin")
	j.wire.cut(errors.New("cut"))
	if why := receive(t, ended, "the detached one to end"); !errors.Is(why, call.ErrDrained) {
		t.Errorf("it was told %v, want that the runner stops", why)
	}
	receive(t, j.served, "the server to end")
}

func TestADrainWaitsForWorkAndRefusesMore(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	told := make(chan struct{})
	f := declare(t, j.registry, "service", func(ctx context.Context, _ int) (string, error) {
		<-call.From(ctx).Draining()
		close(told)
		return "came to its end", nil
	})
	k, err := f.start(t.Context(), j, 1, call.Request{Placed: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Started(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := j.Drain(t.Context()); err != nil {
		t.Errorf("Drain: got %v", err)
	}
	receive(t, told, "the function to be told")
	if err := k.Wait(t.Context()); err != nil {
		t.Errorf("the work was not allowed to end: %v", err)
	}
	_, err = f.call(t.Context(), j, 1)
	if e, ok := errors.AsType[*call.Failure](err); !ok || e.Ran || !errors.Is(err, fault.Unavailable) {
		t.Errorf("a call after the drain: got %v, want one that was not run", err)
	}
}

func TestWorkThatOutlastsTheDrainIsCanceled(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f, begun, ended, _ := endless(t, j)
	k, err := f.start(t.Context(), j, "obeys", call.Request{Detached: true})
	if err != nil {
		t.Fatal(err)
	}
	receive(t, begun, "it to begin")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := j.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Drain: got %v, want that its time is up", err)
	}
	if why := receive(t, ended, "the function to be told"); !errors.Is(why, call.ErrDrained) {
		t.Errorf("it was told %v, want that the runner stops", why)
	}
	if err := k.Wait(t.Context()); !errors.Is(err, fault.Unavailable) || !errors.Is(err, call.ErrLost) {
		t.Errorf("its caller was told %v, want that it is unavailable, and lost with its runner", err)
	}
	receive(t, j.Ended(), "all calls to end")
}

func TestProgressReachesTheCallerAndTheLastOfItBeforeTheResult(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f := declare(t, j.registry, "works", func(ctx context.Context, n int) (int, error) {
		for i := range n {
			call.From(ctx).Progress(float64(i+1)/float64(n), fmt.Sprintf("step %d", i+1))
		}
		return n, nil
	})
	var told []string
	k, err := f.start(t.Context(), j, 10_000, call.Request{Progress: func(share float64, text string) {
		told = append(told, fmt.Sprintf("%.1f %s", share, text))
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(told) == 0 || told[len(told)-1] != "1.0 step 10000" {
		t.Errorf("got %q, want the last step at the end", told)
	}
	if len(told) > 1000 {
		t.Errorf("10,000 reports in a moment were told %d times", len(told))
	}
}

func TestAnArgumentThatIsGivenUpHalfwayRunsNothing(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f := declare(t, j.registry, "big", func(context.Context, []byte) (int, error) {
		t.Error("the function has run")
		return 0, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	sent := 0
	j.wire.before = func() (after func()) {
		if sent++; sent == 2 {
			cancel() // between the first part and the second
		}
		return nil
	}
	s := newSlot()
	_, err := f.start(ctx, j, make([]byte, 3<<20), call.Request{Slot: s})
	if e, ok := errors.AsType[*call.Failure](err); !ok || e.Ran || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want a Failure before it ran", err)
	}
	receive(t, s.free, "the slot, when the runner has forgotten the rest")
	j.wire.before = nil
	small := declare(t, j.registry, "small", func(context.Context, int) (int, error) { return 5, nil })
	if got, err := small.call(t.Context(), j, 1); got != 5 || err != nil {
		t.Errorf("afterwards: got %d, %v, want 5", got, err)
	}
}

func TestGarbageEndsTheLinkAndNothingElse(t *testing.T) {
	t.Parallel()
	for name, frame := range map[string][]byte{
		"an unknown kind": {200, 1},
		"no id":           {2},
		"a long field":    {2, 1, 0, 0, 255, 255, 3},
		"no settings":     {1, '{'},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := join(t, settings(), nil)
			f, begun, _, _ := endless(t, j)
			k, err := f.start(t.Context(), j, "x", call.Request{})
			if err != nil {
				t.Fatal(err)
			}
			receive(t, begun, "the function to begin")
			if err := j.wire.Send(t.Context(), frame); err != nil {
				t.Fatal(err)
			}
			if err := receive(t, j.served, "the server to end"); err == nil || !errors.Is(err, fault.Internal) && name != "an unknown kind" {
				t.Errorf("got %v, want that the protocol was broken", err)
			}
			if err := k.Wait(t.Context()); !errors.Is(err, call.ErrLost) {
				t.Errorf("the call: got %v, want that it is lost", err)
			}
		})
	}
}
