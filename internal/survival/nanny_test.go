//go:build linux

package survival_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nanny is a process that starts a program and stays the ancestor of everything that comes of it: it is a child
// subreaper, so whatever loses its parent becomes its child. When the test closes its standard input, or dies, the
// nanny kills all of them and ends.
type nanny struct {
	cmd  *exec.Cmd
	hand io.Closer // the nanny's standard input, which it holds on to
	pid  int       // of the program

	ended  chan struct{} // closed when the program has ended
	status syscall.WaitStatus
	over   chan struct{} // closed when the nanny has ended
}

// hire starts a program under a nanny of its own. Its output goes to the file.
func hire(argv, env []string, output *os.File) (*nanny, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	reports, report, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer report.Close()
	n := &nanny{ended: make(chan struct{}), over: make(chan struct{})}
	n.cmd = exec.Command(self, append([]string{helperMark, "nanny"}, argv...)...)
	n.cmd.Env, n.cmd.Stdout, n.cmd.Stderr, n.cmd.ExtraFiles = env, output, output, []*os.File{report}
	// In a process group of its own, so that an interrupt at the terminal reaches it through its standard input only.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if n.hand, err = n.cmd.StdinPipe(); err == nil {
		err = n.cmd.Start()
	}
	if err != nil {
		reports.Close()
		return nil, err
	}
	go func() {
		defer close(n.over)
		_ = n.cmd.Wait() // how the nanny ends says nothing
	}()
	lines := bufio.NewReader(reports)
	if _, err := fmt.Fscanf(lines, "%d\n", &n.pid); err != nil {
		reports.Close()
		return nil, fmt.Errorf("the nanny of %q did not start it: %w", argv, err)
	}
	go func() {
		defer reports.Close()
		if _, err := fmt.Fscanf(lines, "%d\n", &n.status); err == nil {
			close(n.ended)
		}
	}()
	return n, nil
}

// dismiss ends the nanny and everything below it.
func (n *nanny) dismiss() error {
	n.hand.Close()
	select {
	case <-n.over:
		return nil
	case <-time.After(20 * time.Second):
		return fmt.Errorf("nanny %d cannot end what runs below it: %v", n.cmd.Process.Pid, below(n.cmd.Process.Pid))
	}
}

// TestANannyLosesSightOfNobody makes sure that what the other tests rely on is so: that a daemon which has run away from
// its parent and its session is seen, and ended.
func TestANannyLosesSightOfNobody(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "daemon")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	n, err := hire(helper(t, "daemon", file), os.Environ(), null)
	if err != nil {
		t.Fatal(err)
	}
	<-n.ended
	if !n.status.Exited() || n.status.ExitStatus() != 0 {
		t.Errorf("the daemon's first process ended with %s, want exit status 0", describe(n.status))
	}
	var left []osProcess
	eventually(t, 10*time.Second, "the daemon alone is below the nanny", func() error {
		if left = below(n.cmd.Process.Pid); len(left) != 1 || !strings.Contains(left[0].command, "linger") {
			return fmt.Errorf("these are: %v", left)
		}
		return nil
	})
	if err := n.dismiss(); err != nil {
		t.Error(err)
	}
	if p, ok := lookAt(left[0].pid); ok {
		t.Errorf("the daemon has outlived the nanny: %v", p)
	}
}

// mind is what a nanny does.
func mind(argv []string) int {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "nanny:", err)
		return 1
	}
	// Signals are caught and dropped. To ignore them would be inherited by the program.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	unix.CloseOnExec(3)
	report := os.NewFile(3, "report")
	null, err := os.Open(os.DevNull)
	if err != nil {
		fmt.Fprintln(os.Stderr, "nanny:", err)
		return 1
	}
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{null.Fd(), 1, 2}})
	if err != nil {
		fmt.Fprintln(os.Stderr, "nanny:", err)
		return 1
	}
	fmt.Fprintln(report, pid)

	empty, childless := context.WithCancel(context.Background())
	go func() {
		defer childless() // no child is left, and with it nothing that could become one
		for {
			var status syscall.WaitStatus
			ended, err := syscall.Wait4(-1, &status, 0, nil)
			switch {
			case err == syscall.EINTR:
			case err != nil:
				return
			case ended == pid:
				fmt.Fprintln(report, uint32(status))
			}
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
	for empty.Err() == nil {
		for _, p := range below(os.Getpid()) {
			_ = syscall.Kill(p.pid, syscall.SIGKILL) // it may be gone already
		}
		select {
		case <-empty.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	return 0
}
