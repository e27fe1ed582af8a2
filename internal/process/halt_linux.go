package process

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
)

// haltTimeout is how long a tree may take to stand still. A process that waits for a disk in the kernel is not frozen
// before it has what it waits for.
const haltTimeout = 10 * time.Second

// Halt makes every process of the tree stand still, until Resume or Kill: by the freezer where there is a cgroup that
// has one, otherwise by SIGSTOP, which a process can be woken from by others of its user. What is to be started in the
// group meanwhile waits. Repeating it is no error.
//
// fault.Conflict: the group is closed or killed. fault.Unavailable: the tree does not stand still, and goes on.
func (g *Group) Halt() error {
	g.mu.Lock() // No thread of this program may be in the cgroup, to fork, while that is frozen.
	if g.closed || g.killed.Load() {
		g.mu.Unlock()
		return fmt.Errorf("process: group %s: %w: the group is closed or killed", g.name, fault.Conflict)
	}
	if g.halted == nil {
		g.halted = make(chan struct{})
	}
	g.mu.Unlock()
	if err := g.halt(); err != nil {
		return errors.Join(g.story(err), g.Resume())
	}
	return nil
}

// Resume lets a tree that was halted go on where it was. Repeating it is no error. fault.Unavailable: a part of it may
// stand still.
func (g *Group) Resume() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.halted == nil {
		return nil
	}
	var err error
	if !g.closed {
		err = g.thaw()
	}
	if err == nil {
		close(g.halted)
		g.halted = nil
	}
	return g.story(err)
}

// isHalted reports whether Halt was called, and returns what is closed when the tree goes on.
func (g *Group) isHalted() <-chan struct{} {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.halted
}

// enter takes mu for reading once the tree is not halted.
func (g *Group) enter() {
	for {
		g.mu.RLock()
		halted := g.halted
		if halted == nil {
			return
		}
		g.mu.RUnlock()
		<-halted
	}
}

// freezes reports whether the group's cgroup has a freezer.
func (g *Group) freezes() bool {
	if len(g.dirs) == 0 {
		return false
	}
	file := "/cgroup.freeze"
	if g.dirs[0].version == 1 {
		file = "/freezer.state"
	}
	return unix.Access(g.dirs[0].path+file, unix.W_OK) == nil
}

func (g *Group) halt() error {
	still := g.stop
	if g.freezes() {
		g.dirs[0].freeze(true)
		still = g.frozen
	}
	deadline := time.Now().Add(haltTimeout)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		done, err := still()
		if err != nil || done {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("its processes do not stand still")
		}
		time.Sleep(wait)
	}
}

// frozen reports whether the freezer has done its work.
func (g *Group) frozen() (bool, error) {
	file, want := "/cgroup.events", "frozen 1"
	if g.dirs[0].version == 1 {
		file, want = "/freezer.state", "FROZEN"
	}
	text, err := readFile(g.dirs[0].path + file)
	return bytes.Contains(text, []byte(want)), err
}

// stop sends SIGSTOP to every process, and reports whether none has come since it was last called: what stands still
// forks no more.
func (g *Group) stop() (bool, error) {
	before, err := g.ids()
	if err == nil {
		err = g.signalAll(unix.SIGSTOP)
	}
	if err != nil {
		return false, err
	}
	after, err := g.ids()
	return err == nil && maps.Equal(before, after), err
}

func (g *Group) thaw() error {
	if g.freezes() {
		g.dirs[0].freeze(false)
		return nil
	}
	return g.signalAll(unix.SIGCONT)
}

// ids returns the processes of the tree.
func (g *Group) ids() (map[int]bool, error) {
	ids := map[int]bool{}
	if len(g.dirs) == 0 {
		tree, err := g.search(func(entry) {})
		for pid := range tree {
			ids[pid] = true
		}
		return ids, err
	}
	pids, err := g.dirs[0].pids()
	for _, pid := range pids {
		ids[pid] = true
	}
	return ids, err
}
