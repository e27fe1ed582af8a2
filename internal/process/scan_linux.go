package process

import (
	"bytes"
	"context"
	"errors"
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
	start                string   // ticks since boot, which together with pid names a process for good
	marks                []string // the marks of groups in its environment; mostly one or none
	tag                  uint64   // of the group, which survives what takes the marks away
	virtual              string   // bytes of memory it has mapped; "0" is a thread of the kernel, or ends this moment
	forked               bool     // it has not executed a program since it was forked
	starting             bool     // it may be what a thread that starts processes has forked and waits for
}

const (
	// mostRounds is how often a look at /proc goes after what was forked meanwhile. One round for few processes takes
	// some ten microseconds, so that only a bomb outruns them all.
	mostRounds = 1000

	// mostAbsent is how many ids that showed nothing are looked at again. An id shows nothing for some microseconds.
	mostAbsent = 100
)

var errUnsettled = errors.New("processes are forked faster than they can be looked at")

// entries calls look with each process of the host that has not ended, and with some of their threads. It goes after
// those that are forked while it reads: a listing of /proc alone would miss a tree whose every process forks the next
// and ends before it is looked at.
//
// It goes on until it has looked at every id that the kernel has given away since it began; settled says that it got
// there. Then no living process was missed, or one of those that were read was just forking it: an id is given away a
// moment before there is anything to see under it, so those that show nothing are looked at once more in the end.
func entries(look func(entry)) (settled bool, err error) {
	last, err := newestID()
	if err != nil {
		return false, err
	}
	proc, err := os.Open("/proc")
	if err != nil {
		return false, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return false, err
	}
	present := func(pid int) bool {
		e, ok := readEntry(pid)
		if ok {
			e.tag, e.marks = tagOf(pid), e.readMarks()
			look(e)
		}
		return ok
	}
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			present(pid)
		}
	}
	var absent []int // ids that were given away meanwhile and show nothing: not yet, or no more
	for range mostRounds {
		now, err := newestID()
		if err != nil {
			return false, err
		}
		if now < last {
			return entries(look) // The ids began again at the lowest, which the listing may have passed by then.
		}
		if now == last {
			absent = slices.DeleteFunc(absent, present)
			if now, err = newestID(); err != nil || now == last {
				return err == nil, err
			}
		}
		for last < now {
			if last++; !present(last) {
				absent = append(absent, last)
			}
		}
		absent = absent[max(0, len(absent)-mostAbsent):]
	}
	return false, nil
}

// newestID returns the process or thread id that the kernel gave away last. Until they begin again, ids grow.
func newestID() (int, error) {
	text, err := readFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) != 5 {
		return 0, fmt.Errorf("/proc/loadavg has %q, not five fields", text)
	}
	return strconv.Atoi(fields[4])
}

// readEntry reads /proc/PID/stat. The second field is the program's name in parentheses and may hold anything, so
// the rest is counted from the last one.
func readEntry(pid int) (entry, bool) {
	text, err := readFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return entry{}, false
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 21 || fields[0] == "Z" || fields[0] == "X" {
		return entry{}, false
	}
	parent, _ := strconv.Atoi(fields[1])
	session, _ := strconv.Atoi(fields[3])
	flags, _ := strconv.ParseUint(fields[6], 10, 64)
	const forkedNotExecuted = 0x40 // PF_FORKNOEXEC, which has been this for as long as Linux shows it
	return entry{
		pid: pid, parent: parent, session: session, start: fields[19], virtual: fields[20], forked: flags&forkedNotExecuted != 0,
	}, true
}

// markName is the environment variable by which a search knows what belongs to a group.
const markName = "DAYFLY_GROUP="

// readMarks returns the marks of groups in a process's environment as it was when the program was executed.
//
// While a program is being executed there is nothing to read: the new memory is there, and what it is to hold has yet
// to be copied. Whoever looks then would take the process for none of the group's, so this waits until it is over.
func (e *entry) readMarks() []string {
	const pause, mostLooks = time.Millisecond, 1000
	for looks := 1; ; looks++ {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", e.pid))
		if err != nil {
			return nil // It has ended, or is another user's and so none of ours.
		}
		if len(text) > 0 || e.virtual == "0" || looks == mostLooks {
			return marksIn(text)
		}
		// One that has arguments was given no environment. They come a moment before it.
		if arguments, err := readFile(fmt.Sprintf("/proc/%d/cmdline", e.pid)); err != nil || len(arguments) > 0 && looks > 1 {
			return nil
		}
		time.Sleep(pause)
	}
}

func marksIn(environ []byte) []string {
	var found []string
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		if bytes.HasPrefix(entry, []byte(markName)) {
			found = append(found, string(entry))
		}
	}
	return found
}

// livingGroups returns the names of the groups under prefix of which a process lives. One of which nothing has a mark is
// among them if it is known to the caller.
func livingGroups(prefix string, known []*Group) ([]string, error) {
	tags := make(map[uint64]string, len(known))
	for _, g := range known {
		tags[g.tag()] = g.name
	}
	var names []string
	found := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	settled, err := entries(func(e entry) {
		for _, mark := range e.marks {
			if name, ok := strings.CutPrefix(mark, markName+prefix+"/"); ok {
				name, _, _ = strings.Cut(name, "/") // without the number of a part
				found(name)
			}
		}
		if name, ok := tags[wholeTag(e.tag)]; ok && e.isChild() {
			found(name)
		}
	})
	if err != nil {
		return nil, err
	}
	if !settled {
		return nil, errUnsettled
	}
	slices.Sort(names)
	return names, nil
}

// search looks for the group's tree: what carries its mark or tag, what belongs to one of its sessions, and all descendants.
// It calls found with each of them as soon as it is known to be one. It finds none without an error only if none lives.
func (g *Group) search(found func(entry)) (tree map[int]entry, err error) {
	tree = map[int]entry{}
	others := map[int]entry{}
	belongs := func(e entry) {
		tree[e.pid] = e
		found(e)
	}
	members := map[int]int{} // by session, of those that were started here
	for _, root := range g.roots() {
		members[root.leader] = 0
		if _, reused := readEntry(root.leader); reused && root.over {
			g.forget(root.leader)
			delete(members, root.leader)
		}
	}
	own := os.Getpid()
	marked, tagged := g.recognize()
	settled, err := entries(func(e entry) {
		_, ours := members[e.session]
		_, child := tree[e.parent]
		switch {
		case e.pid == own:
		case ours:
			members[e.session]++
			belongs(e)
		case child || slices.ContainsFunc(e.marks, marked):
			belongs(e)
		case tagged(e.tag) && e.isChild():
			e.starting = e.forked
			belongs(e)
		default:
			others[e.pid] = e
		}
	})
	if err != nil {
		return nil, err
	}
	for grown := true; grown; {
		grown = false
		for pid, e := range others {
			if _, child := tree[e.parent]; child {
				delete(others, pid)
				belongs(e)
				grown = true
			}
		}
	}
	if !settled {
		if len(tree) == 0 {
			return nil, errUnsettled
		}
		return tree, nil
	}
	for _, root := range g.roots() {
		if n, asked := members[root.leader]; asked && n == 0 && root.over {
			g.forget(root.leader)
		}
	}
	return tree, nil
}

// recognize returns what tells the marks and tags of the group, and of its parts, from those of others.
func (g *Group) recognize() (marked func(mark string) bool, tagged func(tag uint64) bool) {
	mark, tag := g.mark(), g.tag()
	if g.whole != nil {
		return func(m string) bool { return m == mark }, func(t uint64) bool { return t == tag }
	}
	return func(m string) bool { return m == mark || strings.HasPrefix(m, mark+"/") }, func(t uint64) bool { return wholeTag(t) == tag }
}

// signal sends s to the process that was read as e, unless that one has ended.
func (e entry) signal(s syscall.Signal) error {
	return signalIf(e.pid, s, func() bool {
		now, ok := readEntry(e.pid)
		return ok && now.start == e.start
	})
}

// signalMarked sends the signal when the search is over, so that what a process forks because it was told, such as the
// command that its trap runs, is not found and told too.
func (g *Group) signalMarked(s syscall.Signal) error {
	tree, err := g.search(func(entry) {})
	for _, e := range tree {
		if e.starting {
			continue // There is no program yet to be told.
		}
		if failed := e.signal(s); failed != nil {
			err = failed
		}
	}
	return err
}

// killMarked stops what it finds the moment it is found, since it may fork what was not seen, and kills what was
// stopped. It repeats this until two searches in a row have found nothing.
//
// What is just being started is killed at once: if it were stopped, the thread that waits until it executes its program
// would stand still with all of Go behind it, which may be this program. Nothing else is lost by it, as what was found
// by its tag needs no parent for its children to be found.
func (g *Group) killMarked(ctx context.Context) error {
	wait := time.Millisecond
	for quiet := 0; ; {
		tree, err := g.search(func(e entry) {
			if e.starting {
				_ = e.signal(unix.SIGKILL)
			} else {
				_ = e.signal(unix.SIGSTOP)
			}
		})
		for _, e := range tree {
			_ = e.signal(unix.SIGKILL)
		}
		quiet++
		if err != nil || len(tree) > 0 {
			quiet = 0
		}
		if len(tree) > 0 {
			g.killed.Store(true)
		}
		if quiet == 2 {
			return nil
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return err
			}
			return fmt.Errorf("%d processes do not end: %w", len(tree), context.Cause(ctx))
		case <-time.After(wait):
		}
		wait = min(2*wait, 20*time.Millisecond)
	}
}
