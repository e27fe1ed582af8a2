package call

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/call/codec"
)

// lastMoment is how long a runner that has no parent any more waits for functions whose contexts have ended.
const lastMoment = 300 * time.Millisecond

// Server is the runner's end of a link: it runs functions.
type Server struct {
	registry *Registry
	link     Link
	logs     *Logs

	watch *watch // nil if the link's reading cannot be passed on

	// described is what describes the arguments of each function; for the link's goroutine alone.
	described map[string]string

	mu       sync.Mutex
	settings Settings
	running  map[uint64]*Execution
	draining chan struct{} // closed when work should come to its end
	warned   bool          // it is
	drained  bool          // no more calls are taken
	idle     chan struct{} // closed when nothing runs, once the link is over
	over     bool
	rest     *time.Timer   // ends the link when it fires; nil: the parent does
	patience time.Duration // how long rest waits
	told     func(Settings)
	around   func(function string, run func())
}

// Around makes every function be run by f, which may do something before and after, or not run it: then nobody may hear of its
// result. It is for before Serve.
func (s *Server) Around(f func(function string, run func())) { s.around = f }

// OnSettings makes f be called with what the parent says first, before any function runs. It is for before Serve.
func (s *Server) OnSettings(f func(Settings)) { s.told = f }

// NewServer returns a server of the functions in the registry over the link. What logs takes is sent to the parent.
func NewServer(r *Registry, l Link, logs *Logs) *Server {
	s := &Server{registry: r, link: l, logs: logs, described: map[string]string{}, running: map[uint64]*Execution{},
		draining: make(chan struct{}), idle: make(chan struct{})}
	if t, ok := l.(turns); ok {
		s.watch = newWatch(t)
	}
	return s
}

// Serve runs what the parent asks for until the link ends, and returns why it did. Before it returns attached functions are canceled,
// and detached ones have had their grace; a function that does not end then still runs.
func (s *Server) Serve() error {
	shipping, stop := context.WithCancel(context.Background())
	var shipper sync.WaitGroup
	shipper.Go(func() { s.logs.ship(shipping, s.link) })
	var broken atomic.Pointer[error] // handle may still be at work when the next frame is read
	err := s.link.Serve(func(frame []byte) {
		if broken.Load() != nil {
			return
		}
		if err := s.handle(frame); err != nil {
			broken.Store(&err)
			go s.link.Close(err)
		}
	})
	stop()
	shipper.Wait()
	if s.watch != nil {
		close(s.watch.closed)
	}
	if why := broken.Load(); why != nil {
		err = fmt.Errorf("call: %w: the parent broke the protocol: %w", fault.Internal, *why)
	}
	s.windUp(err)
	return err
}

// windUp brings what runs to its end when the parent is gone.
func (s *Server) windUp(why error) {
	s.drain()
	s.mu.Lock()
	s.over = true
	if s.rest != nil {
		s.rest.Stop()
	}
	detached := false
	var attached []*Execution
	for id, x := range s.running {
		if !x.started {
			delete(s.running, id) // the rest of its argument will not come
			continue
		}
		if x.flags&flagDetached != 0 {
			detached = true
		} else {
			attached = append(attached, x)
		}
	}
	if len(s.running) == 0 {
		close(s.idle)
	}
	grace := s.settings.Grace
	s.mu.Unlock()
	for _, x := range attached {
		x.end(ErrCallerGone)
	}
	if detached {
		wait(s.idle, grace)
		s.mu.Lock()
		for _, x := range s.running {
			x.end(ErrDrained)
		}
		s.mu.Unlock()
	}
	wait(s.idle, lastMoment)
}

// Rest waits, after Serve, until all functions have returned, and returns the names of those that have not when ctx ends.
func (s *Server) Rest(ctx context.Context) []string {
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, x := range s.running {
		names = append(names, x.function.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func wait(done <-chan struct{}, limit time.Duration) {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// Leave tells the parent that this process is about to end, and functions that they should come to their end. The parent then gives
// the runner no more work, and stops it when it has none. What it has sent before is still done. A parent that has not ended the link
// when nothing has run for as long as patience is not there to do so, and it is ended here; 0: it is waited for.
func (s *Server) Leave(patience time.Duration) {
	s.warn()
	_ = s.link.Post([]byte{byte(kindLeaving)}) // or the link is over, and so is the runner
	s.mu.Lock()
	defer s.mu.Unlock()
	if patience > 0 && s.rest == nil && !s.over {
		s.patience, s.rest = patience, time.AfterFunc(patience, s.part)
	}
}

// part ends the link if nothing runs.
func (s *Server) part() {
	s.mu.Lock()
	runs := len(s.running) > 0
	s.mu.Unlock()
	if !runs { // else it is looked at again when that has ended
		s.link.Close(fault.Say(fault.Unavailable, "the runner was told to end, and its parent did not answer"))
	}
}

// Abandon ends the contexts of all functions and takes no more calls, as if the process were gone.
func (s *Server) Abandon(why error) {
	s.drain()
	s.mu.Lock()
	running := slices.Collect(maps.Values(s.running))
	s.mu.Unlock()
	for _, x := range running {
		x.end(why)
	}
}

// warn tells functions that they should come to their end.
func (s *Server) warn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.warned {
		s.warned = true
		close(s.draining)
	}
}

// drain warns, and takes no more calls.
func (s *Server) drain() {
	s.warn()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drained = true
}

// Settings returns what the parent has said, which is nothing at first.
func (s *Server) Settings() Settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settings
}

// handle takes a frame. It must not wait for anything, since every call of the link waits for it.
func (s *Server) handle(frame []byte) error {
	r := &reader{rest: frame}
	what := kind(r.byte())
	switch what {
	case kindSettings:
		return s.takeSettings(r.rest)
	case kindDrain:
		s.warn() // the parent sends no more: what comes yet it had begun before, and waits for
		return nil
	}
	id := r.number()
	if r.bad {
		return errMalformed
	}
	if what == kindOpen {
		return s.open(id, r)
	}
	s.mu.Lock()
	x := s.running[id]
	s.mu.Unlock()
	if x == nil {
		return nil // it has ended, and the other side did not know it yet
	}
	switch what {
	case kindPart:
		return x.takePart(r.rest)
	case kindCancel:
		return x.takeCancel(r)
	case kindData:
		return receive(x.readers, r)
	case kindCredit:
		return x.takeCredit(r)
	default:
		return errMalformed
	}
}

func (s *Server) takeSettings(text []byte) error {
	var settings Settings
	if err := json.Unmarshal(text, &settings); err != nil {
		return errMalformed
	}
	s.mu.Lock()
	s.settings = settings
	s.mu.Unlock()
	s.logs.setLevel(slog.Level(settings.Level))
	if s.told != nil {
		s.told(settings)
	}
	return nil
}

// open begins a call.
func (s *Server) open(id uint64, r *reader) error {
	flags, left, name, readers, types, total := r.byte(), r.number(), r.bytes(), r.number(), r.bytes(), r.number()
	if r.bad || readers>>maxReaders != 0 || total > math.MaxInt32 {
		return errMalformed
	}
	x := &Execution{server: s, id: id, flags: flags}
	f, err := s.registry.find(name)
	s.mu.Lock()
	limit, taken := s.settings.MaxArgument, s.running[id] != nil
	switch {
	case taken:
	case s.drained || s.over:
		err = fault.Say(fault.Unavailable, "the runner is being stopped, and takes no more calls")
	case err == nil && total > uint64(limit):
		err = fault.Say(fault.TooLarge, "the argument has %d bytes, and at most %d may be sent", total, limit)
	case err == nil:
		s.running[id] = x
	}
	s.mu.Unlock()
	if taken {
		return errMalformed
	}
	if err != nil {
		go x.reply(codec.Value{}, Refuse(err)) // there may be no room, and this goroutine makes some
		return nil
	}
	if flags&flagTypes != 0 {
		s.described[f.Name] = string(types)
	}
	x.function, x.types = f, s.described[f.Name]
	x.allowed = newAllowance()
	x.readers = inflows(s.link, id, readers, nil)
	x.context(left)
	if !x.argument.begin(int(total), r.rest, f.Retains) {
		return errMalformed
	}
	if x.argument.complete() {
		x.started = true
		if s.watch != nil && f.pace.isQuick() && x.flags&flagPlaced == 0 && len(x.readers) == 0 && total <= maxQuick {
			x.runHere()
		} else {
			go x.run()
		}
	}
	return nil
}

// forget ends the life of an execution.
func (s *Server) forget(x *Execution) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[x.id] != x {
		return
	}
	delete(s.running, x.id)
	switch {
	case len(s.running) > 0:
	case s.over:
		close(s.idle)
	case s.rest != nil:
		s.rest.Reset(s.patience)
	}
}

// only returns the one execution that runs, or nil when there is none or there are several. One that was answered does not count,
// though it may not be forgotten yet when its caller has made the next call.
func (s *Server) only() (one *Execution) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.running {
		switch {
		case x.answered.Load():
		case one != nil:
			return nil
		default:
			one = x
		}
	}
	return one
}
