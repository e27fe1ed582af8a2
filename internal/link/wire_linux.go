package link

import (
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
		n, _, errno := syscall.Syscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&first[0])), uintptr(len(first)))
		return int(n), errno
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
