package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
)

// startFailed classifies what the fork or the exec answered.
func (g *Group) startFailed(r *spawning) error {
	switch {
	case errors.Is(r.err, unix.ENODEV), errors.Is(r.err, fs.ErrNotExist) && g.removed():
		return fmt.Errorf("process: group %s: %w: its cgroup has been removed", g.name, fault.Conflict)
	case errors.Is(r.err, fs.ErrNotExist) && unix.Access(r.path, unix.F_OK) == nil:
		return fmt.Errorf("process: %w: %w: the interpreter of %s, named in its first line or header, or the directory %s does not exist",
			fault.NotFound, exec.ErrNotFound, r.path, r.attr.Dir)
	case errors.Is(r.err, fs.ErrNotExist), errors.Is(r.err, unix.ENOTDIR): // the path leads through a file
		return fmt.Errorf("process: %w: %w: %s", fault.NotFound, exec.ErrNotFound, r.path)
	case errors.Is(r.err, fs.ErrPermission), errors.Is(r.err, unix.ENOEXEC), errors.Is(r.err, unix.ELOOP):
		return fmt.Errorf("process: %w: %s cannot be executed: %w", fault.NotFound, r.path, r.err)
	case errors.Is(r.err, unix.E2BIG), errors.Is(r.err, unix.ENAMETOOLONG):
		return fmt.Errorf("process: %w: %s: %w", fault.TooLarge, r.tooLong(), r.err)
	case errors.Is(r.err, unix.EAGAIN), errors.Is(r.err, unix.ENOMEM), errors.Is(r.err, unix.EMFILE), errors.Is(r.err, unix.ENFILE):
		return fmt.Errorf("process: start %s: %w: %w", r.path, fault.Exhausted, r.err)
	}
	return fmt.Errorf("process: start %s: %w: %w", r.path, fault.Unavailable, r.err)
}

// removed reports whether somebody has removed the directory that processes are forked into. The kernel answers
// such a fork with the same error as the exec of a program that does not exist. The caller holds mu.
func (g *Group) removed() bool {
	return g.fd >= 0 && unix.Faccessat(g.fd, "cgroup.procs", unix.F_OK, 0) != nil
}

// tooLong says what of a command is longer than the kernel takes. It quotes but the beginning.
func (r *spawning) tooLong() string {
	const longestPath = unix.PathMax - 1 // without the zero byte at its end, as below
	if errors.Is(r.err, unix.ENAMETOOLONG) {
		what, path := "the path of the program", r.path
		if len(r.attr.Dir) > longestPath {
			what, path = "the path of its working directory", r.attr.Dir
		}
		return fmt.Sprintf("%s, %.40q…, has %d bytes; Linux takes %d in a path and on most file systems 255 between two slashes",
			what, path, len(path), longestPath)
	}
	longest := 32*os.Getpagesize() - 1 // in bytes, of one string
	arguments, environment := 0, 0
	for i, argument := range r.argv {
		if len(argument) > longest {
			return fmt.Sprintf("argument %d, %.40q…, has %d bytes, and Linux takes %d in one argument", i, argument, len(argument), longest)
		}
		arguments += len(argument) + 1
	}
	for _, entry := range r.attr.Env {
		if len(entry) > longest {
			name, value, _ := strings.Cut(entry, "=")
			return fmt.Sprintf("the variable %.40q of its environment has %d bytes, and Linux takes %d in one variable, its name included",
				name, len(value), longest)
		}
		environment += len(entry) + 1
	}
	return fmt.Sprintf("%d arguments of %d bytes together and %d variables of its environment of %d bytes are more than Linux takes at once",
		len(r.argv), arguments, len(r.attr.Env), environment)
}
