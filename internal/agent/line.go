package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// line is one attempt's line to the server. It repeats calls that failed in passing, measures how long the server has
// been silent, and ends the attempt's life when that is too long or when the server says that the attempt is over.
type line struct {
	link  Link
	place *Place
	clock func() time.Duration

	life context.Context // the attempt's; its cause says why it ended
	end  context.CancelCauseFunc

	mu     sync.Mutex // guards what follows
	token  string
	heard  time.Duration // when the server last answered, by clock
	served time.Duration // when it last answered otherwise than that it could not do just now what it was asked
	quiet  time.Duration // how long it may be silent
}

func newLine(ctx context.Context, link Link, place *Place, clock func() time.Duration) *line {
	l := &line{link: link, place: place, clock: clock}
	l.life, l.end = context.WithCancelCause(ctx)
	return l
}

// open sets the token for the calls to come and how long the server may be silent from now on.
func (l *line) open(token string, quiet time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.token, l.quiet, l.heard = token, quiet, l.clock()
	l.served = l.heard
}

// address returns where the next call goes. The server may move, so it is asked for again each time.
func (l *line) address() Address {
	l.mu.Lock()
	to := Address{Attempt: l.place.Boot.Attempt, Token: l.token}
	l.mu.Unlock()
	to.URL = l.home()
	return to
}

func (l *line) home() string {
	var url string
	if l.place.Home != nil {
		url, _ = l.place.Home()
	}
	if url == "" {
		url = l.place.Boot.URL
	}
	return strings.TrimRight(url, "/")
}

// call makes one request of the server.
type call func(ctx context.Context, to Address) error

// do makes a call, and makes it again after failures that pass, until it is answered or ctx, which derives from the
// line's life, has ended.
func (l *line) do(ctx context.Context, c call) error {
	pace := l.newPace()
	for {
		err := l.try(ctx, c)
		if err == nil || !retryable(err) {
			return err
		}
		if !pace.wait(ctx, err) {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// try makes a call once and draws the conclusions that hold for every call.
func (l *line) try(ctx context.Context, c call) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := c(ctx, l.address())
	switch {
	case final(err):
		l.end(fmt.Errorf("agent: the server refused the attempt: %w", err))
	case err == nil || !retryable(err):
		l.hear(true)
	case answered(err): // such as that its store is full, which may last for longer than a server may be silent
		l.hear(false)
	default:
		l.listen()
	}
	return err
}

// hear notes that the server has answered, and whether it could do what it was asked. An answer that comes after too
// long a silence is too late: the machine may have been suspended, and the attempt given to another.
func (l *line) hear(served bool) {
	if !l.listen() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = l.clock()
	if served {
		l.served = l.heard
	}
}

// listen ends the attempt's life if the server has been silent for too long, and reports whether it has not.
func (l *line) listen() bool {
	l.mu.Lock()
	silent, quiet := l.clock()-l.heard, l.quiet
	l.mu.Unlock()
	if silent <= quiet {
		return true
	}
	l.end(fault.Say(fault.Unavailable, "The server has not answered for %v, which is longer than the %v after which an "+
		"agent gives its attempt up. Everything that ran was ended.", silent.Round(time.Second), quiet))
	return false
}

// unserved returns for how long the server has done nothing that it was asked.
func (l *line) unserved() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clock() - l.served
}

// patience returns how long the server may be silent.
func (l *line) patience() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.quiet
}

// over returns why the attempt's life has ended, or nil while it has not.
func (l *line) over() error {
	if l.life.Err() == nil {
		return nil
	}
	return context.Cause(l.life)
}

const (
	backoffFirst = 200 * time.Millisecond // the first wait is between zero and this
	backoffLast  = 5 * time.Second        // no wait is longer: a server that is back should hear of its attempts soon
)

// backoff returns how long to wait before the next try: anything between zero and a bound that doubles, so that the
// agents of a server that was away do not come back all at once, but at least what the server asks for.
func backoff(tries int, err error) time.Duration {
	bound := min(backoffFirst<<min(tries, 10), backoffLast)
	wait := rand.N(bound) + time.Millisecond
	if r, ok := errors.AsType[*Refusal](err); ok && r.RetryAfter > 0 {
		wait += r.RetryAfter
	}
	return wait
}

// pace is the pauses between the tries of one call.
type pace struct {
	line    *line
	tries   int
	renewed <-chan struct{} // closed when a server has said where it is since before the last try
}

// newPace is called before the first try.
func (l *line) newPace() *pace { return &pace{line: l, renewed: l.renewal()} }

// renewal returns what is closed when a server says anew where it is; nil if none ever does.
func (l *line) renewal() <-chan struct{} {
	if l.place.Home == nil {
		return nil
	}
	_, renewed := l.place.Home()
	return renewed
}

// wait waits before the next try of what has just failed with err, and reports whether ctx has not ended meanwhile. A
// server that says where it is ends the pause, and the pauses that follow are short again.
func (p *pace) wait(ctx context.Context, err error) bool {
	timer := time.NewTimer(backoff(p.tries, err))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		p.tries++
	case <-p.renewed:
		p.tries = 0
	}
	// The next try asks for the address later than this, so none that it does not know of goes unnoticed.
	p.renewed = p.line.renewal()
	return true
}

// pause waits and reports whether ctx has not ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
