package call_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/call"
	"github.com/dayfly-run/dayfly/internal/link"
)

// leads is a link that counts how many waiting callers have read their results themselves.
type leads struct {
	*link.Link
	count atomic.Int64
}

func (l *leads) Lead(ctx context.Context, deadline time.Time, woken <-chan struct{}) bool {
	led := l.Link.Lead(ctx, deadline, woken)
	if led {
		l.count.Add(1)
	}
	return led
}

// A caller that waits alone reads the link itself. Here something else comes than its result, or nothing does.
func TestACallerThatReadsForItselfMissesNothing(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"unix:", "tcp:"} {
		t.Run(strings.Trim(way, ":"), func(t *testing.T) {
			t.Parallel()
			j := joinLinked(t, way)
			ended, told := make(chan error, 1), make(chan struct{})
			f := declare(t, j.registry, "f", func(ctx context.Context, how string) (string, error) {
				switch how {
				case "waits":
					<-ctx.Done()
					ended <- context.Cause(ctx)
					return "", ctx.Err()
				case "reports":
					call.From(ctx).Progress(0.5, "half of it")
					<-told
				case "large":
					return strings.Repeat("x", 3<<20), nil
				}
				return how, nil
			})
			alone := func() {
				t.Helper()
				limit := time.Now().Add(20 * time.Second)
				for before := j.leads.count.Load(); j.leads.count.Load() == before; {
					if _, err := f.call(t.Context(), j, ""); err != nil {
						t.Fatal(err)
					}
					if time.Now().After(limit) {
						t.Fatal("in 20 s of lone calls: got none whose caller read its result itself")
					}
				}
			}
			for range 20 {
				alone()
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(20*time.Millisecond, cancel)
				if _, err := f.call(ctx, j, "waits"); !errors.Is(err, context.Canceled) {
					t.Fatalf("a caller whose context ends: got %v, want context.Canceled", err)
				}
				receive(t, ended, "the end of the function's context, which was canceled")

				alone()
				k, err := f.start(t.Context(), j, "waits", call.Request{Deadline: time.Now().Add(20 * time.Millisecond)})
				if err != nil {
					t.Fatal(err)
				}
				if err := k.Wait(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("a caller with a deadline: got %v, want context.DeadlineExceeded", err)
				}
				receive(t, ended, "the end of the function's context, which was too late")
			}
			alone()
			k, err := f.start(t.Context(), j, "reports", call.Request{Progress: func(fraction float64, text string) {
				if fraction != 0.5 || text != "half of it" {
					t.Errorf("progress: got %v %q", fraction, text)
				}
				close(told)
			}})
			if err != nil {
				t.Fatal(err)
			}
			waited := make(chan error, 1)
			go func() { waited <- k.Wait(t.Context()) }()
			if err := receive(t, waited, "a function that waits until its progress was told"); err != nil {
				t.Errorf("a function that reports: got %v", err)
			}
			alone()
			if got, err := f.call(t.Context(), j, "large"); err != nil || len(got) != 3<<20 {
				t.Errorf("a result of many frames: got %d bytes, %v", len(got), err)
			}
			alone()
			time.AfterFunc(20*time.Millisecond, func() { j.leads.Lose(errors.New("the machine is gone")) })
			failure, ok := errors.AsType[*call.Failure](func() error { _, err := f.call(t.Context(), j, "waits"); return err }())
			if !ok || !strings.Contains(failure.Error(), "the machine is gone") {
				t.Errorf("a caller whose link is lost: got %v, want that it is", failure)
			}
		})
	}
}
