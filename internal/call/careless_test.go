package call_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/call"
)

// Functions and callers are other people's code, in which there are mistakes. One ends the call it is in, and no other.

// nothing is an error that is returned as a nil pointer, as happens when a variable of its type is returned as error.
type nothing struct{ text string }

func (n *nothing) Error() string { return n.text }

func TestAnErrorThatCannotBeReadIsAPanicOfItsFunction(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f := declare(t, j.registry, "nothing", func(context.Context, int) (int, error) {
		var n *nothing
		return 0, n
	})
	s := newSlot()
	k, err := f.start(t.Context(), j, 1, call.Request{Slot: s})
	if err != nil {
		t.Fatal(err)
	}
	err = k.Wait(t.Context())
	own, ok := errors.AsType[*call.FunctionError](err)
	if !ok || !strings.Contains(own.Message, "*call_test.nothing") || !strings.Contains(own.Stack, "careless_test.go") {
		t.Errorf("got %#v, want a FunctionError that names the error's type, with a stack that leads to it", err)
	}
	receive(t, s.free, "the slot")
}

// slammed is a reader whose Close panics.
type slammed struct{ io.Reader }

func (slammed) Close() error { panic("the door is off its hinges") }

func TestAReaderThatPanicsWhenItIsClosedHarmsNobody(t *testing.T) {
	t.Parallel()
	said := make(chan call.Record, 10)
	j := join(t, settings(), &call.ClientOptions{Log: func(r call.Record) { said <- r }})
	f := declare(t, j.registry, "turn", func(_ context.Context, r io.ReadCloser) (io.ReadCloser, error) {
		text, err := io.ReadAll(r)
		return slammed{strings.NewReader(strings.ToUpper(string(text)))}, err
	})
	got, err := f.call(t.Context(), j, slammed{strings.NewReader("a door")})
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(got)
	if string(text) != "A DOOR" || err != nil {
		t.Errorf("got %q, %v, want A DOOR", text, err)
	}
	var messages []string
	for range 2 {
		r := receive(t, said, "it to be logged")
		messages = append(messages, r.Function+": "+r.Message+": "+r.Attrs[0].Value.String())
	}
	slices.Sort(messages)
	want := []string{
		"turn: closing a reader of the argument panicked: the door is off its hinges",
		"turn: closing a reader of the result panicked: the door is off its hinges",
	}
	if !slices.Equal(messages, want) {
		t.Errorf("got %q, want %q", messages, want)
	}
}

func TestACallWhoseCallerPanicsIsCanceled(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	ended := make(chan error, 1)
	f := declare(t, j.registry, "tells", func(ctx context.Context, _ int) (int, error) {
		call.From(ctx).Progress(0.5, "half")
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return 0, ctx.Err()
	})
	s := newSlot()
	k, err := f.start(t.Context(), j, 1, call.Request{Slot: s, Progress: func(float64, string) { panic("a callback that fails") }})
	if err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if cause := recover(); cause != "a callback that fails" {
				t.Errorf("got the panic %v, want the callback's", cause)
			}
		}()
		_ = k.Wait(t.Context()) // panics
	}()
	if err := receive(t, ended, "the function to end"); !errors.Is(err, call.ErrCallerGone) {
		t.Errorf("the function ended by %v, want that its caller is gone", err)
	}
	receive(t, s.free, "the slot")
}

// holdFirst makes the first frame that w sends take so long that the second could overtake it, but not the third. begun is closed when it is
// about to be sent.
func holdFirst(w *wire) (begun chan struct{}) {
	begun = make(chan struct{})
	var sent atomic.Int32
	w.before = func() (after func()) {
		switch sent.Add(1) {
		case 1:
			close(begun)
			<-time.After(50 * time.Millisecond)
		case 3:
			<-time.After(100 * time.Millisecond)
		}
		return nil
	}
	return begun
}

func TestNoReportOvertakesAnother(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	begun := holdFirst(j.far)
	f := declare(t, j.registry, "tells", func(ctx context.Context, _ int) (int, error) {
		call.From(ctx).Progress(0.5, "half")
		<-begun
		call.From(ctx).Progress(1, "all")
		return 0, nil
	})
	var told []string
	k, err := f.start(t.Context(), j, 1, call.Request{Progress: func(_ float64, text string) { told = append(told, text) }})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(told) == 0 || told[len(told)-1] != "all" {
		t.Errorf("got %q, want all at the end", told)
	}
}

func TestSeveralGoroutinesMayYield(t *testing.T) {
	t.Parallel()
	type item struct{ N int }
	j := join(t, settings(), nil)
	begun := holdFirst(j.far) // which brings the types
	f := declareStream(t, j.registry, "several", func(_ context.Context, n int, yield func(item) error) error {
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() { _ = yield(item{i}) })
			<-begun
		}
		all.Wait()
		return nil
	})
	k, err := f.start(t.Context(), j, 3, call.Request{})
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for more := true; more; {
		more, err = k.Next(t.Context(), func(types string, data []byte) error {
			one, err := f.Item(types, data)
			got = append(got, one.N)
			return err
		})
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
	}
	if slices.Sort(got); !slices.Equal(got, []int{0, 1, 2}) {
		t.Errorf("got %v, want 0, 1 and 2", got)
	}
}
