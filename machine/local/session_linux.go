package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// session is one connection, as the supervisor sees it.
type session struct {
	s    *supervisor
	conn *rights
	out  frameWriter
	over chan struct{} // closed when the connection has ended

	mu      sync.Mutex
	pending map[string]*ending // guarded by mu; what to tell, by machine
	wake    chan struct{}      // holds one token when there is something to tell
}

// maxSessions bounds the connections of one supervisor.
const maxSessions = 64 + maxCommands

// writeTimeout is how long a provider may let a frame wait before its connection is closed. It connects again and
// reads the records.
const writeTimeout = 10 * time.Second

// begin serves a connection, unless there are too many or the supervisor is about to end.
func (s *supervisor) begin(conn *net.UnixConn) {
	c := &session{
		s: s, conn: &rights{UnixConn: conn}, over: make(chan struct{}), out: frameWriter{conn: conn, timeout: writeTimeout},
		pending: map[string]*ending{}, wake: make(chan struct{}, 1),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending || len(s.sessions) >= maxSessions {
		conn.Close()
		return
	}
	s.sessions[c] = true
	ctx, cancel := context.WithCancel(context.Background())
	s.work.Go(func() {
		defer cancel()
		c.serve()
	})
	s.work.Go(func() { c.tell(ctx) })
}

// serve reads requests until the connection ends. Each is carried out on its own, and answered when it is.
func (c *session) serve() {
	defer func() {
		close(c.over)
		c.conn.Close()
		for _, file := range c.conn.take() {
			file.Close()
		}
		c.s.mu.Lock()
		delete(c.s.sessions, c)
		c.s.mu.Unlock()
	}()
	if err := readFrames(c.conn, c.take); err != nil && !errors.Is(err, net.ErrClosed) {
		c.s.log.Warn("a connection failed", "err", err)
	}
}

// take begins a request. What is quick is answered here, in order, so that a supervisor with much to do is not taken
// for one that is dead. What may take long is carried out beside, once there is room for it: a request must not be
// admitted, so that others wait for it, before it is sure to go on.
func (c *session) take(r *request) error {
	switch {
	case r.Hello:
		return c.out.send(&answer{ID: r.ID, Hello: &greeting{Protocol: protocolVersion, Program: c.s.program}})
	case r.Home != nil:
		c.s.setHome(*r.Home)
		return nil
	case r.Create != nil && r.Create.Spec != nil:
		c.s.inflight <- struct{}{}
		cell, isNew, err := c.s.admit(r.Create.Spec)
		c.carryOut(r.ID, r.Create.Spec.Name, func() (*made, error) {
			if err != nil {
				return nil, err
			}
			return c.s.create(r.Create, cell, isNew)
		})
		return nil
	case r.Signal != nil:
		return c.do(r.ID, func() (*machine.Exit, error) { return nil, c.s.signal(r.Signal) })
	case r.Suspend != nil:
		return c.do(r.ID, func() (*machine.Exit, error) { return nil, c.s.suspend(r.Suspend) })
	case r.Enter != nil:
		files := c.conn.take()
		return c.do(r.ID, func() (*machine.Exit, error) {
			defer func() {
				for _, file := range files {
					file.Close()
				}
			}()
			return c.s.enter(r.Enter, files, c.over)
		})
	case r.Destroy != "":
		c.s.inflight <- struct{}{}
		cell := c.s.cell(r.Destroy)
		c.carryOut(r.ID, r.Destroy, func() (*made, error) { return nil, c.s.destroy(r.Destroy, cell) })
		return nil
	}
	err := fmt.Errorf("local: %w: a request that this supervisor does not know", fault.Unsupported)
	return c.out.send(&answer{ID: r.ID, Error: newProblem(err)})
}

// do does what was asked about a machine that goes on, beside, and answers.
func (c *session) do(id uint64, what func() (*machine.Exit, error)) error {
	c.s.work.Go(func() {
		exit, err := what()
		a := &answer{ID: id, Exit: exit}
		if err != nil {
			a.Error = newProblem(err)
		}
		_ = c.out.send(a) // A connection that fails is closed by it.
	})
	return nil
}

// carryOut does what was asked about a machine, answers, and tells the other sessions. The caller has taken a place
// among those in flight.
func (c *session) carryOut(id uint64, name string, do func() (*made, error)) {
	c.s.work.Go(func() {
		made, err := do()
		<-c.s.inflight
		a := &answer{ID: id, Made: made}
		if err != nil {
			a.Error = newProblem(err)
		} else {
			c.s.changed(change{Name: name}, c)
		}
		_ = c.out.send(a) // A connection that fails is closed by it.
	})
}

// push notes that a machine has changed. Only the latest of each is noted, so a provider that reads slowly costs no more
// than there are machines.
func (c *session) push(news change) {
	c.mu.Lock()
	c.pending[news.Name] = news.Ended
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// gatherTime is the least time between two frames of changes: where many machines end, one tells of several.
const gatherTime = 2 * time.Millisecond

// tell sends what was pushed.
func (c *session) tell(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		pause.Reset(gatherTime)
		c.mu.Lock()
		changes := make([]change, 0, len(c.pending))
		for name, ended := range c.pending {
			changes = append(changes, change{Name: name, Ended: ended})
		}
		clear(c.pending)
		c.mu.Unlock()
		// As many as surely fit into a frame: JSON writes at most six bytes for one, and the rest is short.
		for some := range slices.Chunk(changes, maxFrame/(8*maxMessage)) {
			if err := c.out.send(&answer{Changed: some}); err != nil {
				return
			}
		}
	}
}
