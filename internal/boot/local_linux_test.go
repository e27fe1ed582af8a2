package boot_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
)

// newLocal returns a provider of this program's own whose state is the test's own, too.
func newLocal(t *testing.T, place string) *local.Provider {
	t.Helper()
	p, err := boot.LocalIn([]string{place}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("got %v, want a provider that can be closed", err)
		}
	})
	return p
}

// place returns a directory for state, in which nothing runs when the test has ended.
func place(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Only a supervisor whose directory is gone goes at once.
		if err := os.RemoveAll(dir); err != nil {
			t.Logf("a supervisor is still at work: %v", err)
		}
		eventually(t, "the supervisors to end", func() bool { return len(processesWith(t, dir)) == 0 })
	})
	return dir
}

// processesWith returns the command lines of processes that mention the text in theirs.
func processesWith(t *testing.T, text string) (found []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil && strings.Contains(string(line), text) {
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30s in vain for %s", what)
		}
		<-tick.C
	}
}

// specOf describes a machine that runs this test binary.
func specOf(role string, args ...string) *machine.Spec {
	return &machine.Spec{
		Name: "b-" + strings.ToLower(rand.Text()[:10]), Owner: "boot-test", Lifetime: time.Minute,
		Program: &machine.Program{File: machine.ThisProgram, Args: args},
		Env:     map[string]string{roleVariable: role, "CODE": "42"},
	}
}

func TestAProgramIsItsOwnSupervisorAndItsOwnMachine(t *testing.T) {
	t.Parallel()
	p := newLocal(t, place(t))
	m, err := p.Create(t.Context(), specOf("say", "one", "two words"))
	if err != nil {
		t.Fatalf("Create: got error %v, want a machine", err)
	}
	eventually(t, "the machine to exit", func() bool {
		m, err = p.Get(t.Context(), m.ID)
		return err == nil && m.State == machine.Exited
	})
	var out, errs bytes.Buffer
	if err := p.Logs(t.Context(), m.ID, false, &out, &errs); err != nil {
		t.Errorf("Logs: got error %v, want none", err)
	}
	if m.Exit.Code != 42 || out.String() != "one|two words\n" {
		t.Errorf("got exit %+v, output %q and %q, want status 42 and one|two words", m.Exit, out.String(), errs.String())
	}
	if err := p.Destroy(t.Context(), m.ID); err != nil {
		t.Errorf("Destroy: got error %v, want none", err)
	}
}

func TestProcessesOfOneProgramShareTheirMachines(t *testing.T) {
	t.Parallel()
	dir := place(t)
	first, second := newLocal(t, dir), newLocal(t, dir)
	m, err := first.Create(t.Context(), specOf("say"))
	if err != nil {
		t.Fatalf("Create: got error %v, want a machine", err)
	}
	if list, err := second.List(t.Context(), "boot-test"); err != nil || len(list) != 1 || list[0].ID != m.ID {
		t.Errorf("List by another: got %v and error %v, want the one machine", list, err)
	}
}

func TestAnotherProgramHasItsStateElsewhere(t *testing.T) {
	t.Parallel()
	dir := place(t)
	newLocal(t, dir)
	copied := filepath.Join(t.TempDir(), "Another Program")
	self, err := os.ReadFile(machine.ThisProgram)
	if err == nil {
		err = os.WriteFile(copied, self, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	run := func() {
		cmd := exec.CommandContext(t.Context(), copied)
		cmd.Env = []string{roleVariable + "=local", "PLACE=" + dir}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("another program: got %v, want success\n%s", err, out)
		}
	}
	run()
	dirs, err := filepath.Glob(filepath.Join(dir, "another-program-*"))
	if all, _ := os.ReadDir(dir); err != nil || len(dirs) != 1 || len(all) != 2 {
		t.Fatalf("got the directories %v (%d in all) and error %v, want one of the other program beside this one's", dirs, len(all), err)
	}

	// Nobody comes back for a directory whose program is gone, as go run and go test leave it.
	if err := os.Remove(copied); err != nil {
		t.Fatal(err)
	}
	newLocal(t, dir)
	if _, err := os.Stat(dirs[0]); err != nil {
		t.Errorf("the directory of a program that is gone since a moment ago: got %v, want it to be there", err)
	}
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(filepath.Join(dirs[0], "program"), old, old); err != nil {
		t.Fatal(err)
	}
	newLocal(t, dir)
	if _, err := os.Stat(dirs[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory of a program that is long gone: got %v, want that it is removed", err)
	}
}

func TestADirectoryThatOthersMayWriteToIsNotUsed(t *testing.T) {
	t.Parallel()
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := boot.LocalIn([]string{open}, nil); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), open) {
		t.Errorf("LocalIn a directory for all: got error %v, want fault.Unavailable that names %s", err, open)
	}
	good := place(t)
	p, err := boot.LocalIn([]string{open, good}, nil)
	if err != nil {
		t.Fatalf("LocalIn with a second place: got error %v, want a provider", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(open); len(entries) != 0 {
		t.Errorf("got %v in the directory for all, want nothing", entries)
	}
}

func TestAProgramThatDoesNotCallHelpIsToldSo(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Args[1] = machine.Helper // and nothing that Help knows
	cmd.Env = []string{roleVariable + "=local", "PLACE=" + place(t)}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "dayfly.Main()") {
		t.Errorf("a helper that wants helpers: got %v and output %q, want a failure that names dayfly.Main()", err, out)
	}
}

func TestAHelperThatIsUnknownSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"fly"}, {"init"}, {"init", "--lifetime", "1s"}, {"supervise"}, {"supervise", "--dir", "/nowhere"}} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], append([]string{machine.Helper}, args...)...)
		if out, err := cmd.CombinedOutput(); err == nil || len(out) == 0 {
			t.Errorf("helper %v: got %v and output %q, want a failure with a sentence", args, err, out)
		}
	}
}
