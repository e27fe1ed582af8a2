package local

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// session is one connection, as the supervisor sees it.
type session struct {
	s    *supervisor
	conn *net.UnixConn

	mu      sync.Mutex      // held while a frame is written
	pending map[string]bool // guarded by state; names to tell of
	state   sync.Mutex
	wake    chan struct{} // holds one token when there is something to tell
}

// maxSessions bounds the connections of one supervisor.
const maxSessions = 64

// writeTimeout is how long a provider may let a frame wait before its connection is closed. It connects again and
// reads the records.
const writeTimeout = 10 * time.Second

// begin serves a connection, unless there are too many or the supervisor is about to end.
func (s *supervisor) begin(conn *net.UnixConn) {
	c := &session{s: s, conn: conn, pending: map[string]bool{}, wake: make(chan struct{}, 1)}
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
		c.conn.Close()
		c.s.mu.Lock()
		delete(c.s.sessions, c)
		c.s.mu.Unlock()
	}()
	frames := bufio.NewScanner(c.conn)
	frames.Buffer(make([]byte, 16<<10), maxFrame)
	for frames.Scan() {
		var r request
		if err := json.Unmarshal(frames.Bytes(), &r); err != nil {
			c.s.log.Warn("a frame could not be read", "err", err)
			return
		}
		if err := c.take(&r); err != nil {
			return
		}
	}
	if err := frames.Err(); err != nil {
		c.s.log.Warn("a connection failed", "err", err)
	}
}

// take begins a request. What is quick is answered here, in order, so that a supervisor with much to do is not taken
// for one that is dead.
func (c *session) take(r *request) error {
	switch {
	case r.Hello:
		return c.write(&answer{ID: r.ID, Hello: &greeting{Protocol: protocolVersion, Program: c.s.program}})
	case r.Home != nil:
		c.s.setHome(*r.Home)
		return nil
	case r.Create != nil && r.Create.Spec != nil:
		cell, isNew, err := c.s.admit(r.Create.Spec)
		if err != nil {
			return c.write(&answer{ID: r.ID, Error: newProblem(err)})
		}
		c.carryOut(func() *answer {
			made, err := c.s.create(r.Create, cell, isNew)
			if err != nil {
				return &answer{ID: r.ID, Error: newProblem(err)}
			}
			c.s.changed(r.Create.Spec.Name, c)
			return &answer{ID: r.ID, Made: made}
		})
		return nil
	case r.Destroy != "":
		cell := c.s.cell(r.Destroy)
		c.carryOut(func() *answer {
			if err := c.s.destroy(r.Destroy, cell); err != nil {
				return &answer{ID: r.ID, Error: newProblem(err)}
			}
			c.s.changed(r.Destroy, c)
			return &answer{ID: r.ID}
		})
		return nil
	}
	err := fmt.Errorf("local: %w: a request that this supervisor does not know", fault.Unsupported)
	return c.write(&answer{ID: r.ID, Error: newProblem(err)})
}

func (c *session) carryOut(do func() *answer) {
	c.s.inflight <- struct{}{}
	c.s.work.Go(func() {
		a := do()
		<-c.s.inflight
		if err := c.write(a); err != nil {
			c.conn.Close()
		}
	})
}

func (c *session) write(a *answer) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err = c.conn.Write(append(text, '\n'))
	return err
}

// push notes that a machine has changed. Only names are noted, so a provider that reads slowly costs no more than
// there are machines.
func (c *session) push(name string) {
	c.state.Lock()
	c.pending[name] = true
	c.state.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// tell sends what was pushed.
func (c *session) tell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		c.state.Lock()
		names := make([]string, 0, len(c.pending))
		for name := range c.pending {
			names = append(names, name)
		}
		clear(c.pending)
		c.state.Unlock()
		if err := c.write(&answer{Changed: names}); err != nil {
			c.conn.Close()
			return
		}
	}
}
