//go:build linux

package survival_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// osProcess is a process as /proc shows it.
type osProcess struct {
	pid, parent int
	state       string // R, S, D, T, Z …
	program     string // the file it executes; "" for one that has ended
	command     string // its arguments
}

func (p osProcess) String() string { return fmt.Sprintf("%d (%s, %s)", p.pid, p.command, p.state) }

// lookAt reads one process. ok is false if there is none.
func lookAt(pid int) (p osProcess, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p, false
	}
	// The name is in parentheses and may hold any character, so what follows it is found from the end.
	_, rest, _ := strings.Cut(string(stat), "(")
	name, rest := rest[:strings.LastIndex(rest, ")")], rest[strings.LastIndex(rest, ")")+1:]
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return p, false
	}
	p.pid, p.state, p.command = pid, fields[0], name
	p.parent, _ = strconv.Atoi(fields[1])
	p.program, _ = os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(line) > 0 {
		p.command = strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
	}
	return p, true
}

// below returns all descendants of the processes.
func below(roots ...int) []osProcess {
	children := map[int][]osProcess{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if p, ok := lookAt(pid); ok {
			children[p.parent] = append(children[p.parent], p)
		}
	}
	var found []osProcess
	for len(roots) > 0 {
		next := children[roots[0]]
		roots = roots[1:]
		for _, p := range next {
			found = append(found, p)
			roots = append(roots, p.pid)
		}
	}
	return found
}

// peakMemory returns the largest resident set that a process has ever had, in bytes.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("process %d has no VmHWM", pid)
	return 0
}
