package dayfly

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// The limits of a stream.
const (
	maxFrame = 4 << 20          // bytes of one event, its framing included
	silence  = 45 * time.Second // without a byte, not even a keep-alive comment, the connection counts as lost
)

// frame is one server-sent event.
type frame struct {
	id    string
	event string
	data  []byte
}

// errStop is returned by a frame handler to end a stream without an error.
var errStop = errors.New("stop")

// stream makes the request and hands each event to handle, until the server ends the stream properly (end reports
// that of a frame), handle fails, or the context ends. When the connection breaks it asks again from the last event
// that was handled, so that handle sees each event once and none is missing.
func (c *Client) stream(ctx context.Context, r request, from string, handle func(frame) error) error {
	again := c.newBackoff()
	last := from
	for {
		began := time.Now()
		answered, err := c.streamOnce(ctx, r, &last, func(f frame) error {
			again.reset()
			return handle(f)
		})
		if err == nil || errors.Is(err, errStop) {
			return nil
		}
		if answered { // which may have taken hours, and still counts for little if nothing came
			again.extend(time.Since(began))
		}
		if !again.wait(ctx, err) {
			return err
		}
	}
}

// streamOnce is one connection of a stream. It returns errStop or nil when there is nothing more to come, and an
// error of kind fault.Unavailable when the connection broke. answered tells whether there was a stream at all.
func (c *Client) streamOnce(ctx context.Context, r request, last *string, handle func(frame) error) (answered bool, err error) {
	connCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()

	req, err := c.newRequest(connCtx, r, nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Accept", "text/event-stream")
	if *last != "" {
		req.Header.Set("Last-Event-ID", *last)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return false, unreachable(ctx, req, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent { // the specification's way to say that nothing more will come
		return true, nil
	}
	if resp.StatusCode != http.StatusOK {
		return false, readProblem(resp)
	}
	if t := resp.Header.Get("Content-Type"); !strings.HasPrefix(t, "text/event-stream") {
		return false, fmt.Errorf("dayfly: GET %s: %w: the answer is %q, not a stream of events", r.path, fault.Internal, t)
	}
	body := bufio.NewReaderSize(&alive{resp.Body, watchdog}, 32<<10)
	for {
		f, err := readFrame(body)
		if err != nil {
			return true, unreachable(ctx, req, err)
		}
		if err := handle(f); err != nil {
			return true, err
		}
		if f.id != "" {
			*last = f.id
		}
	}
}

// alive winds the watchdog up with every byte that arrives.
type alive struct {
	r        io.Reader
	watchdog *time.Timer
}

func (a *alive) Read(p []byte) (int, error) {
	n, err := a.r.Read(p)
	if n > 0 {
		a.watchdog.Reset(silence)
	}
	return n, err
}

// readFrame reads the next event that has data or a name. A stream that ends in the middle is io.ErrUnexpectedEOF: only
// the server's own last event ends one properly.
func readFrame(r *bufio.Reader) (frame, error) {
	var f frame
	size := 0
	for {
		line, err := readLine(r, maxFrame-size)
		if err != nil {
			return frame{}, err
		}
		size += len(line)
		text := strings.TrimRight(string(line), "\r\n")
		if text == "" {
			if f.data != nil || f.event != "" {
				return f, nil
			}
			f, size = frame{}, 0
			continue
		}
		name, value, _ := strings.Cut(text, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			f.id = value
		case "event":
			f.event = value
		case "data":
			if f.data != nil {
				f.data = append(f.data, '\n')
			}
			f.data = append(f.data, value...)
			if f.data == nil {
				f.data = []byte{}
			}
		}
	}
}

// readLine reads one line of at most limit bytes, its end included. The line is valid until the next read.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		long := append([]byte(nil), line...)
		for errors.Is(err, bufio.ErrBufferFull) && len(long) <= limit {
			line, err = r.ReadSlice('\n')
			long = append(long, line...)
		}
		line = long
	}
	switch {
	case len(line) > limit:
		return nil, fmt.Errorf("an event of more than %d bytes", maxFrame)
	case errors.Is(err, io.EOF):
		return nil, io.ErrUnexpectedEOF
	}
	return line, err
}
