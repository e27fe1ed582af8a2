package fileblob

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/failpoint"
)

// Put stores an object. It is durable when Put returns. Errors of r come back wrapped.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, o *blob.PutOptions) (*blob.Info, error) {
	if o == nil {
		o = &blob.PutOptions{}
	}
	name, err := pathOf(key)
	if err != nil {
		return nil, err
	}
	if len(o.ContentType) > maxMetadata/8 {
		return nil, fmt.Errorf("fileblob: put %q: %w: a content type of %d bytes", key, fault.Invalid, len(o.ContentType))
	}
	temp := path.Join(tempDir, rand.Text())
	info, err := s.write(ctx, temp, r, o)
	if err == nil {
		err = s.place(temp, name)
	}
	if err != nil {
		s.root.Remove(temp) // of no consequence: what this leaves, Open removes later
		return nil, fmt.Errorf("fileblob: put %q: %w", key, classify(err))
	}
	info.Key = key
	return info, nil
}

// write makes the temporary file, whole and flushed.
func (s *Store) write(ctx context.Context, temp string, r io.Reader, o *blob.PutOptions) (info *blob.Info, err error) {
	file, err := s.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()

	size, sum, err := copyAndHash(ctx, file, r, o.Limit)
	if err != nil {
		return nil, err
	}
	if o.Size > 0 && size != o.Size {
		return nil, fmt.Errorf("%w: %d bytes came where %d were announced", fault.Invalid, size, o.Size)
	}
	m := metadata{Size: size, SHA256: hex.EncodeToString(sum), ContentType: o.ContentType}
	trailer, err := encodeTrailer(m)
	if err != nil {
		return nil, err
	}
	if _, err := file.Write(trailer); err != nil {
		return nil, err
	}
	if err := file.Sync(); err != nil {
		return nil, err
	}
	stat, err := file.Stat()
	if err != nil {
		return nil, err
	}
	return &blob.Info{Size: size, SHA256: m.SHA256, ContentType: m.ContentType, StoredAt: stat.ModTime().UTC()}, nil
}

// place renames the temporary file to its name and flushes the directory that holds it.
func (s *Store) place(temp, name string) error {
	if err := failpoint.Hit("blob.put.before"); err != nil {
		return err
	}
	dir := path.Dir(name)
	// A Delete may remove the directory, empty for a moment, between making it and renaming into it.
	for range 100 {
		if err := s.makeDirs(dir); err != nil {
			return err
		}
		err := s.root.Rename(temp, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		return errors.Join(s.syncDir(dir), failpoint.Hit("blob.put.after"))
	}
	return fmt.Errorf("%w: the directory is removed again and again", fault.Unavailable)
}

// makeDirs makes a directory and those above it, and flushes the parent of each one it makes.
func (s *Store) makeDirs(dir string) error {
	if info, err := s.root.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	parts := strings.Split(dir, "/")
	for i := range parts {
		err := s.root.Mkdir(path.Join(parts[:i+1]...), 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // one above was removed; the rename will fail, and this be tried again
		}
		if err == nil {
			err = s.syncDir(path.Join(".", path.Join(parts[:i]...)))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (s *Store) syncDir(dir string) error {
	d, err := s.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has been removed with what was in it
	}
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// While one piece is being hashed it is also written, and the next one read. After each syncEvery bytes the kernel is
// told to begin writing to the disk, so that the flush at the end waits for the last pieces only: measured, a put of
// 1 GiB becomes a quarter faster.
const (
	pieceSize = 128 << 10
	syncEvery = 8 << 20
)

var pieces = sync.Pool{New: func() any { return new([2][pieceSize]byte) }}

// copyAndHash copies r to the file and returns how many bytes it were and their SHA-256. Limit 0 means none.
func copyAndHash(ctx context.Context, file *os.File, r io.Reader, limit int64) (size int64, sum []byte, err error) {
	buffers := pieces.Get().(*[2][pieceSize]byte)
	defer pieces.Put(buffers)
	h := sha256.New()
	var hashing sync.WaitGroup
	defer hashing.Wait() // before the buffers are anybody else's
	started := int64(0)  // up to where the kernel has been told to write
	for i := 0; ; i++ {
		buffer := buffers[i%2][:]
		n, readErr := readPiece(ctx, r, buffer)
		hashing.Wait()
		if readErr != nil && !errors.Is(readErr, io.EOF) {
			return 0, nil, fmt.Errorf("reading what to store: %w", readErr)
		}
		size += int64(n)
		if limit > 0 && size > limit {
			return 0, nil, fmt.Errorf("%w: there are more than %d bytes", fault.TooLarge, limit)
		}
		hashing.Go(func() { h.Write(buffer[:n]) })
		if _, err := file.Write(buffer[:n]); err != nil {
			return 0, nil, err
		}
		if errors.Is(readErr, io.EOF) {
			hashing.Wait()
			return size, h.Sum(nil), nil
		}
		if size-started >= syncEvery {
			startWriteback(file, started, size-started)
			started = size
		}
	}
}

// readPiece fills the buffer. With the last bytes, however many, it returns io.EOF.
func readPiece(ctx context.Context, r io.Reader, buffer []byte) (n int, err error) {
	for n < len(buffer) && err == nil {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		var m int
		m, err = r.Read(buffer[n:])
		n += m
	}
	return n, err
}
