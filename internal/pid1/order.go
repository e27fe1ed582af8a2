package pid1

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// LastOrder returns the order that a file holds, which whoever gives it writes before the signal [Ordered]. There is none as
// long as there is no file, or "" is its name.
func LastOrder(file string) Order {
	if file == "" {
		return ""
	}
	// What runs in the container as root can put there what it likes. It must not get the first process to wait for it.
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(len(Suspend)+len(Resume))))
	if err != nil {
		return ""
	}
	return Order(text)
}
