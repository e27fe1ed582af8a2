package dayfly_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// The functions of the tests. Their runners are processes of this test's own program, which has them too.
var (
	whoami = dayfly.Func("test/whoami", func(context.Context, struct{}) (identity, error) {
		id := identity{PID: os.Getpid(), InRunner: dayfly.InRunner(), Invitation: os.Getenv("DAYFLY_PARENT")}
		if p := dayfly.Parent(); p != nil {
			id.Parent = *p
		}
		return id, nil
	})
	double = dayfly.Func("test/double", func(_ context.Context, n int) (int, error) { return 2 * n, nil })
	fail   = dayfly.Func("test/fail", func(ctx context.Context, how string) (int, error) {
		switch how {
		case "exit":
			os.Exit(3)
		case "crash": // with what all goroutines do after the reason, as a fault of the runtime's has it
			debug.SetTraceback("all")
			for range 50 {
				go func() { <-ctx.Done() }()
			}
			go func() { panic("a panic beside the function") }()
			<-ctx.Done()
		case "log.Fatal":
			log.Fatal("the model is not there")
		case "slog.Error":
			slog.Error("the model is not there")
			os.Exit(1)
		case "panic":
			panic("a panic on purpose")
		case "not found":
			return 0, fmt.Errorf("no such video: %w", fault.NotFound)
		}
		return 0, errors.New(how)
	})
	wait = dayfly.Func("test/wait", func(ctx context.Context, w waiting) (string, error) {
		if w.Begun != "" {
			if err := os.WriteFile(w.Begun, nil, 0o600); err != nil {
				return "", err
			}
		}
		for {
			select {
			case <-ctx.Done():
				if !w.IgnoresContext {
					return "", ctx.Err()
				}
				<-time.After(10 * time.Millisecond)
			case <-dayfly.Draining(ctx):
				if w.ObeysDrain {
					return "drained", nil
				}
				<-time.After(10 * time.Millisecond)
			case <-time.After(5 * time.Millisecond):
			}
			if _, err := os.Stat(w.Until); err == nil {
				return "released", nil
			}
		}
	})
	chatter = dayfly.Func("test/chatter", func(ctx context.Context, text string) (int, error) {
		slog.InfoContext(ctx, "logged "+text, "size", len(text))
		fmt.Println("printed " + text)
		fmt.Fprintln(os.Stderr, "complained "+text)
		dayfly.ReportProgress(ctx, 0.5, "half of "+text)
		dayfly.ReportProgress(ctx, 1, "all of "+text)
		return 0, nil
	})
	count = dayfly.Stream("test/count", func(_ context.Context, n int, yield func(int) error) error {
		for i := range n {
			if err := yield(i); err != nil {
				return err
			}
		}
		if n == 7 {
			return errors.New("seven is too many")
		}
		return nil
	})
	upper = dayfly.Func("test/upper", func(_ context.Context, in document) (document, error) {
		text, err := io.ReadAll(in.Text)
		if err != nil {
			return document{}, err
		}
		return document{Name: strings.ToUpper(in.Name), Text: io.NopCloser(bytes.NewReader(bytes.ToUpper(text)))}, nil
	})
	nested = dayfly.Func("test/nested", func(ctx context.Context, n int) (int, error) {
		pool, err := dayfly.NewPool(dayfly.Local(), &dayfly.PoolOptions{Name: "inner", Min: 1, Max: 1})
		if err != nil {
			return 0, err
		}
		defer pool.Close()
		return double.Call(ctx, pool, n)
	})
)

type identity struct {
	PID        int
	InRunner   bool
	Invitation string
	Parent     dayfly.Beginning
}

// waiting is how test/wait waits.
type waiting struct {
	Begun                      string // a file that it makes when it begins
	Until                      string // a file that it waits for
	IgnoresContext, ObeysDrain bool
}

type document struct {
	Name string
	Text io.ReadCloser
}

// TestMain does what every program with a pool does first. Nothing stays in the user's cache.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_WITHOUT_MAIN") != "" {
		_, err := dayfly.NewPool(dayfly.Local(), nil)
		fmt.Println(err)
		os.Exit(0)
	}
	if os.Getenv("TEST_CRASH") != "" {
		fmt.Println("the cache is loaded")
		fmt.Fprintln(os.Stderr, "the model is not there")
		os.Exit(3)
	}
	dayfly.Main()
	playPart()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	cache, err := os.MkdirTemp("", "dayfly-test-cache")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(cache)
	if err := os.Setenv("XDG_CACHE_HOME", cache); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// newPool returns a pool of processes that is closed at the test's end.
func newPool(t *testing.T, o dayfly.PoolOptions) *dayfly.Pool {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Name == "" {
		o.Name = poolName(t)
	}
	p, err := dayfly.NewPool(dayfly.Local(), &o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return p
}

// poolName makes a pool's name of a test's.
func poolName(t *testing.T) string {
	name := strings.ToLower(strings.TrimPrefix(t.Name(), "Test"))
	name = strings.Map(func(r rune) rune {
		if r < 'a' || r > 'z' {
			return '-'
		}
		return r
	}, name)
	return name[:min(len(name), 40)]
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	limit := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(limit) {
			t.Fatalf("waited 20 s for %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func touch(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestACallRunsInAnotherProcessOfThisProgram(t *testing.T) {
	t.Parallel()
	p := newPool(t, dayfly.PoolOptions{Name: "others"})
	got, err := whoami.Call(t.Context(), p, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	if got.PID == os.Getpid() || !got.InRunner || got.Invitation != "" {
		t.Errorf("got %+v, want another process that knows it is a runner and passes its invitation to nobody", got)
	}
	if got.Parent.PID != os.Getpid() || got.Parent.Pool != "others" || !strings.HasPrefix(got.Parent.Runner, "others-") {
		t.Errorf("the runner's parent: got %+v, want process %d and pool others", got.Parent, os.Getpid())
	}
	if dayfly.InRunner() || dayfly.Parent() != nil {
		t.Error("this process takes itself for a runner")
	}
}

func TestErrorsSayWhetherTheFunctionFailedOrTheCall(t *testing.T) {
	t.Parallel()
	p := newPool(t, dayfly.PoolOptions{MaxArgument: 1000})
	_, err := fail.Call(t.Context(), p, "not found")
	remote, ok := errors.AsType[*dayfly.RemoteError](err)
	if !ok || remote.Message != "no such video: not_found" || !errors.Is(err, fault.NotFound) || remote.Function != "test/fail" || remote.Runner == "" {
		t.Errorf("an error: got %#v, want the function's own", err)
	}
	_, err = fail.Call(t.Context(), p, "panic")
	remote, ok = errors.AsType[*dayfly.RemoteError](err)
	if !ok || remote.Message != "a panic on purpose" || !strings.Contains(remote.Stack, "func_test.go") || !strings.Contains(err.Error(), "panicked") {
		t.Errorf("a panic: got %#v, want one with its stack", err)
	}
	_, err = fail.Call(t.Context(), p, strings.Repeat("x", 1001))
	failed, ok := errors.AsType[*dayfly.CallError](err)
	if !ok || failed.Ran || !errors.Is(err, fault.TooLarge) {
		t.Errorf("a large argument: got %#v, want a CallError of kind too_large", err)
	}
	_, err = fail.Call(t.Context(), p, "exit")
	failed, ok = errors.AsType[*dayfly.CallError](err)
	if !ok || !failed.Ran || !errors.Is(err, dayfly.ErrRunnerLost) || errors.Is(err, dayfly.ErrOutOfMemory) || !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "status 3") {
		t.Errorf("a runner that ended: got %v, want a CallError that it is lost, with its status", err)
	}
	if got, err := double.Call(t.Context(), p, 4); got != 8 || err != nil {
		t.Errorf("the next call: got %d, %v, want 8", got, err)
	}
}

func TestAFunctionThatOnlyTheParentDeclaredIsUnknown(t *testing.T) {
	t.Parallel()
	p := newPool(t, dayfly.PoolOptions{})
	late := dayfly.Func("test/late-"+rand.Text(), func(context.Context, int) (int, error) { return 0, nil })
	_, err := late.Call(t.Context(), p, 1)
	if failed, ok := errors.AsType[*dayfly.CallError](err); !ok || failed.Ran || !errors.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "package-level") {
		t.Errorf("got %v, want a CallError of kind not_found that says what to do", err)
	}
}

func TestFuncPanicsWithThePlacesOfWhatIsWrong(t *testing.T) {
	t.Parallel()
	said := func(f func()) (text string) {
		defer func() { text = fmt.Sprint(recover()) }()
		f()
		return ""
	}
	for _, c := range []struct {
		name  string
		f     func()
		words []string
	}{
		{"a taken name", func() { dayfly.Func("test/double", func(context.Context, int) (int, error) { return 0, nil }) }, []string{"test/double", "func_test.go:"}},
		{"a channel", func() { dayfly.Func("test/c", func(context.Context, chan int) (int, error) { return 0, nil }) }, []string{"test/c", "func_test.go:", "chan int"}},
		{"no name", func() { dayfly.Func("", func(context.Context, int) (int, error) { return 0, nil }) }, []string{"func_test.go:"}},
		{"a reader that nobody can close", func() { dayfly.Func("test/r", func(context.Context, int) (io.Reader, error) { return nil, nil }) }, []string{"io.ReadCloser"}},
		{"a reader in a stream", func() {
			dayfly.Stream("test/s", func(context.Context, int, func(io.ReadCloser) error) error { return nil })
		}, []string{"stream"}},
	} {
		got := said(c.f)
		for _, word := range c.words {
			if !strings.Contains(got, word) {
				t.Errorf("%s: got %q, want it to say %q", c.name, got, word)
			}
		}
		if c.name == "a taken name" && strings.Count(got, "func_test.go:") != 2 {
			t.Errorf("%s: got %q, want both places", c.name, got)
		}
	}
}

func TestTimeInLineCountsAgainstTheCallsTimeout(t *testing.T) {
	t.Parallel()
	p := newPool(t, dayfly.PoolOptions{Max: 1, Concurrency: 1})
	busy, err := wait.Place(t.Context(), p, waiting{Until: t.TempDir() + "/never"})
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	_, err = double.With(&dayfly.CallOptions{Timeout: 30 * time.Millisecond}).Call(t.Context(), p, 1)
	failed, ok := errors.AsType[*dayfly.CallError](err)
	if !ok || failed.Ran || failed.Runner != "" || failed.Waited <= 0 || !errors.Is(err, context.DeadlineExceeded) || fault.Of(err) != fault.Canceled {
		t.Errorf("got %#v, want a call whose time was up while it waited", err)
	}
}

func TestMoreCallsThanMayWaitAreRefusedAtOnce(t *testing.T) {
	t.Parallel()
	p := newPool(t, dayfly.PoolOptions{Max: 1, Concurrency: 1, MaxQueued: 1})
	busy, err := wait.Place(t.Context(), p, waiting{Until: t.TempDir() + "/never"})
	if err != nil {
		t.Fatal(err)
	}
	queued := make(chan error, 1)
	go func() {
		_, err := double.Call(t.Context(), p, 1)
		queued <- err
	}()
	eventually(t, "a call to wait", func() bool { return p.Stats().Queued == 1 })
	_, err = double.Call(t.Context(), p, 1)
	if failed, ok := errors.AsType[*dayfly.CallError](err); !ok || failed.Ran || !errors.Is(err, fault.Exhausted) {
		t.Errorf("got %v, want a CallError of kind exhausted", err)
	}
	busy.Close()
	if err := <-queued; err != nil {
		t.Errorf("the call that waited: %v", err)
	}
}

func TestTheDefaultTimeoutEndsFunctionsWithoutADeadline(t *testing.T) {
	t.Parallel()
	p := newPool(t, dayfly.PoolOptions{Timeout: 30 * time.Millisecond})
	_, err := wait.Call(t.Context(), p, waiting{Until: t.TempDir() + "/never"})
	failed, ok := errors.AsType[*dayfly.CallError](err)
	if !ok || !failed.Ran || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "PoolOptions.Timeout is 30ms") {
		t.Errorf("got %v, want that its time was up, and which time that was", err)
	}
	// What lasts as long as its caller likes has none.
	got, err := upper.Call(t.Context(), p, document{Name: "a", Text: io.NopCloser(strings.NewReader("slow"))})
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(60 * time.Millisecond)
	if text, err := io.ReadAll(got.Text); string(text) != "SLOW" || err != nil {
		t.Errorf("a result that is read slowly: got %q, %v", text, err)
	}
	for _, err := range count.Call(t.Context(), p, 3) {
		if err != nil {
			t.Errorf("a stream that is read slowly: %v", err)
		}
		<-time.After(30 * time.Millisecond)
	}
}

func TestAFunctionThatIgnoresItsContextIsNeverJoinedByMoreThanConcurrency(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := newPool(t, dayfly.PoolOptions{Max: 1, Concurrency: 1, Stuck: dayfly.Never})
	_, err := wait.With(&dayfly.CallOptions{Timeout: 500 * time.Millisecond}).Call(t.Context(), p, waiting{Begun: dir + "/begun", Until: dir + "/go", IgnoresContext: true})
	if !errors.Is(err, context.DeadlineExceeded) || !exists(dir+"/begun") {
		t.Fatalf("got %v, begun %v, want that its time was up while it ran", err, exists(dir+"/begun"))
	}
	next := make(chan error, 1)
	go func() {
		_, err := double.Call(t.Context(), p, 1)
		next <- err
	}()
	eventually(t, "the next call to wait", func() bool { return p.Stats().Queued == 1 })
	if got := p.Stats().InUse; got != 1 {
		t.Errorf("%d slots are in use, want the one of the function that runs on", got)
	}
	touch(t, dir+"/go")
	if err := <-next; err != nil {
		t.Errorf("the next call: %v", err)
	}
}

func TestARunnerWhoseFunctionNeverEndsIsReplaced(t *testing.T) {
	t.Parallel()
	shrunk := make(chan dayfly.Shrinkage, 10)
	p := newPool(t, dayfly.PoolOptions{Max: 1, Concurrency: 1, Stuck: 20 * time.Millisecond, OnShrink: func(s dayfly.Shrinkage) { shrunk <- s }})
	_, err := wait.With(&dayfly.CallOptions{Timeout: 500 * time.Millisecond}).Call(t.Context(), p, waiting{Until: t.TempDir() + "/never", IgnoresContext: true})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want that its time was up", err)
	}
	if got, err := double.Call(t.Context(), p, 3); got != 6 || err != nil {
		t.Errorf("the next call: got %d, %v, want 6 from another runner", got, err)
	}
	if s := <-shrunk; s.Err == nil || !strings.Contains(s.Err.Error(), "test/wait") {
		t.Errorf("the runner left because of %v, want the function's name", s.Err)
	}
}

func TestTheOtherCallsOfARunnerThatIsReplacedGoOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	shrunk := make(chan dayfly.Shrinkage, 10)
	p := newPool(t, dayfly.PoolOptions{
		Max: 1, Concurrency: 2, Stuck: 20 * time.Millisecond, ShutdownTimeout: time.Millisecond, OnShrink: func(s dayfly.Shrinkage) { shrunk <- s },
	})
	other := make(chan error, 1)
	go func() {
		_, err := wait.Call(t.Context(), p, waiting{Begun: dir + "/begun", Until: dir + "/go"})
		other <- err
	}()
	eventually(t, "the other call to begin", func() bool { return exists(dir + "/begun") })
	_, err := wait.With(&dayfly.CallOptions{Timeout: 500 * time.Millisecond}).Call(t.Context(), p, waiting{Until: dir + "/never", IgnoresContext: true})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want that its time was up", err)
	}
	next := make(chan error, 1)
	go func() {
		_, err := double.Call(t.Context(), p, 3)
		next <- err
	}()
	eventually(t, "the next call to wait for another runner", func() bool { s := p.Stats(); return s.Queued == 1 && s.InUse == 1 })
	touch(t, dir+"/go")
	if err := <-other; err != nil {
		t.Errorf("the other call on the runner: got %v, want its result", err)
	}
	if err := <-next; err != nil {
		t.Errorf("the next call: got %v, want its result from another runner", err)
	}
	if s := <-shrunk; s.Reason != "retired" || s.Err == nil || !strings.Contains(s.Err.Error(), "test/wait") {
		t.Errorf("the runner left as %s because of %v, want retired and the function's name", s.Reason, s.Err)
	}
}

func TestASingleUseRunnerRunsOneCall(t *testing.T) {
	t.Parallel()
	p := newPool(t, dayfly.PoolOptions{Max: 4, SingleUse: true})
	var mu sync.Mutex
	seen := map[int]int{}
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			id, err := whoami.Call(t.Context(), p, struct{}{})
			if err != nil {
				t.Errorf("got %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			seen[id.PID]++
		})
	}
	calls.Wait()
	if len(seen) != 8 {
		t.Errorf("8 calls ran in %d processes: %v, want 8", len(seen), seen)
	}
}

func TestResultsComeOneByOneUntilTheLoopIsLeft(t *testing.T) {
	t.Parallel()
	p := newPool(t, dayfly.PoolOptions{Max: 1, Concurrency: 1})
	sum := 0
	for n, err := range count.Call(t.Context(), p, 5) {
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	if sum != 10 {
		t.Errorf("got the sum %d, want 10", sum)
	}
	for n, err := range count.Call(t.Context(), p, 100_000_000) {
		if err != nil {
			t.Fatal(err)
		}
		if n == 3 {
			break
		}
	}
	got := 0
	var last error
	for _, err := range count.Call(t.Context(), p, 7) { // with one slot: the function before has ended
		if last = err; err == nil {
			got++
		}
	}
	if _, ok := errors.AsType[*dayfly.RemoteError](last); !ok || got != 7 {
		t.Errorf("got %d items and %v, want 7 and then the function's error", got, last)
	}
}

func TestAPlacedFunctionHoldsItsSlotUntilItIsClosed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := newPool(t, dayfly.PoolOptions{Max: 1, Concurrency: 1, Timeout: time.Millisecond})
	placing, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	placed, err := wait.Place(placing, p, waiting{Until: dir + "/go"})
	if err != nil {
		t.Fatal(err)
	}
	cancel() // the context is that of placing
	if _, err := double.With(&dayfly.CallOptions{Timeout: 20 * time.Millisecond}).Call(t.Context(), p, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call beside it: got %v, want that no slot was free", err)
	}
	select {
	case <-placed.Done():
		t.Errorf("it has ended: %v", placed.Err())
	default:
	}
	placed.Close()
	<-placed.Done()
	if err := placed.Err(); err != nil {
		t.Errorf("after Close: got %v, want nil", err)
	}
	again, err := wait.Place(t.Context(), p, waiting{Until: dir + "/go"})
	if err != nil {
		t.Fatal(err)
	}
	touch(t, dir+"/go")
	if got, err := again.Wait(t.Context()); got != "released" || err != nil {
		t.Errorf("one that returns by itself: got %q, %v, want released", got, err)
	}
}

func TestClosingAPoolLetsPlacedWorkComeToItsEnd(t *testing.T) {
	t.Parallel()
	p := newPool(t, dayfly.PoolOptions{})
	placed, err := wait.Place(t.Context(), p, waiting{Until: t.TempDir() + "/never", ObeysDrain: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if got, err := placed.Wait(t.Context()); got != "drained" || err != nil {
		t.Errorf("got %q, %v, want drained", got, err)
	}
	if _, err := double.Call(t.Context(), p, 1); !errors.Is(err, fault.Conflict) {
		t.Errorf("a call after Close: got %v, want a conflict", err)
	}
}

func TestWorkThatOutlastsTheShutdownIsCanceled(t *testing.T) {
	t.Parallel()
	p := newPool(t, dayfly.PoolOptions{ShutdownTimeout: 30 * time.Millisecond})
	placed, err := wait.Place(t.Context(), p, waiting{Until: t.TempDir() + "/never"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := placed.Wait(t.Context()); !errors.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want that the runner was stopped", err)
	}
}

func TestACastsFailureGoesToOnErrorWhichMayPanic(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	told := make(chan error, 2)
	var once sync.Once
	p := newPool(t, dayfly.PoolOptions{OnError: func(err error) {
		told <- err
		once.Do(func() { panic("a callback that fails") })
	}})
	for range 2 {
		if err := fail.Cast(t.Context(), p, "on purpose"); err != nil {
			t.Fatal(err)
		}
		if _, ok := errors.AsType[*dayfly.RemoteError](<-told); !ok {
			t.Error("OnError was told another error than the function's")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := wait.Cast(ctx, p, waiting{Begun: dir + "/begun"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it to begin", func() bool { return exists(dir + "/begun") })
	cancel()
	if err := <-told; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was canceled with its caller", err)
	}
}

func TestADetachedCastGoesOnWithoutItsCallerAlsoInLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	told := make(chan error, 10)
	p := newPool(t, dayfly.PoolOptions{Max: 1, Concurrency: 1, OnError: func(err error) { told <- err }})
	ctx, cancel := context.WithCancel(t.Context())
	if err := wait.With(&dayfly.CallOptions{Detached: true}).Cast(ctx, p, waiting{Begun: dir + "/begun", Until: dir + "/go"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it to begin", func() bool { return exists(dir + "/begun") })
	if err := fail.With(&dayfly.CallOptions{Detached: true}).Cast(ctx, p, "a reason of its own"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next to wait in line", func() bool { return p.Stats().Queued == 1 })
	cancel()
	touch(t, dir+"/go")
	err := <-told
	if remote, ok := errors.AsType[*dayfly.RemoteError](err); !ok || remote.Message != "a reason of its own" {
		t.Errorf("got %v, want the error of the function that waited in line, and none of the other", err)
	}
	eventually(t, "both to end", func() bool { return p.Stats().InUse == 0 })
	if len(told) > 0 {
		t.Errorf("got %v as well, want nothing of a cast that did not fail", <-told)
	}
}

func TestWhatARunnerLogsAndPrintsReachesThePoolsLogger(t *testing.T) {
	t.Parallel()
	var out safeBuffer
	p := newPool(t, dayfly.PoolOptions{Logger: slog.New(slog.NewTextHandler(&out, nil))})
	var progress []dayfly.Progress
	talk := chatter.With(&dayfly.CallOptions{OnProgress: func(p dayfly.Progress) { progress = append(progress, p) }})
	if _, err := talk.Call(t.Context(), p, "it"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`msg="logged it"`, "size=2", `msg="printed it"`, "stream=stdout", `msg="complained it"`, "stream=stderr"} {
		eventually(t, want+" in the log", func() bool { return strings.Contains(out.String(), want) })
	}
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, " it\"") && (!strings.Contains(line, "function=test/chatter") || !strings.Contains(line, "call=1") || !strings.Contains(line, "runner=")) {
			t.Errorf("got %q, want it to say which call it was", line)
		}
	}
	if n := len(progress); n == 0 || progress[n-1] != (dayfly.Progress{Fraction: 1, Text: "all of it"}) {
		t.Errorf("progress: got %v, want the last report at the end", progress)
	}
}

func TestWhyARunnerCrashedIsToldHoweverManyGoroutinesItHas(t *testing.T) {
	t.Parallel()
	p := newPool(t, dayfly.PoolOptions{})
	_, err := fail.Call(t.Context(), p, "crash")
	if !errors.Is(err, dayfly.ErrRunnerLost) || !strings.Contains(err.Error(), "panic: a panic beside the function") {
		t.Errorf("got %v, want that the runner was lost and the panic", err)
	}
}

func TestWhyAFunctionEndsItsProcessIsLogged(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"log.Fatal", "slog.Error"} {
		var out safeBuffer
		p := newPool(t, dayfly.PoolOptions{Name: "fatal", Logger: slog.New(slog.NewTextHandler(&out, nil))})
		if _, err := fail.Call(t.Context(), p, how); !errors.Is(err, dayfly.ErrRunnerLost) || !strings.Contains(err.Error(), "status 1") {
			t.Errorf("%s: got %v, want that the runner was lost and its status", how, err)
		}
		const want = `msg="the model is not there"`
		eventually(t, want+" in the log of "+how, func() bool { return strings.Contains(out.String(), want) })
	}
}

// safeBuffer is a buffer for several goroutines.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestFilesGoThereAndBackWithoutBeingHeld(t *testing.T) {
	t.Parallel()
	p := newPool(t, dayfly.PoolOptions{MaxArgument: 1000, MaxResult: 1000})
	name := t.TempDir() + "/in"
	want := bytes.Repeat([]byte("abc"), 1<<20)
	if err := os.WriteFile(name, want, 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := upper.Call(t.Context(), p, document{Name: "a", Text: in})
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(got.Text)
	if err != nil || got.Name != "A" || !bytes.Equal(text, bytes.ToUpper(want)) {
		t.Errorf("got %q and %d bytes, %v, want A and %d", got.Name, len(text), err, len(want))
	}
	if err := got.Text.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the file to be closed", func() bool { return in.Close() != nil })
}

func TestAPoolInARunnerKeepsNoRunners(t *testing.T) {
	t.Parallel()
	var out safeBuffer
	p := newPool(t, dayfly.PoolOptions{Name: "outer", Logger: slog.New(slog.NewTextHandler(&out, nil))})
	if got, err := nested.Call(t.Context(), p, 21); got != 42 || err != nil {
		t.Errorf("got %d, %v, want 42", got, err)
	}
	const want = "function=test/nested call=1 reason=closed inner.pool=inner inner.runner=inner-"
	eventually(t, want+" in the log", func() bool { return strings.Contains(out.String(), want) })
	for line := range strings.Lines(out.String()) {
		if strings.Count(line, " pool=") != 1 || strings.Count(line, " runner=") != 1 {
			t.Errorf("got %q, want one pool and one runner in each record", line)
		}
	}
}

func TestAProviderThatNeverBootsIsToldAtOnce(t *testing.T) {
	t.Parallel()
	provider := memmachine.New(nil)
	provider.Cloud().Fail(memmachine.Create, memmachine.Refuse(fault.Denied))
	p, err := dayfly.NewPool(provider, &dayfly.PoolOptions{Address: "127.0.0.1", Logger: slog.New(slog.DiscardHandler), Spec: machine.Spec{Image: "an-image"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	_, err = double.Call(t.Context(), p, 1)
	if failed, ok := errors.AsType[*dayfly.CallError](err); !ok || failed.Ran || !errors.Is(err, fault.Denied) {
		t.Errorf("got %v, want a CallError of kind denied", err)
	}
}
