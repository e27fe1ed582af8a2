package link

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

// canWriteRaw is whether try works here.
const canWriteRaw = true

// maxVectors is how many pieces go into one system call.
const maxVectors = 16

// vectors is room for what the kernel is told of the pieces.
type vectors [maxVectors]syscall.Iovec

// try writes the wire's pieces until all are written, or until the socket takes no more. It returns whether it wants
// not to be called again, as syscall.RawConn asks of it.
func (w *wire) try(fd uintptr) bool {
	for len(w.pieces) > 0 {
		n, errno := w.writeOnce(fd)
		switch errno {
		case 0:
			w.consume(n)
		case syscall.EINTR:
		case syscall.EAGAIN:
			if w.patient {
				return false
			}
			w.failure = errFull
			return true
		default:
			w.failure = errno
			return true
		}
	}
	return true
}

func (w *wire) writeOnce(fd uintptr) (int, syscall.Errno) {
	first := w.pieces[0][w.offset:]
	if len(first) == 0 {
		return 0, 0
	}
	if len(w.pieces) == 1 {
		return system(w.hasty, syscall.SYS_WRITE, fd, unsafe.Pointer(&first[0]), len(first))
	}
	w.vectors[0].Base = &first[0]
	w.vectors[0].SetLen(len(first))
	count := 1
	for _, p := range w.pieces[1:] {
		if count == len(w.vectors) {
			break
		}
		if len(p) > 0 {
			w.vectors[count].Base = &p[0]
			w.vectors[count].SetLen(len(p))
			count++
		}
	}
	n, _, errno := syscall.Syscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&w.vectors[0])), uintptr(count))
	clear(w.vectors[:count])
	return int(n), errno
}

// maxHasty is how many bytes are read or written at once past Go's scheduler: to copy more takes too long.
const maxHasty = largeBuffer

// system makes a system call that reads or writes and does not wait, see Link.Hurry.
func system(hasty *atomic.Bool, trap, fd uintptr, data unsafe.Pointer, size int) (int, syscall.Errno) {
	if hasty != nil && size <= maxHasty && hasty.Load() {
		n, _, errno := syscall.RawSyscall(trap, fd, uintptr(data), uintptr(size))
		return int(n), errno
	}
	n, _, errno := syscall.Syscall(trap, fd, uintptr(data), uintptr(size))
	return int(n), errno
}
