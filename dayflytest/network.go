package dayflytest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"

	"github.com/dayfly-run/dayfly/internal/link"
)

// network is a network within the process, whose connections wait only for channels, so that it works in a bubble of
// testing/synctest. It is a pool's view of it, which is never disturbed; a runner's is a way.
type network struct {
	mu        sync.Mutex
	serial    int                    // guarded by mu
	listeners map[string]*listener   // guarded by mu; by address
	pairs     map[*pair]struct{}     // guarded by mu; connections that are not closed
	ill       map[string]disturbance // guarded by mu; by runner, and "" for all of them
	gone      map[string]bool        // guarded by mu; runners that have ended
	changed   chan struct{}          // guarded by mu; closed and made anew when ill or gone changes
}

// disturbance is what is wrong with a network.
type disturbance int

const (
	cut  disturbance = iota + 1 // connections break, and none can be made
	mute                        // nothing arrives
)

func newNetwork() *network {
	return &network{listeners: map[string]*listener{}, pairs: map[*pair]struct{}{}, ill: map[string]disturbance{}, gone: map[string]bool{},
		changed: make(chan struct{})}
}

var (
	_ link.Network = (*network)(nil)
	_ link.Network = way{}
)

// address is a place in the network.
type address string

func (address) Network() string  { return "memory" }
func (a address) String() string { return string(a) }

// Listen implements link.Network. The address that is asked for means nothing: each listener has its own.
func (n *network) Listen(context.Context, string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.serial++
	l := &listener{network: n, address: address(fmt.Sprintf("parent:%d", n.serial)), arrived: make(chan net.Conn), closed: make(chan struct{})}
	n.listeners[l.address.String()] = l
	return l, nil
}

// Dial implements link.Network.
func (n *network) Dial(ctx context.Context, to string) (net.Conn, error) {
	return n.of("").Dial(ctx, to)
}

// of returns the network as a runner sees it.
func (n *network) of(runner string) way { return way{n, runner} }

// way is the network between a runner and its parent.
type way struct {
	network *network
	runner  string
}

// Listen implements link.Network.
func (w way) Listen(ctx context.Context, at string) (net.Listener, error) {
	return w.network.Listen(ctx, at)
}

// Dial implements link.Network.
func (w way) Dial(ctx context.Context, to string) (net.Conn, error) {
	failed := func(err error) error { return &net.OpError{Op: "dial", Net: "memory", Addr: address(to), Err: err} }
	n := w.network
	n.mu.Lock()
	for n.state(w.runner) == mute {
		changed := n.changed
		n.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, failed(ctx.Err())
		}
		n.mu.Lock()
	}
	l := n.listeners[to]
	switch {
	case n.state(w.runner) == cut:
		n.mu.Unlock()
		return nil, failed(syscall.ENETUNREACH)
	case l == nil:
		n.mu.Unlock()
		return nil, failed(syscall.ECONNREFUSED)
	}
	n.serial++
	p := newPair(n, w.runner, address(fmt.Sprintf("%s:%d", w.runner, n.serial)), l.address)
	n.pairs[p] = struct{}{}
	n.mu.Unlock()
	select {
	case l.arrived <- p.parent:
		return p.own, nil
	case <-l.closed:
		p.shatter(syscall.ECONNREFUSED)
		return nil, failed(syscall.ECONNREFUSED)
	case <-ctx.Done():
		p.shatter(syscall.ECONNABORTED)
		return nil, failed(ctx.Err())
	}
}

// state returns what is wrong with a runner's way. mu is held.
func (n *network) state(runner string) disturbance {
	if n.gone[runner] {
		return cut
	}
	return max(n.ill[runner], n.ill[""])
}

// disturb makes something wrong with the ways of these runners, or of all.
func (n *network) disturb(runners []string, what disturbance) {
	if len(runners) == 0 {
		runners = []string{""}
	}
	n.change(func() {
		for _, r := range runners {
			n.ill[r] = what
		}
	})
}

// heal makes everything right.
func (n *network) heal() { n.change(func() { clear(n.ill) }) }

// leave takes a runner off the network for ever.
func (n *network) leave(runner string) { n.change(func() { n.gone[runner] = true }) }

// close ends all connections.
func (n *network) close() { n.change(func() { n.ill[""] = cut }) }

// change changes what is wrong, and lets connections and those who wait for one know.
func (n *network) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	for p := range n.pairs {
		switch n.state(p.runner) {
		case cut:
			delete(n.pairs, p)
			p.shatter(syscall.ECONNRESET)
		case mute:
			p.hush(true)
		default:
			p.hush(false)
		}
	}
	close(n.changed)
	n.changed = make(chan struct{})
}

// forget is called when a connection is closed at both ends.
func (n *network) forget(p *pair) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.pairs, p)
}

// listener is where a pool is reached.
type listener struct {
	network *network
	address address
	arrived chan net.Conn
	once    sync.Once
	closed  chan struct{}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.arrived:
		return c, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: "memory", Addr: l.address, Err: net.ErrClosed}
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.network.mu.Lock()
		defer l.network.mu.Unlock()
		delete(l.network.listeners, l.address.String())
		close(l.closed)
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.address }
