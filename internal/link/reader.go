package link

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"
)

// reader cuts records out of a connection.
type reader struct {
	conn       net.Conn
	quiet      *atomic.Int32 // set to zero whenever something was heard
	buffer     []byte
	start, end int
	pooled     *[]byte // of which buffer is, when it is large
	small      []byte
	tiny       bool   // small has tinyBuffer bytes
	last       int    // how much the last read brought
	kind       byte   // of a large record that has begun
	body       []byte // its body; nil: none has begun
	filled     int    // how much of body is there
}

// largeBuffer is the size of the buffer in which records are read that come in crowds. Whoever reads now and then a
// small one has a buffer of smallBuffer bytes, and of tinyBuffer where TLS has one of its own before it.
const (
	largeBuffer = 64 << 10
	smallBuffer = 4 << 10
	tinyBuffer  = 512
)

var buffers = sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }}

func (r *reader) release() {
	if r.pooled != nil {
		buffers.Put(r.pooled)
		r.pooled, r.buffer = nil, nil
	}
}

// next returns the next record. The body is valid until next is called again, or for ever if it is large. After a timeout next may be
// called again, and goes on where it was.
func (r *reader) next() (kind byte, body []byte, err error) {
	if r.body != nil {
		return r.large()
	}
	if err := r.fill(headerSize); err != nil {
		return 0, nil, err
	}
	h := r.buffer[r.start:]
	kind, size := h[0], int(h[1])<<16|int(h[2])<<8|int(h[3])
	if size > MaxFrame {
		return 0, nil, &violation{fmt.Sprintf("the peer sent a record of %d bytes, and at most %d are allowed", size, MaxFrame)}
	}
	if size >= OwnFrame {
		r.start += headerSize
		r.kind, r.body = kind, unset(size)
		r.filled = copy(r.body, r.buffer[r.start:r.end])
		r.start += r.filled
		return r.large()
	}
	if err := r.fill(headerSize + size); err != nil {
		return 0, nil, err
	}
	body = r.buffer[r.start+headerSize : r.start+headerSize+size]
	r.start += headerSize + size
	return kind, body, nil
}

// large reads the rest of a large record, which has memory of its own.
func (r *reader) large() (kind byte, body []byte, err error) {
	for r.filled < len(r.body) {
		n, err := r.read(r.body[r.filled:])
		r.filled += n
		if err != nil && r.filled < len(r.body) {
			return 0, nil, err // what nothing was read into nobody may see
		}
	}
	body, r.body = r.body, nil
	return r.kind, body, nil
}

// unset returns bytes that hold whatever was in that memory before. To set a mebibyte to zero takes 30 µs, while its sender waits or
// the socket is full, and what is read overwrites it. The memory of a strings.Builder is the one that is not set; there is no string
// any more when it is written to.
func unset(size int) []byte {
	var b strings.Builder
	b.Grow(size)
	b.WriteByte(0) // an empty string need not say where it is
	return unsafe.Slice(unsafe.StringData(b.String()), size)
}

// holdsRecord reports whether next will not have to read.
func (r *reader) holdsRecord() bool {
	have := r.buffer[r.start:r.end]
	return len(have) >= headerSize && len(have) >= headerSize+(int(have[1])<<16|int(have[2])<<8|int(have[3]))
}

// fill reads until the buffer holds n bytes from start on.
func (r *reader) fill(n int) error {
	if r.end-r.start >= n {
		return nil
	}
	r.fit(n)
	for r.end-r.start < n {
		m, err := r.read(r.buffer[r.end:])
		r.end += m
		r.last = m
		if err != nil && r.end-r.start < n {
			return err
		}
	}
	return nil
}

func (r *reader) read(p []byte) (int, error) {
	n, err := r.conn.Read(p)
	if n > 0 {
		r.quiet.Store(0)
	}
	return n, err
}

// fit makes the buffer one that can hold n bytes from start on.
func (r *reader) fit(n int) {
	kept := r.buffer[r.start:r.end]
	switch {
	case r.pooled == nil && (r.last >= r.smallSize() || n > r.smallSize()):
		r.pooled = buffers.Get().(*[]byte)
		r.buffer = *r.pooled
	case r.pooled != nil && r.last < r.smallSize() && n <= r.smallSize() && len(kept) == 0:
		buffers.Put(r.pooled)
		r.pooled, r.buffer = nil, r.smallOne()
	case r.buffer == nil:
		r.buffer = r.smallOne()
	case r.start > 0 && len(kept) == 0 || len(r.buffer)-r.start < n:
	default:
		return
	}
	r.end = copy(r.buffer, kept)
	r.start = 0
}

func (r *reader) smallSize() int {
	if r.tiny {
		return tinyBuffer
	}
	return smallBuffer
}

func (r *reader) smallOne() []byte {
	if r.small == nil {
		r.small = make([]byte, r.smallSize())
	}
	return r.small
}
