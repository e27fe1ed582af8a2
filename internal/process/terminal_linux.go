package process

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
)

// OpenTerminal makes a terminal of so many columns and rows. What a person would see is read from the first file and
// what he types is written to it; the second is for a [Command] with Terminal. Both are the caller's to close. Reading
// the first ends with an error once nobody has the second open any more.
//
// fault.Unavailable: this computer gives no terminal.
func OpenTerminal(columns, rows int) (person, program *os.File, err error) {
	story := func(err error) error { return fmt.Errorf("process: no terminal: %w: %w", fault.Unavailable, err) }
	// Opened by hand, because the runtime's poller must watch it: who reads it is woken when it is closed.
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, story(&os.PathError{Op: "open", Path: "/dev/ptmx", Err: err})
	}
	person = os.NewFile(uintptr(fd), "/dev/ptmx")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = ResizeTerminal(person, columns, rows)
	}
	if err == nil {
		program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		person.Close()
		return nil, nil, story(err)
	}
	return person, program, nil
}

// ResizeTerminal tells a terminal, and the programs in it, the size of its window. The file is the first of
// [OpenTerminal].
func ResizeTerminal(person *os.File, columns, rows int) error {
	raw, err := person.SyscallConn()
	if err != nil {
		return err
	}
	size := &unix.Winsize{Col: uint16(min(max(columns, 1), 1<<16-1)), Row: uint16(min(max(rows, 1), 1<<16-1))}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
	return errors.Join(err, failed)
}
