package agentmain

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

// slots are the process trees of a machine that is the agent's alone: one, or one for each slot.
type slots struct {
	host   *process.Host
	name   string // of the first, with which those of the others begin
	groups []*process.Group
}

// inGroup gives the place a process tree of its own for as long as carryOut takes.
func inGroup(place *agent.Place, carryOut func(*slots) machine.Exit) (exit machine.Exit, err error) {
	host, err := process.NewHost(&process.Options{Logger: logger(), Alone: true})
	if err != nil {
		return exit, err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	// Several containers may share one view of the cgroups, and in each the agent may have the same process id.
	s := &slots{host: host, name: "run-" + strings.ToLower(rand.Text())}
	if place.Group, err = s.group(s.name, machine.Size{}); err != nil {
		return exit, err
	}
	exit = carryOut(s)
	for _, group := range s.groups {
		err = errors.Join(err, group.Close())
	}
	return exit, err
}

func (s *slots) group(name string, size machine.Size) (*process.Group, error) {
	group, err := s.host.Group(name, size)
	if err == nil {
		s.groups = append(s.groups, group)
	}
	return group, err
}

// renewable lets the place be used for one attempt after the other, and be divided, if the machine can be made as it is now.
func (s *slots) renewable(place *agent.Place) {
	ground, err := agent.NewGround(place.ScratchDir, place.WorkDir)
	if err != nil {
		logger().Warn("this machine can carry out one attempt only", "error", err)
		return
	}
	place.Begin = func() error { ground.Begin(); return nil }
	place.Renew = renewal(place.Group, ground.Restore)
	place.Divide = func(number int) ([]*agent.Place, error) {
		places := make([]*agent.Place, number)
		for i := range places {
			if places[i], err = s.slot(place, ground, i+1, s.host.Share(number)); err != nil {
				return nil, err
			}
		}
		return places, nil
	}
}

// slot returns the place of one slot of several, with directories and a process tree of its own. Its working directory is not
// that of the image.
func (s *slots) slot(whole *agent.Place, ground *agent.Ground, number int, size machine.Size) (*agent.Place, error) {
	room, err := ground.Room(whole.ScratchDir, number)
	if err != nil {
		return nil, err
	}
	place := *whole
	if place.Group, err = s.group(s.name+"-"+strconv.Itoa(number), size); err != nil {
		return nil, err
	}
	place.WorkDir, place.ScratchDir, place.Env = room.Work, room.Scratch, append(slices.Clone(whole.Env), "TMPDIR="+room.Temp)
	place.Begin, place.Renew, place.Divide = room.Begin, renewal(place.Group, room.Restore), nil
	return &place, nil
}

// renewal returns what makes a process tree as it was, and then the files.
func renewal(group *process.Group, restore func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := group.Renew(); err != nil {
			return fmt.Errorf("processes of the last job are left: %w", err)
		}
		return restore(ctx)
	}
}
