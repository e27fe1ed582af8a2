package machinetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// entered returns a machine that runs and can be entered.
func (s *subject) entered(t *testing.T) *machine.Machine {
	t.Helper()
	s.execer(t)
	m := s.create(t, s.spec())
	return s.wantState(t, m.ID, machine.Running)
}

func execReturnsTheStatusAndBothStreams(t *testing.T, s *subject) {
	m := s.entered(t)
	for _, code := range []int{0, 1, 42, 255} {
		exit, stdout, stderr := s.exec(t, m.ID, s.sh(fmt.Sprintf("echo out; echo err >&2; exit %d", code)))
		if exit.Code != code || exit.Signal != "" {
			t.Errorf("Exec of a command that ends with %d: got %+v, want that status", code, exit)
		}
		if stdout != "out\n" || stderr != "err\n" {
			t.Errorf("Exec: got %q and %q, want what was written to each stream, apart", stdout, stderr)
		}
	}
	// A word is a word, and nobody wants the output.
	exit := s.finish(t, s.begin(t.Context(), m.ID, &machine.Command{Args: append(s.sh(`[ "$1" = "it's \"\$1\" & *" ]`).Args, "sh", `it's "$1" & *`)}), "Exec")
	if exit.Code != 0 {
		t.Errorf("Exec of a command with an odd argument: got %+v, want it to see the argument as it is", exit)
	}
}

func execOfNoProgramIsStatus127(t *testing.T, s *subject) {
	m := s.entered(t)
	for _, program := range []string{fresh("no-such-program"), "/" + fresh("no-such-program")} {
		if exit, _, _ := s.exec(t, m.ID, &machine.Command{Args: []string{program}}); exit.Code != 127 {
			t.Errorf("Exec of %s, which does not exist: got %+v, want status 127", program, exit)
		}
	}
}

func execReadsItsInput(t *testing.T, s *subject) {
	m := s.entered(t)
	cmd := s.sh("cat; echo end")
	cmd.Stdin = strings.NewReader("one\ntwo\n")
	if _, stdout, _ := s.exec(t, m.ID, cmd); stdout != "one\ntwo\nend\n" {
		t.Errorf("Exec with input: got output %q, want the input and then its end noticed", stdout)
	}
	if _, stdout, _ := s.exec(t, m.ID, s.sh("cat; echo end")); stdout != "end\n" {
		t.Errorf("Exec without input: got output %q, want its end noticed at once", stdout)
	}
	if s.CommandsAreWhole {
		return
	}
	// A command need not read what it is given, and its end is not held up by input that does not come.
	cmd = s.sh("exit 3")
	never := make(hold)
	defer close(never)
	cmd.Stdin = never
	if exit, _, _ := s.exec(t, m.ID, cmd); exit.Code != 3 {
		t.Errorf("Exec of a command that does not read its input: got %+v, want status 3", exit)
	}
}

func execTalksBackAndForth(t *testing.T, s *subject) {
	if s.CommandsAreWhole {
		t.Skip("the harness offers no output before a command has ended")
	}
	m := s.entered(t)
	reader, typed := io.Pipe()
	defer func() { _ = typed.Close() }()
	var out buffer
	cmd := s.sh(`while read -r line; do echo "got $line"; done; exit 4`)
	cmd.Stdin, cmd.Stdout = reader, &out
	ended := s.begin(t.Context(), m.ID, cmd)
	for n, want := range []string{"got 0\n", "got 0\ngot 1\n"} {
		s.give(t, typed, fmt.Sprintln(n))
		s.wantWritten(t, &out, want)
	}
	_ = typed.Close()
	if exit := s.finish(t, ended, "Exec after its input has ended"); exit.Code != 4 {
		t.Errorf("Exec: got %+v, want status 4", exit)
	}
}

func execHasTheMachinesEnvironmentAndDirectory(t *testing.T, s *subject) {
	s.execer(t)
	spec := s.script(t, "echo here > mt-here; sleep 600")
	spec.Env["MT_ONE"], spec.Env["MT_TWO"] = "machine", "machine"
	m := s.create(t, spec)
	s.wantState(t, m.ID, machine.Running)
	cmd := s.sh(`echo "$MT_ONE $MT_TWO $MT_THREE"`)
	cmd.Env = map[string]string{"MT_TWO": "command", "MT_THREE": "it's \"$1\"\n&"}
	if _, stdout, _ := s.exec(t, m.ID, cmd); stdout != "machine command it's \"$1\"\n&\n" {
		t.Errorf("Exec: got %q from its environment, want the machine's, and the command's own before it", stdout)
	}
	s.eventually(t, "a command in the machine's own directory", func() error {
		if _, stdout, stderr := s.exec(t, m.ID, s.sh("cat mt-here")); stdout != "here\n" {
			return fmt.Errorf("got %q and %q from a file that the machine writes there, want %q", stdout, stderr, "here\n")
		}
		return nil
	})
	cmd = s.sh("pwd")
	cmd.Dir = "/"
	if _, stdout, _ := s.exec(t, m.ID, cmd); stdout != "/\n" {
		t.Errorf("Exec with Dir /: got working directory %q, want /", stdout)
	}
}

func execAsAnotherUser(t *testing.T, s *subject) {
	m := s.entered(t)
	cmd := s.sh("id -u")
	cmd.User = s.User
	if s.User == "" {
		cmd.User = "65534"
		if _, err := machine.Exec(t.Context(), s.Provider, m.ID, cmd); !errors.Is(err, fault.Unsupported) {
			t.Errorf("Exec as another user, which the harness offers none of: got error %v, want fault.Unsupported", err)
		}
		return
	}
	if _, stdout, stderr := s.exec(t, m.ID, cmd); stdout != s.User+"\n" {
		t.Errorf("Exec as user %s: got %q and %q, want that user", s.User, stdout, stderr)
	}
}

func execGivesATerminal(t *testing.T, s *subject) {
	m := s.entered(t)
	if s.NoTerminal {
		cmd := s.sh("true")
		cmd.Terminal = true
		if _, err := machine.Exec(t.Context(), s.Provider, m.ID, cmd); !errors.Is(err, fault.Unsupported) {
			t.Errorf("Exec with a terminal, which the harness offers none of: got error %v, want fault.Unsupported", err)
		}
		return
	}
	terminal := func(script string) (*machine.Command, *buffer) {
		var out buffer
		cmd := s.sh(script)
		cmd.Terminal, cmd.Stdout = true, &out
		return cmd, &out
	}
	cmd, out := terminal("[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && stty size >&2; exit 5")
	exit := s.finish(t, s.begin(t.Context(), m.ID, cmd), "Exec in a terminal")
	if out.String() != "24 80\r\n" || exit.Code != 5 {
		t.Errorf("Exec in a terminal of no size: got %q and %+v, want 24 rows and 80 columns, and status 5", out, exit)
	}
	cmd, out = terminal(`until [ "$(stty size)" = "33 101" ]; do sleep 0.05; done; echo first
		until [ "$(stty size)" = "44 122" ]; do sleep 0.05; done; echo second; read -r line; echo "got $line"`)
	sizes := make(chan machine.Window, 1)
	reader, typed := io.Pipe()
	defer func() { _ = typed.Close() }()
	cmd.Resize, cmd.Stdin = sizes, reader
	sizes <- machine.Window{Columns: 101, Rows: 33}
	ended := s.begin(t.Context(), m.ID, cmd)
	s.wantWritten(t, out, "first\r\n")
	sizes <- machine.Window{Columns: 122, Rows: 44}
	s.wantWritten(t, out, "first\r\nsecond\r\n")
	s.give(t, typed, "word\r")
	s.finish(t, ended, "Exec in a terminal that was typed into")
	if !strings.HasSuffix(out.String(), "got word\r\n") {
		t.Errorf("Exec in a terminal that a word was typed into: got %q, want the word read", out)
	}
	cmd, out = terminal("trap 'echo interrupted; exit 6' INT; echo ready; while :; do sleep 0.05; done")
	reader, typed = io.Pipe()
	defer func() { _ = typed.Close() }()
	cmd.Stdin = reader
	ended = s.begin(t.Context(), m.ID, cmd)
	s.wantWritten(t, out, "ready\r\n")
	s.give(t, typed, "\x03")
	if exit := s.finish(t, ended, "Exec that was interrupted"); exit.Code != 6 {
		t.Errorf("Exec in a terminal with ^C typed: got %+v and %q, want an interrupt, and status 6", exit, out)
	}
}

// started runs a command that stays, and returns its process id there and when the call returned.
func (s *subject) started(t *testing.T, ctx context.Context, id string, terminal bool) (pid string, ended <-chan ending) {
	t.Helper()
	if s.CommandsAreWhole {
		ended = s.begin(ctx, id, s.sh("echo $$ > mt-started; sleep 600; exit 0"))
		s.eventually(t, "a command to start", func() error {
			_, pid, _ = s.exec(t, id, s.sh("cat mt-started"))
			if !strings.HasSuffix(pid, "\n") {
				return errors.New("it has not written its process id")
			}
			return nil
		})
		return strings.TrimSpace(pid), ended
	}
	var out buffer
	cmd := s.sh("echo $$; sleep 600; exit 0")
	cmd.Stdout, cmd.Terminal = &out, terminal
	ended = s.begin(ctx, id, cmd)
	s.eventually(t, "a command to start", func() error {
		if !strings.HasSuffix(out.String(), "\n") {
			return errors.New("it has not said its process id")
		}
		return nil
	})
	return strings.TrimSpace(out.String()), ended
}

func execEndsWithItsContext(t *testing.T, s *subject) {
	m := s.entered(t)
	for _, terminal := range []bool{false, true} {
		if terminal && s.NoTerminal {
			continue
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		pid, ended := s.started(t, ctx, m.ID, terminal)
		cancel()
		end := s.awaitEnding(t, ended, "Exec whose context has ended")
		if !errors.Is(end.err, fault.Canceled) && !errors.Is(end.err, context.Canceled) {
			t.Errorf("Exec whose context has ended: got %+v and error %v, want fault.Canceled or context.Canceled", end.exit, end.err)
		}
		if s.CommandsStay {
			continue
		}
		s.eventually(t, "a command whose context has ended", func() error {
			if exit, _, _ := s.exec(t, m.ID, s.sh("kill -0 "+pid)); exit.Code == 0 {
				return fmt.Errorf("process %s still runs, want it ended", pid)
			}
			return nil
		})
	}
	if got := s.get(t, m.ID); got.State != machine.Running {
		t.Errorf("the machine after a command in it was ended: got %s with exit %+v, want it to run on", got.State, got.Exit)
	}
}

func execEndsWithTheMachine(t *testing.T, s *subject) {
	m := s.entered(t)
	_, ended := s.started(t, t.Context(), m.ID, false)
	s.destroy(t, m.ID)
	end := s.awaitEnding(t, ended, "Exec in a machine that was destroyed")
	if end.err == nil && end.exit.OK() {
		t.Errorf("Exec in a machine that was destroyed: got %+v, want an error or a failure", end.exit)
	}
	s.wantNothingAlive(t, m, "after Destroy, with a further command in it")
}

func execEndsAtTheEndOfTheLifetime(t *testing.T, s *subject) {
	s.execer(t)
	spec := s.spec()
	spec.Lifetime = 2 * s.Lifetime
	m := s.create(t, spec)
	s.wantState(t, m.ID, machine.Running)
	cmd := s.sh("trap '' TERM INT HUP; while :; do sleep 1; done")
	end := s.awaitEnding(t, s.begin(t.Context(), m.ID, cmd), "Exec in a machine whose lifetime has ended")
	if end.err == nil && end.exit.OK() {
		t.Errorf("Exec in a machine whose lifetime has ended: got %+v, want an error or a failure", end.exit)
	}
	s.wantState(t, m.ID, machine.Exited)
	s.wantNothingAlive(t, m, "after its lifetime, with a further command in it")
}

func execOfWhatDoesNotRunIsRefused(t *testing.T, s *subject) {
	m := s.entered(t)
	exited := s.create(t, s.exits(t, 0))
	s.wantState(t, exited.ID, machine.Exited)
	destroyed := s.create(t, s.spec())
	s.destroy(t, destroyed.ID)
	for what, c := range map[string]struct {
		id   string
		cmd  *machine.Command
		want fault.Kind
	}{
		"in an unknown machine":             {fresh("unknown"), s.sh("true"), fault.NotFound},
		"in a machine that was destroyed":   {destroyed.ID, s.sh("true"), fault.NotFound},
		"in a machine that has exited":      {exited.ID, s.sh("true"), fault.Conflict},
		"of nothing":                        {m.ID, &machine.Command{}, fault.Invalid},
		"of a word with a NUL":              {m.ID, s.sh("\x00"), fault.Invalid},
		"of a variable that cannot be":      {m.ID, &machine.Command{Args: s.sh("true").Args, Env: map[string]string{"A=B": ""}}, fault.Invalid},
		"in a directory that is not a path": {m.ID, &machine.Command{Args: s.sh("true").Args, Dir: "here"}, fault.Invalid},
	} {
		if exit, err := machine.Exec(t.Context(), s.Provider, c.id, c.cmd); !errors.Is(err, c.want) {
			t.Errorf("Exec %s: got %+v and error %v, want fault %s", what, exit, err, c.want)
		}
	}
}

func execEndsWhenNobodyTakesItsOutput(t *testing.T, s *subject) {
	m := s.entered(t)
	for stream := range 2 {
		cmd := s.sh("while :; do echo out; echo err >&2; sleep 0.01; done")
		if s.CommandsAreWhole {
			cmd = s.sh("echo out; echo err >&2")
		}
		if stream == 0 {
			cmd.Stdout = full{}
		} else {
			cmd.Stderr = full{}
		}
		end := s.awaitEnding(t, s.begin(t.Context(), m.ID, cmd), "Exec with a writer that fails")
		if !errors.Is(end.err, errFull) {
			t.Errorf("Exec with a writer that fails: got %+v and error %v, want the writer's error", end.exit, end.err)
		}
	}
}

// much is a script that prints so many KiB, as lines of 1024 bytes that are counted.
func much(kilobytes int, redirect string) string {
	return fmt.Sprintf(`x=0123456789abcdef; x=$x$x$x$x; x=$x$x$x$x; x=$x$x$x$x; x=${x%%????????}
		i=0; while [ $i -lt %d ]; do echo "$((1000000 + i))$x" %s; i=$((i + 1)); done`, kilobytes, redirect)
}

// muchText is what a script of much prints.
func muchText(kilobytes int) string {
	x := strings.Repeat("0123456789abcdef", 64)
	x = x[:len(x)-8]
	var text strings.Builder
	for i := range kilobytes {
		fmt.Fprintf(&text, "%d%s\n", 1000000+i, x)
	}
	return text.String()
}

func execLosesNoOutput(t *testing.T, s *subject) {
	m := s.entered(t)
	kilobytes := 1500
	if s.CommandsAreWhole {
		kilobytes = 1000
	}
	_, stdout, stderr := s.exec(t, m.ID, s.sh(much(kilobytes, "")+"; "+much(kilobytes, ">&2")))
	want := muchText(kilobytes)
	if stdout != want {
		t.Errorf("Exec of a command that prints much: got %d bytes, %s, want %d", len(stdout), quote(stdout), len(want))
	}
	if stderr != want {
		t.Errorf("Exec of a command that prints much to standard error: got %d bytes, %s, want %d", len(stderr), quote(stderr), len(want))
	}
	cmd := s.sh("cat")
	cmd.Stdin = strings.NewReader(want)
	if _, stdout, _ := s.exec(t, m.ID, cmd); stdout != want {
		t.Errorf("Exec of a command that is given much and prints it: got %d bytes, want %d", len(stdout), len(want))
	}
}

func commandsAtOnceDoNotMeet(t *testing.T, s *subject) {
	m := s.entered(t)
	var group sync.WaitGroup
	for n := range 6 {
		group.Go(func() {
			var out buffer
			cmd := s.sh("cat; exit " + fmt.Sprint(n))
			cmd.Stdin, cmd.Stdout = strings.NewReader(fmt.Sprint("input ", n)), &out
			exit, err := machine.Exec(t.Context(), s.Provider, m.ID, cmd)
			if err != nil || exit == nil || exit.Code != n || out.String() != fmt.Sprint("input ", n) {
				t.Errorf("Exec %d of six at once: got %+v, %q and error %v, want its own status and output", n, exit, out.String(), err)
			}
		})
	}
	group.Wait()
}
