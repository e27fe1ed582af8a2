package link_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/link"
)

// cutter stands between runners and a home and cuts connections, each after as many bytes as budget says for it.
type cutter struct {
	net.Listener
	target  string
	mu      sync.Mutex
	count   int
	open    map[net.Conn]bool // guarded by mu
	budget  func(connection int) int64
	working sync.WaitGroup
}

func newCutter(t *testing.T, target string, budget func(int) int64) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l, target: target, budget: budget, open: map[net.Conn]bool{}}
	c.working.Go(c.accept)
	t.Cleanup(func() {
		l.Close()
		c.cutAll()
		c.working.Wait()
	})
	return c
}

func (c *cutter) accept() {
	for {
		near, err := c.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", c.target)
		if err != nil {
			near.Close()
			continue
		}
		c.mu.Lock()
		left := c.budget(c.count)
		c.count++
		c.open[near], c.open[far] = true, true
		c.mu.Unlock()
		for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
			c.working.Go(func() {
				_, _ = io.Copy(way[0], io.LimitReader(way[1], left)) // a cut is no error here
				c.cut(near, far)
			})
		}
	}
}

func (c *cutter) cut(conns ...net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range conns {
		conn.Close()
		delete(c.open, conn)
	}
}

// cutAll cuts everything at once.
func (c *cutter) cutAll() {
	c.mu.Lock()
	conns := slices.Collect(maps.Keys(c.open))
	c.mu.Unlock()
	c.cut(conns...)
}

func TestARunnerComesBackHoweverOftenItsConnectionsAreCut(t *testing.T) {
	t.Parallel()
	guest, i := expect(t, newHome(t, &link.HomeOptions{Silence: time.Hour}), "r", "tcp:")
	seed := [32]byte{byte(time.Now().UnixNano())}
	t.Logf("seed %d", seed[0])
	random := rand.New(rand.NewChaCha8(seed))
	// The first ones are cut in the handshake, some of them after the parent has let the runner in and before the runner
	// knows; the last ones live.
	between := newCutter(t, strings.TrimPrefix(i.Addresses[0], "tcp:"), func(n int) int64 {
		switch {
		case n < 9:
			return int64(400 * n)
		case n < 60:
			return random.Int64N(120_000)
		default:
			return 1 << 40
		}
	})
	i.Addresses = []string{"tcp:" + between.Addr().String()}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	runner, err := link.Dial(ctx, i, hello())
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	parent, err := guest.Wait(ctx)
	if err != nil {
		t.Fatalf("Wait: %v", err)
	}
	const frames = 1500
	var arrived sync.WaitGroup
	for _, ends := range [][2]*link.Link{{parent, runner}, {runner, parent}} {
		from, to := ends[0], ends[1]
		sizes := rand.New(rand.NewChaCha8(seed))
		go func() {
			for n := range frames {
				frame := make([]byte, 4+sizes.IntN(4000))
				binary.BigEndian.PutUint32(frame, uint32(n))
				if err := from.Send(ctx, frame); err != nil {
					t.Errorf("Send of frame %d: %v", n, err)
					return
				}
			}
		}()
		want := rand.New(rand.NewChaCha8(seed))
		next := 0
		arrived.Add(1)
		go func() {
			_ = to.Serve(func(frame []byte) { // why it ends is looked at below
				size := 4 + want.IntN(4000)
				if n := int(binary.BigEndian.Uint32(frame)); n != next || len(frame) != size {
					t.Errorf("got frame %d of %d bytes, want frame %d of %d", n, len(frame), next, size)
				}
				if next++; next == frames {
					arrived.Done()
				}
			})
		}()
	}
	all := make(chan struct{})
	go func() {
		arrived.Wait()
		close(all)
	}()
	select {
	case <-all:
	case <-parent.Done():
		t.Fatalf("the parent's link is over: %v", parent.Err())
	case <-runner.Done():
		t.Fatalf("the runner's link is over: %v", runner.Err())
	case <-ctx.Done():
		t.Fatal("not everything arrived within two minutes")
	}
	between.mu.Lock()
	t.Logf("%d connections", between.count)
	between.mu.Unlock()
	runner.Close(nil)
	<-parent.Done()
	if end, ok := errors.AsType[*link.End](parent.Err()); !ok || end.Lost {
		t.Errorf("the parent's end: got %v, want the runner's goodbye", parent.Err())
	}
}

func TestManyRunnersThatAreCutOffAtOnceAllComeBack(t *testing.T) {
	t.Parallel()
	home := newHome(t, &link.HomeOptions{Silence: time.Hour})
	_, i := expect(t, home, "to know the address", "tcp:")
	between := newCutter(t, strings.TrimPrefix(i.Addresses[0], "tcp:"), func(int) int64 { return 1 << 40 })
	const many = 40
	var parents, runners []*link.Link
	back := make(chan struct{}, many)
	for n := range many {
		guest, i := expect(t, home, fmt.Sprint(n), "tcp:")
		i.Addresses = []string{"tcp:" + between.Addr().String()}
		runner, err := link.Dial(t.Context(), i, hello())
		if err != nil {
			t.Fatal(err)
		}
		parent, err := guest.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = parent.Serve(func([]byte) { back <- struct{}{} }) }()
		go func() { _ = runner.Serve(func(frame []byte) { _ = runner.Post(frame) }) }()
		parents, runners = append(parents, parent), append(runners, runner)
	}
	between.cutAll()
	for _, l := range parents {
		if err := l.Send(t.Context(), []byte("are you back?")); err != nil {
			t.Fatal(err)
		}
	}
	for n := range many {
		select {
		case <-back:
		case <-time.After(time.Minute):
			t.Fatalf("runners that were back within a minute of the one before: got %d, want %d", n, many)
		}
	}
	for _, l := range append(parents, runners...) {
		if l.Err() != nil {
			t.Errorf("runner %s: %v", l.ID(), l.Err())
		}
		l.Lose(nil)
	}
}
