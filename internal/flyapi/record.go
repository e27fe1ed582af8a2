package flyapi

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/machine"
)

// The states of a machine, as Fly names them.
const (
	created    = "created"
	starting   = "starting"
	started    = "started"
	stopping   = "stopping"
	stopped    = "stopped"
	restarting = "restarting"
	suspending = "suspending"
	suspended  = "suspended"
	replacing  = "replacing" // an update ends the instance before it starts the next
	destroying = "destroying"
	destroyed  = "destroyed"
	failed     = "failed"

	launchFailed = "launch_failed" // its first launch was refused; it is about to be destroyed

	replaced = "replaced" // of an instance that a newer version has taken the place of
)

// appRecord is an app as the ledger keeps it.
type appRecord struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Org     string    `json:"org"`
	Network string    `json:"network,omitempty"`
	Created time.Time `json:"created"`
	Key     string    `json:"key,omitempty"` // idempotency key of its creation
}

// record is a machine as the ledger keeps it. Once it is committed it is not changed: a change makes a copy.
//
// A Fly machine outlives what runs in it. Each start is a launch: one machine of the provider, under a name that the id
// and the number of the launch make, so that asking for it again after a lost answer makes no second one.
type record struct {
	ID       string            `json:"id"`
	App      string            `json:"app"` // its id
	Name     string            `json:"name"`
	Region   string            `json:"region"`
	State    string            `json:"state"`
	Instance string            `json:"instance"` // the version of its configuration
	Created  time.Time         `json:"created"`
	Updated  time.Time         `json:"updated"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Events   []event           `json:"events"` // oldest first
	Lease    *lease            `json:"lease,omitempty"`
	Cordoned bool              `json:"cordoned,omitempty"`
	Image    string            `json:"image,omitempty"` // what the provider made of config.image

	Launch    int       `json:"launch"`              // the newest; 0: none yet
	Provider  string    `json:"provider,omitempty"`  // the provider's id of it, once it is known
	NotBefore time.Time `json:"not_before,omitzero"` // the launch waits until then
	Resume    bool      `json:"resume,omitempty"`    // starting means going on where it was suspended
	Ended     bool      `json:"ended,omitempty"`     // the launch's exit is recorded; what is left of it is to be removed
	After     string    `json:"after,omitempty"`     // what follows the end of the launch
	Requested bool      `json:"requested,omitempty"` // somebody asked for that end
	Signal    string    `json:"signal,omitempty"`    // with which it is stopped
	Deadline  time.Time `json:"deadline,omitzero"`   // at which stopping becomes killing
	Restarts  []int64   `json:"restarts,omitempty"`  // when it was restarted lately, in Unix milliseconds
	Count     int       `json:"count,omitempty"`     // restarts in a row
	NextRun   time.Time `json:"next_run,omitzero"`   // of a schedule
	Destroyed time.Time `json:"destroyed,omitzero"`  // when it was
}

// What follows the end of a launch.
const (
	thenStop    = "stop"
	thenLaunch  = "launch"
	thenDestroy = "destroy"
)

// event is one thing that happened to a machine.
type event struct {
	ID        string    `json:"id"`
	Type      string    `json:"type"`
	Status    string    `json:"status"`
	Source    string    `json:"source"`
	Timestamp int64     `json:"timestamp"` // Unix milliseconds
	Request   *eventAsk `json:"request"`
}

// eventAsk is what an event was about. Fly sends null where there is nothing to say.
type eventAsk struct {
	ExitEvent    *exitEvent `json:"exit_event,omitempty"`
	RestartCount int        `json:"restart_count,omitempty"`
	Error        string     `json:"error,omitempty"`
}

// exitEvent says how a launch ended. exit_code is left out when it is 0, as Fly does.
type exitEvent struct {
	ExitCode      int       `json:"exit_code,omitempty"`
	ExitedAt      time.Time `json:"exited_at"`
	GuestExitCode int       `json:"guest_exit_code"`
	GuestSignal   int       `json:"guest_signal"`
	OOMKilled     bool      `json:"oom_killed"`
	RequestedStop bool      `json:"requested_stop"`
	Restarting    bool      `json:"restarting"`
	Signal        int       `json:"signal"`
	Error         string    `json:"error,omitempty"`
}

// lease is the right of one client to change a machine, until it ends.
type lease struct {
	Nonce       string `json:"nonce"`
	ExpiresAt   int64  `json:"expires_at"` // Unix seconds
	Owner       string `json:"owner"`
	Description string `json:"description"`
	Version     string `json:"version"`
}

// keepEvents is how many events of a machine are kept.
const keepEvents = 50

// The sources of events.
const (
	byUser = "user"
	byHost = "flyd"
)

// clone returns a copy that can be changed.
func (r *record) clone() *record {
	c := *r
	c.Metadata = maps.Clone(r.Metadata)
	c.Events = slices.Clone(r.Events)
	c.Restarts = slices.Clone(r.Restarts)
	if r.Lease != nil {
		l := *r.Lease
		c.Lease = &l
	}
	return &c
}

// machineName is the provider's name of the newest launch.
func (r *record) machineName() string { return machineName(r.ID, r.Launch) }

func machineName(id string, launch int) string { return "fly-" + id + "-" + strconv.Itoa(launch) }

// busy reports whether something of the machine exists at the provider, or is about to.
func (r *record) busy() bool {
	switch r.State {
	case created:
		return r.Launch > 0
	case stopped, destroyed, failed:
		return false
	}
	return true
}

// settled reports whether the machine stays as it is until somebody wants something, or its program ends.
func (r *record) settled() bool {
	switch r.State {
	case created:
		return r.Launch == 0
	case started, stopped, suspended, failed, destroyed:
		return true
	}
	return false
}

// leased returns the lease that holds now, or nil.
func (r *record) leased(now time.Time) *lease {
	if r.Lease == nil || now.Unix() >= r.Lease.ExpiresAt {
		return nil
	}
	return r.Lease
}

// forget drops what the record says of a launch that is over.
func (r *record) forget() {
	r.Provider, r.Resume, r.Ended, r.After, r.Requested, r.Signal = "", false, false, "", false, ""
	r.NotBefore, r.Deadline = time.Time{}, time.Time{}
}

// launch makes the record ask for the next launch.
func (r *record) launch(notBefore time.Time) {
	r.forget()
	r.Launch++
	r.NotBefore = notBefore
	r.State = starting
}

// exitOf returns the event of a launch's end. A launch that vanished has an exit that nobody knows.
func exitOf(exit *machine.Exit, requested bool, now time.Time) *exitEvent {
	e := &exitEvent{ExitedAt: now.UTC(), RequestedStop: requested}
	switch {
	case exit == nil && requested:
		e.ExitCode, e.GuestSignal = 137, 9 // it was ended before it could say how
	case exit == nil:
		e.ExitCode, e.GuestExitCode, e.Error = 255, 255, "the machine vanished from its host"
	default:
		e.OOMKilled, e.Error = exit.OOMKilled, exit.Message
		e.GuestSignal = signalNumber(exit.Signal)
		switch {
		case e.GuestSignal > 0:
			e.ExitCode = 128 + e.GuestSignal
		case exit.Code < 0:
			e.ExitCode, e.GuestExitCode = 255, 255 // it never ran
		default:
			e.ExitCode, e.GuestExitCode = exit.Code, exit.Code
		}
		if exit.Expired && e.Error == "" {
			e.Error = "the machine reached the end of its lifetime"
		}
	}
	return e
}
