package call_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/slogtest"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/internal/call"
)

func TestWhatACallLogsArrivesWithItsIDBeforeItsResult(t *testing.T) {
	t.Parallel()
	records := make(chan call.Record, 10)
	j := join(t, settings(), &call.ClientOptions{Log: func(r call.Record) { records <- r }})
	logger := slog.New(j.logs.Handler()).With("a", 1).WithGroup("g").With("b", true)
	f := declare(t, j.registry, "logs", func(ctx context.Context, _ int) (int, error) {
		logger.InfoContext(ctx, "hello", "d", time.Second, "err", errors.New("oh"), slog.Group("in", "f", 1.5))
		logger.DebugContext(ctx, "not at this level")
		return 0, nil
	})
	if _, err := f.call(t.Context(), j, 0); err != nil {
		t.Fatal(err)
	}
	r := receive(t, records, "the record")
	if r.Call == 0 || r.Function != "logs" || r.Message != "hello" || r.Level != slog.LevelInfo || r.Source != call.Logged {
		t.Errorf("got %+v", r)
	}
	want := "[a=1 g=[b=true d=1s err=oh in=[f=1.5]]]"
	if got := fmt.Sprint(r.Attrs); got != want {
		t.Errorf("attributes: got %s, want %s", got, want)
	}
	if len(records) > 0 {
		t.Errorf("another record came: %v", <-records)
	}
}

func TestLinesThatARunnerPrintsBelongToTheOnlyCallThatRuns(t *testing.T) {
	t.Parallel()
	records := make(chan call.Record, 10)
	j := join(t, settings(), &call.ClientOptions{Log: func(r call.Record) { records <- r }})
	r, w := io.Pipe()
	go j.logs.Lines(r, call.Errors)
	f := declare(t, j.registry, "prints", func(context.Context, int) (int, error) {
		_, err := io.WriteString(w, "one\n"+strings.Repeat("x", 20<<10)+"\nthree")
		return 0, err
	})
	if _, err := f.call(t.Context(), j, 0); err != nil {
		t.Fatal(err)
	}
	w.Close()
	lengths := []int{3, 16 << 10, 4 << 10, 5}
	for i, want := range lengths {
		got := receive(t, records, "a line")
		if len(got.Message) != want || got.Source != call.Errors {
			t.Errorf("line %d: got %d bytes from %v, want %d", i, len(got.Message), got.Source, want)
		}
		if i == 0 && got.Function != "prints" {
			t.Errorf("the line belongs to %q, want prints", got.Function)
		}
	}
}

func TestACallThatWasAnsweredDoesNotKeepTheNextOneFromBeingTheOnlyOne(t *testing.T) {
	t.Parallel()
	records := make(chan call.Record, 10)
	j := join(t, settings(), &call.ClientOptions{Log: func(r call.Record) { records <- r }})
	var answers atomic.Bool
	held := make(chan struct{})
	j.far.before = func() (after func()) {
		// It is decided before the answer is sent: what the next call sends may come before what happens after it.
		if !answers.CompareAndSwap(true, false) {
			return nil
		}
		return func() { <-held } // the caller has its answer, and nobody has cleaned up behind the call
	}
	defer close(held)
	first := declare(t, j.registry, "first", func(context.Context, int) (int, error) {
		answers.Store(true)
		return 0, nil
	})
	logger := slog.New(j.logs.Handler())
	second := declare(t, j.registry, "second", func(context.Context, int) (int, error) {
		logger.Info("without the call's context")
		return 0, nil
	})
	for _, f := range []function[int, int]{first, second} {
		if _, err := f.call(t.Context(), j, 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := receive(t, records, "the record"); got.Function != "second" {
		t.Errorf("the record belongs to %q, want second", got.Function)
	}
}

func TestAFloodOfRecordsStopsNobodyAndIsCounted(t *testing.T) {
	t.Parallel()
	const flood = 20_000
	proceed, counted := make(chan struct{}), make(chan int, 1)
	total := 0
	j := join(t, settings(), &call.ClientOptions{Log: func(r call.Record) {
		<-proceed // whoever writes the log stands still
		total += r.Dropped
		if r.Source != call.Counted {
			total++
		}
		if total == flood {
			counted <- total
		}
	}})
	logger := slog.New(j.logs.Handler())
	f := declare(t, j.registry, "floods", func(ctx context.Context, n int) (int, error) {
		for range n {
			logger.InfoContext(ctx, strings.Repeat("x", 1000))
		}
		return n, nil
	})
	if _, err := f.call(t.Context(), j, flood); err != nil {
		t.Fatal(err)
	}
	close(proceed)
	if got := receive(t, counted, "all records to be told or counted"); got != flood {
		t.Errorf("got %d, want %d", got, flood)
	}
}

// The handler keeps the rules of package slog.
func TestAnErrorIsSentBeforeTheCodeThatLoggedItGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t)
		logs := call.NewLogs()
		server := call.NewServer(&call.Registry{}, b, logs) // which is not served, so nobody but the code itself can send
		logs.Serve(server)
		log := slog.New(logs.Handler())
		log.Info("the model is looked for")
		if n := len(a.in); n != 0 {
			t.Errorf("after Info: got %d frames on the way, want who logs ordinary things not to send them", n)
		}
		log.Error("the model is not there")
		if n := len(a.in); n != 1 {
			t.Errorf("after Error: got %d frames on the way, want 1 with what was logged", n)
		}
		for range 3 { // fill what there is room for
			log.Error("again")
		}
		began := time.Now()
		for range 1000 {
			log.Error("and again")
		}
		if took := time.Since(began); took > 20*time.Millisecond {
			t.Errorf("1000 errors for a parent that does not read: got %v, want a moment in all", took)
		}
		var got []call.Record
		client, err := call.NewClient(t.Context(), a, settings(), &call.ClientOptions{Log: func(r call.Record) { got = append(got, r) }})
		if err != nil {
			t.Fatal(err)
		}
		go client.Serve()
		go server.Serve()
		synctest.Wait()
		if len(got) != 1005 || got[0].Message != "the model is looked for" || got[1].Message != "the model is not there" || got[1004].Message != "and again" {
			t.Errorf("got %d records, want all 1005 in order when the parent reads", len(got))
		}
		a.cut(errors.New("the test is over"))
	})
}

func BenchmarkLog(b *testing.B) {
	for name, level := range map[string]slog.Level{"info": slog.LevelInfo, "error": slog.LevelError} {
		b.Run(name, func(b *testing.B) {
			j := join(b, settings(), nil)
			log := slog.New(j.logs.Handler())
			for b.Loop() {
				log.Log(b.Context(), level, "a message", "n", 1)
			}
		})
	}
}

func TestTheHandlerIsOne(t *testing.T) {
	t.Parallel()
	records := make(chan call.Record, 10)
	j := join(t, settings(), &call.ClientOptions{Log: func(r call.Record) { records <- r }})
	slogtest.Run(t, func(*testing.T) slog.Handler { return j.logs.Handler() }, func(t *testing.T) map[string]any {
		r := receive(t, records, "the record")
		all := map[string]any{slog.LevelKey: r.Level, slog.MessageKey: r.Message}
		if !r.Time.IsZero() && r.Time.Unix() != 0 {
			all[slog.TimeKey] = r.Time
		}
		flatten(all, r.Attrs)
		return all
	})
}

func flatten(into map[string]any, attrs []slog.Attr) {
	for _, a := range attrs {
		if a.Value.Kind() != slog.KindGroup {
			into[a.Key] = a.Value.Any()
			continue
		}
		group := into
		if a.Key != "" {
			group = map[string]any{}
			into[a.Key] = group
		}
		flatten(group, a.Value.Group())
	}
}
