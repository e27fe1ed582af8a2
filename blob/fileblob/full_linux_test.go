package fileblob_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
)

// TestAFullDiskIsReportedAndLeavesNothing runs itself again in a mount namespace of its own with a tiny file system.
func TestAFullDiskIsReportedAndLeavesNothing(t *testing.T) {
	const variable = "FILEBLOB_TEST_TINY"
	if dir := os.Getenv(variable); dir != "" {
		fillDisk(t, dir)
		return
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c",
		`mount -t tmpfs -o size=512k none "$0" && exec "$1" -test.v -test.run="^$2\$"`, t.TempDir(), os.Args[0], t.Name())
	cmd.Env = append(os.Environ(), variable+"="+cmd.Args[3])
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "=== RUN") {
		t.Skipf("this kernel allows no mount namespace: %v: %s", err, out)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("on a tiny disk: %v\n%s", err, out)
	}
}

func fillDisk(t *testing.T, dir string) {
	s := openStore(t, dir)
	if _, err := s.Put(t.Context(), "small", strings.NewReader("here before"), nil); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"large", "small"} {
		if _, err := s.Put(t.Context(), key, bytes.NewReader(make([]byte, 1<<20)), nil); fault.Of(err) != fault.StoreFull {
			t.Errorf("Put of more than the disk holds: got %v, want fault.StoreFull", err)
		}
	}
	if files, _ := filesIn(t, dir); len(files) != 1 {
		t.Errorf("on the full disk there is %q, want the first object alone", files)
	}
	r, err := s.Get(t.Context(), "small", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if data, err := io.ReadAll(r); err != nil || string(data) != "here before" {
		t.Errorf("the first object reads %q, %v", data, err)
	}
	if _, err := s.Put(t.Context(), "fits", bytes.NewReader(make([]byte, 100<<10)), nil); err != nil {
		t.Errorf("Put of what fits, after a full disk: %v", err)
	}
}
