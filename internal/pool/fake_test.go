package pool_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/pool"
)

// cloud is a Backend of runners which are nothing but a channel.
type cloud struct {
	takes time.Duration                      // how long a boot takes
	fails func(n int) error                  // what becomes of the nth boot, counted from 1; nil: all succeed
	stop  func(context.Context, *node) error // what Stop does; nil: it succeeds at once
	life  time.Duration                      // how long runners live; 0: for ever
	boot  func(context.Context, *node) error // replaces takes and fails

	mu    sync.Mutex // guards also what a test changes, by change
	began int
	nodes []*node // those that are up or were
	alive int     // boots under way, and nodes that are not stopped
	most  int     // the most that were alive at once
}

func (c *cloud) Boot(ctx context.Context, name string) (pool.Runner, error) {
	c.mu.Lock()
	c.began++
	n := c.began
	c.alive++
	c.most = max(c.most, c.alive)
	c.mu.Unlock()
	r := &node{cloud: c, name: name, done: make(chan struct{}), fails: make(chan struct{})}
	if err := c.wait(ctx, r, n); err != nil {
		c.dead()
		return nil, err
	}
	if c.life > 0 {
		r.ends = time.Now().Add(c.life)
	}
	c.mu.Lock()
	c.nodes = append(c.nodes, r)
	c.mu.Unlock()
	return r, nil
}

func (c *cloud) wait(ctx context.Context, r *node, n int) error {
	if c.boot != nil {
		return c.boot(ctx, r)
	}
	c.mu.Lock()
	takes := c.takes
	c.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return fmt.Errorf("the fake's boot was ended: %w", context.Cause(ctx))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fails != nil {
		return c.fails(n)
	}
	return nil
}

// change changes what the fake does from now on.
func (c *cloud) change(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// exist returns how many runners boot or are not stopped, and the most that ever did at once.
func (c *cloud) exist() (now, most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.alive, c.most
}

func (c *cloud) dead() {
	c.mu.Lock()
	c.alive--
	c.mu.Unlock()
}

// booted returns how many boots have begun.
func (c *cloud) booted() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.began
}

// up returns the nodes that are neither lost nor stopped.
func (c *cloud) up() []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.nodes), func(r *node) bool { return r.isDone() })
}

// node is a Runner.
type node struct {
	cloud *cloud
	name  string
	ends  time.Time
	done  chan struct{}
	fails chan struct{} // what Failing returns

	mu    sync.Mutex
	err   error
	over  bool
	stops int  // calls of Stop
	gone  bool // one of them succeeded
}

func (r *node) ID() string               { return "id-" + r.name }
func (r *node) Done() <-chan struct{}    { return r.done }
func (r *node) Failing() <-chan struct{} { return r.fails }
func (r *node) Ends() time.Time          { return r.ends }

func (r *node) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// stopped returns how often Stop was called.
func (r *node) stopped() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stops
}

func (r *node) isGone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gone
}

// isDone reports whether it can do no work any more.
func (r *node) isDone() bool { return r.isOver() || r.isFailing() }

func (r *node) isOver() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// isFailing reports whether it is lost, and not known why.
func (r *node) isFailing() bool {
	select {
	case <-r.fails:
		return !r.isOver()
	default:
		return false
	}
}

// doom makes the runner die by itself, and tells why after so long.
func (r *node) doom(after time.Duration, err error) {
	close(r.fails)
	time.AfterFunc(after, func() { r.kill(err) })
}

// kill makes the runner die by itself.
func (r *node) kill(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.over, r.err = true, err
		close(r.done)
	}
}

func (r *node) Stop(ctx context.Context) error {
	r.mu.Lock()
	r.stops++
	r.mu.Unlock()
	if r.cloud.stop != nil {
		if err := r.cloud.stop(ctx, r); err != nil {
			return err
		}
	}
	r.kill(errors.New("stopped in order"))
	r.mu.Lock()
	first := !r.gone
	r.gone = true
	r.mu.Unlock()
	if first {
		r.cloud.dead()
	}
	return nil
}

// start returns a pool that runs until the test ends, which fails when Run returns an error or leaves a goroutine.
func start(t *testing.T, c *cloud, o *pool.Options) *pool.Pool {
	t.Helper()
	p := create(t, c, o)
	go func() {
		if err := p.Run(t.Context()); err != nil {
			t.Errorf("Run: got %v, want no error", err)
		}
	}()
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Close: got %v, want no error", err)
		}
		synctest.Wait()
		if left, _ := c.exist(); left != 0 {
			t.Errorf("after Run %d runners were left, want none", left)
		}
	})
	synctest.Wait()
	return p
}

func create(t *testing.T, c *cloud, o *pool.Options) *pool.Pool {
	t.Helper()
	p, err := pool.New(c, o)
	if err != nil {
		t.Fatalf("New: got %v, want a pool", err)
	}
	return p
}

// take acquires a slot, and fails the test when it gets none.
func take(t *testing.T, p *pool.Pool) *pool.Slot {
	t.Helper()
	s, err := p.Acquire(t.Context())
	if err != nil {
		t.Fatalf("Acquire: got %v, want a slot", err)
	}
	return s
}

// answer is what an Acquire returned, and after how long.
type answer struct {
	slot  *pool.Slot
	err   error
	after time.Duration
}

// ask acquires a slot in the background.
func ask(ctx context.Context, p *pool.Pool) <-chan answer {
	began := time.Now()
	answers := make(chan answer, 1)
	go func() {
		s, err := p.Acquire(ctx)
		answers <- answer{slot: s, err: err, after: time.Since(began)}
	}()
	return answers
}

// reason returns the reason of an [pool.Error], or "".
func reason(err error) pool.Reason {
	if e, ok := errors.AsType[*pool.Error](err); ok {
		return e.Reason
	}
	return ""
}

// wantUp fails the test unless so many runners are up now.
func wantUp(t *testing.T, p *pool.Pool, want int, when string) {
	t.Helper()
	synctest.Wait()
	if got := p.Stats().Up; got != want {
		t.Errorf("%s: %d runners are up, want %d", when, got, want)
	}
}

// passing is a failure that may pass.
func passing(int) error { return fault.Say(fault.Unavailable, "the provider does not answer") }
