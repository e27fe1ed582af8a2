package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// Get returns a machine as its record shows it, as [machine.Provider] says.
func (p *Provider) Get(ctx context.Context, id string) (*machine.Machine, error) {
	if err := ctx.Err(); err != nil {
		return nil, canceled(context.Cause(ctx))
	}
	r, err := p.readSound(ctx, id)
	if err != nil {
		return nil, err
	}
	return p.view(ctx, r)
}

// readSound is read, but for a record that makes no sense: that machine is destroyed, and is gone. One such record must
// not hide all others, and nobody can say of its machine but that it may run.
func (p *Provider) readSound(ctx context.Context, id string) (*record, error) {
	for {
		r, err := p.read(id)
		if !errors.Is(err, errSpoiled) {
			return r, err
		}
		if err := p.razeSpoiled(ctx, id, err); err != nil {
			return nil, err
		}
	}
}

// read returns the record of a machine, or fault.NotFound. fault.Internal: there is one and it makes no sense.
func (p *Provider) read(id string) (*record, error) {
	if !isName(id) {
		return nil, fmt.Errorf("local: machine %q: %w", id, fault.NotFound)
	}
	r, err := p.machines.read(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("local: machine %s: %w", id, fault.NotFound)
	}
	if errors.Is(err, errSpoiled) {
		return nil, fmt.Errorf("local: machine %s: %w: %w", id, fault.Internal, err)
	}
	if err != nil {
		return nil, unavailable(err)
	}
	return r, nil
}

// isName reports whether id can be a machine's name, and so a file's.
func isName(id string) bool {
	ok := func(c rune) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' }
	return len(id) > 0 && len(id) <= 63 && !strings.ContainsFunc(id, func(c rune) bool { return !ok(c) })
}

// view returns the machine of a record. If its supervisor has died, whatever that has left is ended first.
func (p *Provider) view(ctx context.Context, r *record) (*machine.Machine, error) {
	if r.ended != nil {
		return r.view(p.host, true), nil
	}
	supervised, err := p.supervised(r)
	if err != nil {
		return nil, unavailable(err)
	}
	if r.Boot != p.boot {
		return r.view(p.host, false), nil
	}
	if !supervised {
		if err := p.bury(ctx, r.Supervisor); err != nil {
			return nil, err
		}
		// It may have come to its end by itself before its supervisor died.
		return p.reread(ctx, r)
	}
	return r.view(p.host, true), nil
}

// reread returns the machine of a record whose supervisor is dead.
func (p *Provider) reread(ctx context.Context, r *record) (*machine.Machine, error) {
	now, err := p.readSound(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	return now.view(p.host, now.Supervisor != r.Supervisor), nil
}

// supervised reports whether the supervisor of a record lives. A record of another boot has none, whoever holds the
// lock of that number now.
func (p *Provider) supervised(r *record) (bool, error) {
	if r.Boot != p.boot {
		return false, nil
	}
	p.mu.Lock()
	k := p.links[r.Supervisor]
	p.mu.Unlock()
	if k != nil && !closed(k.broken) {
		return true, nil
	}
	return p.layout.alive(r.Supervisor)
}

// List returns the owner's machines, oldest first, as [machine.Provider] says. It reads the records and needs no
// answer from any supervisor. A machine whose record makes no sense is destroyed, and not listed.
func (p *Provider) List(ctx context.Context, owner string) ([]*machine.Machine, error) {
	names, _, err := p.machines.names()
	if err != nil {
		return nil, unavailable(err)
	}
	list := []*machine.Machine{}
	for _, name := range names {
		if ctx.Err() != nil {
			return nil, canceled(context.Cause(ctx))
		}
		r, err := p.readSound(ctx, name)
		if errors.Is(err, fault.NotFound) || err == nil && r.Owner != owner {
			continue
		}
		var m *machine.Machine
		if err == nil {
			m, err = p.view(ctx, r)
		}
		if errors.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b *machine.Machine) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
	})
	return list, ctx.Err()
}
