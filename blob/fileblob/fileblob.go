// Package fileblob keeps objects as files in a directory.
//
// An object is one file: its bytes, and behind them a trailer with its size, checksum and content type. A Put writes
// a temporary file in the same file system, flushes it, renames it into place and flushes the directory, so an object
// is durable before it is visible, and never seen half written. The trailer travels with the bytes: there is no second
// file that could get lost or belong to another version.
//
// Keys become paths that a person can read; what is special in a file name is escaped, so no key reaches outside the
// directory and no two keys share a file. The file system must tell upper case from lower case.
package fileblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/failpoint"
)

// Options are the details of a Store. nil means all defaults.
type Options struct {
	// Leftover is the age from which on Open removes the temporary files of puts that never ended, because their
	// program died. It must be longer than any put pauses. Default: one hour.
	Leftover time.Duration
}

// Store keeps objects in a directory. It is safe for concurrent use, by several processes too.
type Store struct {
	root *os.Root
}

var _ blob.Store = (*Store)(nil)

// tempDir is where files are until they are whole. No key has this path, because a leading dot is escaped.
const tempDir = ".incomplete"

// Open returns the Store in dir, making the directory (mode 0700) if it is missing.
func Open(dir string, o *Options) (*Store, error) {
	leftover := time.Hour
	if o != nil && o.Leftover > 0 {
		leftover = o.Leftover
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("fileblob: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("fileblob: %w", err)
	}
	s := &Store{root: root}
	if err := s.prepareTempDir(leftover); err != nil {
		root.Close()
		return nil, fmt.Errorf("fileblob: preparing %s: %w", dir, classify(err))
	}
	return s, nil
}

func (s *Store) prepareTempDir(leftover time.Duration) error {
	if err := s.root.Mkdir(tempDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	dir, err := s.root.Open(tempDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < leftover {
			continue // gone meanwhile, or another process may still be writing it
		}
		if err := s.root.Remove(path.Join(tempDir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Close lets go of the directory. The Store must not be used afterwards.
func (s *Store) Close() error { return s.root.Close() }

// Get returns a part of an object. The reader goes on reading the object as it was when Get returned, even if it is
// replaced or deleted meanwhile. It implements io.WriterTo, and WriteNTo for a piece at a time, such that copying to
// a TCP connection, or to the http.ResponseWriter of one, is done by the kernel. fault.Invalid if offset is beyond the
// object's end.
func (s *Store) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	file, info, err := s.open(ctx, key)
	if err != nil {
		return nil, err
	}
	if offset < 0 || offset > info.Size {
		file.Close()
		return nil, fmt.Errorf("fileblob: get %q: %w: offset %d of %d bytes", key, fault.Invalid, offset, info.Size)
	}
	if rest := info.Size - offset; length < 0 || length > rest {
		length = rest
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		file.Close()
		return nil, fmt.Errorf("fileblob: get %q: %w", key, err)
	}
	return &reader{file: file, part: io.LimitedReader{R: file, N: length}}, nil
}

// Stat returns what is known of an object.
func (s *Store) Stat(ctx context.Context, key string) (*blob.Info, error) {
	file, info, err := s.open(ctx, key)
	if err != nil {
		return nil, err
	}
	file.Close()
	return info, nil
}

// open opens an object and reads its trailer.
func (s *Store) open(ctx context.Context, key string) (*os.File, *blob.Info, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	name, err := pathOf(key)
	if err != nil {
		return nil, nil, err
	}
	file, err := s.root.Open(name)
	if err != nil {
		return nil, nil, fmt.Errorf("fileblob: object %q: %w", key, classify(err))
	}
	info, err := readTrailer(file)
	if err != nil {
		file.Close()
		return nil, nil, fmt.Errorf("fileblob: object %q: %w", key, err)
	}
	info.Key = key
	return file, info, nil
}

// Delete removes an object, and the directories it leaves empty.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	name, err := pathOf(key)
	if err != nil {
		return err
	}
	err = s.remove(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("fileblob: delete %q: %w", key, classify(err))
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if s.root.Remove(dir) != nil {
			return nil // it is not empty, which is the usual case
		}
	}
	return nil
}

// remove removes the file of an object.
func (s *Store) remove(name string) error {
	if err := failpoint.Hit("blob.delete.before"); err != nil {
		return err
	}
	if err := s.root.Remove(name); err != nil {
		return err
	}
	return failpoint.Hit("blob.delete.after")
}

// classify attaches the kind to an error of the file system.
func classify(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w: %w", fault.NotFound, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", fault.StoreFull, err)
	}
	return err
}

// reader reads a part of a file.
type reader struct {
	file *os.File
	part io.LimitedReader
}

func (r *reader) Read(p []byte) (int, error) { return r.part.Read(p) }

// WriteTo copies the rest of the part. The writer's ReadFrom sees the file itself behind an io.LimitedReader, which is
// the form that net recognizes.
func (r *reader) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, &r.part) }

// WriteNTo copies at most n bytes of the part, in the same way. A server that wants to know between pieces how its
// client is doing uses it instead of WriteTo.
func (r *reader) WriteNTo(w io.Writer, n int64) (int64, error) {
	piece := io.LimitedReader{R: r.file, N: min(n, r.part.N)}
	copied, err := io.Copy(w, &piece)
	r.part.N -= copied
	return copied, err
}

func (r *reader) Close() error { return r.file.Close() }
