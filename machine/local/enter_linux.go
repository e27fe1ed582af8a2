package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

// The provider's side of what is done to a machine that runs: further commands, signals, suspending.

var (
	_ machine.Execer    = (*Provider)(nil)
	_ machine.Signaler  = (*Provider)(nil)
	_ machine.Suspender = (*Provider)(nil)
	_ machine.Logger    = (*Provider)(nil)
)

// Signal sends a signal to the machine's first process, as [machine.Signaler] says. A machine with an agent has none,
// so there every process of the attempt gets it.
func (p *Provider) Signal(ctx context.Context, id, name string) error {
	if err := machine.CheckSignal(name); err != nil {
		return fmt.Errorf("local: %w", err)
	}
	return p.ask(ctx, id, &request{Signal: &signalRequest{Machine: id, Signal: name}})
}

// Suspend halts every process of the machine, as [machine.Suspender] says: by the freezer of its cgroup, where there
// is one, and otherwise by SIGSTOP. An agent goes on to tell the server that its attempt is there.
func (p *Provider) Suspend(ctx context.Context, id string) error {
	return p.ask(ctx, id, &request{Suspend: &suspendRequest{Machine: id}})
}

// Resume lets a suspended machine go on, as [machine.Suspender] says.
func (p *Provider) Resume(ctx context.Context, id string) error {
	return p.ask(ctx, id, &request{Suspend: &suspendRequest{Machine: id, Resume: true}})
}

// ask asks the supervisor of a machine that runs.
func (p *Provider) ask(ctx context.Context, id string, r *request) error {
	number, err := p.supervisorOf(ctx, id)
	if err != nil {
		return err
	}
	k, err := p.link(ctx, number)
	if err == nil {
		_, err = k.call(ctx, r)
	}
	return p.askedFor(ctx, id, err)
}

// supervisorOf returns the supervisor of a machine that runs.
func (p *Provider) supervisorOf(ctx context.Context, id string) (int, error) {
	m, err := p.Get(ctx, id)
	if err != nil {
		return 0, err
	}
	if m.State != machine.Running {
		return 0, fmt.Errorf("local: machine %s: %w: it does not run any more", id, fault.Conflict)
	}
	r, err := p.read(id)
	if err != nil {
		return 0, err
	}
	return r.Supervisor, nil
}

// askedFor tells what has become of a request about a machine.
func (p *Provider) askedFor(ctx context.Context, id string, err error) error {
	var answered *problem
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return canceled(context.Cause(ctx))
	case errors.As(err, &answered):
		return err
	}
	return fmt.Errorf("local: machine %s: %w: %w", id, fault.Unavailable, err)
}

// Exec runs a command in the machine's process tree, as [machine.Execer] says, with the machine's environment and
// within its limits. "" for Dir is the machine's own working directory, where a job's command works as well, unless the
// machine was divided: then a command is beside all of its parts. Commands run as the machine does; another User is
// refused.
//
// The command ends with the connection that this process has to the machine's supervisor for it, and so with this
// process.
func (p *Provider) Exec(ctx context.Context, id string, cmd *machine.Command) (*machine.Exit, error) {
	if err := cmd.Validate(); err != nil {
		return nil, fmt.Errorf("local: %w", err)
	}
	if cmd.User != "" {
		return nil, fmt.Errorf("local: machine %s: %w", id, fault.Say(fault.Unsupported,
			"Commands in machines on this computer run as Dayfly's own user; %q needs a provider with containers.", cmd.User))
	}
	number, err := p.supervisorOf(ctx, id)
	if err != nil {
		return nil, err
	}
	streams, err := openRelay(cmd)
	if err != nil {
		return nil, unavailable(err)
	}
	defer streams.close()
	exit, err := p.enter(ctx, number, &enterRequest{Machine: id, Args: cmd.Args, Env: cmd.Env, Dir: cmd.Dir, Terminal: cmd.Terminal}, streams)
	if failed := streams.failure(); failed != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("local: the output of a command in machine %s: %w", id, failed)
	}
	if err != nil {
		return nil, p.askedFor(ctx, id, err)
	}
	return exit, nil
}

// enter asks the supervisor on a connection of its own, and waits for the answer and for all output. What ends the
// wait ends the connection, and that the command.
func (p *Provider) enter(ctx context.Context, number int, r *enterRequest, streams *relay) (exit *machine.Exit, err error) {
	var conn *net.UnixConn
	err = throughDescriptor(p.layout.supervisor(number), func(address *net.UnixAddr) error {
		dialer := net.Dialer{Timeout: p.AnswerTimeout}
		c, err := dialer.DialContext(ctx, "unix", address.Name)
		if err == nil {
			conn = c.(*net.UnixConn)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	text, err := json.Marshal(&request{ID: 1, Enter: r})
	if err != nil {
		return nil, err
	}
	if len(text) >= maxFrame {
		return nil, &problem{Kind: fault.TooLarge, Message: "local: the command is longer than a frame"}
	}
	if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return nil, err
	}
	first := append(text, '\n')
	n, _, err := conn.WriteMsgUnix(first, unix.UnixRights(streams.numbers()...), nil)
	for err == nil && n < len(first) {
		var more int
		more, err = conn.Write(first[n:])
		n += more
	}
	if err != nil {
		return nil, err
	}
	streams.start(func() { conn.Close() })
	err = errBroken
	failed := readFrames(conn, func(a *answer) error {
		if a.ID != 1 {
			return nil
		}
		if a, err = a.result(); err == nil {
			exit = a.Exit
		}
		return io.EOF
	})
	if err == nil && exit == nil {
		err = errBroken
	}
	if errors.Is(err, errBroken) && failed != nil && !errors.Is(failed, io.EOF) {
		err = fmt.Errorf("%w: %w", errBroken, failed)
	}
	streams.finish(err == nil)
	return exit, err
}

// relay carries a command's input and output between its files and the caller's reader and writers.
type relay struct {
	cmd    *machine.Command
	theirs []*os.File // standard input, output and error, for the supervisor
	person *os.File   // of the terminal, if there is one
	stdin  *os.File
	outs   []*os.File // standard output and error
	work   sync.WaitGroup
	over   chan struct{}

	mu     sync.Mutex
	failed error // guarded by mu; the first failure of a writer
}

func openRelay(cmd *machine.Command) (_ *relay, err error) {
	r := &relay{cmd: cmd, over: make(chan struct{})}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if cmd.Terminal {
		var program *os.File
		if r.person, program, err = process.OpenTerminal(80, 24); err == nil {
			r.theirs = []*os.File{program, program, program}
		}
		return r, err
	}
	for i := range 3 {
		reader, writer, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		if i == 0 {
			r.theirs, r.stdin = append(r.theirs, reader), writer
		} else {
			r.theirs, r.outs = append(r.theirs, writer), append(r.outs, reader)
		}
	}
	return r, nil
}

func (r *relay) numbers() []int {
	numbers := make([]int, len(r.theirs))
	for i, file := range r.theirs {
		numbers[i] = int(file.Fd())
	}
	return numbers
}

// start begins to carry. broken is called when a writer fails.
func (r *relay) start(broken func()) {
	for _, file := range r.theirs {
		file.Close()
	}
	if r.person != nil {
		r.carry(r.person, r.cmd.Stdout, broken)
		go r.resize()
		r.feed(r.person)
		return
	}
	for i, w := range []io.Writer{r.cmd.Stdout, r.cmd.Stderr} {
		r.carry(r.outs[i], w, broken)
	}
	r.feed(r.stdin)
}

// carry copies what comes from a file to a writer until that file ends.
func (r *relay) carry(from *os.File, w io.Writer, broken func()) {
	if w == nil {
		w = io.Discard
	}
	watched := &watchedWriter{w: w}
	r.work.Go(func() {
		_, _ = io.Copy(watched, from) // a terminal that nobody has open any more ends with an error
		if watched.err != nil {
			r.mu.Lock()
			if r.failed == nil {
				r.failed = watched.err
			}
			r.mu.Unlock()
			broken()
		}
	})
}

// feed copies the caller's input. Nobody waits for it: it may never end, and a command need not read it.
func (r *relay) feed(to *os.File) {
	if r.cmd.Stdin == nil {
		if r.person == nil {
			to.Close()
		}
		return
	}
	go func() {
		_, _ = io.Copy(to, r.cmd.Stdin)
		if r.person == nil {
			to.Close()
		}
	}()
}

func (r *relay) resize() {
	for {
		select {
		case w, ok := <-r.cmd.Resize:
			if !ok {
				return
			}
			_ = process.ResizeTerminal(r.person, w.Columns, w.Rows)
		case <-r.over:
			return
		}
	}
}

// finish waits until all output has been written, if the command has ended: what it has left running may have its
// output still open, which is not waited for long.
func (r *relay) finish(ended bool) {
	if !ended {
		r.close()
	}
	written := make(chan struct{})
	go func() {
		r.work.Wait()
		close(written)
	}()
	for wait := ended; wait; {
		select {
		case <-written:
			wait = false
		case <-time.After(time.Second):
			// Nothing more comes from a command that has ended, but a writer may still be busy with what has.
			for _, file := range append(r.outs, r.person) {
				if file != nil {
					_ = file.SetReadDeadline(time.Now())
				}
			}
		}
	}
	<-written
}

func (r *relay) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// close may be repeated.
func (r *relay) close() {
	if !closed(r.over) {
		close(r.over)
	}
	for _, file := range append(append([]*os.File{r.person, r.stdin}, r.theirs...), r.outs...) {
		if file != nil {
			file.Close()
		}
	}
}

// watchedWriter remembers that it failed.
type watchedWriter struct {
	w   io.Writer
	err error
}

func (w *watchedWriter) Write(text []byte) (int, error) {
	n, err := w.w.Write(text)
	if err != nil {
		w.err = err
	}
	return n, err
}
