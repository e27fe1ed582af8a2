package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
)

// open opens the store at path, and closes it at the end of the test.
func open(tb testing.TB, path string, o *sqlite.Options) *sqlite.Store {
	tb.Helper()
	s, err := sqlite.Open(context.Background(), path, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closeStore(tb, s) })
	return s
}

func closeStore(tb testing.TB, s *sqlite.Store) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Errorf("Close returned %v, want nil", err)
	}
}

// raw opens the database behind the store's back, as another program would.
func raw(tb testing.TB, path string) *sql.DB {
	tb.Helper()
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: "_pragma=busy_timeout(2000)"}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		tb.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	tb.Cleanup(func() { _ = db.Close() })
	return db
}

func execute(tb testing.TB, db *sql.DB, texts ...string) {
	tb.Helper()
	for _, text := range texts {
		if _, err := db.Exec(text); err != nil {
			tb.Fatalf("%s: %v", text, err)
		}
	}
}

// request is an ordinary job, number n.
func request(n int64) *store.Submission {
	now := time.Now()
	return &store.Submission{Job: &store.Job{
		ID: fmt.Sprintf("job_%026d", n), State: dayfly.Queued, Provider: "local", Queue: "default",
		CreatedAt: now, StartedAt: now, QueuedAt: now,
		Spec: dayfly.JobSpec{
			Name: "convert", Command: []string{"ffmpeg", "-i", "in.wav", "out.mp3"}, Provider: "local", Queue: "default",
			Env: map[string]string{"LANG": "C.UTF-8"}, Size: "shared-cpu-1x",
			Timeouts: dayfly.Timeouts{
				Boot: dayfly.Duration(5 * time.Minute), Run: dayfly.Duration(time.Hour), Grace: dayfly.Duration(10 * time.Second),
			},
			Retry: dayfly.Retry{
				MaxAttempts: 1, MaxLaunches: 5, BackoffMin: dayfly.Duration(time.Second), BackoffMax: dayfly.Duration(5 * time.Minute),
			},
		},
	}}
}

// submit adds job n.
func submit(tb testing.TB, s *sqlite.Store, n int64) *store.Job {
	tb.Helper()
	job, _, err := s.Submit(context.Background(), request(n))
	if err != nil {
		tb.Fatal(err)
	}
	return job
}

// wish is the intent to launch a job.
func wish(job *store.Job) *store.Launch {
	return &store.Launch{
		JobID: job.ID, Version: job.Version, AttemptID: "att" + job.ID[3:], Machine: "dayfly-abcdef-" + job.ID[4:],
		Provider: "local", Lifetime: time.Hour, Time: time.Now(),
	}
}

// launch launches a job and returns the attempt's id.
func launch(tb testing.TB, s *sqlite.Store, job *store.Job) string {
	tb.Helper()
	l := wish(job)
	refusals, err := s.Launch(context.Background(), []*store.Launch{l})
	if err := errors.Join(append(refusals, err)...); err != nil {
		tb.Fatal(err)
	}
	return l.AttemptID
}

// running claims an attempt of job n.
func running(tb testing.TB, s *sqlite.Store, n int64) *store.Attempt {
	tb.Helper()
	id := launch(tb, s, submit(tb, s, n))
	_, a, err := s.Claim(context.Background(), &store.Claim{Attempt: id, By: "machine/nonce", Time: time.Now()})
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// success is the end of an attempt that succeeded.
func success(a *store.Attempt) *store.Ending {
	return &store.Ending{
		Attempt: a.ID, Fence: a.Fence, JobVersion: a.Job.Version, State: dayfly.AttemptSucceeded, Time: time.Now(), Started: true,
		Job: store.Next{State: dayfly.Succeeded, Starts: 1},
	}
}

// wantKind fails the test unless err is of the kind.
func wantKind(tb testing.TB, what string, err error, kind fault.Kind) {
	tb.Helper()
	if fault.Of(err) != kind {
		tb.Fatalf("%s: got error %v of kind %q, want %q", what, err, fault.Of(err), kind)
	}
}

// eventually waits until done is true, and fails the test if that takes longer than 20 seconds.
func eventually(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(deadline) {
			tb.Fatalf("waited 20 seconds in vain for %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// integrity fails the test unless SQLite finds the database whole.
func integrity(tb testing.TB, path string) {
	tb.Helper()
	var verdict string
	if err := raw(tb, path).QueryRow(`PRAGMA integrity_check`).Scan(&verdict); err != nil || verdict != "ok" {
		tb.Fatalf("integrity_check of %s says %q, error %v; want ok", path, verdict, err)
	}
}
