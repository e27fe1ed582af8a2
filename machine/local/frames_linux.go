package local

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"runtime"
	"sync"
	"time"
)

// maxQueue is how many bytes may wait to be written. It is reached only if the other side does not read.
const maxQueue = 8 << 20

// frameWriter writes frames to a connection. Frames that are sent at the same time go out together: whoever comes
// first writes, and the others leave theirs with it. It is safe for concurrent use.
type frameWriter struct {
	conn    net.Conn
	timeout time.Duration // for one write

	mu      sync.Mutex
	queue   []byte // guarded by mu
	spare   []byte // guarded by mu; the last queue, to be filled again
	writing bool   // guarded by mu
	err     error  // guarded by mu; the first failure, after which nothing is written any more
}

// send sends one frame. It may return before the frame is written, and then reports a failure of an earlier one at most;
// a connection that has failed is closed.
func (w *frameWriter) send(frame any) error {
	text, err := json.Marshal(frame)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil && len(w.queue) > maxQueue {
		w.err = io.ErrShortWrite
		w.conn.Close()
	}
	if w.err != nil {
		return w.err
	}
	w.queue = append(append(w.queue, text...), '\n')
	if w.writing {
		return nil
	}
	w.writing = true
	w.mu.Unlock()
	runtime.Gosched() // Whoever is about to send as well may do so first.
	w.mu.Lock()
	for len(w.queue) > 0 && w.err == nil {
		full := w.queue
		w.queue = w.spare[:0]
		w.mu.Unlock()
		err := w.write(full)
		w.mu.Lock()
		w.spare = full
		if err != nil {
			w.err = err
			w.conn.Close()
		}
	}
	w.writing = false
	return w.err
}

func (w *frameWriter) write(frames []byte) error {
	if err := w.conn.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
		return err
	}
	_, err := w.conn.Write(frames)
	return err
}

// readFrames calls use with each frame of a connection until that ends, or until use returns an error.
func readFrames[T any](conn net.Conn, use func(*T) error) error {
	frames := bufio.NewScanner(conn)
	frames.Buffer(make([]byte, 64<<10), maxFrame)
	for frames.Scan() {
		var frame T
		if err := json.Unmarshal(frames.Bytes(), &frame); err != nil {
			return err
		}
		if err := use(&frame); err != nil {
			return err
		}
	}
	return frames.Err()
}
