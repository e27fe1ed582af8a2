package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/fleet"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// must creates a runner for a parent, or ends the test.
func must(t *testing.T, p *parent) *have {
	t.Helper()
	h, err := p.create(t.Context())
	if err != nil {
		t.Fatalf("a runner for %s: got error %v, want one", p.holder, err)
	}
	return h
}

// recalled reports whether a runner has asked to be let go.
func (h *have) recalled() bool {
	select {
	case <-h.guest.leave:
		return true
	default:
		return false
	}
}

func TestARunnerIsBootedAndThenSharedByTwoPrograms(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.parent("A", nil), w.parent("B", nil)
		first := must(t, a)
		list, err := a.list()
		if err != nil || len(list) != 1 || list[0].ID != first.id || list[0].State != machine.Running {
			t.Errorf("List: got %v and error %v, want the reservation", list, err)
		}
		if list, err := b.list(); err != nil || len(list) != 0 {
			t.Errorf("List of another program: got %v and error %v, want nothing", list, err)
		}
		first.release()
		pause(t.Context(), 100*time.Millisecond)
		began := time.Now()
		second := must(t, b)
		if second.runner != first.runner || time.Since(began) > 100*time.Millisecond {
			t.Errorf("got runner %s after %v, want %s at once", second.runner, time.Since(began), first.runner)
		}
		second.release()
		w.gone(2 * time.Minute)
	})
}

func TestABurstBootsAllThatItNeedsAtOnceUpToMax(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.parent("A", func(terms *wire.FleetTerms) { terms.Max = 8 })
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 12 {
			all.Go(func() { _, _ = a.create(ctx) })
			synctest.Wait()
		}
		if n := len(w.machines()); n != 8 {
			t.Errorf("got %d machines of 12 that are wanted, want 8 at once", n)
		}
		pause(t.Context(), time.Second)
		if got := w.running().fleets.Fleets(); len(got) != 1 || got[0].Waiting != 4 || got[0].Runners["busy"] != 8 || got[0].Max != 8 {
			t.Errorf("Fleets: got %+v, want one with 8 busy and 4 who wait", got)
		}
		cancel()
		all.Wait()
	})
}

func TestARunnerThatBootsLateServesWhoeverIsFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.parent("A", nil), w.parent("B", nil)
		impatient, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := a.create(impatient); !errors.Is(err, fault.Canceled) {
			t.Fatalf("create that is given up: got error %v, want fault.Canceled", err)
		}
		h := must(t, b)
		if n := len(w.machines()); n != 1 {
			t.Errorf("got %d machines, want the one that was booting", n)
		}
		h.release()
	})
}

func TestAnAnswerThatWasLostIsGivenAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		lost := 0
		w.lose = func(r *http.Request) loss {
			if strings.HasPrefix(r.URL.Path, wire.FleetRunnerPrefix) && lost < 3 {
				lost++
				return lostAnswer
			}
			return lostNever
		}
		h := must(t, w.parent("A", nil))
		if n := w.cloud.Calls(memmachine.Create); n != 1 || lost != 3 {
			t.Errorf("got %d creates and %d answers lost, want one and three", n, lost)
		}
		h.release()
	})
}

func TestAServerThatIsStartedAnewHearsWhoHasWhichRunner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.parent("A", nil), w.parent("B", nil)
		go a.live(t.Context())
		busy, free := must(t, a), must(t, b)
		free.release()
		pause(t.Context(), time.Second)
		w.stop()
		pause(t.Context(), 5*time.Second)
		w.serve()
		if _, err := a.list(); !errors.Is(err, fault.Unavailable) {
			t.Errorf("List before the runners were heard of: got error %v, want fault.Unavailable", err)
		}
		again := must(t, b)
		if again.runner != free.runner {
			t.Errorf("got runner %s, want the free one, %s", again.runner, free.runner)
		}
		pause(t.Context(), fleet.Grace)
		list, err := a.list()
		if err != nil || len(list) != 1 || list[0].ID != busy.id || list[0].Name != busy.name || list[0].State != machine.Running {
			t.Errorf("List: got %v and error %v, want what the program had before", list, err)
		}
		pause(t.Context(), 5*time.Minute)
		if busy.recalled() {
			t.Error("the runner was recalled, want that it goes on")
		}
		if n := w.cloud.Calls(memmachine.Create); n != 2 {
			t.Errorf("got %d creates, want the two from before", n)
		}
		busy.release()
		again.release()
		w.gone(3 * time.Minute)
	})
}

func TestWhoHasMostGivesOneBackWhenSomebodyWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		four := func(terms *wire.FleetTerms) { terms.Max = 4 }
		a, b := w.parent("A", four), w.parent("B", four)
		go a.live(t.Context())
		go b.live(t.Context())
		var had []*have
		for range 4 {
			had = append(had, must(t, a))
		}
		for _, h := range had {
			go func() { // who is asked gives back
				<-h.guest.leave
				pause(t.Context(), time.Second)
				h.release()
			}()
		}
		first, second := must(t, b), must(t, b)
		count := func() (n int) {
			for _, h := range had {
				if h.recalled() {
					n++
				}
			}
			return n
		}
		if n := count(); n != 2 {
			t.Errorf("got %d runners recalled for two who wait, want 2", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := b.create(ctx); !errors.Is(err, fault.Canceled) || count() != 2 {
			t.Errorf("one more than the other has: got error %v and %d recalled, want that it waits", err, count())
		}
		first.release()
		second.release()
		for _, h := range had {
			if !h.recalled() {
				close(h.guest.leave)
			}
		}
		pause(t.Context(), time.Minute)
	})
}

func TestRunnersOfAnOldBuildGiveWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		one := func(terms *wire.FleetTerms) { terms.Max, terms.Min = 1, 1 }
		must(t, w.parent("A", one)).release()
		pause(t.Context(), time.Second)
		w.build = "b2"
		began := time.Now()
		h := must(t, w.parent("B", one))
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("got a runner of the new build after %v, want at once, not when the old one was not needed for long", took)
		}
		if n, runners := w.cloud.Calls(memmachine.Create), w.machines(); n != 2 || len(runners) != 1 || runners[0] != h.runner {
			t.Errorf("got %d creates and the machines %v, want the new one instead of the old", n, runners)
		}
		h.release()
	})
}

func TestAProgramThatWasReplacedIsSaidToBe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.parent("A", nil)
		w.build = "b2"
		for range 3 {
			if _, err := a.create(t.Context()); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "b2") {
				t.Errorf("create where the machine has another build: got error %v, want fault.Invalid that names it", err)
			}
		}
		if n := w.cloud.Calls(memmachine.Create); n != 1 {
			t.Errorf("got %d creates, want one: what cannot get better is not tried again at once", n)
		}
		w.gone(3 * time.Minute)
	})
}

func TestWhyARunnerDoesNotBootIsTold(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		exit *machine.Exit
		kind fault.Kind
		want string
	}{
		"a program that does not call Main": {&machine.Exit{}, fault.Invalid, "dayfly.Main()"},
		"a crash":                           {&machine.Exit{Code: 2}, fault.Unavailable, "status 2. It printed: no such flag"},
		"too little memory":                 {&machine.Exit{Code: 137, OOMKilled: true}, fault.Invalid, "memory"},
		"nothing to run":                    {&machine.Exit{Code: 127}, fault.Invalid, "cannot be started"},
		"a program that hangs":              {nil, fault.Unavailable, "has not called within 1m0s. It printed: no such flag"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.start = func(ctx context.Context, _ *machine.Spec) *machine.Exit {
					fmt.Fprintln(memmachine.In(ctx).Stderr(), "no such flag")
					if test.exit == nil {
						<-ctx.Done()
						return &machine.Exit{Code: 137}
					}
					return test.exit
				}
				_, err := w.parent("A", nil).create(t.Context())
				if fault.Of(err) != test.kind || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got error %v, want kind %s and %q", err, test.kind, test.want)
				}
				if got := w.running().fleets.Fleets(); len(got) != 1 || !strings.Contains(got[0].Failure, test.want) {
					t.Errorf("Fleets: got %+v, want the failure", got)
				}
				w.gone(3 * time.Minute)
			})
		})
	}
}

func TestABootThatFailedIsTriedAgainAfterAPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.parent("A", nil)
		w.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted)).Times(3)
		began := time.Now()
		for range 3 {
			if _, err := a.create(t.Context()); !errors.Is(err, fault.Exhausted) {
				t.Fatalf("create that is refused: got error %v, want fault.Exhausted", err)
			}
		}
		must(t, a).release()
		if took := time.Since(began); took < 7*time.Second || took > 15*time.Second {
			t.Errorf("four boots took %v, want pauses of 1, 2 and 4 s between them", took)
		}
	})
}

func TestARunnerThatDoesNotTakeWhatItIsLentForIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		once := make(chan struct{}, 1)
		once <- struct{}{}
		w.start = func(ctx context.Context, spec *machine.Spec) *machine.Exit {
			select {
			case <-once: // one takes the invitation and is never heard of again
				home, _ := wire.ParseFleetHome(spec.Env[boot.ParentVariable])
				c := wire.FleetCall{Instance: "i", Build: "b1", Number: 1, WaitMS: 20_000}
				_ = w.ask(ctx, http.MethodPost, wire.FleetRunnerPrefix+spec.Name, home.Token, &c, &wire.FleetAnswer{}, nil)
				<-ctx.Done()
				return &machine.Exit{Code: 137}
			default:
				return nil
			}
		}
		began := time.Now()
		h := must(t, w.parent("A", nil))
		if took := time.Since(began); took < fleet.TakeTTL || took > fleet.TakeTTL+3*time.Second {
			t.Errorf("another runner came after %v, want soon after %v", took, fleet.TakeTTL)
		}
		if n := len(w.machines()); n != 1 {
			t.Errorf("got %d machines, want the one", n)
		}
		h.release()
	})
}

func TestARunnerOfSingleUseIsReplacedAfterIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.parent("A", func(terms *wire.FleetTerms) { terms.SingleUse, terms.Min, terms.Max = true, 1, 2 })
		seen := map[string]bool{}
		for i := range 4 {
			h := must(t, a)
			if seen[h.runner] {
				t.Errorf("runner %s was lent twice", h.runner)
			}
			seen[h.runner] = true
			if i == 2 { // a server that is started anew knows what its runners are for
				w.stop()
				go h.release()
				pause(t.Context(), time.Second)
				w.serve()
			} else {
				h.release()
			}
			_ = a.announce()
			pause(t.Context(), time.Second)
		}
		if n := len(w.machines()); n != 1 {
			t.Errorf("got %d machines, want the one that is kept", n)
		}
	})
}

func TestMinIsKeptWhileSomebodySaysSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.parent("A", func(terms *wire.FleetTerms) { terms.Min = 2 })
		for range 100 {
			if err := a.announce(); err != nil {
				t.Fatalf("announce: got error %v", err)
			}
			pause(t.Context(), 3*time.Second)
		}
		if n := len(w.machines()); n != 2 {
			t.Errorf("got %d machines while 2 are announced, want those", n)
		}
		for _, m := range w.cloud.Machines() { // what is lost comes back
			w.cloud.Exit(m.ID, machine.Exit{Code: 1})
		}
		_ = a.announce()
		pause(t.Context(), 10*time.Second)
		if n := len(w.machines()); n != 2 {
			t.Errorf("got %d machines after both were lost, want two others", n)
		}
		a.terms.Min = 0
		_ = a.announce()
		w.gone(time.Minute)
	})
}

func TestWhatAProgramHasAnnouncedHoldsAsLongAsItIsHeardOf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.parent("A", func(terms *wire.FleetTerms) { terms.Min = 2 })
		if err := a.announce(); err != nil {
			t.Fatalf("announce: got error %v", err)
		}
		living, kill := context.WithCancel(t.Context())
		go a.live(living) // which asks for lists, much more often than it announces anything
		pause(t.Context(), 5*time.Minute)
		if n := len(w.machines()); n != 2 {
			t.Errorf("got %d machines of a program that lives, and has announced 2 five minutes ago, want 2", n)
		}
		kill()
		w.gone(2 * time.Minute)
	})
}

func TestAProgramThatIsSilentForALeaseLosesItsRunners(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		one := func(terms *wire.FleetTerms) { terms.Max = 1 }
		silent := must(t, w.parent("A", one))
		b := w.parent("B", one)
		go b.live(t.Context())
		began := time.Now()
		h := must(t, b)
		if took := time.Since(began); took < time.Minute || took > 2*time.Minute {
			t.Errorf("the runner of a silent program was free after %v, want after a lease", took)
		}
		if h.runner == silent.runner {
			t.Error("the runner that served the silent program was lent, though it had not come back")
		}
		h.release()
	})
}

func TestHowAMachineEndedIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start = func(ctx context.Context, _ *machine.Spec) *machine.Exit {
			fmt.Fprintln(memmachine.In(ctx).Stderr(), "out of ideas")
			return nil
		}
		a := w.parent("A", nil)
		for _, test := range []struct {
			exit machine.Exit
			want string
		}{
			{machine.Exit{Code: 137, Signal: "SIGKILL", OOMKilled: true}, ""},
			{machine.Exit{Code: 2}, "It ended with status 2. The last it printed is: out of ideas"},
		} {
			h := must(t, a)
			for _, m := range w.cloud.Machines() {
				w.cloud.Exit(m.ID, test.exit)
			}
			m, err := h.get()
			if err != nil || m.State != machine.Exited || m.Exit == nil || m.Exit.OOMKilled != test.exit.OOMKilled || m.Exit.Code != test.exit.Code || m.Exit.Message != test.want {
				t.Errorf("Get: got %+v with %+v and error %v, want the exit %+v and %q", m, m.Exit, err, test.exit, test.want)
			}
			h.release()
			if _, err := h.get(); !errors.Is(err, fault.NotFound) {
				t.Errorf("Get of what was given back: got error %v, want fault.NotFound", err)
			}
			w.gone(3 * time.Minute)
		}
	})
}

func TestARunnerIsRecalledBeforeItsMachineEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.parent("A", func(terms *wire.FleetTerms) { terms.Spec.Lifetime = time.Hour })
		go a.live(t.Context())
		h := must(t, a)
		began := time.Now()
		<-h.guest.leave
		if took := time.Since(began); took < 54*time.Minute || took > 56*time.Minute {
			t.Errorf("recalled after %v, want 5 min before its hour is over", took)
		}
		h.release()
		pause(t.Context(), time.Second)
		if n := len(w.machines()); n != 0 {
			t.Errorf("got %d machines, want none: it is too old to be lent", n)
		}
	})
}

func TestTenantsShareNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := must(t, w.parent("A", nil))
		h.release()
		pause(t.Context(), time.Second)
		want := &wire.Reserve{FleetTerms: w.parent("B", nil).terms}
		want.Spec.Name, want.Spec.Owner, want.Spec.Env = "b-1", "calls-b", map[string]string{boot.ParentVariable: "x"}
		m, wait, err := w.running().fleets.Reserve(t.Context(), "another", "mem", "thumbs", want)
		if m != nil || wait == nil || err != nil {
			t.Errorf("Reserve of a fleet of that name of another tenant: got %v, %v and error %v, want to wait for one of his own", m, wait, err)
		}
		if _, err := w.running().fleets.Get(t.Context(), "another", "mem", "thumbs", h.id); !errors.Is(err, fault.NotFound) {
			t.Errorf("Get of another's reservation: got error %v, want fault.NotFound", err)
		}
	})
}

func TestWhatNoRunnerSaysIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := must(t, w.parent("A", nil))
		call := func(name, token string, c wire.FleetCall) (*wire.FleetAnswer, error) {
			a := &wire.FleetAnswer{}
			return a, w.ask(t.Context(), http.MethodPost, wire.FleetRunnerPrefix+name, token, &c, a, nil)
		}
		good := wire.FleetCall{Instance: "process-of-" + h.runner, Build: "b1", Number: 1}
		for _, test := range []struct {
			what, name, token string
			call              wire.FleetCall
			want              fault.Kind
		}{
			{"another token", h.runner, "token-of-another", good, fault.Unauthenticated},
			{"no token", h.runner, "", good, fault.Unauthenticated},
			{"no machine of a fleet", "nobody", "token-of-nobody", good, fault.NotFound},
			{"another process", h.runner, "token-of-" + h.runner, wire.FleetCall{Instance: "another", Build: "b1", Number: 1000}, fault.Conflict},
			{"no process", h.runner, "token-of-" + h.runner, wire.FleetCall{Build: "b1", Number: 1000}, fault.Invalid},
		} {
			if _, err := call(test.name, test.token, test.call); fault.Of(err) != test.want {
				t.Errorf("%s: got error %v, want kind %s", test.what, err, test.want)
			}
		}
		if a, err := call(h.runner, "token-of-"+h.runner, good); err != nil || *a != (wire.FleetAnswer{}) {
			t.Errorf("a call that was on its way for long: got %+v and error %v, want an answer that says nothing", a, err)
		}
		if got := w.running().fleets.Count("tenant", "mem", "thumbs"); got["busy"] != 1 {
			t.Errorf("got the runners %v, want that it is busy still", got)
		}
		h.release()
	})
}

func TestTermsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for name, change := range map[string]func(*wire.FleetTerms){
			"no holder":              func(terms *wire.FleetTerms) { terms.Holder = "" },
			"a holder with a dot":    func(terms *wire.FleetTerms) { terms.Holder = "a.b" },
			"no build":               func(terms *wire.FleetTerms) { terms.Build = "" },
			"no machines at all":     func(terms *wire.FleetTerms) { terms.Max = 0 },
			"more than there may be": func(terms *wire.FleetTerms) { terms.Max = 1 << 30 },
			"Min above Max":          func(terms *wire.FleetTerms) { terms.Min = 4 },
			"time before now":        func(terms *wire.FleetTerms) { terms.IdleMS = -1 },
			"nothing to run":         func(terms *wire.FleetTerms) { terms.Spec.Command = nil },
		} {
			if err := w.parent("A", change).announce(); !errors.Is(err, fault.Invalid) {
				t.Errorf("%s: got error %v, want fault.Invalid", name, err)
			}
		}
		a := w.parent("A", nil)
		a.path = wire.FleetPrefix + "mem/Thumbs"
		if err := a.announce(); !errors.Is(err, fault.Invalid) {
			t.Errorf("a name that is none: got error %v, want fault.Invalid", err)
		}
		a.path = wire.FleetPrefix + "nowhere/thumbs"
		if err := a.announce(); !errors.Is(err, fault.Invalid) {
			t.Errorf("a provider that is not there: got error %v, want fault.Invalid", err)
		}
		if got := w.running().fleets.Fleets(); len(got) != 0 {
			t.Errorf("Fleets: got %+v, want none", got)
		}
	})
}
