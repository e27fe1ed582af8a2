package call

import (
	"os"
	"syscall"
	"unsafe"
)

// pollable is the kernel's struct pollfd.
type pollable struct {
	fd       int32
	events   int16
	happened int16
}

// pollIn is the kernel's POLLIN.
const pollIn = 1

// unreadOf returns a function that reports whether something waits in one of the pipes, which must stay open. It is asked for every call,
// so it makes one system call for all pipes, and past Go's scheduler, since it does not wait.
func unreadOf(pipes ...*os.File) (func() bool, error) {
	var template [2]pollable
	for i, pipe := range pipes {
		raw, err := pipe.SyscallConn()
		if err != nil {
			return nil, err
		}
		if err := raw.Control(func(fd uintptr) { template[i] = pollable{fd: int32(fd), events: pollIn} }); err != nil {
			return nil, err
		}
	}
	return func() bool {
		now := template
		var atOnce syscall.Timespec
		_, _, errno := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&now)), uintptr(len(pipes)), uintptr(unsafe.Pointer(&atOnce)), 0, 0, 0)
		return errno == 0 && (now[0].happened|now[1].happened)&pollIn != 0
	}, nil
}
