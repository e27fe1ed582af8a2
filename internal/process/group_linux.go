package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// Group is one process tree: whatever was started in it, with all descendants. It is safe for concurrent use.
type Group struct {
	host *Host
	name string
	size machine.Size
	dirs []cgroup // where it exists: the directory that kills first; empty on a host that scans; set once

	whole  *Group // of which it is a part, or nil
	number int    // of the part

	overDisk atomic.Bool  // the tree has written more than its size allows
	killed   atomic.Bool  // Kill has found something to kill
	kills    atomic.Int64 // processes that had been killed for want of memory in all of a lone host's view when it was made or renewed

	mu     sync.RWMutex  // held for reading while the tree is changed or looked at
	fd     int           // guarded by mu; of the version 2 directory to fork into, else -1
	events int           // guarded by mu; of its cgroup.events, else -1
	closed bool          // guarded by mu
	halted chan struct{} // guarded by mu; closed when the tree goes on; nil: it was not halted

	started   sync.Mutex
	processes []*Process // guarded by started; on a host that scans, those whose session may have members
	measured  []string   // guarded by started; the directories that count against DiskMB, when set
	parts     []*Group   // guarded by started; those that are not closed
}

// make makes the group's directories and sets its limits. Making them anew, it leaves dirs as it is, which is read without
// a lock.
func (g *Group) make() error {
	if g.whole != nil {
		return g.makePart()
	}
	trees := &g.host.trees
	var dirs []cgroup
	if t := trees.kill; t != nil {
		dirs = append(dirs, t.group(g.name))
	}
	wanted := map[*hierarchy][]limit{}
	for _, t := range trees.all() {
		for _, l := range limits(t.version, g.size.MemoryMB, g.size.Processes, g.size.CPUs) {
			if trees.limits[l.controller] == t {
				wanted[t] = append(wanted[t], l)
			}
		}
		if t != trees.kill && wanted[t] != nil {
			dirs = append(dirs, t.group(g.name))
		}
	}
	if g.dirs == nil {
		g.dirs = dirs
	}
	for _, dir := range dirs {
		if err := dir.make(); err != nil {
			return err
		}
	}
	if t := trees.limits["pids"]; t != nil && t == trees.kill {
		g.host.setBrake(t) // anew each time: somebody may have removed the directory, and g.make have made it again
	}
	for t, limits := range wanted {
		if err := setLimits(t.group(g.name), limits); err != nil {
			return err
		}
	}
	return g.openToFork()
}

// Revive makes it possible again to start something in a group that was killed, and has nothing left that runs. Its
// cgroup is made anew: see Kill for why it cannot be used any more. Who may have been told meanwhile that the group is
// gone for good has to be asked after this, and before anything is started.
//
// fault.Conflict: the group is closed, or something of it runs. Reviving a group that was not killed does nothing.
func (g *Group) Revive() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return fmt.Errorf("process: group %s: %w: the group is closed", g.name, fault.Conflict)
	}
	if !g.killed.Load() {
		return nil
	}
	return g.again()
}

// Renew makes the group as it was when it was made, for the next of several trees that follow one another: its cgroup is
// made anew, so that nothing that was counted or has run out before is held against what is started now. What Revive says
// of groups that are gone for good holds here too.
//
// fault.Conflict: the group is closed or halted, has parts, or something of it runs.
func (g *Group) Renew() error {
	if g.whole != nil {
		g.whole.mu.RLock()
		defer g.whole.mu.RUnlock()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.halted != nil || g.divided() || g.whole != nil && (g.whole.closed || g.whole.halted != nil) {
		return fmt.Errorf("process: group %s: %w: the group is closed, halted or divided", g.name, fault.Conflict)
	}
	if err := g.again(); err != nil {
		return err
	}
	g.overDisk.Store(false)
	g.kills.Store(g.host.killedSoFar())
	g.started.Lock()
	defer g.started.Unlock()
	g.processes = nil
	return nil
}

// again makes the group's cgroup anew if nothing runs in it. The caller holds mu.
func (g *Group) again() error {
	if empty, err := g.empty(); err != nil {
		return err
	} else if !empty {
		return fmt.Errorf("process: group %s: %w: processes are left", g.name, fault.Conflict)
	}
	if len(g.dirs) > 0 {
		for _, dir := range g.dirs {
			if err := dir.remove(); err != nil {
				return g.story(err)
			}
		}
		g.closeFiles()
		if err := g.make(); err != nil {
			return g.story(err)
		}
	}
	g.killed.Store(false)
	return nil
}

// closeFiles closes what is open of the group's cgroup. The caller holds mu.
func (g *Group) closeFiles() {
	for _, fd := range []*int{&g.fd, &g.events} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// setLimits writes the control files. The children of the prefix directory are given a controller only when the
// first of them needs it: a cgroup with a controller costs several times as much to make as one without.
func setLimits(dir cgroup, limits []limit) error {
	for _, l := range limits {
		err := writeFile(filepath.Join(dir.path, l.file), l.value)
		if gone(err) && dir.version == 2 {
			passOn(filepath.Dir(dir.path), []string{l.controller})
			err = writeFile(filepath.Join(dir.path, l.file), l.value)
		}
		if err != nil && !(l.optional && gone(err)) {
			return fmt.Errorf("%s: %w", l.controller, err)
		}
	}
	return nil
}

// open finds the group's directories wherever they may be.
func (g *Group) open() error {
	candidates := slices.Clone(g.host.places)
	for i, t := range g.host.trees.all() {
		candidates = slices.Insert(candidates, i, t.dir)
	}
	for _, place := range candidates {
		dir := cgroup{path: filepath.Join(place, g.name), version: 1}
		var st unix.Stat_t
		if err := unix.Stat(dir.path, &st); err != nil {
			if gone(err) {
				continue
			}
			return &os.PathError{Op: "stat", Path: dir.path, Err: err}
		}
		if unix.Access(dir.path+"/cgroup.events", unix.F_OK) == nil {
			dir.version = 2
		}
		g.dirs = append(g.dirs, dir)
	}
	return nil
}

// openToFork opens the directory that processes are forked into. It stays open until Close: once the directory is
// removed, by whomever, a fork into it fails for ever, even when a directory of the same name is made again. So a
// group that was ended elsewhere cannot come to life again. The caller holds mu, or nobody else knows of the group.
func (g *Group) openToFork() error {
	if len(g.dirs) == 0 || g.dirs[0].version != 2 {
		return nil
	}
	var err error
	if g.fd, err = unix.Open(g.dirs[0].path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return &os.PathError{Op: "open", Path: g.dirs[0].path, Err: err}
	}
	if g.events, err = unix.Openat(g.fd, "cgroup.events", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return &os.PathError{Op: "open", Path: g.dirs[0].path + "/cgroup.events", Err: err}
	}
	return nil
}

// Measure names the directories whose content counts against the DiskMB of the group's size. Without it the Dir of
// each command counts. It applies to processes that are started afterwards.
func (g *Group) Measure(dirs ...string) {
	g.started.Lock()
	defer g.started.Unlock()
	g.measured = slices.Clone(dirs)
}

// Signal sends s to every process of the tree that it can find. An empty tree is no error, but fault.Unavailable
// says that a process could not be signaled or that the tree could not be read.
func (g *Group) Signal(s syscall.Signal) error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return nil
	}
	return g.story(g.signalAll(s))
}

// signalAll is Signal for a caller that holds mu, or knows that the group is not closed.
func (g *Group) signalAll(s syscall.Signal) error {
	if len(g.dirs) == 0 {
		return g.signalMarked(s)
	}
	pids, err := g.dirs[0].pids()
	if err != nil {
		return err
	}
	var failed error
	for _, pid := range pids {
		if err := g.dirs[0].signal(pid, s); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// Kill sends SIGKILL to every process of the tree until none is left, also to those that were forked twice or made
// a session of their own. It returns nil only when none is left, and fault.Unavailable when ctx ends before. It may
// be called by another process than the one that started them, by several at once, and again. Nothing can be started
// in a group in which Kill has found something to kill: a process that is forked into such a cgroup is killed at
// once by some kernels (it was seen with Linux 6.18).
func (g *Group) Kill(ctx context.Context) error {
	for _, halted := range []*Group{g, g.whole} {
		if halted == nil || halted.isHalted() == nil {
			continue
		}
		if err := halted.Resume(); err != nil { // whoever waits to start something in it learns that it cannot
			return err
		}
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return nil // The name may stand for another tree by now.
	}
	if len(g.dirs) == 0 {
		return g.story(g.killMarked(ctx))
	}
	if empty, known := g.glance(); known && empty {
		return nil
	}
	g.killed.Store(true)
	for _, dir := range g.dirs {
		if err := dir.kill(ctx); err != nil {
			return g.story(err)
		}
	}
	return nil
}

// Empty reports whether no process of the tree is left.
func (g *Group) Empty() (bool, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.empty()
}

// empty is Empty for a caller that holds mu.
func (g *Group) empty() (bool, error) {
	if g.closed {
		return true, nil
	}
	if len(g.dirs) == 0 {
		tree, err := g.search(func(entry) {})
		return len(tree) == 0, g.story(err)
	}
	if empty, known := g.glance(); known {
		return empty, nil
	}
	for _, dir := range g.dirs {
		if empty, err := dir.empty(); err != nil || !empty {
			return false, g.story(err)
		}
	}
	return true, nil
}

// glance reads whether the tree is empty from the file that is open, if there is one. The caller holds mu.
func (g *Group) glance() (empty, known bool) {
	if g.events < 0 {
		return false, false
	}
	var buf [256]byte
	n, err := unix.Pread(g.events, buf[:], 0)
	if err == unix.ENODEV {
		return true, true // The directory has been removed, which only an empty one can be.
	}
	return bytes.Contains(buf[:max(n, 0)], []byte("populated 0")), err == nil
}

// OOMKilled reports whether the kernel has killed a process of the tree for want of memory. Where no memory controller
// counts for the tree nobody knows, and it reports false, unless the host is alone: then it reports whether any was killed
// since the group was made or renewed.
func (g *Group) OOMKilled() bool {
	if t := g.host.trees.limits["memory"]; t != nil {
		dir, file := t.group(g.name), "/memory.events"
		if dir.version == 1 {
			file = "/memory.oom_control"
		}
		if slices.Contains(g.dirs, dir) && dir.counter(file, "oom_kill") > 0 {
			return true
		}
		if g.size.MemoryMB > 0 {
			return false // what was killed elsewhere was another's
		}
	}
	return g.host.killedSoFar() > g.kills.Load()
}

// confused reports whether what OOMKilled says may be about other groups of a lone host.
func (g *Group) confused() bool {
	return g.host.alone && g.host.made.Load() > 1 && (g.host.trees.limits["memory"] == nil || g.size.MemoryMB == 0)
}

// cgroupRoot is where the cgroups of this computer, or container, are seen.
const cgroupRoot = "/sys/fs/cgroup"

// KilledForMemory returns how many processes the kernel has killed for want of memory in all that this program sees of the
// computer, as far as anybody can know: since its start, or in a container since the container's.
func KilledForMemory() int { return killedInView(cgroupRoot) }

// killedInView returns how many processes the kernel has killed for want of memory in the cgroup that this program sees as
// the root of all. In a container that is the container's own.
func killedInView(root string) int {
	if n := (cgroup{path: root}).counter("/memory.events", "oom_kill"); n > 0 {
		return n
	}
	return cgroup{path: root + "/memory"}.counter("/memory.oom_control", "oom_kill")
}

// outOfProcesses reports whether a process of the tree could not fork because the tree had as many processes as its
// size allows.
func (g *Group) outOfProcesses() bool {
	t := g.host.trees.limits["pids"]
	return t != nil && g.size.Processes > 0 && t.group(g.name).counter("/pids.events", "max") > 0
}

// Close removes the group's traces on the host. It fails with fault.Conflict while a process is left. It may be
// repeated; once it has succeeded nothing can be started in the group.
func (g *Group) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	for _, part := range g.ownParts() {
		if err := part.Close(); err != nil {
			return err
		}
	}
	if len(g.dirs) == 0 {
		if empty, err := g.empty(); err != nil {
			return err
		} else if !empty {
			return fmt.Errorf("process: group %s: %w: processes are left", g.name, fault.Conflict)
		}
	}
	for _, dir := range g.dirs {
		err := dir.remove()
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("process: group %s: %w: processes are left", g.name, fault.Conflict)
		}
		if err != nil {
			return g.story(err)
		}
	}
	g.closed = true
	g.closeFiles()
	if g.whole != nil {
		g.whole.lose(g)
	}
	return nil
}

// Reuse returns a group of the same name and directories for another tree, and closes this one: nothing can be
// started in it any more. Making and removing a cgroup costs as much as all else that is done for a short process, so
// whoever starts many saves a tenth of its time.
//
// It fails with fault.Conflict while a process is left, and with fault.Unsupported if the group was killed or divided, if
// either size has limits that a cgroup keeps, or if memory has run out, which would be held against the next tree. Then the
// group is to be closed and made anew.
func (g *Group) Reuse(size machine.Size) (*Group, error) {
	limited := func(s machine.Size) bool { return s.MemoryMB > 0 || s.CPUs > 0 || s.Processes > 0 }
	if g.killed.Load() || limited(g.size) || limited(size) || g.divided() || g.OOMKilled() {
		return nil, fmt.Errorf("process: group %s: %w: it was killed or divided, or has limits", g.name, fault.Unsupported)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.halted != nil || g.removed() {
		return nil, fmt.Errorf("process: group %s: %w: the group is closed", g.name, fault.Conflict)
	}
	if empty, err := g.empty(); err != nil {
		return nil, err
	} else if !empty {
		return nil, fmt.Errorf("process: group %s: %w: processes are left", g.name, fault.Conflict)
	}
	next := &Group{host: g.host, name: g.name, size: size, dirs: g.dirs, fd: g.fd, events: g.events}
	g.closed, g.fd, g.events = true, -1, -1
	return next, nil
}

// mark is the environment entry by which a search of /proc knows the group.
func (g *Group) mark() string { return markName + g.host.prefix + "/" + g.name }

// roots returns what is known of the tree without a cgroup: the sessions of the processes that were started here.
func (g *Group) roots() []session {
	g.started.Lock()
	defer g.started.Unlock()
	roots := make([]session, 0, len(g.processes))
	for _, p := range g.processes {
		roots = append(roots, session{leader: p.pid, over: p.hasEnded()})
	}
	for _, part := range g.parts {
		roots = append(roots, part.roots()...)
	}
	return roots
}

// forget drops a session that a search found to be over and empty, so that its id, which may be used again, is not
// taken for the group's.
func (g *Group) forget(leader int) {
	g.started.Lock()
	defer g.started.Unlock()
	g.processes = slices.DeleteFunc(g.processes, func(p *Process) bool { return p.pid == leader })
	for _, part := range g.parts {
		part.forget(leader)
	}
}

func (g *Group) story(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("process: group %s: %w: %w", g.name, fault.Unavailable, err)
}
