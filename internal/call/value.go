package call

import (
	"encoding/binary"
	"sync"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/internal/link"
)

// maxMessage is how long the texts of errors may be, in bytes.
const maxMessage = 64 << 10

// maxReason is how long what a result says may be that brings no value: two texts and their lengths.
const maxReason = 2*maxMessage + 16

// clip shortens s to at most limit bytes, at the end of a character.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

func appendNumber(b []byte, n int) []byte { return binary.AppendUvarint(b, uint64(n)) }

// buffers are for values that are decoded and forgotten.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// maxPooled is how large a buffer may be to be used again.
const maxPooled = 1 << 20

// value is one that arrives in parts.
type value struct {
	data   []byte
	total  int
	pooled *[]byte
}

// begin takes the length and the first part of a value. keep says that the bytes will belong to whoever gets the value. It
// reports false when the part is longer than the value.
func (v *value) begin(total int, part []byte, keep bool) bool {
	if len(part) > total {
		return false
	}
	v.total = total
	switch {
	case len(part) == total && total >= link.OwnFrame:
		v.data = part // the frame is ours to keep
		return true
	case keep && len(part) == total:
		v.data = append([]byte(nil), part...)
		return true
	case keep || total > maxPooled:
		v.data = make([]byte, 0, total)
	case total > 0:
		v.pooled = buffers.Get().(*[]byte)
		v.data = (*v.pooled)[:0]
	}
	v.data = append(v.data, part...)
	return true
}

// add takes another part. It reports false when that is too much.
func (v *value) add(part []byte) bool {
	if len(part) > v.total-len(v.data) {
		return false
	}
	v.data = append(v.data, part...)
	return true
}

func (v *value) complete() bool { return len(v.data) == v.total }

// release gives the buffer back.
func (v *value) release() {
	if v.pooled != nil {
		if cap(v.data) <= maxPooled {
			*v.pooled = v.data[:0]
			buffers.Put(v.pooled)
		}
		v.pooled, v.data = nil, nil
	}
}

// heads are the beginnings of frames.
var heads = sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}

// maxInline is how large a part may be to be copied behind its head instead of being a part of its own.
const maxInline = 256
