package call

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math"
	"time"
)

// Record is something that a runner logged or printed.
type Record struct {
	Call     uint64 // the id of the call that it belongs to; 0: none, or nobody can say
	Function string // that call's function; or that of all calls that ran
	Source   Source
	Time     time.Time
	Level    slog.Level
	Message  string
	Attrs    []slog.Attr
	Dropped  int // how many records before this one were left out; the rest is empty when there was no next one
}

// Source is where a record comes from.
type Source byte

// The sources.
const (
	Logged  Source = iota // slog, or package log
	Printed               // a line of standard output
	Errors                // a line of standard error
	Counted               // nothing but the number that was Dropped
)

// write writes r down for people.
func (r *Record) write(w io.Writer) {
	if r.Source != Logged {
		_, _ = io.WriteString(w, r.Message+"\n") // who cannot be told is not told
		return
	}
	out := slog.NewRecord(r.Time, r.Level, r.Message, 0)
	out.AddAttrs(r.Attrs...)
	_ = slog.NewTextHandler(w, nil).Handle(context.Background(), out) // as above
}

// What is left of a long record.
const (
	maxText  = 16 << 10 // of a message
	maxKey   = 256      // of the name of an attribute
	maxAttr  = 4 << 10  // of its text
	maxAttrs = 64       // attributes, those in groups included
	maxDepth = 8        // groups in groups
)

// appendRecord writes r down.
func appendRecord(b []byte, r *Record) []byte {
	b = binary.AppendUvarint(b, r.Call)
	b = field(b, r.Function)
	b = append(b, byte(r.Source))
	b = appendTime(b, r.Time)
	b = binary.AppendVarint(b, int64(r.Level))
	b = field(b, clip(r.Message, maxText))
	b = appendNumber(b, r.Dropped)
	left := maxAttrs
	return appendAttrs(b, r.Attrs, &left, 0)
}

// The kinds of an attribute, as they are sent.
const (
	attrText byte = iota
	attrInt
	attrUint
	attrFloat
	attrBool
	attrDuration
	attrTime
	attrGroup
)

// appendTime writes the zero time as 0, for which time.Time has no number.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.AppendVarint(b, 0)
	}
	return binary.AppendVarint(b, t.UnixNano())
}

func (r *reader) time() time.Time {
	if n := r.signed(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

func appendAttrs(b []byte, attrs []slog.Attr, left *int, depth int) []byte {
	n := min(len(attrs), *left)
	if depth >= maxDepth {
		n = 0
	}
	*left -= n
	b = appendNumber(b, n)
	for _, a := range attrs[:n] {
		b = appendValue(field(b, clip(a.Key, maxKey)), a.Value.Resolve(), left, depth)
	}
	return b
}

func appendValue(b []byte, v slog.Value, left *int, depth int) []byte {
	switch v.Kind() {
	case slog.KindInt64:
		return binary.AppendVarint(append(b, attrInt), v.Int64())
	case slog.KindUint64:
		return binary.AppendUvarint(append(b, attrUint), v.Uint64())
	case slog.KindFloat64:
		return binary.AppendUvarint(append(b, attrFloat), math.Float64bits(v.Float64()))
	case slog.KindBool:
		if v.Bool() {
			return append(b, attrBool, 1)
		}
		return append(b, attrBool, 0)
	case slog.KindDuration:
		return binary.AppendVarint(append(b, attrDuration), int64(v.Duration()))
	case slog.KindTime:
		return appendTime(append(b, attrTime), v.Time())
	case slog.KindGroup:
		return appendAttrs(append(b, attrGroup), v.Group(), left, depth+1)
	case slog.KindAny:
		if err, ok := v.Any().(error); ok {
			return field(append(b, attrText), clip(err.Error(), maxAttr))
		}
		return field(append(b, attrText), clip(fmt.Sprintf("%+v", v.Any()), maxAttr))
	default:
		return field(append(b, attrText), clip(v.String(), maxAttr))
	}
}

// record reads what appendRecord wrote.
func (r *reader) record() Record {
	rec := Record{Call: r.number(), Function: r.text(), Source: Source(r.byte()), Time: r.time(), Level: slog.Level(r.signed()), Message: r.text(), Dropped: int(r.number() & math.MaxInt32)}
	rec.Attrs = r.attrs(0)
	return rec
}

func (r *reader) signed() int64 {
	n, size := binary.Varint(r.rest)
	if size <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) attrs(depth int) []slog.Attr {
	n := r.number()
	if n > maxAttrs || depth > maxDepth {
		r.bad = true
	}
	var attrs []slog.Attr
	for range n {
		if r.bad {
			return nil
		}
		attrs = append(attrs, slog.Attr{Key: r.text(), Value: r.value(depth)})
	}
	return attrs
}

func (r *reader) value(depth int) slog.Value {
	switch r.byte() {
	case attrInt:
		return slog.Int64Value(r.signed())
	case attrUint:
		return slog.Uint64Value(r.number())
	case attrFloat:
		return slog.Float64Value(math.Float64frombits(r.number()))
	case attrBool:
		return slog.BoolValue(r.byte() != 0)
	case attrDuration:
		return slog.DurationValue(time.Duration(r.signed()))
	case attrTime:
		return slog.TimeValue(r.time())
	case attrGroup:
		return slog.GroupValue(r.attrs(depth + 1)...)
	default:
		return slog.StringValue(r.text())
	}
}
