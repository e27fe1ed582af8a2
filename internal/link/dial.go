package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

const (
	// firstPause and longestPause are between a runner's tries to reach its parent.
	firstPause   = 10 * time.Millisecond
	longestPause = time.Second
	// goneAfter is for how long the parent's computer must refuse connections until the parent is believed to be gone.
	// Its listener lives as long as the process and never comes back.
	goneAfter = 400 * time.Millisecond
)

// Dial takes up a parent's invitation for a process that says hello, and returns the link, on which Serve must then be
// called. Until ctx ends it tries the addresses again and again, since a new machine may have no network yet; ctx does
// not end the link.
//
// A *[Refused]: the parent does not let the runner in. A *[Mismatch]: it is another build. fault.Unavailable: the parent
// is gone, or ctx ended.
func Dial(ctx context.Context, i *Invitation, hello Hello) (*Link, error) {
	return DialOver(ctx, nil, i, hello)
}

// DialOver is [Dial] over a network. nil is the computer's own.
func DialOver(ctx context.Context, n Network, i *Invitation, hello Hello) (*Link, error) {
	if err := hello.check(); err != nil {
		return nil, err
	}
	d := &dialer{network: n, invitation: *i, hello: hello, secret: newSecret(), timeout: handshakeTimeout}
	for p := (pauses{}); ; {
		got, err := d.dial(ctx, 0)
		if err == nil {
			return d.join(got), nil
		}
		if final(err) {
			return nil, err
		}
		if p.gone(err) {
			return nil, fmt.Errorf("link: the parent is gone: %w: %w", fault.Unavailable, err)
		}
		if p.wait(ctx.Done()) {
			return nil, fmt.Errorf("link: the parent could not be reached: %w: %w: %w", fault.Unavailable, context.Cause(ctx), err)
		}
	}
}

// dialer makes a runner's connections.
type dialer struct {
	network    Network // nil: the computer's
	invitation Invitation
	hello      Hello
	secret     string
	attempt    uint64
	timeout    time.Duration
	link       *Link // nil before the first connection
}

// connection is one that the parent has accepted.
type connection struct {
	wire    *wire
	answer  answer
	process *process // whose it is, on this computer
}

// redial makes a new connection for a link that has received so much. It returns the error of the last address.
type redial func(ctx context.Context, received uint64) (*connection, error)

// join makes the link of the first connection.
func (d *dialer) join(c *connection) *Link {
	l := newLink(d.invitation.ID, c.answer.Hello, c.answer.Silence)
	l.resumable = c.wire.sealer != nil
	if l.resumable {
		d.timeout = min(handshakeTimeout, c.answer.Silence/3)
		l.redial = d.dial
	}
	l.attempt = 1
	d.link = l
	l.attach(c.wire, 1, 0)
	l.watch(c.process, c.wire)
	return l
}

// dial tries each address once. Of the failures it returns one that leaves hope, if there is one.
func (d *dialer) dial(ctx context.Context, received uint64) (*connection, error) {
	var hope, gone error
	for _, address := range d.invitation.Addresses {
		d.attempt++
		c, err := d.reach(ctx, address, received)
		switch {
		case err == nil:
			return c, nil
		case final(err):
			return nil, err
		case isClosedTo(err):
		case isGone(err) && !(d.invitation.Forwarded && strings.HasPrefix(address, tcpPrefix)):
			gone = fmt.Errorf("%w: %w", errGone, err)
		default:
			hope = err
		}
	}
	switch {
	case hope != nil:
		return nil, hope
	case gone != nil:
		return nil, gone
	}
	return nil, fault.Say(fault.Invalid, "link: none of the addresses of the invitation can be used on this computer: %s",
		strings.Join(d.invitation.Addresses, ", "))
}

// reach makes a connection to one address.
func (d *dialer) reach(ctx context.Context, address string, received uint64) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	socket, err := d.connect(ctx, address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	c, err := d.greet(socket, received)
	if !stop() && err == nil {
		err = fmt.Errorf("%s: %w: it did not answer in time", address, fault.Unavailable)
		c.wire.close()
		c.process.close()
	}
	if err != nil {
		socket.Close()
		return nil, err
	}
	return c, nil
}

func (d *dialer) connect(ctx context.Context, address string) (net.Conn, error) {
	if path, ok := strings.CutPrefix(address, unixPrefix); ok {
		if d.link != nil || !canKnowPeers {
			return nil, fault.Say(fault.Unsupported, "link: a Unix socket cannot be used here")
		}
		return dialUnix(ctx, path)
	}
	network := d.network
	if network == nil {
		network = computer{}
	}
	return network.Dial(ctx, strings.TrimPrefix(address, tcpPrefix))
}

// greet carries out the runner's side of the handshake.
func (d *dialer) greet(socket net.Conn, received uint64) (*connection, error) {
	c := &connection{}
	conn, secure := socket, (*sealer)(nil)
	if _, local := socket.(*net.UnixConn); local {
		var err error
		if c.process, err = peerOf(socket); err != nil {
			return nil, err
		}
	} else {
		secure = &sealer{Conn: socket}
		conn = tls.Client(secure, pinned(d.invitation.Pin))
	}
	hi := greeting{ID: d.invitation.ID, Token: d.invitation.Token, Secret: d.secret, Attempt: d.attempt, Received: received, Hello: d.hello}
	if err := c.introduce(conn, &hi); err != nil {
		c.process.close()
		return nil, err
	}
	c.wire = newWire(conn, socket, secure)
	return c, nil
}

// introduce says the greeting and hears the answer.
func (c *connection) introduce(conn net.Conn, hi *greeting) error {
	if err := writeMessage(conn, hi); err != nil {
		return err
	}
	a := &c.answer
	if err := readMessage(conn, a); err != nil {
		return err
	}
	switch r := a.Refusal; {
	case r != nil && !r.Mismatch:
		return &Refused{r.Kind, r.Reason}
	case r != nil, a.Hello.Build != hi.Hello.Build:
		return &Mismatch{Parent: a.Hello, Runner: hi.Hello}
	case a.Silence < MinSilence || a.Silence > MaxSilence:
		return fault.Say(fault.Invalid, "link: the parent names a silence of %v", a.Silence)
	}
	return nil
}

// final reports whether dialing again would change nothing.
func final(err error) bool {
	_, refused := errors.AsType[*Refused](err)
	_, mismatch := errors.AsType[*Mismatch](err)
	return refused || mismatch || fault.Of(err) == fault.Invalid || errors.Is(err, errOtherKey)
}

var errGone = errors.New("nobody listens where the parent did")

// isGone reports whether nobody listens any more where the parent did.
func isGone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}

// isClosedTo reports whether an address can never be used from here: a Unix socket of another user, or on a system
// that has none.
func isClosedTo(err error) bool {
	k := fault.Of(err)
	return k == fault.Unsupported || k == fault.Denied || errors.Is(err, fs.ErrPermission)
}

// pauses are those between tries.
type pauses struct {
	length time.Duration
	since  time.Time // when the first of the tries was made that all said that the parent is gone
}

// gone reports whether the tries have said for long enough that the parent is gone, the last one with err.
func (p *pauses) gone(err error) bool {
	if !errors.Is(err, errGone) {
		p.since = time.Time{}
		return false
	}
	if p.since.IsZero() {
		p.since = time.Now()
	}
	return time.Since(p.since) >= goneAfter
}

// wait waits before the next try, and returns whether it was interrupted. Pauses grow, and no two runners have the
// same, so that a thousand of them do not come back in one moment.
func (p *pauses) wait(interrupt <-chan struct{}) bool {
	p.length = min(max(2*p.length, firstPause), longestPause)
	if !p.since.IsZero() {
		p.length = min(p.length, goneAfter/8) // to be sure soon; a refusal costs the parent's computer nothing
	}
	t := time.NewTimer(p.length/2 + rand.N(p.length))
	defer t.Stop()
	select {
	case <-t.C:
		return false
	case <-interrupt:
		return true
	}
}

// reconnect makes a new connection for a link that has lost its own, or ends the link.
func (l *Link) reconnect() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-l.done:
			cancel()
		case <-stop:
		}
	}()
	for p := (pauses{}); ; {
		l.mu.Lock()
		received := l.in
		l.told = l.in
		over := l.over != nil
		l.mu.Unlock()
		if over {
			return
		}
		c, err := l.redial(ctx, received)
		switch {
		case err == nil:
			l.mu.Lock()
			l.attempt++
			attempt := l.attempt
			l.mu.Unlock()
			if !l.attach(c.wire, attempt, c.answer.Received) {
				c.wire.close()
			}
			return
		case final(err):
			l.lose("the parent has given this runner up", err)
			return
		case p.gone(err):
			l.lose("the parent is gone", err)
			return
		case p.wait(l.done):
			return
		}
	}
}

func (l *Link) lose(why string, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(&End{Lost: true, Kind: fault.Unavailable, Reason: why, Cause: cause})
}
