package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

// slots hands out the directories, records and process groups of a supervisor's machines.
//
// When a machine is destroyed its slot is given to the next one. Making and removing a directory takes a fifth of a
// millisecond on a common file system, as long as a third of starting a process, a file nearly as long, and a cgroup a
// tenth; a machine has four directories, a file and a cgroup. Looking whether they are still as they were made takes
// some microseconds, and so does a link to the file.
type slots struct {
	layout layout
	trees  *process.Host
	number int // of the supervisor
	dir    *os.File

	mu   sync.Mutex
	made int     // guarded by mu; slots are numbered from 1
	free []*slot // guarded by mu
}

// outputName is the directory of what a machine's command prints, in its slot.
const outputName = "output"

// slot is the place of one machine.
type slot struct {
	number             int
	path               string
	work, tmp, scratch string
	output, files      string // made when there is something to put there
	dirs               [3]directory
	group              *process.Group // of the machine, or of the last one; nil when one has to be made
	taken              time.Time

	mu   sync.Mutex
	file *os.File // guarded by mu; the record; nil once the slot is given up
}

func openSlots(l layout, number int, trees *process.Host) (*slots, error) {
	path := filepath.Join(l.supervisor(number), "slots")
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.Open(path)
	return &slots{layout: l, trees: trees, number: number, dir: dir}, err
}

// close gives up what the free slots hold.
func (s *slots) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for _, free := range s.free {
		err = errors.Join(err, free.close())
	}
	return errors.Join(err, s.dir.Close())
}

// take returns a slot with empty directories.
func (s *slots) take() (*slot, error) {
	s.mu.Lock()
	if last := len(s.free) - 1; last >= 0 {
		taken := s.free[last]
		s.free = s.free[:last]
		s.mu.Unlock()
		taken.taken = time.Now()
		return taken, nil
	}
	s.made++
	number := s.made
	s.mu.Unlock()
	path := s.layout.slot(s.number, number)
	made := &slot{
		number: number, path: path, taken: time.Now(),
		work: filepath.Join(path, "work"), tmp: filepath.Join(path, "tmp"), scratch: filepath.Join(path, "scratch"),
		output: filepath.Join(path, outputName), files: filepath.Join(path, "files"),
	}
	if err := made.make(); err != nil {
		return nil, errors.Join(err, s.giveUp(made))
	}
	return made, nil
}

func (s *slot) make() error {
	for _, dir := range []string{s.path, s.work, s.tmp, s.scratch} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	for i, path := range []string{s.work, s.tmp, s.scratch} {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		s.dirs[i] = directory{path: fmt.Sprintf("%d/%s", s.number, filepath.Base(path)), device: st.Dev, inode: st.Ino}
	}
	file, err := os.OpenFile(filepath.Join(s.path, "record"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file = file
	return err
}

// prepare makes the slot's process group what a machine of that size needs.
func (s *slots) prepare(taken *slot, size machine.Size) error {
	if taken.group != nil {
		again, err := taken.group.Reuse(size)
		if err == nil {
			taken.group = again
			return nil
		}
		if err := taken.group.Close(); err != nil {
			return err
		}
		taken.group = nil
	}
	var err error
	taken.group, err = s.trees.Group(groupName(s.number, taken.number), size)
	return err
}

// give takes a slot back whose machine is gone, with everything that ran in it. What the machine left in the directories
// is removed; if they are not as they were made, so is the slot.
func (s *slots) give(used *slot) error {
	for i := range used.dirs {
		if !used.dirs[i].asMade(int(s.dir.Fd()), used.taken) {
			return s.giveUp(used)
		}
	}
	for _, dir := range []string{used.output, used.files, filepath.Join(used.path, partsName)} {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			return s.giveUp(used)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = append(s.free, used)
	return nil
}

// giveUp removes a slot. Its number is not used again.
func (s *slots) giveUp(used *slot) error {
	return errors.Join(used.close(), s.layout.discard(used.path))
}

// directory is one of a slot's, as it was when it was last known to be empty.
type directory struct {
	path          string // within the directory of slots
	device, inode uint64 // of the directory that was made; something else may be mounted there, or a link be put there
	changed       unix.Timespec
}

// asMade empties the directory and reports whether it can be used again. One with more in it than a few plain files is
// left to the trash, and so is one that is not the directory that was made.
func (d *directory) asMade(at int, taken time.Time) bool {
	var st unix.Stat_t
	if unix.Fstatat(at, d.path, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Dev != d.device || st.Ino != d.inode {
		return false
	}
	if d.untouched(&st, taken) {
		return true
	}
	fd, err := unix.Openat(at, d.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if !empty(fd) || unix.Fstat(fd, &st) != nil {
		return false
	}
	d.changed = st.Ctim
	return st.Mode&0o7777 == 0o700 && int(st.Uid) == os.Geteuid() && st.Size <= largestDirectory
}

// clockGrain is more than the step of the clock that a file system stamps its changes with.
const clockGrain = 20 * time.Millisecond

// untouched reports whether nothing in the directory, nor its mode, has changed since it was last known to be empty. The
// kernel stamps every change with the time, which nobody can set back. A change within the same step of that clock
// would get the same stamp, so it must be older than the machine.
func (d *directory) untouched(st *unix.Stat_t, taken time.Time) bool {
	return st.Ctim == d.changed && time.Unix(d.changed.Unix()).Add(clockGrain).Before(taken)
}

// empty removes the files in an open directory and reports whether nothing is left.
func empty(fd int) bool {
	buf := make([]byte, 4096)
	for range 4 {
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			return false
		}
		if n == 0 {
			return true
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			if err := unix.Unlinkat(fd, name, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return false
			}
		}
	}
	return false
}

// largestDirectory is the size in bytes above which a directory is not used again: one that has held many files stays
// large, and slow, when they are gone.
const largestDirectory = 64 << 10

// publish writes the record of a machine and gives it the machine's name, or returns fs.ErrExist.
func (s *slot) publish(g *registry, b *birth) error {
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	text = append(text, '\n')
	s.mu.Lock()
	defer s.mu.Unlock()
	// Nobody can read it yet. It is shortened afterwards, not emptied before, which would give its block back.
	if _, err := s.file.WriteAt(text, 0); err != nil {
		return err
	}
	if err := s.file.Truncate(int64(len(text))); err != nil {
		return err
	}
	if err := unix.Linkat(unix.AT_FDCWD, s.path+"/record", g.fd(), b.Name, 0); err != nil {
		return fmt.Errorf("link %s: %w", b.Name, err)
	}
	return nil
}

// end puts the machine's end on record.
func (s *slot) end(e *ending) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	return e.append(int(s.file.Fd()))
}

// named reports whether the record still has the machine's name. If not, somebody has removed the machine.
func (s *slot) named() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var st unix.Stat_t
	return s.file != nil && unix.Fstat(int(s.file.Fd()), &st) == nil && st.Nlink > 1
}

// holds reports whether the machine's name still stands for the record in this slot.
func (s *slot) holds(g *registry, name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var mine, named unix.Stat_t
	return s.file != nil && unix.Fstat(int(s.file.Fd()), &mine) == nil &&
		unix.Fstatat(g.fd(), name, &named, unix.AT_SYMLINK_NOFOLLOW) == nil && mine.Ino == named.Ino && mine.Dev == named.Dev
}

// clear removes what a guest and what it ran have left in the slot's directories, each of which must still be the one that
// was made.
func (s *slot) clear() error {
	if err := detachMounts(s.path); err != nil {
		return fault.Say(fault.Conflict, "What the last job has mounted in its directories cannot be detached: %v.", err)
	}
	for i, path := range []string{s.work, s.tmp, s.scratch} {
		root, err := os.OpenRoot(path)
		if err != nil {
			return fault.Say(fault.Conflict, "The directory %s of the machine cannot be opened: %v.", filepath.Base(path), err)
		}
		err = clearRoot(root, &s.dirs[i])
		root.Close()
		if err != nil {
			return fault.Say(fault.Conflict, "What the last job has left in the directory %s cannot be removed: %v.", filepath.Base(path), err)
		}
	}
	return nil
}

// clearRoot empties a directory that has been opened.
func clearRoot(root *os.Root, d *directory) error {
	list, err := root.Open(".")
	if err != nil {
		return err
	}
	defer list.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(list.Fd()), &st); err != nil {
		return err
	}
	if st.Dev != d.device || st.Ino != d.inode {
		return fs.ErrInvalid // something was put in its place
	}
	names, err := list.Readdirnames(-1)
	for _, name := range names {
		err = errors.Join(err, root.RemoveAll(name))
	}
	return errors.Join(err, list.Chmod(0o700))
}

// close gives up the record and the process group.
func (s *slot) close() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.group != nil {
		err = s.group.Close()
	}
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
	return err
}
