package agent

import (
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// openSafely are the flags for opening a file whose name the job chose: a named pipe must not make the agent wait.
const openSafely = os.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY

// BootClock tells the time since the computer was started. Unlike Go's own monotonic clock it goes on while the
// computer is suspended, and unlike the wall clock nobody can set it.
func BootClock() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic("agent: reading CLOCK_BOOTTIME: " + err.Error()) // every Linux since 2.6.39 has it
	}
	return time.Duration(now.Nano())
}

// BootName names the start of the computer since which [BootClock] counts, or "" if that cannot be told. A container whose
// clock begins elsewhere has another name.
func BootName() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	clock, err := os.Readlink("/proc/self/ns/time")
	if err != nil && !errors.Is(err, os.ErrNotExist) { // a Linux before 5.6 has only one
		return ""
	}
	return strings.TrimSpace(string(boot) + clock)
}

// newPipe returns a pipe whose reading end works with Go's poller, so that a quiet command costs no thread, and whose
// writing end is an ordinary blocking one, as programs expect of their output.
func newPipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	if _, err := unix.FcntlInt(uintptr(fds[0]), unix.F_SETFL, unix.O_NONBLOCK); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "output"), os.NewFile(uintptr(fds[1]), "output"), nil
}

// readPipe calls use with each piece it reads until the pipe ends or fails. It borrows a buffer only once there is
// something to read, so that a thousand quiet commands hold no memory.
func readPipe(pipe *os.File, use func([]byte)) error {
	raw, err := pipe.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var failed error
	once := func(fd uintptr) bool {
		buffer := buffers.Get().(*[]byte)
		defer buffers.Put(buffer)
		n, failed = unix.Read(int(fd), *buffer)
		if n > 0 {
			use((*buffer)[:n])
		}
		return !errors.Is(failed, unix.EAGAIN)
	}
	for {
		if err := raw.Read(once); err != nil {
			return err // the deadline passed, or the pipe was closed
		}
		switch {
		case errors.Is(failed, unix.EINTR):
		case failed != nil:
			return os.NewSyscallError("read", failed)
		case n == 0:
			return io.EOF
		}
	}
}

// namelessFile opens a file that is gone when it is closed, and that has no name by which the command could find it,
// not even for a moment where the file system allows that.
func namelessFile(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return unlinkedFile(dir)
	}
	return os.NewFile(uintptr(fd), "spool"), nil
}
