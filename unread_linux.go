package dayfly

import (
	"os"
	"syscall"
	"unsafe"
)

// unread returns how many bytes wait in a pipe.
func unread(pipe *os.File) int {
	raw, err := pipe.SyscallConn()
	if err != nil {
		return 0
	}
	waiting := int32(0)
	_ = raw.Control(func(fd uintptr) { // a pipe that is closed has none
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCINQ, uintptr(unsafe.Pointer(&waiting)))
	})
	return int(waiting)
}
