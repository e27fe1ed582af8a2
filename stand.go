package dayfly

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/internal/wire"
)

const (
	// aloneTimeout is how long a runner of a fleet that serves nobody looks for its server before it ends.
	aloneTimeout = time.Minute
	// freeHold is how long a free runner's call is held open when there is nobody to serve.
	freeHold = 20 * time.Second
	// beatInterval is how often a runner says whom it serves, and beatTimeout how long it waits for what is said to that.
	beatInterval = 3 * time.Second
	beatTimeout  = 10 * time.Second
	// followTimeout is how long it looks for a parent that has just asked for it.
	followTimeout = 15 * time.Second
	// restTimeout is how long functions whose parent has gone have to return, longer than any that listens to its context needs.
	restTimeout = 5 * time.Second
)

// standing is a runner of a fleet: it serves one parent after another, as the fleet's server tells it.
type standing struct {
	home  *wire.FleetHome
	fleet *Client
	hello link.Hello
	desk  *desk
	own   io.Writer // what the machine itself prints

	instance string
	number   atomic.Int64
}

// stand is the life of a runner of a fleet. It ends when the server or somebody else says so, and with an error when the server is not
// there any more, or when the process is not fit to serve somebody else.
func stand(word string, own io.Writer) error {
	home, err := wire.ParseFleetHome(word)
	if err != nil {
		return fmt.Errorf("the variable %s in its environment is of no use: %w", boot.ParentVariable, err)
	}
	hello, err := link.ThisProcess()
	if err != nil {
		return err
	}
	fleet, err := NewClient(home.URL, &ClientOptions{Token: home.Token, Patience: -1})
	if err != nil {
		return err
	}
	d, err := newDesk()
	if err != nil {
		return err
	}
	d.logs.Between(own)
	s := &standing{home: home, fleet: fleet, hello: hello, desk: d, own: own, instance: rand.Text()}
	return s.run(s.follow)
}

// run asks for somebody to serve and does so with follow, again and again. follow returns why the invitation could not be followed, "" if
// it was, and an error if this must be the end.
func (s *standing) run(follow func(*wire.FleetAnswer) (broken string, err error)) error {
	for free := (wire.FleetCall{WaitMS: freeHold.Milliseconds()}); ; {
		answer, err := s.next(&free)
		if err != nil || answer == nil {
			return err
		}
		if answer.End {
			fmt.Fprintf(s.own, "dayfly: this runner ends: %s\n", answer.Why)
			return nil
		}
		broken, err := follow(answer)
		if err != nil || s.desk.asked.Err() != nil {
			return err
		}
		free.After, free.Broken = answer.Reservation, broken
	}
}

// next says that the runner is free until there is something to do, and returns nil when the process is to end.
func (s *standing) next(free *wire.FleetCall) (*wire.FleetAnswer, error) {
	ctx := s.desk.asked
	heard := time.Now()
	for pause := backoffFirst; ; {
		asked := time.Now()
		answer, err := s.say(ctx, *free)
		switch {
		case ctx.Err() != nil:
			return nil, nil
		case err == nil && (answer.End || answer.Invitation != ""):
			return answer, nil
		case err == nil:
			heard, pause = time.Now(), backoffFirst
			if time.Since(asked) >= time.Second {
				continue // it has waited; who answers at once is asked after a pause
			}
		case isDismissal(err):
			return nil, fmt.Errorf("its fleet's server has dismissed it: %w", err)
		case time.Since(heard) >= aloneTimeout:
			return nil, fmt.Errorf("its fleet's server has not been there for %v: %w", aloneTimeout, err)
		default:
			pause = min(2*pause, time.Second)
		}
		if !sleep(ctx, pause/2+mathrand.N(pause)) {
			return nil, nil
		}
	}
}

// say says what the runner does and returns what it is to do.
func (s *standing) say(ctx context.Context, c wire.FleetCall) (*wire.FleetAnswer, error) {
	c.Instance, c.Build, c.Number = s.instance, s.hello.Build, s.number.Add(1)
	answer := new(wire.FleetAnswer)
	path := strings.TrimSuffix(wire.FleetRunnerPrefix, "/") + "/" + url.PathEscape(s.home.Machine)
	return answer, s.fleet.call(ctx, request{method: http.MethodPost, path: path, body: &c}, answer)
}

// isDismissal reports whether an answer says that nothing will become of this runner any more.
func isDismissal(err error) bool {
	switch fault.Of(err).General() {
	case fault.Unauthenticated, fault.Denied, fault.NotFound, fault.Conflict, fault.Invalid, fault.Unsupported:
		return true
	}
	return false
}

// follow follows an invitation and serves the parent until their link is over. It returns when nothing of that parent's is left.
func (s *standing) follow(answer *wire.FleetAnswer) (broken string, err error) {
	leave := make(chan struct{})
	beating, stop := context.WithCancel(context.Background())
	var beats sync.WaitGroup
	beats.Go(func() { s.beat(beating, answer.Reservation, sync.OnceFunc(func() { close(leave) })) })
	defer func() {
		stop()
		beats.Wait()
	}()
	invitation, err := link.ParseInvitation(answer.Invitation)
	if err != nil {
		return shorten(err), nil
	}
	dialing, cancel := context.WithTimeout(s.desk.asked, followTimeout)
	l, err := link.Dial(dialing, invitation, s.hello)
	cancel()
	if err != nil {
		if _, mismatch := errors.AsType[*link.Mismatch](err); mismatch {
			return "", err // it would be one with every parent
		}
		return shorten(err), nil
	}
	server, err := s.desk.serve(l, leave)
	if err != nil {
		fmt.Fprintf(s.own, "dayfly: the parent of %s was lost: %v\n", l.ID(), err)
	}
	program.parent.Store(nil)
	resting, cancel := context.WithTimeout(context.Background(), restTimeout)
	defer cancel()
	if left := server.Rest(resting); left != nil {
		return "", fault.Say(fault.Unavailable, "what it did for its last parent has not ended, so nobody else gets it: %s", strings.Join(left, ", "))
	}
	return "", s.desk.logs.Part(resting)
}

// shorten returns as much of what an error says as fits into a call.
func shorten(err error) string {
	text := err.Error()
	return strings.ToValidUTF8(text[:min(len(text), 1<<10)], "")
}

// beat says whom the runner serves until ctx ends, and calls leave when the server wants the runner back. A server that is not there, or
// does not know the runner any more, changes nothing for the parent.
func (s *standing) beat(ctx context.Context, reservation string, leave func()) {
	for {
		asking, cancel := context.WithTimeout(ctx, beatTimeout)
		answer, err := s.say(asking, wire.FleetCall{Serving: reservation})
		cancel()
		if err == nil && (answer.Leave || answer.End) {
			leave()
		}
		if !sleep(ctx, beatInterval/2+mathrand.N(beatInterval/2)) {
			return
		}
	}
}
