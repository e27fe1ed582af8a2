package sqlite

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

// Options are the details of a store. nil means all defaults.
type Options struct {
	// Logger is told of rows that cannot be read and are passed over. Default: nobody is.
	Logger *slog.Logger
	// BusyTimeout is how long a write waits while another program has the database locked. Default: 5 s.
	BusyTimeout time.Duration
	// Readers is how many reads can go on at a time. Default: 3.
	Readers int
	// Command is what this process was started as, and Passing that it opens the store only until that ends; both are told
	// to whoever finds the store in use.
	Command string
	Passing bool
}

// Store is a store in one SQLite file.
type Store struct {
	path   string
	file   fs.FileInfo // of the database, to notice when another takes its place
	logger *slog.Logger

	mu    sync.Mutex // guards owner
	owner *ownership

	writer    *writer
	readers   chan *session // those that are idle
	closing   chan struct{}
	closeOnce func() error

	unreadable sync.Map // ids of jobs that the log has been told of
}

var _ store.Store = (*Store)(nil)

// SetOwnerURL records where this process can be reached, for [Owner] and for those who try to open the store too.
func (s *Store) SetOwnerURL(url string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closing:
		return closed("owner")
	default:
	}
	s.owner.info.URL = url
	return s.owner.write()
}

// Close implements store.Store. It may be called more than once.
func (s *Store) Close() error { return s.closeOnce() }

func (s *Store) close() error {
	close(s.closing)
	s.writer.close()
	for range cap(s.readers) {
		_ = (<-s.readers).close()
	}
	// The last connection to be closed moves what is left of the write-ahead log into the database.
	var err error
	if s.writer.session != nil {
		err = s.writer.session.close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.owner.release(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("sqlite: close %s: %w: %w", s.path, fault.Internal, err)
	}
	return nil
}

// write is [writer.write].
func (s *Store) write(ctx context.Context, op string, run func(*tx) error) error {
	return s.writer.write(ctx, op, run)
}

// read calls run with a connection on which everything it reads is of the same moment.
func (s *Store) read(ctx context.Context, run func(*session) error) error {
	var c *session
	select {
	case c = <-s.readers:
	default:
		select {
		case c = <-s.readers:
		case <-ctx.Done():
			return fmt.Errorf("sqlite: read: %w: %w", fault.Canceled, ctx.Err())
		case <-s.closing:
			return closed("read")
		}
	}
	defer func() { s.readers <- c }()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("sqlite: read: %w: %w", fault.Canceled, err)
	}
	select {
	case <-s.closing:
		return closed("read")
	default:
	}
	if _, _, err := c.exec("BEGIN"); err != nil {
		return err
	}
	err := run(c)
	if _, _, e := c.exec("COMMIT"); e != nil {
		_, _, _ = c.exec("ROLLBACK") // or this connection would be of no use any more
		if err == nil {
			err = e
		}
	}
	return err
}

// readable decodes rows. One that cannot be decoded is passed over, so that it hides no other, and is told to the
// log once.
func (s *Store) readable(rows []*jobRow) []*store.Job {
	jobs := make([]*store.Job, 0, len(rows))
	for _, row := range rows {
		job, err := row.decode()
		if err == nil {
			jobs = append(jobs, job)
			continue
		}
		if _, told := s.unreadable.LoadOrStore(row.ID, true); !told {
			s.logger.Error("a job cannot be read and is passed over", "job", row.ID, "error", err)
		}
	}
	return jobs
}
