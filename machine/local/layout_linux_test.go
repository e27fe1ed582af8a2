package local_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
)

func TestAnIDThatALossOfPowerTookIsMadeAnewAndForgetsNoMachine(t *testing.T) {
	for name, left := range map[string]string{"Empty": "", "FullOfZeros": strings.Repeat("\x00", 8)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := newDir(t)
			first := newProvider(t, dir, false)
			create(t, first, newSpec("before", "exit 3"))
			if exit := exited(t, first, "before").Exit; exit.Code != 3 {
				t.Fatalf("got %+v, want code 3", exit)
			}
			endSupervisors(t, dir) // The loss of power has ended everything.
			if err := os.WriteFile(filepath.Join(dir, "id"), []byte(left), 0o600); err != nil {
				t.Fatal(err)
			}

			second := newProvider(t, dir, false)
			if m, err := second.Get(t.Context(), "before"); err != nil || m.State != machine.Exited || m.Exit.Code != 3 {
				t.Errorf("got %+v, %v, want the machine from before and its exit code 3", m, err)
			}
			create(t, second, newSpec("after", "exit 4"))
			if exit := exited(t, second, "after").Exit; exit.Code != 4 {
				t.Errorf("got %+v, want code 4", exit)
			}
			if id, err := os.ReadFile(filepath.Join(dir, "id")); err != nil || len(strings.Trim(string(id), "\x00")) != 8 {
				t.Errorf("got %q, %v, want an id of eight characters", id, err)
			}
		})
	}
}

func TestAllProcessesAgreeOnTheIDThatOneOfThemMakes(t *testing.T) {
	t.Parallel()
	for _, left := range []string{"nothing", "an empty file"} {
		dir := t.TempDir()
		if left == "an empty file" {
			if err := os.WriteFile(filepath.Join(dir, "id"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var all sync.WaitGroup
		var got [16]string
		for i := range got {
			all.Go(func() {
				var err error
				if got[i], err = local.Prefix(dir); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for _, prefix := range got {
			if prefix != got[0] || len(prefix) != len("dayfly-")+8 {
				t.Fatalf("from %s: got %q, want the same prefix from everybody", left, got)
			}
		}
	}
}

func TestAnIDThatSomebodyHasChangedIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "id"), []byte("12345678\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if prefix, err := local.Prefix(dir); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "put back") {
		t.Errorf("got %q, %v, want an error that says what to do", prefix, err)
	}
}
