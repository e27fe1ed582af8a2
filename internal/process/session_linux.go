package process

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
)

// Signal sends s to this process alone. fault.Conflict if it has ended, fault.Unavailable if the kernel refuses.
func (p *Process) Signal(s unix.Signal) error {
	p.reaping.Lock()
	defer p.reaping.Unlock()
	if p.reaped {
		return fmt.Errorf("process: %w: it has ended", fault.Conflict)
	}
	if err := unix.Kill(p.pid, s); err != nil {
		return fmt.Errorf("process: signal %d to process %d: %w: %w", s, p.pid, fault.Unavailable, err)
	}
	return nil
}

// EndSession kills this process and what is left in the session that it was started in, such as the jobs of a shell. It
// tries for a while, and is not what a tree is ended with: who has left the session lives on until the group is killed.
func (p *Process) EndSession() {
	_ = p.Signal(unix.SIGKILL) // or it has ended
	for range 20 {
		left := false
		names, err := readNames("/proc")
		if err != nil {
			return
		}
		for _, name := range names {
			pid, err := strconv.Atoi(name)
			if err != nil {
				continue
			}
			if e, ok := readEntry(pid); ok && e.session == p.pid && e.pid != p.pid && !p.idReused() {
				left = true
				_ = e.signal(unix.SIGKILL)
			}
		}
		if !left {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// idReused reports whether the process has ended and its id is another's: then its session is over, too, as the
// kernel gives no id away that is still a session's.
func (p *Process) idReused() bool {
	p.reaping.Lock()
	reaped := p.reaped
	p.reaping.Unlock()
	_, there := readEntry(p.pid)
	return reaped && there
}

func readNames(path string) ([]string, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}
