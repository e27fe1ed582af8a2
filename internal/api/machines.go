package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

func (a *API) addMachines() {
	add(a, route{
		method: http.MethodGet, path: "/v1/machines", id: "list-machines", summary: "List machines, newest first",
		text: "The ledger of what was asked of providers: those that are not confirmed gone, or with all=true those too. " +
			"Before them, on the first page, come those that programs have hired.",
	}, a.machines)
	add(a, route{
		method: http.MethodGet, path: "/v1/pools", id: "list-pools", summary: "List the pools of warm machines",
		text: "What each pool is configured as, and how many machines it has in each state.",
	}, a.pools)
	add(a, route{
		method: http.MethodGet, path: "/v1/fleets", id: "list-fleets", summary: "List the fleets: warm runners that several programs share",
		text: "What those programs have announced of each fleet, how many runners it has in each state, and how many wait for one.",
	}, a.listFleets)
}

// Pools is the part that knows the pools of warm machines.
type Pools interface {
	// Pools returns them with their machines counted, by name.
	Pools(ctx context.Context) ([]dayfly.WarmPool, error)
}

type poolsInput struct {
	caller
}

type poolsOutput struct {
	Body struct {
		Items []dayfly.WarmPool `json:"items"`
	}
}

func (a *API) pools(ctx context.Context, _ *poolsInput) (*poolsOutput, error) {
	pools, err := a.engine.Pools(ctx)
	if err != nil {
		return nil, err
	}
	out := &poolsOutput{}
	out.Body.Items = pools
	return out, nil
}

type fleetsInput struct {
	caller
}

type fleetsOutput struct {
	Body struct {
		Items []dayfly.FleetStatus `json:"items"`
	}
}

func (a *API) listFleets(context.Context, *fleetsInput) (*fleetsOutput, error) {
	out := &fleetsOutput{}
	out.Body.Items = a.allFleets()
	return out, nil
}

func (a *API) allFleets() []dayfly.FleetStatus {
	if a.fleets == nil {
		return []dayfly.FleetStatus{}
	}
	return a.fleets()
}

type machinesInput struct {
	caller
	All      bool     `query:"all" doc:"Those that are gone, too."`
	State    []string `query:"state,explode" maxItems:"5" doc:"Only machines in this state. May be repeated."`
	Provider string   `query:"provider" maxLength:"64" doc:"Only machines of this provider."`
	Limit    int      `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many at most."`
	Cursor   string   `query:"cursor" maxLength:"200" doc:"The next_cursor of the page before, with the same filters."`
}

// machineList is one page of machines.
type machineList struct {
	Items      []dayfly.Machine `json:"items"`
	NextCursor string           `json:"next_cursor,omitempty" doc:"To pass as cursor for the next page; missing when this is the last."`
}

type machinesOutput struct {
	Body machineList
}

func (a *API) machines(ctx context.Context, in *machinesInput) (*machinesOutput, error) {
	q := &store.MachineQuery{Provider: in.Provider, Limit: in.Limit}
	for i, s := range in.State {
		switch state := store.MachineState(s); state {
		case store.MachineCreating, store.MachinePresent, store.MachineKept, store.MachineDeleting, store.MachineGone, store.MachineQuarantined:
			q.States = append(q.States, state)
		default:
			return nil, fault.Field(fmt.Sprintf("state[%d]", i), "%.40q is not a state of machines", s)
		}
	}
	if len(q.States) == 0 && !in.All {
		q.States = []store.MachineState{store.MachineCreating, store.MachinePresent, store.MachineKept, store.MachineDeleting, store.MachineQuarantined}
	}
	c := cursor{list: "machines", filters: filtersOf(in.r)}
	var err error
	if q.Before, err = c.open(in.Cursor); err != nil {
		return nil, err
	}
	machines, err := a.engine.Machines(ctx, q)
	if err != nil {
		return nil, err
	}
	out := &machinesOutput{machineList{Items: make([]dayfly.Machine, 0, len(machines))}}
	if a.hired != nil && in.Cursor == "" {
		for _, m := range a.hired() { // all on the first page, as they are in no ledger
			state := store.MachineState(m.State)
			if (in.Provider == "" || in.Provider == m.Provider) && (len(q.States) == 0 || slices.Contains(q.States, state)) {
				out.Body.Items = append(out.Body.Items, m)
			}
		}
	}
	view := a.view(in.r)
	for _, m := range machines {
		out.Body.Items = append(out.Body.Items, view.machine(m))
	}
	if len(machines) == in.Limit {
		out.Body.NextCursor = c.seal(machines[len(machines)-1].Name)
	}
	return out, nil
}
