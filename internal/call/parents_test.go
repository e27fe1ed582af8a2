package call_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/call"
)

// notes collects what is logged.
type notes struct {
	mu    sync.Mutex
	lines []string
	text  bytes.Buffer // what is written to it
}

func (n *notes) take(r call.Record) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, fmt.Sprintf("%s %s", r.Message, r.Function))
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(p)
}

func (n *notes) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append(slices.Clone(n.lines), strings.Split(strings.TrimSpace(n.text.String()), "\n")...)
}

// end ends what joins two and waits until it has.
func (j *joined) end(t *testing.T) {
	t.Helper()
	j.wire.Close(nil)
	_ = receive(t, j.served, "the end")
	_ = receive(t, j.ended, "the end")
	if left := j.server.Rest(t.Context()); left != nil {
		t.Fatalf("functions that still run: got %v, want none", left)
	}
}

func TestNothingOfOneParentsReachesAnothersLog(t *testing.T) {
	t.Parallel()
	logs, registry := call.NewLogs(), &call.Registry{}
	alone := &notes{}
	logs.Between(alone)
	reader, printer := io.Pipe()
	t.Cleanup(func() { printer.Close() })
	logs.Pipe(printer)
	go logs.Lines(reader, call.Printed)
	logger := slog.New(logs.Handler()).With("all", true) // as code has it that keeps its logger
	contexts := make(chan context.Context, 1)
	f := declare(t, registry, "says", func(ctx context.Context, text string) (int, error) {
		contexts <- ctx
		logger.InfoContext(ctx, "logged "+text)
		if _, err := io.WriteString(printer, "printed "+text+"\n"); err != nil {
			return 0, err
		}
		// This is no whole line, and it is taken only when the line before is a record.
		_, err := io.WriteString(printer, "begun "+text)
		return 0, err
	})
	logger.Info("before all")

	kept := t.Context()
	var parents []*notes
	for i, name := range []string{"one", "two"} {
		parent := &notes{}
		parents = append(parents, parent)
		j := joinAs(t, logs, registry, settings(), &call.ClientOptions{Log: parent.take})
		if i > 0 {
			logger.InfoContext(kept, "kept from an earlier parent")
		}
		if _, err := f.call(t.Context(), j, name); err != nil {
			t.Fatal(err)
		}
		kept = <-contexts //nolint:fatcontext // the one before is over, and nothing is made of it
		want := []string{"logged " + name + " says", "printed " + name + " says"}
		for limit := time.Now().Add(20 * time.Second); ; {
			got := parent.all()
			if slices.Equal(got[:min(len(got), 2)], want) {
				break
			}
			if time.Now().After(limit) {
				t.Fatalf("the log of parent %s: got %q, want %q", name, got, want)
			}
			<-time.After(time.Millisecond)
		}
		j.end(t)
		logger.Info("logged too late " + name)
		logger.InfoContext(kept, "logged too late, with a context "+name)
		if err := logs.Part(t.Context()); err != nil {
			t.Fatal(err)
		}
		logger.Info("between")
	}
	for i, parent := range parents {
		if got := parent.all(); len(got) != 3 {
			t.Errorf("the log of parent %d: got %q, want the two lines of its call", i, got[:len(got)-1])
		}
	}
	got := strings.Join(alone.all(), "\n")
	if strings.Count(got, "between") != 2 || strings.Count(got, "before all") != 1 || strings.Contains(got, "late") || strings.Contains(got, "begun") {
		t.Errorf("what the process says of itself: got %s, want what was said while there was no parent", got)
	}
}

func TestPartEndsWhenSomethingPrintsWithoutEnd(t *testing.T) {
	t.Parallel()
	logs := call.NewLogs()
	_, printer := io.Pipe() // from which nobody reads
	t.Cleanup(func() { printer.Close() })
	logs.Pipe(printer)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := logs.Part(ctx); err == nil || !strings.Contains(err.Error(), "printed") {
		t.Errorf("Part: got %v, want why it could not", err)
	}
}

func TestRestNamesFunctionsThatDoNotEnd(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	begun, release := make(chan struct{}, 2), make(chan struct{})
	f := declare(t, j.registry, "stays", func(context.Context, int) (int, error) {
		begun <- struct{}{}
		<-release
		return 0, nil
	})
	for range 2 {
		go func() { _, _ = f.call(t.Context(), j, 0) }() // it is lost
		receive(t, begun, "the function")
	}
	j.wire.Close(nil)
	_ = receive(t, j.served, "the end")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if left := j.server.Rest(ctx); !slices.Equal(left, []string{"stays"}) {
		t.Errorf("Rest: got %v, want the function that still runs", left)
	}
	close(release)
	if left := j.server.Rest(t.Context()); left != nil {
		t.Errorf("Rest when they have returned: got %v, want none", left)
	}
}
