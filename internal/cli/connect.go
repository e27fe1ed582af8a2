package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/app"
	"github.com/dayfly-run/dayfly/server"
)

// connection is a client and what must be ended with it.
type connection struct {
	*dayfly.Client
	local *local // nil when the server was named
}

// connect returns a connection to the server that this invocation is about. See the package comment for which that
// is. The caller closes it.
func (p *program) connect() (*connection, error) {
	if p.server != "" {
		client, err := dayfly.NewClient(p.server, &dayfly.ClientOptions{Token: p.token, HTTPClient: p.telling(), Patience: p.patience()})
		if err != nil {
			return nil, err
		}
		return &connection{Client: client}, nil
	}
	config, err := app.Load(os.Getenv("DAYFLY_CONFIG"), os.Environ())
	if err != nil {
		return nil, err
	}
	l := &local{config: config, version: p.version, program: p.name(), command: p.command, token: p.token}
	client, err := dayfly.NewClient("http://"+localHost, &dayfly.ClientOptions{
		HTTPClient: &http.Client{Transport: l}, Patience: p.patience(),
	})
	if err != nil {
		return nil, err
	}
	return &connection{Client: client, local: l}, nil
}

// telling returns a client that tells somebody at a terminal, once, that the server does not answer and what the command
// waits for. It is nil, which is the default, where nobody watches.
func (p *program) telling() *http.Client {
	if !p.errTTY {
		return nil
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 16
	return &http.Client{Transport: &teller{wire: transport, tell: sync.OnceFunc(func() {
		p.note("%s", p.colored(p.err, dim, plain(fmt.Sprintf("%s does not answer; trying for %v more …", p.server, p.patience()))))
	})}}
}

// teller is an http.RoundTripper that tells when a server cannot be reached.
type teller struct {
	wire http.RoundTripper
	tell func()
}

// RoundTrip implements http.RoundTripper.
func (t *teller) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.wire.RoundTrip(req)
	if err != nil && req.Context().Err() == nil {
		t.tell()
	}
	return resp, err
}

// patience is how long a command waits for a server that does not answer: somebody at a terminal wants to know soon,
// a script's job must survive a server's restart.
func (p *program) patience() time.Duration {
	if p.errTTY {
		return 20 * time.Second
	}
	return time.Minute
}

// close ends the server that this process has been, if it has been one. Jobs that run go on running: whoever opens
// the state directory next learns how they ended.
func (c *connection) close() error {
	if c.local == nil {
		return nil
	}
	return c.local.close()
}

// localHost is the host that stands for whoever serves the state directory.
const localHost = "dayfly.localhost"

// local is an http.RoundTripper to whoever serves the state directory. It finds out who that is when it is first
// used, and again whenever that process is gone: if nobody serves it, this process does. So a command that waits for
// a job that was started through another command's server outlives that server without noticing.
type local struct {
	config  *app.Config
	version string
	program string // what to call it in advice
	command string // of this process, for others to read
	token   string // given by the user, or ""
	prepare bool   // a job will be submitted

	mu       sync.Mutex
	base     string            // host:port of who serves now, or ""
	owner    string            // the token that whoever owns the directory may use
	known    map[string]bool   // every host:port that has served: URLs handed out earlier name them
	embedded *embedded         // this process, when it serves
	wire     http.RoundTripper // made with the first request
}

// embedded is a server inside this process.
type embedded struct {
	running *server.Server
	stop    context.CancelFunc
	done    chan error
}

// RoundTrip sends the request to whoever serves the state directory now. A connection that fails is forgotten, and
// the client's next try finds out anew.
func (l *local) RoundTrip(req *http.Request) (*http.Response, error) {
	base, token, err := l.resolve(req.Context())
	if err != nil {
		return nil, err
	}
	out := req.Clone(req.Context())
	l.mu.Lock()
	ours := req.URL.Host == localHost || l.known[req.URL.Host]
	wire := l.wire
	l.mu.Unlock()
	if ours {
		out.URL.Host, out.Host = base, base
	}
	if req.URL.Host == localHost && token != "" { // not to signed URLs, which carry their own authority
		out.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := wire.RoundTrip(out)
	if err != nil && ours && req.Context().Err() == nil {
		l.forget(base)
	}
	return resp, err
}

func (l *local) forget(base string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.base == base && l.embedded == nil {
		l.base = ""
	}
}

// resolve returns the address of whoever serves the state directory, and the token to use there.
func (l *local) resolve(ctx context.Context) (base, token string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.base == "" {
		owner, err := server.FindOwner(l.config.DataDir)
		switch {
		case errors.Is(err, fault.NotFound):
			if err := l.serve(ctx); err != nil && !errors.Is(err, fault.Conflict) { // a conflict: somebody else was quicker
				return "", "", err
			}
		case err != nil:
			return "", "", err
		case owner.URL != "":
			l.base, l.owner = hostOf(owner.URL), owner.Token
		}
		if l.base == "" { // its owner has just begun and does not listen yet
			select {
			case <-ctx.Done():
				return "", "", ctx.Err()
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	if l.known == nil {
		l.known = map[string]bool{}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.Proxy = nil // it is this computer
		transport.MaxIdleConnsPerHost = 16
		l.wire = transport
	}
	l.known[l.base] = true
	if l.token != "" {
		return l.base, l.token, nil
	}
	return l.base, l.owner, nil
}

// serve makes this process the one that serves the state directory.
func (l *local) serve(ctx context.Context) error {
	config := *l.config
	config.Listen = []string{"127.0.0.1:0"}
	config.PublicURL, config.TLS, config.Providers.Fly.ServerURL = "", app.TLS{}, "" // nobody outside finds this one
	// Logs of a server inside a command would drown what the command says; what matters comes back as errors.
	config.Log.Level = "error"
	running, err := app.Start(ctx, &config, &app.StartOptions{
		Version: l.version, Program: l.program, Command: l.command, Embedded: true, Prepare: l.prepare,
	})
	if err != nil {
		return app.Locate(err, os.Getenv("DAYFLY_CONFIG"), os.Environ())
	}
	serveCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.embedded = &embedded{running, stop, make(chan error, 1)}
	go func() { l.embedded.done <- running.Run(serveCtx) }()
	l.base, l.owner = hostOf(running.LocalURL()), running.Token()
	if l.prepare {
		return nil // a job is submitted, and what became of others is not asked
	}
	return within(ctx, reuniteFor, running.Reunite)
}

// hostOf returns the host and port of a URL that a server has said of itself.
func hostOf(base string) string { return strings.TrimPrefix(base, "http://") }

// served reports whether somebody serves the state directory already.
func (l *local) served() bool {
	owner, err := server.FindOwner(l.config.DataDir)
	return err == nil && owner.URL != ""
}

// How long a command that serves itself does so for others. What is left then is done by whoever opens the state
// directory next.
const (
	reuniteFor = time.Second      // for what agents held back while there was no server
	launchFor  = 15 * time.Second // for jobs to begin on their machines
	settleFor  = 3 * time.Second  // for the machines of ended jobs to be destroyed
)

// within waits for something, but not longer than limit.
func within(ctx context.Context, limit time.Duration, wait func(context.Context) error) error {
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	if err := wait(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// launched waits until a job that this command leaves behind has begun, and says so if it has not: without a server it
// waits then for the next one.
func (p *program) launched(ctx context.Context, c *connection, id string) error {
	served := c.local.server()
	if served == nil {
		return nil
	}
	if err := within(ctx, launchFor, served.Launch); err != nil {
		return err
	}
	job, err := c.Job(ctx, id)
	if err != nil {
		return err
	}
	switch job.State {
	case dayfly.Scheduled, dayfly.Queued, dayfly.Starting:
		p.note("%s waits, and no server runs: the next dayfly command, or %s serve, starts it.", id, p.name())
	}
	return nil
}

// server returns the server inside this process, or nil. It may be called on nil.
func (l *local) server() *server.Server {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.embedded == nil {
		return nil
	}
	return l.embedded.running
}

func (l *local) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire != nil {
		l.wire.(*http.Transport).CloseIdleConnections()
	}
	if l.embedded == nil {
		return nil
	}
	select {
	case err := <-l.embedded.done: // it could not go on
		return ended(err)
	default:
	}
	// A signal ends these waits, not the process: what they wait for goes on with the next server.
	ctx, release := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer release()
	running := l.embedded.running
	err := errors.Join(within(ctx, launchFor, running.Launch), within(ctx, settleFor, running.Settle))
	l.embedded.stop()
	return ended(errors.Join(err, <-l.embedded.done))
}

// ended says of which server an error is.
func ended(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("the server inside this command did not end well: %w", err)
}
