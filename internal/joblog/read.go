package joblog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"syscall"

	"github.com/dayfly-run/dayfly/fault"
)

// Read returns the records of an attempt's output from a position on, up to what is stored when it is called. To
// follow, take [Store.Changed] first, read, and go on from the last record's Next when the channel is closed.
//
// fault.NotFound if nothing is stored: the attempt has written nothing yet, or what it wrote was removed; the caller
// knows which. fault.Invalid for a position that is none of this output. An error yielded by the sequence ends it.
func (s *Store) Read(attempt string, from Position) (iter.Seq2[Record, error], error) {
	l, err := s.acquire(attempt)
	if err != nil {
		return nil, err
	}
	err = l.load()
	size, exists, path := l.size, l.exists, l.path
	s.release(l)
	if err != nil {
		return nil, err
	}
	if !exists {
		return nil, fault.Say(fault.NotFound, "there is no output of attempt %s", attempt)
	}
	if from < 0 || int64(from) > size {
		return nil, errPosition(attempt)
	}
	return func(yield func(Record, error) bool) {
		if int64(from) == size {
			return
		}
		// The file has its own descriptor here: the one for appending may be closed at any time.
		file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
		if errors.Is(err, fs.ErrNotExist) {
			yield(Record{}, fault.Say(fault.NotFound, "the output of attempt %s has been removed", attempt))
			return
		}
		if err != nil {
			yield(Record{}, fmt.Errorf("joblog: reading the output of %s: %w", attempt, err))
			return
		}
		defer file.Close()
		at := from
		for r, err := range scan(io.NewSectionReader(file, 0, size), from) {
			if at == from && from > 0 && (errors.Is(err, errShort) || errors.Is(err, errDamaged)) {
				err = errPosition(attempt)
			} else if err != nil {
				err = fmt.Errorf("joblog: reading the output of %s: %w", attempt, err)
			}
			at = r.Next
			if !yield(r, err) || err != nil {
				return
			}
		}
	}, nil
}

func errPosition(attempt string) error {
	return fault.Say(fault.Invalid, "this position is none of the output of attempt %s", attempt)
}
