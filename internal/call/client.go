package call

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/call/codec"
)

// Settings are what a parent tells its runner first.
type Settings struct {
	MaxArgument int           // bytes of an encoded argument
	MaxResult   int           // bytes of an encoded result or item
	Grace       time.Duration // how long detached calls may go on when the parent is gone
	Level       int           // the least slog.Level that the parent logs
	Pool        string        // the pool's name
	Runner      string        // the runner's name
}

// ClientOptions are what a parent does with what it hears.
type ClientOptions struct {
	// Log takes what the runner logged and printed. It is called on a goroutine of the client's, for one record after
	// another; when it is slow, records are left out and counted. Nil drops them.
	Log func(Record)
	// Lost is given the reason why the link ended and returns what the calls that were under way are told. It may
	// take a moment to find out more. Nil changes nothing.
	Lost func(error) error
	// Stuck is told of a call whose function did not end within Patience after it was canceled. Its slot stays taken, and a
	// drain does not wait for it. Nil leaves it at that.
	Stuck    func(*Request)
	Patience time.Duration
	// Leaving is told that the runner is about to end, though nobody here has asked it to. Nil waits until it has.
	Leaving func()
}

// Client is the parent's end of a link. It is safe for concurrent use.
type Client struct {
	link     Link
	trace    tracing // the link, if it is one
	shared   shared  // the link, if it is one
	settings Settings
	o        ClientOptions
	logs     shipper
	timers   sync.Pool // of *time.Timer, for waits; not shared with other clients, whose clocks may be others in tests

	mu    sync.Mutex
	last  uint64 // the last id
	calls map[uint64]*Call
	known map[string]*knowledge // by function
	over  error                 // why no more calls can be made
	stuck int                   // how many of calls do not end
	empty chan struct{}         // made by a drain
	quiet bool                  // empty is closed: no call is left that may end
}

// knowledge is which descriptions of a function's types have crossed this link.
type knowledge struct {
	argument bool   // the runner has read those of the argument
	results  string // those of the results
}

// NewClient takes over the link, to which it tells the settings. Serve must be called.
func NewClient(ctx context.Context, l Link, s Settings, o *ClientOptions) (*Client, error) {
	c := &Client{link: l, settings: s, calls: map[uint64]*Call{}, known: map[string]*knowledge{}}
	c.trace, _ = l.(tracing)
	if o != nil {
		c.o = *o
	}
	c.logs.take = c.o.Log
	if g, ok := l.(interface{ Gather() }); ok {
		g.Gather() // each result lets a caller go on, who may well call again
	}
	if s, ok := l.(shared); ok {
		c.shared = s
		s.Share(func() bool { return c.Running() == 0 })
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("call: %w", err)
	}
	if err := l.Send(ctx, []byte{byte(kindSettings)}, text); err != nil {
		return nil, fmt.Errorf("call: %w", err)
	}
	return c, nil
}

// Request is a call to be made.
type Request struct {
	Function string
	Argument codec.Value // its memory is not used any more when Start returns, but its readers are
	// Deadline is when the function's context ends. The zero time is never.
	Deadline time.Time
	Detached bool // goes on when its caller is gone
	Placed   bool // says when it starts
	Retains  bool // the caller keeps the bytes of results
	// Progress is called by Wait, Next and Started with what the function reports. Nil drops it.
	Progress func(fraction float64, text string)
	// Told makes of the *Failure or *FunctionError with which the readers of the result end what they return. Nil leaves it.
	Told func(error) error
	// Slot is released once, when the work has ended, in whatever way. Nil is none.
	Slot interface{ Release() }
}

// Start sends a call. When it returns an error, a *Failure, the function has not been run, and nothing is left to be done.
func (c *Client) Start(ctx context.Context, r *Request) (*Call, error) {
	k := &Call{client: c, Request: *r, wake: make(chan struct{}, 1)}
	if n := len(r.Argument.Data); n > c.settings.MaxArgument {
		k.release()
		return nil, &Failure{Err: fault.Say(fault.TooLarge, "the argument has %d bytes, and at most %d may be sent: the pool's MaxArgument; an io.Reader in it has no limit", n, c.settings.MaxArgument)}
	}
	k.prepare(ctx)
	flags, types, err := c.register(k)
	if err != nil {
		k.release()
		return nil, &Failure{Err: err}
	}
	if err := k.sendOpen(ctx, flags, types); err != nil {
		return nil, err
	}
	for i, allowed := range k.allowed {
		if allowed != nil {
			o := &outflow{link: c.link, id: k.id, channel: i, allowed: allowed, failed: k.readerFailed}
			go func() {
				o.pump(k.flows, r.Argument.Readers[i])
				closeReader(r.Argument.Readers[i], k.closePanicked)
			}()
		}
	}
	return k, nil
}

// register gives the call its id and says what its open need not say.
func (c *Client) register(k *Call) (flags byte, types []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over != nil {
		return 0, nil, c.over
	}
	c.last++
	k.id = c.last
	c.calls[k.id] = k
	about := c.known[k.Function]
	if about == nil {
		about = &knowledge{}
		c.known[k.Function] = about
	}
	if k.Detached {
		flags |= flagDetached
	}
	if k.Placed {
		flags |= flagPlaced
	}
	if !about.argument && len(k.Argument.Types) > 0 {
		flags |= flagTypes
		types = k.Argument.Types
	}
	if about.results != "" {
		flags |= flagResultsKnown
	}
	return flags, types, nil
}

// Serve handles what the runner says until the link ends, and returns why. All calls under way end then.
func (c *Client) Serve() error {
	var broken error
	err := c.link.Serve(func(frame []byte) {
		if broken == nil {
			if broken = c.handle(frame); broken != nil {
				go c.link.Close(broken)
			}
		}
	})
	if broken != nil {
		err = fmt.Errorf("call: %w: the runner broke the protocol: %w", fault.Internal, broken)
	}
	why := err
	if c.o.Lost != nil {
		why = c.o.Lost(err)
	}
	c.fail(why)
	return err
}

func (c *Client) fail(why error) {
	c.mu.Lock()
	if c.over == nil || c.empty != nil {
		c.over = &lostError{why}
	}
	lost := make([]*Call, 0, len(c.calls))
	for _, k := range c.calls {
		lost = append(lost, k)
	}
	over := c.over
	c.mu.Unlock()
	for _, k := range lost {
		k.settle(func() { k.failure = &Failure{Ran: !k.neverArrived(), Err: over} })
		c.finish(k)
	}
}

// finish forgets a call whose work has ended.
func (c *Client) finish(k *Call) {
	c.mu.Lock()
	_, mine := c.calls[k.id]
	delete(c.calls, k.id)
	if mine && k.isStuck {
		c.stuck--
	}
	c.settle()
	c.mu.Unlock()
	if mine {
		k.ended()
	}
}

// settle ends the wait of a drain when there is nothing to wait for. The lock is held.
func (c *Client) settle() {
	if c.empty != nil && !c.quiet && len(c.calls) == c.stuck {
		c.quiet = true
		close(c.empty)
	}
}

// despair is called when a function has had its time to end after it was canceled.
func (c *Client) despair(k *Call) {
	c.mu.Lock()
	runs := c.calls[k.id] != nil
	if runs {
		k.isStuck = true
		c.stuck++
		c.settle()
	}
	c.mu.Unlock()
	if runs {
		c.o.Stuck(&k.Request)
	}
}

// Drain tells the runner that no more calls come, and waits until those under way have ended, except functions that are
// stuck. When the context ends before, they are canceled, and Drain returns its error.
func (c *Client) Drain(ctx context.Context) error {
	c.mu.Lock()
	first := c.empty == nil
	if first {
		c.empty = make(chan struct{})
		c.settle()
		if c.over == nil {
			c.over = fault.Say(fault.Unavailable, "the runner is being stopped, and takes no more calls")
		}
	}
	empty := c.empty
	c.mu.Unlock()
	if first {
		if err := c.link.Send(ctx, []byte{byte(kindDrain)}); err != nil && ctx.Err() == nil {
			return fmt.Errorf("call: %w", err)
		}
	}
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		c.cancelAll()
		return ctx.Err()
	}
}

// Ended returns a channel that is closed when a drain has begun and all calls have ended, and nil before Drain.
func (c *Client) Ended() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.empty
}

// cancelAll ends the contexts of all functions, detached ones too.
func (c *Client) cancelAll() {
	c.mu.Lock()
	all := make([]*Call, 0, len(c.calls))
	for _, k := range c.calls {
		all = append(all, k)
	}
	c.mu.Unlock()
	for _, k := range all {
		k.cancel(cancelDrained)
	}
}

// Running returns how many calls have not ended.
func (c *Client) Running() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls)
}

// handle takes a frame. It must not wait for anything, since every call of the link waits for it.
func (c *Client) handle(frame []byte) error {
	r := &reader{rest: frame}
	what := kind(r.byte())
	switch what {
	case kindLog:
		return c.takeLog(r)
	case kindLeaving:
		if c.o.Leaving != nil {
			go c.o.Leaving()
		}
		return nil
	}
	id := r.number()
	if r.bad {
		return errMalformed
	}
	c.mu.Lock()
	k := c.calls[id]
	c.mu.Unlock()
	if k == nil {
		return nil // of a call that has ended here
	}
	switch what {
	case kindStarted:
		k.settle(func() { k.started = true })
	case kindResult:
		return k.takeResult(r)
	case kindItem:
		return k.takeItem(r)
	case kindPart:
		return k.takePart(r.rest)
	case kindData:
		return receive(k.results, r)
	case kindCredit:
		return k.takeCredit(r)
	case kindProgress:
		return k.takeProgress(r)
	case kindEnd:
		if !k.done {
			return errMalformed
		}
		c.finish(k)
	default:
		return errMalformed
	}
	return nil
}

// learn remembers what a result proves about the types of its function, and returns those of its value.
func (c *Client) learn(k *Call, types []byte) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	about := c.known[k.Function]
	about.argument = true
	if len(types) > 0 && about.results != string(types) {
		about.results = string(types)
	}
	return about.results
}

// closePanicked logs that closing a reader of the argument has panicked, beside what the runner logs.
func (k *Call) closePanicked(cause any) {
	k.client.logs.add(Record{
		Call: k.id, Function: k.Function, Time: time.Now(), Level: slog.LevelError, Message: "closing a reader of the argument panicked",
		Attrs: []slog.Attr{slog.String("panic", fmt.Sprint(cause))},
	}, recordCost)
}

// closeReader closes a reader that was sent, when it can be closed. Like one of Read, its panic must not end a process in which other
// calls go on.
func closeReader(r io.Reader, panicked func(cause any)) {
	defer func() {
		if cause := recover(); cause != nil {
			panicked(cause)
		}
	}()
	if c, ok := r.(io.Closer); ok {
		c.Close()
	}
}
