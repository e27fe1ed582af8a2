package joblog_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// TestAFullDiskLosesNothingThatWasStored runs itself again in a mount namespace of its own with a tiny file system.
func TestAFullDiskLosesNothingThatWasStored(t *testing.T) {
	if dir := os.Getenv("JOBLOG_TEST_TINY"); dir != "" {
		fillDisk(t, dir)
		return
	}
	t.Parallel()
	runOnTinyDisk(t, "JOBLOG_TEST_TINY")
}

func runOnTinyDisk(t *testing.T, variable string) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c",
		`mount -t tmpfs -o size=256k none "$0" && exec "$1" -test.v -test.run="^$2\$"`, dir, os.Args[0], t.Name())
	cmd.Env = append(os.Environ(), variable+"="+dir)
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
	s := open(t, dir, nil)
	data := strings.Repeat("x", 100<<10)
	var at int64
	for {
		stored, err := s.Append(attempt, chunk(wire.Stdout, at, data), 0)
		if err != nil {
			if fault.Of(err) != fault.StoreFull || stored != at {
				t.Fatalf("Append on a full disk: got %d, %v; want %d, fault.StoreFull", stored, err, at)
			}
			break
		}
		if at = stored; at > 1<<20 {
			t.Fatal("a disk of 256 KiB took more than 1 MiB")
		}
	}
	if _, err := s.Append("att_other", chunk(wire.Stdout, 0, data), 0); fault.Of(err) != fault.StoreFull {
		t.Errorf("Append to a new attempt on a full disk: got %v, want fault.StoreFull", err)
	}
	wantLengths(t, s, at, 0)
	mustAppend(t, s, chunk(wire.Stdout, at, "a little fits"), 0, at+13)
	again := open(t, dir, nil)
	wantLengths(t, again, at+13, 0)
}
