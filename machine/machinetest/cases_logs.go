package machinetest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

func (s *subject) logger(t *testing.T) {
	t.Helper()
	if _, ok := s.Provider.(machine.Logger); !ok {
		t.Skip("the provider is no machine.Logger")
	}
}

// wantLogs waits until the machine has printed this to each stream.
func (s *subject) wantLogs(t *testing.T, id, stdout, stderr string) {
	t.Helper()
	s.eventually(t, "what machine "+id+" has printed", func() error {
		var out, err buffer
		if failed := machine.Logs(t.Context(), s.Provider, id, false, &out, &err); failed != nil {
			t.Fatalf("Logs(%s): got error %v, want nil", id, failed)
		}
		if out.String() != stdout || err.String() != stderr {
			return errors.New("got " + quote(out.String()) + " and " + quote(err.String()) + ", want " + quote(stdout) + " and " + quote(stderr))
		}
		return nil
	})
}

func logsHoldBothStreams(t *testing.T, s *subject) {
	s.logger(t)
	m := s.create(t, s.script(t, "echo out; echo err >&2; sleep 600"))
	silent := s.create(t, s.script(t, "sleep 600"))
	s.wantLogs(t, m.ID, "out\n", "err\n")
	s.wantLogs(t, silent.ID, "", "")
	s.reopen(t)
	s.wantLogs(t, m.ID, "out\n", "err\n")
	if err := machine.Logs(t.Context(), s.Provider, m.ID, false, nil, nil); err != nil {
		t.Errorf("Logs without writers: got error %v, want nil", err)
	}
}

func logsOutliveTheMachinesEnd(t *testing.T, s *subject) {
	s.logger(t)
	m := s.create(t, s.script(t, "echo out; echo err >&2; echo last words; exit 3"))
	s.wantState(t, m.ID, machine.Exited)
	s.wantLogs(t, m.ID, "out\nlast words\n", "err\n")
	s.reopen(t)
	s.wantLogs(t, m.ID, "out\nlast words\n", "err\n")
	// A machine of the same name begins with nothing.
	s.destroy(t, m.ID)
	spec := s.script(t, "echo second; sleep 600")
	spec.Name = m.Name
	s.wantLogs(t, s.create(t, spec).ID, "second\n", "")
}

func logsAreFollowedToTheEnd(t *testing.T, s *subject) {
	s.logger(t)
	m := s.create(t, s.script(t, "echo one; echo err >&2; sleep 1; echo two; exit 0"))
	var out, err buffer
	p, done := s.Provider, make(chan struct{})
	var failed error
	go func() {
		defer close(done)
		failed = machine.Logs(t.Context(), p, m.ID, true, &out, &err)
	}()
	s.eventually(t, "what is followed", func() error {
		if !strings.HasPrefix(out.String(), "one\n") {
			return errors.New("the first line has not come")
		}
		return nil
	})
	if !s.endsInTime(done) {
		t.Fatalf("Logs that are followed: waited %v after the machine's end for it to return", s.Settle)
	}
	if failed != nil || out.String() != "one\ntwo\n" || err.String() != "err\n" {
		t.Errorf("Logs that are followed: got %q, %q and error %v, want all that was printed", out.String(), err.String(), failed)
	}
	if got := s.get(t, m.ID); got.State != machine.Exited {
		t.Errorf("when following has ended: got a machine that is %s, want exited", got.State)
	}
}

func followingEndsWithItsContextAndItsWriter(t *testing.T, s *subject) {
	s.logger(t)
	m := s.create(t, s.script(t, "echo one; sleep 600"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out buffer
	p, done := s.Provider, make(chan struct{})
	var failed error
	go func() {
		defer close(done)
		failed = machine.Logs(ctx, p, m.ID, true, &out, nil)
	}()
	s.wantWritten(t, &out, "one\n")
	s.steadily(t, func() {
		select {
		case <-done:
			t.Fatalf("Logs that are followed: it returned error %v while the machine runs, want it to stay", failed)
		default:
		}
	})
	cancel()
	if !s.endsInTime(done) {
		t.Fatalf("Logs whose context has ended: waited %v for it to return", s.Settle)
	}
	if !errors.Is(failed, fault.Canceled) && !errors.Is(failed, context.Canceled) {
		t.Errorf("Logs whose context has ended: got error %v, want fault.Canceled or context.Canceled", failed)
	}
	for _, follow := range []bool{false, true} {
		if err := machine.Logs(t.Context(), s.Provider, m.ID, follow, full{}, nil); !errors.Is(err, errFull) {
			t.Errorf("Logs to a writer that fails, follow %v: got error %v, want the writer's error", follow, err)
		}
	}
}

func logsKeepAMebibyte(t *testing.T, s *subject) {
	s.logger(t)
	const kilobytes = 3000
	m := s.create(t, s.script(t, much(kilobytes, "")+"; echo err >&2; exit 0"))
	s.wantState(t, m.ID, machine.Exited)
	all := muchText(kilobytes)
	s.eventually(t, "what a machine has printed that prints much", func() error {
		var out, err buffer
		if failed := machine.Logs(t.Context(), s.Provider, m.ID, false, &out, &err); failed != nil {
			t.Fatalf("Logs: got error %v, want nil", failed)
		}
		switch got := out.String(); {
		case len(got) < 1<<20:
			return errors.New("got less than the last mebibyte: " + quote(got))
		case !strings.HasSuffix(all, got):
			return errors.New("got " + quote(got) + ", want the end of what was printed")
		case err.String() != "err\n":
			return errors.New("got " + quote(err.String()) + " on standard error, want what was printed there")
		}
		return nil
	})
}

func logsOfUnknownAreNotFound(t *testing.T, s *subject) {
	s.logger(t)
	m := s.create(t, s.spec())
	s.destroy(t, m.ID)
	for what, id := range map[string]string{"an unknown machine": fresh("unknown"), "a machine that was destroyed": m.ID} {
		for _, follow := range []bool{false, true} {
			if err := machine.Logs(t.Context(), s.Provider, id, follow, nil, nil); !errors.Is(err, fault.NotFound) {
				t.Errorf("Logs of %s, follow %v: got error %v, want fault.NotFound", what, follow, err)
			}
		}
	}
}
