//go:build !linux

package agent

import (
	"os"
	"time"
)

const openSafely = os.O_RDONLY

// BootClock tells the time since the program was started. On this system it may stand still during suspend.
func BootClock() time.Duration { return time.Since(started) }

var started = time.Now()

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
