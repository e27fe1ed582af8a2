package docker

import (
	"context"
	"iter"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// The pauses before the engine is asked again for events after it has ended a stream, or did not begin one.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = 10 * time.Second
)

// Watch implements machine.Watcher. It follows the engine's events, and after each interruption lists what there is: so
// nothing that happened meanwhile is missed.
func (p *Provider) Watch(ctx context.Context, owner string) iter.Seq2[*machine.Machine, error] {
	return func(yield func(*machine.Machine, error) bool) {
		known := map[string]*machine.Machine{}
		for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, maxPause) {
			began := time.Now()
			err, more := p.follow(ctx, owner, known, yield)
			if !more || ctx.Err() != nil {
				return
			}
			if !yield(nil, err) {
				return
			}
			if time.Since(began) > maxPause {
				pause = firstPause
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	}
}

// follow yields what changes until the engine ends the stream, whose error it returns, or nobody wants more.
func (p *Provider) follow(ctx context.Context, owner string, known map[string]*machine.Machine, yield func(*machine.Machine, error) bool) (err error, more bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e, err := p.connect()
	if err != nil {
		return err, true
	}
	// The stream first, and then the list: what changes between the two is told twice and not never.
	stream := e.Events(ctx, client.EventsListOptions{Filters: make(client.Filters).Add("type", "container").Add("label", labelOwner+"="+owner)})
	list, err := p.List(ctx, owner)
	if err != nil {
		return err, true
	}
	present := map[string]bool{}
	for _, m := range list {
		present[m.ID] = true
		if !show(known, m, yield) {
			return nil, false
		}
	}
	for id := range known {
		if !present[id] && !vanish(known, id, yield) {
			return nil, false
		}
	}
	for {
		select {
		case event := <-stream.Messages:
			if !p.tell(ctx, event, known, yield) {
				return nil, false
			}
		case err := <-stream.Err:
			if err == nil {
				err = fault.Say(fault.Unavailable, "the engine at %s ended its stream of events", e.host)
			}
			return p.failed(ctx, e, "go on telling of events", err), true
		case <-ctx.Done():
			return canceled(ctx), true
		}
	}
}

// tell yields what an event means, if it means anything.
func (p *Provider) tell(ctx context.Context, event events.Message, known map[string]*machine.Machine, yield func(*machine.Machine, error) bool) bool {
	id := event.Actor.Attributes[labelName]
	switch event.Action {
	case events.ActionCreate, events.ActionStart, events.ActionDie, events.ActionDestroy, events.ActionRemove:
	default:
		return true
	}
	if id == "" {
		return true
	}
	m, err := p.Get(ctx, id)
	switch {
	case err == nil:
		return show(known, m, yield)
	case fault.Of(err) == fault.NotFound:
		return vanish(known, id, yield)
	case ctx.Err() != nil:
		return true
	}
	return yield(nil, err)
}

// show yields a machine whose state is news. A machine that was made anew under its name is the next one.
func show(known map[string]*machine.Machine, m *machine.Machine, yield func(*machine.Machine, error) bool) bool {
	old := known[m.ID]
	if old != nil && !old.Created.Equal(m.Created) {
		if !vanish(known, m.ID, yield) {
			return false
		}
		old = nil
	}
	if old != nil && m.State.Rank() <= old.State.Rank() {
		return true
	}
	kept := *m // what is yielded is the consumer's
	known[m.ID] = &kept
	return yield(m, nil)
}

// vanish yields that a machine is gone, if it was ever told of.
func vanish(known map[string]*machine.Machine, id string, yield func(*machine.Machine, error) bool) bool {
	old := known[id]
	if old == nil {
		return true
	}
	delete(known, id)
	gone := *old
	gone.State = machine.Gone
	return yield(&gone, nil)
}
