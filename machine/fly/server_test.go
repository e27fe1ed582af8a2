package fly_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/flyapi"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/fly"
	"github.com/dayfly-run/dayfly/machine/machinetest"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// dayfly is a Dayfly server's Machines API over a provider, at an address.
type dayfly struct {
	url string
	end func()
}

// serveDayfly serves the Machines API over a provider, with what the ledger remembers.
func serveDayfly(t *testing.T, o flyapi.Options) *dayfly {
	t.Helper()
	o.Apps = []string{app}
	service, err := flyapi.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(service.Handler())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	var once sync.Once
	d := &dayfly{url: server.URL, end: func() {
		once.Do(func() {
			server.Close()
			cancel()
			if err := errors.Join(<-done, service.Close()); err != nil {
				t.Errorf("the Machines API ended with %v", err)
			}
		})
	}}
	t.Cleanup(d.end)
	return d
}

// persistent is a provider whose caller asks again, unchanged, when an answer leaves open what has happened. That is
// what package machine expects of callers, and what makes a bad day invisible to them.
type persistent struct{ machine.Provider }

const tries = 50

func (p persistent) Create(ctx context.Context, spec *machine.Spec) (m *machine.Machine, err error) {
	for range tries {
		if m, err = p.Provider.Create(ctx, spec); !errors.Is(err, fault.Unavailable) {
			return m, err
		}
	}
	return m, err
}

func (p persistent) Get(ctx context.Context, id string) (m *machine.Machine, err error) {
	for range tries {
		if m, err = p.Provider.Get(ctx, id); !errors.Is(err, fault.Unavailable) {
			return m, err
		}
		<-time.After(5 * time.Millisecond)
	}
	return m, err
}

// TestProviderOverADayflyServerInMemory runs the suite against Dayfly's own Machines API, on a good day and on a bad one.
func TestProviderOverADayflyServerInMemory(t *testing.T) {
	t.Parallel()
	for name, quirks := range map[string]*flyapi.Quirks{
		"a good day": nil,
		"a bad day": {
			TimeoutShare: 0.4, HiddenFor: 30 * time.Millisecond, NoRoom: map[string]string{"bos": "region", "dfw": "host", "iad": "volume"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			type place struct {
				cloud *memmachine.Cloud
				api   *dayfly
				told  *sync.Map // by the machine's id: the environment of what runs in it
			}
			places := map[machine.Provider]place{}
			var here place
			connect := func(p place) machine.Provider {
				f := fly.New(app, token, &fly.Options{URL: p.api.url, Image: "worker:1", Region: "bos,dfw,iad,ams", Rate: -1})
				provider := &struct{ persistent }{persistent{f}}
				places[provider], here = p, p
				return provider
			}
			machinetest.Run(t, machinetest.Harness{
				New: func(t *testing.T) machine.Provider {
					told := &sync.Map{}
					inner := memmachine.New(&memmachine.Options{Boot: time.Millisecond, Guest: guest(told)})
					t.Cleanup(inner.Cloud().Close)
					api := serveDayfly(t, flyapi.Options{Provider: inner, Ledger: filepath.Join(t.TempDir(), "fly.db"), Quirks: quirks})
					return connect(place{inner.Cloud(), api, told})
				},
				Reopen: func(_ *testing.T, old machine.Provider) machine.Provider { return connect(places[old]) },
				Spec:   machine.Spec{Agent: &machine.Agent{URL: "https://dayfly.example.com", Attempt: "a", Token: "t"}},
				Exits:  machine.Spec{Command: []string{"exit"}},
				Alive: func(_ *testing.T, m *machine.Machine) bool {
					return slices.ContainsFunc(here.cloud.Machines(), func(inner *machine.Machine) bool {
						return inner.Labels["fly_machine"] == m.ID && inner.State == machine.Running
					})
				},
				Agent: func(_ *testing.T, m *machine.Machine) *machine.Agent {
					env, ok := here.told.Load(m.ID)
					if !ok {
						return nil
					}
					return agentOf(env.(map[string]string))
				},
				Settle: 5 * time.Second, Lifetime: 500 * time.Millisecond,
			})
		})
	}
}

// guest plays what runs in a machine: an agent until the end of its lifetime, a program that exits, or one that stays.
func guest(told *sync.Map) memmachine.Guest {
	return func(ctx context.Context, spec *machine.Spec) machine.Exit {
		told.Store(spec.Env["FLY_MACHINE_ID"], spec.Env)
		argv := slices.Concat(spec.Entrypoint, spec.Command)
		lifetime := machine.MaxLifetime
		if len(argv) == 1 && argv[0] == "exit" {
			code, err := strconv.Atoi(spec.Env["CODE"])
			if err != nil {
				code = 2
			}
			return machine.Exit{Code: code}
		}
		if len(argv) == 4 && argv[0] == fly.DefaultAgent {
			lifetime, _ = time.ParseDuration(argv[3])
		}
		select {
		case <-ctx.Done():
			return machine.Exit{Code: -1, Signal: "SIGKILL"}
		case <-time.After(lifetime):
			return machine.Exit{Code: 124}
		}
	}
}

func agentOf(env map[string]string) *machine.Agent {
	return &machine.Agent{URL: env["DAYFLY_AGENT_URL"], Attempt: env["DAYFLY_AGENT_ATTEMPT"], Token: env["DAYFLY_AGENT_TOKEN"]}
}

// TestProviderKeepsToTheLimitsOfADayflyServer has the server count as Fly does, on a clock of its own.
func TestProviderKeepsToTheLimitsOfADayflyServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		inner := memmachine.New(nil)
		service, err := flyapi.New(t.Context(), flyapi.Options{
			Provider: inner, Ledger: filepath.Join(dir, "fly.db"), Apps: []string{app}, Quirks: &flyapi.Quirks{RateLimits: true},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- service.Run(ctx) }()
		defer func() {
			cancel()
			inner.Cloud().Close()
			if err := errors.Join(<-done, service.Close()); err != nil {
				t.Error(err)
			}
		}()
		refused := &counter{next: service.Handler(), status: 429}
		// Two processes share what one may do, so the second one meets the limit, and waits.
		first := fly.New(app, token, &fly.Options{Image: "worker:1", Transport: insideOf{refused}})
		second := fly.New(app, token, &fly.Options{Image: "worker:1", Transport: insideOf{refused}})
		var group sync.WaitGroup
		for i, p := range []*fly.Provider{first, second} {
			for n := range 5 {
				group.Go(func() {
					spec := staying(fmt.Sprintf("m%d-%d", i, n))
					m, err := p.Create(t.Context(), spec)
					if err != nil {
						t.Errorf("Create(%s): got %v, want a machine in its turn", spec.Name, err)
						return
					}
					if err := p.Destroy(t.Context(), m.ID); err != nil {
						t.Errorf("Destroy(%s): got %v, want nil", spec.Name, err)
					}
				})
			}
		}
		group.Wait()
		if refused.count() == 0 {
			t.Error("got no refusal of the second process's requests, want the limit to be met at all")
		}
		if left := inner.Cloud().Machines(); len(left) != 0 {
			t.Errorf("got %d machines left, want none", len(left))
		}
	})
}
