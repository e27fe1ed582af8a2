package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/api"
)

// front is the server's side towards the network: listeners, URLs and the HTTP server.
type front struct {
	listeners []net.Listener
	publicURL string // for clients
	localURL  string // for this computer
	fixed     string // the configured public URL, or ""
	handler   http.Handler
	slots     chan struct{}     // for connections
	late      chan net.Listener // those that are opened while the server runs
}

// listen opens the listeners. With TLS one more is opened on loopback without it: the commands and the machines of
// this computer come by there, because no certificate is good for a loopback address.
func listen(o *Options) (*front, error) {
	f := &front{
		fixed: strings.TrimRight(o.PublicURL, "/"), slots: make(chan struct{}, o.Connections), late: make(chan net.Listener),
	}
	open := func(address string, config *tls.Config) (net.Listener, error) {
		listener, err := listenRemembering(filepath.Join(o.DataDir, "port"), address, new(net.ListenConfig))
		if err != nil {
			advice := "name another address with --listen"
			if number, ok := errors.AsType[syscall.Errno](err); ok {
				err = number // without the names it was told with
			}
			if errors.Is(err, syscall.EADDRINUSE) {
				advice += ", or end what listens there"
			}
			return nil, fault.Say(fault.Unavailable, "%s cannot be listened on: %v; %s", address, err, advice)
		}
		var limited net.Listener = newLimitedListener(listener.(*net.TCPListener), f.slots)
		if config != nil {
			limited = tls.NewListener(limited, config)
		}
		f.listeners = append(f.listeners, limited)
		return listener, nil
	}
	scheme := "http"
	if o.TLS != nil {
		scheme = "https"
	}
	for _, address := range o.Listen {
		listener, err := open(address, o.TLS)
		if err != nil {
			return f, errors.Join(err, f.close())
		}
		if f.publicURL == "" {
			f.publicURL = urlOf(scheme, listener.Addr())
		}
	}
	f.localURL = f.publicURL
	if o.TLS != nil {
		listener, err := open("127.0.0.1:0", nil)
		if err != nil {
			return f, errors.Join(err, f.close())
		}
		f.localURL = urlOf("http", listener.Addr())
	}
	if f.fixed != "" {
		f.publicURL = f.fixed
	}
	return f, nil
}

// urlOf is the base URL of a listener. One that listens on every address is reached, from here, by loopback.
func urlOf(scheme string, addr net.Addr) string {
	tcp := addr.(*net.TCPAddr)
	ip := tcp.IP
	if ip.IsUnspecified() {
		ip = net.IPv4(127, 0, 0, 1)
	}
	return scheme + "://" + net.JoinHostPort(ip.String(), strconv.Itoa(tcp.Port))
}

// listenRemembering listens on an address. Port 0 takes the port that was used last, which the file holds, if it is free,
// and remembers the one it gets: agents that outlived a server look for the next one where they left it.
func listenRemembering(file, address string, config *net.ListenConfig) (net.Listener, error) {
	listen := func(address string) (net.Listener, error) { return config.Listen(context.Background(), "tcp", address) }
	host, port, err := net.SplitHostPort(address)
	if err != nil || port != "0" {
		return listen(address)
	}
	if data, err := os.ReadFile(file); err == nil {
		last, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 16)
		if err == nil {
			if listener, err := listen(net.JoinHostPort(host, strconv.FormatUint(last, 10))); err == nil {
				return listener, nil
			}
		}
	}
	listener, err := listen(address)
	if err != nil {
		return nil, err
	}
	// Without the memory of it everything works, only less conveniently.
	_ = os.WriteFile(file, []byte(strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)+"\n"), 0o600)
	return listener, nil
}

// baseURL is the base URL as whoever made the request sees it.
func (f *front) baseURL(r *http.Request) string {
	if f.fixed != "" {
		return f.fixed
	}
	if r == nil || r.Host == "" {
		return f.publicURL
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}

func (f *front) close() error {
	var errs []error
	for _, l := range f.listeners {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// newHTTPServer returns an HTTP server with the limits that keep slow and stalled clients from holding resources.
// There is no WriteTimeout: streams and downloads last as long as they last, and watch over themselves.
func newHTTPServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ConnContext:       markMachines,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// patient reports whether a request waits for something to happen, rather than for an answer: when the server stops,
// such a request is told so at once.
func patient(r *http.Request) bool {
	if isFleet(r) { // a parent that waits for a runner, or a runner that waits for a parent
		return true
	}
	switch path.Base(r.URL.Path) {
	case "heartbeat", "heartbeats", "wait", "preparations":
		return true
	case "claim": // of a machine of a pool, which waits for an attempt
		if held, _ := strconv.ParseBool(r.URL.Query().Get("held")); held {
			return true
		}
	case "logs":
		if follow, _ := strconv.ParseBool(r.URL.Query().Get("follow")); follow {
			return true
		}
	}
	return api.WantsEvents(r)
}

// endPatient ends the context of requests that wait when stopping ends.
func endPatient(stopping context.Context, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if patient(r) {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(stopping, cancel)()
			r = r.WithContext(ctx)
		}
		next.ServeHTTP(w, r)
	})
}

// limitedListener accepts only while there are slots for connections; further ones wait in the kernel.
type limitedListener struct {
	*net.TCPListener
	slots chan struct{}
	ended chan struct{}
	end   func()
}

func newLimitedListener(l *net.TCPListener, slots chan struct{}) *limitedListener {
	ended := make(chan struct{})
	return &limitedListener{l, slots, ended, sync.OnceFunc(func() { close(ended) })}
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.ended:
		return nil, net.ErrClosed
	}
	conn, err := l.AcceptTCP()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{conn, sync.OnceFunc(func() { <-l.slots })}, nil
}

// Close implements net.Listener.
func (l *limitedListener) Close() error {
	l.end()
	return l.TCPListener.Close()
}

// limitedConn gives its slot back when it is closed. It embeds the concrete type, whose ReadFrom is what makes the
// kernel send files by itself.
type limitedConn struct {
	*net.TCPConn
	release func()
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	defer c.release()
	return c.TCPConn.Close()
}
