// Package remoteblob is what the stores have in common that keep objects on other computers.
//
// Such a store must know an object's size and checksum before it sends the first byte, because both are kept with the
// object and a broken upload must leave nothing. So what is to be stored is gathered first, in a [Spool], and sent from
// there, again if need be. And a peer that accepts a connection and then says nothing must not hold anybody up for ever,
// which is what [Watch] is for.
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

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
)

// inMemory is the size up to which bytes are gathered in memory.
const inMemory = 1 << 20

// piece is how much is read at a time.
const piece = 128 << 10

// Spool holds bytes that have all come, and what is to be known of them. Close it to let go of them.
type Spool struct {
	Size   int64
	SHA256 string   // lower-case hex, of all bytes
	Parts  []string // of each part alike, if there is more than one

	memory []byte
	file   *os.File
}

// Gather reads r to its end. Small amounts are kept in memory and others in a temporary file in dir ("": the system's
// place for such files), which has no name any more when Gather returns, so nothing is left of it when the process dies.
// partSize is how many bytes a part has, for Spool.Parts.
//
// fault.TooLarge, fault.Invalid and the reader's errors as for the Put of a [blob.Store]; fault.StoreFull if the disk is.
func Gather(ctx context.Context, r io.Reader, o *blob.PutOptions, dir string, partSize int64) (s *Spool, err error) {
	if o == nil {
		o = &blob.PutOptions{}
	}
	s = &Spool{}
	defer func() {
		if err != nil {
			s.Close()
			s = nil
		}
	}()
	if err := s.gather(ctx, r, o.Limit, dir, partSize); err != nil {
		return s, err
	}
	if o.Size > 0 && s.Size != o.Size {
		return s, fmt.Errorf("%w: %d bytes came where %d were announced", fault.Invalid, s.Size, o.Size)
	}
	return s, nil
}

func (s *Spool) gather(ctx context.Context, r io.Reader, limit int64, dir string, partSize int64) error {
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
		s.hashParts(part, buffer[:n], partSize)
		if readErr != nil {
			break
		}
	}
	s.SHA256 = hex.EncodeToString(whole.Sum(nil))
	if len(s.Parts) == 0 || s.Size%partSize > 0 {
		s.Parts = append(s.Parts, hex.EncodeToString(part.Sum(nil)))
	}
	return nil
}

// hashParts adds bytes to the hash of the part that they belong to, and counts them.
func (s *Spool) hashParts(part hash.Hash, b []byte, partSize int64) {
	for len(b) > 0 {
		n := min(int64(len(b)), partSize-s.Size%partSize)
		part.Write(b[:n])
		b = b[n:]
		if s.Size += n; s.Size%partSize == 0 {
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

// Section returns a reader of a part of what is held. Several may be used at once, until Close.
func (s *Spool) Section(offset, length int64) *io.SectionReader {
	if s.file != nil {
		return io.NewSectionReader(s.file, offset, length)
	}
	return io.NewSectionReader(bytes.NewReader(s.memory), offset, length)
}

// Close lets go of what is held.
func (s *Spool) Close() {
	s.memory = nil
	if s.file != nil {
		s.file.Close()
	}
}
