package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// admitted returns a parent's link, and a connection with the runner's side of which the test does what it likes.
func admitted(t *testing.T, way string) (*Link, *connection, *dialer) {
	t.Helper()
	home, err := NewHome(Hello{Build: "b"}, &HomeOptions{Dir: filepath.Join(t.TempDir(), "home"), Listen: "127.0.0.1:0", Silence: MaxSilence})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = home.Run(ctx) // ends with ctx
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	guest, err := home.Expect("r")
	if err != nil {
		t.Fatal(err)
	}
	i := guest.Invitation()
	i.Addresses = slices.DeleteFunc(i.Addresses, func(a string) bool { return !strings.HasPrefix(a, way) })
	d := &dialer{invitation: i, hello: Hello{Build: "b"}, secret: newSecret(), timeout: handshakeTimeout}
	c, err := d.dial(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.wire.close)
	parent, err := guest.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return parent, c, d
}

func TestAPeerThatBreaksTheProtocolLosesItsLinkAndNoOther(t *testing.T) {
	t.Parallel()
	record := func(kind byte, size int, body ...byte) []byte {
		h := header(kind, size)
		return append(h[:], body...)
	}
	for name, c := range map[string]struct {
		says []byte
		want string
	}{
		"a frame that is too large":   {record(recordFrame, MaxFrame+1), fmt.Sprintf("%d bytes", MaxFrame+1)},
		"an unknown record":           {record(99, 0), "unknown kind 99"},
		"a short beat":                {record(recordBeat, 1, 0), "heartbeat of 1 byte"},
		"a beat of what was not sent": {record(recordBeat, 8, binary.BigEndian.AppendUint64(nil, 1<<60)...), "acknowledged"},
		"a goodbye without sense":     {record(recordGoodbye, 3, 'n', 'o', '!'), "goodbye"},
		"a farewell to no goodbye":    {record(recordFarewell, 0), "farewell"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parent, runner, _ := admitted(t, tcpPrefix)
			if _, err := runner.wire.push([][]byte{c.says}, true); err != nil {
				t.Fatal(err)
			}
			err := parent.Serve(func([]byte) {})
			end, ok := errors.AsType[*End](err)
			if !ok || !end.Lost || fault.Of(err) != fault.Internal || !strings.Contains(end.Reason, c.want) {
				t.Errorf("Serve: got %v, want a loss that names %q", err, c.want)
			}
		})
	}
}

func TestARunnerThatComesBackWithAPositionThatCannotBeIsLost(t *testing.T) {
	t.Parallel()
	parent, _, d := admitted(t, tcpPrefix)
	if _, err := d.dial(t.Context(), 1<<40); err != nil {
		t.Fatal(err) // it is looked at after the answer
	}
	if err := parent.Serve(func([]byte) {}); fault.Of(err) != fault.Internal {
		t.Errorf("Serve: got %v, want the loss of a peer that does not keep to the protocol", err)
	}
}

func TestANewerConnectionReplacesOneThatIsBelievedAliveAndAnOlderOneDoesNot(t *testing.T) {
	t.Parallel()
	parent, first, d := admitted(t, tcpPrefix)
	got := make(chan string, 10)
	go func() { _ = parent.Serve(func(f []byte) { got <- string(f) }) }()
	say := func(c *connection, text string) {
		h := header(recordFrame, len(text))
		if _, err := c.wire.push([][]byte{h[:], []byte(text)}, true); err != nil {
			t.Fatal(err)
		}
	}
	say(first, "from the first")
	if text := <-got; text != "from the first" {
		t.Fatalf("got %q, want the first's", text)
	}
	second, err := d.dial(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if want := uint64(headerSize + len("from the first")); second.answer.Received != want {
		t.Errorf("received, as the parent says: got %d, want %d", second.answer.Received, want)
	}
	say(second, "from the second")
	if text := <-got; text != "from the second" {
		t.Errorf("got %q, want the second's", text)
	}
	d.attempt = 0 // a connection that was under way for long
	_, err = d.dial(t.Context(), 0)
	if r, ok := errors.AsType[*Refused](err); !ok || r.Kind != fault.Conflict {
		t.Errorf("dial of a connection older than the newest: got %v, want a conflict", err)
	}
	say(second, "from the second again")
	if text := <-got; text != "from the second again" {
		t.Errorf("got %q, want the second's", text)
	}
	d.attempt, d.secret = 10, newSecret()
	if _, err = d.dial(t.Context(), 0); fault.Of(err) != fault.Unauthenticated {
		t.Errorf("dial with another's secret: got %v, want unauthenticated", err)
	}
	parent.Lose(nil)
}

func TestALargeFrameThatWasBegunArrivesWholeAlthoughItsSenderLeft(t *testing.T) {
	t.Parallel()
	parent, c, _ := admitted(t, unixPrefix)
	runner := newLink("r", Hello{}, time.Minute)
	runner.attach(c.wire, 0, 0)
	go func() { _ = runner.Serve(func([]byte) {}) }()
	// Nobody reads, so the socket fills in the middle of a frame, and its sender has to leave.
	ctx, cancel := context.WithCancel(t.Context())
	var begun atomic.Int32
	sent := make(chan int)
	go func() {
		for i := 0; ; i++ {
			begun.Add(1)
			frame := frameOf(i, 1<<20)
			if err := runner.Send(ctx, frame); err != nil {
				sent <- i
				return
			}
			clear(frame) // it is the sender's again
		}
	}()
	for last := int32(-1); last != begun.Load(); <-time.After(200 * time.Millisecond) {
		last = begun.Load()
	}
	cancel()
	count := <-sent
	if count == 0 {
		t.Fatal("frames that were taken: got 0, want at least the one that was begun")
	}
	checked := newChecker(append(slices.Repeat([]int{1 << 20}, count), 10))
	go func() { _ = parent.Serve(checked.handle) }()
	if err := runner.Send(t.Context(), frameOf(count, 10)); err != nil {
		t.Errorf("Send afterwards: %v", err)
	}
	<-checked.done
	if checked.wrong != nil {
		t.Error(checked.wrong)
	}
	runner.Close(nil)
}

func TestWhoWaitsForRoomGoesOnThoughAllBeforeWriteDirectly(t *testing.T) {
	t.Parallel()
	parent, c, _ := admitted(t, unixPrefix)
	go func() { _ = parent.Serve(func([]byte) {}) }()
	runner := newLink("r", Hello{}, MaxSilence) // whose next heartbeat is minutes away
	runner.attach(c.wire, 0, 0)
	go func() { _ = runner.Serve(func([]byte) {}) }()
	frame := make([]byte, 1<<20)
	// As after a crowd: all has been written, and those who were given the room have not come to use it yet.
	runner.mu.Lock()
	runner.granted = Window
	runner.mu.Unlock()
	sent := make(chan error, 1)
	go func() { sent <- runner.Send(t.Context(), frame) }()
	for waiting := 0; waiting == 0; <-time.After(time.Millisecond) {
		runner.mu.Lock()
		waiting = len(runner.waiters)
		runner.mu.Unlock()
	}
	for range Window / len(frame) { // they come one after the other, and each finds the wire free
		runner.mu.Lock()
		for runner.writing { // the one who waited writes, now that there is room
			runner.mu.Unlock()
			<-time.After(time.Millisecond)
			runner.mu.Lock()
		}
		runner.granted -= len(frame)
		if err := runner.sendDirectly(t.Context(), len(frame), [][]byte{frame}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-sent:
		if err != nil {
			t.Errorf("Send: got %v, want nil", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("Send: still waits for room after 20 s, though nothing is in the way")
	}
	runner.Close(nil)
}

func TestAStrangerIsNotToldWhomItHasFound(t *testing.T) {
	t.Parallel()
	_, _, d := admitted(t, tcpPrefix)
	socket, err := d.connect(t.Context(), d.invitation.Addresses[0])
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	var c connection
	err = c.introduce(tls.Client(socket, pinned(d.invitation.Pin)), &greeting{ID: "r", Token: newSecret(), Secret: newSecret(), Attempt: 9, Hello: Hello{Build: "b"}})
	if fault.Of(err) != fault.Unauthenticated || c.answer.Hello != (Hello{}) {
		t.Errorf("the answer to a stranger: got %v and %+v, want unauthenticated and nothing", err, c.answer.Hello)
	}
}

func TestALateAnswerDoesNotWaitForAFrameThatNeverComes(t *testing.T) {
	t.Parallel()
	parent, c, _ := admitted(t, unixPrefix)
	go func() {
		_ = parent.Serve(func(frame []byte) { _ = parent.PostLate(parent.Turn(), frame) }) // the answers are looked at below
	}()
	h, beat := header(recordFrame, 3), header(recordBeat, 8)
	for range 20 { // the frames and what follows them are to arrive together, which the kernel does not promise
		if _, err := c.wire.push([][]byte{h[:], []byte("one"), h[:], []byte("two"), beat[:], make([]byte, 8)}, true); err != nil {
			t.Fatal(err)
		}
		if err := c.wire.socket.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 2*(headerSize+3))
		if _, err := io.ReadFull(c.wire.conn, got); err != nil || string(got[headerSize:headerSize+3]) != "one" || string(got[2*headerSize+3:]) != "two" {
			t.Fatalf("answers: got %q and %v, want one and two", got, err)
		}
	}
	parent.Lose(nil)
}

func TestASenderOverTLSDoesNotWaitInTheSocket(t *testing.T) {
	t.Parallel()
	parent, c, _ := admitted(t, tcpPrefix) // whose other side reads nothing
	for socket, set := range map[net.Conn]func(*net.TCPConn) error{
		parent.wire.socket: func(s *net.TCPConn) error { return s.SetWriteBuffer(8 << 10) },
		c.wire.socket:      func(s *net.TCPConn) error { return s.SetReadBuffer(8 << 10) },
	} {
		if err := set(socket.(*net.TCPConn)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	sent := make(chan int)
	go func() {
		n := 0
		for parent.Send(ctx, make([]byte, 1<<20-headerSize)) == nil {
			n++
		}
		sent <- n
	}()
	select {
	case n := <-sent:
		if n != Window>>20 {
			t.Errorf("frames of a MiB that were taken: got %d, want %d, which fill the window", n, Window>>20)
		}
	case <-time.After(30 * time.Second):
		t.Error("Send still waits 30 s after its context ended")
	}
	parent.Lose(nil)
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{recordFrame, 0, 0, 1, 'x', recordBeat, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{recordFrame, 0xff, 0xff, 0xff})
	f.Add(append([]byte{recordFrame, 0, 0xc0, 0}, make([]byte, OwnFrame)...))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var quiet atomic.Int32
		r := reader{conn: scripted{Reader: stepwise(stream)}, quiet: &quiet}
		defer r.release()
		at := 0
		for {
			kind, body, err := r.next()
			if err != nil {
				break
			}
			want := stream[at : at+headerSize+len(body)]
			if kind != want[0] || !bytes.Equal(body, want[headerSize:]) {
				t.Fatalf("record at %d: got kind %d and %d bytes that are not those of the stream", at, kind, len(body))
			}
			at += headerSize + len(body)
		}
		if rest := stream[at:]; len(rest) >= headerSize {
			if size := int(rest[1])<<16 | int(rest[2])<<8 | int(rest[3]); size <= MaxFrame && len(rest) >= headerSize+size {
				t.Fatalf("the reader stopped at %d before a whole record of %d bytes", at, size)
			}
		}
	})
}

// scripted is a connection of which everything is known that will be read from it.
type scripted struct {
	net.Conn
	io.Reader
}

func (s scripted) Read(p []byte) (int, error) { return s.Reader.Read(p) }

// stepwise reads in steps of 1, 2, 3 … bytes.
func stepwise(stream []byte) io.Reader { return &stepper{rest: stream} }

type stepper struct {
	rest []byte
	step int
}

func (s *stepper) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	s.step++
	n := copy(p[:min(len(p), s.step)], s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func FuzzHandshake(f *testing.F) {
	var valid bytes.Buffer
	if err := writeMessage(&valid, greeting{ID: "r", Token: "t", Hello: Hello{Build: "b"}}); err != nil {
		f.Fatal(err)
	}
	f.Add(valid.Bytes())
	f.Add([]byte("dayfly\x01\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var hi greeting
		if err := readMessage(bytes.NewReader(stream), &hi); err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeMessage(&again, hi); err != nil {
			return // larger than it was, for texts that were none
		}
		var second greeting
		if err := readMessage(&again, &second); err != nil || second != hi {
			t.Fatalf("greeting: got %+v and %v when read again, want %+v", second, err, hi)
		}
	})
}
