package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly"
)

// service is a server that runs for one measurement: Dayfly's, or one that it is compared with.
type service struct {
	name    string
	address string // host:port
	shop    *workshop
	command *exec.Cmd
	logs    *tail
	ended   chan struct{} // closed when the process has ended
}

// The patience with a server.
const (
	startPatience = 20 * time.Second
	stopPatience  = 10 * time.Second
)

// serveDayfly starts "dayfly serve" with default settings, and the given arguments, on a free port, with a directory of its
// own.
func (w *workshop) serveDayfly(ctx context.Context, more ...string) (*service, error) {
	dir, err := w.place("dayfly")
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return w.serve(ctx, "dayfly serve", address, dir, w.dayfly,
		append([]string{"serve", "--listen", address, "--data-dir", filepath.Join(dir, "data")}, more...)...)
}

// serveMinimal starts the obvious program; see minimal.go. Without workers it only keeps what is submitted.
func (w *workshop) serveMinimal(ctx context.Context, workers int) (*service, error) {
	dir, err := w.place("minimal")
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return w.serve(ctx, "the minimal program", address, dir, w.self, "minimal", address, dir, fmt.Sprint(workers))
}

// serveFiles starts the bare file server; see files.go.
func (w *workshop) serveFiles(ctx context.Context, careful bool) (*service, error) {
	dir, err := w.place("files")
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return w.serve(ctx, "the file server", address, dir, w.self, "files", address, dir, fmt.Sprint(careful))
}

// freeAddress returns an address on loopback that nobody listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// serve starts a program and returns when it accepts connections and answers. The caller stops it.
func (w *workshop) serve(ctx context.Context, name, address, dir, program string, args ...string) (*service, error) {
	s := &service{
		name: name, address: address, shop: w,
		command: exec.Command(program, args...), logs: &tail{}, ended: make(chan struct{}),
	}
	s.command.Dir, s.command.Env = dir, w.environ(dir)
	s.command.Stdout, s.command.Stderr = s.logs, s.logs
	// Ctrl-C at the terminal is for this program, which then stops its servers in order.
	s.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.command.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		_ = s.command.Wait() // how it ended is in what it has logged
		close(s.ended)
	}()
	if err := s.awaitReady(ctx); err != nil {
		s.close()
		return nil, fmt.Errorf("starting %s: %w; it said: %s", name, err, s.logs)
	}
	return s, nil
}

func (s *service) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startPatience, fmt.Errorf("it did not answer within %v", startPatience))
	defer cancel()
	for {
		if s.answers(ctx) {
			return nil
		}
		select {
		case <-s.ended:
			return errors.New("it has ended")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (s *service) answers(ctx context.Context) bool {
	w, err := dial(ctx, s.address)
	if err != nil {
		return false
	}
	defer w.close()
	status, _, err := w.do("GET", "/v1/jobs?limit=1", "", nil)
	return err == nil && status < 500
}

// close ends the server and everything it has started, and removes its directory. Jobs and those that look after them
// are not the server's children, on purpose: they would go on without it.
func (s *service) close() {
	_ = s.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(stopPatience):
		_ = s.command.Process.Kill()
		<-s.ended
	}
	s.shop.end(func() []int {
		return slices.DeleteFunc(processesBelow(s.shop.dir), func(pid int) bool { return !belongsTo(pid, s.command.Dir) })
	})
	_ = os.RemoveAll(s.command.Dir) // what is left goes with the workshop
}

// pid is the server's process.
func (s *service) pid() int { return s.command.Process.Pid }

// supervisors are the processes that look after the server's machines: they run Dayfly's programs and belong to it.
func (s *service) supervisors() []int {
	return slices.DeleteFunc(processesBelow(s.shop.dir), func(pid int) bool {
		program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		return err != nil || pid == s.pid() || program != s.shop.dayfly && program != s.shop.agent || !belongsTo(pid, s.command.Dir)
	})
}

// belongsTo reports whether a process works for the server whose directory is dir: it was started with the
// environment that the server was given, or works in the directory, or has a path in it among its arguments.
func belongsTo(pid int, dir string) bool {
	for _, file := range []string{"cmdline", "environ"} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err == nil && bytes.Contains(data, []byte(dir)) {
			return true
		}
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	return err == nil && strings.HasPrefix(cwd+"/", dir+"/")
}

// cpu is how much processor time the server and its supervisors have used, and how much the commands that they ran.
func (s *service) cpu() (own, commands time.Duration) {
	own, commands = cpuOf(s.pid())
	for _, pid := range s.supervisors() {
		o, c := cpuOf(pid)
		own, commands = own+o, commands+c
	}
	return own, commands
}

// client returns Dayfly's own client of the server.
func (s *service) client() (*dayfly.Client, error) {
	return dayfly.NewClient("http://"+s.address, &dayfly.ClientOptions{Patience: -1})
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

// tailSize is how many bytes a tail keeps.
const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	if surplus := len(t.kept) - tailSize; surplus > 0 {
		t.kept = append(t.kept[:0], t.kept[surplus:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.kept) == 0 {
		return "nothing"
	}
	return string(bytes.TrimSpace(t.kept))
}
