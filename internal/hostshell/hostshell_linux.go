package hostshell

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// Shell runs programs. Dir is where each machine gets a folder of its own to work in. It is safe for concurrent use.
type Shell struct {
	Dir string
}

// Guest is a memmachine.Guest: it runs the Command of the machine's Spec.
func (s *Shell) Guest(ctx context.Context, spec *machine.Spec) machine.Exit {
	inside := memmachine.In(ctx)
	signals := inside.Signals()
	c, err := s.command(spec, &machine.Command{Args: spec.Command})
	if err != nil {
		return machine.Exit{Code: -1, Message: err.Error()}
	}
	c.Stdout, c.Stderr = inside.Stdout(), inside.Stderr()
	if err := c.Start(); err != nil {
		return machine.Exit{Code: -1, Message: err.Error()}
	}
	ended := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for {
			select {
			case name := <-signals:
				_ = c.Process.Signal(unix.SignalNum(name)) // one that has ended is over in a moment
			case <-ctx.Done():
				kill(c)
				return
			case <-ended:
				return
			}
		}
	})
	err = c.Wait()
	close(ended)
	group.Wait()
	kill(c) // what it has left in its group
	return *exitOf(c, err)
}

// Exec is the Exec of memmachine.Options.
func (s *Shell) Exec(ctx context.Context, spec *machine.Spec, cmd *machine.Command) (*machine.Exit, error) {
	if cmd.User != "" {
		return nil, fault.Say(fault.Unsupported, "Programs here run as who runs the tests.")
	}
	c, err := s.command(spec, cmd)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return &machine.Exit{Code: 127, Message: err.Error()}, nil
	}
	if err != nil {
		return nil, err
	}
	c.WaitDelay = time.Second // for what it leaves behind with its output open
	var after func()
	if cmd.Terminal {
		after, err = inTerminal(ctx, c, cmd)
	} else {
		c.Stdout, c.Stderr = cmd.Stdout, cmd.Stderr
		after, err = withInput(c, cmd.Stdin)
	}
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { kill(c) })
	defer stop()
	err = c.Wait()
	after()
	return exitOf(c, err), nil
}

// command returns what is to be started, in the machine's folder and with its environment.
func (s *Shell) command(spec *machine.Spec, cmd *machine.Command) (*exec.Cmd, error) {
	path, err := exec.LookPath(cmd.Args[0])
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(s.Dir, spec.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	env := map[string]string{"PATH": os.Getenv("PATH"), "HOME": dir, "DAYFLY_MACHINE": spec.Name}
	for _, file := range spec.Files {
		env["DAYFLY_FILES"] = filepath.Join(dir, "files")
		if err := place(filepath.Join(dir, "files", file.Path), file); err != nil {
			return nil, err
		}
	}
	maps.Copy(env, spec.Env)
	maps.Copy(env, cmd.Env)
	c := exec.CommandContext(context.Background(), path, cmd.Args[1:]...) // its whole group is killed instead
	c.Dir = dir
	if cmd.Dir != "" {
		c.Dir = cmd.Dir
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		c.Env = append(c.Env, name+"="+env[name])
	}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return c, nil
}

// place writes a file that the machine is created with.
func place(path string, file machine.File) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	mode := fs.FileMode(file.Mode)
	if mode == 0 {
		mode = 0o644
	}
	return os.WriteFile(path, file.Data, mode)
}

// withInput starts a command whose input may never end: nobody waits for that.
func withInput(c *exec.Cmd, input io.Reader) (after func(), err error) {
	stdin, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer stdin.Close()
		_, _ = io.Copy(stdin, input) // a program need not read
	}()
	return func() {}, nil
}

// inTerminal starts a command in a terminal, and relays that.
func inTerminal(ctx context.Context, c *exec.Cmd, cmd *machine.Command) (after func(), err error) {
	window, err := firstWindow(ctx, cmd)
	if err != nil {
		return nil, err
	}
	person, program, err := process.OpenTerminal(window.Columns, window.Rows)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	c.Stdin, c.Stdout, c.Stderr = program, program, program
	c.SysProcAttr.Setctty = true
	if err := c.Start(); err != nil {
		person.Close()
		return nil, err
	}
	ended := make(chan struct{})
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		_, _ = io.Copy(cmd.Stdout, person) // it ends with an error when the program has ended
	}()
	go func() { _, _ = io.Copy(person, cmd.Stdin) }()
	go func() {
		for {
			select {
			case w, said := <-cmd.Resize:
				if !said {
					return
				}
				_ = process.ResizeTerminal(person, w.Columns, w.Rows)
			case <-ended:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		close(ended)
		<-shown
		person.Close()
	}, nil
}

// firstWindow returns the size that a terminal has when its program starts, which may ask for it at once.
func firstWindow(ctx context.Context, cmd *machine.Command) (machine.Window, error) {
	otherwise := machine.Window{Columns: 80, Rows: 24}
	if cmd.Resize == nil {
		return otherwise, nil
	}
	select {
	case w, said := <-cmd.Resize:
		if !said {
			return otherwise, nil
		}
		return w, nil
	case <-ctx.Done():
		return otherwise, ctx.Err()
	}
}

func kill(c *exec.Cmd) { _ = unix.Kill(-c.Process.Pid, unix.SIGKILL) }

func exitOf(c *exec.Cmd, err error) *machine.Exit {
	if c.ProcessState == nil {
		return &machine.Exit{Code: -1, Message: err.Error()}
	}
	status := c.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return &machine.Exit{Code: -1, Signal: unix.SignalName(status.Signal())}
	}
	return &machine.Exit{Code: status.ExitStatus()}
}
