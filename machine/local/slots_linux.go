package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// slots hands out the directories and records of a supervisor's machines.
//
// When a machine is destroyed its slot is given to the next one. Making and removing a directory takes a fifth of a
// millisecond on a common file system, as long as a third of starting a process, and a file nearly as long; a machine
// has four directories and a file. Emptying them takes a tenth of that, and a link to the file a fiftieth.
type slots struct {
	layout layout
	number int // of the supervisor
	dir    *os.File

	mu   sync.Mutex
	made int     // guarded by mu; slots are numbered from 1
	free []*slot // guarded by mu
}

// slot is the place of one machine.
type slot struct {
	number             int
	path               string
	work, tmp, scratch string

	mu   sync.Mutex
	file *os.File // guarded by mu; the record; nil once the slot is given up
}

func openSlots(l layout, number int) (*slots, error) {
	path := filepath.Join(l.supervisor(number), "slots")
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.Open(path)
	return &slots{layout: l, number: number, dir: dir}, err
}

// close closes the files of the slots that are free, and the directory.
func (s *slots) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, free := range s.free {
		free.close()
	}
	s.dir.Close()
}

// take returns a slot with empty directories.
func (s *slots) take() (*slot, error) {
	s.mu.Lock()
	if last := len(s.free) - 1; last >= 0 {
		taken := s.free[last]
		s.free = s.free[:last]
		s.mu.Unlock()
		return taken, nil
	}
	s.made++
	number := s.made
	s.mu.Unlock()
	path := s.layout.slot(s.number, number)
	made := &slot{
		number: number, path: path,
		work: filepath.Join(path, "work"), tmp: filepath.Join(path, "tmp"), scratch: filepath.Join(path, "scratch"),
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
	file, err := os.OpenFile(filepath.Join(s.path, "record"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file = file
	return err
}

// give takes a slot back whose machine is gone. What the machine left in it is removed; if the directories are not as
// they were made, so are they.
func (s *slots) give(used *slot) error {
	number := strconv.Itoa(used.number)
	for _, dir := range []string{"/work", "/tmp", "/scratch"} {
		if !asMade(int(s.dir.Fd()), number+dir) {
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
	used.close()
	return s.layout.discard(used.path)
}

// asMade empties a directory and reports whether it can be used again. One with more in it than a few plain files is
// left to the trash.
func asMade(at int, path string) bool {
	fd, err := unix.Openat(at, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&0o7777 != 0o700 || int(st.Uid) != os.Geteuid() || st.Size > largestDirectory {
		return false
	}
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

func (s *slot) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}
