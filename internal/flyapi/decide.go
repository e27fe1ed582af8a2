package flyapi

import (
	"time"

	"github.com/dayfly-run/dayfly/machine"
)

// step is what is to be done next for a machine.
type step int

const (
	rest     step = iota // nothing
	wait                 // nothing until a moment, or until something is seen
	place                // ask the provider for the launch
	look                 // ask the provider what there is of the launch
	signal               // send the signal of stopping
	remove               // destroy the launch at the provider
	halt                 // suspend it
	resume               // let it go on
	running              // record that it runs
	exited               // record that it has ended
	over                 // record that nothing is left of it
	vanished             // record that a machine to be destroyed is gone
)

// decide returns what to do next for a machine, given what was last seen of its newest launch at the provider: nil when
// nothing has been, and a machine in state Gone when it certainly is not there. signaled says that the signal of stopping
// has been sent. With wait, until is when to ask again; zero is never.
//
// It has no side effects, and is all there is to know about how a machine lives.
func decide(r *record, seen *machine.Machine, signaled bool, now time.Time) (next step, until time.Time) {
	state := machine.State("")
	if seen != nil {
		state = seen.State
	}
	switch r.State {
	case created, starting:
		return decideStarting(r, state, now)
	case started, suspended:
		if state == machine.Exited || state == machine.Gone {
			return exited, time.Time{}
		}
	case suspending:
		switch state {
		case "":
			return look, time.Time{}
		case machine.Exited, machine.Gone:
			return exited, time.Time{}
		}
		return halt, time.Time{}
	case stopping, restarting, replacing:
		return decideStopping(r, state, signaled, now)
	case launchFailed:
		return vanished, time.Time{}
	case destroying:
		switch {
		case state == machine.Gone || r.Launch == 0:
			return vanished, time.Time{}
		case state == "":
			return look, time.Time{}
		}
		return remove, time.Time{}
	}
	return rest, time.Time{}
}

func decideStarting(r *record, state machine.State, now time.Time) (step, time.Time) {
	switch {
	case r.Launch == 0:
		return rest, time.Time{}
	case state == machine.Exited:
		return exited, time.Time{}
	case state == machine.Gone && r.Provider != "":
		return exited, time.Time{}
	case r.Resume && state == "":
		return look, time.Time{}
	case r.Resume:
		return resume, time.Time{}
	case state == machine.Running:
		return running, time.Time{}
	case state == machine.Creating:
		return wait, time.Time{}
	case now.Before(r.NotBefore):
		return wait, r.NotBefore
	}
	return place, time.Time{}
}

func decideStopping(r *record, state machine.State, signaled bool, now time.Time) (step, time.Time) {
	switch {
	case r.Ended && state == machine.Gone:
		return over, time.Time{}
	case state == "":
		return look, time.Time{}
	case r.Ended:
		return remove, time.Time{}
	case state == machine.Exited || state == machine.Gone:
		return exited, time.Time{}
	case state == machine.Creating || !now.Before(r.Deadline):
		return remove, time.Time{}
	case !signaled:
		return signal, time.Time{}
	}
	return wait, r.Deadline
}
