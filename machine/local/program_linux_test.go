package local_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/dayfly-run/dayfly/machine/local"
)

func TestANewerProgramGetsASupervisorOfItsOwn(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false)
	release := filepath.Join(t.TempDir(), "release")
	create(t, p, newSpec("old", fmt.Sprintf("while [ ! -e %s ]; do sleep 0.01; done; exit 3", release)))
	newer := filepath.Join(t.TempDir(), "newer")
	copyFile(t, os.Args[0], newer)
	second := newProviderWith(t, p.dir, false, func(o *local.Options) { o.Supervisor = []string{newer, "supervise"} })
	create(t, second, newSpec("new", "exec sleep 1000"))
	if !isSupervisor(supervisorID(t, p.dir, 2), p.dir) {
		t.Error("the machine of the newer program went to the older one's supervisor")
	}
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if exit := exited(t, second, "old").Exit; exit.Code != 3 {
		t.Errorf("got %+v, want code 3", exit)
	}
	eventually(t, "the older supervisor has ended", func() bool { return !isSupervisor(supervisorID(t, p.dir, 1), p.dir) })
}

func TestAProgramThatIsReplacedBesideItsProviderIsStarted(t *testing.T) {
	t.Parallel()
	beside := filepath.Join(t.TempDir(), "beside")
	copyFile(t, os.Args[0], beside)
	p := newProviderWith(t, newDir(t), false, func(o *local.Options) { o.Supervisor = []string{beside, "supervise"} })
	replace := func() {
		t.Helper()
		copyFile(t, os.Args[0], beside+".new") // has another time of modification
		if err := os.Rename(beside+".new", beside); err != nil {
			t.Fatal(err)
		}
	}
	replace() // before there is any supervisor
	old := create(t, p, newSpec("old", "exec sleep 1000"))

	replace() // while one runs, and dies later
	create(t, p, newSpec("meanwhile", "true"))
	if _, err := os.Stat(filepath.Join(p.dir, "supervisors", "2")); err == nil {
		t.Error("got a second supervisor while the first answers, want the first to be used")
	}
	signalSupervisor(t, p.dir, 1, syscall.SIGKILL)
	exited(t, p, old.ID)
	create(t, p, newSpec("new", "exec sleep 1000"))
	create(t, p, newSpec("another", "exec sleep 1000"))

	// A provider that comes later finds the same program and starts no other supervisor.
	second := newProviderWith(t, p.dir, false, func(o *local.Options) { o.Supervisor = []string{beside, "supervise"} })
	create(t, second, newSpec("shared", "true"))
	if _, err := os.Stat(filepath.Join(p.dir, "supervisors", "3")); err == nil {
		t.Error("got a third supervisor, want the second to be used by everybody")
	}
}

func TestAProgramThatIsReplacedWhileItIsStartedIsUsed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link, script := filepath.Join(dir, "link"), filepath.Join(dir, "script")
	text := fmt.Sprintf("#!/bin/sh\nln -s %s %s.new && mv %s.new %s && exec %s \"$@\"\n", os.Args[0], link, link, link, link)
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(script, link); err != nil {
		t.Fatal(err)
	}
	p := newProviderWith(t, newDir(t), false, func(o *local.Options) { o.Supervisor = []string{link, "supervise"} })
	create(t, p, newSpec("m", "true"))
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	// A process that another test starts in this moment would have the file open for writing, until it executes its own program, and
	// nobody can execute this one as long.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
