package process

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/machine"
)

// Process is one process that was started in a [Group]. It is safe for concurrent use.
type Process struct {
	group *Group
	pid   int
	dir   string
	done  chan struct{}

	reaping sync.Mutex // held while the process is waited for, and while it is sent a signal
	reaped  bool       // guarded by reaping: its id may be another's by now

	exit  machine.Exit // set before done is closed
	usage Usage        // set before done is closed
}

// Pid returns its process id. Once the process has ended the id may belong to somebody else.
func (p *Process) Pid() int { return p.pid }

// Done is closed when this process itself has ended; descendants may live on.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit waits until the process has ended, and says how it ended and what it used. OOMKilled and DiskFull are set only
// on a failure.
func (p *Process) Exit() (machine.Exit, Usage) {
	<-p.done
	return p.exit, p.usage
}

func (p *Process) hasEnded() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// wait reaps the process. The runtime's poller watches the process's descriptor, so that a thousand processes that
// run cost a thousand goroutines and not a thousand threads. Without descriptors (before Linux 5.4) a thread waits.
func (p *Process) wait(pidfd int) {
	var status syscall.WaitStatus
	var usage syscall.Rusage
	reap := func() bool {
		p.reaping.Lock()
		defer p.reaping.Unlock()
		for {
			pid, err := syscall.Wait4(p.pid, &status, syscall.WNOHANG, &usage)
			if err != syscall.EINTR {
				p.reaped = pid == p.pid || err != nil
				return p.reaped
			}
		}
	}
	if pidfd < 0 || !awaitReadable(pidfd, reap) {
		for {
			var info unix.Siginfo
			err := unix.Waitid(unix.P_PID, p.pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
			if err != unix.EINTR && reap() {
				break
			}
		}
	}
	p.usage = Usage{
		MaxRSSKB: beyondOwn(usage.Maxrss),
		User:     time.Duration(usage.Utime.Nano()),
		System:   time.Duration(usage.Stime.Nano()),
	}
	p.exit = p.group.classify(status, p.dir)
	p.group.host.ended()
	close(p.done)
}

// beyondOwn returns the largest resident set of a process, or 0 if that may be this program's. Between the fork and the
// exec the two share their memory, and Linux counts all of it as the child's.
func beyondOwn(kilobytes int64) int64 {
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil || kilobytes <= own.Maxrss {
		return 0
	}
	return kilobytes
}

// awaitReadable calls ready, and calls it again each time the descriptor becomes readable, until it reports true. It
// closes the descriptor. It returns false if the poller cannot watch it.
func awaitReadable(fd int, ready func() bool) bool {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return false
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	return raw.Read(func(uintptr) bool { return ready() }) == nil
}

// classify tells how a process ended, and whether memory or disk was the reason.
func (g *Group) classify(status syscall.WaitStatus, dir string) machine.Exit {
	exit := machine.Exit{Code: status.ExitStatus()}
	if status.Signaled() {
		exit.Code = -1
		exit.Signal = unix.SignalName(status.Signal())
	}
	if exit.OK() {
		return exit
	}
	// Where one group cannot be told from the others by what the kernel has killed, it is only if it looks like it. A shell
	// says 137 of a command that was killed.
	exit.OOMKilled = g.OOMKilled() && (!g.confused() || exit.Signal == "SIGKILL" || exit.Code == 128+int(unix.SIGKILL))
	exit.DiskFull = exit.Signal == "SIGXFSZ" || g.diskFull(dir)
	switch {
	case exit.OOMKilled && g.size.MemoryMB > 0:
		exit.Message = "The kernel killed it because it needed more memory than the machine has."
	case exit.DiskFull && g.size.DiskMB > 0:
		exit.Message = "It failed when it had used up the disk space of the machine."
	case exit.DiskFull:
		exit.Message = "It failed while the file system it works in was full."
	case g.outOfProcesses():
		exit.Message = fmt.Sprintf("It failed after it had reached its limit of %d processes and threads; give it more, or make it start fewer.", g.size.Processes)
	}
	return exit
}
