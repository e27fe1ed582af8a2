//go:build linux

package survival_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/dayfly-run/dayfly"
)

// TestAFullDiskRefusesAndHeals fills the disk under the store while a job runs, and frees it again.
func TestAFullDiskRefusesAndHeals(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount the small disk that this test fills")
	}
	in := install(t)
	if err := syscall.Mount("tmpfs", in.dir, "tmpfs", 0, "size=8m,mode=0700"); err != nil {
		t.Skipf("this computer lets nobody mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		in.cleanUp() // nothing below the mount may be in use
		if err := syscall.Unmount(in.dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	in.putToken()
	s := in.start("")
	k := task{lines: 100} // which succeeds: whatever else fails beside a full disk is said to fail because of that
	running := in.submit(in.spec(k))
	in.running(running.ID)

	ballast := filepath.Join(in.dir, "ballast")
	fill(t, ballast)
	var acknowledged []string
	later := time.Now().Add(time.Hour)
	spec := in.spec(task{})
	spec.RunAt = &later
	spec.Payload = fmt.Appendf(nil, "%q", strings.Repeat("x", 50_000))
	eventually(t, patience, "a submit is refused because the disk is full", func() error {
		switch a := in.post("/v1/jobs", spec, ""); {
		case a.status == http.StatusInsufficientStorage && a.Code == "store_full":
			return nil
		case a.status/100 == 2:
			acknowledged = append(acknowledged, a.ID)
			return errors.New("one more was taken")
		default:
			t.Fatalf("got %v, want a job or 507 store_full", a)
			return nil
		}
	})
	if got := in.job(running.ID); got.ID != running.ID {
		t.Errorf("reading a job from the full store: got %v", got)
	}
	in.finished(running.ID)
	pass(500 * time.Millisecond) // its result finds the store full
	select {
	case <-s.ended:
		t.Fatalf("the server did not survive its full disk: %s", describe(s.status))
	default:
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	in.checkTask(running.ID, k)
	eventually(t, patience, "submits are taken again", func() error {
		a := in.post("/v1/jobs", spec, "")
		if a.status/100 != 2 {
			return errors.New(a.String())
		}
		acknowledged = append(acknowledged, a.ID)
		return nil
	})
	for _, id := range acknowledged {
		if got := in.job(id).State; got != dayfly.Scheduled {
			t.Errorf("an acknowledged job is %s, want scheduled", got)
		}
	}
	in.empty()
	s.signal(t, syscall.SIGTERM)
	s.wait(t, 10*time.Second)
	in.intact()
}

// fill writes a file until its disk is full.
func fill(t *testing.T, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// database returns the file of the store.
func (in *installation) database() string {
	in.t.Helper()
	entries, err := filepath.Glob(filepath.Join(in.dir, "*.db"))
	if err != nil || len(entries) != 1 {
		in.t.Fatalf("got databases %v (%v), want one", entries, err)
	}
	return entries[0]
}

// open opens the database of the store beside the server, or after it.
func (in *installation) open() *sql.DB {
	in.t.Helper()
	db, err := sql.Open("sqlite", "file:"+in.database()+"?_pragma=busy_timeout(5000)")
	if err != nil {
		in.t.Fatal(err)
	}
	in.t.Cleanup(func() { db.Close() })
	return db
}

// intact has SQLite check the whole database.
func (in *installation) intact() {
	in.t.Helper()
	db := in.open()
	defer db.Close()
	var verdict string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		in.t.Errorf("the database: got %q (%v), want ok", verdict, err)
	}
}

// TestASecondServerRefusesAndNamesTheFirst starts two on one data directory, and then one after the other was killed.
func TestASecondServerRefusesAndNamesTheFirst(t *testing.T) {
	t.Parallel()
	in := install(t)
	first := in.start("")
	quickest := time.Hour // of three, because this computer may have other things to do
	for range 3 {
		began := time.Now()
		second := in.launch("")
		status := second.wait(t, 10*time.Second)
		quickest = min(quickest, time.Since(began))
		if !status.Exited() || status.ExitStatus() == 0 {
			t.Errorf("the second server ended with %s, want an exit status that is not 0", describe(status))
		}
		if said := second.said(); !strings.Contains(said, fmt.Sprint(first.pid)) {
			t.Errorf("the second server said %q, want it to name the first, process %d", said, first.pid)
		}
	}
	if quickest > time.Second {
		t.Errorf("the second server refused after %v at best, want within 1s", quickest)
	}
	k := task{lines: 2, exit: taskExit}
	in.checkTask(in.submit(in.spec(k)).ID, k)
	first.kill(t)
	in.start("") // what the killed server left behind hinders nobody
	in.checkTask(in.submit(in.spec(k)).ID, k)
	in.empty()
}

// TestAStoreThatIsNotUnderstoodIsRefused spoils the database in several ways. A server that started nevertheless could
// lose jobs without a word.
func TestAStoreThatIsNotUnderstoodIsRefused(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		spoil func(t *testing.T, in *installation)
		says  string
	}{
		"its beginning was overwritten": {says: "database", spoil: func(t *testing.T, in *installation) {
			overwrite(t, in.database(), 0, 100)
		}},
		"its middle was overwritten": {says: "damaged", spoil: func(t *testing.T, in *installation) {
			info, err := os.Stat(in.database())
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, in.database(), 4096, info.Size()-4096)
		}},
		"it was made by a newer version": {says: "newer", spoil: func(t *testing.T, in *installation) {
			db := in.open()
			defer db.Close()
			if _, err := db.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, 1)"); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := install(t)
			s := in.start("")
			k := task{lines: 2, exit: taskExit}
			in.checkTask(in.submit(in.spec(k)).ID, k)
			in.empty()
			s.signal(t, syscall.SIGTERM)
			s.wait(t, 10*time.Second)
			c.spoil(t, in)
			before := read(t, in.database())

			s = in.launch("")
			status := s.wait(t, 10*time.Second)
			if !status.Exited() || status.ExitStatus() == 0 {
				t.Errorf("the server ended with %s, want an exit status that is not 0", describe(status))
			}
			said := s.said()
			if !strings.Contains(said, c.says) || !strings.Contains(said, filepath.Base(in.database())) || strings.Contains(said, "goroutine ") {
				t.Errorf("the server said %q, want a sentence with %q and the name of the file", said, c.says)
			}
			if read(t, in.database()) != before {
				t.Error("the server has changed a database that it does not understand")
			}
		})
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// overwrite puts something else in the place of a part of a file.
func overwrite(t *testing.T, file string, offset, size int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(strings.Repeat("\xa5", int(size))), offset); err != nil {
		t.Fatal(err)
	}
}

// TestALockHeldBySomebodyElseIsWaitedFor locks the database, as a backup tool could, while clients submit.
func TestALockHeldBySomebodyElseIsWaitedFor(t *testing.T) {
	t.Parallel()
	in := install(t)
	s := in.start("")
	db := in.open()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	k := task{lines: 2, exit: taskExit}
	running := in.submit(in.spec(task{lines: 100, exit: taskExit}))
	in.running(running.ID)
	if _, err := conn.ExecContext(t.Context(), "BEGIN EXCLUSIVE"); err != nil {
		t.Fatalf("locking the database: %v", err)
	}
	began := time.Now()
	answers := make(chan answer, 1)
	go func() { answers <- in.post("/v1/jobs", in.spec(k), "locked") }()
	pass(4 * time.Second)
	if _, err := conn.ExecContext(context.WithoutCancel(t.Context()), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	select {
	case a := <-answers:
		if a.err != nil || a.status/100 != 2 && a.status != http.StatusServiceUnavailable {
			t.Errorf("a submit while the database was locked: got %v, want the job or 503", a)
		}
		t.Logf("the submit was answered with %d after %v", a.status, time.Since(began))
	case <-time.After(20 * time.Second):
		t.Error("a submit while the database was locked was never answered")
	}
	select {
	case <-s.ended:
		t.Fatalf("the server did not survive the lock: %s", describe(s.status))
	default:
	}
	var again answer
	eventually(t, patience, "the submit is taken", func() error {
		if again = in.post("/v1/jobs", in.spec(k), "locked"); again.status/100 != 2 {
			return errors.New(again.String())
		}
		return nil
	})
	in.checkTask(again.ID, k)
	in.checkTask(running.ID, task{lines: 100, exit: taskExit})
	in.empty()
}

// TestAMachineThatNobodyKnowsIsRemoved takes the attempt of a machine out of the store. Nobody asks for that machine any
// more; that it is there can only be found by looking.
func TestAMachineThatNobodyKnowsIsRemoved(t *testing.T) {
	t.Parallel()
	in := install(t)
	restoreBackup(t, in)
	// The store has been through a later start than the machine's, so it does not look like a backup.
	db := in.open()
	if _, err := db.Exec("UPDATE installation SET epoch = 10"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	in.start("")
	findStray(t, in)
	in.quiet()
	eventually(t, 90*time.Second, "the machine is removed", func() error {
		if left := in.records(); len(left) > 0 {
			return fmt.Errorf("the provider still has %s", left[0].Name())
		}
		return nil
	})
	in.empty()
}

// TestAMachineThatABackupDoesNotKnowIsLeftAlone puts the store back to before a machine was made. What a store does not
// know because it is too old may be wanted, so a person gets time to put the right one back.
func TestAMachineThatABackupDoesNotKnowIsLeftAlone(t *testing.T) {
	t.Parallel()
	in := install(t)
	restoreBackup(t, in)
	s := in.start("")
	findStray(t, in)
	in.quiet()
	pass(45 * time.Second) // in which any other stray is removed
	if left := in.records(); len(left) != 1 {
		t.Errorf("the provider has %d machines, want the one that the backup does not know", len(left))
	}
	if said := s.said(); !strings.Contains(said, "restored from an older copy") {
		t.Errorf("the server said %q, want an alarm", said)
	}
}

// records returns what the provider remembers machines by.
func (in *installation) records() []os.DirEntry {
	in.t.Helper()
	records, err := os.ReadDir(filepath.Join(in.dir, "machines", "machines"))
	if err != nil {
		in.t.Fatal(err)
	}
	return records
}
