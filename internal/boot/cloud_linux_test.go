package boot_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// inMemory returns a provider whose machines run a runner in this process, which dials home over a real wire.
func inMemory(t *testing.T, o memmachine.Options) *memmachine.Provider {
	t.Helper()
	if o.Guest == nil {
		o.Guest = guest
	}
	p := memmachine.New(&o)
	t.Cleanup(p.Cloud().Close)
	return p
}

func guest(ctx context.Context, spec *machine.Spec) machine.Exit {
	fail := func(err error) machine.Exit {
		_, _ = io.WriteString(memmachine.In(ctx).Stderr(), err.Error()) // it may have ended
		return machine.Exit{Code: 1}
	}
	invitation, err := link.ParseInvitation(spec.Env[boot.ParentVariable])
	if err != nil {
		return fail(err)
	}
	hello, err := link.ThisProcess()
	if err != nil {
		return fail(err)
	}
	l, err := link.Dial(ctx, invitation, hello)
	if err != nil {
		return fail(err)
	}
	stop := context.AfterFunc(ctx, func() { l.Lose(context.Cause(ctx)) })
	defer stop()
	err = l.Serve(func(frame []byte) { _ = l.Post(frame) })
	if end, ok := errors.AsType[*link.End](err); ok && !end.Lost {
		return machine.Exit{}
	}
	return fail(err)
}

// blind hides that a provider can tell of changes, and of what machines print.
type blind struct {
	machine.Provider
	machine.Carrier
	way machine.Gateway
}

func (b *blind) Gateway(ctx context.Context) (netip.Addr, error) { return b.way.Gateway(ctx) }

func TestNoFaultOfTheProviderForgetsAMachine(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		misbehave func(*memmachine.Cloud)
		kind      fault.Kind // "" for a boot that succeeds
		limit     time.Duration
	}{
		"creates that time out and happen": {func(c *memmachine.Cloud) {
			c.Fail(memmachine.Create, memmachine.ExecuteThenTimeout).Times(2)
		}, "", time.Minute},
		"creates that fail for a while": {func(c *memmachine.Cloud) {
			c.Fail(memmachine.Create, memmachine.Refuse(fault.Unavailable)).Times(3)
		}, "", time.Minute},
		"a create of which nobody ever hears that it happened": {func(c *memmachine.Cloud) {
			c.Fail(memmachine.Create, memmachine.ExecuteThenTimeout)
		}, fault.Unavailable, time.Second},
		"the same, and lists and destroys that fail for a while": {func(c *memmachine.Cloud) {
			c.Fail(memmachine.Create, memmachine.ExecuteThenTimeout)
			c.Fail(memmachine.List, memmachine.Refuse(fault.Unavailable)).Times(3)
			c.Fail(memmachine.Destroy, memmachine.Refuse(fault.Unavailable)).Times(3)
		}, fault.Unavailable, time.Second},
		"no room": {func(c *memmachine.Cloud) {
			c.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted))
		}, fault.Exhausted, time.Minute},
		"credentials that are refused": {func(c *memmachine.Cloud) {
			c.Fail(memmachine.Create, memmachine.Refuse(fault.Denied))
		}, fault.Denied, time.Minute},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			p := inMemory(t, memmachine.Options{})
			b := newBooter(t, &blind{p, p, p}, "", func(o *boot.Options) { o.Poll = 20 * time.Millisecond })
			c.misbehave(p.Cloud())
			ctx, cancel := context.WithTimeout(t.Context(), c.limit)
			defer cancel()
			r, err := b.Boot(ctx, fresh())
			if got := fault.Of(err).General(); got != c.kind {
				t.Fatalf("Boot: got %v and error %v of kind %q, want kind %q", r, err, got, c.kind)
			}
			if err == nil {
				if err := r.Stop(t.Context()); err != nil {
					t.Errorf("Stop: got %v, want nil", err)
				}
			}
			if all := p.Cloud().Machines(); len(all) != 0 {
				t.Errorf("got the machines %v, want none", all)
			}
		})
	}
}

func TestARunnerWhoseMachineVanishesIsLostAtOnce(t *testing.T) {
	t.Parallel()
	for what, hide := range map[string]func(*memmachine.Provider) machine.Provider{
		"as the provider tells":         func(p *memmachine.Provider) machine.Provider { return p },
		"as the provider says if asked": func(p *memmachine.Provider) machine.Provider { return &blind{p, p, p} },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			p := inMemory(t, memmachine.Options{})
			// Nobody looks by himself before the test is over: what asks is that the connection was cut.
			b := newBooter(t, hide(p), "", func(o *boot.Options) { o.Poll = time.Hour })
			r, _ := bootOne(t, b)
			if !p.Cloud().Vanish(r.Machine().ID) {
				t.Fatal("there is no machine of the runner, want one")
			}
			lost := wantLost(t, r)
			if lost.Exit != nil || !strings.Contains(lost.Error(), "was lost") {
				t.Errorf("got exit %+v and %q, want that nobody knows how it ended", lost.Exit, lost)
			}
			if err := r.Stop(t.Context()); err != nil {
				t.Errorf("Stop: got %v, want nil", err)
			}
		})
	}
}

func TestAProviderThatDoesNotAnswerIsNotAskedForAsLongAsABootMayTake(t *testing.T) {
	t.Parallel()
	p := inMemory(t, memmachine.Options{})
	p.Cloud().Fail(memmachine.Create, memmachine.Refuse(fault.Unavailable))
	var asked atomic.Int32
	b := newBooter(t, p, "", func(o *boot.Options) {
		o.Unheard = func() time.Duration { return time.Duration(asked.Add(1)) * 10 * time.Second }
	})
	_, err := b.Boot(t.Context(), fresh()) // which has no end
	if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "without any answer") {
		t.Errorf("Boot: got error %v, want fault.Unavailable that says that there was no answer", err)
	}
	if n := p.Cloud().Calls(memmachine.Create); n != 3 {
		t.Errorf("got %d creates, want 3: as many as there are in half a minute", n)
	}
}

func TestAMachineThatComesAfterItWasGivenUpIsSwept(t *testing.T) {
	t.Parallel()
	// The guest is there long after its runner was given up, is refused, and ends; nobody else knows of it.
	late := make(chan struct{})
	p := inMemory(t, memmachine.Options{})
	var asked atomic.Bool
	p.Cloud().Fail(memmachine.Create, func(ctx context.Context, c *memmachine.Call) error {
		if !asked.Swap(true) {
			go func() {
				<-late
				_ = c.Do(context.WithoutCancel(ctx)) // its answer is nobody's
			}()
		}
		return &memmachine.Failure{Kind: fault.Unavailable, Text: "no answer"}
	})
	b := newBooter(t, p, "", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := b.Boot(ctx, fresh()); !errors.Is(err, fault.Unavailable) {
		t.Fatalf("Boot: got error %v, want fault.Unavailable", err)
	}
	close(late)
	eventually(t, "the late machine to come and be swept", func() bool {
		created, destroyed := 0, 0
		for _, effect := range p.Cloud().Log() {
			switch effect.What {
			case memmachine.Created:
				created++
			case memmachine.Destroyed:
				destroyed++
			}
		}
		return created == 1 && destroyed == 1
	})
}

func TestAMachineThatNeverBootsIsGivenUpInTime(t *testing.T) {
	t.Parallel()
	p := inMemory(t, memmachine.Options{Boot: time.Hour})
	b := newBooter(t, p, "", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := b.Boot(ctx, fresh())
	if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "does not run yet") {
		t.Errorf("Boot: got error %v, want fault.Unavailable that says that it does not run yet", err)
	}
	if all := p.Cloud().Machines(); len(all) != 0 {
		t.Errorf("got the machines %v, want none", all)
	}
}

func TestNothingIsBootedByABooterThatHasEnded(t *testing.T) {
	t.Parallel()
	p := inMemory(t, memmachine.Options{Boot: time.Hour})
	hello, err := link.ThisProcess()
	if err != nil {
		t.Fatal(err)
	}
	b, err := boot.New(p, "short", hello, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- b.Run(ctx) }()
	booting := make(chan error, 1)
	go func() {
		_, err := b.Boot(t.Context(), fresh())
		booting <- err
	}()
	eventually(t, "the machine", func() bool { return len(p.Cloud().Machines()) == 1 })
	cancel()
	if err := <-booting; !errors.Is(err, fault.Canceled) {
		t.Errorf("Boot when Run ends: got error %v, want fault.Canceled", err)
	}
	if err := <-over; err != nil {
		t.Errorf("Run: got %v, want nil", err)
	}
	if _, err := b.Boot(t.Context(), fresh()); !errors.Is(err, fault.Canceled) {
		t.Errorf("Boot after Run has ended: got error %v, want fault.Canceled", err)
	}
	if all := p.Cloud().Machines(); len(all) != 0 {
		t.Errorf("got the machines %v, want none", all)
	}
}

// stubborn is a provider that says once why it makes no machine, and then nothing until it is not waited for any more.
type stubborn struct {
	*blind
	asked atomic.Int32
}

func (s *stubborn) Create(ctx context.Context, _ *machine.Spec) (*machine.Machine, error) {
	if s.asked.Add(1) == 1 {
		return nil, fault.Say(fault.Unavailable, "the disk of the engine is full")
	}
	<-ctx.Done()
	return nil, fmt.Errorf("the engine: %w: %w", fault.Canceled, ctx.Err())
}

func TestWhatAProviderSaidIsToldThoughItWasSilentWhenTheTimeWasUp(t *testing.T) {
	t.Parallel()
	inner := inMemory(t, memmachine.Options{})
	b := newBooter(t, &stubborn{blind: &blind{inner, inner, inner}}, "", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // the pause after the first answer is shorter
	defer cancel()
	_, err := b.Boot(ctx, fresh())
	if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "not made in time") || !strings.Contains(err.Error(), "disk of the engine is full") {
		t.Errorf("got error %v, want fault.Unavailable that says what the provider has said", err)
	}
}
