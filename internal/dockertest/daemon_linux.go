package dockertest

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// spawn starts a program that ends with this process.
func spawn(cmd *exec.Cmd) (*daemon, error) {
	// To the kernel it ends with the thread that has started it: so one of them waits for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	started := make(chan error, 1)
	d := &daemon{ended: make(chan struct{})}
	go func() {
		runtime.LockOSThread()
		defer close(d.ended)
		err := cmd.Start()
		d.process = cmd.Process
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ends is in its log
		}
	}()
	return d, <-started
}

// unmount unmounts what a daemon that was killed has left in the engine's directory.
func (e *Engine) unmount() error {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	lines := strings.Split(string(text), "\n")
	var errs []error
	for _, line := range slices.Backward(lines) {
		if words := strings.Fields(line); len(words) > 1 && strings.HasPrefix(words[1], e.dir+"/") {
			errs = append(errs, syscall.Unmount(words[1], syscall.MNT_DETACH))
		}
	}
	return errors.Join(errs...)
}
