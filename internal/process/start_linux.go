package process

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
)

// spawnThreads is how many threads start processes. Go lets one thread of a program fork at a time, so the second is
// there for the time the first spends moving between cgroups.
const spawnThreads = 2

// likelyVictim is the least oom_score_adj of what is started: with it a process looks half the computer larger than
// it is to the kernel when that must choose whom to kill for want of memory.
const likelyVictim = 500

// spawning is one request to a thread that starts processes, and its answer.
type spawning struct {
	path  string
	argv  []string
	attr  *syscall.ProcAttr
	moves []*hierarchy // version 1 hierarchies whose cgroup of that name the child is born in
	group *Group

	pid   int
	pidfd int
	err   error
	done  chan struct{}
}

// Start starts a process in the group; it may be called more than once. The first element of Argv is the program.
//
// A program that does not exist is fault.NotFound and exec.ErrNotFound, one that cannot be executed fault.NotFound and
// what the kernel says, such as fs.ErrPermission; the text says where it was searched. A group that has been closed or killed, or whose cgroup
// somebody has removed, is fault.Conflict; a computer or a group without room for another process, fault.Exhausted;
// arguments, an environment or a name that are longer than the kernel takes, fault.TooLarge and unix.E2BIG or
// unix.ENAMETOOLONG. Anything else is fault.Unavailable.
func (g *Group) Start(c *Command) (*Process, error) {
	path, err := lookUp(c)
	if err != nil {
		return nil, err
	}
	readAhead(c.Dir, path)
	p := &Process{group: g, dir: c.Dir, done: make(chan struct{})}
	request := &spawning{path: path, argv: c.Argv, group: g, pidfd: -1, done: make(chan struct{})}
	request.attr = &syscall.ProcAttr{
		Dir:   c.Dir,
		Env:   g.environment(c.Env),
		Files: []uintptr{g.host.descriptor(c.Stdin), g.host.descriptor(c.Stdout), g.host.descriptor(c.Stderr)},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: c.Terminal, Pdeathsig: syscall.SIGKILL, PidFD: &request.pidfd},
	}
	if err := g.spawn(request); err != nil {
		return nil, err
	}
	runtime.KeepAlive(c)
	p.pid = request.pid
	if len(g.dirs) == 0 {
		g.started.Lock()
		g.processes = append(g.processes, p)
		g.started.Unlock()
	}
	go p.wait(request.pidfd)
	if g.size.DiskMB > 0 {
		go g.watchDisk(p)
	}
	return p, nil
}

// spawn hands the request to a thread. The group's descriptor cannot be closed, and so not be used for something
// else, before the child is born.
func (g *Group) spawn(r *spawning) error {
	h := g.host
	for _, entered := range []*Group{g.whole, g} {
		if entered == nil {
			continue
		}
		entered.enter()
		defer entered.mu.RUnlock()
		if entered.closed || entered.killed.Load() {
			return fmt.Errorf("process: group %s: %w: the group is closed or killed", g.name, fault.Conflict)
		}
	}
	if g.fd >= 0 {
		r.attr.Sys.UseCgroupFD, r.attr.Sys.CgroupFD = true, g.fd
	}
	for _, t := range h.trees.all() {
		if t.version == 1 && slices.Contains(g.dirs, t.group(g.name)) {
			r.moves = append(r.moves, t)
		}
	}
	if err := h.began(); err != nil {
		return err
	}
	h.starting.Do(func() {
		// Inherited, so no descendant is ever without it. This program needs no core dump either: Go prints its stacks.
		if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
			h.log.Warn("core dumps cannot be switched off", "err", err)
		}
		for range spawnThreads {
			h.threads.Add(1)
			go h.spawner(make(chan struct{}))
		}
	})
	h.requests <- r
	<-r.done
	if r.err != nil {
		h.ended()
		return g.startFailed(r)
	}
	return nil
}

// spawner is one thread that starts processes. It is locked to its thread and ends only with the host: the kernel
// sends the children their parent-death signal when the thread that forked them ends, not when the program does.
// What is set on the thread cannot be unset, so it is never unlocked either.
//
// It is not the program's first thread, whose settings /proc shows as those of the program. When the scheduler puts
// it there it holds on to that thread until a second one has found another.
func (h *Host) spawner(running chan<- struct{}) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		elsewhere := make(chan struct{})
		go h.spawner(elsewhere)
		<-elsewhere
		close(running)
		runtime.UnlockOSThread()
		return
	}
	close(running)
	// What this program inherited without close-on-exec must not leak into a machine.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		h.log.Warn("no_new_privs cannot be set: programs may gain privileges by set-user-id bits", "err", err)
	}
	defer h.threads.Done()
	thread := strconv.Itoa(unix.Gettid())
	resting, leave := h.rest(thread)
	defer leave()
	for r := range h.requests {
		r.err = r.moveIn(thread)
		if r.err == nil {
			r.fork()
		}
		r.moveOut(h, thread, resting)
		if r.err == nil {
			h.restrict(r)
		}
		close(r.done)
	}
}

func (r *spawning) fork() {
	fork := func() { r.pid, r.err = syscall.ForkExec(r.path, r.argv, r.attr) }
	if len(r.group.dirs) == 0 {
		r.group.tagged(fork)
		return
	}
	forking.RLock() // which others who only read do not wait for
	defer forking.RUnlock()
	fork()
}

// moveIn and moveOut put this thread into the version 1 cgroups of the group for as long as it forks, so that the
// child is born inside them.
func (r *spawning) moveIn(thread string) error {
	for _, t := range r.moves {
		if err := writeFile(t.group(r.group.name).path+"/tasks", thread); err != nil {
			return err
		}
	}
	return nil
}

func (r *spawning) moveOut(h *Host, thread, resting string) {
	for _, t := range r.moves {
		home := t.home
		if resting == t.dir {
			home = resting
		}
		if err := writeFile(home+"/tasks", thread); err != nil {
			h.log.Error("a thread stays in a machine's cgroup", "machine", r.group.name, "err", err)
		}
	}
}

// restrict sets what Go cannot set between fork and exec. The program may run for some microseconds without, and what it
// forks in that time stays without. That is no hole, as none of this is what holds a tree: without oom_score_adj a
// descendant is as likely a victim of the kernel as its size says; a file beyond RLIMIT_FSIZE is found by watchDisk, which
// measures what the whole tree writes; and RLIMIT_NPROC is set only where no cgroup counts processes, and is a weak brake
// there, as it does not hold for root either.
func (h *Host) restrict(r *spawning) {
	limit := func(resource int, most uint64) {
		if err := unix.Prlimit(r.pid, resource, &unix.Rlimit{Cur: most, Max: most}, nil); err != nil && err != unix.ESRCH {
			h.log.Warn("a resource limit cannot be set", "machine", r.group.name, "resource", resource, "err", err)
		}
	}
	if mb := r.group.size.DiskMB; mb > 0 {
		limit(unix.RLIMIT_FSIZE, uint64(mb)<<20)
	}
	if most, ok := r.group.roomFor(); ok {
		limit(unix.RLIMIT_NPROC, most)
	}
	file := "/proc/" + strconv.Itoa(r.pid) + "/oom_score_adj"
	if err := writeFile(file, strconv.Itoa(likelyVictim)); err != nil && !gone(err) && !errors.Is(err, fs.ErrPermission) {
		h.log.Warn("oom_score_adj cannot be set", "machine", r.group.name, "err", err)
	}
}

// environment returns env with the group's mark, and with its name unless env tells of one already.
func (g *Group) environment(env []string) []string {
	all := make([]string, 0, len(env)+2)
	named := false
	for _, entry := range env {
		if strings.HasPrefix(entry, "DAYFLY_GROUP=") {
			continue
		}
		named = named || strings.HasPrefix(entry, "DAYFLY_MACHINE=")
		all = append(all, entry)
	}
	if !named {
		whole, _, _ := strings.Cut(g.name, "/")
		all = append(all, "DAYFLY_MACHINE="+whole)
	}
	return append(all, g.mark())
}

// descriptor returns the number of f, in blocking mode, or that of /dev/null.
func (h *Host) descriptor(f *os.File) uintptr {
	if f == nil {
		f = h.null
	}
	return f.Fd()
}
