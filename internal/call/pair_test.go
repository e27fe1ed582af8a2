package call_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/call"
)

// wire is one end of a pair of links in memory.
type wire struct {
	in, out chan []byte
	over    chan struct{}
	once    *sync.Once
	why     *error
	mu      sync.Mutex
	posts   [][]byte // what was posted and waits for the sender
	kick    chan struct{}
	before  func() (after func()) // called before each Send, if set; what it returns is called when that has sent something, unless it is nil
}

// pair returns two ends that are joined. Each direction takes a few frames, like a small window.
func pair(t testing.TB) (*wire, *wire) {
	t.Helper()
	ab, ba := make(chan []byte, 4), make(chan []byte, 4)
	over, once, why := make(chan struct{}), &sync.Once{}, new(error)
	a := &wire{in: ba, out: ab, over: over, once: once, why: why, kick: make(chan struct{}, 1)}
	b := &wire{in: ab, out: ba, over: over, once: once, why: why, kick: make(chan struct{}, 1)}
	go a.sendPosts()
	go b.sendPosts()
	t.Cleanup(func() { a.cut(errors.New("the test is over")) })
	return a, b
}

func (w *wire) Send(ctx context.Context, parts ...[]byte) error {
	if len(parts) == 0 {
		return errors.New("nothing to send")
	}
	after := func() {}
	if w.before != nil {
		if f := w.before(); f != nil {
			after = f
		}
	}
	select {
	case <-w.over:
		return *w.why
	case <-ctx.Done():
		return ctx.Err()
	default:
	}
	select {
	case w.out <- bytes.Join(parts, nil):
		after()
		return nil
	case <-w.over:
		return *w.why
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *wire) Post(parts ...[]byte) error {
	w.mu.Lock()
	w.posts = append(w.posts, bytes.Join(parts, nil))
	w.mu.Unlock()
	select {
	case w.kick <- struct{}{}:
	default:
	}
	return nil
}

func (w *wire) sendPosts() {
	for {
		select {
		case <-w.kick:
		case <-w.over:
			return
		}
		w.mu.Lock()
		posts := w.posts
		w.posts = nil
		w.mu.Unlock()
		for _, p := range posts {
			if w.Send(context.Background(), p) != nil {
				return
			}
		}
	}
}

func (w *wire) Serve(handle func([]byte)) error {
	for {
		select {
		case f := <-w.in:
			handle(f)
		case <-w.over:
			return *w.why
		}
	}
}

func (w *wire) Close(why error) {
	if why == nil {
		why = errors.New("closed in order")
	}
	w.cut(why)
}

// cut ends the link for both.
func (w *wire) cut(why error) {
	w.once.Do(func() {
		*w.why = why
		close(w.over)
	})
}

// joined is a client and a server that are joined.
type joined struct {
	*call.Client
	server   *call.Server
	logs     *call.Logs
	wire     *wire  // the client's end
	far      *wire  // the server's
	leads    *leads // the client's end, if it is a real link
	registry *call.Registry
	served   chan error // what the server's Serve returned
	ended    chan error // what the client's Serve returned
}

// settings are those of most tests.
func settings() call.Settings {
	return call.Settings{MaxArgument: 4 << 20, MaxResult: 4 << 20, Grace: 10 * time.Second}
}

// join starts both ends; the functions are added to its registry before they are called.
func join(t testing.TB, s call.Settings, o *call.ClientOptions) *joined {
	t.Helper()
	return joinAs(t, call.NewLogs(), &call.Registry{}, s, o)
}

// joinAs joins a process that has these functions, and logs to those logs, to a parent.
func joinAs(t testing.TB, logs *call.Logs, r *call.Registry, s call.Settings, o *call.ClientOptions) *joined {
	t.Helper()
	a, b := pair(t)
	j := &joined{logs: logs, wire: a, far: b, registry: r, served: make(chan error, 1), ended: make(chan error, 1)}
	j.server = call.NewServer(j.registry, b, j.logs)
	j.logs.Serve(j.server)
	go func() { j.served <- j.server.Serve() }()
	client, err := call.NewClient(t.Context(), a, s, o)
	if err != nil {
		t.Fatal(err)
	}
	j.Client = client
	go func() { j.ended <- client.Serve() }()
	return j
}

// function is a function of a registry, with its types.
type function[A, R any] struct {
	*call.Signature[A, R]
	name string
}

func declare[A, R any](t testing.TB, r *call.Registry, name string, f func(context.Context, A) (R, error)) function[A, R] {
	t.Helper()
	s, err := call.NewSignature[A, R](false)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Add(s.Function(name, "here.go:1", f)); err != nil {
		t.Fatal(err)
	}
	return function[A, R]{s, name}
}

func declareStream[A, R any](t testing.TB, r *call.Registry, name string, f func(context.Context, A, func(R) error) error) function[A, R] {
	t.Helper()
	s, err := call.NewSignature[A, R](true)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Add(s.Streaming(name, "here.go:1", f)); err != nil {
		t.Fatal(err)
	}
	return function[A, R]{s, name}
}

// start starts a call; r may say more about it.
func (f function[A, R]) start(ctx context.Context, j *joined, a A, r call.Request) (*call.Call, error) {
	v, err := f.Encode(&a)
	if err != nil {
		return nil, err
	}
	r.Function, r.Argument, r.Retains = f.name, v, f.Retains()
	return j.Start(ctx, &r)
}

func (f function[A, R]) call(ctx context.Context, j *joined, a A) (R, error) {
	var none R
	k, err := f.start(ctx, j, a, call.Request{})
	if err != nil {
		return none, err
	}
	if err := k.Wait(ctx); err != nil {
		return none, err
	}
	return f.Result(k)
}

// slot counts how often it is released.
type slot struct {
	mu       sync.Mutex
	released int
	free     chan struct{}
}

func newSlot() *slot { return &slot{free: make(chan struct{})} }

func (s *slot) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released++; s.released == 1 {
		close(s.free)
	}
}

// taken reports whether the slot was not released yet.
func (s *slot) taken() bool {
	select {
	case <-s.free:
		return false
	default:
		return true
	}
}

// receive waits for something to come out of a channel.
func receive[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("waited 20 s for %s", what)
		panic("unreachable")
	}
}
