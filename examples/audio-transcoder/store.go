package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"

	_ "modernc.org/sqlite" // the driver that sql.Open names

	"github.com/dayfly-run/dayfly/fault"
)

// The states of a job. The original had the first three.
const (
	created   = "created"
	started   = "started"
	completed = "completed"
	failed    = "failed"
)

// job is one row: what a client asked for, and how far it has come. Its URLs are not kept, because they can be signed
// anew whenever they are asked for, and then never have expired.
type job struct {
	id     string
	status string
	format format
	size   string // of the machine; "" before start
	token  string // of the run, which its worker shows; "" before start
	run    string // Dayfly's id of the run; "" until Dayfly has answered
	err    string // why it has failed
}

// store keeps the jobs. Every change of a job is one statement that says in which state it may happen, so two that
// come at once cannot undo each other, and it is on the disk when the call returns.
type store struct{ db *sql.DB }

const schema = `
CREATE TABLE IF NOT EXISTS jobs (
	number      INTEGER PRIMARY KEY AUTOINCREMENT,
	id          TEXT NOT NULL UNIQUE,
	status      TEXT NOT NULL CHECK (status IN ('created', 'started', 'completed', 'failed')),
	extension   TEXT NOT NULL,
	bit_depth   INTEGER NOT NULL,
	bit_rate    INTEGER NOT NULL,
	sample_rate INTEGER NOT NULL,
	size        TEXT NOT NULL DEFAULT '',
	token       TEXT NOT NULL DEFAULT '',
	run         TEXT NOT NULL DEFAULT '',
	error       TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX IF NOT EXISTS jobs_status ON jobs (status);`

const columns = `id, status, extension, bit_depth, bit_rate, sample_rate, size, token, run, error`

// openStore opens the database in a file, which is made if it is missing. Only one process may have it open: the
// second one's error says so.
func openStore(ctx context.Context, path string) (*store, error) {
	options := url.Values{"_txlock": {"immediate"}, "_pragma": {
		"busy_timeout(2000)", "locking_mode(EXCLUSIVE)", "journal_mode(WAL)", "synchronous(FULL)",
	}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: url.PathEscape(path), RawQuery: options.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("the database %s cannot be opened: %w", path, err)
	}
	db.SetMaxOpenConns(1) // which also makes the exclusive lock one that lasts
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, errors.Join(fmt.Errorf("the database %s cannot be used; does another process have it open? %w", path, err), db.Close())
	}
	return &store{db}, nil
}

func (s *store) close() error { return s.db.Close() }

func (s *store) add(ctx context.Context, j *job) error {
	_, err := s.db.ExecContext(ctx, `INSERT INTO jobs (id, status, extension, bit_depth, bit_rate, sample_rate) VALUES ($1, $2, $3, $4, $5, $6)`,
		j.id, j.status, j.format.Extension, j.format.BitDepth, j.format.BitRate, j.format.SampleRate)
	return err
}

// job returns one job; fault.NotFound.
func (s *store) job(ctx context.Context, id string) (*job, error) {
	jobs, err := s.query(ctx, `SELECT `+columns+` FROM jobs WHERE id = $1`, id)
	if err != nil {
		return nil, err
	}
	if len(jobs) == 0 {
		return nil, fmt.Errorf("job %s: %w", id, fault.NotFound)
	}
	return jobs[0], nil
}

// all returns all jobs, oldest first.
func (s *store) all(ctx context.Context) ([]*job, error) {
	return s.query(ctx, `SELECT `+columns+` FROM jobs ORDER BY number`)
}

// running returns the jobs whose runs somebody has to see end.
func (s *store) running(ctx context.Context) ([]*job, error) {
	return s.query(ctx, `SELECT `+columns+` FROM jobs WHERE status = 'started' ORDER BY number`)
}

// intended returns the newest of the jobs that are to run and whose runs are not known. Older ones were given up by their
// clients long ago.
func (s *store) intended(ctx context.Context) ([]*job, error) {
	return s.query(ctx, `SELECT `+columns+` FROM jobs WHERE status = 'created' AND token != '' ORDER BY number DESC LIMIT 100`)
}

func (s *store) query(ctx context.Context, text string, args ...any) ([]*job, error) {
	rows, err := s.db.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var jobs []*job
	for rows.Next() {
		var j job
		f := &j.format
		if err := rows.Scan(&j.id, &j.status, &f.Extension, &f.BitDepth, &f.BitRate, &f.SampleRate, &j.size, &j.token, &j.run, &j.err); err != nil {
			return nil, err
		}
		jobs = append(jobs, &j)
	}
	return jobs, rows.Err()
}

// intend writes down that the job is to run, before anybody is asked to run it. The token stays what it was if this is
// not the first time, because a worker of an earlier time may be under way with it.
func (s *store) intend(ctx context.Context, id, size, token string) error {
	_, err := s.db.ExecContext(ctx, `UPDATE jobs SET size = $2, token = CASE token WHEN '' THEN $3 ELSE token END
		WHERE id = $1 AND status = 'created'`, id, size, token)
	return err
}

// launched writes down the run. A worker that was quicker has completed the job already, and that stays so.
func (s *store) launched(ctx context.Context, id, token, run string) error {
	_, err := s.db.ExecContext(ctx, `UPDATE jobs SET run = $3, status = CASE status WHEN 'created' THEN 'started' ELSE status END
		WHERE id = $1 AND token = $2`, id, token, run)
	return err
}

// complete ends the job of a run well, unless it has ended.
func (s *store) complete(ctx context.Context, id, token string) error {
	_, err := s.db.ExecContext(ctx, `UPDATE jobs SET status = 'completed'
		WHERE id = $1 AND token = $2 AND status IN ('created', 'started')`, id, token)
	return err
}

// fail ends the job of a run badly, unless it has ended.
func (s *store) fail(ctx context.Context, id, token, why string) error {
	_, err := s.db.ExecContext(ctx, `UPDATE jobs SET status = 'failed', error = $3
		WHERE id = $1 AND token = $2 AND status IN ('created', 'started')`, id, token, why)
	return err
}

func (s *store) remove(ctx context.Context, id string) error {
	_, err := s.db.ExecContext(ctx, `DELETE FROM jobs WHERE id = $1`, id)
	return err
}
