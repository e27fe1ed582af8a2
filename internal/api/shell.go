package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// The times of a shell session.
const (
	shellOpening = 10 * time.Second // for the client to say what to run
	shellPing    = 20 * time.Second // between two signs of life, and for the answer to one
	shellWrite   = 30 * time.Second // for a client to take a message
	shellIdle    = 30 * time.Minute // without a byte in either direction
)

func (a *API) addShell() {
	add(a, route{
		method: http.MethodPost, path: "/v1/jobs/{id}/release", id: "release-job", summary: "Give up the machine that is kept of a failed job",
		text: "The machine of a job with keep_on_failure is destroyed before its time is over. 409 if none is kept.",
	}, a.release)
	a.router.HandleFunc("GET /v1/jobs/{id}/shell", a.shell)
}

func (a *API) release(ctx context.Context, in *jobInput) (*jobOutput, error) {
	return a.changed(ctx, in, a.engine.Release)
}

// shell lets somebody run a command in the machine of a job, and talk to it. What is wrong with the request is answered
// before the connection becomes a WebSocket.
func (a *API) shell(w http.ResponseWriter, r *http.Request) {
	release, err := a.streams.take("shell sessions")
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	defer release()
	most, err := parseShellTime(r.URL.Query().Get("for"))
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	id := r.PathValue("id")
	in, err := a.engine.Enter(r.Context(), id, most)
	if err != nil {
		a.refuse(w, r, ofJob(id, err))
		return
	}
	if r.Header.Get("Upgrade") == "" {
		a.refuse(w, r, fault.Say(fault.Invalid, "a shell is a WebSocket: use dayfly shell %s, or a client that speaks WebSocket", id))
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return // it has been answered
	}
	defer func() { _ = conn.CloseNow() }() // or it is closed already
	conn.SetReadLimit(wire.MaxShellMessage)
	rule, _ := accessOf("GET /v1/jobs/{id}/shell")
	s := &shellSession{api: a, conn: conn, in: in, permitted: func() error { return a.permit(r, rule) }}
	s.heard.Store(time.Now().UnixNano())
	began := time.Now()
	a.logger.InfoContext(r.Context(), "a shell session begins", "job", id, "machine", in.Machine, "kept", in.Kept,
		"from", r.RemoteAddr, "token", a.nameOf(r), "for", in.Left.Round(time.Second))
	err = s.run(context.WithoutCancel(r.Context()))
	a.logger.InfoContext(r.Context(), "a shell session has ended", "job", id, "machine", in.Machine,
		"from", r.RemoteAddr, "took", time.Since(began).Round(time.Millisecond), "why", why(err))
}

func why(err error) string {
	if err == nil {
		return "its command ended"
	}
	return sentenceOf(err)
}

func sentenceOf(err error) string {
	if sentence, ok := fault.Sentence(err); ok {
		return sentence
	}
	return err.Error()
}

func parseShellTime(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	var d dayfly.Duration
	if err := d.UnmarshalText([]byte(text)); err != nil {
		return 0, fault.Field("for", "%.40q is not a time such as 30m or 1h30m", text)
	}
	return time.Duration(d), nil
}

// nameOf returns the name of the token that a request carries, for the log, or "".
func (a *API) nameOf(r *http.Request) string {
	token, err := bearer(r)
	if err != nil || token == "" {
		return ""
	}
	return a.guard.name(token)
}

// shellSession is one command that somebody talks to.
type shellSession struct {
	api       *API
	conn      *websocket.Conn
	in        *engine.Entrance
	permitted func() error
	heard     atomic.Int64 // when a byte last came or went, in Unix nanoseconds

	cancel context.CancelCauseFunc
}

var (
	errShellTime = fault.Say(fault.Canceled, "the session has reached its end date; begin another one, or a longer one with --for")
	errShellIdle = fault.Say(fault.Canceled, "nothing was typed or printed for %v, so the session was ended", shellIdle)
	errShellLost = errors.New("its client is gone")
	errShellStop = fault.Say(fault.Unavailable, "the server is being stopped, and the session ends with it; begin another one when it is back")
)

// run carries the session out and says to the client how it ended. It returns why it ended, or nil when that was its
// command's end.
func (s *shellSession) run(ctx context.Context) error {
	ctx, s.cancel = context.WithCancelCause(ctx)
	defer s.cancel(nil)
	expire := time.AfterFunc(s.in.Left, func() { s.cancel(errShellTime) })
	defer expire.Stop()
	open, err := s.opened(ctx)
	if err != nil {
		return err
	}
	exit, err := s.exec(ctx, open)
	cause := context.Cause(ctx)
	last := wire.ShellMessage{Exit: exit}
	switch {
	case errors.Is(cause, errShellLost):
		return cause
	case cause != nil:
		err = cause
		last = wire.ShellMessage{Problem: problemOf(cause)}
	case err != nil:
		last = wire.ShellMessage{Problem: problemOf(err)}
	}
	if failed := s.send(&last); failed == nil {
		_ = s.conn.Close(websocket.StatusNormalClosure, "")
	}
	return err
}

func problemOf(err error) *wire.Problem {
	kind := fault.Of(err)
	return &wire.Problem{Code: string(kind), Title: string(kind), Detail: sentenceOf(err)}
}

// opened reads what to run.
func (s *shellSession) opened(ctx context.Context) (*wire.ShellOpen, error) {
	ctx, cancel := context.WithTimeout(ctx, shellOpening)
	defer cancel()
	kind, data, err := s.conn.Read(ctx)
	if err != nil {
		return nil, errShellLost
	}
	var message wire.ShellMessage
	if kind != websocket.MessageText || json.Unmarshal(data, &message) != nil || message.Open == nil {
		_ = s.conn.Close(websocket.StatusPolicyViolation, "the first message must be open")
		return nil, fault.Say(fault.Invalid, "the client did not say what to run")
	}
	return message.Open, nil
}

// exec runs the command.
func (s *shellSession) exec(ctx context.Context, open *wire.ShellOpen) (*machine.Exit, error) {
	if len(open.Command) == 0 {
		shell, err := s.in.Shell(ctx)
		if err != nil {
			return nil, err
		}
		open.Command = shell
	}
	stdin, typed := io.Pipe()
	defer func() { _ = stdin.Close() }() // which never fails
	sizes := make(chan machine.Window, 1)
	sizes <- machine.Window{Columns: open.Window.Columns, Rows: open.Window.Rows}
	cmd := &machine.Command{
		Args: open.Command, Stdin: stdin, Terminal: open.Terminal,
		Stdout: &shellWriter{s, wire.ShellOutput}, Stderr: &shellWriter{s, wire.ShellErrors},
	}
	if open.Terminal {
		cmd.Env = map[string]string{"TERM": cmp.Or(open.Term, "xterm")}
		if open.Window.Columns > 0 && open.Window.Rows > 0 {
			cmd.Resize = sizes
		}
	}
	err := s.send(&wire.ShellMessage{Started: &wire.ShellStarted{
		Machine: s.in.Machine, Provider: s.in.Provider, Command: open.Command, Kept: s.in.Kept, LeftMS: s.in.Left.Milliseconds(),
	}})
	if err != nil {
		return nil, errShellLost
	}
	go s.read(typed, sizes)
	go s.attend(ctx)
	return s.in.Exec(ctx, cmd)
}

// read takes what the client sends until the connection ends. It does not end with the session's context: a read, or a
// write, that is given up takes the connection with it, and the client is to be told why its session has ended.
func (s *shellSession) read(typed *io.PipeWriter, sizes chan machine.Window) {
	for {
		kind, data, err := s.conn.Read(context.Background())
		if err != nil {
			s.cancel(errShellLost)
			return
		}
		s.heard.Store(time.Now().UnixNano())
		if kind == websocket.MessageBinary {
			if len(data) > 0 && wire.ShellStream(data[0]) == wire.ShellInput {
				_, _ = typed.Write(data[1:]) // a command need not read its input
			}
			continue
		}
		var message wire.ShellMessage
		if json.Unmarshal(data, &message) != nil {
			continue // of a later client, perhaps
		}
		switch {
		case message.Closed:
			_ = typed.Close() // which never fails
		case message.Resize != nil && message.Resize.Columns > 0 && message.Resize.Rows > 0:
			select { // the latest size is what counts
			case <-sizes:
			default:
			}
			sizes <- machine.Window{Columns: message.Resize.Columns, Rows: message.Resize.Rows}
		}
	}
}

// attend makes sure that the client is there and may be, and that something happens.
func (s *shellSession) attend(ctx context.Context) {
	tick := time.NewTicker(shellPing)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.in.Over():
			s.cancel(errShellStop)
			return
		case <-tick.C:
		}
		pinging, cancel := context.WithTimeout(context.WithoutCancel(ctx), shellPing)
		err := s.conn.Ping(pinging)
		cancel()
		if err != nil {
			s.cancel(errShellLost)
			return
		}
		if err := s.permitted(); err != nil && fault.Of(err) != fault.Unavailable {
			s.cancel(err)
			return
		}
		if time.Since(time.Unix(0, s.heard.Load())) > shellIdle {
			s.cancel(errShellIdle)
			return
		}
	}
}

func (s *shellSession) send(message *wire.ShellMessage) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	return s.write(websocket.MessageText, text)
}

func (s *shellSession) write(kind websocket.MessageType, data []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), shellWrite)
	defer cancel()
	return s.conn.Write(ctx, kind, data)
}

// shellWriter sends what a command prints. A client that does not take it ends the session.
type shellWriter struct {
	s      *shellSession
	stream wire.ShellStream
}

// Write implements io.Writer.
func (w *shellWriter) Write(text []byte) (int, error) {
	done := 0
	for done < len(text) {
		some := text[done:min(done+wire.ShellChunk, len(text))]
		if err := w.s.write(websocket.MessageBinary, append([]byte{byte(w.stream)}, some...)); err != nil {
			w.s.cancel(errShellLost)
			return done, fmt.Errorf("api: a shell's client: %w", err)
		}
		w.s.heard.Store(time.Now().UnixNano())
		done += len(some)
	}
	return done, nil
}
