// Package failpoint lets tests fail a program at a named place.
//
// Every write to a store, an attempt's log or a blob and every call to a provider passes a point before and one after
// its effect. In a release build [Hit] compiles to nothing. A build with -tags failpoint reads the environment variable
// DAYFLY_FAILPOINTS:
//
//	DAYFLY_FAILPOINTS='store.claim.after=1*kill;provider.create.after=2*off->1*error'
//
// A point's program is a chain of steps "COUNT*ACTION", each taken COUNT times (without COUNT: for ever), then the
// next. The actions are off, error (Hit returns an error), panic, kill (SIGKILL to this process, at once) and
// delay(MILLISECONDS). An error at an "after" point is the classic ambiguous failure: the effect has happened and
// the caller is told that it failed.
//
// When the last step has been taken as often as it says, the point is off. A program that cannot be understood
// panics at the first Hit, because a test that injects nothing by mistake would pass by mistake.
//
// # The points
//
// Each name is followed by .before or .after:
//
//	store.OP          the commit of a write; OP is one of those that the store lists, such as submit or claim
//	store.migrate     the change of the store's schema
//	flyapi.OP         the commit of a change of a machine of Fly's API
//	flyapi.provider.CALL  a call that is made for one
//	provider.create   the call that makes a machine
//	provider.destroy  the call that destroys one
//	hire.write        the write of what is hired, or kept for a fleet
//	hire.remove       the removal of that
//	hire.create       the call that makes such a machine
//	hire.destroy      the call that destroys one
//	program.put       the rename that makes an uploaded program one that can be run
//	program.delete    the removal of one
//	log.append        the write of records to an attempt's log
//	log.cut           the removal of a torn end from a log
//	log.close         the close of a log's file; its error is nobody's
//	log.remove        the removal of a log
//	blob.put          the rename that makes a whole object visible
//	blob.delete       the removal of an object
package failpoint

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Variable is the environment variable that holds the programs.
const Variable = "DAYFLY_FAILPOINTS"

// Bounds of what a program may say, so that a slip of the finger is refused and not obeyed.
const (
	maxCount = 1_000_000_000
	maxDelay = time.Hour
	forever  = -1
)

// action is what a step does to the program that hits it.
type action string

const (
	off     action = "off"
	fail    action = "error"
	crash   action = "panic"
	kill    action = "kill"
	suspend action = "delay"
)

// step is one link of a point's chain.
type step struct {
	count  int // how often it is taken; forever: without end
	action action
	delay  time.Duration // of suspend
}

// point is a named place with the chain that is still ahead of it.
type point struct {
	mu    sync.Mutex
	steps []step
}

// next takes one step of the chain and returns it; off when the chain has ended.
func (p *point) next() step {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.steps) == 0 {
		return step{action: off}
	}
	taken := p.steps[0]
	if taken.count == forever {
		return taken
	}
	p.steps[0].count--
	if p.steps[0].count == 0 {
		p.steps = p.steps[1:]
	}
	return taken
}

// parse reads the value of [Variable]: points separated by semicolons.
func parse(text string) (map[string]*point, error) {
	points := map[string]*point{}
	for part := range strings.SplitSeq(text, ";") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		name, program, found := strings.Cut(part, "=")
		if !found || !validName(name) {
			return nil, fmt.Errorf("failpoint: %q is not NAME=PROGRAM with a name of a-z, 0-9, '.', '_' and '-'", part)
		}
		if points[name] != nil {
			return nil, fmt.Errorf("failpoint: %s has two programs", name)
		}
		steps, err := parseChain(program)
		if err != nil {
			return nil, fmt.Errorf("failpoint: %s: %w", name, err)
		}
		points[name] = &point{steps: steps}
	}
	return points, nil
}

// parseChain reads steps separated by "->". Nothing can follow a step that is taken for ever.
func parseChain(program string) ([]step, error) {
	var steps []step
	for text := range strings.SplitSeq(program, "->") {
		if len(steps) > 0 && steps[len(steps)-1].count == forever {
			return nil, fmt.Errorf("%q can never be reached, because the step before it has no count", text)
		}
		s, err := parseStep(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// parseStep reads "COUNT*ACTION" or "ACTION".
func parseStep(text string) (step, error) {
	s := step{count: forever}
	if count, rest, found := strings.Cut(text, "*"); found {
		n, err := strconv.Atoi(count)
		if err != nil || n < 1 || n > maxCount {
			return step{}, fmt.Errorf("the count of %q must be a number from 1 to %d", text, maxCount)
		}
		s.count, text = n, rest
	}
	if milliseconds, found := strings.CutPrefix(text, "delay("); found {
		milliseconds, closed := strings.CutSuffix(milliseconds, ")")
		n, err := strconv.ParseUint(milliseconds, 10, 32)
		s.action, s.delay = suspend, time.Duration(n)*time.Millisecond
		if !closed || err != nil || s.delay > maxDelay {
			return step{}, fmt.Errorf("%q must be delay(N) with N milliseconds, at most an hour", text)
		}
		return s, nil
	}
	switch s.action = action(text); s.action {
	case off, fail, crash, kill:
		return s, nil
	}
	return step{}, fmt.Errorf("%q is none of off, error, panic, kill and delay(MILLISECONDS)", text)
}

func validName(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return name != ""
}
