//go:build !linux

package link

import (
	"context"
	"net"

	"github.com/dayfly-run/dayfly/fault"
)

// canKnowPeers is false: without it a Unix socket would admit whoever can reach it.
const canKnowPeers = false

type socket struct {
	listener *net.UnixListener
	path     string
}

func (*socket) close() {}

type process struct{}

func (*process) close() {}

func (*process) watch(*wire) {}

func listenUnix(string) (*socket, error) { return nil, errNoSockets }

func dialUnix(context.Context, string) (net.Conn, error) { return nil, errNoSockets }

func peerOf(net.Conn) (*process, error) { return nil, errNoSockets }

var errNoSockets = fault.Say(fault.Unsupported, "link: on this system a Unix socket does not say whose process is at its other end")

func ownSocket(conn net.Conn) net.Conn { return conn }
