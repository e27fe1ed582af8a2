package fly

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// The metadata of a machine of ours. A label that is empty has a key of its own, because Fly takes an empty value for
// none at all.
const (
	metaOwner    = "dayfly_owner"
	metaName     = "dayfly_name"
	metaLifetime = "dayfly_lifetime" // as time.Duration writes it
	metaLabel    = "dayfly_label_"
	metaEmpty    = "dayfly_empty_label_"
)

// exitExpired is the status with which the agent ends at the end of its lifetime, see internal/agent/agentmain.
const exitExpired = 124

// flyMachine is what is read of Fly's machine object.
type flyMachine struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	State      string     `json:"state"`
	Region     string     `json:"region"`
	InstanceID string     `json:"instance_id"`
	CreatedAt  string     `json:"created_at"`
	Config     *flyConfig `json:"config"`
	// Incomplete stands in for Config while the machine's host does not answer.
	Incomplete *flyConfig  `json:"incomplete_config"`
	HostStatus string      `json:"host_status"`
	Image      flyImage    `json:"image_ref"`
	Events     []*flyEvent `json:"events"` // newest first
}

// flyConfig is what is read of a machine's config; what is written is in config.
type flyConfig struct {
	Image    string            `json:"image"`
	Metadata map[string]string `json:"metadata"`
}

type flyImage struct {
	Registry   string `json:"registry"`
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	Digest     string `json:"digest"`
}

type flyEvent struct {
	Type      string      `json:"type"`
	Status    string      `json:"status"`
	Timestamp int64       `json:"timestamp"` // milliseconds
	Request   *flyRequest `json:"request"`   // null for many types
}

// flyRequest holds the exit in one of two places; the second is the older one.
type flyRequest struct {
	Exit    *flyExit `json:"exit_event"`
	Monitor *struct {
		Exit *flyExit `json:"exit_event"`
	} `json:"MonitorEvent"`
	Error json.RawMessage `json:"error"` // why a launch or a start has failed, where that is told
}

// flyExit is how a machine ended. A code that is missing is 0, and a signal that is missing or -1 is none.
type flyExit struct {
	Code          int             `json:"exit_code"`
	GuestCode     int             `json:"guest_exit_code"`
	Signal        int             `json:"signal"`
	GuestSignal   int             `json:"guest_signal"`
	OOMKilled     bool            `json:"oom_killed"`
	RequestedStop bool            `json:"requested_stop"`
	Error         json.RawMessage `json:"error"`
	ExitedAt      json.RawMessage `json:"exited_at"` // milliseconds or RFC 3339
}

// metadata returns the machine's metadata, and whether Fly said any: a host that does not answer may hide it.
func (m *flyMachine) metadata() (map[string]string, bool) {
	for _, c := range []*flyConfig{m.Config, m.Incomplete} {
		if c != nil && c.Metadata != nil {
			return c.Metadata, true
		}
	}
	return nil, m.Config != nil
}

// valid reports whether this is a machine object at all: JSON of another type decodes into an empty one.
func (m *flyMachine) valid() bool { return m.ID != "" && m.State != "" }

// gone reports whether nothing is left of the machine. Fly goes on showing what was destroyed for a while.
func (m *flyMachine) gone() bool { return m.State == "destroyed" }

// view returns the machine as package machine has it. The metadata is that of a machine of ours.
func (m *flyMachine) view(meta map[string]string) *machine.Machine {
	out := &machine.Machine{
		ID: m.ID, Name: meta[metaName], Owner: meta[metaOwner], Labels: labelsOf(meta),
		State: m.state(), Created: m.created(), Image: m.image(), Location: plain(m.Region, 64),
	}
	lifetime, err := time.ParseDuration(meta[metaLifetime])
	if err == nil && !out.Created.IsZero() {
		out.Expires = out.Created.Add(lifetime)
	}
	if out.State == machine.Exited {
		out.Exit = m.exit(lifetime)
	}
	return out
}

func labelsOf(meta map[string]string) map[string]string {
	labels := make(map[string]string)
	for key, value := range meta {
		if label, ok := strings.CutPrefix(key, metaLabel); ok {
			labels[label] = value
		} else if label, ok := strings.CutPrefix(key, metaEmpty); ok {
			labels[label] = ""
		}
	}
	return labels
}

// state returns the machine's state. Fly's states that a machine of ours can only reach by somebody else's doing, such
// as suspended or updating, count as what it was before.
func (m *flyMachine) state() machine.State {
	switch m.State {
	case "stopped", "failed", "launch_failed", "destroying", "replaced", "migrated":
		return machine.Exited
	case "destroyed":
		return machine.Gone
	case "started", "stopping", "suspended", "suspending", "restarting", "updating", "replacing":
		return machine.Running
	case "starting":
		// A suspended machine that goes on is starting again, and a state never goes back.
		if m.has("started") {
			return machine.Running
		}
		return machine.Creating
	case "created", "creating":
		return machine.Creating
	default: // a state that Fly has thought of since
		if m.has("started") {
			return machine.Running
		}
		return machine.Creating
	}
}

func (m *flyMachine) has(status string) bool {
	return slices.ContainsFunc(m.Events, func(e *flyEvent) bool { return e != nil && e.Status == status })
}

// created returns when the machine was made by Fly's clock: to show, not to decide from.
func (m *flyMachine) created() time.Time {
	if at, err := time.Parse(time.RFC3339Nano, m.CreatedAt); err == nil && !at.IsZero() {
		return at.UTC()
	}
	for _, e := range slices.Backward(m.Events) {
		if e != nil && e.Timestamp > 0 {
			return time.UnixMilli(e.Timestamp).UTC()
		}
	}
	return time.Time{}
}

func (m *flyMachine) image() string {
	if m.Image.Repository == "" {
		if m.Config != nil {
			return plain(m.Config.Image, 1024)
		}
		return ""
	}
	name := m.Image.Repository
	if m.Image.Registry != "" {
		name = m.Image.Registry + "/" + name
	}
	if m.Image.Tag != "" {
		name += ":" + m.Image.Tag
	}
	if m.Image.Digest != "" {
		name += "@" + m.Image.Digest
	}
	return plain(name, 1024)
}

// exit returns how the machine ended, or nil when nobody knows.
func (m *flyMachine) exit(lifetime time.Duration) *machine.Exit {
	event, said := m.exitEvent()
	if event == nil {
		switch m.State {
		case "failed", "launch_failed":
			if why := m.failure(); why != "" {
				return &machine.Exit{Code: -1, Message: "Fly could not start the machine: " + why}
			}
			return &machine.Exit{Code: -1, Message: "Fly could not start the machine; its events say why: fly machine status " + m.ID}
		case "replaced", "migrated":
			return &machine.Exit{Code: -1, Message: "somebody else has put another version of the machine in its place"}
		}
		return nil
	}
	exit := &machine.Exit{Code: event.Code, OOMKilled: event.OOMKilled}
	if exit.Code == 0 {
		exit.Code = event.GuestCode
	}
	for _, number := range []int{event.Signal, event.GuestSignal} {
		if number > 0 && exit.Signal == "" {
			exit.Code, exit.Signal = -1, signalName(number)
		}
	}
	if exit.Code < -1 || exit.Code > 255 {
		exit.Code = -1
	}
	var text string
	if json.Unmarshal(event.Error, &text) == nil && text != "" {
		exit.Message = plain(text, 400)
		if exit.Code == 0 {
			exit.Code = -1
		}
	}
	exit.Expired = m.expired(exit, lifetime, event, said)
	return exit
}

// failure returns what the newest event that tells of one says of it, or "".
func (m *flyMachine) failure() string {
	for _, e := range m.Events {
		var text string
		if e != nil && e.Request != nil && json.Unmarshal(e.Request.Error, &text) == nil && text != "" {
			return plain(text, 400)
		}
	}
	return ""
}

// exitEvent returns the newest exit and its event.
func (m *flyMachine) exitEvent() (*flyExit, *flyEvent) {
	for _, e := range m.Events {
		if e == nil || e.Request == nil {
			continue
		}
		if e.Request.Exit != nil {
			return e.Request.Exit, e
		}
		if e.Request.Monitor != nil && e.Request.Monitor.Exit != nil {
			return e.Request.Monitor.Exit, e
		}
	}
	return nil, nil
}

// expired reports whether the machine was ended at the end of its lifetime: the agent exits with the status of its own
// then, and it was not early for that. When Fly does not say when it was, the status alone has to do.
func (m *flyMachine) expired(exit *machine.Exit, lifetime time.Duration, event *flyExit, e *flyEvent) bool {
	if exit.Code != exitExpired || lifetime <= 0 {
		return false
	}
	ended, created := event.at(e), m.created()
	// The same clock has measured both, but whole seconds may be all that it keeps.
	return ended.IsZero() || created.IsZero() || ended.Sub(created) >= lifetime*9/10-time.Second
}

// at returns when the exit happened, or the zero time.
func (x *flyExit) at(e *flyEvent) time.Time {
	var millis float64
	if json.Unmarshal(x.ExitedAt, &millis) == nil && millis > 0 {
		return time.UnixMilli(int64(millis))
	}
	var text string
	if json.Unmarshal(x.ExitedAt, &text) == nil {
		if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
			return at
		}
	}
	if e.Timestamp > 0 {
		return time.UnixMilli(e.Timestamp)
	}
	return time.Time{}
}

// signalNames are the signals of Linux in the order of their numbers, from 1: a machine runs Linux wherever this program
// does.
const signalNames = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG " +
	"XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"

// signalName returns the name of a signal by its number.
func signalName(number int) string {
	if names := strings.Fields(signalNames); number <= len(names) {
		return "SIG" + names[number-1]
	}
	return "signal " + strconv.Itoa(number)
}

// parse reads a machine object.
func (c *client) parse(o *call, a *answer) (*flyMachine, error) {
	m := &flyMachine{}
	if err := c.decode(o, a, m); err != nil {
		return nil, err
	}
	if !m.valid() {
		return nil, fault.Say(fault.Unavailable, "the Machines API at %s answered %s with %d and something that is no machine%s",
			c.host(), o.action, a.status, inRequest(a.id))
	}
	return m, nil
}
