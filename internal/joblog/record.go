package joblog

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"time"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// A record in a file, little-endian:
//
//	0   4  CRC-32C of all that follows
//	4   4  length of the payload
//	8   1  kind: bit 0 the stream (1: stderr), bit 1 a gap, bit 2 nothing of the stream is kept after it
//	9   8  offset in the stream
//	17  8  time, Unix milliseconds
//	25     payload: the bytes; for a gap how many are missing (8 bytes), then the reason
//
// Records are self-delimiting, so a file is read from its beginning without an index. Payloads are kept small: a
// reader's memory, of which there may be thousands, is one record. Large chunks become several records in one write.
const (
	headerSize = 25
	maxPayload = 16 << 10
	maxWhy     = 512

	kindStderr = 1 << 0
	kindGap    = 1 << 1
	kindLast   = 1 << 2
)

// Record is a piece of output, or the statement that a piece is missing.
type Record struct {
	Stream wire.Stream
	Offset int64     // of the first byte of Data, or of the gap
	Data   []byte    // valid until the next record is asked for
	Time   time.Time // when the agent read it, by the agent's clock

	Gap  int64  // how many bytes are missing at Offset; then Data is empty
	Why  string // why they are missing, in a sentence
	Last bool   // nothing of this stream is kept after this gap: the limit was reached

	Next Position // of the record after this one
}

// Position is a place in an attempt's output, to go on reading from. 0 is the beginning; other values come from
// [Record] and mean nothing in another attempt.
type Position int64

// end returns the stream's length after the record.
func (r *Record) end() int64 { return r.Offset + int64(len(r.Data)) + r.Gap }

var (
	errShort   = errors.New("joblog: the record is not whole")
	errDamaged = errors.New("joblog: the record is damaged")
)

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// appendRecord appends the encoded record to b.
func appendRecord(b []byte, r *Record) []byte {
	start := len(b)
	kind := byte(0)
	if r.Stream == wire.Stderr {
		kind |= kindStderr
	}
	payload := len(r.Data)
	if r.Gap > 0 {
		kind |= kindGap
		payload = 8 + len(r.Why)
	}
	if r.Last {
		kind |= kindLast
	}
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(payload))
	b = append(b, kind)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Offset))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Time.UnixMilli()))
	if r.Gap > 0 {
		b = binary.LittleEndian.AppendUint64(b, uint64(r.Gap))
		b = append(b, r.Why...)
	} else {
		b = append(b, r.Data...)
	}
	binary.LittleEndian.PutUint32(b[start:], checksum(b[start+4:]))
	return b
}

// decodeRecord reads the record that b begins with and returns its size in the file. errShort: b ends within it;
// errDamaged: there is no record. The record's Data is a part of b.
func decodeRecord(b []byte) (r Record, size int, err error) {
	if len(b) < headerSize {
		return r, 0, errShort
	}
	length := binary.LittleEndian.Uint32(b[4:])
	kind := b[8]
	if length > maxPayload || kind > kindStderr|kindGap|kindLast {
		return r, 0, errDamaged
	}
	size = headerSize + int(length)
	if len(b) < size {
		return r, size, errShort
	}
	if checksum(b[4:size]) != binary.LittleEndian.Uint32(b) {
		return r, 0, errDamaged
	}
	r.Stream = wire.Stdout
	if kind&kindStderr != 0 {
		r.Stream = wire.Stderr
	}
	r.Last = kind&kindLast != 0
	r.Offset = int64(binary.LittleEndian.Uint64(b[9:]))
	r.Time = time.UnixMilli(int64(binary.LittleEndian.Uint64(b[17:]))).UTC()
	payload := b[headerSize:size]
	if kind&kindGap != 0 {
		if len(payload) < 8 {
			return r, 0, errDamaged
		}
		r.Gap = int64(binary.LittleEndian.Uint64(payload))
		r.Why = string(payload[8:])
	} else {
		r.Data = payload
	}
	if r.Offset < 0 || r.Gap < 0 || kind&kindGap != 0 && r.Gap == 0 || r.end() < r.Offset {
		return r, 0, errDamaged
	}
	return r, size, nil
}

// checkChunk refuses what is no chunk.
func checkChunk(c *wire.LogChunk) error {
	switch {
	case c.Stream != wire.Stdout && c.Stream != wire.Stderr:
		return fault.Field("stream", "%.80q is not a stream; stdout and stderr are", c.Stream)
	case c.Offset < 0:
		return fault.Field("offset", "an offset cannot be negative")
	case c.Gap < 0:
		return fault.Field("gap", "the length of a gap cannot be negative")
	case c.Gap > 0 && len(c.Data) > 0:
		return fault.Field("gap", "a gap carries no data")
	case len(c.Data) > wire.MaxChunk:
		return &fault.FieldError{Field: "data", Kind: fault.TooLarge, Message: "a chunk holds at most 262144 bytes"}
	case c.Offset > math.MaxInt64-int64(len(c.Data))-c.Gap || c.Gap > math.MaxInt64-wire.MaxChunk:
		return fault.Field("offset", "no stream is that long")
	}
	return nil
}

// pieceLength returns how much of data goes into its first record: all, or as much as fits without dividing a UTF-8
// sequence, so that text stays text in every record.
func pieceLength(data []byte) int {
	if len(data) <= maxPayload {
		return len(data)
	}
	for n := maxPayload; n > maxPayload-utf8.UTFMax; n-- {
		if utf8.RuneStart(data[n]) {
			return n
		}
	}
	return maxPayload // this is no UTF-8; divide anywhere
}

// cutWhy shortens a sentence to what a record holds, at a rune.
func cutWhy(why string) string {
	if len(why) <= maxWhy {
		return why
	}
	n := maxWhy
	for n > 0 && !utf8.RuneStart(why[n]) {
		n--
	}
	return why[:n]
}
