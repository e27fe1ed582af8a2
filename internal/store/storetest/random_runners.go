package storetest

import (
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/internal/store"
)

// newRunner draws a machine of a pool to be made.
func (d *drive) newRunner(t *rapid.T, at time.Time) *store.Runner {
	name := d.name("pool")
	return &store.Runner{
		Machine: name, ID: "rnr_" + name, Pool: pick(t, "pool", "warm", "warm", "hot"), Spec: "debian", Provider: "local", Region: pick(t, "region", "", "ams"),
		Tenant: pick(t, "tenant", "", "", "blue"), Slots: pick(t, "slots", 0, 1, 2, 3),
		Lifetime: 4 * time.Hour, Price: d.price(t), CreatedAt: at,
	}
}

// runner draws a machine of a pool that there is, most of the time one in the state.
func (d *drive) runner(t *rapid.T, state store.RunnerState) *store.Runner {
	all, err := d.model.Runners(d.kit.ctx)
	if err != nil {
		t.Fatal(err)
	}
	wanted := slices.DeleteFunc(slices.Clone(all), func(r *store.Runner) bool { return r.State != state })
	if len(wanted) > 0 && !pick(t, "any machine", false, false, false, true) {
		all = wanted
	}
	if len(all) == 0 {
		return nil
	}
	return pick(t, "machine", all...)
}

// lending draws a machine of a pool for a launch, or leaves it as it is.
func (d *drive) lending(t *rapid.T, l *store.Launch) {
	if !d.pools {
		return
	}
	tenant := pick(t, "tenant", "", "blue", "blue", "red")
	wall := pick(t, "wall", time.Time{}, l.Time, l.Time.Add(36*time.Hour))
	idle := d.runner(t, store.RunnerIdle)
	which := pick(t, "machine of a pool", "none", "none", "new")
	if idle != nil && idle.By != "" {
		which = pick(t, "machine that waits", "waits", "waits", "waits", which)
	}
	switch which {
	case "new":
		r := d.newRunner(t, l.Time)
		l.Machine, l.Provider, l.Region, l.Price = r.Machine, r.Provider, r.Region, r.Price
		l.Lend = &store.Lending{Tenant: tenant, Wall: wall, New: r, Most: pick(t, "most", 1, 2, 9)}
	case "waits":
		l.Machine, l.Provider, l.Region = idle.Machine, idle.Provider, idle.Region
		l.Lend = &store.Lending{
			Tenant: pick(t, "whose", idle.Tenant, tenant), Wall: wall, By: pick(t, "by", idle.By, idle.By, idle.By, "m/3"),
		}
	}
}

func (d *drive) addRunner(t *rapid.T) {
	r, most := d.newRunner(t, d.now()), pick(t, "most", 1, 3, 9)
	if again := d.runner(t, store.RunnerIdle); again != nil && pick(t, "again", false, false, false, true) {
		r.Machine, r.ID = again.Machine, again.ID
	}
	d.same("add runner", nil, nil, d.real.AddRunner(d.kit.ctx, r, most), d.model.AddRunner(d.kit.ctx, r, most))
}

// ready adds a machine of a pool that waits.
func (d *drive) ready(t *rapid.T) {
	r := d.newRunner(t, d.now())
	w := &store.RunnerMove{Machine: r.Machine, From: []store.RunnerState{store.RunnerWarming}, To: store.RunnerIdle, Time: d.now(), By: "m/1"}
	d.same("add runner", nil, nil, d.real.AddRunner(d.kit.ctx, r, 9), d.model.AddRunner(d.kit.ctx, r, 9))
	got, err := d.real.MoveRunner(d.kit.ctx, w)
	want, wantErr := d.model.MoveRunner(d.kit.ctx, w)
	d.same("move runner", got, want, err, wantErr)
}

func (d *drive) moveRunner(t *rapid.T) {
	r := d.runner(t, pick(t, "state", store.RunnerWarming, store.RunnerWarming, store.RunnerRecycling, store.RunnerIdle))
	if r == nil {
		t.Skip("no machines of pools yet")
	}
	w := &store.RunnerMove{
		Machine: r.Machine, Attempt: r.Attempt, Time: d.now(), Message: d.name("why"),
		To:   pick(t, "to", store.RunnerIdle, store.RunnerIdle, store.RunnerIdle, store.RunnerDraining, store.RunnerWarming),
		From: []store.RunnerState{r.State},
	}
	switch pick(t, "wrong", "", "", "", "", "state", "attempt", "machine") {
	case "state":
		w.From = []store.RunnerState{pick(t, "from", store.RunnerWarming, store.RunnerIdle, store.RunnerRecycling)}
	case "attempt":
		w.Attempt = pick(t, "of", "", "att_none")
	case "machine":
		w.Machine = "none"
	}
	if r.By == "" {
		w.By, w.MachineID = pick(t, "by", "m/1", "m/1", "m/1", "m/2"), pick(t, "machine id", "", "i-1")
	}
	w.Image, w.Location = pick(t, "image", "", "debian@1"), pick(t, "location", "", "ams")
	got, err := d.real.MoveRunner(d.kit.ctx, w)
	want, wantErr := d.model.MoveRunner(d.kit.ctx, w)
	d.same("move runner", got, want, err, wantErr)
}

// compareRunners compares the machines of pools.
func (d *drive) compareRunners(*rapid.T) {
	got, err := d.real.Runners(d.kit.ctx)
	want, _ := d.model.Runners(d.kit.ctx)
	d.same("number of machines of pools", len(got), len(want), err, nil)
	for i := range want {
		d.same("a machine of a pool", got[i], want[i], nil, nil)
	}
	for _, r := range d.model.runners {
		got, err := d.real.Runner(d.kit.ctx, r.ID)
		want, wantErr := d.model.Runner(d.kit.ctx, r.Machine)
		d.same("a machine of a pool by its id", got, want, err, wantErr)
	}
}
