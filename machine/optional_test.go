package machine_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

func TestAProviderThatCannotDoMoreThanItsFourMethodsSaysSo(t *testing.T) {
	t.Parallel()
	plain, ctx := &scripted{}, t.Context()
	calls := map[string]func() error{
		"Exec": func() error {
			_, err := machine.Exec(ctx, plain, "m", &machine.Command{Args: []string{"sh"}})
			return err
		},
		"Signal":  func() error { return machine.Signal(ctx, plain, "m", "SIGTERM") },
		"Suspend": func() error { return machine.Suspend(ctx, plain, "m") },
		"Resume":  func() error { return machine.Resume(ctx, plain, "m") },
		"Logs":    func() error { return machine.Logs(ctx, plain, "m", false, nil, nil) },
	}
	for name, call := range calls {
		err := call()
		if !errors.Is(err, fault.Unsupported) {
			t.Errorf("%s: got error %v, want fault.Unsupported", name, err)
		}
		if sentence, ok := fault.Sentence(err); !ok || sentence == "" {
			t.Errorf("%s: got %v, want a sentence for a person", name, err)
		}
	}
	if err := machine.Prepare(ctx, plain, good(), nil); err != nil {
		t.Errorf("Prepare of a provider with nothing to fetch: got error %v, want nil", err)
	}
}

// able is a provider with everything that is optional; it answers each call with an error of its own.
type able struct{ scripted }

var (
	errExec    = errors.New("exec")
	errSignal  = errors.New("signal")
	errSuspend = errors.New("suspend")
	errResume  = errors.New("resume")
	errLogs    = errors.New("logs")
	errPrepare = errors.New("prepare")
)

func (*able) Exec(context.Context, string, *machine.Command) (*machine.Exit, error) {
	return nil, errExec
}
func (*able) Signal(context.Context, string, string) error { return errSignal }
func (*able) Suspend(context.Context, string) error        { return errSuspend }
func (*able) Resume(context.Context, string) error         { return errResume }
func (*able) Logs(context.Context, string, bool, io.Writer, io.Writer) error {
	return errLogs
}
func (*able) Prepare(context.Context, *machine.Spec, func(machine.Preparation)) error {
	return errPrepare
}

func TestAProviderThatCanDoMoreIsAskedTo(t *testing.T) {
	t.Parallel()
	p, ctx := &able{}, t.Context()
	_, err := machine.Exec(ctx, p, "m", &machine.Command{Args: []string{"sh"}})
	for _, c := range []struct{ got, want error }{
		{err, errExec},
		{machine.Signal(ctx, p, "m", "SIGTERM"), errSignal},
		{machine.Suspend(ctx, p, "m"), errSuspend},
		{machine.Resume(ctx, p, "m"), errResume},
		{machine.Logs(ctx, p, "m", true, io.Discard, io.Discard), errLogs},
		{machine.Prepare(ctx, p, good(), nil), errPrepare},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("the provider's own %v: got %v", c.want, c.got)
		}
	}
}
