// Package ledger keeps what the Machines API has promised: apps, machines and the versions of their configuration.
//
// It is one SQLite file beside the jobs' own. A record is a JSON document that its owner reads whole when it starts and
// keeps in memory; the ledger gives it back as it was committed. Every [Ledger.Commit] is one transaction, flushed to
// disk before it returns, and commits that arrive together share one flush.
package ledger

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/migration"
)

//go:embed migrations/*.sql
var migrations embed.FS

// applicationID marks the file as this ledger's in SQLite's header: "DFLM".
const applicationID = 0x44464c4d

// Ledger is an open ledger. It is safe for concurrent use by one process.
type Ledger struct {
	db      *sql.DB
	path    string
	owner   string
	queue   chan *request
	closing chan struct{}
	stopped chan struct{}
	once    sync.Once
}

// Change is what one Commit writes. Records are replaced whole.
type Change struct {
	Apps     map[string][]byte // by id
	Machines map[string][]byte // by id
	Configs  []Config          // added; one that exists stays as it is
	// DropApps and DropMachines remove what has these ids; a machine's configurations go with it.
	DropApps, DropMachines []string
}

// Config is one version of a machine's configuration.
type Config struct {
	Machine, Version string
	Config           []byte
}

// Content is everything in the ledger but old configurations.
type Content struct {
	Apps, Machines map[string][]byte
}

// Open opens the ledger at path and makes it if there is none. One process may have it open; the caller sees to that.
//
// fault.Invalid if the file is something else, fault.Unsupported if a newer program has written it, fault.Internal if it
// is damaged, fault.Unavailable if it cannot be read.
func Open(ctx context.Context, path string) (*Ledger, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // for our eyes only: configurations hold secrets
	if err != nil {
		return nil, fmt.Errorf("ledger: %s: %w: %w", path, fault.Unavailable, err)
	}
	_ = file.Close()
	l := &Ledger{
		path: path, queue: make(chan *request, maxWaiting), closing: make(chan struct{}), stopped: make(chan struct{}),
	}
	if err := l.examine(ctx); err != nil {
		return nil, err
	}
	l.db, err = l.connect("journal_mode(WAL)", "synchronous(FULL)", "cache_size(-4000)", "temp_store(MEMORY)")
	if err != nil {
		return nil, err
	}
	if err := l.prepare(ctx); err != nil {
		_ = l.db.Close()
		return nil, err
	}
	go l.run()
	return l, nil
}

// connect opens the file with one connection that is set up by the given pragmas.
func (l *Ledger) connect(pragmas ...string) (*sql.DB, error) {
	query := url.Values{"_pragma": append(pragmas, "busy_timeout(5000)", "trusted_schema(OFF)")}
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: l.path, RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("ledger: %s: %w: %w", l.path, fault.Internal, err)
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// examine refuses a file that is not a ledger, and changes nothing.
func (l *Ledger) examine(ctx context.Context) error {
	db, err := l.connect("query_only(1)")
	if err != nil {
		return err
	}
	defer db.Close()
	var id, tables int
	err = db.QueryRowContext(ctx, `PRAGMA application_id`).Scan(&id)
	if err == nil {
		err = db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema`).Scan(&tables)
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok && e.Code()&0xff == sqlite3.SQLITE_NOTADB {
		return fault.Say(fault.Invalid, "%s is not a ledger of the Machines API: it is not a database at all", l.path)
	}
	if err != nil {
		return l.fail("open", err)
	}
	if id != applicationID && (id != 0 || tables != 0) {
		return fault.Say(fault.Invalid, "%s is not a ledger of the Machines API: another program made it", l.path)
	}
	return nil
}

// prepare marks the file as a ledger and brings it up to date.
func (l *Ledger) prepare(ctx context.Context) error {
	if _, err := l.db.ExecContext(ctx, fmt.Sprintf(`PRAGMA application_id = %d`, applicationID)); err != nil {
		return l.fail("open", err)
	}
	if err := l.migrate(ctx); err != nil {
		return err
	}
	return l.identify(ctx)
}

func (l *Ledger) migrate(ctx context.Context) error {
	provider, err := migration.Provider(l.db, migrations, "migrations")
	if err != nil {
		return fmt.Errorf("ledger: %w: %w", fault.Internal, err)
	}
	have, want, err := provider.GetVersions(ctx)
	if err != nil {
		return l.fail("open", err)
	}
	if have > want {
		return fault.Say(fault.Unsupported, "%s has schema %d, written by a newer version of Dayfly; this one knows schemas up to %d", l.path, have, want)
	}
	if _, err := provider.Up(ctx); err != nil {
		return l.fail("open", err)
	}
	return nil
}

// identify finds the name under which this ledger's machines are the provider's, or makes one. It belongs to the file, so
// that a ledger which begins anew takes no other's machines for forgotten ones of its own.
func (l *Ledger) identify(ctx context.Context) error {
	random := make([]byte, 5)
	rand.Read(random) // never fails: see crypto/rand
	_, err := l.db.ExecContext(ctx, `INSERT INTO facts VALUES ('owner', ?) ON CONFLICT DO NOTHING`, "dfm-"+hex.EncodeToString(random))
	if err == nil {
		err = l.db.QueryRowContext(ctx, `SELECT value FROM facts WHERE name = 'owner'`).Scan(&l.owner)
	}
	if err != nil {
		return l.fail("open", err)
	}
	return nil
}

// Owner returns the owner of this ledger's machines at their provider. It is made with the file and never changes.
func (l *Ledger) Owner() string { return l.owner }

// Load returns everything but the configurations.
func (l *Ledger) Load(ctx context.Context) (*Content, error) {
	content := &Content{Apps: map[string][]byte{}, Machines: map[string][]byte{}}
	for _, part := range []struct {
		query string
		into  map[string][]byte
	}{{`SELECT id, record FROM apps`, content.Apps}, {`SELECT id, record FROM machines`, content.Machines}} {
		rows, err := l.db.QueryContext(ctx, part.query)
		if err != nil {
			return nil, l.fail("load", err)
		}
		for rows.Next() {
			var id string
			var record []byte
			if err := rows.Scan(&id, &record); err != nil {
				_ = rows.Close()
				return nil, l.fail("load", err)
			}
			part.into[id] = record
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, l.fail("load", err)
		}
	}
	return content, nil
}

// Configs returns the configurations of a machine, newest first; version "" is all of them, another that one alone.
func (l *Ledger) Configs(ctx context.Context, machine, version string) ([]Config, error) {
	rows, err := l.db.QueryContext(ctx,
		`SELECT version, config FROM configs WHERE machine = ?1 AND (?2 = '' OR version = ?2) ORDER BY version DESC`, machine, version)
	if err != nil {
		return nil, l.fail("read", err)
	}
	var all []Config
	for rows.Next() {
		c := Config{Machine: machine}
		if err := rows.Scan(&c.Version, &c.Config); err != nil {
			_ = rows.Close()
			return nil, l.fail("read", err)
		}
		all = append(all, c)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, l.fail("read", err)
	}
	return all, nil
}

// Close carries out the commits that wait and closes the ledger. It may be repeated.
func (l *Ledger) Close() error {
	var err error
	l.once.Do(func() {
		close(l.closing)
		<-l.stopped
		err = l.db.Close()
	})
	return err
}

// fail classifies an error of the database.
func (l *Ledger) fail(op string, err error) error {
	kind := fault.Unavailable
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return fmt.Errorf("%w: %w", fault.Say(fault.Internal, "%s is damaged; restore it from a backup", l.path), err)
		case sqlite3.SQLITE_FULL:
			kind = fault.StoreFull
		case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISUSE:
			kind = fault.Internal
		}
	}
	return fmt.Errorf("ledger: %s: %w: %w", op, kind, err)
}
