package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
)

// Ground is the file systems of a machine that is one agent's alone, such as a container, as they were before the first
// attempt. After each attempt they are looked through for what has changed since: the kernel stamps every change of a file
// with a time that nobody can set back. What is in a directory that was empty is removed. Anything else that has changed
// cannot be put right, and the machine is not used again.
//
// The slots of a machine share its ground. Each has a [Room], which is made anew after each of its attempts. What has changed
// outside condemns the machine, whichever attempt did it: nobody can tell. Directories that were empty, such as /tmp, may be
// in use by the attempts in other slots, and so may what System V keeps; these are put right when none has one. On a machine
// that always has some attempt that is never, so what one leaves there may be seen by the next as by those beside it.
//
// That is not all that one attempt can leave to another, or do to it. They run as one user, who may look into and write to all
// that belongs to him: the directories of the other slots, their processes, by /proc and ptrace, and their signals. They share
// ports, and the names of abstract sockets. Of the disk no room has a share of its own, and of memory and processes not
// where [process.Host.Share] finds none; then one can take what the others need. And what the kernel keeps and shows in no file system that holds
// files, such as key rings and, where an attempt may change them, the settings of network and kernel, is not looked at.
type Ground struct {
	since  unix.Timespec
	mounts []mount

	mu     sync.Mutex
	shared []*directory // guarded by mu; those that were empty
	busy   int          // guarded by mu; attempts that have begun and not been cleaned up after
}

// directory is one that was empty when the agent began.
type directory struct {
	path string
	was  unix.Stat_t
	keep []string // names in it of what is the agent's own
}

// mount is one line of the list of mounts.
type mount struct {
	point, kind string
	writable    bool
}

// The bounds of what is looked through.
const maxGroundFiles = 2_000_000

// passing are the file systems that hold no files of a program's making.
func passing() []string {
	return []string{"proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "securityfs", "debugfs", "tracefs", "bpf", "nsfs", "autofs", "fusectl", "configfs", "pstore", "efivarfs"}
}

// NewGround remembers what there is now. Scratch is the agent's own directory; it, the working directory and others in which
// programs leave files are emptied after each attempt if they are empty now.
func NewGround(scratch, work string) (*Ground, error) {
	g := &Ground{}
	own := []string{resolved(scratch), resolved(work)}
	for _, dir := range []string{scratch, work, os.TempDir(), "/tmp", "/var/tmp", "/run/lock", "/dev/shm", "/dev/mqueue"} {
		d := &directory{path: resolved(dir)}
		if d.path == "" || g.at(d.path) != nil {
			continue
		}
		entries, err := os.ReadDir(d.path)
		for _, entry := range entries {
			if slices.Contains(own, filepath.Join(d.path, entry.Name())) {
				d.keep = append(d.keep, entry.Name())
			}
		}
		if err != nil || len(entries) > len(d.keep) || unix.Access(d.path, unix.W_OK|unix.X_OK) != nil || unix.Lstat(d.path, &d.was) != nil {
			continue // what was there before is not to be removed, so no change in it can be put right
		}
		g.shared = append(g.shared, d)
	}
	var err error
	if g.mounts, err = mounts(); err != nil {
		return nil, err
	}
	// In a file system of layers the first change in a directory copies it, and those above it, from the layer below, which
	// stamps them. After this nothing that a job does in one of these stamps another directory.
	for _, dir := range g.shared {
		if g.since, err = stamp(dir.path); err != nil {
			return nil, err
		}
	}
	g.since, err = stamp(scratch)
	return g, err
}

// resolved returns where a directory is, or "" if it is nowhere.
func resolved(dir string) string {
	path, err := filepath.Abs(dir)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return ""
	}
	return path
}

// at returns the directory at a path if it was empty, or nil. The caller holds mu, or nobody else knows of g.
func (g *Ground) at(path string) *directory {
	i := slices.IndexFunc(g.shared, func(d *directory) bool { return d.path == path })
	if i < 0 {
		return nil
	}
	return g.shared[i]
}

// stamp makes a file in a directory, removes it, and returns the time that the kernel has given it.
func stamp(dir string) (unix.Timespec, error) {
	mark, err := os.CreateTemp(dir, ".dayfly-")
	if err != nil {
		return unix.Timespec{}, fmt.Errorf("agent: %w: %w", fault.Unavailable, err)
	}
	defer mark.Close()
	var st unix.Stat_t
	err = errors.Join(unix.Fstat(int(mark.Fd()), &st), os.Remove(mark.Name()))
	return st.Ctim, err
}

// Begin says that an attempt begins in the machine, or in one of its slots. It waits while what the slots share is put right.
func (g *Ground) Begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy++
}

// Restore ends what Begin began. It removes what attempts have left and returns nil if everything else is as it was, or a
// sentence about what is not.
func (g *Ground) Restore(ctx context.Context) error {
	return g.restore(ctx, func() error { return nil })
}

// restore is Restore, with what removes what is of one slot alone.
func (g *Ground) restore(ctx context.Context, own func() error) error {
	err := g.inspect(ctx, own)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy--
	if err != nil || g.busy > 0 {
		return err
	}
	for _, dir := range g.shared {
		if err := dir.empty(); err != nil {
			return err
		}
	}
	for _, kind := range []string{"shm", "sem", "msg"} {
		text, err := os.ReadFile("/proc/sysvipc/" + kind)
		if err == nil && strings.Count(string(text), "\n") > 1 {
			return fault.Say(fault.Conflict, "A job has left shared memory, semaphores or messages of System V.")
		}
	}
	return nil
}

// inspect removes what is of one slot alone, and looks at everything but the directories that are emptied.
func (g *Ground) inspect(ctx context.Context, own func() error) error {
	now, err := mounts()
	if err != nil {
		return err
	}
	if !slices.Equal(now, g.mounts) { // before anything is removed: what is kept elsewhere may be mounted there
		return fault.Say(fault.Conflict, "Something was mounted or unmounted by a job.")
	}
	if err := own(); err != nil {
		return err
	}
	left := maxGroundFiles
	for _, m := range now {
		if !m.writable || slices.Contains(passing(), m.kind) {
			continue
		}
		if err := g.look(ctx, m.point, &left); err != nil {
			return err
		}
	}
	return nil
}

// look goes through one file system. Of what has changed it names what is furthest from the root, which says most: with a
// file its directory may have changed, too.
func (g *Ground) look(ctx context.Context, root string, left *int) error {
	g.mu.Lock()
	var emptied []string
	for _, dir := range g.shared {
		emptied = append(emptied, dir.path)
	}
	g.mu.Unlock()
	changed := ""
	var top unix.Stat_t
	if err := unix.Lstat(root, &top); err != nil {
		return fault.Say(fault.Conflict, "The mount %s cannot be looked at: %v.", root, err)
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, failed error) error {
		if *left--; *left < 0 {
			return fault.Say(fault.Conflict, "The machine has more than %d files, which are too many to look through after each job.", maxGroundFiles)
		}
		if *left%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if failed != nil && unix.Access(path, unix.X_OK) != nil {
			return nil // nobody who runs as the agent does can have reached what is below
		}
		if failed != nil {
			return fault.Say(fault.Conflict, "What a job may have left in %s cannot be looked at: %v.", path, failed)
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fault.Say(fault.Conflict, "What a job may have left at %s cannot be looked at: %v.", path, err)
		}
		if st.Dev != top.Dev { // it is another mount, and has its own turn or needs none
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() && slices.Contains(emptied, path) {
			return fs.SkipDir
		}
		if later(st.Ctim, g.since) {
			changed = path
			if !d.IsDir() {
				return fs.SkipAll
			}
		}
		return nil
	})
	if err == nil && changed != "" {
		err = fault.Say(fault.Conflict, "A job has changed %s, which is not in a directory that can be emptied.", changed)
	}
	return err
}

func later(a, b unix.Timespec) bool { return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec }

// open opens the directory, which must still be the one that was there.
func (d *directory) open() (root *os.Root, list *os.File, now unix.Stat_t, err error) {
	if root, err = os.OpenRoot(d.path); err != nil {
		return nil, nil, now, fault.Say(fault.Conflict, "The directory %s cannot be opened: %v.", d.path, err)
	}
	if list, err = root.Open("."); err == nil {
		err = unix.Fstat(int(list.Fd()), &now)
	}
	switch {
	case err != nil:
		err = fault.Say(fault.Conflict, "The directory %s cannot be opened: %v.", d.path, err)
	case now.Dev != d.was.Dev || now.Ino != d.was.Ino:
		err = fault.Say(fault.Conflict, "The directory %s is not the one that was there before the jobs.", d.path)
	default:
		return root, list, now, nil
	}
	list.Close() // or it is nil
	root.Close()
	return nil, nil, now, err
}

// empty removes what was put into the directory, and gives it the owner and mode that it had.
func (d *directory) empty() error {
	root, list, now, err := d.open()
	if err != nil {
		return err
	}
	defer root.Close()
	defer list.Close()
	names, err := list.Readdirnames(-1)
	for _, name := range names {
		if !slices.Contains(d.keep, name) {
			err = errors.Join(err, root.RemoveAll(name))
		}
	}
	if now.Uid != d.was.Uid || now.Gid != d.was.Gid {
		err = errors.Join(err, list.Chown(int(d.was.Uid), int(d.was.Gid)))
	}
	if now.Mode != d.was.Mode {
		err = errors.Join(err, unix.Fchmod(int(list.Fd()), d.was.Mode&0o7777))
	}
	if err != nil {
		return fault.Say(fault.Conflict, "What jobs have left in %s cannot be removed: %v.", d.path, err)
	}
	return nil
}

// mounts returns what is mounted, in the order of the system.
func mounts() ([]mount, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("agent: %w: %w", fault.Unavailable, err)
	}
	defer file.Close()
	var list []mount
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		fields, kinds := strings.Fields(before), strings.Fields(after)
		if len(fields) < 6 || len(kinds) < 1 {
			continue
		}
		list = append(list, mount{
			point: strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4]), kind: kinds[0],
			writable: slices.Contains(strings.Split(fields[5], ","), "rw"),
		})
	}
	return list, lines.Err()
}
