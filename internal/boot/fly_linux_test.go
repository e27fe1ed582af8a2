package boot_test

import (
	"context"
	"errors"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/flyapi"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/fly"
)

// elsewhere hides that a provider of Fly's machines knows that they are on this computer, as those at Fly are not.
type elsewhere struct {
	machine.Provider
	machine.Signaler
}

// flyMachines returns a provider of Fly's machines, which are processes of this computer that Dayfly's Machines API starts.
func flyMachines(t *testing.T) *fly.Provider {
	t.Helper()
	service, err := flyapi.New(t.Context(), flyapi.Options{
		Provider: newLocal(t, place(t)), Apps: []string{"thumbnails"}, Ledger: filepath.Join(t.TempDir(), "fly.db"),
		Images: &flyapi.Images{Known: []flyapi.Image{{Pattern: "registry.fly.io/thumbnails:*", Command: []string{"true"}}}}, MaxCPUs: 1, MaxMemoryMB: 256,
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(service.Handler())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	t.Cleanup(func() {
		server.Close()
		cancel()
		if err := errors.Join(<-done, service.Close()); err != nil {
			t.Errorf("the Machines API ended with %v", err)
		}
	})
	return fly.New("thumbnails", "token", &fly.Options{URL: server.URL, Rate: -1})
}

// atFly is the environment of a parent that runs at Fly. The address stands for that of the private network, which is IPv6,
// where this computer has that.
func atFly(name string) string {
	switch name {
	case "FLY_IMAGE_REF":
		return "registry.fly.io/thumbnails:deployment-01"
	case "FLY_REGION":
		return "ams"
	case "FLY_PRIVATE_IP":
		listener, err := net.Listen("tcp", "[::1]:0")
		if err != nil {
			return "127.0.0.1"
		}
		listener.Close()
		return "::1"
	}
	return ""
}

func TestAtFlyARunnerHasTheImageOfItsParentAndDialsItsPrivateAddress(t *testing.T) {
	t.Parallel()
	inner := flyMachines(t)
	p := &elsewhere{inner, inner}
	b := newBooter(t, p, "runner", func(o *boot.Options) { o.Environment, o.Poll = atFly, 100*time.Millisecond })
	r, echoed := bootOne(t, b)
	send(t, r, "hello")
	if got := <-echoed; got != "hello" {
		t.Errorf("got %q back, want hello", got)
	}
	m, err := p.Get(t.Context(), r.Machine().ID)
	if err != nil || !strings.HasPrefix(m.Image, "registry.fly.io/thumbnails:deployment-01") || !strings.Contains(m.Location, "ams") {
		t.Errorf("got the machine %+v and error %v, want one of the parent's image in its region", m, err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The program is also what keeps the lifetime, as nobody else would at Fly.
	if first := processesWith(t, self+"\x00"+machine.Helper+"\x00init\x00--lifetime\x0010m0s\x00--\x00"+self); len(first) == 0 {
		t.Error("got no process that keeps the machine's lifetime, want the program itself")
	}
	send(t, r, "crash")
	lost := wantLost(t, r)
	if lost.Exit == nil || lost.Exit.Code != 3 {
		t.Errorf("got the exit %+v, want status 3", lost.Exit)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Errorf("Stop: got %v, want nil", err)
	}
	wantGone(t, p, r)
}

func TestWhatNobodyCanKnowIsAskedForInASentence(t *testing.T) {
	t.Parallel()
	inner := flyMachines(t)
	for what, c := range map[string]struct {
		provider    machine.Provider
		environment map[string]string
		change      func(*boot.Options)
		want        string
	}{
		"the image":   {inner, nil, nil, "name an image with this program in the Spec"},
		"the address": {&elsewhere{inner, inner}, map[string]string{"FLY_IMAGE_REF": "registry.fly.io/thumbnails:1"}, nil, "pool's Address"},
		"an address that leads here": {
			inner, nil, func(o *boot.Options) { o.Address = "127.0.0.1:" + taken(t) }, "cannot listen",
		},
		"a port to listen at that is free": {
			inner, nil, func(o *boot.Options) { o.Address, o.Listen = "127.0.0.1:7800", "127.0.0.1:"+taken(t) }, "in the pool's Listen",
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := newBooter(t, c.provider, "runner", func(o *boot.Options) {
				o.Environment = func(name string) string { return c.environment[name] }
				if c.change != nil {
					c.change(o)
				}
			})
			if _, err := b.Boot(t.Context(), fresh()); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Boot: got error %v, want fault.Invalid with %q", err, c.want)
			}
		})
	}
}

// taken returns a port at which another already listens.
func taken(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func TestAnAddressThatIsNamedIsTheWayHome(t *testing.T) {
	t.Parallel()
	inner := flyMachines(t)
	b := newBooter(t, &elsewhere{inner, inner}, "runner", func(o *boot.Options) { o.Environment, o.Address = atFly, "127.0.0.1" })
	r, echoed := bootOne(t, b)
	send(t, r, "hello")
	if got := <-echoed; got != "hello" {
		t.Errorf("got %q back, want hello", got)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Errorf("Stop: got %v, want nil", err)
	}
}
