package machinetest_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// broken is a provider that is broken in one way, and the cases that must fail because of it, all others passing.
type broken struct {
	how   string
	open  func(b *backend, h *hooks)
	fails []string
	may   []string // cases that fail or not, depending on who is first
}

func brokenProviders() []broken {
	return slices.Concat(brokenInCreate(), brokenInWhatTheyShow(), brokenInLife(), brokenInDestroy(), brokenInWatch())
}

func brokenInCreate() []broken {
	return []broken{
		{"has names that are not unique", func(b *backend, h *hooks) {
			startAgain(b, h)
		}, []string{
			"CreateIsIdempotentInName", "CreateByANewProcessReturnsTheSameMachine", "ConcurrentCreatesOfOneNameMakeOne",
			"CreateAgainAfterExitReturnsTheExitedMachine", "ContextIsObeyedDuringACall",
		}, nil},
		{"keeps names unique within a process only", func(b *backend, h *hooks) {
			if b.reopened() {
				startAgain(b, h)
			}
		}, []string{"CreateByANewProcessReturnsTheSameMachine"}, nil},
		{"starts an exited machine again", func(_ *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				m, err := refuseImages(ctx, h, spec)
				if err != nil || m.State != machine.Exited || spec.Command[0] != "exit" {
					return m, err
				}
				if err := h.Provider.Destroy(ctx, m.ID); err != nil {
					return nil, err
				}
				return h.Provider.Create(ctx, spec)
			}
		}, []string{"CreateAgainAfterExitReturnsTheExitedMachine"}, nil},
		{"never gives a name again", func(b *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				if b.knows("destroyed " + spec.Name) {
					return nil, fmt.Errorf("the name is used up: %w", fault.Conflict)
				}
				return refuseImages(ctx, h, spec)
			}
			h.destroy = func(ctx context.Context, id string) error {
				if m, err := h.Provider.Get(ctx, id); err == nil {
					b.before("destroyed " + m.Name)
				}
				return h.Provider.Destroy(ctx, id)
			}
		}, []string{"CreateAfterDestroyMakesANewMachine"}, nil},
		{"takes what a name was first asked for with for its next machine", func(b *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				first := *spec
				first.Labels = maps.Clone(spec.Labels)
				noted, _ := b.notes.LoadOrStore(spec.Owner+" "+spec.Name, &first)
				return refuseImages(ctx, h, noted.(*machine.Spec))
			}
		}, []string{"CreateAfterDestroyMakesANewMachine"}, nil},
		{"shows the creation of a name's first machine at its next", func(b *backend, h *hooks) {
			h.show = func(m *machine.Machine) {
				noted, _ := b.notes.LoadOrStore(m.Owner+" "+m.Name, m.Created)
				m.Created = noted.(time.Time)
			}
		}, []string{"CreateAfterDestroyMakesANewMachine"}, nil},
		{"steals a foreign owner's name", func(b *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				m, err := refuseImages(ctx, h, spec)
				if errors.Is(err, fault.Conflict) {
					for _, other := range b.cloud.Machines() {
						if other.Name == spec.Name {
							return other, nil
						}
					}
				}
				return m, err
			}
		}, []string{"ForeignOwnersNameIsConflict"}, nil},
		mending("accepts a spec without lifetime", func(spec *machine.Spec) {
			if spec.Lifetime == 0 {
				spec.Lifetime = time.Hour
			}
		}),
		mending("accepts CPUs that are no number", func(spec *machine.Spec) {
			if math.IsNaN(spec.Size.CPUs) {
				spec.Size.CPUs = 0
			}
		}),
		mending("accepts CPUs without end", func(spec *machine.Spec) {
			if math.IsInf(spec.Size.CPUs, 1) {
				spec.Size.CPUs = 0
			}
		}),
		mending("accepts an image that can be none", func(spec *machine.Spec) {
			if strings.ContainsRune(spec.Image, 0) {
				spec.Image = ""
			}
		}),
		mending("accepts an image of any length", func(spec *machine.Spec) {
			if len(spec.Image) > 1024 {
				spec.Image = ""
			}
		}),
		mending("accepts a NUL in an environment name", func(spec *machine.Spec) {
			maps.DeleteFunc(spec.Env, func(name, _ string) bool { return strings.ContainsRune(name, 0) })
		}),
		{"creates what it then refuses", func(_ *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				m, err := h.Provider.Create(ctx, spec)
				if err == nil && spec.Image != "" {
					return nil, fmt.Errorf("no images here: %w", fault.Unsupported)
				}
				return m, err
			}
		}, []string{"SpecsThatThisProviderRefusesLeaveNothingBehind"}, nil},
		{"accepts what it cannot do", func(_ *backend, h *hooks) {
			h.create = h.Provider.Create
		}, []string{"SpecsThatThisProviderRefusesLeaveNothingBehind"}, nil},
		{"modifies the spec", func(_ *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				m, err := refuseImages(ctx, h, spec)
				if spec.Env != nil {
					spec.Env["DAYFLY_MACHINE"] = spec.Name
				}
				return m, err
			}
		}, []string{"SpecIsNotRetainedOrModified"}, nil},
		{"retains the spec", func(_ *backend, h *hooks) {
			var specs sync.Map
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				m, err := refuseImages(ctx, h, spec)
				if err == nil {
					specs.Store(m.ID, spec)
				}
				return m, err
			}
			h.show = func(m *machine.Machine) {
				if spec, ok := specs.Load(m.ID); ok {
					m.Labels = maps.Clone(spec.(*machine.Spec).Labels)
				}
			}
		}, []string{"SpecIsNotRetainedOrModified"}, nil},
		{"ends the machine with the context of its create", func(b *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				m, err := refuseImages(ctx, h, spec)
				if err == nil {
					context.AfterFunc(ctx, func() { b.cloud.Exit(m.ID, machine.Exit{Code: -1, Signal: "SIGKILL"}) })
				}
				return m, err
			}
		}, []string{"CancelingAfterCreateLeavesTheMachineAlone"}, nil},
	}
}

// mending is a provider that accepts a spec which every provider refuses: it makes another of it.
func mending(how string, mend func(spec *machine.Spec)) broken {
	return broken{how, func(_ *backend, h *hooks) {
		h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
			mended := *spec
			mended.Env = maps.Clone(spec.Env)
			mend(&mended)
			return refuseImages(ctx, h, &mended)
		}
	}, []string{"SpecsThatEveryProviderRefusesAreInvalid"}, nil}
}

// startAgain makes h start a machine whether or not there is one of that name, and answer with the first.
func startAgain(b *backend, h *hooks) {
	h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
		if slices.ContainsFunc(b.cloud.Machines(), func(m *machine.Machine) bool { return m.Name == spec.Name && m.Owner == spec.Owner }) {
			defer b.cloud.Fail(memmachine.Create, memmachine.StartTwice).For(spec.Name).Times(1).Stop()
		}
		return refuseImages(ctx, h, spec)
	}
}

// refuseImages is what every provider of this file does unless being broken means that it does not.
func refuseImages(ctx context.Context, h *hooks, spec *machine.Spec) (*machine.Machine, error) {
	if err := spec.Validate(); err == nil && spec.Image != "" {
		return nil, fmt.Errorf("no images here: %w", fault.Unsupported)
	}
	return h.Provider.Create(ctx, spec)
}

func brokenInWhatTheyShow() []broken {
	return []broken{
		{"forgets labels", func(_ *backend, h *hooks) {
			h.show = func(m *machine.Machine) { m.Labels = nil }
		}, []string{
			"LabelsSurvive", "TheLongestNamesAndLabelsAreKept", "SpecIsNotRetainedOrModified", "CreateAfterDestroyMakesANewMachine",
		}, nil},
		{"forgets empty labels", func(_ *backend, h *hooks) {
			h.show = func(m *machine.Machine) {
				maps.DeleteFunc(m.Labels, func(_, value string) bool { return value == "" })
			}
		}, []string{"LabelsSurvive"}, nil},
		{"cuts long names", func(_ *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				short := *spec
				if len(spec.Name) == 63 {
					short.Name = spec.Name[:62]
				}
				return refuseImages(ctx, h, &short)
			}
		}, []string{"TheLongestNamesAndLabelsAreKept"}, nil},
		{"does not know when a machine ends", func(_ *backend, h *hooks) {
			h.show = func(m *machine.Machine) { m.Expires = time.Time{} }
		}, []string{"EndDateIsCarried"}, nil},
		{"is not broken and keeps whole seconds", func(_ *backend, h *hooks) {
			h.show = func(m *machine.Machine) {
				m.Created, m.Expires = m.Created.Truncate(time.Second), m.Expires.Truncate(time.Second)
			}
		}, nil, nil},
		{"shows another creation each time", func(_ *backend, h *hooks) {
			h.show = func(m *machine.Machine) {
				off := time.Since(m.Created)
				m.Created, m.Expires = m.Created.Add(off), m.Expires.Add(off)
			}
		}, []string{"MachinesLookTheSameFromEverywhere"}, nil},
		{"hands out machines it keeps", func(_ *backend, h *hooks) {
			var kept sync.Map
			keep := func(m *machine.Machine, err error) (*machine.Machine, error) {
				if err != nil {
					return nil, err
				}
				same, _ := kept.LoadOrStore(m.ID+string(m.State), m)
				return same.(*machine.Machine), nil
			}
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				return keep(refuseImages(ctx, h, spec))
			}
			h.get = func(ctx context.Context, id string) (*machine.Machine, error) { return keep(h.Provider.Get(ctx, id)) }
		}, []string{"ReturnedMachinesAreTheCallersOwn"}, nil},
		{"has an untyped not found", func(_ *backend, h *hooks) {
			h.get = func(ctx context.Context, id string) (*machine.Machine, error) {
				m, err := h.Provider.Get(ctx, id)
				if errors.Is(err, fault.NotFound) {
					err = errors.New("404")
				}
				return m, err
			}
		}, []string{
			"GetOfUnknownIsNotFound", "DestroyedIsGoneFromListAndGet", "DestroyRemovesAnExitedMachine", "DestroyByANewProcessWorks",
			"CreateAfterDestroyMakesANewMachine",
		}, nil},
		{"forgets its machines when it is opened again", func(_ *backend, h *hooks) {
			var own sync.Map
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				m, err := refuseImages(ctx, h, spec)
				if err == nil {
					own.Store(m.ID, true)
				}
				return m, err
			}
			h.list = filtered(h, func(m *machine.Machine) bool { _, ok := own.Load(m.ID); return ok })
		}, []string{
			"ListFindsWhatANewProcessNeverCreated", "LabelsSurvive", "TheLongestNamesAndLabelsAreKept", "EndDateIsCarried",
			"MachinesLookTheSameFromEverywhere",
		}, nil},
		{"lists everyone's machines", func(b *backend, h *hooks) {
			h.list = func(ctx context.Context, _ string) ([]*machine.Machine, error) {
				return b.cloud.Machines(), context.Cause(ctx)
			}
		}, []string{"ListIsByOwner", "ForeignOwnersNameIsConflict", "ListOfAnOwnerWithoutMachinesIsEmpty"}, nil},
		{"does not know an owner without machines", func(_ *backend, h *hooks) {
			h.list = func(ctx context.Context, owner string) ([]*machine.Machine, error) {
				all, err := h.Provider.List(ctx, owner)
				if err == nil && len(all) == 0 {
					return nil, fmt.Errorf("no such owner: %w", fault.NotFound)
				}
				return all, err
			}
		}, []string{
			"ListOfAnOwnerWithoutMachinesIsEmpty", "ForeignOwnersNameIsConflict", "SpecsThatEveryProviderRefusesAreInvalid",
			"SpecsThatThisProviderRefusesLeaveNothingBehind", "CreateAfterDestroyMakesANewMachine",
			"DestroyedIsGoneFromListAndGet", "DestroyRemovesAnExitedMachine",
			"DestroyByANewProcessWorks", "NothingIsLeftBehind",
		}, nil},
		{"drops exited machines from its list", func(_ *backend, h *hooks) {
			h.list = filtered(h, func(m *machine.Machine) bool { return m.State != machine.Exited })
		}, []string{"ListHoldsExitedMachines", "CreateAgainAfterExitReturnsTheExitedMachine", "ExitStatusIsReported"}, nil},
		{"lists machines twice", func(b *backend, h *hooks) {
			b.cloud.Fail(memmachine.List, memmachine.Duplicate)
		}, []string{
			"ListFindsWhatANewProcessNeverCreated", "ListIsByOwner", "ListHoldsExitedMachines", "CreateIsIdempotentInName",
			"CreateByANewProcessReturnsTheSameMachine", "CreateAgainAfterExitReturnsTheExitedMachine",
			"CreateAfterDestroyMakesANewMachine", "ConcurrentCreatesOfOneNameMakeOne", "TheLongestNamesAndLabelsAreKept",
			"DestroyOfUnknownIsNoError", "TwoMachinesAtOnceDoNotMeet", "ContextIsObeyedDuringACall",
		}, nil},
	}
}

// filtered is a List that leaves machines out.
func filtered(h *hooks, keep func(*machine.Machine) bool) func(context.Context, string) ([]*machine.Machine, error) {
	return func(ctx context.Context, owner string) ([]*machine.Machine, error) {
		all, err := h.Provider.List(ctx, owner)
		return slices.DeleteFunc(all, func(m *machine.Machine) bool { return !keep(m) }), err
	}
}
