package engine_test

import (
	"bytes"
	"database/sql"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
	"github.com/dayfly-run/dayfly/machine"
)

// backup copies the store while the engine runs, as a person would.
func (f *fleet) backup() (file string) {
	f.t.Helper()
	file = filepath.Join(f.t.TempDir(), "backup.db")
	db, err := sql.Open("sqlite", "file:"+f.file)
	if err != nil {
		f.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(f.t.Context(), "VACUUM INTO ?", file); err != nil {
		f.t.Fatalf("backing up: %v", err)
	}
	return file
}

// restore starts an engine on a backup in the store's place.
func (f *fleet) restore(backup string) {
	f.t.Helper()
	f.stop()
	if err := f.store.Close(); err != nil {
		f.t.Fatal(err)
	}
	for _, suffix := range []string{"-wal", "-shm"} {
		_ = os.Remove(f.file + suffix) // a store that was closed has none
	}
	content, err := os.ReadFile(backup)
	if err == nil {
		err = os.WriteFile(f.file, content, 0o600)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	db, err := sqlite.Open(f.t.Context(), f.file, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	f.store, f.options.Store = db, db
	f.start()
}

// inQuarantine returns how many entries of the ledger are in quarantine.
func (f *fleet) inQuarantine() int {
	f.t.Helper()
	rows, err := f.store.Machines(f.t.Context(), &store.MachineQuery{States: []store.MachineState{store.MachineQuarantined}, Limit: 10})
	if err != nil {
		f.t.Fatal(err)
	}
	return len(rows)
}

// journal keeps what an engine logs.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// take returns what was logged since it was called last.
func (j *journal) take() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer j.text.Reset()
	return j.text.String()
}

const alarm = "the store was restored from an older copy"

func TestARestoredBackupIsNoticedAndDestroysNothingForAWhile(t *testing.T) {
	t.Parallel()
	for name, restarts := range map[string]int{
		"a machine of the start in which the copy was made": 0,
		"a machine of the very next start":                  1,
		"a machine of a much later start":                   5,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				log := new(journal)
				f := newFleet(t, func(o *engine.Options) { o.Logger = slog.New(slog.NewTextHandler(log, nil)) })
				f.work = workFor(10 * time.Hour)
				wait(t.Context(), time.Second)
				backup := f.backup()
				for range restarts {
					f.restart()
					wait(t.Context(), time.Second)
				}
				f.submit(nil)
				wait(t.Context(), time.Second)
				if n := len(f.cloud.Machines()); n != 1 {
					t.Fatalf("there are %d machines, want 1", n)
				}
				log.take()

				f.restore(backup)
				wait(t.Context(), 2*time.Minute)
				if said := log.take(); strings.Count(said, alarm) != 1 {
					t.Errorf("the log says %q, want one alarm", said)
				}
				if machines, strays := len(f.cloud.Machines()), f.inQuarantine(); machines != 1 || strays != 1 {
					t.Errorf("two minutes later there are %d machines and %d in quarantine, want 1 and 1", machines, strays)
				}
				// Restarts raise the epoch until it says nothing any more.
				for range 3 {
					f.restart()
					wait(t.Context(), 14*time.Minute)
					if n := len(f.cloud.Machines()); n != 1 {
						t.Fatalf("after a restart there are %d machines, want 1", n)
					}
				}
				f.settled(3 * time.Minute)
			})
		})
	}
}

func TestAMachineOfAnEarlierStartThatTheStoreDoesNotKnowIsAStray(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		log := new(journal)
		f := newFleet(t, func(o *engine.Options) { o.Logger = slog.New(slog.NewTextHandler(log, nil)) })
		f.work = workFor(2 * time.Minute)
		job := f.submit(nil)
		for range 2 {
			wait(t.Context(), time.Second)
			f.restart()
		}
		f.stranger(f.cloud.Machines()[0].Owner, "1") // of the first start, while 2 was stored before this one
		check(t, f.finished(job.ID, time.Hour), dayfly.Succeeded, "", 1)
		f.settled(10 * time.Second)
		if said := log.take(); strings.Contains(said, alarm) {
			t.Errorf("the log says %q, want no alarm", said)
		}
	})
}

// stranger makes a machine of an attempt that the store does not know.
func (f *fleet) stranger(owner, epoch string) *machine.Machine {
	f.t.Helper()
	m, err := f.cloud.Connect().Create(f.t.Context(), &machine.Spec{
		Name: "stranger", Owner: owner, Lifetime: 24 * time.Hour, Command: []string{"sleep"},
		Labels: map[string]string{"attempt": "att_unknown", "epoch": epoch},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}

func TestAStrayThatEndsByItselfIsForgotten(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = workFor(3 * time.Minute)
		job := f.submit(nil)
		wait(t.Context(), time.Second)
		m := f.stranger(f.cloud.Machines()[0].Owner, "7")
		wait(t.Context(), 30*time.Second)
		if n := f.inQuarantine(); n != 1 {
			t.Fatalf("%d machines are in quarantine, want 1", n)
		}
		f.cloud.Vanish(m.ID)
		wait(t.Context(), time.Minute)
		if n := f.inQuarantine(); n != 0 {
			t.Errorf("%d machines are in quarantine after the only one has vanished, want none", n)
		}
		check(t, f.finished(job.ID, 2*time.Hour), dayfly.Succeeded, "", 1)
	})
}
