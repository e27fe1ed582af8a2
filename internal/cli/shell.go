package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
)

func (p *program) shellCommand() *cobra.Command {
	var most time.Duration
	cmd := &cobra.Command{
		Use:   "shell JOB [flags] [-- COMMAND [ARG]...]",
		Short: "Enter the machine of a job that runs, or was kept",
		Long: `Opens a shell in the machine of a job, in the job's working directory and with its environment variables, or runs one
command there and exits with its status. The job has to run, or to have failed after it was started with
--keep-on-failure.

On a terminal the machine's shell has it: Ctrl-C interrupts what runs there. The keys ~. at the beginning of a line
leave. Otherwise standard input, output and error are those of the command, and its input ends when standard input does.

A session ends with its machine, and after an hour at the latest; --for says otherwise. What runs in it then is killed.`,
		Example: `  dayfly shell job_…
  dayfly shell job_… -- ls -la
  dayfly shell job_… -- cat core > core
  dayfly run --keep-on-failure 30m -- make test || dayfly shell $(dayfly jobs --limit 1 --json | jq -r .id)`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch dash := cmd.ArgsLenAtDash(); {
			case len(args) == 0 || dash == 0:
				return usage(cmd, "%s wants the id of a job", cmd.CommandPath())
			case dash < 0 && len(args) > 1, dash > 1:
				return usage(cmd, "%s wants the id of one job; what to run there comes after --", cmd.CommandPath())
			case dash == 1 && len(args) == 1:
				return usage(cmd, "there is no command after --; leave it out for a shell")
			}
			return nil
		},
		ValidArgsFunction: p.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if most < 0 || most > 24*time.Hour {
				return usage(cmd, "--for: %v is not between 0 and 24h", most)
			}
			return p.with(cmd, func(ctx context.Context, c *connection) error { return p.shell(ctx, c, args[0], args[1:], most) })
		},
	}
	cmd.Flags().DurationVar(&most, "for", 0, "how long the session may last: a `TIME` up to 24h (default 1h)")
	return cmd
}

func (p *program) releaseCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "release JOB",
		Short: "Give up the machine that is kept of a failed job",
		Long: `Has the machine destroyed that is kept of a job which was started with --keep-on-failure and has failed, before its time
is over. It costs nothing more then, and cannot be entered any more.`,
		Example:           "  dayfly release job_…",
		Args:              exactly("the id of a job"),
		ValidArgsFunction: p.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd, func(ctx context.Context, c *connection) error {
				job, err := c.Release(ctx, args[0])
				if err != nil {
					return err
				}
				if p.json {
					return p.printJSON(job)
				}
				fmt.Fprintf(p.out, "The machine of %s is being destroyed.\n", job.ID)
				return nil
			})
		},
	}
}

// shell is one session: its standard streams are this process's.
func (p *program) shell(ctx context.Context, c *connection, id string, command []string, most time.Duration) error {
	s := &session{program: p, terminal: p.inTTY && p.outTTY}
	ctx, s.end = context.WithCancelCause(ctx)
	defer s.end(nil)
	if err := s.dial(ctx, c, id, most); err != nil {
		return err
	}
	defer func() { _ = s.conn.CloseNow() }() // or it is closed already
	open := &wire.ShellOpen{Command: command, Terminal: s.terminal, Term: os.Getenv("TERM")}
	if s.terminal {
		open.Window = windowOf(os.Stdout)
	}
	if err := s.send(ctx, &wire.ShellMessage{Open: open}); err != nil {
		return lost(err)
	}
	exit, err := s.talk(ctx, id)
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errLeft):
		p.note("\r\nYou left %s; what ran in your session was ended.", id)
		return nil
	case cause != nil && errors.Is(err, cause):
		return &exitError{codeCanceled, nil}
	case err != nil:
		return err
	case exit != 0:
		return &exitError{exit, nil}
	}
	return nil
}

// session is a command in the machine of a job.
type session struct {
	program  *program
	terminal bool
	conn     *websocket.Conn
	end      context.CancelCauseFunc
	restore  func() // of this process's terminal
}

var errLeft = errors.New("the person has left the session")

// dial connects. What the server refuses comes back as its problem.
func (s *session) dial(ctx context.Context, c *connection, id string, most time.Duration) error {
	base, client := "http://"+localHost, &http.Client{Transport: c.local}
	header := http.Header{}
	if c.local == nil {
		base, client = strings.TrimRight(s.program.server, "/"), &http.Client{}
		if s.program.token != "" {
			header.Set("Authorization", "Bearer "+s.program.token)
		}
	}
	target := base + "/v1/jobs/" + url.PathEscape(id) + "/shell"
	if most > 0 {
		target += "?for=" + url.QueryEscape(most.String())
	}
	conn, resp, err := websocket.Dial(ctx, target, &websocket.DialOptions{HTTPClient: client, HTTPHeader: header})
	if err == nil {
		conn.SetReadLimit(wire.MaxShellMessage)
		s.conn = conn
		return nil
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case resp == nil:
		return fault.Say(fault.Unavailable, "the server does not answer: %v", err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, wire.MaxShellMessage))
	var refused wire.Problem
	if json.Unmarshal(body, &refused) != nil || refused.Code == "" {
		return fault.Say(fault.Internal, "the server answered %s, and not with a session; is it a Dayfly server of this version?", resp.Status)
	}
	return problem(&refused)
}

// problem makes an error of what the server says is wrong.
func problem(p *wire.Problem) error { return fault.Say(fault.Kind(p.Code), "%s", p.Detail) }

func lost(err error) error {
	return fault.Say(fault.Unavailable, "the connection to the server was lost, and the session ended with it: %v", err)
}

// talk carries everything in both directions until the command ends, and returns its status.
func (s *session) talk(ctx context.Context, id string) (status int, err error) {
	s.restore = func() {}
	defer func() { s.restore() }()
	for {
		kind, data, err := s.conn.Read(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return 0, context.Cause(ctx)
			}
			return 0, lost(err)
		}
		if kind == websocket.MessageBinary {
			if err := s.show(data); err != nil {
				return 0, err
			}
			continue
		}
		var message wire.ShellMessage
		if err := json.Unmarshal(data, &message); err != nil {
			return 0, lost(err)
		}
		switch {
		case message.Started != nil:
			if err := s.begin(ctx, id, message.Started); err != nil {
				return 0, err
			}
		case message.Problem != nil:
			return 0, problem(message.Problem)
		case message.Exit != nil && message.Exit.Signal != "":
			return codeSignal + int(unix.SignalNum(message.Exit.Signal)), nil
		case message.Exit != nil:
			if code := message.Exit.Code; (code == 126 || code == 127) && message.Exit.Message != "" {
				s.restore() // before anything is said on the terminal
				s.program.note("dayfly: %s", plain(message.Exit.Message))
			}
			return message.Exit.Code, nil
		}
	}
}

func (s *session) show(data []byte) (err error) {
	switch {
	case len(data) == 0:
	case wire.ShellStream(data[0]) == wire.ShellErrors:
		_, err = s.program.err.Write(data[1:])
	default:
		_, err = s.program.out.Write(data[1:])
	}
	return err
}

// begin says where the session is and when it ends, and begins to send what is typed.
func (s *session) begin(ctx context.Context, id string, started *wire.ShellStarted) error {
	p := s.program
	if s.terminal {
		left := time.Duration(started.LeftMS) * time.Millisecond
		kept := ""
		if started.Kept {
			kept = ", which is kept after its failure"
		}
		p.note("%s", p.colored(p.err, dim, plain(fmt.Sprintf("You are in machine %s of %s%s. The session ends at %s at the latest; ~. leaves it.",
			started.Machine, id, kept, time.Now().Add(left).Format("15:04:05")))))
		state, err := term.MakeRaw(int(os.Stdin.Fd()))
		if err != nil {
			return fault.Say(fault.Internal, "the terminal cannot be handed over: %v", err)
		}
		s.restore = func() { _ = term.Restore(int(os.Stdin.Fd()), state) }
		go s.follow(ctx)
	}
	go s.typing(ctx)
	return nil
}

// typing sends standard input.
func (s *session) typing(ctx context.Context) {
	buf := make([]byte, wire.ShellChunk)
	keys := &keys{begin: true}
	for {
		n, err := s.program.in.Read(buf)
		text, leave := buf[:n], false
		if s.terminal {
			text, leave = keys.press(text)
		}
		if len(text) > 0 {
			if s.conn.Write(ctx, websocket.MessageBinary, append([]byte{byte(wire.ShellInput)}, text...)) != nil {
				return // talk notices
			}
		}
		if leave {
			s.end(errLeft)
			return
		}
		if err != nil {
			_ = s.send(ctx, &wire.ShellMessage{Closed: true})
			return
		}
	}
}

// follow tells the size of the window whenever that changes.
func (s *session) follow(ctx context.Context) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH)
	defer signal.Stop(changes)
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
		}
		window := windowOf(os.Stdout)
		if s.send(ctx, &wire.ShellMessage{Resize: &window}) != nil {
			return
		}
	}
}

func windowOf(file *os.File) wire.ShellWindow {
	columns, rows, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return wire.ShellWindow{Columns: 80, Rows: 24}
	}
	return wire.ShellWindow{Columns: columns, Rows: rows}
}

func (s *session) send(ctx context.Context, message *wire.ShellMessage) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	return s.conn.Write(ctx, websocket.MessageText, text)
}

// keys looks for the two that leave a session: ~. at the beginning of a line, as in ssh. ~~ there is one ~.
type keys struct {
	begin bool // nothing was typed since the beginning of the line
	tilde bool // a ~ was typed there, and is held back
}

// press returns what to send of what was typed, and whether the person leaves.
func (k *keys) press(typed []byte) (send []byte, leave bool) {
	for _, c := range typed {
		switch {
		case k.tilde && c == '.':
			return send, true
		case k.tilde:
			k.tilde, k.begin = false, c == '\r' || c == '\n'
			send = append(send, '~')
			if c != '~' {
				send = append(send, c)
			}
		case k.begin && c == '~':
			k.tilde = true
		default:
			k.begin = c == '\r' || c == '\n'
			send = append(send, c)
		}
	}
	return send, false
}
