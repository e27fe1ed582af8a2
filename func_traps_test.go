package dayfly_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

// chain is a value that points to others of its kind.
type chain struct {
	N    int
	Next *chain
}

var (
	same = dayfly.Func("test/same", func(_ context.Context, c *chain) (*chain, error) { return c, nil })
	set  = dayfly.Func("test/set", func(_ context.Context, names []string) (map[string]struct{}, error) {
		s := map[string]struct{}{}
		for _, name := range names {
			s[name] = struct{}{}
		}
		return s, nil
	})
)

func TestPointersArriveAlsoWhenTheFirstWasNil(t *testing.T) {
	t.Parallel()
	p := newPool(t, dayfly.PoolOptions{})
	if got, err := same.Call(t.Context(), p, nil); got != nil || err != nil {
		t.Fatalf("got %v, %v, want nil", got, err)
	}
	for range 2 {
		got, err := same.Call(t.Context(), p, &chain{N: 1, Next: &chain{N: 2}})
		if err != nil || got == nil || got.N != 1 || got.Next == nil || got.Next.N != 2 {
			t.Fatalf("got %v, %v, want a chain of two", got, err)
		}
	}
}

func TestASetIsAResultLikeAnyOther(t *testing.T) {
	t.Parallel()
	got, err := set.Call(t.Context(), newPool(t, dayfly.PoolOptions{}), []string{"a", "b", "a"})
	if want := map[string]struct{}{"a": {}, "b": {}}; err != nil || !maps.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestACallThatIsCanceledForAReasonSaysBoth(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := newPool(t, dayfly.PoolOptions{})
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the user has left")
	go func() {
		eventually(t, "the call to begin", func() bool { return exists(dir + "/begun") })
		cancel(reason)
	}()
	_, err := wait.Call(ctx, p, waiting{Begun: dir + "/begun", Until: dir + "/never"})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, reason) || fault.Of(err) != fault.Canceled {
		t.Errorf("got %v of kind %v, want one that was canceled, for the reason", err, fault.Of(err))
	}
	if !strings.Contains(err.Error(), "canceled") || !strings.Contains(err.Error(), reason.Error()) {
		t.Errorf("got %q, want it to say both", err)
	}
}

func TestNoFunctionIsRefusedWhereItIsDeclared(t *testing.T) {
	t.Parallel()
	for name, declare := range map[string]func(){
		"a function": func() { dayfly.Func[int, int]("test/nil", nil) },
		"a stream":   func() { dayfly.Stream[int, int]("test/nil", nil) },
	} {
		func() {
			defer func() {
				if why, _ := recover().(string); !strings.Contains(why, "test/nil") || !strings.Contains(why, "nil") || !strings.Contains(why, "func_traps_test.go") {
					t.Errorf("%s that is nil: got the panic %q, want it to say which and where", name, why)
				}
			}()
			declare()
		}()
	}
}
