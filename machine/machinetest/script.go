package machinetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/machine"
)

// script returns the Spec of a machine that runs a shell script, or skips the case. What scripts of this suite use is
// POSIX, built into every shell, or one of cat, sleep and stty.
func (s *subject) script(t *testing.T, script string) *machine.Spec {
	t.Helper()
	if !offered(&s.Script) {
		t.Skip("the harness offers no machine that runs a script")
	}
	spec := s.complete(s.Script)
	if spec.Env == nil {
		spec.Env = map[string]string{}
	}
	spec.Env["SCRIPT"] = script
	return spec
}

// execer skips the case of a provider whose machines cannot be entered.
func (s *subject) execer(t *testing.T) {
	t.Helper()
	if _, ok := s.Provider.(machine.Execer); !ok {
		t.Skip("the provider is no machine.Execer")
	}
}

// sh is a command that runs a script.
func (s *subject) sh(script string) *machine.Command {
	return &machine.Command{Args: append(slices.Clone(s.Shell), script)}
}

// exec runs a command that must be run to its end, and returns what it wrote.
func (s *subject) exec(t *testing.T, id string, cmd *machine.Command) (exit *machine.Exit, stdout, stderr string) {
	t.Helper()
	var out, err buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	exit = s.finish(t, s.begin(t.Context(), id, cmd), "Exec of "+cmd.Args[len(cmd.Args)-1])
	return exit, out.String(), err.String()
}

// finish waits for the end of a call of Exec that must succeed.
func (s *subject) finish(t *testing.T, ended <-chan ending, what string) *machine.Exit {
	t.Helper()
	end := s.awaitEnding(t, ended, what)
	if end.err != nil || end.exit == nil {
		t.Fatalf("%s: got %+v and error %v, want an exit", what, end.exit, end.err)
	}
	return end.exit
}

// ending is what a call of Exec has returned.
type ending struct {
	exit *machine.Exit
	err  error
}

// begin calls Exec beside the case.
func (s *subject) begin(ctx context.Context, id string, cmd *machine.Command) <-chan ending {
	ended := make(chan ending, 1)
	p := s.Provider
	go func() {
		exit, err := machine.Exec(ctx, p, id, cmd)
		ended <- ending{exit, err}
	}()
	return ended
}

func (s *subject) awaitEnding(t *testing.T, ended <-chan ending, what string) ending {
	t.Helper()
	var end ending
	over := make(chan struct{})
	go func() {
		end = <-ended
		close(over)
	}()
	if !s.endsInTime(over) {
		t.Fatalf("%s: waited %v for it to return", what, s.Settle)
	}
	return end
}

// give writes to a command's input, which must be taken.
func (s *subject) give(t *testing.T, input io.Writer, text string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.WriteString(input, text) // it fails when the case has given up
	}()
	if !s.endsInTime(done) {
		t.Fatalf("Exec: waited %v for it to take its input %q", s.Settle, text)
	}
}

// wantWritten waits until a text has been written.
func (s *subject) wantWritten(t *testing.T, out *buffer, want string) {
	t.Helper()
	s.eventually(t, "what was written", func() error {
		if got := out.String(); got != want {
			return errors.New("got " + quote(got) + ", want " + quote(want))
		}
		return nil
	})
}

// quote shows a text, or the ends of a long one.
func quote(text string) string {
	if len(text) > 200 {
		text = text[:100] + " … " + text[len(text)-100:]
	}
	return "\"" + text + "\""
}

// buffer is a writer for several goroutines.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (b *buffer) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(text)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *buffer) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Len()
}

// full is a writer that takes nothing.
type full struct{}

var errFull = errors.New("this writer is full")

func (full) Write([]byte) (int, error) { return 0, errFull }

// hold is a reader that has nothing, until it is released: then it ends.
type hold chan struct{}

func (h hold) Read([]byte) (int, error) {
	<-h
	return 0, io.EOF
}
