// Package pid1 runs a program as the first process of a container: it reaps whatever is left to it, passes signals on, and
// ends everything when the machine's lifetime is over, whoever is still watching from outside.
package pid1

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/machine"
)

// grace is how long what runs in a machine may go on after it was told to end because the machine's lifetime is over.
const grace = 5 * time.Second

// maxSleep is the longest time between two looks at the clock: Go's timers stand still while a computer is suspended.
const maxSleep = 10 * time.Second

// look is how often it is asked whether the container was removed.
const look = 2 * time.Second

// What a shell makes the exit status of a program that it cannot execute, of one that it does not find, and of one that
// was ended by a signal, to which the signal's number is added.
const (
	statusNotExecutable = 126
	statusNotFound      = 127
	statusSignaled      = 128
)

// Telling is the least exit status that says that there may be more to know of an end than the status. Every end of which
// there is has at least this one.
const Telling = 125

// Ordered is the signal by which [Run] is told that there is a new [Order]. It does not say which: two signals come in the
// order of their numbers and not in that in which they were sent, and two of one number come as one.
const Ordered = syscall.Signal(35)

// Order is what is to be done with everything in the container but its first process, which goes on watching over the
// lifetime. A container that is frozen from outside would have nobody who ends it.
type Order string

// The orders that there are. Any other is none.
const (
	Suspend Order = "suspend" // halt
	Resume  Order = "resume"  // go on
)

// firstMeant is what is added to the number of a signal, from SIGQUIT's on, by who means it for the program: this process
// cannot tell some from its own affairs, and would obey others itself. The kernel's real-time signals stand for them.
const firstMeant = 33

// Status returns the status to exit with after a program ended so: its own, or what a shell would make of it.
func Status(exit *machine.Exit) int {
	switch {
	case exit.Code < 0:
		return statusSignaled + int(unix.SignalNum(exit.Signal))
	case exit.Expired && exit.Code < Telling:
		return statusSignaled + int(syscall.SIGTERM)
	}
	return exit.Code
}

// Run starts the program, found in PATH, in this process's own directory and environment, and returns how it ended, when it
// has, the lifetime is over, or removed reports that the container is no more, which is asked every few seconds. The order is
// the last that was given; it is asked for with every signal [Ordered], and at first, as one may have been given before
// there was anybody to hear that signal. The clock is one that goes on while the computer is suspended. Run belongs in a
// program of its own: it takes the signals and the children of its process.
func Run(argv []string, lifetime time.Duration, clock func() time.Duration, removed func() bool, order func() Order) machine.Exit {
	end := clock() + lifetime
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	path, err := exec.LookPath(argv[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return notStarted(argv[0], err)
	}
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		return notStarted(path, err)
	}
	ended := make(chan syscall.WaitStatus, 1)
	go reap(pid, ended)
	carryOut(pid, order())
	timer := time.NewTimer(min(lifetime, maxSleep))
	defer timer.Stop()
	looking := time.NewTicker(look)
	defer looking.Stop()
	expired := false
	for {
		select {
		case status := <-ended:
			exit := machine.Exit{Code: status.ExitStatus(), Expired: expired}
			if status.Signaled() {
				exit.Code, exit.Signal = -1, unix.SignalName(status.Signal())
			}
			return exit
		case s := <-signals:
			if s == Ordered {
				carryOut(pid, order())
			} else {
				pass(pid, s)
			}
		case <-timer.C:
		case <-looking.C:
			if removed() {
				_ = syscall.Kill(everybody(pid), syscall.SIGKILL)
				return machine.Exit{Code: -1, Signal: "SIGKILL", Message: "The container was removed."}
			}
		}
		switch left := end - clock(); {
		case left > 0:
			timer.Reset(min(left, maxSleep))
		case !expired:
			expired = true
			_ = syscall.Kill(everybody(pid), syscall.SIGTERM) // who is not there any more needs no signal
			_ = syscall.Kill(everybody(pid), syscall.SIGCONT) // and who is suspended has to hear of it
			end += grace
			timer.Reset(grace)
		default:
			_ = syscall.Kill(everybody(pid), syscall.SIGKILL)
			return machine.Exit{Code: -1, Signal: "SIGKILL", Expired: true}
		}
	}
}

// everybody is whom to send what is for all processes of the machine. Only the first process of a machine may mean all
// processes there are.
func everybody(pid int) int {
	if os.Getpid() == 1 {
		return -1
	}
	return pid
}

// carryOut does what was ordered; doing so again changes nothing.
func carryOut(pid int, order Order) {
	switch order {
	case Suspend:
		_ = syscall.Kill(everybody(pid), syscall.SIGSTOP) // who is not there any more has nothing to halt
	case Resume:
		_ = syscall.Kill(everybody(pid), syscall.SIGCONT)
	}
}

// pass passes on a signal to this process. Whoever it is sent to may just have ended.
func pass(pid int, s os.Signal) {
	number, ok := s.(syscall.Signal)
	switch {
	case !ok:
	case number > firstMeant:
		_ = syscall.Kill(pid, number-firstMeant)
	case number == syscall.SIGCHLD, number == syscall.SIGURG, number == syscall.SIGPIPE, number == syscall.SIGCONT:
		// The kernel and Go send these to this process, for reasons of its own; and somebody who had halted it lets it go on,
		// which must not wake what was suspended.
	default:
		_ = syscall.Kill(pid, number)
	}
}

// reap waits for whatever ends, and tells how the process pid did.
func reap(pid int, ended chan<- syscall.WaitStatus) {
	for {
		var status syscall.WaitStatus
		found, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return // there is nobody left to wait for, pid included
		case found == pid:
			ended <- status
			if os.Getpid() != 1 {
				return
			}
		}
	}
}

// notStarted is the end of a program that could not be started.
func notStarted(program string, err error) machine.Exit {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return machine.Exit{Code: statusNotFound, Message: fmt.Sprintf("The program %q was not found; check its spelling, or use an image that has it.", program)}
	}
	if e, ok := errors.AsType[*exec.Error](err); ok {
		err = e.Err
	}
	return machine.Exit{Code: statusNotExecutable, Message: fmt.Sprintf("The program %q cannot be executed: %v.", program, err)}
}
