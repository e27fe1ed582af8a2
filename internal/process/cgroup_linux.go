package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroup is the directory of one group in one hierarchy.
type cgroup struct {
	path    string
	version int
}

// make makes the directory, and the prefix directory above it when it is missing: whoever removed the last group may
// just have removed that too.
func (c cgroup) make() error {
	for range 3 {
		err := unix.Mkdir(c.path, 0o700)
		if err == nil || err == unix.EEXIST {
			return nil
		}
		if err != unix.ENOENT {
			return &fs.PathError{Op: "mkdir", Path: c.path, Err: err}
		}
		parent := filepath.Dir(c.path)
		if err := unix.Mkdir(parent, 0o700); err != nil && err != unix.EEXIST {
			return &fs.PathError{Op: "mkdir", Path: parent, Err: err}
		}
	}
	return fmt.Errorf("%s: %w", c.path, unix.EAGAIN)
}

// remove removes the directory and what the tree may have made below it. It returns EBUSY while a process is left.
func (c cgroup) remove() error {
	err := unix.Rmdir(c.path)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EBUSY) {
		return &fs.PathError{Op: "rmdir", Path: c.path, Err: err}
	}
	children, err := c.children()
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := child.remove(); err != nil {
			return err
		}
	}
	if err := unix.Rmdir(c.path); err != nil && err != unix.ENOENT {
		return &fs.PathError{Op: "rmdir", Path: c.path, Err: err}
	}
	return nil
}

func (c cgroup) children() ([]cgroup, error) {
	entries, err := os.ReadDir(c.path)
	if err != nil && !gone(err) {
		return nil, err
	}
	var children []cgroup
	for _, e := range entries {
		if e.IsDir() {
			children = append(children, cgroup{filepath.Join(c.path, e.Name()), c.version})
		}
	}
	return children, nil
}

// empty reports whether neither the cgroup nor one below it holds a process.
func (c cgroup) empty() (bool, error) {
	if c.version == 1 {
		pids, err := c.pids()
		return len(pids) == 0, err
	}
	events, err := readFile(c.path + "/cgroup.events")
	if gone(err) {
		return true, nil
	}
	return bytes.Contains(events, []byte("populated 0")), err
}

// pids returns the processes in the cgroup and below it.
func (c cgroup) pids() ([]int, error) {
	text, err := os.ReadFile(c.path + "/cgroup.procs")
	if err != nil && !gone(err) {
		return nil, err
	}
	var pids []int
	for word := range bytes.FieldsSeq(text) {
		if pid, err := strconv.Atoi(string(word)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	children, err := c.children()
	if err != nil {
		return nil, err
	}
	for _, child := range children {
		more, err := child.pids()
		if err != nil {
			return nil, err
		}
		pids = append(pids, more...)
	}
	return pids, nil
}

// kill ends every process in the cgroup, forking ones included, and returns nil once none is left.
func (c cgroup) kill(ctx context.Context) error {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		empty, err := c.empty()
		if err != nil || empty {
			return err
		}
		if err := c.killOnce(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			pids, _ := c.pids()
			return fmt.Errorf("processes %v do not end: %w", pids, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

func (c cgroup) killOnce() error {
	if c.version == 2 {
		err := writeFile(c.path+"/cgroup.kill", "1")
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// Without cgroup.kill a tree that forks faster than it is read would survive, so it is frozen first. Whether
	// that succeeds is no matter: the caller repeats until none is left.
	c.freeze(true)
	defer c.freeze(false)
	pids, err := c.pids()
	for _, pid := range pids {
		_ = c.signal(pid, unix.SIGKILL)
	}
	return err
}

func (c cgroup) freeze(on bool) {
	if c.version == 2 {
		_ = writeFile(c.path+"/cgroup.freeze", map[bool]string{true: "1", false: "0"}[on])
		return
	}
	_ = writeFile(c.path+"/freezer.state", map[bool]string{true: "FROZEN", false: "THAWED"}[on])
}

// signal sends s to a process that was read from the cgroup, unless that process has ended since and its id now
// belongs to one outside.
func (c cgroup) signal(pid int, s unix.Signal) error {
	return signalIf(pid, s, func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		mark := "/" + filepath.Base(filepath.Dir(c.path)) + "/" + filepath.Base(c.path)
		return err == nil && (bytes.Contains(text, []byte(mark+"\n")) || bytes.Contains(text, []byte(mark+"/")))
	})
}

// signalIf sends s to the process that has this id now if it is the right one. A descriptor of the process is held
// meanwhile, so that the process asked about is the one that gets the signal.
func signalIf(pid int, s unix.Signal, right func() bool) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ENOSYS {
		if !right() {
			return nil
		}
		return unix.Kill(pid, s)
	}
	if err != nil {
		return nil // It has ended.
	}
	defer unix.Close(fd)
	if !right() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("signal %d to process %d: %w", s, pid, err)
	}
	return nil
}

// counter returns what a control file of one counter a line says of the one with this name.
func (c cgroup) counter(file, name string) int {
	text, err := readFile(c.path + file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if count, ok := strings.CutPrefix(line, name+" "); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(count))
			return n
		}
	}
	return 0
}

// gone reports whether err says that a cgroup, or a process, does not exist, or was removed while it was read.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH)
}

// readFile and writeFile are os.ReadFile and os.WriteFile for small kernel files, without the poller and in a third
// of the time: they are on the path of every machine.
func readFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return buf[:n], nil
}

func writeFile(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}
