package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// The times of streams.
const (
	pingEvery    = 15 * time.Second // so that proxies and clients know that the connection lives
	stalledAfter = 30 * time.Second // without taking what was sent, a reader is dropped; it can resume
	permitEvery  = 5 * time.Second  // how often a stream asks whether its caller may still have it
	flushAbove   = 16 << 10         // bytes gathered before they are sent even though more is to come
	keepIdle     = 4 << 10          // bytes of buffer that a stream keeps while it waits
)

// stream writes an answer that goes on for as long as something happens. It is used by one goroutine.
type stream struct {
	w          http.ResponseWriter
	r          *http.Request
	connection *http.ResponseController
	buffer     bytes.Buffer
	events     bool // server-sent events, rather than bytes as they are
	permitted  func() error

	ticker *time.Ticker
	pinged time.Time
}

// WantsEvents reports whether a request asks for server-sent events.
func WantsEvents(r *http.Request) bool {
	for _, value := range r.Header.Values("Accept") {
		for kind := range strings.SplitSeq(value, ",") {
			kind, _, _ = strings.Cut(kind, ";")
			if strings.EqualFold(strings.TrimSpace(kind), "text/event-stream") {
				return true
			}
		}
	}
	return false
}

// newStream begins the answer. The caller closes the stream.
func newStream(w http.ResponseWriter, r *http.Request, contentType string, permitted func() error) *stream {
	header := w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // asks nginx to pass each piece on at once
	return &stream{
		w: w, r: r, connection: http.NewResponseController(w), events: contentType == eventsType, permitted: permitted,
		ticker: time.NewTicker(permitEvery), pinged: time.Now(),
	}
}

const eventsType = "text/event-stream"

// close sends what is left and takes the deadline off the connection, which may be used again.
func (s *stream) close() {
	s.ticker.Stop()
	if s.flush() == nil {
		s.connection.SetWriteDeadline(time.Time{})
	}
}

// event writes one server-sent event. Data is encoded as JSON, in which no line can end: whatever bytes a command
// prints, they cannot pass for a frame.
func (s *stream) event(id, name string, data any) error {
	if id != "" {
		fmt.Fprintf(&s.buffer, "id: %s\n", id)
	}
	if name != "" {
		fmt.Fprintf(&s.buffer, "event: %s\n", name)
	}
	s.buffer.WriteString("data: ")
	if err := json.NewEncoder(&s.buffer).Encode(data); err != nil {
		return fmt.Errorf("api: encoding an event: %w", err)
	}
	s.buffer.WriteByte('\n')
	return s.flushIfMuch()
}

// bytes writes bytes as they are.
func (s *stream) bytes(b []byte) error {
	s.buffer.Write(b)
	return s.flushIfMuch()
}

func (s *stream) flushIfMuch() error {
	if s.buffer.Len() < flushAbove {
		return nil
	}
	return s.flush()
}

// flush sends what has been gathered. A reader that does not take it in time is dropped.
func (s *stream) flush() error {
	err := s.connection.SetWriteDeadline(time.Now().Add(stalledAfter))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := s.w.Write(s.buffer.Bytes()); err != nil {
		return err
	}
	s.buffer.Reset()
	return s.connection.Flush()
}

// await sends what has been gathered and waits for one of the channels. It returns an error when the stream is to end:
// the caller has gone, may no longer have it, or the server stops.
func (s *stream) await(changes ...<-chan struct{}) error {
	if err := s.flush(); err != nil {
		return err
	}
	if s.buffer.Cap() > keepIdle {
		s.buffer = bytes.Buffer{} // most streams wait most of the time, and there may be thousands
	}
	var first, second <-chan struct{}
	switch len(changes) {
	case 2:
		first, second = changes[0], changes[1]
	case 1:
		first = changes[0]
	}
	for {
		select {
		case <-first:
			return nil
		case <-second:
			return nil
		case <-s.r.Context().Done():
			return context.Cause(s.r.Context())
		case now := <-s.ticker.C:
			if err := s.permitted(); err != nil && fault.Of(err) != fault.Unavailable {
				return err
			}
			if now.Sub(s.pinged) < pingEvery {
				continue
			}
			s.pinged = now
			if s.events {
				s.buffer.WriteString(": ping\n\n")
			}
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
}

// openStream takes a place among the streams and begins the answer.
func (a *API) openStream(c *caller, contentType string) (s *stream, closeStream func(), err error) {
	release, err := a.streams.take("streams")
	if err != nil {
		return nil, nil, err
	}
	rule, _ := accessOf(c.r.Pattern)
	s = newStream(c.w, c.r, contentType, func() error { return a.permit(c.r, rule) })
	return s, func() { s.close(); release() }, nil
}
