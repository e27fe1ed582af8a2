package pid1

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exec becomes the program, found in PATH, in the directory, if it is not "", and on a terminal of so many columns and rows,
// if they are not 0. It returns only if that cannot be, with the status that a shell would exit with, and why.
func Exec(argv []string, dir string, columns, rows int) (status int, err error) {
	if columns > 0 && rows > 0 {
		size := &unix.Winsize{Col: uint16(min(columns, 1<<16-1)), Row: uint16(min(rows, 1<<16-1))}
		if err := unix.IoctlSetWinsize(0, unix.TIOCSWINSZ, size); err != nil {
			return statusNotExecutable, fmt.Errorf("the terminal cannot be given a size: %w", err)
		}
	}
	if dir != "" {
		if err := os.Chdir(dir); err != nil {
			return statusNotExecutable, err
		}
		if err := os.Setenv("PWD", dir); err != nil {
			return statusNotExecutable, err
		}
	}
	path, err := exec.LookPath(argv[0])
	if err == nil || errors.Is(err, exec.ErrDot) {
		err = syscall.Exec(path, argv, os.Environ())
	}
	exit := notStarted(argv[0], err)
	return exit.Code, errors.New(exit.Message)
}
