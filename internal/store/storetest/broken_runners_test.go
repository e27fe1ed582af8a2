package storetest

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/internal/store"
)

// These stores break what is promised of the machines of pools.

// lending replaces what launches say of machines of pools. r is the machine, if it is there.
func lending(b *broken, change func(l *store.Lending, r *store.Runner)) {
	changed := func(ctx context.Context, l *store.Launch) *store.Launch {
		if l == nil || l.Lend == nil {
			return l
		}
		c, lend := *l, *l.Lend
		r, err := b.Runner(ctx, l.Machine)
		if err != nil {
			r = &store.Runner{}
		}
		change(&lend, r)
		c.Lend = &lend
		return &c
	}
	b.launch = func(ctx context.Context, launches []*store.Launch) ([]error, error) {
		var list []*store.Launch
		for _, l := range launches {
			list = append(list, changed(ctx, l))
		}
		return b.Store.Launch(ctx, list)
	}
	b.submit = func(ctx context.Context, s *store.Submission) (*store.Job, bool, error) {
		c := *s
		c.Launch = changed(ctx, s.Launch)
		return b.Store.Submit(ctx, &c)
	}
}

func lendsToAnyAgent(b *broken) {
	lending(b, func(l *store.Lending, r *store.Runner) {
		if r.By != "" {
			l.By = r.By
		}
	})
}

func lendsToAnyTenant(b *broken) {
	lending(b, func(l *store.Lending, r *store.Runner) {
		if r.Tenant != "" {
			l.Tenant = r.Tenant
		}
	})
	together := b.launch
	b.launch = func(ctx context.Context, launches []*store.Launch) (refusals []error, err error) {
		for i := range launches { // one by one, so that each looks at whose the machine is by then
			refused, failed := together(ctx, launches[i:i+1])
			if failed != nil {
				return nil, failed
			}
			refusals = append(refusals, refused...)
		}
		return refusals, nil
	}
}

func dividesNothing(b *broken) {
	whole := func(r *store.Runner) *store.Runner {
		c := *r
		c.Slots = 1
		return &c
	}
	lending(b, func(l *store.Lending, _ *store.Runner) {
		if l.New != nil {
			l.New = whole(l.New)
		}
	})
	b.add = func(ctx context.Context, r *store.Runner, most int) error {
		return b.Store.AddRunner(ctx, whole(r), most)
	}
}

func destroysOneSlot(b *broken) {
	b.machine = func(ctx context.Context, moves []*store.MachineMove) error {
		for _, m := range moves {
			if r, err := b.Runner(ctx, m.Name); err == nil && r.Divided() && m.To == store.MachineDeleting && r.State != store.RunnerDraining {
				_, err := b.Store.MoveRunner(ctx, &store.RunnerMove{
					Machine: m.Name, From: []store.RunnerState{r.State}, Attempt: r.Attempt, To: store.RunnerDraining, Time: m.Time, Message: m.Message,
				})
				if err != nil {
					return err
				}
				continue
			}
			if err := b.Store.MoveMachine(ctx, []*store.MachineMove{m}); err != nil {
				return err
			}
		}
		return nil
	}
}

func makesTooMany(b *broken) {
	lending(b, func(l *store.Lending, _ *store.Runner) { l.Most = 1000 })
	b.add = func(ctx context.Context, r *store.Runner, _ int) error { return b.Store.AddRunner(ctx, r, 1000) }
}

func drainsBusy(b *broken) {
	b.runner = func(ctx context.Context, m *store.RunnerMove) (*store.Runner, error) {
		c := *m
		if r, err := b.Runner(ctx, m.Machine); err == nil && r.State != store.RunnerGone {
			c.From, c.Attempt = []store.RunnerState{r.State}, r.Attempt
		}
		return b.Store.MoveRunner(ctx, &c)
	}
}

func usesAgain(b *broken) {
	b.end = func(ctx context.Context, e *store.Ending) (*store.Job, error) {
		c := *e
		c.Runner = store.RunnerIdle
		return b.Store.End(ctx, &c)
	}
}

func lendsByOneClock(b *broken) {
	lending(b, func(l *store.Lending, _ *store.Runner) { l.Wall = time.Time{} })
}

func forgetsPools(b *broken) {
	b.costs = func(ctx context.Context, from, to string) ([]store.Cost, error) {
		costs, err := b.Store.Costs(ctx, from, to)
		return slices.DeleteFunc(costs, func(c store.Cost) bool { return strings.HasPrefix(c.Queue, "pool:") }), err
	}
}
