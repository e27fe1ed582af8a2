package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ownCPU returns how much processor time this process has used, in user mode and in the kernel, without its children.
func ownCPU() time.Duration { return usedCPU(unix.RUSAGE_SELF) }

// childrenCPU returns how much processor time the children have used that this process has waited for.
func childrenCPU() time.Duration { return usedCPU(unix.RUSAGE_CHILDREN) }

func usedCPU(who int) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(who, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// tick is the unit of the times in /proc/PID/stat. It is the same on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// cpuOf returns how much processor time a process has used, and how much the children have used that it has waited for;
// 0 if it is gone.
func cpuOf(pid int) (own, children time.Duration) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	return parseCPU(data)
}

// parseCPU reads the times in /proc/PID/stat.
func parseCPU(stat []byte) (own, children time.Duration) {
	// The second field is the program's name in parentheses and may contain anything; what follows does not.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const first, count = 11, 4 // utime, stime, cutime, cstime
	if len(fields) < first+count {
		return 0, 0
	}
	var ticks [count]time.Duration
	for i := range ticks {
		n, _ := strconv.ParseInt(string(fields[first+i]), 10, 64) // the kernel writes nothing but numbers here
		ticks[i] = time.Duration(n) * tick
	}
	return ticks[0] + ticks[1], ticks[2] + ticks[3]
}

// memory is how much memory a process has in use, in KiB.
type memory struct {
	resident int64 // of it, in RAM now
	peak     int64 // the largest that resident has been
	private  int64 // of resident, what is not a page of a file
}

// memoryOf reads /proc/PID/status.
func memoryOf(pid int) (memory, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, fmt.Errorf("reading the memory use of process %d: %w", pid, err)
	}
	return parseMemory(string(data))
}

func parseMemory(status string) (memory, error) {
	var m memory
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		var into *int64
		switch name {
		case "VmRSS":
			into = &m.resident
		case "VmHWM":
			into = &m.peak
		case "RssAnon":
			into = &m.private
		default:
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return memory{}, fmt.Errorf("the line %q of a process status: %w", strings.TrimSpace(line), err)
		}
		*into = kib
	}
	if m.resident == 0 {
		return memory{}, fmt.Errorf("a process status without VmRSS: the process has ended")
	}
	return m, nil
}

// processesBelow returns the processes whose program or working directory is inside dir, this one excepted. Processes
// of other users are not seen, and none of ours is one.
func processesBelow(dir string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		for _, link := range []string{"exe", "cwd"} {
			target, err := os.Readlink(filepath.Join("/proc", entry.Name(), link))
			if err == nil && (target == dir || strings.HasPrefix(target, dir+"/")) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

// describeMachine returns what can be read of the machine that this runs on.
func describeMachine() Machine {
	m := Machine{OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), Go: runtime.Version()}
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load = strings.Join(strings.Fields(string(data))[:3], " ")
	}
	m.CPU = firstValue("/proc/cpuinfo", "model name")
	if kib, err := strconv.ParseInt(strings.TrimSuffix(firstValue("/proc/meminfo", "MemTotal"), " kB"), 10, 64); err == nil {
		m.MemoryMB = kib / 1024
	}
	return m
}

// firstValue returns the value of the first "name: value" line of a file, or "".
func firstValue(file, name string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
