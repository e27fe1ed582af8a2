package dayfly

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// broker speaks to a server as to a provider.
type broker struct {
	client   Client
	base     string // where the paths of the messages begin
	holder   string // who it speaks for
	programs *carrier
	heard    *atomic.Pointer[time.Time] // when the server has last answered, or was first asked
}

func (c *Client) broker(prefix string, names ...string) broker {
	b := broker{client: *c, holder: rand.Text(), heard: &atomic.Pointer[time.Time]{}}
	b.client.patience = -1 // who has a provider knows himself what to ask again
	b.programs = newCarrier(&b.client)
	b.base = strings.TrimSuffix(prefix, "/")
	b.base = b.path(names...)
	return b
}

// logTo is told the logger of the pool that the machines are for.
func (b *broker) logTo(log *slog.Logger) { b.programs.logTo(log) }

func (b *broker) path(parts ...string) string {
	path := b.base
	for _, part := range parts {
		path += "/" + url.PathEscape(part)
	}
	return path
}

// call makes a request. Whatever is not an answer of the server's leaves open what has happened.
func (b *broker) call(ctx context.Context, r request, out any) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("dayfly: %w: %w", fault.Canceled, context.Cause(ctx))
	}
	began := time.Now()
	b.heard.CompareAndSwap(nil, &began)
	err := b.client.call(ctx, r, out)
	if answer, ok := errors.AsType[*answered](err); err == nil || ok && answer.byServer {
		now := time.Now()
		b.heard.Store(&now)
	}
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

// unheard returns for how long the server has not answered anything, though it was asked.
func (b *broker) unheard() time.Duration {
	if last := b.heard.Load(); last != nil {
		return time.Since(*last)
	}
	return 0
}

// Get implements machine.Provider.
func (b *broker) Get(ctx context.Context, id string) (*machine.Machine, error) {
	if id == "" || id == "." || id == ".." {
		return nil, fault.Say(fault.NotFound, "%q is not the id of a machine", id)
	}
	var m machine.Machine
	if err := b.call(ctx, request{method: http.MethodGet, path: b.path("machines", id)}, &m); err != nil {
		return nil, err
	}
	return &m, nil
}

// List implements machine.Provider. It renews the lease of the machines that this provider has made.
func (b *broker) List(ctx context.Context, owner string) ([]*machine.Machine, error) {
	var list wire.Hired
	query := url.Values{"owner": {owner}, "holder": {b.holder}}
	if err := b.call(ctx, request{method: http.MethodGet, path: b.path("machines"), query: query}, &list); err != nil {
		return nil, err
	}
	return list.Machines, nil
}

// Destroy implements machine.Provider.
func (b *broker) Destroy(ctx context.Context, id string) error {
	if id == "" || id == "." || id == ".." {
		return nil
	}
	return b.call(ctx, request{method: http.MethodDelete, path: b.path("machines", id)}, nil)
}

// CheckProgram implements machine.Carrier. It uploads the program, if the server does not have it.
func (b *broker) CheckProgram(ctx context.Context, program *machine.Program) error {
	return b.programs.with(ctx, program, func(program *machine.Program) error {
		return b.call(ctx, request{method: http.MethodPost, path: b.path("programs"), body: program}, nil)
	})
}

// Gateway implements machine.Gateway: it is the address by which the machines reach the server's computer. It is
// fault.Unsupported for a server on another one, since this process is not there.
func (b *broker) Gateway(ctx context.Context) (netip.Addr, error) {
	host := b.client.base.Hostname()
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return netip.Addr{}, fault.Say(fault.Unsupported, "the server at %s is on another computer, and its machines know no way to this one", host)
	}
	var answer wire.HireGateway
	if err := b.call(ctx, request{method: http.MethodGet, path: b.path("gateway")}, &answer); err != nil {
		return netip.Addr{}, err
	}
	address, err := netip.ParseAddr(answer.Address)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("dayfly: %w: the server names no address", fault.Unavailable)
	}
	return address, nil
}
