package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// homes tells the machines of each provider where this server is. A machine that cannot reach this computer's loopback,
// such as a container, finds it at the address that this computer has in the machines' own network. The server listens
// there from the moment on at which such a machine is first wanted. It listens for machines: whoever comes by there needs a
// token, an attempt's or a user's, also when nobody else does.
type homes struct {
	front     *front
	dir       string
	fixed     map[string]string
	providers map[string]machine.Provider
	logger    *slog.Logger
	passing   bool   // the server lives in a command, at no address that anybody knows before
	program   string // what to call the dayfly command

	mu    sync.Mutex
	open  map[string]string        // guarded by mu: URLs by provider
	tries map[string]chan struct{} // guarded by mu: providers that are being asked
}

func newHomes(o *Options, f *front) *homes {
	return &homes{
		front: f, dir: o.DataDir, fixed: o.MachineURLs, providers: o.Providers, logger: o.Logger,
		passing: o.Passing, program: cmp.Or(o.Program, "dayfly"),
		open: map[string]string{}, tries: map[string]chan struct{}{},
	}
}

// portFile is the file in the data directory that holds the port on which machines of a provider were last listened for.
func portFile(provider string) string { return "port-" + provider }

// url is the base URL as machines of a provider see it.
func (h *homes) url(ctx context.Context, provider string) (string, error) {
	if url := h.fixed[provider]; url != "" {
		return strings.TrimRight(url, "/"), nil
	}
	gateway, separate := h.providers[provider].(machine.Gateway)
	switch {
	case h.front.fixed != "":
		return h.front.fixed, nil
	case !separate:
		return h.front.localURL, nil
	}
	for {
		h.mu.Lock()
		url, tried := h.open[provider], h.tries[provider]
		if url == "" && tried == nil {
			tried = make(chan struct{})
			h.tries[provider] = tried
			h.mu.Unlock()
			url, err := h.listen(ctx, provider, gateway)
			h.mu.Lock()
			if err == nil {
				h.open[provider] = url
			}
			delete(h.tries, provider)
			h.mu.Unlock()
			close(tried)
			return url, err
		}
		h.mu.Unlock()
		if url != "" {
			return url, nil
		}
		select {
		case <-tried:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// listen opens the listener for machines of a provider and returns its URL.
func (h *homes) listen(ctx context.Context, provider string, gateway machine.Gateway) (string, error) {
	const advice = "set public_url, or providers.%s.server_url, to a URL of this server that they can reach"
	addr, err := gateway.Gateway(ctx)
	if errors.Is(err, fault.Unsupported) {
		why, _ := fault.Sentence(err)
		if h.passing {
			return "", fault.Say(fault.Invalid, "machines of the provider %s cannot reach a command that serves itself: %s; start a server with "+
				"%s serve and a public_url that they can reach, and try again", provider, why, h.program)
		}
		return "", fault.Say(fault.Invalid, "machines of the provider %s cannot reach this server at %s: %s; "+advice, provider, h.front.localURL, why, provider)
	}
	if err != nil {
		return "", err
	}
	if addr.IsLoopback() { // they share this computer's network
		return h.front.localURL, nil
	}
	file, address := filepath.Join(h.dir, portFile(provider)), net.JoinHostPort(addr.String(), "0")
	listener, err := listenRemembering(file, address, new(net.ListenConfig))
	if errors.Is(err, syscall.EADDRNOTAVAIL) { // the machines' network comes with the first of them
		listener, err = listenRemembering(file, address, &net.ListenConfig{Control: bindEarly})
	}
	if err != nil {
		return "", fault.Say(fault.Unavailable, "machines of the provider %s cannot be listened for at %s: %v", provider, addr, err)
	}
	url := urlOf("http", listener.Addr())
	select {
	case h.front.late <- &machineListener{newLimitedListener(listener.(*net.TCPListener), h.front.slots)}:
		h.logger.Info("listening for machines", "provider", provider, "url", url)
		return url, nil
	case <-ctx.Done():
		return "", errors.Join(ctx.Err(), listener.Close())
	}
}

// run listens where machines of an earlier server may look for this one, until ctx ends or all of it is done. That no
// provider answers keeps nobody from anything else.
func (h *homes) run(ctx context.Context) error {
	var group sync.WaitGroup
	for name, provider := range h.providers {
		if _, separate := provider.(machine.Gateway); !separate || h.fixed[name] != "" || h.front.fixed != "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(h.dir, portFile(name))); err != nil {
			continue // no machine of this provider was ever told of a server
		}
		group.Go(func() {
			for pause := 100 * time.Millisecond; ; pause = min(2*pause, time.Minute) {
				_, err := h.url(ctx, name)
				if err == nil || fault.Of(err) == fault.Invalid {
					return
				}
				select {
				case <-ctx.Done():
					return
				case <-time.After(pause):
				}
			}
		})
	}
	group.Wait()
	<-ctx.Done()
	return nil
}

// machineListener is a listener for machines.
type machineListener struct{ net.Listener }

// machineConn is a connection to such a one.
type machineConn struct{ *limitedConn }

// Accept implements net.Listener.
func (l *machineListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return machineConn{conn.(*limitedConn)}, nil
}

type machineKey struct{}

// markMachines marks the context of requests that come by a listener for machines.
func markMachines(ctx context.Context, c net.Conn) context.Context {
	if _, ok := c.(machineConn); ok {
		return context.WithValue(ctx, machineKey{}, true)
	}
	return ctx
}

// fromMachine reports whether a request came by a listener for machines.
func fromMachine(r *http.Request) bool { return r.Context().Value(machineKey{}) != nil }
