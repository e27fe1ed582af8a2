package local

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// orderInterval is how often Run looks after everything.
const orderInterval = 5 * time.Second

// defaultOverdue is how long after the end of its lifetime a machine is ended from outside: longer than its supervisor
// may take for it.
const defaultOverdue = 15 * time.Second

// Run keeps order until ctx ends: it stays connected to every supervisor, ends what dead ones have left, ends machines
// whose lifetime has passed while their supervisor does not answer, and removes what belongs to no machine.
//
// The provider works without it, but a machine whose supervisor is stopped is then not ended at the end of its lifetime,
// and what dead supervisors leave in the state directory stays there. It returns nil.
func (p *Provider) Run(ctx context.Context) error {
	ticker := time.NewTicker(orderInterval)
	defer ticker.Stop()
	for {
		if err := p.order(ctx); err != nil && ctx.Err() == nil {
			p.log.Error("the state directory is not in order", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// order does once what Run does all the time. It goes on after a failure, and returns all.
func (p *Provider) order(ctx context.Context) error {
	p.reap()
	err := p.connect(ctx)
	numbers, failed := p.layout.numbers()
	if failed != nil {
		return errors.Join(err, unavailable(failed))
	}
	for _, number := range numbers {
		alive, failed := p.layout.alive(number)
		if failed == nil && !alive {
			failed = p.bury(ctx, number)
		}
		err = errors.Join(err, failed)
	}
	return errors.Join(err, p.endOverdue(ctx), p.sweepCondemnations(), p.sweepSupervisors(ctx), p.layout.emptyTrash())
}

// records calls use with every record. What makes no sense is removed, with its machine.
func (p *Provider) records(ctx context.Context, use func(*record) error) (err error) {
	names, _, err := p.machines.names()
	if err != nil {
		return unavailable(err)
	}
	for _, name := range names {
		r, failed := p.readSound(ctx, name)
		if errors.Is(failed, fault.NotFound) {
			continue
		}
		if failed == nil {
			failed = use(r)
		}
		err = errors.Join(err, failed)
	}
	return err
}

// bury ends whatever is left of a dead supervisor's machines and puts that on record. It returns nil only when nothing
// of them runs.
func (p *Provider) bury(ctx context.Context, number int) error {
	p.burying.Lock()
	defer p.burying.Unlock()
	if alive, err := p.layout.alive(number); err != nil {
		return unavailable(err)
	} else if alive {
		return nil
	}
	var births []*birth
	err := p.records(ctx, func(r *record) error {
		if r.Supervisor == number && r.Boot == p.boot && r.ended == nil {
			births = append(births, &r.birth)
		}
		return nil
	})
	if failed := p.endAll(ctx, number, births); failed != nil {
		return errors.Join(err, failed)
	}
	var names []string
	for _, b := range births {
		if failed := p.machines.end(b, &ending{Lost: true}); failed != nil {
			err = errors.Join(err, unavailable(failed))
			continue
		}
		names = append(names, b.Name)
	}
	if len(names) > 0 {
		p.log.Warn("a supervisor has died; what was left of its machines has been ended", "supervisor", number, "machines", len(names))
		p.look(names...)
	}
	return err
}

// endAll ends every process tree of a dead supervisor, whatever record there is of it. Where there are no cgroups, some
// may only be found if it is known that they were there.
func (p *Provider) endAll(ctx context.Context, number int, known []*birth) error {
	trees, err := p.treesOf(number)
	if err != nil {
		return err
	}
	if trees != p.trees {
		defer trees.Close()
	}
	asked := make([]string, len(known))
	for i, b := range known {
		asked[i] = b.group()
	}
	groups, err := trees.Names(asked...)
	if err != nil {
		return err
	}
	for _, group := range groups {
		if strings.HasPrefix(group, strconv.Itoa(number)+".") {
			if err := endGroup(ctx, trees, group); err != nil {
				return err
			}
		}
	}
	return nil
}

// endOverdue ends machines that their supervisor should have ended. Each is condemned first, because the supervisor may
// wake up just now and use its process tree for another.
func (p *Provider) endOverdue(ctx context.Context) error {
	return p.records(ctx, func(r *record) error {
		if r.ended != nil || r.Boot != p.boot || clock() < r.expires()+p.overdue {
			return nil
		}
		there, err := p.machines.condemn(&r.birth)
		if err != nil {
			return unavailable(err)
		}
		if !there {
			return nil
		}
		p.log.Warn("machine has outlived its lifetime; it is ended from outside", "machine", r.Name, "supervisor", r.Supervisor)
		if err := p.endTree(ctx, &r.birth); err != nil {
			return err
		}
		exit := &machine.Exit{Code: -1, Signal: "SIGKILL", Expired: true,
			Message: fmt.Sprintf("It was killed %v after the end of its lifetime, because its supervisor did not answer.", p.overdue)}
		if err := p.machines.end(&r.birth, &ending{Exit: exit}); err != nil {
			return unavailable(err)
		}
		p.look(r.Name)
		return nil
	})
}

// sweepCondemnations removes those whose machine is gone: whoever destroyed it died just before the last step.
func (p *Provider) sweepCondemnations() error {
	_, condemned, err := p.machines.names()
	if err != nil {
		return unavailable(err)
	}
	for _, name := range condemned {
		if _, err := p.read(name); errors.Is(err, fault.NotFound) {
			if err := p.machines.pardon(name); err != nil {
				return unavailable(err)
			}
		}
	}
	return nil
}

// sweepSupervisors removes the directories of dead supervisors that no machine refers to. The newest stays: its number
// is how the next one gets another.
func (p *Provider) sweepSupervisors(ctx context.Context) error {
	numbers, err := p.layout.numbers()
	if err != nil || len(numbers) < 2 {
		return err
	}
	// Whoever starts a supervisor holds the lock until that answers. So one that is not alive now never came up, or has died.
	starting, err := lock(p.layout.starting())
	if err != nil {
		return unavailable(err)
	}
	if starting == nil {
		return nil // It can be done a little later as well.
	}
	defer starting.Close()
	dead := map[int]bool{}
	for _, number := range numbers[1:] {
		alive, err := p.layout.alive(number)
		if err != nil {
			return unavailable(err)
		}
		if !alive {
			dead[number] = true
		}
	}
	if err := p.records(ctx, func(r *record) error { delete(dead, r.Supervisor); return nil }); err != nil {
		return err
	}
	for number := range dead {
		if err := p.layout.discard(p.layout.supervisor(number)); err != nil {
			return unavailable(err)
		}
	}
	return nil
}
