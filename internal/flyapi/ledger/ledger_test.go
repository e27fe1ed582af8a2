package ledger_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/flyapi/ledger"
)

func open(t *testing.T, path string) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(t.Context(), path)
	if err != nil {
		t.Fatalf("Open: got error %v", err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("Close: got error %v", err)
		}
	})
	return l
}

func commit(t *testing.T, l *ledger.Ledger, c *ledger.Change) {
	t.Helper()
	if err := l.Commit(t.Context(), "test", c); err != nil {
		t.Fatalf("Commit: got error %v", err)
	}
}

func load(t *testing.T, l *ledger.Ledger) *ledger.Content {
	t.Helper()
	content, err := l.Load(t.Context())
	if err != nil {
		t.Fatalf("Load: got error %v", err)
	}
	return content
}

func TestWhatIsCommittedIsThereAfterReopening(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fly.db")
	l := open(t, path)
	owner := l.Owner()
	commit(t, l, &ledger.Change{Apps: map[string][]byte{"a": []byte("1"), "b": []byte("2")}, Machines: map[string][]byte{"m": []byte("3")}})
	commit(t, l, &ledger.Change{Apps: map[string][]byte{"a": []byte("4")}, DropApps: []string{"b"}})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, path)
	if got := again.Owner(); got != owner || got == "" {
		t.Errorf("the owner: got %q, want %q as before", got, owner)
	}
	content := load(t, again)
	if len(content.Apps) != 1 || string(content.Apps["a"]) != "4" || string(content.Machines["m"]) != "3" {
		t.Errorf("got %q, want the app a as it was committed last, and the machine", content)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: got mode %v (%v), want 0600: configurations hold secrets", info.Mode(), err)
	}
}

func TestTheLastVersionsOfAConfigurationAreKept(t *testing.T) {
	t.Parallel()
	l := open(t, filepath.Join(t.TempDir(), "fly.db"))
	for n := range 30 {
		commit(t, l, &ledger.Change{
			Machines: map[string][]byte{"m": []byte("r")},
			Configs:  []ledger.Config{{Machine: "m", Version: fmt.Sprintf("%02d", n), Config: []byte{byte(n)}}},
		})
	}
	all, err := l.Configs(t.Context(), "m", "")
	if err != nil || len(all) != 25 || all[0].Version != "29" || all[24].Version != "05" {
		t.Errorf("all versions: got %d (%v), want the last 25, newest first", len(all), err)
	}
	one, err := l.Configs(t.Context(), "m", "20")
	if err != nil || len(one) != 1 || one[0].Config[0] != 20 {
		t.Errorf("one version: got %v, %v", one, err)
	}
	commit(t, l, &ledger.Change{DropMachines: []string{"m"}})
	if left, err := l.Configs(t.Context(), "m", ""); err != nil || len(left) != 0 {
		t.Errorf("versions of a machine that is dropped: got %v, %v, want none", left, err)
	}
}

func TestCommitsOfManyAtOnceAreAllCarriedOut(t *testing.T) {
	t.Parallel()
	l := open(t, filepath.Join(t.TempDir(), "fly.db"))
	var all sync.WaitGroup
	for n := range 50 {
		all.Go(func() {
			for m := range 10 {
				if err := l.Commit(t.Context(), "test", &ledger.Change{Machines: map[string][]byte{fmt.Sprint(n, "-", m): []byte("r")}}); err != nil {
					t.Errorf("Commit: got error %v", err)
				}
			}
		})
	}
	all.Wait()
	if got := len(load(t, l).Machines); got != 500 {
		t.Errorf("machines: got %d, want 500", got)
	}
}

func TestAClosedLedgerRefuses(t *testing.T) {
	t.Parallel()
	l := open(t, filepath.Join(t.TempDir(), "fly.db"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(t.Context(), "test", &ledger.Change{}); fault.Of(err) != fault.Unavailable {
		t.Errorf("Commit: got %v, want unavailable", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Commit(ctx, "test", &ledger.Change{}); fault.Of(err) != fault.Canceled {
		t.Errorf("Commit of a canceled caller: got %v, want canceled", err)
	}
}

func TestAFileThatIsNoLedgerIsRefusedAndLeftAsItIs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := filepath.Join(dir, "other.db")
	db, err := sql.Open("sqlite", other)
	if err == nil {
		_, err = db.Exec(`CREATE TABLE t (a)`)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(dir, "text.db")
	if err := os.WriteFile(text, []byte("this is no database, however long one looks at it, and never was"), 0o600); err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(dir, "newer.db")
	if l, err := ledger.Open(t.Context(), newer); err != nil {
		t.Fatal(err)
	} else if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	db, err = sql.Open("sqlite", newer)
	if err == nil {
		_, err = db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)`)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]fault.Kind{
		other: {fault.Invalid}, text: {fault.Invalid}, newer: {fault.Unsupported}, dir: {fault.Unavailable},
	} {
		before, _ := os.ReadFile(path) // a folder cannot be read
		_, err := ledger.Open(t.Context(), path)
		if !slices.Contains(want, fault.Of(err)) {
			t.Errorf("%s: got %v, want an error of kind %v", filepath.Base(path), err, want)
		}
		if after, _ := os.ReadFile(path); path != newer && string(after) != string(before) {
			t.Errorf("%s: it was changed", filepath.Base(path))
		}
	}
}
