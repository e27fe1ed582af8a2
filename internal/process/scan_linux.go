package process

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// session is the session of a process that was started in a group.
type session struct {
	leader int  // the id of that process, and of the session
	over   bool // it has ended; its id is in use as long as the session has members, and no longer
}

// entry is a process as /proc shows it.
type entry struct {
	pid, parent, session int
	start                string // ticks since boot, which together with pid names a process for good
}

// entries reads the processes of the host that have not ended.
func entries() (map[int]entry, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	all := make(map[int]entry, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			if e, ok := readEntry(pid); ok {
				all[pid] = e
			}
		}
	}
	return all, nil
}

// readEntry reads /proc/PID/stat. The second field is the program's name in parentheses and may hold anything, so
// the rest is counted from the last one.
func readEntry(pid int) (entry, bool) {
	text, err := readFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return entry{}, false
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return entry{}, false
	}
	parent, _ := strconv.Atoi(fields[1])
	session, _ := strconv.Atoi(fields[3])
	return entry{pid: pid, parent: parent, session: session, start: fields[19]}, true
}

// environment calls yield with each entry of a process's environment as it was when the program was executed.
func environment(pid int, yield func(entry string) bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return // It has ended, or is another user's and so none of ours.
	}
	for entry := range bytes.SplitSeq(text, []byte{0}) {
		if !yield(string(entry)) {
			return
		}
	}
}

func hasMark(pid int, mark string) (found bool) {
	environment(pid, func(entry string) bool {
		found = entry == mark
		return !found
	})
	return found
}

// markedGroups returns the names of the groups under prefix of which a process lives.
func markedGroups(prefix string) ([]string, error) {
	all, err := entries()
	if err != nil {
		return nil, err
	}
	var names []string
	for pid := range all {
		environment(pid, func(entry string) bool {
			if name, ok := strings.CutPrefix(entry, "DAYFLY_GROUP="+prefix+"/"); ok && !slices.Contains(names, name) {
				names = append(names, name)
			}
			return true
		})
	}
	slices.Sort(names)
	return names, nil
}

// search looks for the group's tree: what carries its mark, what belongs to one of its sessions, and all descendants.
func (g *Group) search() ([]entry, error) {
	all, err := entries()
	if err != nil {
		return nil, err
	}
	delete(all, os.Getpid())
	tree := map[int]entry{}
	var empty []int
	for _, root := range g.roots() {
		if _, reused := all[root.leader]; reused && root.over {
			empty = append(empty, root.leader)
			continue
		}
		members := 0
		for pid, e := range all {
			if e.session == root.leader || pid == root.leader {
				tree[pid] = e
				members++
			}
		}
		if members == 0 && root.over {
			empty = append(empty, root.leader)
		}
	}
	g.forget(empty)
	for pid, e := range all {
		if _, ok := tree[pid]; !ok && hasMark(pid, g.mark()) {
			tree[pid] = e
		}
	}
	for grown := true; grown; {
		grown = false
		for pid, e := range all {
			_, ok := tree[pid]
			if _, child := tree[e.parent]; child && !ok {
				tree[pid] = e
				grown = true
			}
		}
	}
	members := make([]entry, 0, len(tree))
	for _, e := range tree {
		members = append(members, e)
	}
	return members, nil
}

// signal sends s to the process that was read as e, unless that one has ended.
func (e entry) signal(s syscall.Signal) error {
	return signalIf(e.pid, s, func() bool {
		now, ok := readEntry(e.pid)
		return ok && now.start == e.start
	})
}

func (g *Group) signalMarked(s syscall.Signal) error {
	tree, err := g.search()
	for _, e := range tree {
		if failed := e.signal(s); failed != nil {
			err = failed
		}
	}
	return err
}

// killMarked stops what it finds, looks again for what was forked meanwhile, kills it, and repeats until two searches
// in a row have found nothing: a process that is just being executed shows no environment for a moment.
func (g *Group) killMarked(ctx context.Context) error {
	wait := time.Millisecond
	for quiet := 0; quiet < 2; {
		tree, err := g.search()
		if err != nil {
			return err
		}
		if len(tree) == 0 {
			quiet++
			continue
		}
		quiet = 0
		g.killed.Store(true)
		for _, e := range tree {
			_ = e.signal(unix.SIGSTOP)
		}
		if tree, err = g.search(); err != nil {
			return err
		}
		for _, e := range tree {
			_ = e.signal(unix.SIGKILL)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d processes do not end: %w", len(tree), context.Cause(ctx))
		case <-time.After(wait):
		}
		wait = min(2*wait, 50*time.Millisecond)
	}
	return nil
}
