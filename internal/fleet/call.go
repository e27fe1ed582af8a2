package fleet

import (
	"context"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// The bounds of what a runner says.
const (
	maxInstance = 64
	maxBuild    = 256
	maxBroken   = 1024
)

// patience is how many invitations in a row a runner may fail to follow before it is taken for the reason.
const patience = 5

// Call is what a runner says of itself, and returns what it is to do. fault.NotFound: it is on no machine of a fleet.
// fault.Conflict: another process is on that machine. fault.Invalid: it says what no runner says.
func (s *Service) Call(ctx context.Context, name string, c *wire.FleetCall) (*wire.FleetAnswer, error) {
	if c.Instance == "" || len(c.Instance) > maxInstance || len(c.Build) > maxBuild || len(c.Serving) > 256 || len(c.After) > 256 {
		return nil, fault.Say(fault.Invalid, "this is not what a runner of a fleet says")
	}
	s.mu.Lock()
	r := s.runners[name]
	if r == nil {
		s.mu.Unlock()
		return nil, fault.Say(fault.NotFound, "no fleet has a runner %.64q", name)
	}
	answer, wait, err := r.call(c)
	if answer != nil || err != nil {
		s.mu.Unlock()
		return answer, err
	}
	s.mu.Unlock()
	timer := time.NewTimer(time.Duration(max(0, min(c.WaitMS, wire.MaxHold))) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-wait.done:
	case <-timer.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.open == wait { // nobody may answer it any more
		r.open = nil
		r.heard = time.Now()
	}
	if wait.answer != nil {
		return wait.answer, nil
	}
	return &wire.FleetAnswer{}, nil
}

// call takes what a runner says, with the service's mu held. It returns the answer, or the open call in which it waits for one.
func (r *runner) call(c *wire.FleetCall) (*wire.FleetAnswer, *openCall, error) {
	switch {
	case r.instance != "" && r.instance != c.Instance:
		return nil, nil, fault.Say(fault.Conflict, "another process is the runner on the machine %s", r.name)
	case r.state == draining:
		return &wire.FleetAnswer{End: true, Why: "This runner is being ended."}, nil, nil
	case r.instance != "" && c.Number <= r.number:
		return &wire.FleetAnswer{}, nil, nil // it was on its way for long, and nobody waits for the answer
	}
	r.instance, r.build, r.number, r.heard = c.Instance, c.Build, c.Number, time.Now()
	r.answer(&wire.FleetAnswer{}) // an earlier call is over
	if r.isStranger() && c.Serving == "" {
		r.stranger()
		return &wire.FleetAnswer{End: true, Why: "This program is of another build than the fleet's runners are to be."}, nil, nil
	}
	if r.state == warming {
		r.fleet.service.Logger.Info("a runner is up", "fleet", r.fleet.name, "provider", r.fleet.provider, "runner", r.name,
			"took", time.Since(r.created).Round(time.Millisecond))
	}
	if r.state == warming || r.state == unheard {
		r.kind.trouble = trouble{}
	}
	if c.Serving != "" {
		answer := r.serves(c.Serving)
		r.fleet.settle()
		if r.state == draining {
			answer = &wire.FleetAnswer{End: true, Why: "This runner is being ended."}
		}
		return answer, nil, nil
	}
	return r.free(c)
}

// stranger is called when another program runs than was asked for: its file has been replaced.
func (r *runner) stranger() {
	f := r.fleet
	err := fault.Say(fault.Invalid, "The program on the runner %s is of build %.80s, and that of who asks for it of build %.80s. Its file was replaced "+
		"since; start the program again.", r.name, r.build, r.kind.build)
	if r.state == warming {
		r.kind.stumble()
		f.failed(r.kind, err)
	}
	f.discard(r, "its program is of another build", false)
	f.settle()
}

// serves is the call of a runner that serves somebody.
func (r *runner) serves(id string) *wire.FleetAnswer {
	f := r.fleet
	if r.held == nil || r.held.id != id {
		r.adopt(id)
	}
	r.become(busy)
	switch res := r.held; {
	case !res.back.IsZero():
		return &wire.FleetAnswer{Leave: true, Why: "The runner was given back."}
	case r.recalled != "":
		return &wire.FleetAnswer{Leave: true, Why: strings.ToUpper(r.recalled[:1]) + r.recalled[1:] + "."}
	case f.reservations[id] == nil:
		f.reservations[id] = res
	}
	return &wire.FleetAnswer{}
}

// adopt takes a runner's word for whom it serves. This server may have been started after it was lent.
func (r *runner) adopt(id string) {
	f := r.fleet
	if old := r.held; old != nil && old.runner == r { // it never got there, and now it cannot
		old.end(nil, &machine.Exit{Code: 1, Message: "The runner serves somebody else."})
	}
	_, gone := f.over[id]
	res := f.reservations[id]
	if res == nil {
		var ok bool
		if res, ok = parseReservation(id); !ok {
			res, gone = &reservation{id: id, changed: make(chan struct{})}, true
		}
	}
	other := res.runner
	switch {
	case gone || res.over || other != nil && other != r && other.state == busy:
		// Somebody has given it back, or has another: this one is nobody's.
		r.held = &reservation{id: id, holder: res.holder, back: time.Now(), changed: make(chan struct{})}
		return
	case other != nil && other != r: // the other one will find that the invitation was used
		other.held = &reservation{id: id, holder: res.holder, back: time.Now(), changed: make(chan struct{})}
	}
	f.unline(res)
	r.held, res.runner, res.kind, res.ends = res, r, r.kind, r.ends
	if res.given.IsZero() {
		res.given = time.Now()
	}
	f.reservations[id] = res
	res.change()
}

// free is the call of a runner that serves nobody.
func (r *runner) free(c *wire.FleetCall) (*wire.FleetAnswer, *openCall, error) {
	f := r.fleet
	used := c.After != ""
	news := used && c.After != r.after // it says so again until it has another one
	r.after = c.After
	switch res := r.held; {
	case res == nil:
		if other := f.reservations[c.After]; used && other != nil && other.runner == nil && !other.over {
			f.unline(other) // it was lent by an earlier server, and is over
			other.end(nil, comeBack(c))
		}
	case res.id == c.After:
		r.release(res, c)
	case r.state == lent && res.back.IsZero(): // the answer was lost
		return &wire.FleetAnswer{Reservation: res.id, Invitation: res.invitation}, nil, nil
	default:
		r.release(res, c)
	}
	switch {
	case news && c.Broken != "":
		r.broken++
	case news:
		r.broken = 0
	}
	if end := r.useless(used, time.Now()); end != "" {
		f.discard(r, end, false)
		f.settle()
		return &wire.FleetAnswer{End: true, Why: "This runner is to end: " + end + "."}, nil, nil
	}
	r.recalled = ""
	r.become(idle)
	wait := &openCall{done: make(chan struct{})}
	r.open = wait
	f.settle()
	if wait.answer != nil {
		return wait.answer, nil, nil
	}
	return nil, wait, nil
}

// useless says why a runner that is free is not lent again, or "".
func (r *runner) useless(used bool, now time.Time) string {
	switch {
	case used && r.kind.single:
		return "it is lent only once"
	case r.broken >= patience:
		return "it could not follow its last invitations"
	case r.old(now):
		return "its machine ends before long"
	}
	return ""
}

// release ends the reservation that the runner had.
func (r *runner) release(res *reservation, c *wire.FleetCall) {
	r.held = nil
	if res.runner != r || !res.back.IsZero() {
		return
	}
	if c.Broken == "" && res.id == c.After { // it is gone, as a machine is
		res.runner = nil
		r.fleet.giveBack(res)
		return
	}
	res.end(nil, comeBack(c))
}

// comeBack says to a parent why its runner has left it.
func comeBack(c *wire.FleetCall) *machine.Exit {
	if c.Broken == "" {
		return &machine.Exit{Code: 1, Message: "The runner is free again."}
	}
	return &machine.Exit{Code: 1, Message: "The runner could not follow the invitation: " + shorten(c.Broken)}
}

// shorten cuts what somebody else says to what is shown of it.
func shorten(text string) string {
	if len(text) > maxBroken {
		text = text[:maxBroken]
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, ""))
}

// unline takes a reservation out of the line.
func (f *fleet) unline(res *reservation) {
	kept := f.line[:0:0]
	for _, other := range f.line {
		if other != res {
			kept = append(kept, other)
		}
	}
	f.line = kept
}
