package link

import (
	"context"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// exhausted is the network of a process that has no descriptors left.
type exhausted struct{ closed chan struct{} }

func (e exhausted) Listen(context.Context, string) (net.Listener, error) { return e, nil }

func (exhausted) Dial(context.Context, string) (net.Conn, error) { return nil, syscall.EMFILE }

func (e exhausted) Accept() (net.Conn, error) {
	select {
	case <-e.closed:
		return nil, net.ErrClosed
	default:
		return nil, syscall.EMFILE
	}
}

func (e exhausted) Close() error {
	close(e.closed)
	return nil
}

func (exhausted) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7} }

func TestAHomeOutlivesAnyTimeWithoutDescriptors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		home, err := NewHome(Hello{Build: "b"}, &HomeOptions{Listen: "127.0.0.1:0", Network: exhausted{make(chan struct{})}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- home.Run(ctx) }()
		<-time.After(time.Hour)
		if _, err := home.Expect("r"); err != nil {
			t.Errorf("Expect after an hour in which no connection could be accepted: got %v, want nil", err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
	})
}
