package local_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/machine"
)

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			t.Fatalf("after 20 s it is still not so that %s", what)
		case <-tick.C:
		}
	}
}

// alive reports whether the process runs; a zombie does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// supervisorID returns the process id of a supervisor.
func supervisorID(t *testing.T, dir string, number int) int {
	t.Helper()
	var info struct {
		PID int `json:"pid"`
	}
	text, err := os.ReadFile(filepath.Join(dir, "supervisors", strconv.Itoa(number), "info.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &info); err != nil {
		t.Fatal(err)
	}
	return info.PID
}

// isSupervisor reports whether a process is a supervisor of the state directory.
func isSupervisor(pid int, dir string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Contains(line, []byte("supervise\x00")) && bytes.Contains(line, []byte(dir+"/")) && alive(pid)
}

// endSupervisors ends what a test has left running of a state directory, and fails if machines are left then.
func endSupervisors(t *testing.T, dir string) {
	entries, err := os.ReadDir(filepath.Join(dir, "supervisors"))
	if err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
	var pids []int
	for _, e := range entries {
		number, _ := strconv.Atoi(e.Name())
		if _, err := os.Stat(filepath.Join(dir, "supervisors", e.Name(), "info.json")); err != nil {
			continue
		}
		// The id is only used if it is still that of a supervisor of this directory.
		if pid := supervisorID(t, dir, number); isSupervisor(pid, dir) {
			_ = syscall.Kill(pid, syscall.SIGTERM)
			_ = syscall.Kill(pid, syscall.SIGCONT)
			pids = append(pids, pid)
		}
	}
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("supervisor %d has ended", pid), func() bool { return !isSupervisor(pid, dir) })
	}
	for _, root := range cgroupRoots(t, dir) {
		if _, err := os.Stat(root); err == nil {
			groups, _ := filepath.Glob(root + "/*.*.*")
			t.Errorf("the cgroup %s is left, with %v", root, groups)
		}
	}
}

// cgroupRoots returns where the cgroups of a state directory are made on this computer.
func cgroupRoots(t *testing.T, dir string) []string {
	id, err := os.ReadFile(filepath.Join(dir, "id"))
	if err != nil {
		return nil
	}
	roots, err := filepath.Glob("/sys/fs/cgroup/*/dayfly-" + string(id))
	if err != nil {
		t.Error(err)
	}
	more, _ := filepath.Glob("/sys/fs/cgroup/dayfly-" + string(id))
	return append(roots, more...)
}

// newSpec returns a machine that runs a shell script.
func newSpec(name, script string) *machine.Spec {
	return &machine.Spec{
		Name:     name,
		Owner:    "tests",
		Lifetime: 10 * time.Minute,
		Command:  []string{"sh", "-c", script},
	}
}

// newAgentSpec returns a machine that is given to the test's guest.
func newAgentSpec(name, attempt string) *machine.Spec {
	s := newSpec(name, "")
	s.Command = nil
	s.Agent = &machine.Agent{URL: "http://127.0.0.1:1", Attempt: attempt, Token: "t"}
	return s
}

// create creates a machine that is destroyed when the test ends, by a provider of its own.
func create(t *testing.T, p *testProvider, spec *machine.Spec) *machine.Machine {
	t.Helper()
	m, err := p.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := p.Destroy(ctx, m.ID); err != nil {
			t.Errorf("got %v, want machine %s destroyed", err, m.ID)
		}
	})
	return m
}

// exited waits until a machine has ended and returns it.
func exited(t *testing.T, p *testProvider, id string) *machine.Machine {
	t.Helper()
	var m *machine.Machine
	eventually(t, "machine "+id+" has exited", func() bool {
		var err error
		if m, err = p.Get(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		return m.State == machine.Exited
	})
	return m
}

// readID waits for a file that holds a process id.
func readID(t *testing.T, file string) int {
	t.Helper()
	var pid int
	eventually(t, file+" holds a process id", func() bool {
		text, _ := os.ReadFile(file)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return pid > 0
	})
	return pid
}
