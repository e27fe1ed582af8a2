package boot_test

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/machine"
)

// newBooter returns a booter that runs until the test ends, and leaves no machine behind then.
func newBooter(t *testing.T, p machine.Provider, role string, change func(*boot.Options), pool ...string) *boot.Booter {
	t.Helper()
	name := strings.Join(append(pool, t.Name())[:1], "")
	hello, err := link.ThisProcess()
	if err != nil {
		t.Fatal(err)
	}
	o := &boot.Options{Spec: machine.Spec{Env: map[string]string{roleVariable: role}, Lifetime: 10 * time.Minute}}
	if change != nil {
		change(o)
	}
	b, err := boot.New(p, name, hello, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
		if list, err := p.List(context.Background(), b.Owner()); err != nil || len(list) != 0 {
			t.Errorf("got machines %v and error %v when the booter has ended, want none", list, err)
		}
	})
	return b
}

// bootOne boots a runner that must come up, and serves its link.
func bootOne(t *testing.T, b *boot.Booter) (r *boot.Runner, echoed chan string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := b.Boot(ctx, fresh())
	if err != nil {
		t.Fatalf("Boot: got error %v, want a runner", err)
	}
	echoed = make(chan string, 10)
	go func() { _ = r.Link().Serve(func(frame []byte) { echoed <- string(frame) }) }() // how it ends is the runner's to say
	return r, echoed
}

func fresh() string { return "r-" + strings.ToLower(rand.Text()[:10]) }

func send(t *testing.T, r *boot.Runner, frame string) {
	t.Helper()
	if err := r.Link().Send(t.Context(), []byte(frame)); err != nil {
		t.Fatalf("Send: got error %v, want none", err)
	}
}

// wantGone checks that nothing is left of a machine.
func wantGone(t *testing.T, p machine.Provider, r *boot.Runner) {
	t.Helper()
	if m, err := p.Get(t.Context(), r.Machine().ID); !errors.Is(err, fault.NotFound) {
		t.Errorf("the machine of the runner: got %+v and error %v, want fault.NotFound", m, err)
	}
}

func wantLost(t *testing.T, r *boot.Runner) *boot.Lost {
	t.Helper()
	select {
	case <-r.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("waited 30s for the end of a runner that has ended")
	}
	lost, ok := errors.AsType[*boot.Lost](r.Err())
	if !ok {
		t.Fatalf("Err: got %v, want a *Lost", r.Err())
	}
	return lost
}

func TestARunnerIsBootedWorksAndIsGone(t *testing.T) {
	t.Parallel()
	p := newLocal(t, place(t))
	b := newBooter(t, p, "runner", nil)
	r, echoed := bootOne(t, b)
	if r.Err() != nil {
		t.Errorf("Err of a runner that runs: got %v, want nil", r.Err())
	}
	send(t, r, "hello")
	if got := <-echoed; got != "hello" {
		t.Errorf("got %q back, want hello", got)
	}
	if ends := time.Until(r.Ends()); ends < 9*time.Minute || ends > 10*time.Minute {
		t.Errorf("Ends: got in %v, want in the 10 minutes of its lifetime", ends)
	}
	for range 2 {
		if err := r.Stop(t.Context()); err != nil {
			t.Errorf("Stop: got %v, want nil", err)
		}
	}
	<-r.Done()
	if _, lost := errors.AsType[*boot.Lost](r.Err()); lost || !errors.Is(r.Err(), fault.Unavailable) {
		t.Errorf("Err of a runner that was stopped: got %v, want fault.Unavailable and no *Lost", r.Err())
	}
	wantGone(t, p, r)
}

func TestARunnerThatIsKilledIsLostAndSaidToBe(t *testing.T) {
	t.Parallel()
	p := newLocal(t, place(t))
	r, _ := bootOne(t, newBooter(t, p, "runner", nil))
	if err := syscall.Kill(r.Link().Peer().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	lost := wantLost(t, r)
	if lost.OOM() || lost.Exit == nil || lost.Exit.Signal != "SIGKILL" || !strings.Contains(lost.Error(), "SIGKILL") || !errors.Is(lost, fault.Unavailable) {
		t.Errorf("got exit %+v and %q, want SIGKILL, in the sentence too, and fault.Unavailable", lost.Exit, lost)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Errorf("Stop of a runner that is lost: got %v, want nil", err)
	}
	wantGone(t, p, r)
}

func TestARunnerThatCrashesIsQuoted(t *testing.T) {
	t.Parallel()
	p := newLocal(t, place(t))
	r, _ := bootOne(t, newBooter(t, p, "runner", nil))
	send(t, r, "crash")
	lost := wantLost(t, r)
	for _, want := range []string{"status 3", "fatal error: all is lost"} {
		if !strings.Contains(lost.Error(), want) {
			t.Errorf("got %q, want %q in it", lost, want)
		}
	}
}

func TestARunnerThatNeedsTooMuchMemoryIsToldApart(t *testing.T) {
	t.Parallel()
	p := newLocal(t, place(t))
	if !p.Abilities().Memory {
		t.Skip("no memory controller")
	}
	small := func(o *boot.Options) { o.Spec.Size.MemoryMB = 64 }
	r, _ := bootOne(t, newBooter(t, p, "runner", small))
	send(t, r, "eat")
	lost := wantLost(t, r)
	if !lost.OOM() || !strings.Contains(lost.Error(), "64 MiB") {
		t.Errorf("got exit %+v and %q, want that it was killed for want of memory, and how much it had", lost.Exit, lost)
	}
}

func TestABootThatFailsSaysWhyAndLeavesNothing(t *testing.T) {
	t.Parallel()
	p := newLocal(t, place(t))
	notExecutable := t.TempDir() + "/program"
	if err := os.WriteFile(notExecutable, []byte("\x7fELF and nothing else"), 0o700); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		role   string
		change func(*boot.Options)
		limit  time.Duration
		kind   fault.Kind
		want   []string
	}{
		"a program that is not there": {"", func(o *boot.Options) { o.Program = "/nowhere/program" }, time.Minute, fault.Unsupported,
			[]string{"/nowhere/program"}},
		"a program that is none": {"", func(o *boot.Options) { o.Program = notExecutable }, time.Minute, fault.Unsupported,
			[]string{"cannot be executed", "no program for Linux"}},
		"a program that panics": {"panics", nil, time.Minute, fault.Unavailable,
			[]string{"status 2", "there is no configuration"}},
		"a program that ends": {"ends", nil, time.Minute, fault.Invalid,
			[]string{"dayfly.Main()", "before it had dialed home"}},
		"a program that does something else": {"forgets", nil, 2 * time.Second, fault.Unavailable,
			[]string{"has not dialed home in", "dayfly.Main()", "serving on :8080"}},
		"another build": {"another build", nil, time.Minute, fault.Invalid,
			[]string{"another build"}},
		"more memory than there is": {"runner", func(o *boot.Options) { o.Spec.Size.MemoryMB = 1 << 30 }, time.Minute, fault.Invalid,
			[]string{"memory"}},
		"an image where there are none": {"runner", func(o *boot.Options) { o.Spec.Image = "debian:12" }, time.Minute, fault.Unsupported,
			[]string{"debian:12"}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := newBooter(t, p, c.role, c.change)
			ctx, cancel := context.WithTimeout(t.Context(), c.limit)
			defer cancel()
			r, err := b.Boot(ctx, fresh())
			if r != nil || fault.Of(err).General() != c.kind {
				t.Fatalf("Boot: got %v and error %v of kind %q, want kind %q", r, err, fault.Of(err), c.kind)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Boot: got %q, want %q in it", err, want)
				}
			}
			if list, err := p.List(t.Context(), b.Owner()); err != nil || len(list) != 0 {
				t.Errorf("List after Boot has returned: got %v and error %v, want nothing", list, err)
			}
		})
	}
}

func TestABootIsGivenUpWithItsCaller(t *testing.T) {
	t.Parallel()
	p := newLocal(t, place(t))
	b := newBooter(t, p, "forgets", nil)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() {
		_, err := b.Boot(ctx, fresh())
		over <- err
	}()
	eventually(t, "the machine", func() bool {
		list, err := p.List(t.Context(), b.Owner())
		return err == nil && len(list) == 1
	})
	cancel()
	if err := <-over; !errors.Is(err, fault.Canceled) {
		t.Errorf("Boot: got error %v, want fault.Canceled", err)
	}
	if list, err := p.List(t.Context(), b.Owner()); err != nil || len(list) != 0 {
		t.Errorf("List after Boot has returned: got %v and error %v, want nothing", list, err)
	}
}
