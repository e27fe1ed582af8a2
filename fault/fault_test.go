package fault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
)

// kinds are all kinds, each with the general kind it is a case of.
func kinds() map[fault.Kind]fault.Kind {
	return map[fault.Kind]fault.Kind{
		fault.Invalid:         fault.Invalid,
		fault.Unauthenticated: fault.Unauthenticated,
		fault.Denied:          fault.Denied,
		fault.NotFound:        fault.NotFound,
		fault.Conflict:        fault.Conflict,
		fault.Exhausted:       fault.Exhausted,
		fault.Unavailable:     fault.Unavailable,
		fault.Unsupported:     fault.Unsupported,
		fault.Canceled:        fault.Canceled,
		fault.Internal:        fault.Internal,

		fault.TooLarge:            fault.Invalid,
		fault.AlreadyClaimed:      fault.Conflict,
		fault.StaleAttempt:        fault.Conflict,
		fault.AlreadyFinished:     fault.Conflict,
		fault.IdempotencyMismatch: fault.Conflict,
		fault.StoreFull:           fault.Exhausted,
	}
}

func TestAKindIsItselfAndWhatItRefinesAndNothingElse(t *testing.T) {
	t.Parallel()
	for kind, general := range kinds() {
		if got := kind.General(); got != general {
			t.Errorf("%s.General(): got %s, want %s", kind, got, general)
		}
		for target := range kinds() {
			want := target == kind || target == general
			if got := errors.Is(fmt.Errorf("a story: %w", kind), target); got != want {
				t.Errorf("errors.Is(%s, %s): got %v, want %v", kind, target, got, want)
			}
		}
	}
}

func TestAKindIsNeverAnErrorOfAnotherType(t *testing.T) {
	t.Parallel()
	if errors.Is(fault.NotFound, fs.ErrNotExist) {
		t.Error("errors.Is(NotFound, fs.ErrNotExist): got true, want false")
	}
}

func TestOfFindsTheKindInTheTree(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		err  error
		want fault.Kind
	}{
		{"no error", nil, ""},
		{"a bare kind", fault.Exhausted, fault.Exhausted},
		{"a kind and a cause", fmt.Errorf("local: machine a: %w: %w", fault.Unavailable, io.ErrUnexpectedEOF), fault.Unavailable},
		{"a kind deep inside", fmt.Errorf("outer: %w", fmt.Errorf("inner: %w", fault.NotFound)), fault.NotFound},
		{"the finer kind", fmt.Errorf("claim: %w", fault.AlreadyClaimed), fault.AlreadyClaimed},
		{"the first of two kinds", fmt.Errorf("%w because of %w", fault.Unavailable, fault.Denied), fault.Unavailable},
		{"joined errors", errors.Join(io.EOF, fault.StoreFull), fault.StoreFull},
		{"a context that was canceled", fmt.Errorf("get: %w", context.Canceled), fault.Canceled},
		{"a deadline that passed", context.DeadlineExceeded, fault.Canceled},
		{"a kind beside a context error", fmt.Errorf("%w: %w", fault.Unavailable, context.DeadlineExceeded), fault.Unavailable},
		{"a field error", fault.Field("name", "is empty"), fault.Invalid},
		{"a sentence", fault.Say(fault.Conflict, "it exists"), fault.Conflict},
		{"an error nobody classified", io.EOF, fault.Internal},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := fault.Of(c.err); got != c.want {
				t.Errorf("Of(%v): got %q, want %q", c.err, got, c.want)
			}
		})
	}
}

func TestAFieldErrorNamesTheField(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("submit: %w", fault.Field("inputs[2].name", "must be at most %d characters", 1024))
	field, ok := errors.AsType[*fault.FieldError](err)
	if !ok {
		t.Fatalf("errors.AsType[*FieldError](%v): got false, want true", err)
	}
	if field.Field != "inputs[2].name" || field.Message != "must be at most 1024 characters" || field.Kind != fault.Invalid {
		t.Errorf("field error: got %+v", *field)
	}
	if got, want := field.Error(), "inputs[2].name: must be at most 1024 characters"; got != want {
		t.Errorf("Error: got %q, want %q", got, want)
	}
	large := &fault.FieldError{Field: "payload", Kind: fault.TooLarge, Message: "is too large"}
	if !errors.Is(large, fault.TooLarge) || !errors.Is(large, fault.Invalid) {
		t.Error("a FieldError of kind TooLarge: want it to be TooLarge and Invalid")
	}
}

func TestASentenceIsWhatWasSaidAndNothingOfTheStory(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		err  error
		want string
		ok   bool
	}{
		{"a sentence", fault.Say(fault.NotFound, "there is no job %s", "job_1"), "there is no job job_1", true},
		{"a sentence in a story", fmt.Errorf("store: secret path /x: %w", fault.Say(fault.Conflict, "it is over")), "it is over", true},
		{"a field", fmt.Errorf("submit: %w", fault.Field("name", "is empty")), "name: is empty", true},
		{"only a story", fmt.Errorf("store: %w: %w", fault.Unavailable, io.EOF), "", false},
		{"no error", nil, "", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, ok := fault.Sentence(c.err)
			if got != c.want || ok != c.ok {
				t.Errorf("Sentence(%v): got %q, %v, want %q, %v", c.err, got, ok, c.want, c.ok)
			}
		})
	}
}

func TestSayKeepsThePercentSignsOfItsArguments(t *testing.T) {
	t.Parallel()
	err := fault.Say(fault.Invalid, "cannot use %q", "100%s")
	if got, want := err.Error(), `cannot use "100%s"`; got != want {
		t.Errorf("Error: got %q, want %q", got, want)
	}
}
