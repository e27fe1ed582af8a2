package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/failpoint"
	"github.com/dayfly-run/dayfly/internal/migration"
)

const (
	// oldest is the first version of SQLite without a bug by which a write-ahead log that is reset while it is being
	// checkpointed could corrupt the database.
	oldest = "3.51.3"

	// applicationID marks the file as Dayfly's in SQLite's header: "DFLY".
	applicationID = 0x44464c59

	// checkSize is the size up to which a database is checked from end to end when it is opened, in bytes. It takes
	// some 25 ms. Damage in a larger one is found when it is read.
	checkSize = 1 << 20
)

//go:embed migrations/*.sql
var migrations embed.FS

// Open opens the store at path and creates it if there is none. It is fault.Conflict, with an [OwnedError], if another
// process has it open; fault.Invalid if the file is something else; fault.Unsupported if a newer version of the
// program has written it; fault.Internal if it is damaged. A file that is refused is not changed.
func Open(ctx context.Context, path string, o *Options) (*Store, error) {
	if o == nil {
		o = new(Options)
	}
	options := *o
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.BusyTimeout == 0 {
		options.BusyTimeout = 5 * time.Second
	}
	if options.Readers == 0 {
		options.Readers = 3
	}
	path, err := realPath(path)
	if err != nil {
		return nil, err
	}
	owner, err := own(path, &options)
	if err != nil {
		return nil, err
	}
	s := &Store{path: path, owner: owner, logger: options.Logger}
	if err := s.open(ctx, &options); err != nil {
		_ = owner.release()
		if e, ok := errors.AsType[*sqlite.Error](err); ok && isDamage(e.Code()) {
			return nil, s.damaged(err)
		}
		return nil, err
	}
	return s, nil
}

// open does what Open does once the file is ours.
func (s *Store) open(ctx context.Context, o *Options) error {
	if err := prepareFile(s.path); err != nil {
		return err
	}
	var err error
	if s.file, err = os.Stat(s.path); err != nil {
		return fmt.Errorf("sqlite: %s: %w: %w", s.path, fault.Unavailable, err)
	}
	if err := s.examine(ctx, o); err != nil {
		return err
	}
	writing, err := s.connector(o, "journal_mode(WAL)", "synchronous(FULL)", "cache_size(-8000)",
		"wal_autocheckpoint(1000)", "journal_size_limit(16777216)")
	if err != nil {
		return err
	}
	if err := migrate(ctx, s.path, writing); err != nil {
		return err
	}
	connect := func(ctx context.Context) (*session, error) { return newSession(ctx, writing, filepath.Dir(s.path)) }
	first, err := connect(ctx)
	if err != nil {
		return err
	}
	counted, err := newTally(first)
	if err == nil {
		err = s.openReaders(ctx, o)
	}
	if err != nil {
		_ = first.close()
		return err
	}
	s.closing = make(chan struct{})
	s.closeOnce = sync.OnceValue(s.close)
	s.writer = newWriter(connect, first, counted)
	go s.writer.run()
	return nil
}

func (s *Store) openReaders(ctx context.Context, o *Options) error {
	reading, err := s.connector(o, "query_only(1)", "cache_size(-2000)")
	if err != nil {
		return err
	}
	s.readers = make(chan *session, o.Readers)
	for range o.Readers {
		reader, err := newSession(ctx, reading, filepath.Dir(s.path))
		if err != nil {
			for len(s.readers) > 0 {
				_ = (<-s.readers).close()
			}
			return err
		}
		s.readers <- reader
	}
	return nil
}

// connector makes connections that are set up by the given pragmas.
func (s *Store) connector(o *Options, pragmas ...string) (driver.Connector, error) {
	query := url.Values{"_pragma": append(pragmas,
		"busy_timeout("+strconv.FormatInt(o.BusyTimeout.Milliseconds(), 10)+")",
		"temp_store(MEMORY)", "trusted_schema(OFF)")}
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: s.path, RawQuery: query.Encode()}
	c, err := sqlite.NewConnector(dsn.String())
	if err != nil {
		return nil, fmt.Errorf("sqlite: %s: %w: %w", s.path, fault.Internal, err)
	}
	return c, nil
}

// prepareFile makes sure that there is a file which may be a database, and that a fresh one is for our eyes only: it
// will hold what jobs are given in their environment.
func prepareFile(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		kind := fault.Unavailable
		if errors.Is(err, fs.ErrPermission) {
			kind = fault.Denied
		}
		return fmt.Errorf("sqlite: %s: %w: %w", path, kind, err)
	}
	defer file.Close()
	const magic = "SQLite format 3\x00"
	head := make([]byte, len(magic))
	switch _, err := io.ReadFull(file, head); {
	case errors.Is(err, io.EOF):
		return nil // a fresh one
	case errors.Is(err, io.ErrUnexpectedEOF), err == nil && string(head) != magic:
		return fault.Say(fault.Invalid, "%s is not a Dayfly database: it is not a database at all", path)
	case err != nil:
		return fmt.Errorf("sqlite: %s: %w: %w", path, fault.Unavailable, err)
	}
	return nil
}

// examine refuses a database that is not ours or is damaged, and a SQLite that is too old. It changes nothing, except
// that it marks a fresh file as ours.
func (s *Store) examine(ctx context.Context, o *Options) error {
	plain, err := s.connector(o)
	if err != nil {
		return err
	}
	c, err := newSession(ctx, plain, filepath.Dir(s.path))
	if err != nil {
		return err
	}
	defer func() { _ = c.close() }()
	var version string
	if _, err := c.one([]column{word(&version)}, `SELECT sqlite_version()`); err != nil {
		return err
	}
	if olderThan(version, oldest) {
		return fault.Say(fault.Unsupported, "this program contains SQLite %s; at least %s is needed", version, oldest)
	}
	var id, tables int
	_, err = c.one([]column{number(&id)}, `PRAGMA application_id`)
	if err == nil {
		_, err = c.one([]column{number(&tables)}, `SELECT count(*) FROM sqlite_schema`)
	}
	if err != nil {
		return err
	}
	if id == 0 && tables == 0 {
		_, _, err := c.exec(fmt.Sprintf(`PRAGMA application_id = %d`, applicationID))
		return err
	}
	if id != applicationID {
		return fault.Say(fault.Invalid, "%s is not a Dayfly database: another program made it", s.path)
	}
	if s.file.Size() > checkSize {
		return nil
	}
	var verdict string
	if _, err := c.one([]column{word(&verdict)}, `PRAGMA quick_check(1)`); err != nil {
		return err
	}
	if verdict != "ok" {
		return s.damaged(errors.New(verdict))
	}
	return nil
}

// isDamage reports whether a result code of SQLite says that the file is not, or no longer, a database.
func isDamage(code int) bool {
	return code&0xff == sqlite3.SQLITE_CORRUPT || code&0xff == sqlite3.SQLITE_NOTADB
}

// damaged says what to do about a database that cannot be read.
func (s *Store) damaged(err error) error {
	return fmt.Errorf("%w: %w", fault.Say(fault.Internal, "%s is damaged; restore it from a backup", s.path), err)
}

// olderThan compares versions such as 3.51.3.
func olderThan(version, than string) bool {
	have, want := strings.Split(version, "."), strings.Split(than, ".")
	for i := range want {
		var h, w int
		if i < len(have) {
			h, _ = strconv.Atoi(have[i])
		}
		w, _ = strconv.Atoi(want[i])
		if h != w {
			return h < w
		}
	}
	return false
}

// migrate brings the schema up to date, each step in a transaction of its own.
func migrate(ctx context.Context, path string, c driver.Connector) error {
	db := sql.OpenDB(c)
	defer db.Close()
	db.SetMaxOpenConns(1)
	provider, err := migration.Provider(db, migrations, "migrations")
	if err != nil {
		return fmt.Errorf("sqlite: %w: %w", fault.Internal, err)
	}
	have, want, err := provider.GetVersions(ctx)
	if err != nil {
		return (&session{folder: filepath.Dir(path)}).fail(err)
	}
	if have > want {
		return fault.Say(fault.Unsupported,
			"%s has schema %d, written by a newer version of Dayfly; this one knows schemas up to %d", path, have, want)
	}
	if have == want {
		return nil
	}
	if err := failpoint.Hit("store.migrate.before"); err != nil {
		return err
	}
	if _, err := provider.Up(ctx); err != nil {
		err = (&session{folder: filepath.Dir(path)}).fail(err)
		return fault.Say(fault.Of(err), "the database %s cannot be brought from schema %d to %d: %v; what it holds is not changed by that. "+
			"Unless its disk is full or faulty, somebody else has changed its tables: put a backup in its place", path, have, want, err)
	}
	return failpoint.Hit("store.migrate.after")
}
