package sqlite_test

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
)

func TestASecondOpenerIsRefusedAtOnceAndToldWhoOwnsTheStore(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path := folder + "/store.db"
	s := open(t, path, &sqlite.Options{Command: "dayfly run", Passing: true})
	if err := s.SetOwnerURL("http://127.0.0.1:7000"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(folder, folder+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, folder + "/link/store.db", folder + "/./link/../store.db"} {
		start := time.Now()
		_, err := sqlite.Open(t.Context(), name, nil)
		if took := time.Since(start); took > time.Second {
			t.Errorf("%s was refused after %v, want at most 1s", name, took)
		}
		wantKind(t, "opening "+name, err, fault.Conflict)
		var owned *sqlite.OwnedError
		if !errors.As(err, &owned) {
			t.Fatalf("got %T, want *OwnedError", err)
		}
		if owned.Info.PID != os.Getpid() || owned.Info.URL != "http://127.0.0.1:7000" || owned.Info.Command != "dayfly run" || !owned.Info.Passing || owned.Info.Host == "" ||
			owned.Info.BootID == "" || time.Since(owned.Info.Opened) > time.Minute {
			t.Errorf("got owner %+v, want this process", owned.Info)
		}
		for _, part := range []string{"store.db", "process", "http://127.0.0.1:7000"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("got %q, want it to name %s", err, part)
			}
		}
	}
	info, err := sqlite.Owner(path)
	if err != nil || info.URL != "http://127.0.0.1:7000" || info.PID != os.Getpid() {
		t.Errorf("Owner returned %+v and error %v, want this process", info, err)
	}
}

// wantNoOwner checks that nobody has a store open. A process that another test forks has the files of this one, and so
// their locks, for the moment until it executes its program.
func wantNoOwner(t *testing.T, when, path string) {
	t.Helper()
	_, err := sqlite.Owner(path)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for patience := time.Now().Add(10 * time.Second); err == nil && time.Now().Before(patience); _, err = sqlite.Owner(path) {
		<-tick.C
	}
	wantKind(t, when+": the owner", err, fault.NotFound)
}

func TestAStoreThatIsClosedHasNoOwner(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/store.db"
	wantNoOwner(t, "a store that never was", path)
	closeStore(t, open(t, path, nil))
	wantNoOwner(t, "a closed store", path)
	open(t, path, nil)
}

func TestWhatADeadOwnerLeftBehindIsNotBelieved(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/store.db"
	closeStore(t, open(t, path, nil))
	// As after a reboot: the process id may be anybody's by now, even that of the one who asks.
	stale, err := json.Marshal(sqlite.OwnerInfo{PID: os.Getpid(), BootID: "another boot", Host: "here", URL: "http://gone"})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{".owner": string(stale), ".owner.new": `{"pid":`} {
		if err := os.WriteFile(path+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wantNoOwner(t, "an abandoned store", path)
	open(t, path, nil)
	info, err := sqlite.Owner(path)
	if err != nil || info.URL != "" || info.BootID == "another boot" {
		t.Errorf("Owner returned %+v and error %v, want this process with no URL yet", info, err)
	}
}

func TestAskingForTheOwnerKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/store.db"
	stop := make(chan struct{})
	var askers sync.WaitGroup
	for range 4 {
		askers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_, _ = sqlite.Owner(path)
				}
			}
		})
	}
	defer askers.Wait()
	defer close(stop)
	for range 10 {
		s, err := sqlite.Open(t.Context(), path, nil)
		if err != nil {
			t.Fatal(err)
		}
		closeStore(t, s)
	}
}
