package machinetest_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

func brokenInLife() []broken {
	return []broken{
		{"forgets the lifetime", func(_ *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				return createFor(ctx, h, spec, machine.MaxLifetime)
			}
		}, []string{"EndDateIsCarried", "LifetimeEndsTheMachine", "LifetimeEndsTheMachineAfterItsCreatorIsGone"}, nil},
		{"shows the end date and does not keep it", func(b *backend, h *hooks) {
			outlive(b, h, nil)
		}, []string{"LifetimeEndsTheMachine", "LifetimeEndsTheMachineAfterItsCreatorIsGone"}, nil},
		{"keeps the end date only while its process lives", func(b *backend, h *hooks) {
			outlive(b, h, func(id string, spec *machine.Spec) {
				time.AfterFunc(spec.Lifetime, func() {
					if !b.reopened() {
						b.cloud.Exit(id, machine.Exit{Code: -1, Expired: true})
					}
				})
			})
		}, []string{"LifetimeEndsTheMachineAfterItsCreatorIsGone"}, nil},
		{"ends machines early", func(b *backend, h *hooks) {
			outlive(b, h, func(id string, spec *machine.Spec) {
				time.AfterFunc(spec.Lifetime/4, func() { b.cloud.Exit(id, machine.Exit{Code: -1, Expired: true}) })
			})
		}, []string{"LifetimeEndsTheMachine", "LifetimeEndsTheMachineAfterItsCreatorIsGone"}, nil},
		{"forgets a machine at its end date", func(b *backend, h *hooks) {
			outlive(b, h, func(id string, spec *machine.Spec) {
				time.AfterFunc(spec.Lifetime, func() { b.cloud.Vanish(id) })
			})
		}, []string{"LifetimeEndsTheMachine", "LifetimeEndsTheMachineAfterItsCreatorIsGone"}, nil},
		{"forgets a machine soon after its end date", func(b *backend, h *hooks) {
			outlive(b, h, func(id string, spec *machine.Spec) {
				time.AfterFunc(spec.Lifetime, func() {
					b.cloud.Exit(id, machine.Exit{Code: -1, Expired: true})
					time.AfterFunc(20*time.Millisecond, func() { b.cloud.Vanish(id) })
				})
			})
		}, []string{"LifetimeEndsTheMachine", "LifetimeEndsTheMachineAfterItsCreatorIsGone"}, nil},
		{"lets run on what is in a machine that has expired", func(b *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				if spec.Lifetime > 0 && spec.Lifetime < time.Minute {
					b.leave(spec.Name)
				}
				return refuseImages(ctx, h, spec)
			}
		}, []string{"LifetimeEndsTheMachine", "LifetimeEndsTheMachineAfterItsCreatorIsGone"}, nil},
		{"does not say how a machine ended at its end date", func(_ *backend, h *hooks) {
			h.show = func(m *machine.Machine) {
				if m.Exit != nil && m.Exit.Expired {
					m.Exit = nil
				}
			}
		}, []string{"LifetimeEndsTheMachine", "LifetimeEndsTheMachineAfterItsCreatorIsGone"}, nil},
		{"does not say that a machine expired", func(_ *backend, h *hooks) {
			h.show = func(m *machine.Machine) {
				if m.Exit != nil {
					m.Exit.Expired = false
				}
			}
		}, []string{"LifetimeEndsTheMachine", "LifetimeEndsTheMachineAfterItsCreatorIsGone"}, nil},
		{"goes backwards in state", func(_ *backend, h *hooks) {
			var calls atomic.Int64
			h.get = func(ctx context.Context, id string) (*machine.Machine, error) {
				m, err := h.Provider.Get(ctx, id)
				if err == nil && m.State == machine.Running && calls.Add(1) == 5 {
					m.State = machine.Creating
				}
				return m, err
			}
		}, []string{"StatesOnlyMoveForward"}, nil},
		{"ignores the environment", func(_ *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				if err := spec.Validate(); err != nil {
					return nil, err
				}
				bare := *spec
				bare.Env = nil
				return refuseImages(ctx, h, &bare)
			}
		}, []string{"EnvironmentReachesWhatRuns", "ExitStatusIsReported", "ExitStatusSurvivesTheCreator"}, nil},
		{"does not tell the agent its token", func(_ *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				tokenless := *spec
				if spec.Agent != nil && spec.Agent.Token != "" {
					tokenless.Agent = &machine.Agent{URL: spec.Agent.URL, Attempt: spec.Agent.Attempt, Token: "token"}
				}
				return refuseImages(ctx, h, &tokenless)
			}
		}, []string{"AgentIsToldWhatItHasComeFor"}, nil},
		{"tells each agent what the first was told", func(b *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				if err := spec.Validate(); err != nil {
					return nil, err
				}
				mistaken := *spec
				if spec.Agent != nil {
					noted, _ := b.notes.LoadOrStore("agent", spec.Agent)
					mistaken.Agent = noted.(*machine.Agent)
				}
				return refuseImages(ctx, h, &mistaken)
			}
		}, []string{"AgentIsToldWhatItHasComeFor"}, nil},
		{"starts no agents", func(_ *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				bare := *spec
				if spec.Validate() == nil && spec.Agent != nil {
					bare.Agent, bare.Command = nil, []string{"stay"}
				}
				return refuseImages(ctx, h, &bare)
			}
		}, []string{"AgentIsToldWhatItHasComeFor"}, nil},
		{"ignores the size", func(_ *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				if err := spec.Validate(); err != nil {
					return nil, err
				}
				boundless := *spec
				boundless.Size = machine.Size{}
				return refuseImages(ctx, h, &boundless)
			}
		}, []string{"SizeIsEnforced"}, nil},
		{"loses the exit status", func(_ *backend, h *hooks) {
			h.show = func(m *machine.Machine) {
				if m.Exit != nil && !m.Exit.Expired {
					m.Exit = nil
				}
			}
		}, []string{
			"EnvironmentReachesWhatRuns", "SizeIsEnforced", "ExitStatusIsReported", "ExitStatusSurvivesTheCreator",
		}, nil},
		{"loses the exit status with the creator", func(b *backend, h *hooks) {
			h.show = func(m *machine.Machine) {
				if m.Exit != nil && !m.Exit.Expired && b.reopened() {
					m.Exit = nil
				}
			}
		}, []string{"ExitStatusSurvivesTheCreator"}, nil},
		{"reports every failure as 1", func(_ *backend, h *hooks) {
			h.show = func(m *machine.Machine) {
				if m.Exit != nil && m.Exit.Code > 1 {
					m.Exit.Code = 1
				}
			}
		}, []string{"EnvironmentReachesWhatRuns", "ExitStatusIsReported", "ExitStatusSurvivesTheCreator"}, nil},
		{"takes a line of a variable for another variable", func(_ *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				split := *spec
				split.Env = maps.Clone(spec.Env)
				for _, value := range spec.Env {
					for line := range strings.Lines(value) {
						if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
							split.Env[name] = value
						}
					}
				}
				return refuseImages(ctx, h, &split)
			}
		}, []string{"EnvironmentReachesWhatRuns"}, nil},
	}
}

// createFor creates a machine of another lifetime than the spec says.
func createFor(ctx context.Context, h *hooks, spec *machine.Spec, lifetime time.Duration) (*machine.Machine, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	lasting := *spec
	lasting.Lifetime = lifetime
	return refuseImages(ctx, h, &lasting)
}

// outlive makes h create machines that show their end date and ignore it; created is told of each.
func outlive(b *backend, h *hooks, created func(id string, spec *machine.Spec)) {
	h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
		m, err := createFor(ctx, h, spec, machine.MaxLifetime)
		if err == nil && created != nil && !b.before(m.ID) {
			created(m.ID, spec)
		}
		return m, err
	}
	h.show = func(m *machine.Machine) { m.Expires = m.Created.Add(10 * time.Minute) }
}

func brokenInDestroy() []broken {
	return []broken{
		{"destroys only once", func(_ *backend, h *hooks) {
			h.destroy = func(ctx context.Context, id string) error {
				if _, err := h.Provider.Get(ctx, id); err != nil {
					return err
				}
				return h.Provider.Destroy(ctx, id)
			}
		}, []string{"DestroyIsRepeatable", "DestroyOfUnknownIsNoError", "ContextIsObeyedDuringACall"}, nil},
		{"hides what it is told to destroy", hideDestroyed, []string{
			"DestroyEndsWhatRunsInTheMachine", "CreateAfterDestroyMakesANewMachine",
		}, nil},
		{"lets run on what is in a machine that it destroys", func(b *backend, h *hooks) {
			h.destroy = func(ctx context.Context, id string) error {
				if m, err := h.Provider.Get(ctx, id); err == nil {
					b.leave(m.Name)
				}
				return h.Provider.Destroy(ctx, id)
			}
		}, []string{"DestroyEndsWhatRunsInTheMachine"}, nil},
		{"starts what it has destroyed late", func(b *backend, h *hooks) {
			h.destroy = func(ctx context.Context, id string) error {
				if m, err := h.Provider.Get(ctx, id); err == nil {
					time.AfterFunc(20*time.Millisecond, func() { b.leave(m.Name) })
				}
				return h.Provider.Destroy(ctx, id)
			}
		}, []string{"DestroyEndsWhatRunsInTheMachine"}, nil},
		{"never destroys", func(b *backend, _ *hooks) {
			b.cloud.Fail(memmachine.Destroy, memmachine.PretendDestroyed)
		}, []string{
			"DestroyedIsGoneFromListAndGet", "DestroyRemovesAnExitedMachine", "DestroyByANewProcessWorks", "NothingIsLeftBehind",
			"CreateAfterDestroyMakesANewMachine", "StatesOnlyMoveForward", "TwoMachinesAtOnceDoNotMeet", "WatchTellsOfCreateAndGone",
			"DestroyEndsWhatRunsInTheMachine", "ContextIsObeyedDuringACall",
		}, nil},
		{"says gone before it is", func(_ *backend, h *hooks) {
			h.destroy = func(ctx context.Context, id string) error {
				time.AfterFunc(50*time.Millisecond, func() { _ = h.Provider.Destroy(context.Background(), id) })
				return context.Cause(ctx)
			}
		}, []string{
			"DestroyedIsGoneFromListAndGet", "DestroyRemovesAnExitedMachine", "DestroyByANewProcessWorks",
			"CreateAfterDestroyMakesANewMachine", "StatesOnlyMoveForward", "DestroyEndsWhatRunsInTheMachine",
		}, nil},
		{"destroys only what runs", func(_ *backend, h *hooks) {
			h.destroy = func(ctx context.Context, id string) error {
				if m, err := h.Provider.Get(ctx, id); err == nil && m.State == machine.Exited && m.Exit.Code == 0 {
					return fmt.Errorf("it does not run: %w", fault.Conflict)
				}
				return h.Provider.Destroy(ctx, id)
			}
		}, []string{"DestroyRemovesAnExitedMachine", "NothingIsLeftBehind"}, nil},
		{"destroys only its own machines", func(_ *backend, h *hooks) {
			var own sync.Map
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				m, err := refuseImages(ctx, h, spec)
				if err == nil {
					own.Store(m.ID, true)
				}
				return m, err
			}
			h.destroy = func(ctx context.Context, id string) error {
				if _, mine := own.Load(id); mine || ctx.Err() != nil {
					return h.Provider.Destroy(ctx, id)
				}
				return nil
			}
		}, []string{"DestroyByANewProcessWorks", "DestroyEndsWhatRunsInTheMachine", "NothingIsLeftBehind"}, nil},
		{"takes no id for every id", func(b *backend, h *hooks) {
			h.destroy = func(ctx context.Context, id string) error {
				if id == "" {
					for _, m := range b.cloud.Machines() {
						b.cloud.Vanish(m.ID)
					}
				}
				return h.Provider.Destroy(ctx, id)
			}
		}, []string{"DestroyOfUnknownIsNoError"}, nil},
		{"destroys the neighbor too", func(b *backend, h *hooks) {
			h.destroy = func(ctx context.Context, id string) error {
				if m, err := h.Provider.Get(ctx, id); err == nil && m.Labels["test"] == "machinetest" {
					for _, other := range b.cloud.Machines() {
						b.cloud.Vanish(other.ID)
					}
				}
				return h.Provider.Destroy(ctx, id)
			}
		}, []string{"TwoMachinesAtOnceDoNotMeet", "ContextIsObeyedDuringACall"}, []string{"CallsMayBeConcurrent"}},
		{"cannot take two calls at once", func(_ *backend, h *hooks) {
			var busy atomic.Int64
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				defer busy.Add(-1)
				if busy.Add(1) > 1 {
					return nil, fmt.Errorf("busy: %w", fault.Unavailable)
				}
				<-time.After(20 * time.Millisecond)
				return refuseImages(ctx, h, spec)
			}
		}, []string{"CallsMayBeConcurrent", "ConcurrentCreatesOfOneNameMakeOne"}, nil},
		{"ignores its context", func(_ *backend, h *hooks) {
			h.get = func(ctx context.Context, id string) (*machine.Machine, error) {
				return h.Provider.Get(context.WithoutCancel(ctx), id)
			}
		}, []string{"ContextIsObeyed"}, nil},
		{"takes the end of a context during a call for a failure of the cloud", func(_ *backend, h *hooks) {
			h.get = func(ctx context.Context, id string) (*machine.Machine, error) {
				if ctx.Err() == nil && ctx.Err() != nil { // The second look.
					return nil, fmt.Errorf("no answer: %w", fault.Unavailable)
				}
				return h.Provider.Get(ctx, id)
			}
		}, []string{"ContextIsObeyedDuringACall"}, nil},
		{"waits for an answer though its context has ended", func(_ *backend, h *hooks) {
			h.destroy = func(ctx context.Context, id string) error {
				if ctx.Err() == nil && ctx.Err() != nil {
					<-time.After(1200 * time.Millisecond)
				}
				return h.Provider.Destroy(ctx, id)
			}
		}, []string{"ContextIsObeyedDuringACall"}, nil},
		{"refuses a name whose create was interrupted", func(b *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				if b.knows("interrupted " + spec.Name) {
					return nil, fmt.Errorf("it is just being created: %w", fault.Conflict)
				}
				m, err := refuseImages(ctx, h, spec)
				if errors.Is(err, fault.Canceled) {
					b.before("interrupted " + spec.Name)
				}
				return m, err
			}
		}, []string{"ContextIsObeyedDuringACall"}, nil},
		{"destroys everything when it is interrupted", func(b *backend, h *hooks) {
			h.destroy = func(ctx context.Context, id string) error {
				err := h.Provider.Destroy(ctx, id)
				if err != nil && len(b.cloud.Machines()) > 1 {
					for _, m := range b.cloud.Machines() {
						b.cloud.Vanish(m.ID)
					}
				}
				return err
			}
		}, []string{"ContextIsObeyedDuringACall"}, nil},
	}
}

// hideDestroyed makes h show nothing of what it is told to destroy, until somebody asks for the name again.
func hideDestroyed(b *backend, h *hooks) {
	hidden := func(id string) bool { _, is := b.notes.Load(id); return is }
	h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
		m, err := refuseImages(ctx, h, spec)
		if err == nil {
			b.notes.Delete(m.ID)
		}
		return m, err
	}
	h.get = func(ctx context.Context, id string) (*machine.Machine, error) {
		m, err := h.Provider.Get(ctx, id)
		if err == nil && hidden(id) {
			return nil, fmt.Errorf("hidden: %w", fault.NotFound)
		}
		return m, err
	}
	h.list = filtered(h, func(m *machine.Machine) bool { return !hidden(m.ID) })
	h.destroy = func(ctx context.Context, id string) error {
		if ctx.Err() == nil {
			b.notes.Store(id, true)
		}
		return context.Cause(ctx)
	}
	h.watch = func(ctx context.Context, owner string) iter.Seq2[*machine.Machine, error] {
		return machine.Watch(ctx, struct{ machine.Provider }{h}, owner, 5*time.Millisecond)
	}
}

func brokenInWatch() []broken {
	// withheld is the reference's Watch without the machines that keep refuses.
	withheld := func(h *hooks, keep func(m *machine.Machine, began time.Time) bool) {
		h.watch = func(ctx context.Context, owner string) iter.Seq2[*machine.Machine, error] {
			began := time.Now()
			return func(yield func(*machine.Machine, error) bool) {
				for m, err := range h.Provider.Watch(ctx, owner) {
					if err == nil && !keep(m, began) {
						continue
					}
					if !yield(m, err) {
						return
					}
				}
			}
		}
	}
	return []broken{
		{"never tells that a machine is gone", func(_ *backend, h *hooks) {
			withheld(h, func(m *machine.Machine, _ time.Time) bool { return m.State != machine.Gone })
		}, []string{"WatchTellsOfCreateAndGone"}, nil},
		{"tells only of what its own process creates", func(b *backend, h *hooks) {
			withheld(h, func(m *machine.Machine, began time.Time) bool { return !b.reopened() || m.Created.After(began) })
		}, []string{"WatchBeginsWithWhatIsThere"}, nil},
		{"tells of everyone's machines", func(b *backend, h *hooks) {
			h.watch = func(ctx context.Context, owner string) iter.Seq2[*machine.Machine, error] {
				return func(yield func(*machine.Machine, error) bool) {
					for m, err := range h.Provider.Watch(ctx, owner) {
						for _, other := range b.cloud.Machines() {
							if other.Owner != owner && !yield(other, nil) {
								return
							}
						}
						if !yield(m, err) {
							return
						}
					}
				}
			}
		}, []string{"WatchTellsOfCreateAndGone"}, nil},
		{"watches for ever", func(_ *backend, h *hooks) {
			h.watch = func(ctx context.Context, owner string) iter.Seq2[*machine.Machine, error] {
				return h.Provider.Watch(context.WithoutCancel(ctx), owner)
			}
		}, []string{"WatchEndsWithItsContext"}, nil},
	}
}
