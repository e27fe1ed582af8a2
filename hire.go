package dayfly

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// Hired is a provider of machines that a server hires out: they are made by one of the server's providers, count against
// the most that it may have, are shown by dayfly machines, and are destroyed by the server when nobody needs them any more.
// Make it with [Client.Provider]. It is safe for concurrent use.
type Hired struct {
	client   Client
	provider string
	holder   string
}

var (
	_ machine.Provider = (*Hired)(nil)
	_ machine.Watcher  = (*Hired)(nil)
	_ machine.Carrier  = (*Hired)(nil)
	_ machine.Gateway  = (*Hired)(nil)
)

// Provider returns the server's provider of that name, such as "docker", as one for a [Pool]. The client's token needs the
// scope hire. It makes no request.
//
// The server keeps the machines for as long as it is asked for a list of them at least once a minute, as a pool does all the
// time, and then for a minute. So whoever has no pool calls Watch.
//
// A Spec's Program is a file of the server's computer, and a pool's is the file of this program; so both run on one computer,
// or Spec.Image holds the program and Spec.Entrypoint starts it.
func (c *Client) Provider(name string) *Hired {
	own := *c
	own.patience = -1 // who has a provider knows himself what to ask again
	return &Hired{client: own, provider: name, holder: rand.Text()}
}

func (h *Hired) path(parts ...string) string {
	path := strings.TrimSuffix(wire.HirePrefix, "/") + "/" + url.PathEscape(h.provider)
	for _, part := range parts {
		path += "/" + url.PathEscape(part)
	}
	return path
}

// call makes a request. Whatever is not an answer of the server's leaves open what has happened.
func (h *Hired) call(ctx context.Context, r request, out any) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("dayfly: %w: %w", fault.Canceled, context.Cause(ctx))
	}
	err := h.client.call(ctx, r, out)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("dayfly: %w: %w", fault.Canceled, context.Cause(ctx))
	case errors.Is(err, fault.Internal), errors.Is(err, fault.TooLarge) && r.body == nil:
		return fmt.Errorf("%w: %w", fault.Unavailable, err)
	}
	return err
}

// Create implements machine.Provider.
func (h *Hired) Create(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	hire := &wire.Hire{Holder: h.holder, Spec: *spec}
	hire.Spec.Program = whereItIs(spec.Program)
	var m machine.Machine
	if err := h.call(ctx, request{method: http.MethodPost, path: h.path("machines"), body: hire}, &m); err != nil {
		return nil, err
	}
	return &m, nil
}

// whereItIs names this program by its file, because it is another for the server.
func whereItIs(program *machine.Program) *machine.Program {
	if program == nil || program.File != machine.ThisProgram {
		return program
	}
	file, err := os.Executable()
	if err != nil {
		return program // which the server does not have
	}
	return &machine.Program{File: file, Args: program.Args}
}

// Get implements machine.Provider.
func (h *Hired) Get(ctx context.Context, id string) (*machine.Machine, error) {
	if id == "" || id == "." || id == ".." {
		return nil, fault.Say(fault.NotFound, "%q is not the id of a machine", id)
	}
	var m machine.Machine
	if err := h.call(ctx, request{method: http.MethodGet, path: h.path("machines", id)}, &m); err != nil {
		return nil, err
	}
	return &m, nil
}

// List implements machine.Provider. It renews the lease of the machines that this provider has made.
func (h *Hired) List(ctx context.Context, owner string) ([]*machine.Machine, error) {
	var list wire.Hired
	query := url.Values{"owner": {owner}, "holder": {h.holder}}
	if err := h.call(ctx, request{method: http.MethodGet, path: h.path("machines"), query: query}, &list); err != nil {
		return nil, err
	}
	return list.Machines, nil
}

// Destroy implements machine.Provider.
func (h *Hired) Destroy(ctx context.Context, id string) error {
	if id == "" || id == "." || id == ".." {
		return nil
	}
	return h.call(ctx, request{method: http.MethodDelete, path: h.path("machines", id)}, nil)
}

// hirePoll is how often Watch asks: often enough for a lease to last when the server cannot be reached for a while.
const hirePoll = time.Second

// listed hides that a provider is a Watcher.
type listed struct{ machine.Provider }

// Watch implements machine.Watcher. It asks for a list every second.
func (h *Hired) Watch(ctx context.Context, owner string) iter.Seq2[*machine.Machine, error] {
	return machine.Watch(ctx, listed{h}, owner, hirePoll)
}

// CheckProgram implements machine.Carrier.
func (h *Hired) CheckProgram(ctx context.Context, program *machine.Program) error {
	return h.call(ctx, request{method: http.MethodPost, path: h.path("programs"), body: whereItIs(program)}, nil)
}

// Gateway implements machine.Gateway: it is the address by which the machines reach the server's computer. It is
// fault.Unsupported for a server on another one, since this process is not there.
func (h *Hired) Gateway(ctx context.Context) (netip.Addr, error) {
	host := h.client.base.Hostname()
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return netip.Addr{}, fault.Say(fault.Unsupported, "the server at %s is on another computer, and its machines know no way to this one", host)
	}
	var answer wire.HireGateway
	if err := h.call(ctx, request{method: http.MethodGet, path: h.path("gateway")}, &answer); err != nil {
		return netip.Addr{}, err
	}
	address, err := netip.ParseAddr(answer.Address)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("dayfly: %w: the server names no address", fault.Unavailable)
	}
	return address, nil
}
