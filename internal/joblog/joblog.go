// Package joblog keeps what commands print.
//
// Output goes to files and never through the database: one append-only file per attempt, made when its first byte
// arrives. A file is a sequence of records, each with a checksum, so that the torn end which a crash may leave is
// recognized, is never served, and is cut off before anything is appended.
//
// # What is stored
//
// An attempt has two streams, each a sequence of bytes from offset 0. [Store.Append] stores a chunk that begins
// where its stream ends, skips what is there already, and refuses what would leave a hole. Bytes that nobody has any
// more are recorded as a gap, with the reason. So whoever reads a stream sees each byte once and in order, or is told
// how much is missing and why.
//
// # What survives
//
// Nothing is flushed per chunk: a flush costs more than all the rest of a short job's output. Killing the server
// loses nothing, because the bytes are the kernel's by the time Append returns. A power failure can cost the last
// seconds of a file. The next chunk of that attempt then begins beyond the end, its agent is told what is wanted and
// either sends it again from its spool or records a gap.
//
// # What it costs
//
// The first chunk of an attempt costs an open and a write. Files stay open, and the ends of streams stay in memory,
// for the attempts used last; both are bounded, so a server that has run a million jobs is no larger than one that
// has run a thousand.
package joblog

import (
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// Options are the details of a Store. nil means all defaults.
type Options struct {
	MaxOpen   int // files kept open for appending; default 128
	MaxStates int // attempts whose ends of streams are kept in memory, about 200 bytes each; default 16384
}

// Store keeps the output of attempts in a directory, which is its own: no two Stores may use one directory. It is
// safe for concurrent use; chunks of one attempt are stored one after the other, those of different attempts at the
// same time.
type Store struct {
	dir   string
	bells bells
	cache cache
}

// Open returns the Store in dir, making the directory (mode 0700) if it is missing.
func Open(dir string, o *Options) (*Store, error) {
	if o == nil {
		o = &Options{}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("joblog: %w", err)
	}
	s := &Store{dir: dir, bells: bells{seed: maphash.MakeSeed()}}
	s.cache.init(orDefault(o.MaxOpen, 128), orDefault(o.MaxStates, 16384))
	return s, nil
}

func orDefault(n, otherwise int) int {
	if n <= 0 {
		return otherwise
	}
	return n
}

// Close closes the files. The Store must not be used afterwards.
func (s *Store) Close() error { return s.cache.closeAll() }

// Append stores a chunk of an attempt's output and returns the offset up to which its stream is stored afterwards.
//
// What the stream has already is skipped, so a repeated chunk changes nothing. Of both streams together at most
// limit bytes are kept (0: no limit); what is over it is acknowledged but not kept, and one gap record per stream
// says so.
//
// fault.Conflict, together with the offset that is wanted, if the chunk begins beyond the end of its stream.
// fault.Invalid or fault.TooLarge if the chunk is not one, or the attempt's id has an impossible form.
// fault.StoreFull if the disk is full; then nothing of the chunk was stored. The chunk's data is not retained.
func (s *Store) Append(attempt string, c *wire.LogChunk, limit int64) (stored int64, err error) {
	if err := checkChunk(c); err != nil {
		return 0, err
	}
	l, err := s.acquire(attempt)
	if err != nil {
		return 0, err
	}
	defer s.release(l)
	if err := l.load(); err != nil {
		return 0, err
	}
	before := l.size
	stored, err = l.append(c, limit, s.cache.opened)
	if l.size != before {
		s.bells.ring(attempt)
	}
	return stored, err
}

// Lengths returns the offsets up to which the two streams of an attempt are stored; 0 for an attempt that has none.
func (s *Store) Lengths(attempt string) (stdout, stderr int64, err error) {
	l, err := s.acquire(attempt)
	if err != nil {
		return 0, 0, err
	}
	defer s.release(l)
	if err := l.load(); err != nil {
		return 0, 0, err
	}
	return l.ends[0], l.ends[1], nil
}

// Changed returns a channel that is closed when output of the attempt is stored or removed. Take it before reading,
// so that nothing stored between the two is missed. It is sometimes closed although nothing changed: read again and
// wait again. It costs nothing to let go of.
func (s *Store) Changed(attempt string) <-chan struct{} { return s.bells.listen(attempt) }

// Remove deletes the output of attempts, as far as there is any. Reading it is fault.NotFound from then on.
func (s *Store) Remove(attempts ...string) error {
	var errs []error
	for _, attempt := range attempts {
		errs = append(errs, s.remove(attempt))
	}
	return errors.Join(errs...)
}

func (s *Store) remove(attempt string) error {
	l, err := s.acquire(attempt)
	if err != nil {
		return err
	}
	defer s.release(l)
	defer s.bells.ring(attempt)
	s.cache.close(l)
	if err := l.remove(); err != nil {
		return fmt.Errorf("joblog: removing the output of %s: %w", attempt, err)
	}
	return nil
}

// acquire returns the attempt's log, locked.
func (s *Store) acquire(attempt string) (*log, error) {
	if !validAttempt(attempt) {
		return nil, fault.Say(fault.Invalid, "%.80q is not the id of an attempt", attempt)
	}
	l := s.cache.get(attempt, func() string { return s.path(attempt) })
	l.mu.Lock()
	return l, nil
}

func (s *Store) release(l *log) {
	l.mu.Unlock()
	s.cache.put(l)
}

// path returns where the attempt's file is. Ids begin with the time they were made, so the directories are chosen by
// the checksum of the id: neighbors in time spread over all 256.
func (s *Store) path(attempt string) string {
	return filepath.Join(s.dir, fmt.Sprintf("%02x", checksum([]byte(attempt))&0xff), attempt+".log")
}

// validAttempt reports whether the id may become a file name.
func validAttempt(attempt string) bool {
	if len(attempt) == 0 || len(attempt) > 128 {
		return false
	}
	for _, c := range []byte(attempt) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// full classifies the errors of a full disk or quota as fault.StoreFull and leaves others as they are.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", fault.StoreFull, err)
	}
	return err
}

// bells wake those who wait for output. There is a fixed number of them and an attempt has one of them by hash, so
// that waiting leaves nothing behind, whoever stops waiting and whenever; the price is a needless wake-up now and
// then.
type bells struct {
	seed maphash.Seed
	all  [1024]struct {
		mu sync.Mutex
		ch chan struct{} // what the listeners wait for; nil when there are none
	}
}

func (b *bells) listen(attempt string) <-chan struct{} {
	bell := &b.all[maphash.String(b.seed, attempt)%uint64(len(b.all))]
	bell.mu.Lock()
	defer bell.mu.Unlock()
	if bell.ch == nil {
		bell.ch = make(chan struct{})
	}
	return bell.ch
}

func (b *bells) ring(attempt string) {
	bell := &b.all[maphash.String(b.seed, attempt)%uint64(len(b.all))]
	bell.mu.Lock()
	defer bell.mu.Unlock()
	if bell.ch != nil {
		close(bell.ch)
		bell.ch = nil
	}
}
