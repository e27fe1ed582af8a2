package boot_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// lend returns a booter over a lender of machines, all of which end like this, and how often it was asked for one.
func lend(t *testing.T, exit machine.Exit) (b *boot.Booter, cloud *memmachine.Cloud) {
	t.Helper()
	p := memmachine.New(&memmachine.Options{Guest: func(context.Context, *machine.Spec) machine.Exit { return exit }})
	t.Cleanup(p.Cloud().Close)
	return newBooter(t, p, "runner", func(o *boot.Options) {
		o.Lent, o.Address, o.Spec.Command = true, "127.0.0.1", []string{"a program that is up already"}
	}), p.Cloud()
}

func TestARunnerThatWasLentAndDoesNotComeIsSaidToBeAndWhereItWasToGo(t *testing.T) {
	t.Parallel()
	b, _ := lend(t, machine.Exit{Code: 1, Message: "The runner could not follow the invitation: no route to host."})
	_, err := b.Boot(t.Context(), fresh())
	for _, want := range []string{"no route to host", "tcp:127.0.0.1:", "the pool's Address"} {
		if fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), want) {
			t.Errorf("Boot: got error %v, want fault.Unavailable with %q", err, want)
		}
	}
	if strings.Contains(fmt.Sprint(err), "printed") {
		t.Errorf("Boot: got error %v, want nothing of what was printed, which would be of others' calls", err)
	}
}

func TestWhoLendsIsAskedOnce(t *testing.T) {
	t.Parallel()
	b, cloud := lend(t, machine.Exit{})
	cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Unavailable))
	if _, err := b.Boot(t.Context(), fresh()); !errors.Is(err, fault.Unavailable) {
		t.Errorf("Boot: got error %v, want fault.Unavailable", err)
	}
	if n := cloud.Calls(memmachine.Create); n != 1 {
		t.Errorf("got %d creates, want one: a lender waits by itself for as long as that makes sense", n)
	}
}
