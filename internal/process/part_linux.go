package process

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// maxPart is the largest number of a part, which has to fit into the tag.
const maxPart = partNumbers - 1

// Part returns a part of the group: a tree within its tree, with its own processes, its own end, and a share of the size, one
// of so many that are equal. What is done to the group is done to all its parts, also by another process, which knows of the
// group alone. The parts are held to the group's size together. Of memory, processes and disk each has its share and no more;
// processors that the others leave idle it may use as well.
//
// Once a group has parts nothing may be started in the group itself: a cgroup of version 2 whose children have limits holds
// no processes. The numbers are those of the caller, from 0 to 254, each for one part at a time.
//
// fault.Conflict: the group is closed or killed. fault.Unavailable: the kernel refuses.
func (g *Group) Part(number, shares int) (*Group, error) {
	if number < 0 || number >= maxPart || shares < 1 || g.whole != nil {
		return nil, fmt.Errorf("process: group %s: %w: no group can have part %d of %d", g.name, fault.Invalid, number, shares)
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed || g.killed.Load() {
		return nil, fmt.Errorf("process: group %s: %w: the group is closed or killed", g.name, fault.Conflict)
	}
	part := &Group{
		host: g.host, name: g.name + "/" + strconv.Itoa(number), fd: -1, events: -1, whole: g, number: number,
		size: machine.Size{MemoryMB: share(g.size.MemoryMB, shares), Processes: share(g.size.Processes, shares), DiskMB: share(g.size.DiskMB, shares)},
	}
	part.kills.Store(g.host.killedSoFar())
	if err := part.make(); err != nil {
		part.closeFiles()
		for _, dir := range part.dirs {
			_ = dir.remove() // or it goes with the group's
		}
		return nil, part.story(err)
	}
	g.started.Lock()
	defer g.started.Unlock()
	g.parts = append(g.parts, part)
	return part, nil
}

// share returns what one of several has of a limit, where 0 is none.
func share(limit, shares int) int {
	if limit == 0 {
		return 0
	}
	return max(1, limit/shares)
}

// makePart makes the directories of a part, one in each of the group's, and sets its limits. Those of the group it does not
// make: whoever has removed them has ended the group, and no part of it must come to life again.
func (g *Group) makePart() error {
	if g.dirs == nil {
		for _, dir := range g.whole.dirs {
			g.dirs = append(g.dirs, cgroup{path: filepath.Join(dir.path, strconv.Itoa(g.number)), version: dir.version})
		}
	}
	for _, dir := range g.dirs {
		if err := unix.Mkdir(dir.path, 0o700); err != nil && err != unix.EEXIST {
			return fmt.Errorf("mkdir %s: %w", dir.path, err)
		}
	}
	trees := &g.host.trees
	for _, t := range trees.all() {
		if !slices.Contains(g.dirs, t.group(g.name)) {
			continue
		}
		for _, l := range limits(t.version, g.size.MemoryMB, g.size.Processes, 0) {
			if trees.limits[l.controller] != t {
				continue
			}
			if err := setLimits(t.group(g.name), []limit{l}); err != nil {
				return err
			}
		}
		if t.version != 2 {
			continue
		}
		whole := t.group(g.whole.name).path
		if g.whole.size.CPUs > 0 {
			passOn(whole, []string{"cpu"}) // so that the parts share alike whatever they run
		}
		if g.whole.size.MemoryMB > 0 {
			_ = writeFile(whole+"/memory.oom.group", "0") // what runs out of memory in one part is no other's end
		}
	}
	return g.openToFork()
}

// divided reports whether the group has parts.
func (g *Group) divided() bool { return len(g.ownParts()) > 0 }

func (g *Group) ownParts() []*Group {
	g.started.Lock()
	defer g.started.Unlock()
	return slices.Clone(g.parts)
}

// lose forgets a part that is closed.
func (g *Group) lose(part *Group) {
	g.started.Lock()
	defer g.started.Unlock()
	g.parts = slices.DeleteFunc(g.parts, func(p *Group) bool { return p == part })
}
