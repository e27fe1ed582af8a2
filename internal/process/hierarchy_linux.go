package process

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// hierarchy is one cgroup file system, with the directory in it under which a host's groups are made.
type hierarchy struct {
	dir         string // PARENT/PREFIX
	version     int
	controllers []string // what groups under dir can be limited in
	home        string   // version 1: the directory of the cgroup this process is in
}

func (t *hierarchy) group(name string) cgroup {
	return cgroup{path: t.dir + "/" + name, version: t.version}
}

// hierarchies are those of one computer that can be used.
type hierarchies struct {
	kill   *hierarchy            // holds and ends every group; nil: none can be written to
	limits map[string]*hierarchy // by controller: "memory", "pids", "cpu"
	why    []string              // what is missing, in sentences
}

// all returns each hierarchy once, the one that kills first.
func (h *hierarchies) all() []*hierarchy {
	var all []*hierarchy
	if h.kill != nil {
		all = append(all, h.kill)
	}
	for _, controller := range controllers() {
		if t := h.limits[controller]; t != nil && !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	return all
}

func controllers() []string { return []string{"memory", "pids", "cpu"} }

// discover finds the cgroup hierarchies that groups under a directory named prefix can be made in.
func discover(prefix string) hierarchies {
	found := hierarchies{limits: map[string]*hierarchy{}}
	mounts, err := cgroupMounts()
	if err != nil {
		found.why = []string{fmt.Sprintf("The cgroup mounts cannot be read: %v.", err)}
		return found
	}
	var trees []*hierarchy
	for _, m := range mounts {
		if m.version == 2 && !forksIntoCgroups() {
			found.why = append(found.why, "The kernel cannot fork into a cgroup: Linux 5.7 and an unfiltered clone3 are needed.")
			continue
		}
		if t := m.hierarchy(prefix); t != nil {
			trees = append(trees, t)
		} else {
			found.why = append(found.why, fmt.Sprintf("No cgroup can be made in %s by this user.", m.dir))
		}
	}
	for _, t := range trees {
		for _, c := range t.controllers {
			// Version 2 wins where both have the controller, which the kernel does not allow anyway.
			if found.limits[c] == nil || t.version == 2 {
				found.limits[c] = t
			}
		}
	}
	found.kill = best(trees)
	for _, c := range controllers() {
		if found.limits[c] == nil {
			found.why = append(found.why, fmt.Sprintf("The cgroup controller %s is not available here, so that limit is not enforced; "+
				"under systemd a unit needs Delegate=yes and DelegateSubgroup=.", c))
		}
	}
	if found.kill == nil {
		found.why = append(found.why, "No cgroup can be made at all: process trees are found by searching /proc.")
	}
	return found
}

// best chooses the hierarchy that ends groups: version 2, else the freezer, else any.
func best(trees []*hierarchy) *hierarchy {
	var best *hierarchy
	rank := func(t *hierarchy) int {
		switch {
		case t == nil:
			return 0
		case t.version == 2:
			return 3
		case slices.Contains(t.controllers, "freezer"):
			return 2
		}
		return 1
	}
	for _, t := range trees {
		if rank(t) > rank(best) {
			best = t
		}
	}
	return best
}

// mount is one mounted cgroup file system.
type mount struct {
	dir         string // where it is mounted
	root        string // the cgroup that is seen there
	own         string // the cgroup of this process, from the root of the hierarchy
	version     int
	controllers []string // version 1
}

// cgroupMounts reads which hierarchies are mounted, and where in them this process is.
func cgroupMounts() ([]mount, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	paths := map[string]string{} // by the controllers' names as the kernel lists them; "" is version 2
	for line := range strings.Lines(string(own)) {
		if parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(parts) == 3 {
			paths[parts[1]] = parts[2]
		}
	}
	var mounts []mount
	for line := range strings.Lines(string(table)) {
		before, after, ok := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		m := mount{dir: left[4], root: left[3]}
		switch right[0] {
		case "cgroup2":
			m.version = 2
			m.own = paths[""]
		case "cgroup":
			m.version = 1
			for names, path := range paths {
				if names != "" && hasOptions(right[2], names) {
					m.own, m.controllers = path, strings.Split(names, ",")
				}
			}
		}
		if m.own != "" {
			mounts = append(mounts, m)
		}
	}
	return mounts, nil
}

// hasOptions reports whether the mount options hold each of the comma-separated names.
func hasOptions(options, names string) bool {
	all := strings.Split(options, ",")
	for name := range strings.SplitSeq(names, ",") {
		if !slices.Contains(all, name) {
			return false
		}
	}
	return true
}

// hierarchy chooses where in the mount this user can make groups: in this process's own cgroup, beside it, or at the
// root. The first place that can be written to is taken, unless a later one offers more controllers: version 2 gives
// none to the children of a cgroup that holds processes itself, as this process's own does.
func (m *mount) hierarchy(prefix string) *hierarchy {
	relative, ok := strings.CutPrefix(m.own, strings.TrimSuffix(m.root, "/"))
	if !ok || strings.HasPrefix(relative, "/..") {
		relative = "" // This process is outside of what is mounted.
	}
	home := filepath.Join(m.dir, relative)
	var chosen *hierarchy
	for _, parent := range []string{home, filepath.Dir(home), m.dir} {
		inside := parent == m.dir || strings.HasPrefix(parent, m.dir+"/")
		if !inside || unix.Access(parent, unix.W_OK|unix.X_OK) != nil || unix.Access(parent+"/cgroup.procs", unix.W_OK) != nil {
			continue
		}
		t := &hierarchy{dir: filepath.Join(parent, prefix), version: m.version, controllers: m.controllers, home: home}
		if m.version == 2 {
			t.controllers = passOn(parent, controllers())
		}
		if chosen == nil || len(t.controllers) > len(chosen.controllers) {
			chosen = t
		}
		if m.version == 1 || len(chosen.controllers) == len(controllers()) {
			break
		}
	}
	return chosen
}

// passOn lets the children of a version 2 cgroup use what the cgroup itself may use of the wanted controllers, and
// returns those that they can use now. Each is asked for alone, since one that is refused would refuse all.
func passOn(dir string, wanted []string) []string {
	enabled := func() []string {
		text, _ := readFile(dir + "/cgroup.subtree_control")
		return strings.Fields(string(text))
	}
	available, _ := readFile(dir + "/cgroup.controllers")
	before := enabled()
	for _, c := range wanted {
		if !slices.Contains(before, c) && slices.Contains(strings.Fields(string(available)), c) {
			_ = writeFile(dir+"/cgroup.subtree_control", "+"+c)
		}
	}
	return slices.DeleteFunc(enabled(), func(c string) bool { return !slices.Contains(wanted, c) })
}

// forksIntoCgroups reports whether clone3 exists, is not filtered, and knows CLONE_INTO_CGROUP (Linux 5.7).
func forksIntoCgroups() bool {
	// A size of 0 is refused with EINVAL by a kernel that would listen.
	if _, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0); errno != unix.EINVAL {
		return false
	}
	var name unix.Utsname
	var major, minor int
	if unix.Uname(&name) != nil {
		return false
	}
	release, _, _ := bytes.Cut(name.Release[:], []byte{0})
	if n, _ := fmt.Sscanf(string(release), "%d.%d", &major, &minor); n != 2 {
		return false
	}
	return major > 5 || major == 5 && minor >= 7
}

// limit is one control file and what to write to it.
type limit struct {
	controller, file, value string
	optional                bool // the kernel may lack the file
}

// limits translates a size into control files of version 1 or 2.
func limits(version int, memoryMB, processes int, cpus float64) []limit {
	var all []limit
	add := func(controller, file, value string, optional bool) {
		all = append(all, limit{controller, file, value, optional})
	}
	if memoryMB > 0 {
		bytes := fmt.Sprint(int64(memoryMB) << 20)
		if version == 2 {
			add("memory", "memory.max", bytes, false)
			add("memory", "memory.swap.max", "0", true)
			// A machine is one thing: with one process killed for want of memory the rest is of no use.
			add("memory", "memory.oom.group", "1", true)
		} else {
			add("memory", "memory.limit_in_bytes", bytes, false)
			add("memory", "memory.memsw.limit_in_bytes", bytes, true)
		}
	}
	if processes > 0 {
		add("pids", "pids.max", fmt.Sprint(processes), false)
	}
	if cpus > 0 {
		const period = 100_000 // microseconds, the kernel's default
		quota := int64(math.Max(1000, math.Round(cpus*period)))
		if version == 2 {
			add("cpu", "cpu.max", fmt.Sprintf("%d %d", quota, period), false)
		} else {
			add("cpu", "cpu.cfs_period_us", fmt.Sprint(period), false)
			add("cpu", "cpu.cfs_quota_us", fmt.Sprint(quota), false)
		}
	}
	return all
}
