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

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
)

// Ground is the file systems of a machine that is one agent's alone, such as a container, as they were before the first
// attempt. After each attempt they are looked through for what has changed since: the kernel stamps every change of a file
// with a time that nobody can set back. What is in a directory that was empty is removed. Anything else that has changed
// cannot be put right, and the machine is not used again.
type Ground struct {
	since  unix.Timespec
	work   []string          // directories that were empty: what is in them goes
	inodes map[string]uint64 // of those, so that nothing else is in their place
	mounts []mount
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

// NewGround remembers what there is now. The directories are those of the place; others in which programs leave files are
// known.
func NewGround(dirs ...string) (*Ground, error) {
	g := &Ground{inodes: map[string]uint64{}}
	for _, dir := range append(slices.Clone(dirs), os.TempDir(), "/tmp", "/var/tmp", "/run/lock", "/dev/shm", "/dev/mqueue") {
		path, err := filepath.Abs(dir)
		if err == nil {
			path, err = filepath.EvalSymlinks(path)
		}
		if err != nil || slices.Contains(g.work, path) {
			continue
		}
		var st unix.Stat_t
		if entries, err := os.ReadDir(path); err != nil || len(entries) > 0 || unix.Access(path, unix.W_OK|unix.X_OK) != nil || unix.Lstat(path, &st) != nil {
			continue // what was there before is not to be removed, so no change in it can be put right
		}
		g.work = append(g.work, path)
		g.inodes[path] = st.Ino
	}
	var err error
	if g.mounts, err = mounts(); err != nil {
		return nil, err
	}
	// In a file system of layers the first change in a directory copies it, and those above it, from the layer below, which
	// stamps them. After this nothing that a job does in one of these stamps another directory.
	for _, dir := range g.work {
		if g.since, err = stamp(dir); err != nil {
			return nil, err
		}
	}
	g.since, err = stamp(dirs[0])
	return g, err
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

// Restore removes what attempts have left and returns nil if everything else is as it was, or a sentence about what is not.
func (g *Ground) Restore(ctx context.Context) error {
	for _, dir := range g.work {
		var st unix.Stat_t
		if unix.Lstat(dir, &st) != nil || st.Ino != g.inodes[dir] {
			return fault.Say(fault.Conflict, "The directory %s is not the one that was there before the job.", dir)
		}
		if err := Empty(dir); err != nil {
			return err
		}
	}
	now, err := mounts()
	if err != nil {
		return err
	}
	if !slices.Equal(now, g.mounts) {
		return fault.Say(fault.Conflict, "Something was mounted or unmounted by the job.")
	}
	for _, kind := range []string{"shm", "sem", "msg"} {
		text, err := os.ReadFile("/proc/sysvipc/" + kind)
		if err == nil && strings.Count(string(text), "\n") > 1 {
			return fault.Say(fault.Conflict, "The job has left shared memory, semaphores or messages of System V.")
		}
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
			return fault.Say(fault.Conflict, "What the job may have left in %s cannot be looked at: %v.", path, failed)
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fault.Say(fault.Conflict, "What the job may have left at %s cannot be looked at: %v.", path, err)
		}
		if st.Dev != top.Dev { // it is another mount, and has its own turn or needs none
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if g.inodes[path] != 0 {
			return nil // it is empty again, and whatever else of it has changed is of no matter
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
		err = fault.Say(fault.Conflict, "The job has changed %s, which is not in a directory that can be emptied.", changed)
	}
	return err
}

func later(a, b unix.Timespec) bool { return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec }

// Empty removes everything in a directory.
func Empty(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("agent: %w: %w", fault.Unavailable, err)
	}
	defer root.Close()
	list, err := root.Open(".")
	if err != nil {
		return fmt.Errorf("agent: %w: %w", fault.Unavailable, err)
	}
	defer list.Close()
	names, err := list.Readdirnames(-1)
	for _, name := range names {
		err = errors.Join(err, root.RemoveAll(name))
	}
	if err != nil {
		return fault.Say(fault.Conflict, "What the job has left in %s cannot be removed: %v.", dir, err)
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
