package agent

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/internal/wire"
)

// memoryPerStream is how many bytes of one stream wait in memory; what exceeds it waits on disk. It holds one chunk of
// the largest size, so that a server that keeps up never causes a file.
const memoryPerStream = wire.MaxChunk

// goneWhy explains a gap to whoever reads the log.
const goneWhy = "The server asked for bytes that it had acknowledged earlier; the agent no longer has them."

// allowance is how many bytes of output an attempt may still keep, both streams together.
type allowance struct {
	limit int64
	left  atomic.Int64
}

func newAllowance(limit int64) *allowance {
	a := &allowance{limit: limit}
	a.left.Store(limit)
	return a
}

// take grants at most n bytes.
func (a *allowance) take(n int) int {
	for {
		left := a.left.Load()
		granted := min(int64(n), left)
		if a.left.CompareAndSwap(left, left-granted) {
			return int(granted)
		}
	}
}

// backlog is what was read of one stream and is not stored by the server yet: a queue whose front is in memory and
// whose rest, when there is much, is in a file. In the order of the stream it holds
//
//	missing   bytes that the server lacks and nobody has any more
//	head      the oldest bytes, in memory
//	spool     the bytes after those, on disk
//	dropped   how many bytes after those were read and not kept
//
// Bytes that were handed out are never overwritten, so a request that is still being sent may go on reading them. It
// is safe for concurrent use.
type backlog struct {
	stream    wire.Stream
	allowance *allowance
	dir       string // for the spool

	mu         sync.Mutex // guards what follows
	base       int64      // the offset of the first byte of head
	head       []byte
	readAt     time.Time // when the first byte of head was read, to show
	spool      spool
	spooledAt  time.Time // when the first byte of spool was read
	missing    int64
	missingWhy string
	dropped    int64
	full       bool  // dropped because of the allowance: final, and told only at the end
	diskErr    error // why the spool could not take what was dropped
	closed     bool
}

// append adds what was read. It never waits for the server.
func (b *backlog) append(p []byte, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dropped > 0 { // everything joins a gap until that was told, else it would be out of order
		b.dropped += int64(len(p))
		return
	}
	keep := p[:b.allowance.take(len(p))]
	b.keep(keep, now)
	if lost := int64(len(p) - len(keep)); lost > 0 {
		b.dropped += lost
		b.full = true
	}
}

func (b *backlog) keep(p []byte, now time.Time) {
	if b.spool.size() == 0 && len(b.head)+len(p) <= memoryPerStream {
		if len(b.head) == 0 {
			b.readAt = now
		}
		b.head = append(b.head, p...)
		return
	}
	if b.spool.size() == 0 {
		b.spooledAt = now
	}
	kept, err := b.spool.write(b.dir, p)
	if err != nil {
		b.dropped += int64(len(p) - kept)
		b.diskErr = err
	}
}

// next returns the chunk that the server needs next, and whether there is one. Until it is acknowledged, next returns
// a chunk at the same offset again.
func (b *backlog) next() (wire.LogChunk, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.peek()
}

func (b *backlog) peek() (wire.LogChunk, bool) {
	b.refill()
	c := wire.LogChunk{Stream: b.stream, Offset: b.base}
	if b.missing > 0 {
		c.Offset, c.Gap, c.Why = b.base-b.missing, b.missing, b.missingWhy
		return c, true
	}
	if len(b.head) > 0 {
		n := min(len(b.head), wire.MaxChunk)
		c.Data, c.TimeMS = b.head[:n:n], b.readAt.UnixMilli()
		return c, true
	}
	if b.dropped > 0 && (b.closed || !b.full) {
		c.Gap, c.Why = b.dropped, b.droppedWhy()
		return c, true
	}
	return c, false
}

// refill moves bytes from the spool into an empty head. Bytes that the disk does not give back become missing.
func (b *backlog) refill() {
	for len(b.head) == 0 && b.spool.size() > 0 {
		data, err := b.spool.read(memoryPerStream)
		if err == nil {
			b.head, b.readAt = data, b.spooledAt
			return
		}
		lost := b.spool.size()
		b.spool.discard()
		b.base += lost
		b.missing += lost
		b.missingWhy = fmt.Sprintf("The agent could not read its spool file: %v.", err)
	}
}

func (b *backlog) droppedWhy() string {
	if b.full {
		return fmt.Sprintf("output limit of %s reached; %d bytes not kept", byteSize(b.allowance.limit), b.dropped)
	}
	return fmt.Sprintf("the server was away and the output did not fit on the machine's disk (%v); %d bytes not kept", b.diskErr, b.dropped)
}

// acknowledge drops what the server has stored. Its end may be before what was acknowledged earlier, when the server
// has lost bytes: they are reported as missing.
func (b *backlog) acknowledge(stored int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	start := b.base - b.missing
	if stored < start && stored >= 0 {
		b.missing += start - stored
		b.missingWhy = goneWhy
		return
	}
	advance := stored - start
	step := min(advance, b.missing)
	b.missing -= step
	advance -= step
	for advance > 0 {
		b.refill()
		if len(b.head) == 0 {
			step = min(advance, b.dropped)
			b.dropped -= step
			b.base += step
			return
		}
		step = min(advance, int64(len(b.head)))
		b.head = b.head[step:]
		b.base += step
		advance -= step
	}
	if len(b.head) == 0 {
		b.head = nil // the bytes may still be in the hands of a request: do not append over them
	}
}

// abandon gives up the next n bytes: they become missing, and why says so.
func (b *backlog) abandon(n int64, why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n > 0 {
		b.refill()
		if len(b.head) == 0 {
			break
		}
		step := min(n, int64(len(b.head)))
		b.head = b.head[step:]
		b.base += step
		b.missing += step
		b.missingWhy = why
		n -= step
	}
}

// rest returns all that is left as chunks, oldest first, without dropping it, or nil when that is more than limit
// bytes.
func (b *backlog) rest(limit int64) []wire.LogChunk {
	b.mu.Lock()
	defer b.mu.Unlock()
	if int64(len(b.head))+b.spool.size() > limit {
		return nil
	}
	b.refill()
	if n := b.spool.size(); n > 0 { // head was not empty: join the two
		if data, err := b.spool.read(int(n)); err == nil {
			b.head = append(b.head, data...)
		}
	}
	at := &backlog{
		stream: b.stream, allowance: b.allowance, base: b.base, head: b.head, readAt: b.readAt, missing: b.missing,
		missingWhy: b.missingWhy, dropped: b.dropped, full: b.full, diskErr: b.diskErr, closed: b.closed,
	}
	var chunks []wire.LogChunk
	for {
		c, ok := at.peek()
		if !ok {
			return chunks
		}
		chunks = append(chunks, c)
		at.acknowledge(c.Offset + c.Gap + int64(len(c.Data)))
	}
}

// waiting returns how many bytes the server has not stored yet, not counting those that were not kept.
func (b *backlog) waiting() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(len(b.head)) + b.spool.size()
}

// length returns how long the stream is so far, with the bytes that were not kept.
func (b *backlog) length() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.base + int64(len(b.head)) + b.spool.size() + b.dropped
}

// close says that nothing will be appended any more, which releases the record of what exceeded the allowance.
func (b *backlog) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}

// free gives back the disk space. Nothing may be called afterwards.
func (b *backlog) free() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spool.remove()
}

// spool is the part of a backlog that is on disk: a file without a name, so that the command cannot find it, nothing
// remains of it after a crash, and its space is free again as soon as it is drained. Its zero value is empty.
type spool struct {
	file     *os.File
	from, to int64 // the unread bytes
}

func (s *spool) size() int64 { return s.to - s.from }

// write appends p and returns how much of it was stored.
func (s *spool) write(dir string, p []byte) (int, error) {
	if s.file == nil {
		file, err := namelessFile(dir)
		if err != nil {
			return 0, err
		}
		s.file = file
	}
	n, err := s.file.WriteAt(p, s.to)
	s.to += int64(n)
	return n, err
}

// unlinkedFile opens a file and takes its name away.
func unlinkedFile(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, "output-*.spool")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// read removes at most limit bytes from the front.
func (s *spool) read(limit int) ([]byte, error) {
	data := make([]byte, min(int64(limit), s.size()))
	n, err := s.file.ReadAt(data, s.from)
	if n < len(data) {
		return nil, err
	}
	s.from += int64(n)
	if s.size() == 0 {
		s.discard()
	}
	return data, nil
}

// discard empties the spool and gives its disk space back.
func (s *spool) discard() {
	s.from, s.to = 0, 0
	if s.file != nil && s.file.Truncate(0) != nil {
		s.remove() // the next write makes a new one
	}
}

func (s *spool) remove() {
	if s.file != nil {
		s.file.Close()
	}
	*s = spool{}
}

// byteSize writes a number of bytes as a person would: "64 MiB".
func byteSize(n int64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for n >= 1024 && n%1024 == 0 && i < len(units)-1 {
		n /= 1024
		i++
	}
	return fmt.Sprintf("%d %s", n, units[i])
}
