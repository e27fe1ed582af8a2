package process

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The brake keeps a tree that forks without end from taking the computer down: all groups of one prefix together may
// have so many processes and threads and no more. A group whose size says how many it may have is held to that as well,
// in a cgroup of its own; the brake is for those that do not say, and must cost a short process nothing:
//
//	version 2  the prefix directory has a pids.max, which counts for everything below it
//	version 1  the threads that fork live in the prefix directory, so what they fork is born there
//	neither    each process is given an RLIMIT_NPROC that leaves room for so many more than there are
//
// The last is a weaker brake: the kernel counts all processes of the user then, and does not hold root to it.

// defaultBrake is how many processes and threads all groups may have together: half of the process ids there are, and
// no more than a quarter of what the kernel thinks that memory suffices for.
func defaultBrake() int {
	most := math.MaxInt32
	for file, share := range map[string]int{"/proc/sys/kernel/pid_max": 2, "/proc/sys/kernel/threads-max": 4} {
		text, _ := readFile(file)
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			most = min(most, n/share)
		}
	}
	return max(most, 64)
}

// setBrake writes the limit of the prefix directory, which exists.
func (h *Host) setBrake(t *hierarchy) {
	if err := writeFile(t.dir+"/pids.max", strconv.Itoa(h.brake)); err != nil {
		h.log.Warn("the number of processes of all machines together cannot be limited", "directory", t.dir, "err", err)
	}
}

// rest puts a thread that forks where it is while it starts nothing, and returns the directory, with how to leave it
// for good. Only in a version 1 hierarchy of pids is that another one than where this program is.
func (h *Host) rest(thread string) (dir string, leave func()) {
	t := h.trees.limits["pids"]
	if t == nil || t.version != 1 {
		return "", func() {}
	}
	err := os.MkdirAll(t.dir, 0o700)
	if err == nil {
		h.setBrake(t)
		err = writeFile(t.dir+"/tasks", thread)
	}
	if err != nil {
		h.log.Warn("the number of processes of all machines together cannot be limited", "directory", t.dir, "err", err)
		return "", func() {}
	}
	return t.dir, func() { _ = writeFile(t.home+"/tasks", thread) } // or it is there until it ends, in a moment
}

// roomFor returns the RLIMIT_NPROC for a process of the group, which leaves room for as many processes and threads as
// the group may have beside all that there are on this computer, whosever they are. ok is false where a cgroup limits
// them, or where the user may not have as many anyway.
func (g *Group) roomFor() (limit uint64, ok bool) {
	if g.host.trees.limits["pids"] != nil {
		return 0, false
	}
	more := g.size.Processes
	if more == 0 {
		more = g.host.brake
	}
	var present int
	text, err := readFile("/proc/loadavg") // such as "0.12 0.34 0.56 2/345 6789": two of 345 run
	if err == nil {
		_, err = fmt.Sscanf(string(text), "%f %f %f %d/%d", new(float64), new(float64), new(float64), new(int), &present)
	}
	var own unix.Rlimit
	if err != nil || unix.Getrlimit(unix.RLIMIT_NPROC, &own) != nil {
		return 0, false
	}
	limit = uint64(present + more)
	return limit, limit < own.Cur
}
