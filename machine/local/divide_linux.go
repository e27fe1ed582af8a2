package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
)

// division is a machine that was divided, so that its guest can run several things in it at once. All of it is below the
// machine's slot and within its process group, so it ends and is removed with the machine, whoever does that.
type division struct {
	path          string // the directory of the parts, which are named by their numbers
	device, inode uint64 // of that directory, so that nothing else is taken for it
	extra         int    // how many machines the supervisor counts for it besides one
	// beside is the part in which further commands run: nothing can run in a group that has parts, and what is entered into a
	// machine must not end with one of its parts.
	beside *process.Group
}

// divide is [Cell.Divide].
func (c *cell) divide(guest *Cell, parts int) (_ []*Cell, err error) {
	c.suspending.Lock()
	defer c.suspending.Unlock()
	switch {
	case parts < 2 || parts > maxParts:
		return nil, fault.Say(fault.Invalid, "A machine cannot have %d parts; it can have 2 to %d.", parts, maxParts)
	case c.division != nil:
		return nil, fault.Say(fault.Conflict, "The machine has been divided already.")
	case c.suspended || c.stopping():
		return nil, fault.Say(fault.Conflict, "The machine is suspended, or about to end.")
	}
	d := &division{path: filepath.Join(c.slot.path, partsName), extra: parts - 1}
	if !c.s.reserve(d.extra) {
		return nil, fault.Say(fault.Exhausted, "Each part counts as a machine, and this supervisor may have %d at once.", c.s.MaxMachines)
	}
	var groups []*process.Group
	defer func() {
		if err == nil {
			c.division = d
			return
		}
		c.s.giveBackReserved(d.extra)
		for _, group := range groups {
			err = errors.Join(err, group.Close())
		}
	}()
	if err := os.Mkdir(d.path, 0o700); err != nil {
		return nil, c.story(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(d.path, &st); err != nil {
		return nil, c.story(&fs.PathError{Op: "lstat", Path: d.path, Err: err})
	}
	d.device, d.inode = st.Dev, st.Ino
	for number := range parts + 1 {
		shares := parts
		if number == 0 {
			shares = 1 // it is beside the others, and has all of what they leave
		}
		group, err := c.group.Part(number, shares)
		if err != nil {
			return nil, c.story(err)
		}
		groups = append(groups, group)
	}
	d.beside = groups[0]
	d.beside.Measure(c.slot.work, c.slot.tmp)
	cells := make([]*Cell, parts)
	for i := range cells {
		part := &part{cell: c, division: d, number: i + 1, group: groups[i+1]}
		if err := part.make(); err != nil {
			return nil, c.story(err)
		}
		part.group.Measure(part.dir("work"), part.dir("tmp"))
		cells[i] = &Cell{
			Spec: guest.Spec, WorkDir: part.dir("work"), ScratchDir: part.dir("scratch"), Group: part.group,
			Env: c.environment(part.dir("work"), part.dir("tmp")), Home: guest.Home, Renew: part.renew,
		}
	}
	return cells, nil
}

const (
	// partsName is the directory of a divided machine's parts, in its slot.
	partsName = "parts"
	// maxParts is how many parts a machine can have.
	maxParts = 128
)

// reserve counts what a divided machine takes of the supervisor's descriptors and processes, if there is as much left.
func (s *supervisor) reserve(extra int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.cells)+s.extra+extra > s.MaxMachines {
		return false
	}
	s.extra += extra
	return true
}

func (s *supervisor) giveBackReserved(extra int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.extra -= extra
}

// part is one part of a divided machine.
type part struct {
	*division
	cell   *cell
	number int
	group  *process.Group
}

func (p *part) dir(name string) string {
	return filepath.Join(p.path, strconv.Itoa(p.number), name)
}

func (p *part) make() error {
	for _, name := range []string{"", "work", "tmp", "scratch"} {
		if err := os.Mkdir(p.dir(name), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// renew is [Cell.Renew] of a part. What ran in the other parts goes on.
func (p *part) renew(context.Context) error {
	if err := p.cell.renewGroup(p.group); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(p.path, &st); err != nil || st.Dev != p.device || st.Ino != p.inode {
		return fault.Say(fault.Conflict, "The directory %s is not the one in which the machine was divided.", p.path)
	}
	// Away with all of it at once: a directory is made in less time than one is emptied and looked at.
	err := p.cell.s.layout.discard(filepath.Join(p.path, strconv.Itoa(p.number)))
	if err == nil {
		err = p.make()
	}
	if err != nil {
		return fault.Say(fault.Conflict, "What the last job has left in part %d of the machine cannot be removed: %v.", p.number, err)
	}
	return nil
}

// renewGroup makes the process group of the machine, or of a part of it, as it was, unless the machine is to end.
func (c *cell) renewGroup(group *process.Group) error {
	c.suspending.Lock()
	defer c.suspending.Unlock()
	if c.suspended {
		return fault.Say(fault.Conflict, "The machine is suspended.")
	}
	if err := group.Renew(); err != nil {
		return fault.Say(fault.Conflict, "Something of the last job still runs: %v.", err)
	}
	// Somebody may have destroyed the machine from elsewhere: the order is that of bring.
	if c.s.machines.condemned(c.spec.Name) || !c.slot.named() || c.stopping() {
		return fault.Say(fault.Conflict, "The machine is about to end.")
	}
	return nil
}

// besideGroup is where further commands run. The caller holds suspending.
func (c *cell) besideGroup() *process.Group {
	if c.division != nil {
		return c.division.beside
	}
	return c.group
}

// unite gives back what the supervisor counts for a divided machine that is gone.
func (c *cell) unite() {
	c.suspending.Lock()
	defer c.suspending.Unlock()
	if c.division != nil {
		c.s.giveBackReserved(c.division.extra)
		c.division.extra = 0
	}
}
