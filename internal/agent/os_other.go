//go:build !linux

package agent

import (
	"os"
	"time"
)

const openSafely = os.O_RDONLY

// BootClock tells some time, so that the package builds. Nothing can be started on this system: package process is for
// Linux.
func BootClock() time.Duration { return time.Duration(time.Now().UnixNano()) }

// BootName is "": nobody knows what BootClock counts from.
func BootName() string { return "" }

func newPipe() (r, w *os.File, err error) { return os.Pipe() }

func readPipe(pipe *os.File, use func([]byte)) error {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	for {
		n, err := pipe.Read(*buffer)
		if n > 0 {
			use((*buffer)[:n])
		}
		if err != nil {
			return err
		}
	}
}

// namelessFile opens a file that is gone when it is closed.
func namelessFile(dir string) (*os.File, error) { return unlinkedFile(dir) }
