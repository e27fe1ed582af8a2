package docker

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// execVariable marks the processes of one Exec, so that they can be found when it is to end: the engine itself cannot end
// what it runs beside a container's first process.
const execVariable = "DAYFLY_EXEC"

// Exec implements machine.Execer.
func (p *Provider) Exec(ctx context.Context, id string, cmd *machine.Command) (*machine.Exit, error) {
	if err := cmd.Validate(); err != nil {
		return nil, err
	}
	e, found, err := p.connectTo(ctx, id)
	if err != nil {
		return nil, err
	}
	if found.State.Status == container.StatePaused {
		return nil, fault.Say(fault.Conflict, "the container %s was paused; nothing can be run in it", id)
	}
	// The agent finds the program, and says in which way it cannot be run, as engines do not all say it.
	args := []string{"exec"}
	if cmd.Terminal {
		window := machine.Window{Columns: 80, Rows: 24}
		if cmd.Resize != nil {
			select {
			case w, open := <-cmd.Resize:
				if open && w.Columns > 0 && w.Rows > 0 {
					window = w
				}
			case <-ctx.Done():
				return nil, canceled(ctx)
			}
		}
		args = append(args, "--columns", strconv.Itoa(window.Columns), "--rows", strconv.Itoa(window.Rows))
	}
	if cmd.Dir != "" {
		args = append(args, "--dir", cmd.Dir)
	}
	args = append(append(args, "--"), cmd.Args...)
	mark := rand.Text()
	env := []string{execVariable + "=" + mark}
	for _, key := range slices.Sorted(maps.Keys(cmd.Env)) {
		env = append(env, key+"="+cmd.Env[key])
	}
	made, err := e.ExecCreate(ctx, found.ID, client.ExecCreateOptions{
		User: cmd.User, TTY: cmd.Terminal, AttachStdin: cmd.Stdin != nil, AttachStdout: true, AttachStderr: !cmd.Terminal,
		Env: env, WorkingDir: found.Config.WorkingDir, Cmd: p.argv(args...),
	})
	if err != nil {
		return nil, p.execFailed(ctx, e, id, err)
	}
	attached, err := e.ExecAttach(ctx, made.ID, client.ExecAttachOptions{TTY: cmd.Terminal})
	if err != nil {
		return nil, p.execFailed(ctx, e, id, err)
	}
	session := &execSession{provider: p, engine: e, cmd: cmd, container: found.ID, exec: made.ID, mark: mark, conn: attached.HijackedResponse}
	return session.run(ctx, id)
}

func (p *Provider) execFailed(ctx context.Context, e *engine, id string, err error) error {
	if isGone(err) && ctx.Err() == nil {
		return notFound(id)
	}
	return p.failed(ctx, e, "run a command in the container "+id, err)
}

// execSession is one command that runs in a container.
type execSession struct {
	provider              *Provider
	engine                *engine
	cmd                   *machine.Command
	container, exec, mark string
	conn                  client.HijackedResponse
}

// run moves what goes in and out until the command has ended.
func (s *execSession) run(ctx context.Context, id string) (*machine.Exit, error) {
	done := make(chan struct{})
	var helpers sync.WaitGroup
	// Closing the connection ends the reading below.
	stop := context.AfterFunc(ctx, s.conn.Close)
	defer stop()
	helpers.Go(func() { s.resize(ctx, done) })
	if s.cmd.Stdin != nil {
		// It may wait for its reader for ever, which is the caller's, so nobody waits for it.
		go func() {
			_, _ = io.Copy(s.conn.Conn, s.cmd.Stdin) // the command may end without reading all of it
			_ = s.conn.CloseWrite()
		}()
	}
	stdout, stderr := remember(s.cmd.Stdout), remember(s.cmd.Stderr)
	output := s.copyOut(stdout, stderr)
	close(done)
	s.conn.Close()
	helpers.Wait()
	if ctx.Err() != nil || output != nil {
		s.kill(ctx)
	}
	if ctx.Err() != nil {
		return nil, canceled(ctx)
	}
	if err := cmp.Or(stdout.err, stderr.err); err != nil {
		return nil, err
	}
	if output != nil {
		return nil, s.provider.failed(ctx, s.engine, "go on showing the output of a command in "+id, output)
	}
	return s.exit(ctx, id)
}

func (s *execSession) copyOut(stdout, stderr io.Writer) error {
	if s.cmd.Terminal {
		_, err := io.Copy(stdout, s.conn.Reader)
		return err
	}
	_, err := stdcopy.StdCopy(stdout, stderr, s.conn.Reader)
	return err
}

// resize tells the terminal the sizes of its window.
func (s *execSession) resize(ctx context.Context, done <-chan struct{}) {
	if !s.cmd.Terminal {
		return
	}
	set := func(w machine.Window) {
		if w.Columns <= 0 || w.Rows <= 0 {
			return
		}
		_, err := s.engine.ExecResize(ctx, s.exec, client.ExecResizeOptions{Height: uint(w.Rows), Width: uint(w.Columns)})
		if err != nil && ctx.Err() == nil {
			s.provider.log.Debug("the size of a terminal could not be set", "container", s.container, "error", err)
		}
	}
	sizes := s.cmd.Resize
	for {
		select {
		case w, open := <-sizes:
			if !open {
				sizes = nil
				continue
			}
			set(w)
		case <-done:
			return
		case <-ctx.Done():
			return
		}
	}
}

// exit asks how the command ended. Its output ends a moment before the engine knows.
func (s *execSession) exit(ctx context.Context, id string) (*machine.Exit, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		state, err := s.engine.ExecInspect(ctx, s.exec, client.ExecInspectOptions{})
		if err != nil {
			return nil, s.provider.execFailed(ctx, s.engine, id, err)
		}
		if !state.Running {
			exit := &machine.Exit{Code: state.ExitCode}
			if state.ExitCode > 128 && state.ExitCode < 128+65 {
				exit.Message = "A status above 128 may stand for a signal."
			}
			return exit, nil
		}
		select {
		case <-ctx.Done():
			s.kill(ctx)
			return nil, canceled(ctx)
		case <-time.After(wait):
		}
	}
}

// kill ends the command and what it started, by a second command in the container.
func (s *execSession) kill(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	made, err := s.engine.ExecCreate(ctx, s.container, client.ExecCreateOptions{
		User: s.cmd.User, Cmd: s.provider.argv("kill", execVariable+"="+s.mark), AttachStdout: true, AttachStderr: true,
	})
	if err == nil {
		var attached client.ExecAttachResult
		if attached, err = s.engine.ExecAttach(ctx, made.ID, client.ExecAttachOptions{}); err == nil {
			stop := context.AfterFunc(ctx, attached.Close)
			_, err = io.Copy(io.Discard, io.LimitReader(attached.Reader, 64<<10))
			stop()
			attached.Close()
		}
	}
	if err != nil && !isGone(err) && !errdefs.IsConflict(err) && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "is not running") {
		s.provider.log.Warn("a command in a container could not be ended", "container", s.container, "error", err)
	}
}
