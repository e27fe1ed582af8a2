package agent

import (
	"context"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/dayfly-run/dayfly/fault"
)

// Room is what is of one slot alone of a machine's [Ground]: three directories in the agent's own.
type Room struct {
	Work, Scratch, Temp string

	ground *Ground
	within *directory // the agent's own
	name   string     // in that
}

// Room makes the room of a slot, in the agent's own directory, which must have been empty when the agent began.
func (g *Ground) Room(scratch string, slot int) (*Room, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	within := g.at(resolved(scratch))
	if within == nil {
		return nil, fault.Say(fault.Conflict, "The directory %s was not empty when the agent began, so there can be no others in it.", scratch)
	}
	r := &Room{ground: g, within: within, name: "slot-" + strconv.Itoa(slot)}
	path := filepath.Join(within.path, r.name)
	r.Work, r.Scratch, r.Temp = filepath.Join(path, "work"), filepath.Join(path, "scratch"), filepath.Join(path, "tmp")
	if err := r.remake(); err != nil {
		return nil, err
	}
	if !slices.Contains(within.keep, r.name) {
		within.keep = append(within.keep, r.name)
	}
	return r, nil
}

// Begin is [Ground.Begin], and makes the room anew: while nobody had it, attempts in others may have left something in it, or
// have removed it.
func (r *Room) Begin() error {
	r.ground.Begin()
	return r.remake()
}

// Restore makes the room anew, and is [Ground.Restore] otherwise.
func (r *Room) Restore(ctx context.Context) error { return r.ground.restore(ctx, r.remake) }

// remake removes the room with all that is in it, and makes it as it was.
func (r *Room) remake() error {
	root, list, _, err := r.within.open()
	if err != nil {
		return err
	}
	defer root.Close()
	defer list.Close()
	err = root.RemoveAll(r.name)
	for _, dir := range []string{"", "work", "scratch", "tmp"} {
		if err == nil {
			err = root.Mkdir(filepath.Join(r.name, dir), 0o700)
		}
	}
	if err != nil {
		return fault.Say(fault.Conflict, "What a job has left in %s cannot be removed: %v.", filepath.Join(r.within.path, r.name), err)
	}
	return nil
}
