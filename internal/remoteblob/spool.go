package remoteblob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
)

// inMemory is the size up to which bytes are gathered in memory.
const inMemory = 1 << 20

// piece is how much is read at a time.
const piece = 128 << 10

// parallel is how many parts of one object are sent at once.
const parallel = 4

// Spool holds bytes that have all come, and what is to be known of them.
type Spool struct {
	Size   int64
	SHA256 string   // lower-case hex, of all bytes
	Parts  []string // the same of each part; one that has no bytes if there are none at all

	partSize int64
	patience time.Duration
	memory   []byte
	file     *os.File
}

// gather reads r to its end. Small amounts are kept in memory and others in a temporary file, which has no name any more
// when gather returns, so nothing is left of it when the process dies.
//
// fault.TooLarge, fault.Invalid and the reader's errors as for the Put of a [blob.Store]; fault.StoreFull if the disk is.
func gather(ctx context.Context, r io.Reader, o *blob.PutOptions, settings *Settings) (*Spool, error) {
	s := &Spool{partSize: settings.PartSize, patience: settings.Patience}
	err := s.gather(ctx, r, o.Limit, settings.SpoolDir)
	if err == nil && o.Size > 0 && s.Size != o.Size {
		err = fmt.Errorf("%w: %d bytes came where %d were announced", fault.Invalid, s.Size, o.Size)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *Spool) gather(ctx context.Context, r io.Reader, limit int64, dir string) error {
	whole, part := sha256.New(), sha256.New()
	buffer := make([]byte, piece)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, readErr := r.Read(buffer)
		if readErr != nil && !errors.Is(readErr, io.EOF) {
			return fmt.Errorf("reading what to store: %w", readErr)
		}
		if limit > 0 && s.Size+int64(n) > limit {
			return fmt.Errorf("%w: there are more than %d bytes", fault.TooLarge, limit)
		}
		if err := s.keep(buffer[:n], dir); err != nil {
			return full(err)
		}
		whole.Write(buffer[:n])
		s.hashParts(part, buffer[:n])
		if readErr != nil {
			break
		}
	}
	s.SHA256 = hex.EncodeToString(whole.Sum(nil))
	if len(s.Parts) == 0 || s.Size%s.partSize > 0 {
		s.Parts = append(s.Parts, hex.EncodeToString(part.Sum(nil)))
	}
	return nil
}

// hashParts adds bytes to the hash of the part that they belong to, and counts them.
func (s *Spool) hashParts(part hash.Hash, b []byte) {
	for len(b) > 0 {
		n := min(int64(len(b)), s.partSize-s.Size%s.partSize)
		part.Write(b[:n])
		b = b[n:]
		if s.Size += n; s.Size%s.partSize == 0 {
			s.Parts = append(s.Parts, hex.EncodeToString(part.Sum(nil)))
			part.Reset()
		}
	}
}

// keep adds bytes to what is held, which moves to a file when it has become too much for memory.
func (s *Spool) keep(b []byte, dir string) error {
	if s.file == nil && len(s.memory)+len(b) <= inMemory {
		s.memory = append(s.memory, b...)
		return nil
	}
	if s.file == nil {
		file, err := os.CreateTemp(dir, "spool-*")
		if err != nil {
			return err
		}
		s.file = file
		if err := os.Remove(file.Name()); err != nil {
			return err
		}
		if _, err := file.Write(s.memory); err != nil {
			return err
		}
		s.memory = nil
	}
	_, err := s.file.Write(b)
	return err
}

// full attaches the kind to the error of a disk that is full.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("gathering what to store: %w: %w", fault.StoreFull, withoutPath(err))
	}
	return fmt.Errorf("gathering what to store: %w", withoutPath(err))
}

func withoutPath(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// Part is one part of what has been gathered, on its way to the service.
type Part struct {
	io.ReadSeeker // of its bytes, as often as they are sent

	Number int // from 0
	Size   int64
	SHA256 string
}

// Send calls send for each part, several at once, until one fails, and returns that error. A part of which nothing moves
// any more is ended with fault.Unavailable.
func (s *Spool) Send(ctx context.Context, send func(ctx context.Context, p *Part) error) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, sum := range s.Parts {
		group.Go(func() error {
			ctx, watch := newWatch(groupCtx, s.patience)
			defer watch.stop()
			offset := int64(i) * s.partSize
			size := min(s.partSize, s.Size-offset)
			return watch.cause(send(ctx, &Part{&watched{s.section(offset, size), watch}, i, size, sum}))
		})
	}
	return group.Wait()
}

// section returns a reader of a part of what is held. Several may be used at once, until close.
func (s *Spool) section(offset, length int64) *io.SectionReader {
	if s.file != nil {
		return io.NewSectionReader(s.file, offset, length)
	}
	return io.NewSectionReader(bytes.NewReader(s.memory), offset, length)
}

// close lets go of what is held.
func (s *Spool) close() {
	s.memory = nil
	if s.file != nil {
		s.file.Close()
	}
}
