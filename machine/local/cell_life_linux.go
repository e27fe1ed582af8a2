package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

// start starts what runs in the machine. A program that cannot be run is a machine that has ended, not an error.
func (c *cell) start() error {
	ctx, stop := context.WithCancelCause(context.Background())
	c.stop, c.life = stop, ctx
	if c.spec.Agent != nil {
		var exit machine.Exit
		done := make(chan struct{})
		guest := &Cell{
			Spec: c.spec, WorkDir: c.slot.work, ScratchDir: c.slot.scratch,
			Group: c.group, Home: c.s.currentHome, Env: c.environment(c.slot.work, c.slot.tmp), Renew: c.renew,
		}
		guest.Divide = func(parts int) ([]*Cell, error) { return c.divide(guest, parts) }
		c.s.work.Go(func() {
			defer close(done)
			exit = c.s.Guest(ctx, guest)
		})
		c.s.work.Go(func() { c.live(ctx, done, func() machine.Exit { return exit }) })
		return nil
	}
	argv := c.spec.Command
	if program := c.spec.Program; program != nil {
		argv = append([]string{program.File}, program.Args...)
	}
	prints, err := openOutputs()
	if err != nil {
		return c.story(err)
	}
	p, err := c.group.Start(&process.Command{
		Argv: argv, Env: c.environment(c.slot.work, c.slot.tmp), Dir: c.slot.work, Stdout: prints.writers[0], Stderr: prints.writers[1],
	})
	if err != nil {
		prints.abandon()
	}
	switch {
	case errors.Is(err, fault.NotFound), errors.Is(err, fault.TooLarge):
		c.stop(errOver)
		return c.finish(machine.Exit{Code: -1, Message: fmt.Sprintf("The command could not be started: %v.", err)})
	case err != nil:
		return err
	}
	prints.keep(c)
	c.first, c.prints = p, prints
	c.s.work.Go(func() {
		c.live(ctx, p.Done(), func() machine.Exit { exit, _ := p.Exit(); return exit })
	})
	return nil
}

// renew is [Cell.Renew].
func (c *cell) renew(context.Context) error {
	if err := c.renewGroup(c.group); err != nil {
		return err
	}
	return c.slot.clear()
}

// environment is the clean minimum, with these directories to work in and for temporary files, and the Spec's own, which
// wins.
func (c *cell) environment(work, tmp string) []string {
	minimum := []string{
		"PATH", c.s.path,
		"HOME", work,
		"TMPDIR", tmp,
		"LANG", "C.UTF-8",
		"DAYFLY_MACHINE", c.spec.Name,
	}
	if len(c.spec.Files) > 0 {
		minimum = append(minimum, "DAYFLY_FILES", c.slot.files)
	}
	env := make([]string, 0, len(minimum)/2+len(c.spec.Env))
	for i := 0; i < len(minimum); i += 2 {
		if _, ok := c.spec.Env[minimum[i]]; !ok {
			env = append(env, minimum[i]+"="+minimum[i+1])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.spec.Env)) {
		env = append(env, name+"="+c.spec.Env[name])
	}
	return env
}

// live waits until what runs in the machine is done, is told to stop or has reached the end of its lifetime, and ends
// what is left of the tree.
func (c *cell) live(ctx context.Context, done <-chan struct{}, exit func() machine.Exit) {
	defer c.stop(errOver)
	expired := c.await(ctx, done)
	told := context.Cause(ctx) // nil if it has ended by itself
	if expired {
		c.s.log.Info("machine has expired", "machine", c.spec.Name, "lifetime", c.spec.Lifetime)
		c.terminate(ctx, done)
		c.stop(errExpired)
	}
	c.endTree(done)
	if c.prints != nil {
		c.prints.drain()
	}
	e := exit()
	if expired {
		e.Expired = true
		e.Message = fmt.Sprintf("It was stopped at the end of its lifetime of %v.", c.spec.Lifetime)
	} else if told != nil && e.Message == "" {
		e.Message = fmt.Sprintf("It was stopped: %v.", told)
	}
	if err := c.finish(e); err != nil {
		c.s.log.Error("a machine's end is not on record", "machine", c.spec.Name, "err", err)
	}
}

// stopping reports whether the machine was told to end, or is at its end.
func (c *cell) stopping() bool { return c.life.Err() != nil }

// await reports whether the lifetime has passed. Go's timers stand still while the computer is suspended, so the
// clock that does not is looked at from time to time.
func (c *cell) await(ctx context.Context, done <-chan struct{}) (expired bool) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		left := c.birth.expires() - clock()
		if left <= 0 {
			return !closed(done)
		}
		timer.Reset(min(left, 30*time.Second))
		select {
		case <-done:
			return false
		case <-ctx.Done():
			return false
		case <-timer.C:
		}
	}
}

// terminate asks the tree to end and gives it its grace.
func (c *cell) terminate(ctx context.Context, done <-chan struct{}) {
	if err := c.group.Resume(); err != nil { // one that is suspended could not end by itself
		c.s.log.Warn("a suspended machine cannot go on to its end", "machine", c.spec.Name, "err", err)
	}
	if err := c.group.Signal(syscall.SIGTERM); err != nil {
		c.s.log.Warn("SIGTERM did not reach every process", "machine", c.spec.Name, "err", err)
	}
	grace := time.NewTimer(c.s.Grace)
	defer grace.Stop()
	select {
	case <-done:
	case <-ctx.Done():
	case <-grace.C:
	}
}

// endTree returns when nothing of the machine is left: what ran in it is done, and no descendant lives. It does not
// give up, because a machine that is not certainly gone must not be said to be.
func (c *cell) endTree(done <-chan struct{}) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		over := closed(done)
		empty, err := c.group.Empty()
		if err == nil && empty && over {
			return
		}
		c.stop(errOver) // A guest must not start anything now.
		if err == nil && !empty {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			err = c.group.Kill(ctx)
			cancel()
		}
		if err != nil {
			c.s.log.Error("a machine cannot be ended", "machine", c.spec.Name, "err", err)
		}
		if closed(done) {
			continue
		}
		select {
		case <-done:
		case <-time.After(wait):
		}
	}
}

// maxMessage bounds what is told of an end, in bytes: it may quote what the caller has made as long as he likes, and must
// fit into a record and a frame with many others.
const maxMessage = 1 << 10

// finish puts the end on record and tells everybody. While the disk is full it tries again: until it is there, other
// processes take the machine for running.
func (c *cell) finish(exit machine.Exit) (err error) {
	exit.Message = shorten(exit.Message, maxMessage)
	c.exit = &exit
	end := &ending{Of: c.birth.Clock, Exit: &exit}
	for {
		if err = c.slot.end(end); err == nil || !c.slot.named() {
			err = nil
			break
		}
		c.s.log.Error("a machine's end cannot be recorded yet", "machine", c.spec.Name, "err", err)
		select {
		case <-c.unwanted:
		case <-time.After(time.Second):
			continue
		}
		break
	}
	close(c.ended)
	c.s.changed(change{Name: c.spec.Name, Ended: end}, nil)
	return err
}

// destroyTimeout is how long a destroy waits for a machine to end before it says that it has not. The provider, or its
// caller, asks again.
const destroyTimeout = 20 * time.Second

// destroy ends a machine and removes every trace of it. The cell is what the supervisor holds under the name, or nil.
// fault.NotFound: this supervisor has no such machine.
func (s *supervisor) destroy(name string, c *cell) error {
	if c != nil {
		<-c.made
	}
	if c == nil || c.err != nil {
		return fmt.Errorf("local: machine %s: %w: this supervisor does not have it", name, fault.NotFound)
	}
	c.refuse()
	c.stop(errDestroyed)
	timeout := time.NewTimer(destroyTimeout)
	defer timeout.Stop()
	select {
	case <-c.ended:
	case <-timeout.C:
		return c.story(errors.New("it does not end"))
	}
	s.mu.Lock()
	first := !c.removing
	c.removing = true
	s.mu.Unlock()
	if !first {
		<-c.removed
		return nil
	}
	c.removeName()
	s.mu.Lock()
	delete(s.cells, name)
	s.mu.Unlock()
	close(c.removed)
	return nil
}
