package api_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/hostshell"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// entered makes every job's machine one in which real programs run; over, when it is closed, is the server's end.
func (g *rig) entered(over <-chan struct{}, left time.Duration) {
	g.t.Helper()
	if g.url == "" {
		g.serve()
	}
	shell := &hostshell.Shell{Dir: g.t.TempDir()}
	p := memmachine.New(&memmachine.Options{Exec: shell.Exec})
	g.t.Cleanup(p.Cloud().Close)
	m, err := p.Create(context.Background(), &machine.Spec{Name: "m1", Owner: "me", Lifetime: time.Hour, Command: []string{"stay"}})
	if err != nil {
		g.t.Fatal(err)
	}
	g.engine.entrance = engine.NewEntrance(p, m.ID, map[string]string{"COLOR": "red"}, over)
	if left > 0 {
		g.engine.entrance.Left = left
	}
	g.engine.addJob("job_a", dayfly.Running, "att_a")
}

// session is a shell session, as its client sees it.
type session struct {
	*websocket.Conn
	t testing.TB
}

func (g *rig) shell(open *wire.ShellOpen, headers ...string) *session {
	g.t.Helper()
	header := http.Header{}
	for i := 0; i+1 < len(headers); i += 2 {
		header.Set(headers[i], headers[i+1])
	}
	conn, _, err := websocket.Dial(context.Background(), g.url+"/v1/jobs/job_a/shell", &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.CloseNow() })
	s := &session{conn, g.t}
	s.send(&wire.ShellMessage{Open: open})
	return s
}

func (s *session) send(m *wire.ShellMessage) {
	s.t.Helper()
	text, err := json.Marshal(m)
	if err == nil {
		err = s.Write(s.t.Context(), websocket.MessageText, text)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *session) enter(text string) {
	s.t.Helper()
	if err := s.Write(s.t.Context(), websocket.MessageBinary, append([]byte{byte(wire.ShellInput)}, text...)); err != nil {
		s.t.Fatal(err)
	}
}

// prompt stands for whatever a shell says when it is ready.
const prompt = "the prompt"

// until reads until what was printed ends with a text, or with a text and a prompt, or with "" until the last message,
// which it returns.
func (s *session) until(end string) (out, errs string, last *wire.ShellMessage) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	var printed [3]strings.Builder
	for {
		kind, data, err := s.Read(ctx)
		if err != nil {
			s.t.Fatalf("the session said %q and %q, and then: %v", printed[1].String(), printed[2].String(), err)
		}
		if kind == websocket.MessageBinary {
			printed[data[0]].Write(data[1:])
			so := printed[1].String()
			line, wantsPrompt := strings.CutSuffix(end, prompt)
			_, after, found := strings.Cut(so, line)
			ready := strings.HasSuffix(after, "# ") || strings.HasSuffix(after, "$ ")
			if end != "" && found && (after == "" || wantsPrompt && ready) {
				return printed[1].String(), printed[2].String(), nil
			}
			continue
		}
		var m wire.ShellMessage
		if err := json.Unmarshal(data, &m); err != nil {
			s.t.Fatal(err)
		}
		if m.Exit != nil || m.Problem != nil {
			return printed[1].String(), printed[2].String(), &m
		}
	}
}

func TestACommandInAJobsMachineIsTalkedTo(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.entered(nil, 0)
	s := g.shell(&wire.ShellOpen{Command: []string{"sh", "-c", `echo "$COLOR"; echo err >&2; cat; exit 7`}})
	s.until("red\n")
	s.enter("typed\n")
	s.until("typed\n")
	s.send(&wire.ShellMessage{Closed: true})
	if _, _, last := s.until(""); last.Exit == nil || last.Exit.Code != 7 {
		t.Errorf("the end of a command that exits with 7: got %+v, want that status", last)
	}
	if _, _, err := s.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("after the end: got %v, want the connection closed as it should be", err)
	}
	s = g.shell(&wire.ShellOpen{Command: []string{"sh", "-c", "echo out; echo err >&2"}})
	if out, errs, _ := s.until(""); out != "out\n" || errs != "err\n" {
		t.Errorf("the streams of a command: got %q and %q, want them apart", out, errs)
	}
}

func TestAShellWithoutACommandIsATerminalOfTheClientsSize(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.entered(nil, 0)
	s := g.shell(&wire.ShellOpen{Terminal: true, Term: "dumb", Window: wire.ShellWindow{Columns: 101, Rows: 33}})
	// A shell that reads its lines itself drops what is typed before it is ready, so each step waits for its prompt.
	s.until(prompt)
	typed := func(line, want string) {
		t.Helper()
		s.enter(line)
		s.until(want + "\r\n" + prompt)
	}
	typed("echo size $(stty size) $TERM\n", "size 33 101 dumb")
	s.send(&wire.ShellMessage{Resize: &wire.ShellWindow{Columns: 90, Rows: 20}})
	typed("until [ \"$(stty size)\" = '20 90' ]; do sleep 0.05; done; echo resi''zed\n", "resized")
	s.enter("sh -c 'trap \"echo inter\"\"rupted; exit\" INT; echo bu\"\"sy; while :; do sleep 0.05; done'\n")
	s.until("busy\r\n")
	typed("\x03", "interrupted")
	typed("echo af''ter\n", "after")
	s.enter("exit 5\n")
	if _, _, last := s.until(""); last.Exit == nil || last.Exit.Code != 5 {
		t.Errorf("the end of a shell: got %+v, want status 5", last)
	}
}

func TestASessionEndsAtItsEndDateAndWithTheServer(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		left time.Duration
		want string
	}{"its end date": {300 * time.Millisecond, "end date"}, "the server": {0, "server is being stopped"}} {
		g, over := newRig(t), make(chan struct{})
		g.entered(over, c.left)
		s := g.shell(&wire.ShellOpen{Command: []string{"sh", "-c", "echo begun; sleep 600"}})
		if c.left == 0 {
			s.until("begun\n")
			close(over)
		}
		_, _, last := s.until("")
		if last.Problem == nil || !strings.Contains(last.Problem.Detail, c.want) {
			t.Errorf("a session that ends with %s: got %+v, want a sentence about %q", what, last, c.want)
		}
	}
}

func TestWhoMayNotEnterIsToldBeforeTheConnectionIsMore(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.serve()
	g.engine.addJob("job_b", dayfly.Failed)
	for path, want := range map[string]int{
		"/v1/jobs/job_b/shell":        http.StatusConflict,
		"/v1/jobs/job_x/shell":        http.StatusNotFound,
		"/v1/jobs/job_b/shell?for=xx": http.StatusUnprocessableEntity,
	} {
		_, resp, err := websocket.Dial(t.Context(), g.url+path, nil)
		if err == nil || resp.StatusCode != want {
			t.Fatalf("%s: got %v and error %v, want %d", path, resp, err, want)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || !strings.Contains(string(body), `"detail"`) {
			t.Errorf("%s: got %q and error %v, want a problem with a sentence", path, body, err)
		}
	}
	g.entered(nil, 0)
	if _, resp, err := websocket.Dial(t.Context(), g.url+"/v1/jobs/job_a/shell",
		&websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://elsewhere.example"}}}); err == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("a page of another site: got %v, want 403", resp)
	}
	if got := g.do("GET", "/v1/jobs/job_a/shell", ""); got.status != http.StatusUnprocessableEntity {
		t.Errorf("a plain request: got %d, want 422", got.status)
	}
}
