package docker

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// running returns the container of a machine that runs, suspended or not; fault.Conflict if it does not.
func (p *Provider) running(ctx context.Context, e *engine, id string) (*container.InspectResponse, error) {
	found, err := p.find(ctx, e, id)
	if err != nil {
		return nil, err
	}
	if stateOf(found.State.Status) != machine.Running {
		return nil, fault.Say(fault.Conflict, "the machine %s does not run: it is %s", id, found.State.Status)
	}
	return found, nil
}

// Signal implements machine.Signaler. The init mode passes the signal on to what it started.
func (p *Provider) Signal(ctx context.Context, id, name string) error {
	number := unix.SignalNum(name)
	if number == 0 {
		return fault.Say(fault.Invalid, "%q is not the name of a signal such as SIGTERM", name)
	}
	e, found, err := p.connectTo(ctx, id)
	if err != nil {
		return err
	}
	return p.send(ctx, e, found, id, "send "+name+" to the container ", strconv.Itoa(int(meant(number))))
}

// What the init mode takes as orders, and how it is told which signal is meant for what it started: see package pid1, which
// is its other side.
const (
	suspendOrder  = "suspend"
	resumeOrder   = "resume"
	orderedSignal = "35"
	firstMeant    = 33
	passedAsIs    = 3 // and those below
)

// meant is the signal to send to the init mode so that what it started gets that one.
func meant(s unix.Signal) unix.Signal {
	if s <= passedAsIs || s == unix.SIGKILL {
		return s
	}
	return s + firstMeant
}

// Suspend implements machine.Suspender. The engine's own way, to freeze the container, would also halt what ends it.
func (p *Provider) Suspend(ctx context.Context, id string) error {
	return p.order(ctx, id, suspendOrder)
}

// Resume implements machine.Suspender.
func (p *Provider) Resume(ctx context.Context, id string) error {
	return p.order(ctx, id, resumeOrder)
}

// order gives the init mode an order. It is in a file, so that the last one counts whenever the init mode comes to look: of
// two signals the one with the lower number comes first.
func (p *Provider) order(ctx context.Context, id, order string) error {
	e, found, err := p.connectTo(ctx, id)
	if err != nil {
		return err
	}
	doing := order + " the container "
	file := []machine.File{{Path: orderFile, Data: []byte(order)}}
	if err := p.copyIn(ctx, e, found.ID, func(w io.Writer) error { return writeFiles(w, file) }); err != nil {
		return p.failedIn(ctx, e, doing, id, err)
	}
	return p.send(ctx, e, found, id, doing, orderedSignal)
}

// send sends the init mode a signal. What it has for an effect is there in a moment.
func (p *Provider) send(ctx context.Context, e *engine, found *container.InspectResponse, id, doing, signal string) error {
	if _, err := e.ContainerKill(ctx, found.ID, client.ContainerKillOptions{Signal: signal}); err != nil {
		return p.failedIn(ctx, e, doing, id, err)
	}
	return nil
}

// connectTo returns the engine and the container of a machine that runs.
func (p *Provider) connectTo(ctx context.Context, id string) (*engine, *container.InspectResponse, error) {
	e, err := p.connect()
	if err != nil {
		return nil, nil, err
	}
	found, err := p.running(ctx, e, id)
	return e, found, err
}

// failedIn is failed for what can only be done to a machine that runs, which may have ended in this moment.
func (p *Provider) failedIn(ctx context.Context, e *engine, doing, id string, err error) error {
	if _, look := p.running(ctx, e, id); look != nil {
		return look
	}
	return p.failed(ctx, e, doing+id, err)
}

// Logs implements machine.Logger. The engine keeps the last 32 MiB.
func (p *Provider) Logs(ctx context.Context, id string, follow bool, stdout, stderr io.Writer) error {
	e, err := p.connect()
	if err != nil {
		return err
	}
	found, err := p.find(ctx, e, id)
	if err != nil {
		return err
	}
	stream, err := e.ContainerLogs(ctx, found.ID, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Follow: follow})
	if isGone(err) && ctx.Err() == nil {
		return notFound(id)
	}
	if err != nil {
		return p.failed(ctx, e, "show the output of the container "+id, err)
	}
	defer stream.Close()
	out, errs := remember(stdout), remember(stderr)
	_, err = stdcopy.StdCopy(out, errs, stream)
	if failed := cmp.Or(out.err, errs.err); failed != nil {
		return failed
	}
	if err != nil {
		return p.failed(ctx, e, "go on showing the output of the container "+id, err)
	}
	if ctx.Err() != nil {
		return canceled(ctx)
	}
	return nil
}

// Gateway implements machine.Gateway: it is the address of the bridge that containers are attached to.
func (p *Provider) Gateway(ctx context.Context) (netip.Addr, error) {
	e, err := p.connect()
	if err != nil {
		return netip.Addr{}, err
	}
	if !strings.HasPrefix(e.host, "unix://") {
		return netip.Addr{}, fault.Say(fault.Unsupported, "the engine %s may run on another computer", e.host)
	}
	answer, err := e.NetworkInspect(ctx, p.options.Network, client.NetworkInspectOptions{})
	if errdefs.IsNotFound(err) && ctx.Err() == nil {
		return netip.Addr{}, fault.Say(fault.Invalid, "the engine at %s has no network %s; make it, or correct providers.docker.network", e.host, p.options.Network)
	}
	if err != nil {
		return netip.Addr{}, p.failed(ctx, e, "say how its network "+p.options.Network+" is", err)
	}
	if answer.Network.Driver == "host" {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	}
	addr := gatewayOf(answer.Network.IPAM.Config)
	if !addr.IsValid() {
		return netip.Addr{}, fault.Say(fault.Unsupported, "the network %s of the engine at %s has no address of this computer", p.options.Network, e.host)
	}
	if has, err := hasAddress(addr); err != nil || has {
		return addr, err
	}
	return addr, p.checkAtHome(ctx, e, addr)
}

// gatewayOf is the address of a network's bridge, or none.
func gatewayOf(configs []network.IPAMConfig) netip.Addr {
	for _, config := range configs {
		if config.Gateway.IsValid() {
			return config.Gateway
		}
	}
	for _, config := range configs {
		if config.Subnet.IsValid() { // older engines leave the gateway out when it is the first address
			return config.Subnet.Masked().Addr().Next()
		}
	}
	return netip.Addr{}
}

// hasAddress reports whether this computer has an address now.
func hasAddress(addr netip.Addr) (bool, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false, fmt.Errorf("docker: %w: the addresses of this computer: %w", fault.Internal, err)
	}
	for _, one := range all {
		if prefix, err := netip.ParsePrefix(one.String()); err == nil && prefix.Addr() == addr.Unmap() {
			return true, nil
		}
	}
	return false, nil
}

// checkAtHome reports that an address which this computer does not have never will be its. Docker's bridges are there as
// long as their networks, but Podman makes one for the first container and may remove it with the last.
func (p *Provider) checkAtHome(ctx context.Context, e *engine, addr netip.Addr) error {
	answer, err := e.Info(ctx, client.InfoOptions{})
	if err != nil {
		return p.failed(ctx, e, "say where it runs", err)
	}
	for _, option := range answer.Info.SecurityOptions {
		if strings.Contains(option, "name=rootless") {
			return fault.Say(fault.Unsupported, "the engine at %s is rootless, and the network %s of its containers is one that this computer is not in", e.host, p.options.Network)
		}
	}
	name, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("docker: %w: the name of this computer: %w", fault.Internal, err)
	}
	if name != answer.Info.Name {
		return fault.Say(fault.Unsupported, "containers of the engine at %s reach the computer that they run on at %s, and that is not this one", e.host, addr)
	}
	return nil
}

// rememberingWriter remembers the error of a writer, so that it can be told from those of the reading side.
type rememberingWriter struct {
	io.Writer
	err error
}

// remember wraps a writer; nil discards.
func remember(w io.Writer) *rememberingWriter {
	if w == nil {
		w = io.Discard
	}
	return &rememberingWriter{Writer: w}
}

// Write implements io.Writer.
func (w *rememberingWriter) Write(text []byte) (int, error) {
	n, err := w.Writer.Write(text)
	if err != nil && w.err == nil {
		w.err = err
	}
	return n, err
}
