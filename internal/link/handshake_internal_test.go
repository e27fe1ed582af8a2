package link

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// mute is a network on which every connection is made, or not even that, and nobody ever says anything.
type mute struct {
	connects, reads bool
	accept          chan net.Conn // gets the other ends, for a home
}

func (m *mute) Listen(context.Context, string) (net.Listener, error) { return &muteListener{m}, nil }

func (m *mute) Dial(ctx context.Context, _ string) (net.Conn, error) {
	if !m.connects {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	here, there := net.Pipe()
	if m.accept != nil {
		m.accept <- there
	} else if m.reads {
		go func() { _, _ = io.Copy(io.Discard, there) }() // until here is closed
	}
	return here, nil
}

type muteListener struct{ *mute }

func (l *muteListener) Accept() (net.Conn, error) {
	conn, open := <-l.accept
	if !open {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (l *muteListener) Close() error {
	close(l.accept)
	return nil
}

func (*muteListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7} }

// mutes are the ways in which a handshake can take for ever.
func mutes() map[string]*mute {
	return map[string]*mute{
		"no connection is made":       {},
		"nobody reads the greeting":   {connects: true},
		"nobody answers the greeting": {connects: true, reads: true},
	}
}

// stuckDialer is a runner's whose parent is at the other end of such a network.
func stuckDialer(t *testing.T, m *mute) *dialer {
	t.Helper()
	_, pin, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	i := Invitation{ID: "r", Token: newSecret(), Addresses: []string{tcpPrefix + "127.0.0.1:7"}, Pin: pin}
	return &dialer{network: m, invitation: i, hello: Hello{Build: "b"}, secret: newSecret(), timeout: handshakeTimeout}
}

func TestARunnerThatIsToldToEndInItsHandshakeEndsAtOnce(t *testing.T) {
	t.Parallel()
	for name, m := range mutes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := stuckDialer(t, m)
				told, tell := context.WithCancel(t.Context())
				time.AfterFunc(3*time.Second, tell)
				began := time.Now()
				_, err := DialOver(told, m, &d.invitation, d.hello)
				if took := time.Since(began); fault.Of(err) != fault.Unavailable || !errors.Is(err, context.Canceled) || took != 3*time.Second {
					t.Errorf("Dial of who is told to end after 3 s: got error %v after %v, want at once that it was", err, took)
				}
			})
		})
	}
}

func TestALinkThatEndsInTheHandshakeOfANewConnectionEndsAtOnce(t *testing.T) {
	t.Parallel()
	for name, m := range mutes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for how, end := range map[string]struct {
				with func(*Link)
				took time.Duration
			}{
				"given up":        {func(l *Link) { l.Lose(errors.New("the machine is gone")) }, 0},
				"closed in order": {func(l *Link) { l.Close(nil) }, linger},
			} {
				synctest.Test(t, func(t *testing.T) {
					runner := newLink("r", Hello{}, MaxSilence)
					runner.resumable, runner.redial = true, stuckDialer(t, m).dial
					served := make(chan error, 1)
					go func() { served <- runner.Serve(ignore) }()
					time.Sleep(3 * time.Second)
					began := time.Now()
					end.with(runner)
					<-served
					if took := time.Since(began); took != end.took {
						t.Errorf("a link that is %s while it is in a handshake: it ended after %v, want %v", how, took, end.took)
					}
				})
			}
		})
	}
}

func TestAHomeThatEndsDoesNotWaitForHandshakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &mute{connects: true, accept: make(chan net.Conn, 1)}
		home, err := NewHome(Hello{Build: "b"}, &HomeOptions{Listen: "127.0.0.1:0", Network: m})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- home.Run(ctx) }()
		conn, err := m.Dial(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		began := time.Now()
		cancel()
		<-ended
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || time.Since(began) != 0 {
			t.Errorf("a runner in its handshake with a home that ends: it reads error %v after %v, want the end at once", err, time.Since(began))
		}
	})
}
