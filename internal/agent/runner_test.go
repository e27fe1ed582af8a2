package agent_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/agent/memhome"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// poolOf is a link whose server has a machine of a pool: it gives the machine one job after the other, and after the last
// does not want it any more.
type poolOf struct {
	agent.Link
	home *memhome.Home

	mu    sync.Mutex // guards what follows
	jobs  []wire.Assignment
	given []string // attempts
	calls []wire.ClaimRequest
}

func (p *poolOf) Claim(ctx context.Context, to agent.Address, c *wire.ClaimRequest) (*wire.Assignment, error) {
	if !strings.HasPrefix(c.Attempt, wire.RunnerPrefix) {
		return p.Link.Claim(ctx, to, c)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, *c)
	switch {
	case len(p.calls)%2 == 1:
		return &wire.Assignment{Wait: true, OrphanAfterMS: 60_000}, nil
	case c.Spoiled != "" || len(p.jobs) == 0:
		return nil, &agent.Refusal{Status: 409, Kind: fault.StaleAttempt, Detail: "not wanted"}
	}
	boot := p.home.Add(p.jobs[0])
	p.jobs, p.given = p.jobs[1:], append(p.given, boot.Attempt)
	own := *c
	own.Attempt, own.WaitMS, own.Done = boot.Attempt, 0, ""
	return p.Link.Claim(ctx, agent.Address{URL: to.URL, Attempt: boot.Attempt, Token: boot.Token}, &own)
}

// inPool runs an agent on a machine of a pool until it is not wanted any more.
func inPool(t *testing.T, renew func(place *agent.Place) func(context.Context) error, jobs ...wire.Assignment) (*poolOf, machine.Exit) {
	t.Helper()
	home := memhome.New(t)
	link := agent.NewShared("test")
	t.Cleanup(link.Close)
	p := &poolOf{Link: link, home: home, jobs: jobs}
	place := newPlace(t, machine.Agent{URL: home.URL(), Attempt: wire.RunnerPrefix + "1", Token: "bootstrap"})
	if renew != nil {
		place.Renew = renew(place)
	}
	return p, agent.Run(t.Context(), p, place, nil)
}

// emptied makes a place as it was.
func emptied(place *agent.Place) func(context.Context) error {
	return func(context.Context) error {
		return errors.Join(place.Group.Renew(), remake(place.WorkDir), remake(place.ScratchDir))
	}
}

// remake removes a directory and makes it anew.
func remake(dir string) error { return errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)) }

func TestAnAgentOfAPoolCarriesOutOneJobAfterTheOther(t *testing.T) {
	t.Parallel()
	first := script(`mkdir -p deep/er && touch file .hidden deep/er/one; echo '{"a": 1}' >$DAYFLY_RESULT; sleep 1000 >/dev/null 2>&1 & echo one`)
	first.Env, first.Payload = map[string]string{"MINE": "yes"}, []byte(`{"of": "one"}`)
	second := script(`ls -A . "$(dirname $DAYFLY_RESULT)"; echo "[$MINE$DAYFLY_INPUT]"; exit 3`)
	third := script(`echo three`)
	p, exit := inPool(t, emptied, first, second, third)
	if exit.Code != agent.ExitNotOurs {
		t.Errorf("the agent of a machine that is not wanted any more: got %+v, want code %d", exit, agent.ExitNotOurs)
	}
	if len(p.given) != 3 {
		t.Fatalf("jobs carried out: got %v, want 3", p.given)
	}
	var printed []string
	for _, id := range p.given {
		a := p.home.Attempt(id)
		if a.Result == nil {
			t.Fatalf("attempt %s: got no result, want one", id)
		}
		printed = append(printed, string(a.Streams[wire.Stdout].Data))
	}
	if !strings.HasSuffix(printed[0], "one\n") || printed[2] != "three\n" {
		t.Errorf("the output of the first and third job: got %q and %q", printed[0], printed[2])
	}
	for _, left := range []string{"file", "hidden", "deep", "result", "input", "yes"} {
		if strings.Contains(printed[1], left) {
			t.Errorf("the second job finds %q of the first: %q", left, printed[1])
		}
	}
	if got := p.home.Attempt(p.given[1]).Result; got.Outcome != wire.Failed || got.Exit.Code != 3 {
		t.Errorf("the result of the second job: got %+v, want a failure with 3", got)
	}
	var done []string
	for _, c := range p.calls {
		if c.Nonce != p.calls[0].Nonce || c.WaitMS <= 0 || c.Spoiled != "" {
			t.Errorf("a call that waits for a job: got %+v, want the same nonce each time, a wait and no complaint", c)
		}
		done = append(done, c.Done)
	}
	if done = slices.Compact(done); !slices.Equal(done, append([]string{""}, p.given...)) {
		t.Errorf("what the calls say is done: got %v, want nothing and then each of %v", done, p.given)
	}
}

func TestAnAgentOfAPoolSaysThatItsMachineCannotBeUsedAgain(t *testing.T) {
	t.Parallel()
	for name, renew := range map[string]func(*agent.Place) func(context.Context) error{
		"a machine that cannot be made ready": nil,
		"a machine with something left": func(*agent.Place) func(context.Context) error {
			return func(context.Context) error { return fault.Say(fault.Conflict, "Something is left.") }
		},
	} {
		p, _ := inPool(t, renew, script("true"), script("true"))
		last := p.calls[len(p.calls)-1]
		if len(p.given) != 1 || last.Spoiled == "" || last.Done != p.given[0] {
			t.Errorf("%s: got %d jobs and the last call %+v, want one job and a call that says why there can be no other", name, len(p.given), last)
		}
	}
}
