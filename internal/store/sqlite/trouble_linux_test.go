package sqlite_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
)

// smallDisk returns a folder on a disk of its own with so many bytes. Only root can make one.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	folder := t.TempDir()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("this machine lets nobody mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(folder, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return folder
}

func TestAFullDiskRefusesWritesAndChangesNothing(t *testing.T) {
	t.Parallel()
	folder := smallDisk(t, "4m")
	path := folder + "/store.db"
	ballast := folder + "/ballast"
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, nil)
	a := running(t, s, 1)
	added := map[int64]bool{}
	var refused error
	for n := int64(2); refused == nil; n++ {
		if n > 1_000_000 {
			t.Fatal("a million jobs fit on a disk of 4 MiB")
		}
		_, _, refused = s.Submit(t.Context(), request(n))
		added[n] = refused == nil
	}
	wantKind(t, "a submit on a full disk", refused, fault.StoreFull)
	// Many at once fail no worse than one.
	for n := range int64(50) {
		added[2_000_000+n] = false
	}
	var all sync.WaitGroup
	for n := range int64(50) {
		all.Go(func() {
			if _, _, err := s.Submit(t.Context(), request(2_000_000+n)); fault.Of(err) != fault.StoreFull {
				t.Errorf("one of many submits on a full disk: got %v, want store_full", err)
			}
		})
	}
	all.Wait()
	compare := func() {
		t.Helper()
		for n, want := range added {
			_, err := s.Job(t.Context(), request(n).Job.ID)
			if err != nil && fault.Of(err) != fault.NotFound || (err == nil) != want {
				t.Fatalf("reading job %d: got %v, want it to be there: %v", n, err, want)
			}
		}
		if got, err := s.Attempt(t.Context(), a.ID); err != nil || got.State != dayfly.AttemptRunning {
			t.Fatalf("reading the attempt: got %+v, %v; want it running", got, err)
		}
	}
	compare()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := s.End(t.Context(), success(a)); err != nil {
		t.Fatalf("an end when there is room again: %v", err)
	}
	for n := range int64(50) {
		submit(t, s, 3_000_000+n)
	}
	closeStore(t, s)
	integrity(t, path)
}

func TestALockThatAnotherProgramHoldsIsWaitedForAndThenReported(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/store.db"
	const patience = 300 * time.Millisecond
	s := open(t, path, &sqlite.Options{BusyTimeout: patience})
	submit(t, s, 1)
	other := raw(t, path)

	execute(t, other, `BEGIN IMMEDIATE`)
	start := time.Now()
	_, _, err := s.Submit(t.Context(), request(2))
	wantKind(t, "a submit while another program writes", err, fault.Unavailable)
	if took := time.Since(start); took < patience || took > patience+5*time.Second {
		t.Errorf("the submit failed after %v, want about %v", took, patience)
	}
	if _, err := s.Job(t.Context(), request(1).Job.ID); err != nil {
		t.Errorf("reading while another program writes: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err = s.Submit(ctx, request(3))
	wantKind(t, "a submit whose caller has gone while it was carried out", err, fault.Unavailable)
	execute(t, other, `ROLLBACK`)

	eventually(t, "the store to write again", func() bool {
		_, _, err := s.Submit(t.Context(), request(4))
		return err == nil
	})
	if _, err := s.Job(t.Context(), request(2).Job.ID); fault.Of(err) != fault.NotFound {
		t.Errorf("the job whose submit failed: got %v, want not_found", err)
	}
}

// together makes all of these writes wait and then carries them out in one transaction.
func together(t *testing.T, path string, writes ...func() error) []error {
	t.Helper()
	other := raw(t, path)
	execute(t, other, `BEGIN IMMEDIATE`)
	errs := make([]error, len(writes))
	var all sync.WaitGroup
	for i, write := range writes {
		all.Go(func() { errs[i] = write() })
	}
	// The first of them waits for the lock, in a group of its own, and the others for the first.
	<-time.After(100 * time.Millisecond)
	execute(t, other, `ROLLBACK`)
	all.Wait()
	return errs
}

func TestAWriteThatFailsHalfwayFailsAlone(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/store.db"
	s := open(t, path, nil)
	a := running(t, s, 1)
	first, second := wish(submit(t, s, 2)), wish(submit(t, s, 3))
	second.AttemptID = first.AttemptID // the second breaks a constraint after the first has been written
	writes := []func() error{
		func() error {
			_, err := s.Launch(t.Context(), []*store.Launch{first, second})
			return err
		},
		func() error { _, err := s.End(t.Context(), success(a)); return err },
	}
	for n := range int64(20) {
		writes = append(writes, func() error { _, _, err := s.Submit(t.Context(), request(100+n)); return err })
	}
	errs := together(t, path, writes...)
	wantKind(t, "the launch of two attempts with one id", errs[0], fault.Conflict)
	if err := errors.Join(errs[1:]...); err != nil {
		t.Errorf("the writes beside it failed: %v", err)
	}
	for _, l := range []*store.Launch{first, second} {
		job, err := s.Job(t.Context(), l.JobID)
		if err != nil || job.State != dayfly.Queued || job.Version != 1 || len(job.AttemptLog) != 0 {
			t.Errorf("job %s is %+v, error %v; want it as it was", l.JobID, job, err)
		}
	}
	for n := range int64(20) {
		if events, err := s.Events(t.Context(), request(100+n).Job.ID, 0, 10); err != nil || len(events) != 1 {
			t.Errorf("job %d has %d events, error %v; want 1", 100+n, len(events), err)
		}
	}
	// What the writer remembered of the transaction that was undone is forgotten.
	first.AttemptID = "att_again"
	refusals, err := s.Launch(t.Context(), []*store.Launch{first})
	if err := errors.Join(append(refusals, err)...); err != nil {
		t.Errorf("launching the first job afterwards: %v", err)
	}
	counts, err := s.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, c := range counts {
		total += c.Jobs
	}
	if want := 22; total != want {
		t.Errorf("got %d jobs counted in %+v, want %d", total, counts, want)
	}
}

func TestAWriteWhoseCallerGaveUpInTheQueueIsNotCarriedOut(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/store.db"
	s := open(t, path, nil)
	ctx, cancel := context.WithCancel(t.Context())
	errs := together(t, path,
		func() error { _, _, err := s.Submit(t.Context(), request(1)); return err },
		func() error {
			_, _, err := s.Submit(ctx, request(2))
			return err
		},
		func() error { <-time.After(50 * time.Millisecond); cancel(); return nil },
	)
	if errs[0] != nil {
		t.Errorf("a submit beside it: %v", errs[0])
	}
	wantKind(t, "the submit that was given up", errs[1], fault.Canceled)
	submit(t, s, 3)
	if _, err := s.Job(t.Context(), request(2).Job.ID); fault.Of(err) != fault.NotFound {
		t.Errorf("the job of the submit that was given up: got %v, want not_found", err)
	}
}

func TestTheWriterRemembersLiveAttemptsOnly(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/store.db"
	s := open(t, path, nil)
	want := func(n int) {
		t.Helper()
		if got, err := s.Remembered(t.Context()); got != n || err != nil {
			t.Errorf("the writer remembers %d attempts, error %v; want %d", got, err, n)
		}
	}
	large := request(1)
	large.Job.Spec.Payload = []byte(`"` + strings.Repeat("x", 4096) + `"`)
	job, _, err := s.Submit(t.Context(), large)
	if err != nil {
		t.Fatal(err)
	}
	launch(t, s, job)
	want(0) // it would take too much memory
	a, b := running(t, s, 2), running(t, s, 3)
	want(2)
	if _, err := s.End(t.Context(), success(a)); err != nil {
		t.Fatal(err)
	}
	want(1)
	// What a transaction that is undone had remembered would be wrong, so nothing of it is kept.
	first, second := wish(submit(t, s, 4)), wish(submit(t, s, 5))
	second.AttemptID = first.AttemptID
	_, err = s.Launch(t.Context(), []*store.Launch{first, second})
	wantKind(t, "the launch of two attempts with one id", err, fault.Conflict)
	want(0)
	if _, err := s.End(t.Context(), success(b)); err != nil {
		t.Errorf("the end of an attempt that is not remembered any more: %v", err)
	}
}

func TestRowsThatCannotBeReadHideNoOthers(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/store.db"
	s := open(t, path, nil)
	const n = 200
	for i := range int64(n) {
		submit(t, s, i)
	}
	for i := range int64(n) {
		launch(t, s, submit(t, s, 1000+i))
	}
	closeStore(t, s)
	db := raw(t, path)
	// All but the last: in every way in which a row can be bad.
	execute(t, db,
		`UPDATE jobs SET spec = '{"command":[' WHERE state = 'queued' AND seq % 2 = 0 AND seq < (SELECT max(seq) FROM jobs WHERE state = 'queued')`,
		`UPDATE jobs SET spec = NULL WHERE state = 'queued' AND seq % 2 = 1 AND seq < (SELECT max(seq) FROM jobs WHERE state = 'queued')`,
		`UPDATE attempts SET state = 'pondering' WHERE seq % 3 = 0 AND seq < (SELECT max(seq) FROM attempts)`,
		`UPDATE jobs SET spec = '[]' WHERE state = 'starting' AND seq % 3 = 1 AND seq < (SELECT max(seq) FROM jobs)`,
		`UPDATE jobs SET state = 'dreaming' WHERE state = 'starting' AND seq % 3 = 2 AND seq < (SELECT max(seq) FROM jobs)`,
		`UPDATE attempts SET job = 0 WHERE state = 'creating' AND seq < (SELECT max(seq) FROM attempts)`)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	s = open(t, path, &sqlite.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})

	live, bad, err := s.Live(t.Context(), 0, 10)
	if err != nil || len(live) != 1 || len(bad) == 0 || len(bad) > n {
		t.Fatalf("Live returned %d attempts, %d bad rows and error %v; want the one that can be read and the others reported",
			len(live), len(bad), err)
	}
	if want := request(1000 + n - 1).Job.ID; live[0].JobID != want {
		t.Errorf("Live returned an attempt of job %s, want %s", live[0].JobID, want)
	}
	for _, err := range bad {
		if !strings.Contains(err.Error(), "att_") {
			t.Errorf("a bad row was reported as %q, want it to name the attempt", err)
		}
	}
	for range 2 {
		ready, err := s.Ready(t.Context(), store.Lane{Provider: "local", Queue: "default"}, nil, 5)
		if err != nil || len(ready) != 1 || ready[0].ID != request(n-1).Job.ID {
			t.Fatalf("Ready returned %d jobs and error %v, want the one that can be read", len(ready), err)
		}
	}
	if got := strings.Count(log.String(), "level=ERROR"); got != n-1 {
		t.Errorf("the log was told of %d jobs, want each of %d once", got, n-1)
	}
	listed, _, err := s.List(t.Context(), &store.Query{Limit: 10})
	if err != nil || len(listed) < 2 {
		t.Errorf("List returned %d jobs and error %v, want those that can be read", len(listed), err)
	}
	_, err = s.Job(t.Context(), request(0).Job.ID)
	wantKind(t, "reading a bad job itself", err, fault.Internal)
	refusals, err := s.Launch(t.Context(), []*store.Launch{wish(ready(t, s))})
	if err := errors.Join(append(refusals, err)...); err != nil {
		t.Errorf("launching the job that can be read: %v", err)
	}
}

// ready returns the first ready job.
func ready(t *testing.T, s *sqlite.Store) *store.Job {
	t.Helper()
	jobs, err := s.Ready(t.Context(), store.Lane{Provider: "local", Queue: "default"}, nil, 1)
	if err != nil || len(jobs) != 1 {
		t.Fatalf("Ready returned %d jobs and error %v, want 1", len(jobs), err)
	}
	return jobs[0]
}

func TestALargeSpecIsReadBackAndNotRewrittenByTransitions(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/store.db"
	s := open(t, path, nil)
	r := request(1)
	r.Job.Spec.Payload = []byte(`"` + strings.Repeat("x", 256<<10) + `"`)
	job, _, err := s.Submit(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	wal := func() int64 {
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	before := wal()
	id := launch(t, s, job)
	claimed, a, err := s.Claim(t.Context(), &store.Claim{Attempt: id, By: "a", Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if string(claimed.Spec.Payload) != string(r.Job.Spec.Payload) {
		t.Errorf("the payload came back with %d bytes, want %d", len(claimed.Spec.Payload), len(r.Job.Spec.Payload))
	}
	if _, err := s.End(t.Context(), success(a)); err != nil {
		t.Fatal(err)
	}
	if grown := wal() - before; grown > 200<<10 {
		t.Errorf("three transitions wrote %d bytes, want far less than the payload", grown)
	}
}

func TestALongBacklogIsListedFromTheNewest(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir()+"/store.db", nil)
	const n = 5100 // more than are looked up by state
	submitMany(t, s, n)
	launch(t, s, ready(t, s))
	var got []*store.Job
	for before := int64(0); ; before = got[len(got)-1].Seq {
		page, _, err := s.List(t.Context(), &store.Query{States: []dayfly.State{dayfly.Queued, dayfly.Failed}, Before: before, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, page...)
		if len(page) < 1000 {
			break
		}
	}
	if len(got) != n-1 {
		t.Errorf("got %d jobs, want the %d that are queued", len(got), n-1)
	}
	for i := 1; i < len(got); i++ {
		if got[i].Seq >= got[i-1].Seq {
			t.Fatalf("job %d comes after job %d, want the newest first", got[i].Seq, got[i-1].Seq)
		}
	}
}

// submitMany submits jobs 0 to n-1 from fifty goroutines.
func submitMany(t *testing.T, s *sqlite.Store, n int64) {
	t.Helper()
	const callers = 50
	var all sync.WaitGroup
	for caller := range int64(callers) {
		all.Go(func() {
			for i := caller; i < n; i += callers {
				if _, _, err := s.Submit(t.Context(), request(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func TestTheWriteAheadLogStaysBounded(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/store.db"
	s := open(t, path, nil)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if _, _, err := s.List(t.Context(), &store.Query{Limit: 5}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	submitMany(t, s, 8000)
	close(stop)
	readers.Wait()
	info, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	if got, limit := info.Size(), int64(24<<20); got > limit {
		t.Errorf("the write-ahead log has %d bytes, want at most %d", got, limit)
	}
	main, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if main.Size() < 2<<20 {
		t.Errorf("the database has %d bytes, want what was written to have arrived there", main.Size())
	}
	t.Logf("database %d bytes, log %d bytes", main.Size(), info.Size())
}

func TestAStoreOfSomeMegabytesOpensQuickly(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/store.db"
	s := open(t, path, nil)
	submitMany(t, s, 4000)
	closeStore(t, s)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	open(t, path, nil)
	took := time.Since(start)
	t.Logf("a database of %d KiB was opened in %v", info.Size()>>10, took)
	if took > 2*time.Second {
		t.Errorf("opening took %v, want less than two seconds even on a busy machine", took)
	}
}
