package boot

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
)

// home is where the runners of a pool dial home to.
type home struct {
	*link.Home
	elsewhere bool   // runners are, and have no use for a Unix socket
	advertise string // the host, or host and port, that runners are told in place of what the home knows; "": that
}

// flyAddress is the variable in which a machine at Fly finds its own address in the private network of its organization.
const flyAddress = "FLY_PRIVATE_IP"

// reach returns the home, and makes it when it is first asked for.
func (b *Booter) reach(ctx context.Context) (*home, error) {
	select {
	case b.finding <- struct{}{}:
		defer func() { <-b.finding }()
	case <-ctx.Done():
		return nil, canceled(ctx)
	}
	b.mu.Lock()
	found := b.home
	b.mu.Unlock()
	if found != nil {
		return found, nil
	}
	listen, advertise, err := b.way(ctx)
	if err != nil {
		return nil, err
	}
	made, err := b.newHome(listen)
	if host, _, _ := net.SplitHostPort(listen); errors.Is(err, syscall.EADDRNOTAVAIL) && advertise == "" {
		// The address comes with the first machine, as that of a network of Podman's does, or it is that of another computer.
		listen, advertise = ":0", host
		made, err = b.newHome(listen)
	}
	if err != nil {
		return nil, b.unlistenable(listen, err)
	}
	found = &home{made, listen != "", advertise}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.home = found
	b.work.Go(func() { _ = made.Run(b.life) }) // always nil
	return found, nil
}

func (b *Booter) newHome(listen string) (*link.Home, error) {
	return link.NewHome(b.hello, &link.HomeOptions{Listen: listen, Silence: b.options.Silence, Logger: b.log, Network: b.options.Network})
}

// way says where to listen for runners, and by which address they get there if not by that.
func (b *Booter) way(ctx context.Context) (listen, advertise string, err error) {
	if b.options.Network != nil {
		return ":0", "", nil
	}
	if address := b.options.Address; address != "" {
		if b.options.Listen != "" {
			return b.options.Listen, address, nil
		}
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			port = "0"
		}
		return ":" + port, address, nil
	}
	if _, here := b.provider.(*local.Provider); here {
		return "", "", nil // a Unix socket
	}
	if gateway, ok := b.provider.(machine.Gateway); ok {
		address, err := gateway.Gateway(ctx)
		if err == nil {
			return net.JoinHostPort(address.String(), "0"), "", nil
		}
		if !errors.Is(err, fault.Unsupported) {
			return "", "", err
		}
	}
	if address := b.options.Environment(flyAddress); address != "" {
		return net.JoinHostPort(address, "0"), "", nil
	}
	return "", "", fault.Say(fault.Invalid, "The machines of pool %s are elsewhere, and nobody knows by which address they reach this process; "+
		"name it in the pool's Address, such as 203.0.113.7:7800.", b.pool)
}

// unlistenable says why the home could not be made.
func (b *Booter) unlistenable(listen string, err error) error {
	if !errors.Is(err, fault.Unavailable) || listen == "" {
		return err
	}
	if b.options.Listen != "" {
		return fault.Say(fault.Invalid, "The pool %s cannot listen at %s (%v); name an address of this computer and a free port in the pool's Listen.",
			b.pool, listen, err)
	}
	return fault.Say(fault.Invalid, "The machines of pool %s would reach this process at %s, where it cannot listen (%v); "+
		"name an address that leads here in the pool's Address, and where to listen in Listen if something else listens there.", b.pool, listen, err)
}

// invite returns the invitation of a guest, with the addresses that lead here from its machine.
func (h *home) invite(guest *link.Guest) link.Invitation {
	invitation := guest.Invitation()
	if !h.elsewhere {
		return invitation
	}
	const tcp = "tcp:"
	invitation.Addresses = slices.DeleteFunc(invitation.Addresses, func(a string) bool { return !strings.HasPrefix(a, tcp) })
	if h.advertise == "" {
		return invitation
	}
	at := h.advertise
	if _, _, err := net.SplitHostPort(at); err != nil && len(invitation.Addresses) > 0 {
		_, port, _ := net.SplitHostPort(strings.TrimPrefix(invitation.Addresses[0], tcp)) // the home has made it
		at = net.JoinHostPort(strings.Trim(at, "[]"), port)
	}
	invitation.Addresses = []string{tcp + at}
	invitation.Forwarded = true // nobody knows what is at an address that somebody has named
	return invitation
}
