package fly

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// find returns a machine of the app as Fly shows it, be it ours or not, and its metadata.
func (p *Provider) find(ctx context.Context, id string) (*flyMachine, map[string]string, error) {
	if !machineID.MatchString(id) {
		return nil, nil, fault.Say(fault.NotFound, "%q is no id of a machine at Fly", plain(id, 64))
	}
	o := &call{action: "get", method: http.MethodGet, machine: id}
	a, err := p.read(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	m, err := p.client.parse(o, a)
	if err != nil {
		return nil, nil, err
	}
	if m.ID != id {
		return nil, nil, fault.Say(fault.Unavailable, "Fly was asked for the machine %s and answered with another%s", id, inRequest(a.id))
	}
	p.seen(id)
	meta, said := m.metadata()
	if !said && !m.gone() {
		return nil, nil, fault.Say(fault.Unavailable, "the host of the machine does not answer, so Fly cannot say what the machine is; ask again%s", inRequest(a.id))
	}
	return m, meta, nil
}

// inheritedPauses is how often a new process asks again for a machine that Fly does not know, within half a second.
const inheritedPauses = 3

// read makes the call that reads a machine, and returns an answer that succeeded. Fly may not know a machine yet that it
// has just made: when this process has made it, a 404 says nothing; when the process before may have, it is asked for
// again a few times.
func (p *Provider) read(ctx context.Context, o *call) (*answer, error) {
	for tries := 0; ; tries++ {
		a, err := p.client.do(ctx, o)
		if err != nil || a.ok() {
			return a, err
		}
		err = p.client.refusal("read machine "+o.machine, a)
		switch {
		case !errors.Is(err, fault.NotFound):
			return nil, err
		case p.unsettled(o.machine):
			return nil, fault.Say(fault.Unavailable, "Fly does not show the machine yet, which it made a moment ago; ask again%s", inRequest(a.id))
		case tries == inheritedPauses || !p.inherited(o.machine):
			return nil, err
		}
		if err := pause(ctx, 50*time.Millisecond<<tries); err != nil {
			return nil, err
		}
	}
}

// get is find for machines of ours that are not gone.
func (p *Provider) get(ctx context.Context, id string) (*flyMachine, map[string]string, error) {
	m, meta, err := p.find(ctx, id)
	switch {
	case err != nil:
		return nil, nil, err
	case m.gone():
		return nil, nil, fault.Say(fault.NotFound, "the machine has been destroyed")
	case meta[metaOwner] == "":
		return nil, nil, fault.Say(fault.NotFound, "the machine is not Dayfly's")
	}
	return m, meta, nil
}

// List returns the owner's machines, as [machine.Provider] says, oldest first. It fails when any page does, and when a
// machine's host does not let Fly say whose it is.
func (p *Provider) List(ctx context.Context, owner string) ([]*machine.Machine, error) {
	list, err := p.list(ctx, url.Values{"metadata." + metaOwner: {owner}})
	if err != nil {
		return nil, wrap("list", err)
	}
	var own []*machine.Machine
	for _, m := range list {
		meta, said := m.metadata()
		if !said && !m.gone() {
			return nil, wrap("list", fault.Say(fault.Unavailable, "the host of machine %s does not answer, so Fly cannot say whose it is; ask again", m.ID))
		}
		// A server that does not know the filter shows everybody's.
		if meta[metaOwner] == owner && !m.gone() {
			own = append(own, m.view(meta))
		}
	}
	slices.SortStableFunc(own, func(a, b *machine.Machine) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	return own, nil
}

const (
	pageSize = 200  // machines asked for at once
	maxPages = 1000 // of a list that does not end by itself
)

// list returns every machine that the query finds, each once. Fly pages a list when it is asked to, and may make pages
// shorter than asked for; a server that cannot page answers with all.
func (p *Provider) list(ctx context.Context, query url.Values) ([]*flyMachine, error) {
	var all []*flyMachine
	seen := map[string]bool{}
	limit, cursor := pageSize, ""
	for range maxPages {
		query.Set("limit", strconv.Itoa(limit))
		page, next, err := p.page(ctx, query)
		if isLongPage(err) && limit > 1 {
			limit = max(limit/8, 1) // machines repeat their files, so a few may be much
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, m := range page {
			if !m.valid() {
				return nil, fault.Say(fault.Unavailable, "Fly listed something that is no machine")
			}
			if !seen[m.ID] {
				seen[m.ID] = true
				all = append(all, m)
			}
		}
		if next == "" {
			return all, nil
		}
		if next == cursor {
			break
		}
		cursor = next
		query.Set("cursor", cursor)
	}
	return nil, fault.Say(fault.Unavailable, "Fly's list of machines does not end")
}

// page returns one page of a list, and where the next one begins, "" if there is none.
func (p *Provider) page(ctx context.Context, query url.Values) ([]*flyMachine, string, error) {
	o := &call{action: "list", method: http.MethodGet, query: query, limit: maxList}
	a, err := p.client.do(ctx, o)
	if err != nil {
		return nil, "", err
	}
	if !a.ok() {
		err := p.client.refusal("list machines", a)
		if errors.Is(err, fault.NotFound) { // a list that is not there says nothing about machines
			err = fault.Say(fault.Unavailable, "%v", err)
		}
		return nil, "", err
	}
	var list []json.RawMessage
	if err := p.client.decode(o, a, &list); err != nil {
		return nil, "", err
	}
	page := make([]*flyMachine, len(list))
	for i, raw := range list {
		page[i] = &flyMachine{}
		if err := p.client.decode(o, &answer{status: a.status, body: raw, id: a.id}, page[i]); err != nil {
			return nil, "", err
		}
	}
	return page, a.header.Get("Fly-Next-Cursor"), nil
}

// Destroy ends a machine and returns nil once Fly says that it is gone, as [machine.Provider] says. A machine that is
// not Dayfly's is left alone: fault.Conflict. One that somebody holds a lease on is fault.Unavailable until that expires.
func (p *Provider) Destroy(ctx context.Context, id string) error {
	if !machineID.MatchString(id) {
		return canceledAlready(ctx)
	}
	what := "destroy machine " + id
	m, meta, err := p.find(ctx, id)
	switch {
	case errors.Is(err, fault.NotFound) || err == nil && m.gone():
		return nil
	case err == nil && meta[metaOwner] == "":
		return wrap(what, fault.Say(fault.Conflict, "the machine is not Dayfly's; it is left alone"))
	case err != nil && !p.unsettled(id):
		return wrap(what, again(err))
	}
	// A machine that was made just now and is not shown yet can be destroyed all the same.
	a, err := p.client.do(ctx, &call{action: "destroy", method: http.MethodDelete, machine: id, query: url.Values{"force": {"true"}}})
	if err != nil {
		return wrap(what, again(err))
	}
	if !a.ok() && a.status != http.StatusNotFound {
		return wrap(what, again(p.client.refusal(what, a)))
	}
	if !a.ok() {
		return wrap(what, again(p.doubted(ctx, id, a)))
	}
	p.seen(id)
	return wrap(what, again(p.awaitGone(ctx, id)))
}

// doubted returns nil if a machine that Fly did not find when it was told to destroy it is not shown either. Fly may have
// found it a moment ago, and may find it in a moment.
func (p *Provider) doubted(ctx context.Context, id string, a *answer) error {
	m, _, err := p.find(ctx, id)
	switch {
	case errors.Is(err, fault.NotFound) || err == nil && m.gone():
		return nil
	case err != nil:
		return err
	}
	return fault.Say(fault.Unavailable, "Fly could not find the machine to destroy it, and shows it as %s; ask again%s", plain(m.State, 32), inRequest(a.id))
}

// canceledAlready returns fault.Canceled when the context has ended.
func canceledAlready(ctx context.Context) error {
	if ctx.Err() != nil {
		return canceled(ctx)
	}
	return nil
}

// again makes of an error what the caller of Destroy is told: everything that may pass is fault.Unavailable.
func again(err error) error {
	switch fault.Of(err) {
	case "":
		return nil
	case fault.Conflict, fault.Exhausted, fault.NotFound, fault.Invalid:
		return fault.Say(fault.Unavailable, "%v", err)
	default:
		return err
	}
}

// awaitGone returns nil once Fly says that the machine is gone. What Fly says of the delete is no proof: it has been
// said of machines that stayed.
func (p *Provider) awaitGone(ctx context.Context, id string) error {
	began, delay := time.Now(), 20*time.Millisecond
	for {
		m, _, err := p.find(ctx, id)
		switch {
		case errors.Is(err, fault.NotFound) || err == nil && m.gone():
			p.seen(id)
			return nil
		case err != nil && !errors.Is(err, fault.Unavailable):
			return err
		}
		left := patience - time.Since(began)
		if deadline, ok := ctx.Deadline(); ok {
			left = min(left, time.Until(deadline))
		}
		if left < delay {
			if err != nil {
				return err
			}
			return fault.Say(fault.Unavailable, "Fly was told to destroy the machine and still shows it as %s; ask again", plain(m.State, 32))
		}
		if err == nil {
			p.waitFor(ctx, id, "destroyed", left)
		}
		if err := pause(ctx, delay); err != nil {
			return err
		}
		delay = min(2*delay, 2*time.Second)
	}
}

// waitFor lets Fly tell when a machine reaches a state, for at most the time given. Its answer is no machine and says
// nothing that a read does not: 408 means that it has not, and 404 that Fly does not know the machine, or not yet.
func (p *Provider) waitFor(ctx context.Context, id, state string, most time.Duration) {
	// Fewer than 1 and more than 60 are refused, and an answer that comes when the time is over comes too late.
	seconds := min(int(most.Seconds())-1, 60)
	if seconds < 1 {
		return
	}
	query := url.Values{"state": {state}, "timeout": {strconv.Itoa(seconds)}}
	// Whoever waits for Fly to be done waiting has to wait longer than that.
	timeout := time.Duration(seconds)*time.Second + 10*time.Second
	_, _ = p.client.do(ctx, &call{action: "wait", method: http.MethodGet, machine: id, verb: "wait", query: query, timeout: timeout})
}
