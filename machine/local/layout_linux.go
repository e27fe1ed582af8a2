package local

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// layout is the state directory:
//
//	id                 eight characters that name the directory in cgroups, wherever it is
//	starting           locked by whoever starts a supervisor
//	machines/NAME      a machine: a link to the record in its slot
//	supervisors/7/     the seventh supervisor: lock, info.json, sock, log
//	  slots/17/          the place of one of its machines: record, work, tmp, scratch, output, files
//	                     and, when it is divided, parts/2/: work, tmp, scratch
//	trash/             what is being removed
type layout string

func (l layout) machines() string    { return filepath.Join(string(l), "machines") }
func (l layout) supervisors() string { return filepath.Join(string(l), "supervisors") }
func (l layout) trash() string       { return filepath.Join(string(l), "trash") }
func (l layout) starting() string    { return filepath.Join(string(l), "starting") }

func (l layout) supervisor(number int) string {
	return filepath.Join(string(l), "supervisors", strconv.Itoa(number))
}

func (l layout) slot(supervisor, slot int) string {
	return filepath.Join(l.supervisor(supervisor), "slots", strconv.Itoa(slot))
}

// make makes the directories that are missing.
func (l layout) make() error {
	for _, dir := range []string{string(l), l.machines(), l.supervisors(), l.trash()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// prefix returns the name of the cgroup directory of all machines here. It is made once, so that it stays the same
// when the directory is moved or reached by another path.
//
// It is not flushed to the disk either. A file that is empty, or full of zeros, is what a loss of power has left of one
// that was just made, and is given an id anew: every machine that had its name from there is gone with its boot.
func (l layout) prefix() (string, error) {
	file := filepath.Join(string(l), "id")
	id, err := os.ReadFile(file)
	if unmade(id) && (err == nil || errors.Is(err, fs.ErrNotExist)) {
		id, err = l.makeID(file)
	}
	if err != nil {
		return "", err
	}
	if len(id) != 8 {
		return "", fmt.Errorf("%s holds %q, which is not an id of eight characters; put back what it held, "+
			"or remove the file when no machine of this computer runs", file, id)
	}
	return "dayfly-" + string(id), nil
}

// unmade reports whether the file of the id was never written, as far as the disk knows.
func unmade(id []byte) bool { return len(bytes.Trim(id, "\x00")) == 0 }

// makeID writes the id, unless another process is faster. It writes under a lock into the file itself: a file that is
// put in its place could replace one whose id somebody has just begun to use.
func (l layout) makeID(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
	id, err := io.ReadAll(f)
	if err != nil || !unmade(id) {
		return id, err
	}
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	id = hex.AppendEncode(nil, random[:])
	_, err = f.WriteAt(id, 0)
	return id, err
}

// numbers returns the supervisors that have a directory, newest first.
func (l layout) numbers() ([]int, error) {
	entries, err := os.ReadDir(l.supervisors())
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n > 0 {
			numbers = append(numbers, n)
		}
	}
	slices.SortFunc(numbers, func(a, b int) int { return b - a })
	return numbers, nil
}

// discard moves a file or directory out of the way at once and removes it then. What it leaves, because the process
// ends in between or something stays mounted there, is removed by emptyTrash.
func (l layout) discard(path string) error {
	grave := filepath.Join(l.trash(), rand.Text())
	err := os.Rename(path, grave)
	if errors.Is(err, unix.EBUSY) { // Something is mounted at the path itself.
		if err := detachMounts(path); err != nil {
			return err
		}
		err = os.Rename(path, grave)
	}
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return removeAll(grave)
}

// removeAll is os.RemoveAll also for trees in which a machine has taken away its own right to write, or mounted
// something. It removes nothing as long as something is mounted there.
func removeAll(path string) error {
	if err := detachMounts(path); err != nil {
		return err
	}
	err := os.RemoveAll(path)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(path)
}

func (l layout) emptyTrash() error {
	entries, err := os.ReadDir(l.trash())
	for _, e := range entries {
		err = errors.Join(err, removeAll(filepath.Join(l.trash(), e.Name())))
	}
	return err
}

// info is what a supervisor tells of itself in info.json, beside its lock. It is for people and for finding its
// cgroups: nobody sends a signal to the process id.
type info struct {
	PID      int      `json:"pid"`
	Started  string   `json:"started"` // field 22 of /proc/PID/stat, which tells a reused id from ours
	Boot     string   `json:"boot"`
	Protocol int      `json:"protocol"`
	Program  string   `json:"program"`
	Kill     string   `json:"kill"`   // as in process.Abilities
	Places   []string `json:"places"` // as process.Host.Places
}

func (l layout) info(number int) (*info, error) {
	text, err := os.ReadFile(filepath.Join(l.supervisor(number), "info.json"))
	if err != nil {
		return nil, err
	}
	var i info
	if err := json.Unmarshal(text, &i); err != nil {
		return nil, fmt.Errorf("supervisor %d: info.json: %w", number, err)
	}
	return &i, nil
}

// lock takes the lock on a file for as long as it is open, or returns nil if somebody else has it. The kernel
// releases it when the holder dies, however it dies, and only then.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil, nil
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// alive reports whether the supervisor holds its lock. It asks without taking the lock, so that asking never keeps a
// supervisor from starting.
func (l layout) alive(number int) (bool, error) {
	path := filepath.Join(l.supervisor(number), "lock")
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	held := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &held); err != nil {
		return false, fmt.Errorf("query lock %s: %w", path, err)
	}
	return held.Type != unix.F_UNLCK, nil
}

// bootID names this boot of the computer.
func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// clock is the time since the computer was booted, suspend included. It is the same in every process, and neither
// stops nor jumps.
func clock() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(err) // Only a kernel from before 2011 has no such clock.
	}
	return time.Duration(now.Nano())
}

// program names the program that a file holds now, so that a server which was replaced by a newer one does not hand
// its machines to the older one's supervisor.
func program(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d bytes of %s", st.Size(), st.ModTime().UTC().Format(time.RFC3339Nano)), nil
}
