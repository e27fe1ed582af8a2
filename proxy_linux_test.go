package dayfly_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

// direction is one of the two in which a proxy forwards.
type direction int

const (
	toParent direction = iota
	toRunner
)

func (d direction) String() string { return []string{"to the parent", "to the runner"}[d] }

// proxy stands at a pool's Address, as a load balancer or a tunnel does, and does to connections what those do on their worst days.
type proxy struct {
	net.Listener
	working sync.WaitGroup
	target  string // where the parent listens
	end     chan struct{}

	mu       sync.Mutex
	passages map[*passage]bool // guarded by mu
	gates    [2]chan struct{}  // guarded by mu; closed while bytes may pass
	delay    time.Duration     // guarded by mu; of whatever passes
	meet     func(net.Conn)    // guarded by mu; what becomes of a new connection; nil: it is forwarded
}

// passage is a connection through a proxy.
type passage struct {
	near, far net.Conn      // the runner's end, and the parent's
	over      chan struct{} // closed when it is cut
	once      sync.Once
	writing   [2]sync.Mutex
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := make(chan struct{})
	close(open)
	// The parent listens at another address of this computer, where nobody else has the proxy's port.
	target := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), l.Addr().(*net.TCPAddr).AddrPort().Port()).String()
	p := &proxy{Listener: l, target: target, end: make(chan struct{}), passages: map[*passage]bool{}, gates: [2]chan struct{}{open, open}}
	p.working.Go(p.accept)
	t.Cleanup(func() {
		close(p.end)
		l.Close()
		p.cut()
		p.working.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		near, err := p.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		meet := p.meet
		p.mu.Unlock()
		if meet != nil {
			p.working.Go(func() {
				defer near.Close()
				meet(near)
			})
			continue
		}
		far, err := net.Dial("tcp", p.target)
		if err != nil {
			near.Close()
			continue
		}
		g := &passage{near: near, far: far, over: make(chan struct{})}
		p.mu.Lock()
		p.passages[g] = true
		p.mu.Unlock()
		var both sync.WaitGroup
		both.Go(func() { p.forward(g, toParent) })
		both.Go(func() { p.forward(g, toRunner) })
		p.working.Go(func() {
			both.Wait()
			g.cut()
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.passages, g)
		})
	}
}

// ends returns where what goes in a direction comes from, and where it goes to.
func (g *passage) ends(d direction) (from, to *net.TCPConn) {
	from, to = g.near.(*net.TCPConn), g.far.(*net.TCPConn)
	if d == toRunner {
		from, to = to, from
	}
	return from, to
}

func (g *passage) cut() {
	g.once.Do(func() {
		close(g.over)
		g.near.Close()
		g.far.Close()
	})
}

// write writes what passes, or what never was in what should.
func (g *passage) write(d direction, text []byte) error {
	g.writing[d].Lock()
	defer g.writing[d].Unlock()
	_, to := g.ends(d)
	_, err := to.Write(text)
	return err
}

// forward lets the bytes of one direction pass, and its end.
func (p *proxy) forward(g *passage, d direction) {
	from, to := g.ends(d)
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		gate, delay := p.gates[d], p.delay
		p.mu.Unlock()
		select {
		case <-gate:
		case <-g.over:
			return
		}
		if delay > 0 {
			select {
			case <-time.After(delay):
			case <-g.over:
				return
			}
		}
		if n > 0 && g.write(d, buffer[:n]) != nil || err != nil {
			_ = to.CloseWrite() // or it is closed
			return
		}
	}
}

// each does something to each of the connections there are.
func (p *proxy) each(f func(*passage)) {
	p.mu.Lock()
	all := slices.Collect(maps.Keys(p.passages))
	p.mu.Unlock()
	for _, g := range all {
		f(g)
	}
}

func (p *proxy) cut() { p.each((*passage).cut) }

// halfClose ends one direction. What still comes there is nobody's.
func (p *proxy) halfClose(d direction) {
	p.each(func(g *passage) {
		_, to := g.ends(d)
		_ = to.CloseWrite() // or it is closed
	})
}

// garble adds what nobody has sent.
func (p *proxy) garble(d direction) {
	p.each(func(g *passage) {
		garbage := make([]byte, 100)
		_, _ = rand.Read(garbage) // never fails
		_ = g.write(d, garbage)   // or it is closed
	})
}

// stall lets nothing pass in a direction until the stall is ended.
func (p *proxy) stall(d direction) (resume func()) {
	shut := make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.gates[d]
	p.gates[d] = shut
	return sync.OnceFunc(func() {
		p.mu.Lock()
		p.gates[d] = before
		p.mu.Unlock()
		close(shut)
	})
}

// slow delays whatever passes.
func (p *proxy) slow(by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = by
}

// receive says what becomes of new connections; nil: they are forwarded.
func (p *proxy) receive(meet func(net.Conn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.meet = meet
}

// poolBehind is a pool whose runners are behind a proxy.
func poolBehind(t *testing.T, way *proxy, o dayfly.PoolOptions) *dayfly.Pool {
	t.Helper()
	o.Name, o.Address, o.Listen, o.Logger = poolName(t), way.Addr().String(), way.target, slog.New(slog.DiscardHandler)
	p, err := dayfly.NewPool(hiring(t).Provider("local"), &o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Close: got %v, want nil", err)
		}
	})
	return p
}

// parcel is what test/once is called with, and returns.
type parcel struct {
	Dir, ID string
	Data    []byte
}

// once fails if it is run again with the same parcel. It returns its data, the other way round.
var once = dayfly.Func("test/once", func(_ context.Context, in parcel) ([]byte, error) {
	f, err := os.OpenFile(filepath.Join(in.Dir, in.ID), os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("it has been run before: %w", err)
	}
	slices.Reverse(in.Data)
	return in.Data, f.Close()
})

func TestCallsGoOnWhateverAProxyDoesToTheirConnections(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("the seed is %d", seed)
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	way, dir := newProxy(t), t.TempDir()
	p := poolBehind(t, way, dayfly.PoolOptions{Max: 2, Concurrency: 4})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ended := make(chan struct{})
	enough := make(chan struct{})
	var callers sync.WaitGroup
	for caller := range 8 {
		sizes := mathrand.New(mathrand.NewPCG(seed, uint64(caller)+1))
		callers.Go(func() {
			for n := 0; ; n++ {
				data := make([]byte, sizes.IntN(1<<uint(sizes.IntN(20))+1))
				_, _ = rand.Read(data) // never fails
				got, err := once.Call(ctx, p, parcel{dir, fmt.Sprint(caller, "-", n), data})
				slices.Reverse(got)
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("call %d of caller %d: got %d bytes and error %v, want its %d bytes", n, caller, len(got), err, len(data))
				}
				select {
				case ended <- struct{}{}:
				case <-enough:
					return
				}
			}
		})
	}
	for range 60 {
		for range 1 + random.IntN(8) { // so that something gets there
			<-ended
		}
		d := direction(random.IntN(2))
		switch random.IntN(6) {
		case 0, 1:
			way.cut()
		case 2:
			way.halfClose(d)
		case 3:
			way.garble(d)
		case 4:
			resume := way.stall(d)
			time.AfterFunc(time.Duration(random.IntN(200))*time.Millisecond, resume)
		case 5:
			way.slow(time.Duration(random.IntN(3)) * time.Millisecond)
		}
	}
	close(enough)
	callers.Wait()
	if got := p.Stats(); got.Boots > 2 {
		t.Errorf("Stats: got %+v, want that no runner was lost", got)
	}
}

func TestAProxyThatLetsNothingPassAnyMoreCostsItsCallsAndNotThePool(t *testing.T) {
	t.Parallel()
	for _, d := range []direction{toParent, toRunner} {
		t.Run(d.String(), func(t *testing.T) {
			t.Parallel()
			way, dir := newProxy(t), t.TempDir()
			p := poolBehind(t, way, dayfly.PoolOptions{Max: 1, Silence: 1500 * time.Millisecond})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			id, err := whoami.Call(ctx, p, struct{}{})
			if err != nil {
				t.Fatal(err)
			}
			calls := make(chan error, 3)
			for n := range cap(calls) {
				begun := fmt.Sprint(dir, "/begun", n)
				go func() {
					_, err := wait.Call(ctx, p, waiting{Begun: begun, Until: dir + "/never"})
					calls <- err
				}()
				eventually(t, "the call to begin", func() bool { return exists(begun) })
			}
			resume := way.stall(d)
			for range cap(calls) {
				err := <-calls
				if failed, ok := errors.AsType[*dayfly.CallError](err); !ok || !failed.Ran || !errors.Is(err, dayfly.ErrRunnerLost) || fault.Of(err) != fault.Unavailable {
					t.Errorf("a call of which nothing is heard: got error %v, want that its runner was lost and it may have run", err)
				}
			}
			resume()
			next, err := whoami.Call(ctx, p, struct{}{})
			if err != nil || next.PID == id.PID {
				t.Errorf("the next call: got runner %d and error %v, want another than %d", next.PID, err, id.PID)
			}
			eventually(t, "the runner that was lost to end", func() bool { return !isAlive(id.PID) })
		})
	}
}

func TestARunnerThatAProxyKeepsFromItsParentIsSaidToBe(t *testing.T) {
	t.Parallel()
	for what, meet := range map[string]func(p *proxy, conn net.Conn){
		"connections are closed": func(*proxy, net.Conn) {},
		"nothing is answered":    func(p *proxy, _ net.Conn) { <-p.end },
		"garbage is answered": func(_ *proxy, conn net.Conn) {
			_, _ = io.CopyN(conn, rand.Reader, 64<<10) // until it has enough of it
		},
		"another protocol is spoken": func(_ *proxy, conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n")
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			way := newProxy(t)
			way.receive(func(conn net.Conn) { meet(way, conn) })
			p := poolBehind(t, way, dayfly.PoolOptions{Max: 1, BootTimeout: 5 * time.Second}) // of which the program's upload needs some
			_, err := double.Call(t.Context(), p, 1)
			if fault.Of(err) != fault.Unavailable || !strings.Contains(fmt.Sprint(err), "has not dialed home") || !strings.Contains(fmt.Sprint(err), "Address") {
				t.Errorf("Call: got error %v, want that no runner has dialed home, and what to look at", err)
			}
			way.receive(nil)
			eventually(t, "a call when connections are forwarded", func() bool {
				got, err := double.Call(t.Context(), p, 1)
				return err == nil && got == 2
			})
		})
	}
}
