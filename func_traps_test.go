package dayfly_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
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
	report = dayfly.Func("test/report", func(ctx context.Context, after string) (int, error) {
		for !exists(after) && ctx.Err() == nil {
			<-time.After(5 * time.Millisecond)
		}
		dayfly.ReportProgress(ctx, 0.5, "half")
		<-ctx.Done()
		return 0, ctx.Err()
	})
	dribble = dayfly.Func("test/dribble", func(_ context.Context, how string) (io.ReadCloser, error) {
		return io.NopCloser(&dribbling{how: how}), nil
	})
	anything = dayfly.Func("test/anything", func(context.Context, thing) (int, error) { return 0, nil })
)

// thing holds what nobody knows before.
type thing struct {
	What any
	Text io.ReadCloser
}

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

func TestACallbackOfACallThatNobodyWaitsForMayPanic(t *testing.T) {
	t.Parallel()
	released := t.TempDir() + "/go"
	told := make(chan error, 1)
	p := newPool(t, dayfly.PoolOptions{OnError: func(err error) { told <- err }})
	careless := report.With(&dayfly.CallOptions{OnProgress: func(dayfly.Progress) { panic("a callback that fails") }})
	placed, err := careless.Place(t.Context(), p, released)
	if err != nil {
		t.Fatal(err)
	}
	if err := careless.Cast(t.Context(), p, released); err != nil {
		t.Fatal(err)
	}
	touch(t, released)
	if err := <-told; !isPanic(err) {
		t.Errorf("OnError was told %v, want the panic", err)
	}
	if _, err := placed.Wait(t.Context()); !isPanic(err) {
		t.Errorf("Wait: got %v, want the panic", err)
	}
	eventually(t, "both functions to end", func() bool { return p.Stats().InUse == 0 })
}

// isPanic reports whether err tells of the callback that fails.
func isPanic(err error) bool {
	failed, ok := errors.AsType[*dayfly.CallError](err)
	return ok && failed.Ran && errors.Is(err, fault.Internal) && strings.Contains(err.Error(), "a callback that fails")
}

// closing is a reader that says when it is closed.
type closing struct {
	io.Reader
	closed atomic.Bool
}

func (c *closing) Close() error {
	c.closed.Store(true)
	return nil
}

func TestAReaderIsClosedThoughItsCallCannotBeMade(t *testing.T) {
	t.Parallel()
	p := newPool(t, dayfly.PoolOptions{MaxArgument: 100})
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	reader := func() *closing { return &closing{Reader: strings.NewReader("text")} }
	for what, call := range map[string]func(*closing) error{
		"a context that has ended": func(c *closing) error {
			_, err := upper.Call(canceled, p, document{Text: c})
			return err
		},
		"an argument over the limit": func(c *closing) error {
			_, err := upper.Call(t.Context(), p, document{Name: strings.Repeat("x", 200), Text: c})
			return err
		},
		"an argument that cannot be encoded": func(c *closing) error {
			_, err := anything.Call(t.Context(), p, thing{What: struct{ N int }{1}, Text: c})
			return err
		},
		"a placement": func(c *closing) error {
			_, err := upper.Place(canceled, p, document{Text: c})
			return err
		},
	} {
		c := reader()
		if err := call(c); err == nil {
			t.Errorf("%s: got no error", what)
		}
		if !c.closed.Load() {
			t.Errorf("%s: the reader is left open", what)
		}
	}
	c := reader()
	if err := upper.Cast(canceled, p, document{Text: c}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a cast's reader to be closed", c.closed.Load)
}

func TestReadingAResultFailsWithTheErrorsOfACall(t *testing.T) {
	t.Parallel()
	p := newPool(t, dayfly.PoolOptions{})
	read := func(how string) (string, error) {
		r, err := dribble.Call(t.Context(), p, how)
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		defer r.Close()
		text, err := io.ReadAll(r)
		return string(text), err
	}
	text, err := read("exits")
	if failed, ok := errors.AsType[*dayfly.CallError](err); !ok || !failed.Ran || !errors.Is(err, dayfly.ErrRunnerLost) || text != "drop" {
		t.Errorf("of a runner that is lost: got %q, %#v, want what was read and a CallError", text, err)
	}
	text, err = read("fails")
	if failed, ok := errors.AsType[*dayfly.RemoteError](err); !ok || !strings.Contains(failed.Message, "the pipe burst") || text != "drop" {
		t.Errorf("of a reader that fails: got %q, %#v, want what was read and a RemoteError", text, err)
	}
	if text, err = read("ends"); text != "drop" || err != nil {
		t.Errorf("of a reader that does not fail: got %q, %v", text, err)
	}
}

// dribbling is a reader that gives a drop, and then does what it is called.
type dribbling struct {
	how  string
	gave bool
}

func (d *dribbling) Read(p []byte) (int, error) {
	if !d.gave {
		d.gave = true
		return copy(p, "drop"), nil
	}
	<-time.After(100 * time.Millisecond) // the drop is on its way
	switch d.how {
	case "exits":
		os.Exit(4)
	case "fails":
		return 0, errors.New("the pipe burst")
	}
	return 0, io.EOF
}

func TestAPoolWithoutAProviderIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := dayfly.NewPool(nil, nil); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "dayfly.Local()") {
		t.Errorf("got %v, want an error of kind invalid that names one", err)
	}
}

func TestAPoolWhoseMachinesCannotBeIsRefusedBeforeAnyCall(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]dayfly.PoolOptions{
		"Silence: 1ns cannot be measured":    {Silence: 1},
		"Silence: 2h0m0s cannot be measured": {Silence: 2 * time.Hour},
		`Address: "http://me:1/"`:            {Address: "http://me:1/"},
		`Address: "::::" is neither`:         {Address: "::::"},
		`Address: ":7800" is neither`:        {Address: ":7800"},
		`the port "0"`:                       {Address: "me:0"},
		`the port "http"`:                    {Address: "[::1]:http"},
		`Listen: "7800" is not a port`:       {Address: "me", Listen: "7800"},
		`Listen: "a/b:1" is not a port`:      {Address: "me", Listen: "a/b:1"},
		`Listen: ":0" has the port "0"`:      {Address: "me", Listen: ":0"},
		"Listen: machines are not told":      {Listen: ":7800"},
		"Spec.Entrypoint: it starts":         {Spec: machine.Spec{Entrypoint: []string{"/app"}}},
		`environment variable "A=B"`:         {Spec: machine.Spec{Env: map[string]string{"A=B": ""}}},
		"a size cannot be negative":          {Spec: machine.Spec{Size: machine.Size{MemoryMB: -1}}},
		"Spec.Name: each machine":            {Spec: machine.Spec{Name: "mine"}},
		"Spec.Owner: a pool finds":           {Spec: machine.Spec{Owner: "me"}},
		"Spec.Labels: the label parent":      {Spec: machine.Spec{Labels: map[string]string{"parent": "me"}}},
		"Timeout: -1s is no":                 {Timeout: -time.Second},
		"Stuck: -1m0s is no":                 {Stuck: -time.Minute},
		"Idle: -1s is no":                    {Idle: -time.Second},
		"MinIdle: -1s is no":                 {MinIdle: -time.Second},
		"Patience: -2ns is no":               {Patience: dayfly.Never - 1},
		"BootTimeout: -1s is no":             {BootTimeout: -time.Second},
	} {
		if _, err := dayfly.NewPool(dayfly.Local(), &o); fault.Of(err) != fault.Invalid || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("got error %v, want one of kind invalid that says %q", err, want)
		}
	}
	for _, address := range []string{"203.0.113.7", "203.0.113.7:7800", "2001:db8::7", "[2001:db8::7]", "[2001:db8::7]:7800", "fe80::1%eth0", "web_1.internal", "web-1:7800"} {
		p, err := dayfly.NewPool(dayfly.Local(), &dayfly.PoolOptions{Address: address})
		if err != nil {
			t.Errorf("the address %s: got error %v, want nil", address, err)
			continue
		}
		if err := p.Close(); err != nil {
			t.Errorf("Close: got error %v, want nil", err)
		}
	}
}

func TestPoolsOfOneProcessShareTheProviderOfThisComputer(t *testing.T) {
	t.Parallel()
	// It has connections and files open, which no pool closes: a program that makes a pool for each request would run out of them.
	if one, other := dayfly.Local(), dayfly.Local(); one != other {
		t.Errorf("got %p and %p, want one provider", one, other)
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

func TestATimeoutThatIsOverEndsACallBeforeItBegins(t *testing.T) {
	t.Parallel()
	p := newPool(t, dayfly.PoolOptions{Min: 1})
	f := double.With(&dayfly.CallOptions{Timeout: -time.Second})
	_, err := f.Call(t.Context(), p, 1)
	if failed, ok := errors.AsType[*dayfly.CallError](err); !ok || failed.Ran || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "CallOptions.Timeout is -1s") {
		t.Errorf("Call: got error %v, want that CallOptions.Timeout is -1s and that nothing has run", err)
	}
	if _, err := f.Place(t.Context(), p, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Place: got error %v, want that its time is up", err)
	}
}

func TestACallWithoutAPoolIsRefused(t *testing.T) {
	t.Parallel()
	var none *dayfly.Pool
	_, called := double.Call(t.Context(), none, 1)
	_, placed := double.Place(t.Context(), none, 1)
	for what, err := range map[string]error{"Call": called, "Place": placed, "Cast": double.Cast(t.Context(), none, 1)} {
		if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "NewPool") {
			t.Errorf("%s with a nil pool: got %v, want fault.Invalid and how a pool is made", what, err)
		}
	}
}
