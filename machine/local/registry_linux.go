package local

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// registry is the directory of the machines. A machine exists as long as its name is there.
//
// The name is a hard link to the record in the machine's slot. Making a link fails if the name exists, which is what
// makes a name unique among supervisors; and the record is complete before it has the name. Nothing is flushed to
// the disk: after a loss of power every machine is gone with the boot it belonged to.
//
// NAME.condemned beside NAME says that somebody else than the machine's supervisor is destroying it: the supervisor
// must not start anything any more, nor use the slot again.
type registry struct {
	path string
	dir  *os.File
}

func openRegistry(l layout) (*registry, error) {
	dir, err := os.Open(l.machines())
	if err != nil {
		return nil, err
	}
	return &registry{path: l.machines(), dir: dir}, nil
}

func (g *registry) close() error { return g.dir.Close() }

func (g *registry) fd() int { return int(g.dir.Fd()) }

const condemnation = ".condemned"

func (g *registry) failed(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: g.path + "/" + name, Err: err}
}

// names returns the machines there are, and the condemnations.
func (g *registry) names() (names, condemned []string, err error) {
	dir, err := os.Open(g.path)
	if err != nil {
		return nil, nil, err
	}
	defer dir.Close()
	all, err := dir.Readdirnames(-1)
	for _, name := range all {
		if of, ok := strings.CutSuffix(name, condemnation); ok {
			condemned = append(condemned, of)
		} else {
			names = append(names, name)
		}
	}
	return names, condemned, err
}

// read returns the record of a machine, or fs.ErrNotExist.
func (g *registry) read(name string) (*record, error) {
	fd, err := unix.Openat(g.fd(), name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, g.failed("open", name, err)
	}
	defer unix.Close(fd)
	text, err := readAll(fd)
	if err != nil {
		return nil, g.failed("read", name, err)
	}
	r, err := parseRecord(name, text)
	if err != nil {
		return nil, g.failed("read", name, err)
	}
	return r, nil
}

// spoiled reports whether the record of a machine certainly makes no sense, and what the file was like then. What a
// supervisor is writing at this moment makes none either: it writes a file again that a machine before has left, which
// somebody may still be reading by the old name. It does so only while the file has no name here, and to take and to
// give a name is a change which the kernel stamps. So a file is spoiled that had the name all the time it was read, and
// whose last change was neither then nor within the step of the clock before.
func (g *registry) spoiled(name string) (st unix.Stat_t, certain bool, err error) {
	fd, err := unix.Openat(g.fd(), name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return st, false, g.failed("open", name, err)
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &st); err != nil {
		return st, false, g.failed("stat", name, err)
	}
	recent := time.Since(time.Unix(st.Ctim.Unix())).Abs() <= clockGrain
	text, err := readAll(fd)
	if err != nil {
		return st, false, g.failed("read", name, err)
	}
	_, err = parseRecord(name, text)
	return st, errors.Is(err, errSpoiled) && !recent && g.unchanged(name, &st), nil
}

// unchanged reports whether a name stands for the same file as before, with nothing changed.
func (g *registry) unchanged(name string, before *unix.Stat_t) bool {
	var now unix.Stat_t
	return g.stands(name, before, &now) && now.Ctim == before.Ctim
}

// stands reports whether a name stands for a file, and what that is like now.
func (g *registry) stands(name string, file, now *unix.Stat_t) bool {
	return unix.Fstatat(g.fd(), name, now, unix.AT_SYMLINK_NOFOLLOW) == nil && now.Ino == file.Ino && now.Dev == file.Dev
}

// maxRecord is how much of a record is read: more than the longest labels and messages take.
const maxRecord = 256 << 10

// readAll reads a file, or so much of one that is too large for a record that parseRecord sees it.
func readAll(fd int) ([]byte, error) {
	text := make([]byte, 1024)
	for length := 0; ; {
		n, err := unix.Pread(fd, text[length:], int64(length))
		if err == unix.EINTR {
			continue
		}
		if length += max(n, 0); err != nil || n == 0 || length > maxRecord {
			return text[:length], err
		}
		if length == len(text) {
			text = slices.Grow(text, length)[:2*length]
		}
	}
}

// end puts the end of a machine on record that has no supervisor to do it.
func (g *registry) end(b *birth, e *ending) error {
	fd, err := unix.Openat(g.fd(), b.Name, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return g.failed("open", b.Name, err)
	}
	defer unix.Close(fd)
	e.Of = b.Clock
	if err := e.append(fd); err != nil {
		return g.failed("write", b.Name, err)
	}
	return nil
}

// remove removes a machine's name, unless it is another machine's by now. One could be made between looking and
// removing; its supervisor would notice that the name is gone and end it, which is safe.
func (g *registry) remove(b *birth) error {
	r, err := g.read(b.Name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !r.same(b) {
		return nil
	}
	return g.unlink(b.Name)
}

// unlink removes a name whatever it stands for.
func (g *registry) unlink(name string) error {
	if err := unix.Unlinkat(g.fd(), name, 0); err != nil && err != unix.ENOENT {
		return g.failed("remove", name, err)
	}
	return nil
}

// condemn marks a machine. It returns false if the machine is gone, because its supervisor was faster.
func (g *registry) condemn(b *birth) (bool, error) {
	if err := g.mark(b.Name); err != nil {
		return false, err
	}
	r, err := g.read(b.Name)
	if err == nil && r.same(b) {
		return true, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return false, g.pardon(b.Name)
}

// mark makes the mark, whatever the name stands for.
func (g *registry) mark(name string) error {
	fd, err := unix.Openat(g.fd(), name+condemnation, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return g.failed("create", name+condemnation, err)
	}
	return unix.Close(fd)
}

// condemned reports whether a machine of that name is marked. If nobody can tell, it is.
func (g *registry) condemned(name string) bool {
	return unix.Faccessat(g.fd(), name+condemnation, unix.F_OK, 0) != unix.ENOENT
}

// pardon removes the mark.
func (g *registry) pardon(name string) error { return g.unlink(name + condemnation) }
