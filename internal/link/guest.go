package link

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/dayfly-run/dayfly/fault"
)

// Guest is a runner that a parent expects, from before it is started until its link is over.
type Guest struct {
	home    *Home
	id      string
	invited Invitation
	token   digest
	settled chan struct{} // closed when joined or err is set

	mu     sync.Mutex
	secret *digest // guarded by mu: the runner's, from when it proved itself
	link   *Link   // guarded by mu: from when its first connection is being made
	joined bool    // guarded by mu: the link has had a connection
	err    error   // guarded by mu: why there will be no link
}

// Invitation returns what the runner needs. It is the caller's to change.
func (g *Guest) Invitation() Invitation {
	i := g.invited
	i.Addresses = slices.Clone(i.Addresses)
	return i
}

// Wait waits until the runner has dialed home and returns its link, on which Serve must then be called. It returns
// the same to everybody. A *[Mismatch]: it is another build. fault.Canceled: ctx ended; the runner is still expected.
// Otherwise the error is what [Guest.Cancel] was given, or says that the home is closed.
func (g *Guest) Wait(ctx context.Context) (*Link, error) {
	select {
	case <-g.settled:
	case <-ctx.Done():
		return nil, fmt.Errorf("link: runner %s has not dialed home: %w", g.id, ctx.Err())
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return nil, g.err
	}
	return g.link, nil
}

// Cancel gives the runner up if it has not dialed home yet: from now on it will be refused, and Wait returns err, which
// must not be nil. A link that was made already stays as it is.
func (g *Guest) Cancel(err error) {
	if g.settle(err) == nil {
		g.home.forget(g)
	}
}

// settle gives the runner up if it has not joined. It returns its link if it has.
func (g *Guest) settle(err error) *Link {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.joined:
		return g.link
	case g.err == nil:
		g.err = err
		g.discard()
		close(g.settled)
	}
	return nil
}

// join is called when the link has its first connection, or another. It returns whether the link may live.
func (g *Guest) join(l *Link) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.link != l || g.err != nil {
		return false
	}
	if !g.joined {
		g.joined = true
		l.onEnd(func() { g.home.forget(g) })
		close(g.settled)
	}
	return true
}

// discard ends a link that has not been joined. mu is held.
func (g *Guest) discard() {
	if g.link != nil {
		g.link.Lose(errReplaced)
		g.link = nil
	}
}

// admit decides on a runner that says it is this guest. It returns the runner's link and how much of the runner's
// records that has received, or why the runner is refused.
func (g *Guest) admit(hi *greeting, resumable bool) (*Link, uint64, *refusal) {
	if refused := g.prove(hi); refused != nil {
		return nil, 0, refused
	}
	if hi.Hello.Build != g.home.hello.Build {
		mismatch := &Mismatch{Parent: g.home.hello, Runner: hi.Hello}
		g.Cancel(mismatch)
		return nil, 0, &refusal{Kind: fault.Invalid, Reason: mismatch.Error(), Mismatch: true}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.joined && (g.link == nil || g.link.resumable != resumable) {
		g.discard() // it could be reached, but not used, and the runner has found another way
		g.link = newLink(g.id, hi.Hello, g.home.silence)
		g.link.resumable = resumable
	}
	if g.err == nil && g.link.resumable == resumable {
		if received, ok := g.link.detach(hi.Attempt); ok {
			return g.link, received, nil
		}
	}
	return nil, 0, &refusal{Kind: fault.Conflict, Reason: "the link is over, or has a newer connection"}
}

// prove checks what the runner knows: its token the first time, and from then on its secret.
func (g *Guest) prove(hi *greeting) *refusal {
	g.mu.Lock()
	defer g.mu.Unlock()
	known := g.token.matches(hi.Token)
	if g.secret != nil {
		known = g.secret.matches(hi.Secret)
	}
	if !known || len(hi.Secret) < 32 {
		return unknown()
	}
	if g.secret == nil {
		d := digestOf(hi.Secret)
		g.secret = &d
	}
	return nil
}

// unknown is the refusal of who does not know the secret of a guest, and of who names none: which of both it was is
// nobody's business.
func unknown() *refusal {
	return &refusal{Kind: fault.Unauthenticated, Reason: "no runner is expected with this id and token; a token admits once, and a parent forgets a runner that it has given up"}
}
