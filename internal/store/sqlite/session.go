package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/dayfly-run/dayfly/fault"
)

// session is one connection with the statements prepared on it. One goroutine uses it at a time.
//
// A statement is named by its own text: it is prepared when the text is first used and kept for as long as the
// connection lives. The texts are constants, except for lists, whose shapes are bounded by what a query can ask for.
type session struct {
	conn     *sql.Conn
	folder   string // of the database, to ask how full its disk is
	prepared map[string]*sql.Stmt
}

func newSession(ctx context.Context, db *sql.DB, folder string) (*session, error) {
	s := &session{folder: folder, prepared: map[string]*sql.Stmt{}}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	s.conn = conn
	return s, nil
}

// close ends the connection. Its pool would keep it, so the pool is told that it is broken.
func (s *session) close() error {
	for _, statement := range s.prepared {
		_ = statement.Close()
	}
	if err := s.conn.Raw(func(any) error { return driver.ErrBadConn }); !errors.Is(err, driver.ErrBadConn) {
		return err
	}
	return nil
}

func (s *session) statement(text string) (*sql.Stmt, error) {
	if statement := s.prepared[text]; statement != nil {
		return statement, nil
	}
	statement, err := s.conn.PrepareContext(context.Background(), text)
	if err != nil {
		return nil, err
	}
	s.prepared[text] = statement
	return statement, nil
}

// exec runs a statement and returns how many rows it changed and the key of the last row it inserted.
func (s *session) exec(text string, args ...any) (changed, key int64, err error) {
	statement, err := s.statement(text)
	if err != nil {
		return 0, 0, s.fail(err)
	}
	result, err := statement.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, 0, s.fail(err)
	}
	changed, _ = result.RowsAffected() // this driver knows both without asking, so neither fails
	key, _ = result.LastInsertId()
	return changed, key, nil
}

// one runs a query and scans its first row into dest. found is false if there is no row.
func (s *session) one(dest []any, text string, args ...any) (found bool, err error) {
	statement, err := s.statement(text)
	if err != nil {
		return false, s.fail(err)
	}
	switch err := statement.QueryRowContext(context.Background(), args...).Scan(dest...); {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, s.fail(err)
	}
	return true, nil
}

// each runs a query and calls scan for every row. An error of scan ends it and is returned as it is.
func (s *session) each(scan func(*sql.Rows) error, text string, args ...any) error {
	statement, err := s.statement(text)
	if err != nil {
		return s.fail(err)
	}
	rows, err := statement.QueryContext(context.Background(), args...)
	return s.all(scan, rows, err)
}

// eachOnce is each for a text that is made up for one query and not worth keeping prepared.
func (s *session) eachOnce(scan func(*sql.Rows) error, text string, args ...any) error {
	rows, err := s.conn.QueryContext(context.Background(), text, args...)
	return s.all(scan, rows, err)
}

func (s *session) all(scan func(*sql.Rows) error, rows *sql.Rows, err error) error {
	if err != nil {
		return s.fail(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return s.fail(err)
	}
	return nil
}

// scan reads the columns of a row.
func (s *session) scan(row *sql.Rows, dest []any) error {
	if err := row.Scan(dest...); err != nil {
		return s.fail(err)
	}
	return nil
}

// fail gives an error of the database its kind.
func (s *session) fail(err error) error {
	kind := fault.Of(err)
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		kind = s.kind(e.Code())
	}
	return fmt.Errorf("sqlite: %w: %w", kind, err)
}

// kind is the kind of failure that a result code of SQLite stands for.
func (s *session) kind(code int) fault.Kind {
	switch code & 0xff {
	case sqlite3.SQLITE_FULL:
		return fault.StoreFull
	case sqlite3.SQLITE_IOERR:
		// SQLite knows a full disk only where it writes. Growing its shared memory and flushing fail as any other
		// I/O does, so the disk itself is asked.
		if diskFull(s.folder) {
			return fault.StoreFull
		}
		return fault.Unavailable
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_CANTOPEN,
		sqlite3.SQLITE_NOMEM:
		return fault.Unavailable
	case sqlite3.SQLITE_CONSTRAINT:
		return fault.Conflict
	default:
		return fault.Internal
	}
}

// harmless reports whether a transaction in which err happened may go on: err is an operation's own refusal, or a
// statement that broke a constraint and was undone by SQLite itself.
func harmless(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return !ok || e.Code()&0xff == sqlite3.SQLITE_CONSTRAINT
}

// diskFull reports whether less than 64 KiB is left on the disk that holds folder.
func diskFull(folder string) bool {
	var stat unix.Statfs_t
	err := unix.Statfs(folder, &stat)
	return err == nil && stat.Bavail*uint64(stat.Bsize) < 64<<10
}
