package engine

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

// unpoolable says what of a job keeps it off machines of pools, or "".
func unpoolable(spec *dayfly.JobSpec) string {
	switch {
	case spec.Bare:
		return "bare: its machine has no agent that could wait for another job"
	case spec.OwnAgent:
		return "own_agent: only Dayfly's agent waits for another job"
	case spec.KeepOnFailure > 0:
		return "keep_on_failure: a machine that is kept is not free for others"
	case spec.MaxCost > 0:
		return "max_cost: the cap is kept by the end of a machine that is the job's alone"
	}
	return ""
}

// placePool fills in what a job on a machine of a pool runs as, and refuses what its pool does not have. A queue's pool is
// only for those of its jobs that it suits.
func (e *Engine) placePool(spec *dayfly.JobSpec) error {
	named := spec.Pool != ""
	name := cmp.Or(spec.Pool, e.options.Queues[spec.Queue].Pool)
	if name == "" {
		return nil
	}
	p := e.pools[name]
	if p == nil {
		return fault.Field("pool", "there is no pool %.64q; %s", name, poolsThere(e.pools))
	}
	refuse := func(field, format string, args ...any) error {
		if !named {
			spec.Pool = ""
			return nil
		}
		return fault.Field(field, format, args...)
	}
	size := dayfly.JobSpec{Size: p.Size}
	own := spec.Size != "" || spec.CPUs != 0 || spec.MemoryMB != 0 || spec.DiskMB != 0 || spec.Processes != 0
	asked, _ := sizeOf(spec)
	offered, _ := sizeOf(&size)
	switch why := unpoolable(spec); {
	case why != "":
		return refuse("pool", "cannot be combined with %s", why)
	case spec.Image != "" && spec.Image != p.Image:
		return refuse("image", "is %.100q, and the machines of pool %s have %s; leave it out, or name no pool", spec.Image, name, orNone("image", p.Image))
	case own && asked != offered:
		return refuse("size", "is another than the machines of pool %s have, which is %s; leave it out, or name no pool", name, orNone("size", p.Size))
	case spec.Provider != "" && spec.Provider != p.where.String() && spec.Provider != p.where.provider:
		return refuse("provider", "is %.100q, and pool %s is on %s; leave it out, or name no pool", spec.Provider, name, p.where)
	}
	spec.Pool, spec.Provider, spec.Image = name, p.where.String(), p.Image
	if !own {
		spec.Size = p.Size
	}
	return nil
}

// orNone names what a pool's machines have, or says that they have none.
func orNone(what, value string) string {
	if value == "" {
		return "no " + what
	}
	return value
}

// poolsThere names the pools to somebody who has named another, or says how one is made.
func poolsThere(pools map[string]*pool) string {
	if len(pools) == 0 {
		return "there are none, and a section [pools.NAME] of the server's configuration makes one"
	}
	return "the pools are " + strings.Join(slices.Sorted(maps.Keys(pools)), ", ")
}
