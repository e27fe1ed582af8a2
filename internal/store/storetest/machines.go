package storetest

import (
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

func machinesCases() []testCase {
	return []testCase{
		{"AMachineMovesOnlyFromTheStatesNamed", machineMoves},
		{"MachinesAreSelectedAndPagedFromTheNewest", machinesSelected},
		{"MachinesRefusesALimitOutOfBounds", machinesLimit},
		{"AnAdoptedMachineIsKept", machineAdopted},
		{"ANameIsAdoptedOnce", machineAdoptedOnce},
		{"AMoveToNoStateIsInvalid", machineNowhere},
	}
}

func machineStates() []store.MachineState {
	return []store.MachineState{store.MachineCreating, store.MachinePresent, store.MachineDeleting, store.MachineGone,
		store.MachineKept, store.MachineQuarantined}
}

// adopt adds a machine in a state.
func (k *kit) adopt(provider string, state store.MachineState) *store.Machine {
	k.Helper()
	m := &store.Machine{
		Name: k.id("dayfly-mach"), Provider: provider, ID: "i-7", Attempt: "att_x", JobID: "job_x", State: state,
		Lifetime: 90 * time.Minute, Location: "ams", Message: "found", CreatedAt: k.now(),
	}
	if state == store.MachineDeleting {
		m.DeleteAt = k.now()
	}
	if state == store.MachineGone {
		m.GoneAt = k.now()
	}
	k.must(k.store.AdoptMachine(k.ctx, m))
	return m
}

func machineMoves(k *kit) {
	for _, from := range machineStates() {
		for _, to := range machineStates() {
			for _, message := range []string{"", "because"} {
				want := *k.adopt("local", from)
				move := &store.MachineMove{Name: want.Name, To: to, Time: k.now(), Message: message}
				for _, other := range machineStates() {
					if other != from {
						move.From = append(move.From, other)
					}
				}
				k.must(k.store.MoveMachine(k.ctx, []*store.MachineMove{move, {Name: "none", From: move.From, To: to, Time: move.Time}}))
				k.wantEqual(fmt.Sprintf("a machine that is %s after a move to %s from all others", from, to), *k.machine(want.Name), want)

				move.From = []store.MachineState{store.MachineQuarantined, from}
				k.must(k.store.MoveMachine(k.ctx, []*store.MachineMove{move}))
				want.State, want.GoneAt = to, time.Time{}
				if message != "" {
					want.Message = message
				}
				switch to {
				case store.MachineDeleting:
					want.DeleteAt = move.Time
				case store.MachineGone:
					want.GoneAt = move.Time
				}
				k.wantEqual(fmt.Sprintf("a machine that was %s after a move to %s", from, to), *k.machine(want.Name), want)
			}
		}
	}
}

func machinesSelected(k *kit) {
	var all []string
	byState := map[store.MachineState][]string{}
	byProvider := map[string][]string{}
	for i := range 15 {
		provider := []string{"local", "fly"}[i%2]
		m := k.adopt(provider, machineStates()[i%5])
		all = append([]string{m.Name}, all...)
		byState[m.State] = append([]string{m.Name}, byState[m.State]...)
		byProvider[provider] = append([]string{m.Name}, byProvider[provider]...)
	}
	list := func(q store.MachineQuery) []string {
		k.Helper()
		found, err := k.store.Machines(k.ctx, &q)
		k.must(err)
		names := []string{}
		for _, m := range found {
			k.wantEqual("a listed machine", m, k.machine(m.Name))
			names = append(names, m.Name)
		}
		return names
	}
	k.wantEqual("all machines", list(store.MachineQuery{Limit: 100}), all)
	for state, want := range byState {
		k.wantEqual(string(state), list(store.MachineQuery{States: []store.MachineState{state}, Limit: 100}), want)
	}
	k.wantEqual("those of a provider", list(store.MachineQuery{Provider: "fly", Limit: 100}), byProvider["fly"])
	k.wantEqual("those of these names", list(store.MachineQuery{Names: []string{all[7], "none", all[3]}, Limit: 100}),
		[]string{all[3], all[7]})
	k.wantEqual("those of these names in a state", list(store.MachineQuery{
		Names: all, States: []store.MachineState{store.MachineGone}, Limit: 100,
	}), byState[store.MachineGone])
	first := list(store.MachineQuery{Limit: 6})
	k.wantEqual("the first page", first, all[:6])
	k.wantEqual("the second page", list(store.MachineQuery{Limit: 6, Before: first[5]}), all[6:12])
	k.wantEqual("the third page", list(store.MachineQuery{Limit: 6, Before: all[11]}), all[12:])
	live := list(store.MachineQuery{States: machineStates()[:3], Limit: 4})
	k.wantEqual("a second page of some states", list(store.MachineQuery{States: machineStates()[:3], Limit: 100, Before: live[3]}),
		list(store.MachineQuery{States: machineStates()[:3], Limit: 100})[4:])
}

func machinesLimit(k *kit) {
	for _, limit := range []int{-1, 0, 10_001} {
		_, err := k.store.Machines(k.ctx, &store.MachineQuery{Limit: limit})
		k.wantKind(fmt.Sprintf("limit %d", limit), err, fault.Invalid)
	}
	_, err := k.store.Machines(k.ctx, &store.MachineQuery{Limit: 1, Names: make([]string, 1001)})
	k.wantKind("1001 names", err, fault.Invalid)
}

func machineAdopted(k *kit) {
	want := k.adopt("fly", store.MachineQuarantined)
	k.wantEqual("the machine", k.machine(want.Name), want)
	k.reopen()
	k.wantEqual("the machine after a restart", k.machine(want.Name), want)
}

func machineAdoptedOnce(k *kit) {
	adopted := k.adopt("fly", store.MachineQuarantined)
	launched := k.attempt(k.launch(k.submit()).ID).Machine
	for _, want := range []*store.Machine{adopted, launched} {
		again := *adopted
		again.Name, again.Message = want.Name, "another"
		k.wantKind("a machine whose name is known", k.store.AdoptMachine(k.ctx, &again), fault.Conflict)
		k.wantEqual("the machine", k.machine(want.Name), want)
	}
}

func machineNowhere(k *kit) {
	m := k.adopt("fly", store.MachinePresent)
	for what, move := range map[string]*store.MachineMove{
		"a move to no state":   {Name: m.Name, From: machineStates(), To: "other", Time: k.now()},
		"a move from no state": {Name: m.Name, To: store.MachineGone, Time: k.now()},
	} {
		k.wantKind(what, k.store.MoveMachine(k.ctx, []*store.MachineMove{move}), fault.Invalid)
		k.wantEqual("the machine", k.machine(m.Name), m)
	}
	k.must(k.store.MoveMachine(k.ctx, nil))
}
