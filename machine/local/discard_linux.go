package local

import (
	"context"
	"errors"
	"fmt"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// Discard removes a state directory that nobody needs any more, and whatever dead supervisors have left running there.
// fault.Conflict: a supervisor lives there, or is being started; nothing was done. fault.Unavailable: not all of it could
// be removed; it may be asked again.
func Discard(ctx context.Context, dir string) (err error) {
	p, err := New(Options{Dir: dir, Supervisor: []string{machine.ThisProgram}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	starting, err := lock(p.layout.starting())
	if err != nil {
		return unavailable(err)
	}
	busy := fmt.Errorf("local: %s: %w: it is in use", dir, fault.Conflict)
	if starting == nil {
		return busy
	}
	defer starting.Close()
	numbers, err := p.layout.numbers()
	if err != nil {
		return unavailable(err)
	}
	for _, number := range numbers {
		if alive, err := p.layout.alive(number); err != nil {
			return unavailable(err)
		} else if alive {
			return busy
		}
	}
	for _, number := range numbers {
		err = errors.Join(err, p.bury(ctx, number))
	}
	if err != nil {
		return err
	}
	if err := removeAll(dir); err != nil {
		return unavailable(err)
	}
	return nil
}
