package process

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// The tag is the number by which a search of /proc knows a group when nothing else tells: a process may leave its
// session, lose its parent and wipe its environment, and keeps its resource limits all the same. The tag is the soft
// limit on file locks, which every process inherits, which Linux has not looked at since 2.4, and which therefore no
// program has a reason to change.
//
// A process is born with the tag, since this program has it itself while it forks, as there is no later moment at which
// one could not have forked already. This program is told from its children by no_new_privs, which only the thread that
// forks has, and what else it forks at that moment by the same. If all of it runs with no_new_privs, it could be taken
// for the group that it is just starting a process in: by another process that ends that very group, which nobody does
// whose supervisor answers.

// forking is held for writing while this program has the tag of what it forks, and for reading by the threads of other
// hosts while they fork what must not have it.
var forking sync.RWMutex

// tag returns the group's tag. It is made of the mark, so that every process can compute it, also when the one that
// started the group is dead.
func (g *Group) tag() uint64 {
	if g.whole != nil {
		return g.whole.tag() + uint64(g.number) + 1
	}
	sum := sha256.Sum256([]byte(g.mark()))
	return wholeTag(1<<62 | binary.BigEndian.Uint64(sum[:])>>2) // neither infinite nor what somebody would choose
}

// partNumbers is how many numbers there are at the end of a tag for the parts of a group, so that the whole of it is found by
// what all of its parts have in common.
const partNumbers = 1 << 8

// wholeTag returns the tag of the group of which another is a part.
func wholeTag(tag uint64) uint64 { return tag &^ (partNumbers - 1) }

// tagged calls fork while this program has the group's tag.
func (g *Group) tagged(fork func()) {
	forking.Lock()
	defer forking.Unlock()
	var own unix.Rlimit
	err := unix.Prlimit(0, unix.RLIMIT_LOCKS, nil, &own)
	if err == nil {
		err = unix.Prlimit(0, unix.RLIMIT_LOCKS, &unix.Rlimit{Cur: g.tag(), Max: own.Max}, nil)
	}
	if err != nil {
		g.host.untagged.Do(func() {
			g.host.log.Warn("machines cannot be tagged; a process that leaves its session and wipes its environment will not be found", "err", err)
		})
		fork()
		return
	}
	fork()
	if err := unix.Prlimit(0, unix.RLIMIT_LOCKS, &own, nil); err != nil {
		g.host.log.Error("this program keeps the tag of a machine", "machine", g.name, "err", err)
	}
}

// tagOf returns a process's limit on file locks, which is a tag if it is one of a group's.
func tagOf(pid int) uint64 {
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY}
	_ = unix.Prlimit(pid, unix.RLIMIT_LOCKS, nil, &limit) // it fails for what is another user's and so none of ours
	return limit.Cur
}

// isChild reports whether a process that has a tag was born with it, and is not the one that only has it to fork. A
// thread is what its process is.
func (e *entry) isChild() bool {
	status := func(pid int) (text []byte) {
		text, _ = os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		return text
	}
	text := status(e.pid)
	_, after, _ := bytes.Cut(text, []byte("\nTgid:\t"))
	line, _, _ := bytes.Cut(after, []byte("\n"))
	process, err := strconv.Atoi(string(line))
	if err == nil && process != e.pid {
		text = status(process)
	}
	return process != os.Getpid() && bytes.Contains(text, []byte("\nNoNewPrivs:\t1\n"))
}
