package link

import "sync"

// Sizes of the pieces in which an outbox keeps its bytes.
const (
	tinyChunk  = 256 // for a link that says little more than that it lives, of which something is never acknowledged yet
	smallChunk = 4 << 10
	largeChunk = 64 << 10
)

// chunk is a piece of an outbox.
type chunk struct {
	next *chunk
	data []byte // its length is how much of it is used
}

var (
	tinyChunks  = sync.Pool{New: func() any { return &chunk{data: make([]byte, 0, tinyChunk)} }}
	smallChunks = sync.Pool{New: func() any { return &chunk{data: make([]byte, 0, smallChunk)} }}
	largeChunks = sync.Pool{New: func() any { return &chunk{data: make([]byte, 0, largeChunk)} }}
)

// outbox keeps the bytes of a stream from position base to position end. When it is empty it has no memory.
type outbox struct {
	first, last *chunk
	skipped     int // how much of the first chunk is before base
	base, end   uint64
}

func (o *outbox) size() int { return int(o.end - o.base) }

// reserve makes an empty outbox one that holds the next n bytes in one chunk, if that can be.
func (o *outbox) reserve(n int) {
	if o.last == nil {
		o.grow(n)
	}
}

// append adds bytes at the end.
func (o *outbox) append(p []byte) {
	o.end += uint64(len(p))
	for len(p) > 0 {
		if o.last == nil || len(o.last.data) == cap(o.last.data) {
			o.grow(len(p))
		}
		room := o.last.data[len(o.last.data):cap(o.last.data)]
		n := copy(room, p)
		o.last.data = o.last.data[:len(o.last.data)+n]
		p = p[n:]
	}
}

// grow adds a chunk, which is larger than the one before.
func (o *outbox) grow(need int) {
	var pool *sync.Pool
	switch {
	case o.last == nil && need <= tinyChunk:
		pool = &tinyChunks
	case (o.last == nil || cap(o.last.data) == tinyChunk) && need <= smallChunk:
		pool = &smallChunks
	default:
		pool = &largeChunks
	}
	c := pool.Get().(*chunk)
	if o.last == nil {
		o.first = c
	} else {
		o.last.next = c
	}
	o.last = c
}

// skip moves an empty outbox on by n bytes, which are not kept.
func (o *outbox) skip(n int) {
	o.end += uint64(n)
	o.base = o.end
}

// trim forgets what is before the position, which is between base and end.
func (o *outbox) trim(position uint64) {
	o.skipped += int(position - o.base)
	o.base = position
	for o.first != nil && o.skipped >= len(o.first.data) && (o.first != o.last || o.base == o.end) {
		c := o.first
		o.skipped -= len(c.data)
		o.first = c.next
		if o.first == nil {
			o.last = nil
		}
		c.release()
	}
}

func (c *chunk) release() {
	c.next, c.data = nil, c.data[:0]
	switch cap(c.data) {
	case tinyChunk:
		tinyChunks.Put(c)
	case smallChunk:
		smallChunks.Put(c)
	default:
		largeChunks.Put(c)
	}
}

// from appends to pieces what is kept from the position on, up to limit bytes.
func (o *outbox) from(position uint64, limit int, pieces [][]byte) [][]byte {
	offset := int(position-o.base) + o.skipped
	for c := o.first; c != nil && limit > 0; c = c.next {
		if offset >= len(c.data) {
			offset -= len(c.data)
			continue
		}
		piece := c.data[offset:]
		offset = 0
		if len(piece) > limit {
			piece = piece[:limit]
		}
		limit -= len(piece)
		pieces = append(pieces, piece)
	}
	return pieces
}
