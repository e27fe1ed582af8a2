package sqlite_test

import (
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
	"github.com/dayfly-run/dayfly/internal/store/storetest"
)

// TestStore runs the suite that every store passes.
func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, harness())
}

// harness makes stores in folders of their own and remembers where they are.
func harness() storetest.Harness {
	var paths sync.Map
	open := func(t testing.TB, path string) store.Store {
		t.Helper()
		s, err := sqlite.Open(t.Context(), path, nil)
		if err != nil {
			t.Fatal(err)
		}
		paths.Store(s, path)
		return s
	}
	return storetest.Harness{
		New: func(t testing.TB) store.Store { return open(t, t.TempDir()+"/store.db") },
		Reopen: func(t testing.TB, s store.Store) store.Store {
			t.Helper()
			path, _ := paths.LoadAndDelete(s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, path.(string))
		},
	}
}
