package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/hire"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

const (
	// makeTTL is for how long the same machine is asked for while nobody knows whether it exists.
	makeTTL = 2 * time.Minute
	// The pauses between two questions of the same kind to a provider, and those between two boots of which the first has failed.
	firstPause       = 100 * time.Millisecond
	longestPause     = 10 * time.Second
	firstBootPause   = time.Second
	longestBootPause = 30 * time.Second
)

// boot makes the machine of a runner, whose first call is then waited for.
func (s *Service) boot(r *runner, spec machine.Spec) {
	sure, err := s.make(r, spec)
	s.mu.Lock()
	defer s.mu.Unlock()
	r.making = false
	switch {
	case s.life.Err() != nil: // whether there is a machine the next server finds out
		return
	case errors.Is(err, hire.ErrNoRoom):
		r.fleet.forget(r) // somebody else was quicker; whoever waits waits on
	case err != nil && sure:
		s.Hire.Strike(r.fleet.provider, r.name)
		r.fleet.forget(r)
		r.kind.stumble()
		r.fleet.failed(r.kind, err)
	case err != nil && r.state == warming:
		r.kind.stumble()
		r.fleet.failed(r.kind, err)
		r.fleet.discard(r, "its machine may or may not have been made", false)
	case r.state == warming:
		r.since = time.Now()
	}
	r.fleet.settle()
}

// make writes down and asks for a machine. With an error it reports whether there certainly is none.
func (s *Service) make(r *runner, spec machine.Spec) (sure bool, err error) {
	ctx, cancel := context.WithTimeout(s.life, makeTTL)
	defer cancel()
	at := r.fleet.place
	url, err := s.URL(ctx, at.provider)
	if err != nil {
		return true, err
	}
	spec.Name = r.name
	home := wire.FleetHome{URL: url, Machine: r.name, Token: s.Token(r.name)}
	spec.Env = with(spec.Env, boot.ParentVariable, home.Encode())
	spec.Labels = with(spec.Labels, "fleet", at.name)
	stock := &hire.Stock{Provider: at.provider, Name: r.name, Tenant: at.tenant, Fleet: at.name, Kind: r.kind.id, Created: r.created, Ends: r.ends}
	if spec.Program != nil {
		stock.Program = spec.Program.File
	}
	err = s.Hire.Enter(stock)
	if err != nil {
		return true, err
	}
	s.mu.Lock()
	r.entered = true
	s.mu.Unlock()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		m, err := s.Hire.Make(ctx, at.provider, spec)
		if err == nil {
			s.see(m)
			return false, nil
		}
		if definite(err) {
			return pause == firstPause, err // an earlier question may still be carried out
		}
		s.Logger.Debug("nobody knows whether the machine of a runner was made; it is asked for again", "runner", r.name, "error", err)
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("the machine of a runner was not made within %v: %w", makeTTL, err)
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
		if !s.isWarming(r) {
			return false, err
		}
	}
}

func (s *Service) isWarming(r *runner) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.state == warming
}

func with(m map[string]string, key, value string) map[string]string {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	m[key] = value
	return m
}

// definite reports whether an error says that there is no machine, and will be none.
func definite(err error) bool {
	switch fault.Of(err).General() {
	case fault.Invalid, fault.Unsupported, fault.Denied, fault.Unauthenticated, fault.Exhausted, fault.Conflict:
		return true
	}
	return false
}

// hopeless reports whether an error does not get better by itself.
func hopeless(err error) bool {
	switch fault.Of(err).General() {
	case fault.Invalid, fault.Unsupported, fault.Denied, fault.Unauthenticated:
		return true
	}
	return false
}

// forget is called when nothing of a runner is left. mu is held.
func (f *fleet) forget(r *runner) {
	delete(f.runners, r.name)
	delete(f.service.runners, r.name)
}

// stumble notes that a boot has failed, so that the next one waits. The pause grows from one to the next.
func (t *trouble) stumble() {
	if time.Now().Before(t.until) {
		return // those of one burst count once
	}
	t.row++
	pause := longestBootPause
	if t.row <= 5 {
		pause = firstBootPause << (t.row - 1)
	}
	t.until = time.Now().Add(pause)
}

// failed tells those who wait why a boot has failed: all, when it will not get better by itself, and else the first. mu is
// held.
func (f *fleet) failed(k *kind, err error) {
	k.err, k.configuration = err, hopeless(err)
	f.failure, f.failedAt = sentence(err), time.Now()
	f.service.Logger.Warn("a runner did not boot", "fleet", f.name, "provider", f.provider, "error", err)
	for _, res := range slices.Clone(f.line) {
		if res.kind != k {
			continue
		}
		f.unline(res)
		if res.given.IsZero() {
			res.err = err
			res.change()
		} else {
			res.end(nil, &machine.Exit{Code: 1, Message: f.failure})
		}
		if !k.configuration {
			return
		}
	}
}

// sentence is what is shown of an error.
func sentence(err error) string {
	if text, ok := fault.Sentence(err); ok {
		return text
	}
	return err.Error()
}

// bootFailed is called with a runner that is being destroyed because its first call did not come. It finds out why.
func (s *Service) bootFailed(r *runner, why string) {
	ctx, cancel := context.WithTimeout(s.life, 5*time.Second)
	defer cancel()
	s.mu.Lock()
	m := r.machine
	s.mu.Unlock()
	said, exit := "", (*machine.Exit)(nil)
	if m != nil {
		exit = m.Exit
		switch printed, err := boot.Printed(ctx, s.Hire.At(r.fleet.provider), m.ID); {
		case err != nil:
			said = " What it printed is not to be had."
		case printed == "":
			said = " It printed nothing."
		default:
			said = " It printed: " + printed
		}
	}
	err := bootError(r.name, why, exit, said)
	s.mu.Lock()
	defer s.mu.Unlock()
	r.fleet.failed(r.kind, err)
	r.fleet.settle()
}

// bootError says why a runner never called.
func bootError(name, why string, exit *machine.Exit, said string) error {
	const early = "The runner %s ended before it had called the server: "
	switch {
	case exit == nil:
		return fault.Say(fault.Unavailable, "The runner %s did not come up: %s.%s", name, why, said)
	case exit.OOMKilled:
		return fault.Say(fault.Invalid, early+"it was killed for want of memory; give it a Size with more.%s", name, said)
	case exit.Expired:
		return fault.Say(fault.Invalid, early+"its lifetime is over; give the pool's Spec a longer one.%s", name, said)
	case exit.Code == 126, exit.Code == 127, exit.Code < 0 && exit.Signal == "":
		return fault.Say(fault.Invalid, "The program of the runner %s cannot be started.%s%s", name, message(exit), said)
	case exit.OK():
		return fault.Say(fault.Invalid, early+"the program ended as if it had done its work. Call dayfly.Main() first of all in main.%s", name, said)
	case exit.Signal != "":
		return fault.Say(fault.Unavailable, early+"it was ended by %s.%s%s", name, exit.Signal, message(exit), said)
	}
	return fault.Say(fault.Unavailable, early+"it ended with status %d.%s%s", name, exit.Code, message(exit), said)
}

func message(exit *machine.Exit) string {
	if exit.Message == "" {
		return ""
	}
	return " " + exit.Message
}

// destroy destroys the machine of a runner until it is gone.
func (s *Service) destroy(r *runner) {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := errMaking
		if !s.isMaking(r) { // what is asked for once more would be made once more
			err = s.Hire.Remove(s.life, r.fleet.provider, r.name)
		}
		if err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			r.fleet.forget(r)
			r.fleet.settle()
			return
		}
		s.Logger.Debug("the machine of a runner cannot be destroyed yet", "runner", r.name, "error", err)
		select {
		case <-s.life.Done():
			return
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
	}
}

var errMaking = fault.Say(fault.Unavailable, "the machine is being made")

func (s *Service) isMaking(r *runner) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.making
}
