package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// minimal is the program that somebody would write instead of using Dayfly, in an afternoon and knowing what they do:
// a submit is answered with 201 when it is in SQLite and on the disk, writers that arrive together share one commit,
// and a fixed number of workers run the commands and keep their output and their exit codes.
//
// What it leaves out is the point of the comparison: machines, agents, retries, timeouts, cancellation, limits,
// events, files, live logs, restarts. It understands as much of Dayfly's API as the benchmarks use.
type minimal struct {
	db     *sql.DB
	reads  *sql.DB
	writes chan write
	ready  chan minimalJob
}

// write is a statement that somebody waits for.
type write struct {
	statement int // index into minimalStatements
	args      []any
	done      chan error
}

type minimalJob struct {
	id      string
	command []string
}

const (
	insertStatement = iota
	finishStatement
)

const minimalSchema = `CREATE TABLE IF NOT EXISTS jobs (
	seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, spec TEXT NOT NULL, state TEXT NOT NULL, created_at INTEGER NOT NULL,
	finished_at INTEGER, exit_code INTEGER, output BLOB)`

// runMinimal is "bench minimal ADDRESS DIR WORKERS".
func runMinimal(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: bench minimal ADDRESS DIR WORKERS")
	}
	workers, err := strconv.Atoi(args[2])
	if err != nil {
		return fmt.Errorf("the number of workers: %w", err)
	}
	m, err := openMinimal(args[1], workers)
	if err != nil {
		return err
	}
	defer m.close()
	return serveUntilStopped(args[0], m.handler())
}

// openMinimal opens the program's database in a directory and starts its workers.
func openMinimal(dir string, workers int) (*minimal, error) {
	source := "file:" + filepath.Join(dir, "jobs.db") +
		"?_txlock=immediate&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)"
	writes, err := sql.Open("sqlite", source)
	if err != nil {
		return nil, err
	}
	writes.SetMaxOpenConns(1)
	if _, err := writes.Exec(minimalSchema); err != nil {
		return nil, errors.Join(err, writes.Close())
	}
	reads, err := sql.Open("sqlite", source)
	if err != nil {
		return nil, errors.Join(err, writes.Close())
	}
	m := &minimal{db: writes, reads: reads, writes: make(chan write, 1024), ready: make(chan minimalJob, 1<<20)}
	go m.commitLoop()
	for range workers {
		go m.workLoop()
	}
	return m, nil
}

// close closes the database. What goes on in the program then is lost, as it would be if it were killed.
func (m *minimal) close() { _ = errors.Join(m.db.Close(), m.reads.Close()) }

func (m *minimal) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/jobs", m.submit)
	mux.HandleFunc("GET /v1/jobs/{id}", m.show)
	mux.HandleFunc("GET /v1/jobs", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"items":[]}`) })
	return mux
}

// serveUntilStopped serves until SIGTERM.
func serveUntilStopped(address string, handler http.Handler) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// commitLoop carries out writes. Those that wait when one is begun share its transaction.
func (m *minimal) commitLoop() {
	var statements [2]*sql.Stmt
	for i, text := range []string{
		insertStatement: `INSERT INTO jobs (id, spec, state, created_at) VALUES (?, ?, 'queued', ?)`,
		finishStatement: `UPDATE jobs SET state = ?, exit_code = ?, output = ?, finished_at = ? WHERE id = ?`,
	} {
		statement, err := m.db.Prepare(text)
		if err != nil {
			panic(err)
		}
		statements[i] = statement
	}
	for first := range m.writes {
		group := []write{first}
		for len(group) < 512 && len(m.writes) > 0 {
			group = append(group, <-m.writes)
		}
		err := m.commit(statements[:], group)
		for _, w := range group {
			w.done <- err
		}
	}
}

func (m *minimal) commit(statements []*sql.Stmt, group []write) error {
	tx, err := m.db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, w := range group {
		if _, err := tx.Stmt(statements[w.statement]).Exec(w.args...); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// write returns when the statement has been committed.
func (m *minimal) write(statement int, args ...any) error {
	w := write{statement: statement, args: args, done: make(chan error, 1)}
	m.writes <- w
	return <-w.done
}

func (m *minimal) submit(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	var spec struct {
		Command []string `json:"command"`
	}
	if err == nil {
		err = json.Unmarshal(body, &spec)
	}
	if err != nil || len(spec.Command) == 0 {
		http.Error(w, "not a job", http.StatusBadRequest)
		return
	}
	job := minimalJob{id: "job_" + rand.Text(), command: spec.Command}
	now := time.Now().UTC()
	if err := m.write(insertStatement, job.id, string(body), now.UnixMicro()); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	select {
	case m.ready <- job:
	default: // nobody works: it is kept, and that is all that is asked
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(map[string]any{"id": job.id, "state": "queued", "created_at": now, "spec": json.RawMessage(body)})
}

// workLoop runs one command after the other.
func (m *minimal) workLoop() {
	for job := range m.ready {
		output, err := exec.Command(job.command[0], job.command[1:]...).CombinedOutput()
		state, code := "succeeded", 0
		if err != nil {
			state, code = "failed", -1
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				code = exit.ExitCode()
			}
		}
		if err := m.write(finishStatement, state, code, output, time.Now().UnixMicro(), job.id); err != nil {
			panic(err)
		}
	}
}

func (m *minimal) show(w http.ResponseWriter, r *http.Request) {
	var state string
	var code, finished sql.NullInt64
	row := m.reads.QueryRow(`SELECT state, exit_code, finished_at FROM jobs WHERE id = ?`, r.PathValue("id"))
	if err := row.Scan(&state, &code, &finished); err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	answer := map[string]any{"id": r.PathValue("id"), "state": state}
	if finished.Valid {
		answer["exit_code"], answer["finished_at"] = code.Int64, time.UnixMicro(finished.Int64).UTC()
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer)
}
