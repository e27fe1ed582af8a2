package memmachine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// Provider is one process's way to a [Cloud]. It holds nothing of its own and is safe for concurrent use.
type Provider struct {
	cloud *Cloud
}

var (
	_ machine.Provider = (*Provider)(nil)
	_ machine.Watcher  = (*Provider)(nil)
)

// New returns a provider on a new, empty cloud.
func New(o *Options) *Provider { return newCloud(o).Connect() }

// Cloud returns the other side, to misbehave, to look behind the scenes and to connect further providers.
func (p *Provider) Cloud() *Cloud { return p.cloud }

// Create makes a machine, as [machine.Provider] says. It refuses only what every provider refuses.
func (p *Provider) Create(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
	if err := spec.Validate(); err != nil {
		return nil, fmt.Errorf("memmachine: %w", err)
	}
	if spec.Program != nil {
		if err := p.CheckProgram(ctx, spec.Program); err != nil {
			return nil, err
		}
	}
	call := &Call{Method: Create, Key: spec.Name, Spec: cloneSpec(spec), cloud: p.cloud}
	call.effect = func() (err error) {
		call.Machine, err = p.cloud.create(call.Spec)
		return err
	}
	if err := p.cloud.answer(ctx, call); err != nil {
		return nil, err
	}
	return call.oneMachine()
}

// Get returns a machine as it is now, as [machine.Provider] says.
func (p *Provider) Get(ctx context.Context, id string) (*machine.Machine, error) {
	call := &Call{Method: Get, Key: id, cloud: p.cloud}
	call.effect = func() error {
		p.cloud.mu.Lock()
		defer p.cloud.mu.Unlock()
		i := p.cloud.byID[id]
		if i == nil {
			return fmt.Errorf("memmachine: machine %s: %w", id, fault.NotFound)
		}
		call.Machine = i.view()
		return nil
	}
	if err := p.cloud.answer(ctx, call); err != nil {
		return nil, err
	}
	return call.oneMachine()
}

// List returns the owner's machines, oldest first, as [machine.Provider] says. It fetches them page by page, each a
// call of the method [Page], and fails when a page does.
func (p *Provider) List(ctx context.Context, owner string) ([]*machine.Machine, error) {
	call := &Call{Method: List, Key: owner, cloud: p.cloud}
	call.effect = func() error {
		for page := range slices.Chunk(p.cloud.ofOwner(owner), p.cloud.pageSize) {
			fetch := &Call{Method: Page, Key: owner, cloud: p.cloud}
			fetch.effect = func() error {
				fetch.Machines = page
				return nil
			}
			if err := p.cloud.answer(ctx, fetch); err != nil {
				return fmt.Errorf("memmachine: a page of the list of %s: %w", owner, err)
			}
			call.Machines = append(call.Machines, fetch.Machines...)
		}
		return nil
	}
	if err := p.cloud.answer(ctx, call); err != nil {
		return nil, err
	}
	return call.Machines, nil
}

// Destroy removes a machine and tells its guest to return, as [machine.Provider] says.
func (p *Provider) Destroy(ctx context.Context, id string) error {
	call := &Call{Method: Destroy, Key: id, cloud: p.cloud}
	call.effect = func() error {
		p.cloud.mu.Lock()
		defer p.cloud.mu.Unlock()
		if i := p.cloud.byID[id]; i != nil {
			p.cloud.remove(i, Destroyed, errors.New("memmachine: the machine was destroyed"))
		}
		return nil
	}
	return p.cloud.answer(ctx, call)
}

// Watch tells of changes, as [machine.Watcher] says. A consumer that is slower than the changes sees the latest
// state of each machine and may miss those before. Rules do not reach Watch; wrap the provider in a
// struct{ machine.Provider } to make [machine.Watch] poll List instead.
func (p *Provider) Watch(ctx context.Context, owner string) iter.Seq2[*machine.Machine, error] {
	return func(yield func(*machine.Machine, error) bool) {
		w := p.cloud.watch(owner)
		defer p.cloud.unwatch(w)
		for {
			select {
			case <-ctx.Done():
				return
			case <-w.wake:
			}
			for _, m := range p.cloud.drain(w) {
				if ctx.Err() != nil || !yield(m, nil) {
					return
				}
			}
		}
	}
}
