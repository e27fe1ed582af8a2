package local

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

// The supervisor's side of what is done to a machine that runs: further commands, signals, suspending.

// maxCommands bounds the further commands that run under one supervisor at once.
const maxCommands = 16

// running returns the cell of a machine that runs.
func (s *supervisor) running(name string) (*cell, error) {
	c := s.cell(name)
	if c == nil || !c.settled() {
		return nil, fmt.Errorf("local: machine %s: %w: this supervisor does not have it", name, fault.NotFound)
	}
	if c.over() || closed(c.unwanted) {
		return nil, fmt.Errorf("local: machine %s: %w: it does not run any more", name, fault.Conflict)
	}
	return c, nil
}

// signal sends a signal to what the machine was started with. An agent is no process of its machine, so what it runs
// gets the signal.
func (s *supervisor) signal(r *signalRequest) error {
	c, err := s.running(r.Machine)
	if err != nil {
		return err
	}
	number := unix.SignalNum(r.Signal)
	if number == 0 {
		return fmt.Errorf("local: machine %s: %w: no signal is called %q", r.Machine, fault.Invalid, r.Signal)
	}
	if c.first == nil {
		err = c.group.Signal(number)
	} else {
		err = c.first.Signal(number)
	}
	if err != nil {
		return fmt.Errorf("local: machine %s: %w", r.Machine, err)
	}
	return nil
}

// suspend halts a machine, or lets it go on.
func (s *supervisor) suspend(r *suspendRequest) error {
	c, err := s.running(r.Machine)
	if err != nil {
		return err
	}
	c.suspending.Lock()
	defer c.suspending.Unlock()
	if r.Resume {
		err = c.group.Resume()
	} else {
		err = c.group.Halt()
	}
	if err != nil {
		return fmt.Errorf("local: machine %s: %w", r.Machine, err)
	}
	c.suspended = !r.Resume
	return nil
}

// enter runs a further command in a machine, in its process group and so within its limits and its end. The files are
// its standard input, output and error. It ends when over is closed, at the latest.
func (s *supervisor) enter(r *enterRequest, files []*os.File, over <-chan struct{}) (*machine.Exit, error) {
	if len(files) != 3 {
		return nil, fmt.Errorf("local: machine %s: %w: %d files came with the command, and not three", r.Machine, fault.Invalid, len(files))
	}
	c, err := s.running(r.Machine)
	if err != nil {
		return nil, err
	}
	select {
	case s.commands <- struct{}{}:
		defer func() { <-s.commands }()
	default:
		return nil, fmt.Errorf("local: machine %s: %w", r.Machine, fault.Say(fault.Exhausted,
			"%d further commands run on this computer already, which is the most; end one, or try again later.", maxCommands))
	}
	p, err := c.startBeside(r, files)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return &machine.Exit{Code: 126, Message: err.Error()}, nil
	case errors.Is(err, fault.NotFound):
		return &machine.Exit{Code: 127, Message: err.Error()}, nil
	case err != nil:
		return nil, fmt.Errorf("local: a command in machine %s: %w", r.Machine, err)
	}
	for _, file := range files {
		file.Close() // so that who reads its output sees its end
	}
	select {
	case <-p.Done():
	case <-over:
	}
	p.EndSession()
	exit, _ := p.Exit()
	if closed(c.unwanted) || c.stopping() {
		return nil, fmt.Errorf("local: a command in machine %s: %w: the machine has ended", r.Machine, fault.Canceled)
	}
	return &exit, nil
}

// startBeside starts the command, unless the machine is suspended.
func (c *cell) startBeside(r *enterRequest, files []*os.File) (*process.Process, error) {
	c.suspending.Lock()
	defer c.suspending.Unlock()
	if c.suspended {
		return nil, fmt.Errorf("%w: the machine is suspended", fault.Conflict)
	}
	dir := r.Dir
	if dir == "" {
		dir = c.slot.work
	}
	// Where an agent has killed what its attempt had left, nothing can be started in the cgroup any more.
	group := c.besideGroup()
	if err := group.Revive(); err != nil && !errors.Is(err, fault.Conflict) {
		return nil, err
	}
	// Somebody may have destroyed the machine from elsewhere: the order is that of bring.
	if c.s.machines.condemned(c.spec.Name) || !c.slot.named() || c.stopping() {
		return nil, fmt.Errorf("%w: the machine has ended", fault.Conflict)
	}
	return group.Start(&process.Command{
		Argv: r.Args, Env: c.entered(r.Env), Dir: dir,
		Stdin: files[0], Stdout: files[1], Stderr: files[2], Terminal: r.Terminal,
	})
}

// entered is the environment of a further command: that of what runs in the machine, but for what the command has of
// its own.
func (c *cell) entered(own map[string]string) []string {
	env := slices.DeleteFunc(c.environment(c.slot.work, c.slot.tmp), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		_, replaced := own[name]
		return replaced
	})
	for _, name := range slices.Sorted(maps.Keys(own)) {
		env = append(env, name+"="+own[name])
	}
	return env
}

// place writes the files that the machine is created with. The file system is everybody's, so their root is a directory
// of the machine's own.
func (c *cell) place() error {
	for _, file := range c.spec.Files {
		path := filepath.Join(c.slot.files, file.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		mode := fs.FileMode(file.Mode)
		if mode == 0 {
			mode = 0o644
		}
		if err := os.WriteFile(path, file.Data, 0o600); err != nil {
			return err
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
	}
	return nil
}

// rights is a connection that may carry open files beside its frames. They are kept until they are taken, or the
// connection ends.
type rights struct {
	*net.UnixConn

	mu    sync.Mutex
	files []*os.File // guarded by mu
}

// maxRights is how many files may come with one frame.
const maxRights = 3

// Read reads from the connection, and keeps the files that come with what it reads.
func (r *rights) Read(buf []byte) (int, error) {
	side := make([]byte, unix.CmsgSpace(4*maxRights))
	n, sideN, _, _, err := r.ReadMsgUnix(buf, side)
	if sideN > 0 {
		r.keep(side[:sideN])
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	return n, err
}

func (r *rights) keep(side []byte) {
	messages, err := unix.ParseSocketControlMessage(side)
	if err != nil {
		return
	}
	for _, message := range messages {
		numbers, err := unix.ParseUnixRights(&message)
		if err != nil {
			continue
		}
		r.mu.Lock()
		for _, fd := range numbers {
			unix.CloseOnExec(fd)
			r.files = append(r.files, os.NewFile(uintptr(fd), "command"))
		}
		surplus := r.files[min(len(r.files), maxRights):]
		r.files = r.files[:len(r.files)-len(surplus)]
		r.mu.Unlock()
		for _, file := range surplus {
			file.Close()
		}
	}
}

// take hands over the files that have come.
func (r *rights) take() []*os.File {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.files
	r.files = nil
	return taken
}
