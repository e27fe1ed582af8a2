package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
)

// lookUp finds the program that c names: a path as it is, relative to Dir, and a plain name in the PATH of Env.
func lookUp(c *Command) (string, error) {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return "", fmt.Errorf("process: %w: no program is named", fault.Invalid)
	}
	name, path := c.Argv[0], ""
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, entry := range c.Env {
		if value, ok := strings.CutPrefix(entry, "PATH="); ok {
			path = value
		}
	}
	found := ""
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue // An empty or relative element would search the working directory, which the machine writes to.
		}
		candidate := dir + "/" + name
		var st unix.Stat_t
		if unix.Stat(candidate, &st) != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
			continue
		}
		if unix.Access(candidate, unix.X_OK) == nil {
			return candidate, nil
		}
		found = candidate
	}
	if found != "" {
		return "", fmt.Errorf("process: %w: %s cannot be executed: %w", fault.NotFound, found, fs.ErrPermission)
	}
	return "", fmt.Errorf("process: %w: %w: %q is not in PATH %q", fault.NotFound, exec.ErrNotFound, name, path)
}

// mostInterpreters is how often the kernel follows the first line of a script to what reads it, and that one's to what
// reads that. Then it refuses.
const mostInterpreters = 5

// readAhead reads what the kernel reads to execute a program: the beginning of its file, and of its interpreter's if it
// has one. What goes wrong is of no interest, as the kernel will meet it too, and say so.
//
// The thread that forks stands still until the program is executed, and takes one of Go's processors with it, which
// are as few as those of the computer: two programs on a file system that does not answer would stop everything here.
// Here such a file system stops the one goroutine that needs it.
func readAhead(dir, path string) {
	for range mostInterpreters {
		if path == "" {
			return
		}
		if !strings.HasPrefix(path, "/") {
			path = dir + "/" + path
		}
		path = interpreter(beginning(path))
	}
}

// beginning returns as much of a file as the kernel looks at to know what it is. To open anything but a file may mean
// something to somebody: whoever writes to a pipe waits for it.
func beginning(path string) []byte {
	var st unix.Stat_t
	if insist(func() error { return unix.Stat(path, &st) }) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	fd := -1
	err := insist(func() (err error) {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var text [256]byte
	n := 0
	_ = insist(func() (err error) { n, err = unix.Pread(fd, text[:], 0); return err })
	return text[:max(n, 0)]
}

// insist calls a function again that a signal has interrupted.
func insist(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// interpreter returns the program that the first line of a script names, or "".
func interpreter(text []byte) string {
	line, isScript := bytes.CutPrefix(text, []byte("#!"))
	if !isScript {
		return ""
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	line = bytes.TrimLeft(line, " \t")
	if end := bytes.IndexAny(line, " \t\x00"); end >= 0 {
		line = line[:end]
	}
	return string(line)
}
