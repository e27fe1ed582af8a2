package local

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/machine"
)

// record is what is known of a machine beside its supervisor: its birth, and its end if it has come to that. It holds
// what List shows and what is needed to end the machine, and no secret: neither the command nor a token.
type record struct {
	birth
	ended *ending
}

// birth is the first line of a record.
type birth struct {
	Name       string            `json:"name"`
	Owner      string            `json:"owner"`
	Labels     map[string]string `json:"labels,omitempty"`
	Created    time.Time         `json:"created"`
	Lifetime   time.Duration     `json:"lifetime"`
	Clock      time.Duration     `json:"clock"` // when it was made, by clock()
	Boot       string            `json:"boot"`
	Supervisor int               `json:"supervisor"`
	Slot       int               `json:"slot"`
}

// ending is a later line of a record.
type ending struct {
	Of   time.Duration `json:"of"`             // the Clock of the birth, which tells it from what the file held before
	Exit *machine.Exit `json:"exit"`           // nil: nobody knows
	Lost bool          `json:"lost,omitempty"` // its supervisor died before it
}

// group is the name of the machine's process tree, which is that of its slot.
func (b *birth) group() string { return groupName(b.Supervisor, b.Slot) }

func groupName(supervisor, slot int) string { return fmt.Sprintf("%d.%d", supervisor, slot) }

// expires is the end of the lifetime by clock().
func (b *birth) expires() time.Duration { return b.Clock + b.Lifetime }

// same reports whether both are the birth of the same machine, and not only of one of the same name.
func (b *birth) same(other *birth) bool {
	return b.Name == other.Name && b.Boot == other.Boot && b.Supervisor == other.Supervisor && b.Clock == other.Clock
}

// view returns the machine as its record shows it, given whether its supervisor lives.
func (r *record) view(host string, supervised bool) *machine.Machine {
	m := &machine.Machine{
		ID:       r.Name,
		Name:     r.Name,
		Owner:    r.Owner,
		Labels:   r.Labels,
		State:    machine.Running,
		Created:  r.Created,
		Expires:  r.Created.Add(r.Lifetime),
		Location: fmt.Sprintf("host %s, supervisor %d", host, r.Supervisor),
	}
	if r.ended != nil {
		m.State, m.Exit = machine.Exited, r.ended.Exit
	}
	if r.ended == nil && !supervised || r.ended != nil && r.ended.Lost {
		m.State = machine.Exited
		m.Location += ", which died before the machine ended"
	}
	return m
}

// parseRecord reads what a file under the name holds. It returns fs.ErrNotExist if that is the record of another
// machine: the file was removed under this name, and used again, between opening and reading it.
func parseRecord(name string, text []byte) (*record, error) {
	r := &record{}
	if len(text) > maxRecord {
		return nil, fmt.Errorf("the record of machine %s is larger than any: %w", name, errSpoiled)
	}
	first, rest, complete := bytes.Cut(text, []byte("\n"))
	if err := json.Unmarshal(first, &r.birth); err != nil || !complete {
		return nil, fmt.Errorf("the record of machine %s does not begin with a birth: %w", name, errors.Join(err, errSpoiled))
	}
	if r.Name != name {
		return nil, fs.ErrNotExist
	}
	for text := range bytes.Lines(rest) {
		// What does not parse is the rest of a line that did not fit on the disk; it was written again later. Of
		// two ends the one that knows the exit is right.
		var e ending
		if json.Unmarshal(text, &e) == nil && e.Of == r.Clock && (r.ended == nil || r.ended.Exit == nil) {
			r.ended = &e
		}
	}
	return r, nil
}

// errSpoiled is returned for a record that makes no sense.
var errSpoiled = errors.New("somebody has damaged it, or the power failed before it was on the disk")

// append adds a line at the end of the file, wherever that is by now, in one write.
func (e *ending) append(fd int) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	// A newline before it ends what an earlier attempt may have left.
	text = fmt.Appendf(nil, "\n%s\n", text)
	n, err := unix.Pwritev2(fd, [][]byte{text}, 0, unix.RWF_APPEND)
	if err == nil && n < len(text) {
		err = unix.ENOSPC
	}
	return err
}
