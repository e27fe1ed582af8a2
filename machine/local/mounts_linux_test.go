package local_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/dayfly-run/dayfly/machine/local"
)

// newPrecious returns a directory with a file in it that must outlive what is mounted of it, and that file.
func newPrecious(t *testing.T) (dir, file string) {
	t.Helper()
	dir = t.TempDir()
	file = filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, file
}

// mount mounts as the arguments say until the test ends, or skips the test.
func mount(t *testing.T, source, target, kind string, flags uintptr) {
	t.Helper()
	if err := syscall.Mount(source, target, kind, flags, ""); err != nil {
		t.Skipf("this user cannot mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
}

// wantNoMounts fails if something is mounted below a directory.
func wantNoMounts(t *testing.T, dir string) {
	t.Helper()
	list, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		if strings.Contains(line, dir+"/") {
			t.Errorf("got %s, want nothing mounted below the state directory", strings.TrimSpace(line))
		}
	}
}

func wantNoTrash(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(filepath.Join(dir, "trash")); err != nil || len(left) != 0 {
		t.Errorf("got %v, %v in the trash, want nothing", left, err)
	}
}

func TestWhatAMachineHasMountedIsDetachedAndNotRemoved(t *testing.T) {
	t.Parallel()
	precious, file := newPrecious(t)
	mount(t, precious, precious, "", syscall.MS_BIND) // shows that this user can
	p := newProvider(t, newDir(t), false)
	bind := fmt.Sprintf("mount --bind %s ", precious)
	scripts := map[string]string{
		"in-a-directory":        `mkdir m && ` + bind + `m`,
		"twice":                 `mkdir -p m && ` + bind + `m && mkdir m/sub && ` + bind + `m && ` + bind + `m/sub`,
		"on-a-strange-name":     `name="$(printf 'a b\tc\\d\ne#é')"; mkdir "$name" && ` + bind + `"$name"`,
		"on-work-itself":        bind + `"$PWD"`,
		"on-tmp":                bind + `"$TMPDIR"`,
		"on-the-slot":           bind + `"$(dirname "$PWD")"`,
		"a-file":                `touch f && mount --bind ` + file + ` f`,
		"below-what-is-covered": `mkdir -p m/x && ` + bind + `m/x && mount -t tmpfs none m && ` + bind + `m`,
	}
	for name, script := range scripts {
		m := create(t, p, newSpec(name, script))
		if exit := exited(t, p, m.ID).Exit; !exit.OK() {
			t.Errorf("%s: got %+v, want success", name, exit)
		}
		if err := p.Destroy(t.Context(), m.ID); err != nil {
			t.Errorf("%s: got %v, want the machine destroyed", name, err)
		}
		if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
			t.Fatalf("%s: got %q, %v, want what was mounted to be left alone", name, text, err)
		}
		wantNoMounts(t, p.dir)
		wantNoTrash(t, p.dir)
	}
	if exit := outcome(t, p, newSpec("next", "touch a && mkdir b")); !exit.OK() {
		t.Errorf("got %+v of the next machine, want success", exit)
	}
}

func TestWhatAMachineOfADeadSupervisorHasMountedIsDetached(t *testing.T) {
	t.Parallel()
	precious, file := newPrecious(t)
	mount(t, precious, precious, "", syscall.MS_BIND) // shows that this user can
	p := newProvider(t, newDir(t), false)
	m := create(t, p, newSpec("m", fmt.Sprintf("mkdir m && mount --bind %s m && echo $$ > pid; exec sleep 1000", precious)))
	readID(t, filepath.Join(p.dir, "supervisors", "1", "slots", "1", "work", "pid"))
	signalSupervisor(t, p.dir, 1, syscall.SIGKILL)
	exited(t, p, m.ID)
	if err := p.Destroy(t.Context(), m.ID); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("got %q, %v, want what was mounted to be left alone", text, err)
	}
	wantNoMounts(t, p.dir)
	wantNoTrash(t, p.dir)
}

func TestATreeThatIsBoundWithItsMountsKeepsThem(t *testing.T) {
	t.Parallel()
	// Shared, as all mounts are on a computer with systemd: then what happens to the copy happens to the tree.
	tree := t.TempDir()
	mount(t, "none", tree, "tmpfs", 0)
	if err := syscall.Mount("", tree, "", syscall.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	sub := filepath.Join(tree, "sub")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	mount(t, "none", sub, "tmpfs", 0)
	file := filepath.Join(sub, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newProvider(t, newDir(t), false)
	m := create(t, p, newSpec("m", fmt.Sprintf("mkdir m && mount --rbind %s m", tree)))
	if exit := exited(t, p, m.ID).Exit; !exit.OK() {
		t.Errorf("got %+v, want success", exit)
	}
	if err := p.Destroy(t.Context(), m.ID); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("got %q, %v, want the mount in the tree to be left alone", text, err)
	}
	wantNoMounts(t, p.dir)
}

func TestWhatCannotBeDetachedIsNotRemoved(t *testing.T) {
	t.Parallel()
	precious, file := newPrecious(t)
	dir := t.TempDir()
	held, free := filepath.Join(dir, "trash", "held"), filepath.Join(dir, "trash", "free")
	for _, d := range []string{filepath.Join(held, "m"), filepath.Join(free, "m")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	mount(t, precious, filepath.Join(held, "m"), "", syscall.MS_BIND)
	// Nobody may detach what was mounted before his user namespace was made.
	child := exec.Command(os.Args[0], "empty-trash", dir)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids, Pdeathsig: syscall.SIGKILL,
	}
	said, err := child.CombinedOutput()
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOSPC) {
		t.Skipf("this kernel allows no mount namespace: %v", err)
	}
	if err == nil || !strings.Contains(string(said), filepath.Join(held, "m")) {
		t.Errorf("got %v and %q, want a failure that names the mount", err, said)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("got %q, %v, want what is mounted to be left alone", text, err)
	}
	if _, err := os.Stat(free); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want the rest of the trash to be removed", err)
	}
	// Later, by somebody who may.
	if err := local.EmptyTrash(dir); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("got %q, %v, want what was mounted to be left alone", text, err)
	}
	wantNoTrash(t, dir)
}
