package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
)

// Destroy ends a machine and removes it, as [machine.Provider] says. Its supervisor does it if it answers; a dead
// one's machines, and those of one that does not answer, are ended from here, by the name of their process tree.
//
// When another supervisor may still read an earlier request for the same machine, Destroy waits until that is void,
// some seconds at most: a machine that could come back is not gone.
func (p *Provider) Destroy(ctx context.Context, id string) error {
	if !isName(id) {
		return nil
	}
	gone, err := p.askHolder(ctx, id)
	for !gone && err == nil {
		if ctx.Err() != nil {
			return canceled(context.Cause(ctx))
		}
		gone, err = p.destroyOnce(ctx, id)
	}
	if err == nil {
		p.tell(id, news{gone: true})
	}
	return err
}

// askHolder asks the supervisor that made the machine, if this provider remembers it.
func (p *Provider) askHolder(ctx context.Context, id string) (gone bool, err error) {
	p.mu.Lock()
	k := p.holders[id]
	delete(p.holders, id)
	doubt := p.unsure[id] != nil
	p.mu.Unlock()
	if k == nil || doubt || ctx.Err() != nil {
		return false, nil
	}
	return p.askToDestroy(ctx, k, id)
}

// destroyOnce looks for the machine and destroys it. It returns false if the machine changed hands meanwhile.
func (p *Provider) destroyOnce(ctx context.Context, id string) (gone bool, err error) {
	r, err := p.read(id)
	switch {
	case errors.Is(err, fault.NotFound):
		if err := p.settle(ctx, id); err != nil {
			return false, err
		}
		// What has settled may be a machine.
		_, err := p.read(id)
		return errors.Is(err, fault.NotFound), nil
	case errors.Is(err, fault.Internal):
		return false, p.razeSpoiled(ctx, id, err)
	case err != nil:
		return false, err
	}
	supervised, err := p.supervised(r)
	if err != nil {
		return false, unavailable(err)
	}
	if !supervised {
		return p.raze(ctx, r)
	}
	k, err := p.link(ctx, r.Supervisor)
	if err != nil {
		return p.raze(ctx, r) // It is dying, or asleep; either way it is not needed.
	}
	p.mu.Lock()
	doubt := p.unsure[id] != nil
	p.mu.Unlock()
	if !doubt {
		if gone, err := p.askToDestroy(ctx, k, id); gone || err != nil {
			return gone, err
		}
		return p.raze(ctx, r)
	}
	// The name must stay until the doubt is settled, so the supervisor only hears of it afterwards.
	if gone, err = p.raze(ctx, r); gone && err == nil {
		_, err = p.askToDestroy(ctx, k, id)
	}
	return gone, err
}

// askToDestroy lets a supervisor do it. It returns false if that is dead, does not answer, or does not know the
// machine.
func (p *Provider) askToDestroy(ctx context.Context, k *link, name string) (gone bool, err error) {
	if k.mute.Load() {
		return false, nil
	}
	_, err = k.call(ctx, &request{Destroy: name})
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, errMute), errors.Is(err, errBroken), errors.Is(err, fault.NotFound):
		return false, nil
	case ctx.Err() != nil:
		return false, canceled(context.Cause(ctx))
	}
	return false, err
}

// raze destroys a machine without its supervisor, which may wake up at any moment. It returns false if the machine
// has vanished meanwhile, because somebody else was faster; then the caller looks again.
func (p *Provider) raze(ctx context.Context, r *record) (gone bool, err error) {
	there, err := p.machines.condemn(&r.birth)
	if err != nil {
		return false, unavailable(err)
	}
	if !there {
		return false, nil
	}
	if err := p.endTree(ctx, &r.birth); err != nil {
		return false, err
	}
	// As long as the name is there nobody can make a machine of that name, so a request that a sleeping supervisor has
	// not read yet is waited for here.
	if err := p.settle(ctx, r.Name); err != nil {
		return false, err
	}
	if alive, err := p.layout.alive(r.Supervisor); err != nil {
		return false, unavailable(err)
	} else if r.Boot == p.boot || !alive {
		if err := p.layout.discard(p.layout.slot(r.Supervisor, r.Slot)); err != nil {
			return false, unavailable(err)
		}
	}
	if err := errors.Join(p.machines.remove(&r.birth), p.machines.pardon(r.Name)); err != nil {
		return false, unavailable(err)
	}
	return true, nil
}

// razeSpoiled destroys a machine whose record makes no sense, so that nobody needs to read it. It returns nil also if it
// does make sense after all, or nobody can be certain yet; the caller looks again. The slot of which the name was a link
// tells which process tree is the machine's.
func (p *Provider) razeSpoiled(ctx context.Context, name string, why error) error {
	found, certain, err := p.machines.spoiled(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return unavailable(err)
	case !certain:
		return sleepUntil(ctx, clock()+clockGrain)
	}
	if err := p.machines.mark(name); err != nil {
		return unavailable(err)
	}
	if !p.machines.unchanged(name, &found) {
		if err := p.machines.pardon(name); err != nil {
			return unavailable(err)
		}
		return nil
	}
	p.log.Error("a record cannot be read; the machine is ended and removed", "machine", name, "err", why)
	if err := p.razeSlot(ctx, name, &found); err != nil {
		return err
	}
	var now unix.Stat_t
	if p.machines.stands(name, &found, &now) {
		err = p.machines.unlink(name)
	}
	if err = errors.Join(err, p.machines.pardon(name)); err != nil {
		return unavailable(err)
	}
	p.look(name)
	return nil
}

// razeSlot ends what runs in the slot whose record is a file, and removes the slot.
func (p *Provider) razeSlot(ctx context.Context, name string, file *unix.Stat_t) error {
	supervisors, err := p.layout.numbers()
	if err != nil {
		return unavailable(err)
	}
	for _, supervisor := range supervisors {
		slots, err := os.ReadDir(filepath.Join(p.layout.supervisor(supervisor), "slots"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return unavailable(err)
		}
		for _, entry := range slots {
			var st unix.Stat_t
			path := filepath.Join(p.layout.supervisor(supervisor), "slots", entry.Name())
			err := unix.Lstat(filepath.Join(path, "record"), &st)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return unavailable(&fs.PathError{Op: "lstat", Path: path, Err: err})
			}
			if err != nil || st.Ino != file.Ino || st.Dev != file.Dev {
				continue
			}
			slot, _ := strconv.Atoi(entry.Name())
			if err := p.endTree(ctx, &birth{Name: name, Boot: p.boot, Supervisor: supervisor, Slot: slot}); err != nil {
				return err
			}
			if err := p.layout.discard(path); err != nil {
				return unavailable(err)
			}
		}
	}
	return nil
}

// endTree kills what runs in a machine, from outside of its supervisor. That must be dead, or the machine condemned:
// otherwise the tree may be another machine's by now.
func (p *Provider) endTree(ctx context.Context, b *birth) error {
	if b.Boot != p.boot {
		return nil // Everything has ended with that boot.
	}
	trees, err := p.treesOf(b.Supervisor)
	if err != nil {
		return err
	}
	if trees != p.trees {
		defer trees.Close()
	}
	return endGroup(ctx, trees, b.group())
}

// endGroup kills a process tree and removes it, if it is there.
func endGroup(ctx context.Context, trees *process.Host, name string) error {
	group, err := trees.Find(name)
	if err != nil || group == nil {
		return err
	}
	for {
		if err := group.Kill(ctx); err != nil {
			return err
		}
		err := group.Close()
		if !errors.Is(err, fault.Conflict) {
			return err
		}
		// Something was born between the two.
	}
}

// treesOf returns the host on which a supervisor's groups are found: this provider's own, unless the supervisor lived
// in another part of the cgroup tree or had no cgroups.
func (p *Provider) treesOf(number int) (*process.Host, error) {
	i, err := p.layout.info(number)
	if err != nil {
		p.log.Warn("a supervisor has left no information; its machines are looked for where this process would make them",
			"supervisor", number, "err", err)
		return p.trees, nil
	}
	own := p.trees.Abilities().Kill
	elsewhere := slices.ContainsFunc(i.Places, func(place string) bool { return !slices.Contains(p.trees.Places(), place) })
	if i.Kill == own && !elsewhere {
		return p.trees, nil
	}
	prefix, err := p.layout.prefix()
	if err != nil {
		return nil, unavailable(err)
	}
	return process.NewHost(&process.Options{Prefix: prefix, Logger: p.log, Places: i.Places, DisableCgroups: i.Kill == "scan"})
}

// doubtful is a request for a machine whose outcome nobody has told.
type doubtful struct {
	link     *link
	deadline time.Duration // by clock(): from then on it has no effect
}

// doubt remembers such a request, and forgets those that are void.
func (p *Provider) doubt(name string, d doubtful) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := clock()
	for other, list := range p.unsure {
		list = slices.DeleteFunc(list, func(d doubtful) bool { return d.deadline < now })
		if p.unsure[other] = list; len(list) == 0 {
			delete(p.unsure, other)
		}
	}
	p.unsure[name] = append(p.unsure[name], d)
}

// settle returns once no request of this provider for that name can have an effect any more. A supervisor that answers
// is asked to destroy what it may be making; it reads its requests in order.
func (p *Provider) settle(ctx context.Context, name string) error {
	p.mu.Lock()
	list := slices.Clone(p.unsure[name])
	p.mu.Unlock()
	for _, d := range list {
		if clock() < d.deadline && !d.link.mute.Load() {
			if _, err := d.link.call(ctx, &request{Destroy: name}); err == nil || errors.Is(err, fault.NotFound) {
				continue
			}
		}
		if alive, err := p.layout.alive(d.link.number); err == nil && !alive {
			continue
		}
		if err := sleepUntil(ctx, d.deadline); err != nil {
			return fmt.Errorf("local: machine %s: an earlier request for it may still be carried out: %w", name, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.unsure[name]) <= len(list) {
		delete(p.unsure, name)
	}
	return nil
}

// sleepUntil waits for a moment of clock().
func sleepUntil(ctx context.Context, moment time.Duration) error {
	for left := moment - clock(); left >= 0; left = moment - clock() {
		select {
		case <-ctx.Done():
			return canceled(context.Cause(ctx))
		case <-time.After(left + time.Millisecond):
		}
	}
	return nil
}
