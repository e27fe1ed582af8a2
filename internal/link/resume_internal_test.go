package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/fault"
)

// swallows is a number of lost bytes for a connection that never breaks and takes everything.
const swallows = 1 << 40

// flaky is an end of a connection that breaks after its budget. Bytes beyond its deliveries are taken from the writer
// and never arrive, as those are that were in the buffers of a network when it was cut.
type flaky struct {
	net.Conn
	mu       sync.Mutex
	delivers int // how many more bytes arrive; below 0: all
	takes    int // how many more bytes are taken and lost after those
}

func (f *flaky) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.delivers < 0 {
		return f.Conn.Write(p)
	}
	n := min(len(p), f.delivers)
	f.delivers -= n
	if n > 0 {
		if m, err := f.Conn.Write(p[:n]); err != nil {
			return m, err
		}
	}
	lost := min(len(p)-n, f.takes)
	f.takes -= lost
	switch {
	case n+lost < len(p) || f.delivers == 0 && f.takes == 0:
		f.Conn.Close()
	case lost > 0 && f.takes < swallows/2:
		time.AfterFunc(time.Millisecond, func() { f.Conn.Close() })
	}
	if n+lost < len(p) {
		return n + lost, io.ErrClosedPipe
	}
	return len(p), nil
}

// fate is when a connection breaks: after so many bytes to the parent or to the runner, and how many are lost besides.
type fate struct{ toParent, toRunner, lost int }

// network connects the two ends of a link anew whenever the runner dials, and lets each connection have its fate.
type network struct {
	mu     sync.Mutex
	parent *Link
	fates  []fate
	dials  uint64
}

func (n *network) dial(_ context.Context, received uint64) (*connection, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := fate{-1, -1, 0}
	if len(n.fates) > 0 {
		f, n.fates = n.fates[0], n.fates[1:]
	}
	a, b := net.Pipe()
	n.dials++
	has, ok := n.parent.detach(n.dials)
	if !ok {
		return nil, &Refused{fault.Conflict, "the link is over"}
	}
	toRunner := &flaky{Conn: a, delivers: f.toRunner, takes: f.lost}
	toParent := &flaky{Conn: b, delivers: f.toParent, takes: f.lost}
	if !n.parent.attach(newWire(toRunner, toRunner, nil), n.dials, received) {
		return nil, &Refused{fault.Conflict, "the link is over"}
	}
	return &connection{wire: newWire(toParent, toParent, nil), answer: answer{Received: has}}, nil
}

// flakyPair returns both ends of a link over a network whose connections have these fates, one after the other.
func flakyPair(silence time.Duration, fates []fate) (parent, runner *Link, n *network) {
	parent, runner = newLink("r", Hello{}, silence), newLink("r", Hello{}, silence)
	parent.resumable, runner.resumable = true, true
	n = &network{parent: parent, fates: fates}
	runner.redial = n.dial
	return parent, runner, n
}

// checker is a handler that wants frames 0, 1, 2 … of the sizes that were sent, each once and in order.
type checker struct {
	sizes []int
	next  int
	wrong error
	done  chan struct{}
}

func newChecker(sizes []int) *checker {
	c := &checker{sizes: sizes, done: make(chan struct{})}
	if len(sizes) == 0 {
		close(c.done)
	}
	return c
}

func (c *checker) handle(f []byte) {
	switch {
	case c.wrong != nil:
		return
	case c.next >= len(c.sizes):
		c.wrong = fmt.Errorf("a frame of %d bytes arrived after the last one", len(f))
		return
	}
	want := frameOf(c.next, c.sizes[c.next])
	if string(f) != string(want) {
		c.wrong = fmt.Errorf("frame %d: got %d bytes, want the %d that were sent", c.next, len(f), len(want))
		close(c.done)
		return
	}
	c.next++
	if c.next == len(c.sizes) {
		close(c.done)
	}
}

// frameOf returns the frame with a number, whose bytes tell its number and place.
func frameOf(number, size int) []byte {
	f := make([]byte, size)
	for i := range f {
		f[i] = byte(number*31 + i*7)
	}
	if size >= 4 {
		binary.BigEndian.PutUint32(f, uint32(number))
	}
	return f
}

// exchange sends frames of these sizes both ways over connections with these fates, and returns what was wrong.
func exchange(toParent, toRunner []int, fates []fate) error {
	parent, runner, _ := flakyPair(time.Minute, fates)
	atParent, atRunner := newChecker(toParent), newChecker(toRunner)
	var serving sync.WaitGroup
	serving.Go(func() { _ = parent.Serve(atParent.handle) }) // it ends as it should, which is looked at below
	serving.Go(func() {
		_ = runner.Serve(func(frame []byte) {
			turn, third := runner.Turn(), len(frame)%3 == 0
			atRunner.handle(frame)
			if third {
				runner.Pass(turn)
			}
		})
	})
	failed := make(chan error, 2)
	send := func(l *Link, sizes []int) {
		for i, s := range sizes {
			if err := l.Send(context.Background(), frameOf(i, s)); err != nil {
				failed <- fmt.Errorf("Send of frame %d: %w", i, err)
				return
			}
		}
	}
	go send(runner, toParent)
	go send(parent, toRunner)
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	for _, c := range []*checker{atParent, atRunner} {
		select {
		case <-c.done:
		case err := <-failed:
			return err
		case <-limit.C:
			return errors.New("not everything arrived within 30 s")
		}
	}
	runner.Close(nil)
	serving.Wait()
	for _, c := range []*checker{atParent, atRunner} {
		if c.wrong != nil {
			return c.wrong
		}
	}
	if end, ok := errors.AsType[*End](parent.Err()); !ok || end.Lost {
		return fmt.Errorf("the parent's end: got %w, want the runner's goodbye", parent.Err())
	}
	return nil
}

func TestNothingIsLostOrDoubledWhereverAConnectionIsCut(t *testing.T) {
	t.Parallel()
	sizes := []int{5, 0, 1, 17, 40}
	total := 0
	for _, s := range sizes {
		total += headerSize + s
	}
	for at := range total + 1 {
		for _, lost := range []int{0, 1, 9, 1000} {
			for name, f := range map[string]fate{"to parent": {at, -1, lost}, "to runner": {-1, at, lost}, "both": {at, at, lost}} {
				if err := exchange(sizes, sizes, []fate{f}); err != nil {
					t.Fatalf("a cut %s after %d bytes, with %d more lost: %v", name, at, lost, err)
				}
			}
		}
	}
}

func TestWhatIsAtOrAfterWhatWasTriedHasNeverArrived(t *testing.T) {
	t.Parallel()
	certain := 0
	rapid.Check(t, func(t *rapid.T) {
		fates := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) fate {
			return fate{-1, rapid.IntRange(0, 3000).Draw(t, "delivered"), rapid.IntRange(0, 300).Draw(t, "lost")}
		}), 1, 4).Draw(t, "fates")
		sizes := rapid.SliceOfN(rapid.IntRange(1, 1000), 1, 20).Draw(t, "sizes")
		parent, runner, n := flakyPair(time.Hour, fates)
		dial := runner.redial
		out := make(chan struct{})
		runner.redial = func(ctx context.Context, received uint64) (*connection, error) {
			if n.dials == uint64(len(fates)) { // the network is gone for good
				close(out)
				<-runner.Done()
				return nil, errors.New("no route to the parent")
			}
			return dial(ctx, received)
		}
		arrived := 0
		s := serve(parent, runner, ignore, func([]byte) { arrived++ })
		var positions []uint64
		send := func(size int) {
			position, err := parent.SendAt(context.Background(), frameOf(len(positions), size))
			if err != nil {
				t.Fatal(err)
			}
			positions = append(positions, position)
		}
		for _, size := range sizes {
			send(size)
		}
		send(20_000) // more than arrives over all connections
		<-out
		<-parent.Cuts()
		send(10)
		for _, l := range []*Link{parent, runner} {
			l.Lose(errors.New("the machine is gone"))
		}
		s.Wait()
		tried := parent.Tried()
		for i, position := range positions {
			if position < tried {
				continue
			}
			certain++
			if i < arrived {
				t.Fatalf("frame %d at %d: got it arrived, want none to that is after %d", i, position, tried)
			}
		}
		if last := positions[len(positions)-1]; last < tried {
			t.Fatalf("a frame at %d was sent while there was no connection: got %d tried, want it known never to have arrived", last, tried)
		}
	})
	if certain <= 100 {
		t.Errorf("got %d frames known never to have arrived, want others beside those that were sent without a connection", certain)
	}
}

func TestWhatHasArrivedStaysTriedWhenLaterConnectionsCarryNothing(t *testing.T) {
	t.Parallel()
	parent, runner, _ := flakyPair(time.Hour, []fate{{0, -1, 0}, {0, -1, 0}})
	arrived := make(chan struct{})
	back := make(chan struct{}, 10)
	dial := runner.redial
	runner.redial = func(ctx context.Context, received uint64) (*connection, error) {
		defer func() { back <- struct{}{} }()
		return dial(ctx, received)
	}
	s := serve(parent, runner, ignore, func([]byte) { close(arrived) })
	position, err := parent.SendAt(t.Context(), []byte("it"))
	if err != nil {
		t.Fatal(err)
	}
	<-arrived
	<-back
	if err := runner.Send(t.Context(), []byte("breaks the first connection, and the second when it is sent again")); err != nil {
		t.Fatal(err)
	}
	<-back
	<-back
	for _, l := range []*Link{parent, runner} {
		l.Lose(errors.New("the machine is gone"))
	}
	s.Wait()
	if tried := parent.Tried(); tried <= position {
		t.Errorf("got %d tried, want more than the %d at which a frame is that has arrived", tried, position)
	}
}

func TestNothingIsLostOrDoubledOverAnyCuts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.OneOf(rapid.IntRange(0, 40), rapid.IntRange(0, 5000), rapid.IntRange(40_000, 200_000))
		sizes := rapid.SliceOfN(size, 0, 12)
		budget := rapid.OneOf(rapid.IntRange(0, 60), rapid.IntRange(0, 400_000), rapid.Just(-1))
		fates := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) fate {
			return fate{budget.Draw(t, "to parent"), budget.Draw(t, "to runner"), rapid.IntRange(0, 100_000).Draw(t, "lost")}
		}), 0, 8).Draw(t, "fates")
		if err := exchange(sizes.Draw(t, "sizes to parent"), sizes.Draw(t, "sizes to runner"), fates); err != nil {
			t.Fatal(err)
		}
	})
}
