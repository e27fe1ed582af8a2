package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
)

const (
	// gather is how long output waits for more before it is sent. It is short enough to look live, and long enough
	// that a command which prints and exits needs no call for its output: the result carries it.
	gather = 50 * time.Millisecond
	// sendAtOnce is how many waiting bytes are worth a call of their own.
	sendAtOnce = wire.MaxChunk / 2
	// maxInline is how many bytes of one stream the result carries.
	maxInline = 64 << 10
)

// buffers are lent to readers of pipes. A buffer is as large as what a pipe usually holds.
var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// stream carries one output of the command from its pipe to the server. Two goroutines work for it: one reads the pipe
// and never waits for the server, the other, started by the first byte, ships what is waiting.
type stream struct {
	backlog *backlog
	line    *line

	more   chan struct{}   // something was appended
	ended  chan struct{}   // closed when the pipe was read to its end, which a command may close long before it ends
	last   <-chan struct{} // closed when the command has ended too
	start  sync.Once       // of the shipper
	done   chan struct{}   // closed when the shipper has stopped, or will never start
	ship   context.Context
	settle context.CancelFunc // ends the shipper

	refusals int           // how many chunks in a row the server has refused; the shipper's own
	late     time.Duration // since when the end of the stream has been held up, by the line's clock; the shipper's own
}

// newStream returns a stream whose shipper ends with the line's life. last is closed when the command has ended and its
// pipes were read to their end.
func newStream(name wire.Stream, line *line, scratch string, a *allowance, last <-chan struct{}) *stream {
	s := &stream{
		backlog: &backlog{stream: name, allowance: a, dir: scratch},
		line:    line,
		more:    make(chan struct{}, 1),
		ended:   make(chan struct{}),
		last:    last,
		done:    make(chan struct{}),
	}
	s.ship, s.settle = context.WithCancel(line.life)
	return s
}

// read takes in the pipe until it ends, and closes it.
func (s *stream) read(pipe *os.File) {
	defer close(s.ended)
	defer pipe.Close()
	// However reading ends, there is nothing more to be had from the pipe.
	_ = readPipe(pipe, func(p []byte) {
		s.backlog.append(p, time.Now())
		s.start.Do(func() { go s.run() })
		select {
		case s.more <- struct{}{}:
		default:
		}
	})
	s.backlog.close()
}

// run ships what is waiting until the command has ended and the rest is small enough for the result to carry. What was
// printed by a command that goes on in silence is shown too.
func (s *stream) run() {
	defer close(s.done)
	for s.wait() {
		for {
			chunk, ok := s.backlog.next()
			if !ok || s.over() && s.backlog.waiting() <= maxInline {
				break
			}
			if !s.send(&chunk) {
				return
			}
			if !s.over() && s.backlog.waiting() < sendAtOnce {
				break // let it gather again
			}
		}
		if s.over() {
			return
		}
	}
}

// wait returns true once there is something to send, or nothing more will come, and false when shipping is over.
func (s *stream) wait() bool {
	if s.backlog.waiting() == 0 {
		select {
		case <-s.more:
		case <-s.last:
			return true
		case <-s.ship.Done():
			return false
		}
	}
	timer := time.NewTimer(gather)
	defer timer.Stop()
	for s.backlog.waiting() < sendAtOnce {
		select {
		case <-s.more:
		case <-s.last:
			return true
		case <-timer.C:
			return true
		case <-s.ship.Done():
			return false
		}
	}
	return true
}

// awaitEnd waits until the pipe was read to its end, and reports false if ctx ended first.
func (s *stream) awaitEnd(ctx context.Context) bool {
	select {
	case <-s.ended:
	case <-ctx.Done():
	}
	return closed(s.ended)
}

// over reports whether nothing more will come: the command has ended, and the pipe was read to its end.
func (s *stream) over() bool { return closed(s.last) }

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// send ships one chunk, however often that takes, and reports whether to go on.
func (s *stream) send(chunk *wire.LogChunk) bool {
	pace := s.line.newPace()
	for {
		stored, err := s.try(chunk)
		switch {
		case err == nil:
			s.backlog.acknowledge(stored)
			s.refusals, s.late = 0, 0
			return true
		case s.ship.Err() != nil:
			return false
		case !retryable(err):
			return s.refused(chunk, err)
		case s.stuck():
			s.backlog.abandon(s.backlog.waiting(), fmt.Sprintf("The server did not store the end of the output: %v.", err))
			return true
		case !pace.wait(s.ship, err):
			return false
		}
	}
}

// try sends the chunk once and returns where the stream ends at the server.
func (s *stream) try(chunk *wire.LogChunk) (stored int64, err error) {
	err = s.line.try(s.ship, func(ctx context.Context, to Address) error {
		answer, err := s.line.link.Log(ctx, to, chunk)
		if err != nil {
			return err
		}
		if stored = answer.Stored; stored == chunk.Offset {
			return fmt.Errorf("agent: %w: the server took nothing of a chunk at offset %d", fault.Unavailable, stored)
		}
		return nil
	})
	return stored, err
}

// maxRefusals is how many chunks in a row a server may refuse before nothing more is sent to it.
const maxRefusals = 20

// refused draws the conclusion when the server will never take the chunk as it is, and reports whether to go on.
func (s *stream) refused(chunk *wire.LogChunk, err error) bool {
	r, ok := errors.AsType[*Refusal](err)
	switch {
	case ok && fault.Of(err) == fault.Conflict && r.Stored >= 0 && r.Stored < chunk.Offset:
		s.backlog.acknowledge(r.Stored)
	case chunk.Gap > 0:
		s.backlog.acknowledge(chunk.Offset + chunk.Gap) // not even the gap is wanted
	default:
		s.backlog.abandon(int64(len(chunk.Data)), fmt.Sprintf("The server refused this output: %v.", err))
	}
	s.refusals++
	return s.refusals <= maxRefusals && pause(s.ship, backoff(s.refusals, err))
}

// maxStuck is how long the end of the output may hold up the end of the attempt while the server is there but does not
// store it.
const maxStuck = 30 * time.Second

// stuck reports whether to give the rest of the output up: the command has ended, the server answers other calls, and
// yet it has taken no output for a while. As long as the server is away there is no hurry.
func (s *stream) stuck() bool {
	now := s.line.clock()
	if !s.over() || s.line.unserved() > maxStuck/2 {
		s.late = 0
		return false
	}
	if s.late == 0 {
		s.late = now
	}
	return now-s.late > maxStuck
}

// flush waits until the server has stored all but what the result can carry, and returns that. The stream must be over.
func (s *stream) flush() []wire.LogChunk {
	s.settled()
	timer := time.NewTimer(hurry)
	defer timer.Stop()
	for {
		select {
		case <-s.done:
			if s.backlog.waiting() > maxInline { // the shipper has given up
				s.backlog.abandon(s.backlog.waiting(), "The server did not take the end of the output.")
			}
			return s.backlog.rest(maxInline)
		case <-timer.C:
			if s.backlog.waiting() <= maxInline {
				s.settle()
			}
			timer.Reset(hurry)
		}
	}
}

// settled makes sure that done is closed one day: a shipper that was not started by now never will be.
func (s *stream) settled() { s.start.Do(func() { close(s.done) }) }

// hurry is how long a call may go on to carry bytes that the result could carry as well.
const hurry = time.Second

// close ends the shipper and gives back what the stream holds. The stream must be over, or never have been read.
func (s *stream) close() {
	s.settled()
	s.settle()
	<-s.done
	s.backlog.free()
}
