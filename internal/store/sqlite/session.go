package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/dayfly-run/dayfly/fault"
)

// session is one connection with the statements prepared on it. One goroutine uses it at a time, so it speaks to the
// driver itself: what database/sql adds, pooling and locks and conversions, is of no use here and costs a fifth of
// what writing costs.
//
// A statement is named by its own text: it is prepared when the text is first used and kept for as long as the
// connection lives. The texts are constants, except for lists, whose shapes are bounded by what a query can ask for.
//
// A text says LIMIT $1 + 0, not LIMIT $1. Of a limit that is a bare parameter SQLite takes the value into account when it
// plans a statement, and so it compiles the statement anew whenever that is given to it, even the same one.
type session struct {
	conn     driver.Conn
	folder   string // of the database, to ask how full its disk is
	prepared map[string]*statement
	args     []driver.NamedValue // of the call under way
}

// statement is a prepared statement.
type statement struct {
	driver.Stmt
	row []driver.Value // the row that is being read
}

func newSession(ctx context.Context, c driver.Connector, folder string) (*session, error) {
	s := &session{folder: folder, prepared: map[string]*statement{}}
	conn, err := c.Connect(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	s.conn = conn
	return s, nil
}

// close ends the connection.
func (s *session) close() error {
	for _, st := range s.prepared {
		_ = st.Close()
	}
	return s.conn.Close()
}

func (s *session) statement(text string) (*statement, error) {
	if st := s.prepared[text]; st != nil {
		return st, nil
	}
	st, err := s.prepare(text)
	if err == nil {
		s.prepared[text] = st
	}
	return st, err
}

func (s *session) prepare(text string) (*statement, error) {
	st, err := s.conn.Prepare(unnumbered(text))
	if err != nil {
		return nil, err
	}
	return &statement{Stmt: st}, nil
}

// unnumbered writes the parameters $1, $2, … of a text as ?, if that means the same because they occur once each and
// in order. The driver looks a number up by its name whenever the statement runs.
func unnumbered(text string) string {
	var b strings.Builder
	rest := text
	for n := 1; ; n++ {
		before, after, found := strings.Cut(rest, "$")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		digits := len(after) - len(strings.TrimLeft(after, "0123456789"))
		if after[:digits] != strconv.Itoa(n) {
			return text
		}
		b.WriteByte('?')
		rest = after[digits:]
	}
}

// values makes arguments ready for the driver. They are valid until the next call.
func (s *session) values(args []any) []driver.NamedValue {
	s.args = s.args[:0]
	for i, arg := range args {
		if n, ok := arg.(int); ok {
			arg = int64(n)
		}
		s.args = append(s.args, driver.NamedValue{Ordinal: i + 1, Value: arg})
	}
	return s.args
}

// exec runs a statement and returns how many rows it changed and the key of the last row it inserted.
func (s *session) exec(text string, args ...any) (changed, key int64, err error) {
	st, err := s.statement(text)
	if err != nil {
		return 0, 0, s.fail(err)
	}
	result, err := st.Stmt.(driver.StmtExecContext).ExecContext(context.Background(), s.values(args))
	if err != nil {
		return 0, 0, s.fail(err)
	}
	changed, _ = result.RowsAffected() // this driver knows both without asking, so neither fails
	key, _ = result.LastInsertId()
	return changed, key, nil
}

// row is one row of a result, valid until the next is read.
type row []driver.Value

// one runs a query and reads its first row into columns. found is false if there is no row.
func (s *session) one(columns []column, text string, args ...any) (found bool, err error) {
	err = s.each(func(r row) error {
		if found {
			return nil
		}
		found = true
		return s.scan(r, columns)
	}, text, args...)
	return found && err == nil, err
}

// each runs a query and calls scan for every row. An error of scan ends it and is returned as it is.
func (s *session) each(scan func(row) error, text string, args ...any) error {
	st, err := s.statement(text)
	if err != nil {
		return s.fail(err)
	}
	return s.query(st, scan, args)
}

// eachOnce is each for a text that is made up for one query and not worth keeping prepared.
func (s *session) eachOnce(scan func(row) error, text string, args ...any) error {
	st, err := s.prepare(text)
	if err != nil {
		return s.fail(err)
	}
	defer st.Close()
	return s.query(st, scan, args)
}

func (s *session) query(st *statement, scan func(row) error, args []any) error {
	rows, err := st.Stmt.(driver.StmtQueryContext).QueryContext(context.Background(), s.values(args))
	if err != nil {
		return s.fail(err)
	}
	if st.row == nil {
		st.row = make([]driver.Value, len(rows.Columns()))
	}
	for {
		err := rows.Next(st.row)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			_ = rows.Close()
			return s.fail(err)
		}
		if err := scan(st.row); err != nil {
			_ = rows.Close()
			return err
		}
	}
	if err := rows.Close(); err != nil {
		return s.fail(err)
	}
	return nil
}

// scan reads a row into columns.
func (s *session) scan(r row, columns []column) error {
	if len(r) != len(columns) {
		return fmt.Errorf("sqlite: %w: %d columns for a row of %d", fault.Internal, len(columns), len(r))
	}
	for i, c := range columns {
		if err := c.set(r[i]); err != nil {
			return fmt.Errorf("sqlite: %w: column %d of %d: %w", fault.Internal, i+1, len(r), err)
		}
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
