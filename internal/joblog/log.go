package joblog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/failpoint"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// log is one attempt's file. Everything below mu is guarded by it.
type log struct {
	attempt string
	path    string
	place   place // guarded by the cache's mutex

	mu   sync.Mutex
	file *os.File // open for appending, or nil
	state
}

// state is what is known of a file.
type state struct {
	loaded bool     // the rest is valid
	exists bool     // there is a file
	size   int64    // bytes of whole records
	torn   bool     // the file may have bytes behind them
	kept   int64    // bytes of output in it, both streams
	ends   [2]int64 // of the streams
	closed [2]bool  // nothing of the stream is kept any more: the limit was reached
}

func index(s wire.Stream) int {
	if s == wire.Stderr {
		return 1
	}
	return 0
}

// load reads the file once, unless that was done before, to learn where it ends.
func (l *log) load() error {
	if l.loaded {
		return nil
	}
	file, err := os.OpenFile(l.path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		l.state = state{loaded: true}
		return nil
	}
	if err != nil {
		return fmt.Errorf("joblog: %w", err)
	}
	defer file.Close()
	st := state{loaded: true, exists: true}
	// The first thing that is not a record, or not the continuation of its stream, ends the file.
	for r, err := range scan(file, 0) {
		if err != nil && !errors.Is(err, errDamaged) && !errors.Is(err, errShort) {
			return fmt.Errorf("joblog: reading the output of %s: %w", l.attempt, err)
		}
		if err != nil || r.Offset != st.ends[index(r.Stream)] {
			break
		}
		st.add(&r, int64(r.Next)-st.size)
	}
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("joblog: %w", err)
	}
	st.torn = info.Size() > st.size
	l.state = st
	return nil
}

// add counts a record of the given size in the file.
func (st *state) add(r *Record, size int64) {
	i := index(r.Stream)
	st.size += size
	st.kept += int64(len(r.Data))
	st.ends[i] = r.end()
	st.closed[i] = r.Last
}

// append stores what is new of the chunk. opened is called after the file was opened.
func (l *log) append(c *wire.LogChunk, limit int64, opened func(*log)) (stored int64, err error) {
	i := index(c.Stream)
	end := l.ends[i]
	chunkEnd := c.Offset + int64(len(c.Data)) + c.Gap
	if l.closed[i] {
		// Counting what is dropped needs no record: the length of the whole stream comes with the result.
		l.ends[i] = max(end, chunkEnd)
		return l.ends[i], nil
	}
	if c.Offset > end {
		return end, fault.Say(fault.Conflict, "the stream %s is stored up to offset %d, and this chunk begins at %d; send what is between, or a gap", c.Stream, end, c.Offset)
	}
	if chunkEnd <= end {
		return end, nil
	}
	if err := l.open(opened); err != nil {
		return end, err
	}
	fresh := *c
	fresh.Offset = end
	if c.Gap > 0 {
		fresh.Gap = chunkEnd - end
	} else {
		fresh.Data = c.Data[end-c.Offset:]
	}
	return l.write(&fresh, limit)
}

// write stores a chunk that begins at the end of its stream.
func (l *log) write(c *wire.LogChunk, limit int64) (stored int64, err error) {
	next := l.state
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	b := (*buffer)[:0]
	put := func(r *Record) {
		before := len(b)
		r.Stream, r.Time = c.Stream, time.UnixMilli(c.TimeMS)
		b = appendRecord(b, r)
		next.add(r, int64(len(b)-before))
	}

	data, over := c.Data, int64(0)
	if limit > 0 {
		room := max(0, limit-l.kept)
		// Many tiny records could fill the disk with headers alone, so the file has a limit too.
		if l.size > 2*limit+maxPayload {
			room, over = 0, c.Gap
		}
		if int64(len(data)) > room {
			over = int64(len(data)) - room
			data = data[:room]
		}
	}
	offset := c.Offset
	for len(data) > 0 {
		n := pieceLength(data)
		put(&Record{Offset: offset, Data: data[:n]})
		data, offset = data[n:], offset+int64(n)
	}
	switch {
	case over > 0:
		put(&Record{Offset: offset, Gap: over, Last: true,
			Why: fmt.Sprintf("the output is over its limit of %d bytes; the rest of this stream is not kept", limit)})
	case c.Gap > 0:
		put(&Record{Offset: offset, Gap: c.Gap, Why: cutWhy(c.Why)})
	}
	*buffer = b

	if err := failpoint.Hit("log.append.before"); err != nil {
		return l.ends[index(c.Stream)], fmt.Errorf("joblog: storing output of %s: %w", l.attempt, err)
	}
	if _, err := l.file.WriteAt(b, l.size); err != nil {
		l.torn = true
		return l.ends[index(c.Stream)], fmt.Errorf("joblog: storing output of %s: %w", l.attempt, full(err))
	}
	l.state = next
	if err := failpoint.Hit("log.append.after"); err != nil {
		return l.ends[index(c.Stream)], fmt.Errorf("joblog: storing output of %s: %w", l.attempt, err)
	}
	return l.ends[index(c.Stream)], nil
}

// buffers are where chunks are encoded. A chunk and its headers fit into the capacity they grow to.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// open opens the file for appending unless it is open, making it if there is none, and cuts off a torn end.
func (l *log) open(opened func(*log)) error {
	if l.file == nil {
		file, err := openFile(l.path)
		if err != nil {
			return fmt.Errorf("joblog: opening the output of %s: %w", l.attempt, full(err))
		}
		l.file, l.exists = file, true
		opened(l)
	}
	if l.torn {
		if err := l.cut(); err != nil {
			return fmt.Errorf("joblog: cutting the torn end off the output of %s: %w", l.attempt, full(err))
		}
	}
	return nil
}

// cut removes what is behind the last whole record.
func (l *log) cut() error {
	if err := failpoint.Hit("log.cut.before"); err != nil {
		return err
	}
	if err := l.file.Truncate(l.size); err != nil {
		return err
	}
	l.torn = false
	return failpoint.Hit("log.cut.after")
}

// remove removes the file, which is closed, if there is one.
func (l *log) remove() error {
	if err := failpoint.Hit("log.remove.before"); err != nil {
		return err
	}
	if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l.state = state{loaded: true}
	return failpoint.Hit("log.remove.after")
}

func openFile(path string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_CREATE | syscall.O_NOFOLLOW
	file, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		file, err = os.OpenFile(path, flags, 0o600)
	}
	return file, err
}

// scan yields the records of a file from a position on. At the end of the file it stops; anything that is not a whole
// record there is yielded as errShort or errDamaged, and then it stops.
func scan(file io.ReaderAt, from Position) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		space := readBuffers.Get().(*[2 * (headerSize + maxPayload)]byte)
		defer readBuffers.Put(space)
		var rest []byte // what is read and not yet yielded
		for {
			r, size, err := decodeRecord(rest)
			if errors.Is(err, errShort) {
				n, readErr := file.ReadAt(space[:], int64(from))
				if readErr != nil && readErr != io.EOF {
					yield(Record{}, readErr)
					return
				}
				if n == 0 {
					return
				}
				rest = space[:n]
				r, size, err = decodeRecord(rest)
			}
			if err != nil {
				yield(Record{}, err)
				return
			}
			rest = rest[size:]
			from += Position(size)
			r.Next = from
			if !yield(r, nil) {
				return
			}
		}
	}
}

var readBuffers = sync.Pool{New: func() any { return new([2 * (headerSize + maxPayload)]byte) }}
