package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// HomeOptions are what may be said of a [Home]; the zero value is a home on this computer alone.
type HomeOptions struct {
	// Dir is the directory of the Unix socket. It is made if need be and must be the user's own and closed to others. ""
	// is a new one among the temporary files. Without Unix sockets whose other end can be known, which is to say on other
	// systems than Linux, there is only TCP.
	Dir string
	// Listen is the TCP address for runners elsewhere, such as ":0". "" is none, or where there are no Unix sockets
	// "127.0.0.1:0".
	Listen string
	// Advertise are the addresses, host and port, that invitations name for TCP. Without any they are those of this
	// computer's network interfaces, or the one listened on.
	Advertise []string
	// Silence is after how long without a sign of life a runner is lost, and the home to its runners, between MinSilence and
	// MaxSilence. 0 is 15 s.
	Silence time.Duration
	// Logger is told of connections that were turned away. nil: nobody is.
	Logger *slog.Logger
	// Network is where Listen is, when that is not this computer's network. There is no Unix socket then.
	Network Network
}

// Network is where links are made when that is not the computer's own network: one within the process, for tests.
type Network interface {
	// Listen returns where connections arrive. It may choose the address, as net.Listen does when the port is 0.
	Listen(ctx context.Context, address string) (net.Listener, error)
	// Dial makes a connection to an address that a listener has.
	Dial(ctx context.Context, address string) (net.Conn, error)
}

// computer is the network of this computer.
type computer struct{}

func (computer) Listen(ctx context.Context, address string) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", address)
}

func (computer) Dial(ctx context.Context, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// What HomeOptions.Silence can be.
const (
	MinSilence = 100 * time.Millisecond
	MaxSilence = time.Hour
)

const (
	defaultSilence = 15 * time.Second
	// maxStrangers is how many connections may be trying to prove themselves at once. When there is one more the oldest
	// has to go: a runner takes a moment, and who takes longer is no runner. It is more than the runners of most parents,
	// because after a cut they all come back at once and wait for each other's handshakes.
	maxStrangers = 1024
)

// Home is where runners dial home to. A process has one.
type Home struct {
	hello     Hello
	silence   time.Duration
	log       *slog.Logger
	tls       *tls.Config
	pin       string
	socket    *socket      // nil: none
	tcp       net.Listener // nil: none
	addresses []string

	mu        sync.Mutex
	guests    map[string]*Guest // guarded by mu
	strangers []*stranger       // guarded by mu: oldest first
	closed    bool              // guarded by mu
}

// stranger is a connection that has not proved itself.
type stranger struct{ conn net.Conn }

// NewHome returns a home for runners of a process that says hello. Runners can be expected at once, and reach it when
// Run is called. fault.Invalid: an option cannot be. fault.Denied: the directory is open to others. fault.Unavailable:
// an address cannot be listened on.
func NewHome(hello Hello, o *HomeOptions) (*Home, error) {
	if o == nil {
		o = &HomeOptions{}
	}
	if err := hello.check(); err != nil {
		return nil, err
	}
	h := &Home{hello: hello, silence: o.Silence, log: o.Logger, guests: map[string]*Guest{}}
	if h.silence == 0 {
		h.silence = defaultSilence
	}
	if h.silence < MinSilence || h.silence > MaxSilence {
		return nil, fault.Say(fault.Invalid, "link: a silence of %v is not between %v and %v", h.silence, MinSilence, MaxSilence)
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if err := h.listen(o); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *Home) listen(o *HomeOptions) error {
	address := o.Listen
	var network Network = computer{}
	if o.Network != nil {
		network = o.Network
	} else if canKnowPeers {
		s, err := listenUnix(o.Dir)
		if err != nil {
			return err
		}
		h.socket = s
		h.addresses = append(h.addresses, unixPrefix+s.path)
	} else if address == "" {
		address = "127.0.0.1:0"
	}
	if address == "" {
		return nil
	}
	config, pin, err := newKey()
	if err != nil {
		return err
	}
	l, err := network.Listen(context.Background(), address)
	if err != nil {
		return fmt.Errorf("link: listen: %w: %w", fault.Unavailable, err)
	}
	h.tls, h.pin, h.tcp = config, pin, l
	advertised := o.Advertise
	if len(advertised) == 0 {
		advertised = reachable(l.Addr())
	}
	for _, a := range advertised {
		h.addresses = append(h.addresses, tcpPrefix+a)
	}
	return nil
}

// close stops listening.
func (h *Home) close() {
	if h.socket != nil {
		h.socket.close()
	}
	if h.tcp != nil {
		h.tcp.Close()
	}
}

// Run lets runners in until ctx ends. Then it closes all links, telling the runners that their parent has ended, and
// takes its socket away. It must be called, and once, and returns nil.
func (h *Home) Run(ctx context.Context) error {
	var accepting sync.WaitGroup
	if h.socket != nil {
		accepting.Go(func() { h.accept(ctx, h.socket.listener) })
	}
	if h.tcp != nil {
		accepting.Go(func() { h.accept(ctx, h.tcp) })
	}
	<-ctx.Done()
	h.close()
	accepting.Wait()
	h.leave()
	return nil
}

// leave says goodbye to everybody.
func (h *Home) leave() {
	h.mu.Lock()
	h.closed = true
	guests := h.guests
	h.guests = map[string]*Guest{}
	for _, s := range h.strangers {
		s.conn.Close()
	}
	h.mu.Unlock()
	reason := fault.Say(fault.Unavailable, "the parent has ended")
	var leaving sync.WaitGroup
	for _, g := range guests {
		if l := g.settle(fmt.Errorf("link: runner %s: %w", g.id, reason)); l != nil {
			leaving.Go(func() { l.Close(reason) })
		}
	}
	leaving.Wait()
}

// acceptPause is between tries to accept a connection when that fails.
const acceptPause = 50 * time.Millisecond

// accept takes connections until ctx ends. What fails now may succeed later, however long it takes: a process that is out of
// descriptors gets some back, and the links that there are do not need any.
func (h *Home) accept(ctx context.Context, l net.Listener) {
	for failures := 0; ctx.Err() == nil; {
		conn, err := l.Accept()
		if err != nil {
			if failures++; failures == 1 && ctx.Err() == nil {
				h.log.Warn("runners cannot reach this process at the moment", "at", l.Addr().String(), "error", err)
			}
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		failures = 0
		if s := (&stranger{conn: conn}); h.arrive(s) { // here, so that who came first is the oldest
			go h.meet(s)
		} else {
			conn.Close()
		}
	}
}

// meet lets a connection prove itself.
func (h *Home) meet(s *stranger) {
	conn := s.conn
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout)) // a socket that takes none is closed
	err := h.greet(conn, func() bool { return h.depart(s) })
	if err == nil {
		return
	}
	h.depart(s)
	conn.Close()
	level := slog.LevelDebug // anybody can connect and say nothing
	if _, refused := errors.AsType[*Refused](err); refused {
		level = slog.LevelInfo
	}
	h.log.Log(context.Background(), level, "a connection was turned away", "from", conn.RemoteAddr().String(), "error", err)
}

func (h *Home) arrive(s *stranger) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	if len(h.strangers) == maxStrangers {
		h.strangers[0].conn.Close()
		h.strangers = h.strangers[1:]
	}
	h.strangers = append(h.strangers, s)
	return true
}

// depart removes a stranger who has become a guest or was turned away, and returns whether it was still there.
func (h *Home) depart(s *stranger) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, other := range h.strangers {
		if other == s {
			h.strangers = append(h.strangers[:i], h.strangers[i+1:]...)
			return true
		}
	}
	return false
}

// greet carries out the parent's side of the handshake and makes the connection the one of a link. When the runner has
// proved itself it asks whether the connection may stay.
func (h *Home) greet(socket net.Conn, stays func() bool) (err error) {
	conn, secure := socket, (*sealer)(nil)
	var peer *process
	_, local := socket.(*net.UnixConn)
	if local {
		if peer, err = peerOf(socket); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				peer.close()
			}
		}()
	} else {
		secure = &sealer{Conn: socket}
		conn = tls.Server(secure, h.tls)
	}
	var hi greeting
	if err := readMessage(conn, &hi); err != nil {
		if k := fault.Of(err); k == fault.Unsupported {
			_ = writeMessage(conn, answer{Refusal: &refusal{Kind: k, Reason: sentence(err)}}) // it may be gone
		}
		return err
	}
	g, l, received, refused := h.admit(&hi, !local)
	if refused != nil {
		a := answer{Refusal: refused}
		if refused.Mismatch {
			a.Hello = h.hello // a stranger is not told whom it has found
		}
		_ = writeMessage(conn, a) // it may be gone
		return &Refused{refused.Kind, refused.Reason}
	}
	if !stays() {
		return errTooMany
	}
	if err := writeMessage(conn, answer{Received: received, Silence: h.silence, Hello: h.hello}); err != nil {
		return err
	}
	_ = socket.SetDeadline(time.Time{}) // a socket that takes none is closed
	w := newWire(conn, socket, secure)
	if !l.attach(w, hi.Attempt, hi.Received) || !g.join(l) {
		w.close()
		return errReplaced
	}
	l.watch(peer, w)
	return nil
}

var errTooMany = errors.New("too many connections try to prove themselves at once")

func (h *Home) admit(hi *greeting, resumable bool) (*Guest, *Link, uint64, *refusal) {
	if err := hi.Hello.check(); err != nil {
		return nil, nil, 0, &refusal{Kind: fault.Of(err), Reason: sentence(err)}
	}
	g := h.guest(hi.ID)
	if g == nil {
		return nil, nil, 0, unknown()
	}
	l, received, refused := g.admit(hi, resumable)
	return g, l, received, refused
}

func (h *Home) guest(id string) *Guest {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.guests[id]
}

// Expect says that a runner will dial home, which the parent calls by id, a text of at most 1024 bytes. It is expected
// until it came or [Guest.Cancel] is called. fault.Conflict: one of that id is expected already, or linked.
// fault.Unavailable: the home is closed.
func (h *Home) Expect(id string) (*Guest, error) {
	if id == "" || len(id) > maxText {
		return nil, fault.Say(fault.Invalid, "link: the id of a runner has %d bytes, and it must have between 1 and %d", len(id), maxText)
	}
	token := newSecret()
	g := &Guest{
		home:    h,
		id:      id,
		token:   digestOf(token),
		invited: Invitation{ID: id, Token: token, Addresses: h.addresses, Pin: h.pin},
		settled: make(chan struct{}),
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return nil, fault.Say(fault.Unavailable, "link: the home of runner %s is closed", id)
	case h.guests[id] != nil:
		return nil, fault.Say(fault.Conflict, "link: a runner %s is expected already", id)
	}
	h.guests[id] = g
	return g, nil
}

func (h *Home) forget(g *Guest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.guests[g.id] == g {
		delete(h.guests, g.id)
	}
}

// reachable returns what to advertise for a TCP address that is listened on: itself, or where that is every address of
// the computer, those of its network interfaces, the loopback's last.
func reachable(a net.Addr) []string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return []string{a.String()}
	}
	port := strconv.Itoa(tcp.Port)
	found, _ := net.InterfaceAddrs() // where they cannot be asked for, there is still the loopback
	var global, loopback []string
	for _, f := range found {
		n, ok := f.(*net.IPNet)
		switch {
		case !ok || n.IP.IsLinkLocalUnicast():
		case n.IP.IsLoopback():
			loopback = append(loopback, net.JoinHostPort(n.IP.String(), port))
		default:
			global = append(global, net.JoinHostPort(n.IP.String(), port))
		}
	}
	if len(global) > maxAdvertised {
		global = global[:maxAdvertised]
	}
	if len(loopback) == 0 {
		loopback = []string{net.JoinHostPort("127.0.0.1", port)}
	}
	return append(global, loopback[0])
}

// maxAdvertised is how many addresses of a computer with many interfaces are named.
const maxAdvertised = 8
