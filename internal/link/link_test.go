package link_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/link"
)

func hello() link.Hello { return link.Hello{Build: "build-1", Program: "test", PID: 1} }

// ways are the two ways in which a runner can reach its parent.
func ways() map[string]string { return map[string]string{"socket": "unix:", "TLS": "tcp:"} }

// newHome returns a home that runs until the test ends.
func newHome(t testing.TB, o *link.HomeOptions) *link.Home {
	t.Helper()
	if o == nil {
		o = &link.HomeOptions{}
	}
	if o.Dir == "" {
		o.Dir = t.TempDir() + "/home"
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	home, err := link.NewHome(hello(), o)
	if err != nil {
		t.Fatalf("NewHome: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- home.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
	})
	return home
}

// expect returns a guest and its invitation with the addresses of one way only.
func expect(t testing.TB, home *link.Home, id, way string) (*link.Guest, *link.Invitation) {
	t.Helper()
	guest, err := home.Expect(id)
	if err != nil {
		t.Fatalf("Expect(%s): %v", id, err)
	}
	i := guest.Invitation()
	var addresses []string
	for _, a := range i.Addresses {
		if strings.HasPrefix(a, way) {
			addresses = append(addresses, a)
		}
	}
	i.Addresses = addresses
	return guest, &i
}

// pair returns both ends of a link.
func pair(t testing.TB, home *link.Home, id, way string) (parent, runner *link.Link) {
	t.Helper()
	guest, i := expect(t, home, id, way)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	runner, err := link.Dial(ctx, i, hello())
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	if parent, err = guest.Wait(ctx); err != nil {
		t.Fatalf("Wait: %v", err)
	}
	return parent, runner
}

// collector keeps what arrives.
type collector struct {
	mu      sync.Mutex
	frames  [][]byte
	arrived chan struct{}
}

func newCollector() *collector { return &collector{arrived: make(chan struct{}, 1)} }

func (c *collector) handle(frame []byte) {
	c.mu.Lock()
	c.frames = append(c.frames, bytes.Clone(frame))
	c.mu.Unlock()
	select {
	case c.arrived <- struct{}{}:
	default:
	}
}

// wait waits until n frames have arrived.
func (c *collector) wait(t testing.TB, n int) [][]byte {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		c.mu.Lock()
		frames := c.frames
		c.mu.Unlock()
		if len(frames) >= n {
			return frames
		}
		select {
		case <-c.arrived:
		case <-limit:
			t.Fatalf("frames after 30 s: got %d, want %d", len(frames), n)
		}
	}
}

func TestFramesOfEverySizeArriveWholeAndInOrderInBothDirections(t *testing.T) {
	t.Parallel()
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parent, runner := pair(t, newHome(t, nil), "r", way)
			var sizes []int
			for _, s := range []int{0, 1, 3, 100, 4091, 4092, 4093, 16 << 10, link.OwnFrame - 1, link.OwnFrame, link.OwnFrame + 1, 65532, 70000, 1 << 20, link.MaxFrame} {
				sizes = append(sizes, s, 1)
			}
			for range 200 {
				sizes = append(sizes, rand.N(9000))
			}
			var sent [][]byte
			for _, s := range sizes {
				frame := make([]byte, s)
				for i := range frame {
					frame[i] = byte(rand.Uint32())
				}
				sent = append(sent, frame)
			}
			for _, ends := range [][2]*link.Link{{parent, runner}, {runner, parent}} {
				from, to := ends[0], ends[1]
				got := newCollector()
				go func() { _ = to.Serve(got.handle) }()
				go func() {
					for _, frame := range sent {
						cut := rand.N(len(frame) + 1)
						if err := from.Send(context.Background(), frame[:cut], frame[cut:]); err != nil {
							t.Errorf("Send: %v", err)
						}
					}
				}()
				for i, frame := range got.wait(t, len(sent)) {
					if !bytes.Equal(frame, sent[i]) {
						t.Fatalf("frame %d: got %d bytes that are not the %d that were sent", i, len(frame), len(sent[i]))
					}
				}
			}
			parent.Close(nil)
		})
	}
}

func TestALinkThatIsClosedDeliversWhatWasSentAndTellsTheReason(t *testing.T) {
	t.Parallel()
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parent, runner := pair(t, newHome(t, nil), "r", way)
			got := newCollector()
			served := make(chan error, 1)
			go func() { served <- parent.Serve(got.handle) }()
			const n = 1000
			for i := range n {
				if err := runner.Send(context.Background(), fmt.Appendf(nil, "frame %d", i)); err != nil {
					t.Fatalf("Send: %v", err)
				}
			}
			runner.Close(fault.Say(fault.Exhausted, "the runner is worn out"))
			err := <-served
			end, ok := errors.AsType[*link.End](err)
			if !ok || end.Lost || end.Here || end.Reason != "the runner is worn out" || fault.Of(err) != fault.Exhausted {
				t.Errorf("Serve: got %#v, want the peer's goodbye with its reason and kind", err)
			}
			if frames := got.wait(t, n); len(frames) != n || string(frames[n-1]) != fmt.Sprintf("frame %d", n-1) {
				t.Errorf("frames before the goodbye: got %d, want %d", len(frames), n)
			}
			if end, ok := errors.AsType[*link.End](runner.Err()); !ok || !end.Here || end.Lost {
				t.Errorf("Err of the closed side: got %v, want one that says it was closed here", runner.Err())
			}
			if err := parent.Send(context.Background(), []byte("late")); fault.Of(err) != fault.Exhausted {
				t.Errorf("Send after the end: got %v, want the end", err)
			}
		})
	}
}

func TestARunnerOfAnotherBuildIsRefusedOnBothSides(t *testing.T) {
	t.Parallel()
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guest, i := expect(t, newHome(t, nil), "r", way)
			other := hello()
			other.Build = "build-2"
			_, dialed := link.Dial(t.Context(), i, other)
			_, waited := guest.Wait(t.Context())
			for side, err := range map[string]error{"Dial": dialed, "Wait": waited} {
				m, ok := errors.AsType[*link.Mismatch](err)
				if !ok || m.Parent.Build != "build-1" || m.Runner.Build != "build-2" || fault.Of(err) != fault.Invalid {
					t.Errorf("%s: got %v, want a Mismatch of build-1 and build-2", side, err)
				}
			}
		})
	}
}

func TestAnInvitationAdmitsOneRunnerOnce(t *testing.T) {
	t.Parallel()
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := newHome(t, nil)
			_, wrong := expect(t, home, "wrong", way)
			wrong.Token = strings.Repeat("0", 64)
			if _, err := link.Dial(t.Context(), wrong, hello()); fault.Of(err) != fault.Unauthenticated {
				t.Errorf("Dial with a wrong token: got %v, want unauthenticated", err)
			}
			guest, i := expect(t, home, "r", way)
			runner, err := link.Dial(t.Context(), i, hello())
			if err != nil {
				t.Fatalf("Dial: %v", err)
			}
			if _, err := link.Dial(t.Context(), i, hello()); fault.Of(err) != fault.Unauthenticated {
				t.Errorf("Dial with a used token: got %v, want unauthenticated", err)
			}
			parent, err := guest.Wait(t.Context())
			if err != nil || parent.Peer() != hello() || parent.ID() != "r" {
				t.Fatalf("Wait: got %v and %v, want the link of the first", parent, err)
			}
			got := newCollector()
			go func() { _ = parent.Serve(got.handle) }()
			go func() { _ = runner.Serve(func([]byte) {}) }()
			if err := runner.Send(t.Context(), []byte("still here")); err != nil {
				t.Fatalf("Send: %v", err)
			}
			got.wait(t, 1)
		})
	}
}

func TestNoSenderWaitsLongerThanItsContextForAPeerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parent, runner := pair(t, newHome(t, nil), "r", way)
			got := newCollector()
			go func() { _ = parent.Serve(got.handle) }()
			sent, refused := 0, 0
			for refused < 3 {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				frame := bytes.Repeat([]byte{byte(sent)}, 300_000)
				switch err := parent.Send(ctx, frame); fault.Of(err) {
				case "":
					sent++
				case fault.Canceled:
					refused++
				default:
					t.Fatalf("Send: got %v, want nil or canceled", err)
				}
				cancel()
				clear(frame)
				if sent > 100 {
					t.Fatalf("frames that were taken while nobody reads: got %d", sent)
				}
			}
			back := newCollector()
			go func() { _ = runner.Serve(back.handle) }()
			for i, frame := range back.wait(t, sent) {
				if !bytes.Equal(frame, bytes.Repeat([]byte{byte(i)}, 300_000)) {
					t.Fatalf("frame %d is not what was sent", i)
				}
			}
		})
	}
}

func TestBothEndsMaySendMoreThanAWindowAtOnce(t *testing.T) {
	t.Parallel()
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parent, runner := pair(t, newHome(t, nil), "r", way)
			const senders, each, size = 8, 40, 100_000
			atParent, atRunner := newCollector(), newCollector()
			go func() { _ = parent.Serve(atParent.handle) }()
			go func() { _ = runner.Serve(atRunner.handle) }()
			for sender := range senders {
				for _, l := range []*link.Link{parent, runner} {
					go func() {
						for n := range each {
							frame := bytes.Repeat([]byte{byte(n)}, size)
							frame[0] = byte(sender)
							if err := l.Send(t.Context(), frame); err != nil {
								t.Errorf("Send: %v", err)
							}
						}
					}()
				}
			}
			for _, c := range []*collector{atParent, atRunner} {
				next := map[byte]byte{}
				for _, frame := range c.wait(t, senders*each) {
					if sender := frame[0]; len(frame) != size || frame[1] != next[sender] || frame[size-1] != next[sender] {
						t.Fatalf("sender %d: got its frame %d with %d bytes, want its frame %d with %d", sender, frame[1], len(frame), next[sender], size)
					}
					next[frame[0]]++
				}
			}
		})
	}
}

func TestAHandlerMayLetAnotherGoroutineReadOn(t *testing.T) {
	t.Parallel()
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parent, runner := pair(t, newHome(t, nil), "r", way)
			const slow = 20
			release := make(chan struct{})
			go func() {
				_ = runner.Serve(func(frame []byte) { // it ends with the test
					turn, text := runner.Turn(), string(frame)
					runner.Pass(turn + 2) // of a frame that is not being handled: nothing happens
					if len(text)%2 == 0 {
						runner.Pass(turn)
						runner.Pass(turn) // the second time nothing happens
						<-release
					}
					_ = runner.PostLate(turn, []byte(text))
				})
			}()
			got := newCollector()
			go func() { _ = parent.Serve(got.handle) }()
			for n := range 2 * slow {
				if err := parent.Send(t.Context(), bytes.Repeat([]byte("x"), n)); err != nil {
					t.Fatal(err)
				}
			}
			for i, frame := range got.wait(t, slow) {
				if len(frame) != 2*i+1 {
					t.Errorf("answer %d while every other handler waits: got %d bytes, want %d", i, len(frame), 2*i+1)
				}
			}
			close(release)
			seen := map[int]int{}
			for _, frame := range got.wait(t, 2*slow) {
				seen[len(frame)]++
			}
			for n := range 2 * slow {
				if seen[n] != 1 {
					t.Errorf("answers of %d bytes: got %d, want 1", n, seen[n])
				}
			}
		})
	}
}
