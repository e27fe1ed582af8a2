package link

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// unwritten returns how many bytes were taken and not given to the wire.
func unwritten(l *Link) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(l.out.end - l.sent)
}

func TestFramesOfThoseWhoAreWaitedForAreWrittenTogether(t *testing.T) {
	t.Parallel()
	for _, way := range []string{unixPrefix, tcpPrefix} {
		parent, _, _ := admitted(t, way)
		send := func(size int) {
			t.Helper()
			if err := parent.Send(t.Context(), make([]byte, size)); err != nil {
				t.Fatal(err)
			}
		}
		wait := func(missing int, began time.Time) {
			parent.mu.Lock()
			defer parent.mu.Unlock()
			parent.gathering = gathering{open: true, missing: missing, began: began}
		}
		soon := time.Now().Add(time.Hour) // a computer that stands still for that long has other troubles
		wait(3, soon)
		for i := range 2 {
			send(10)
			if got, want := unwritten(parent), (i+1)*(headerSize+10); got != want {
				t.Errorf("%s: bytes that wait for the last of three senders: got %d, want %d", way, got, want)
			}
		}
		send(10)
		if got := unwritten(parent); got != 0 {
			t.Errorf("%s: bytes that wait when the last has sent: got %d, want 0", way, got)
		}
		send(10)
		if got := unwritten(parent); got != 0 {
			t.Errorf("%s: bytes that wait when nobody is waited for: got %d, want 0", way, got)
		}
		wait(3, time.Now().Add(-time.Hour))
		send(10)
		if got := unwritten(parent); got != 0 {
			t.Errorf("%s: bytes that wait for others who are late: got %d, want 0", way, got)
		}
		wait(3, soon)
		send(direct)
		if got := unwritten(parent); got != 0 {
			t.Errorf("%s: bytes of a large frame that wait for others: got %d, want 0", way, got)
		}
		wait(3, soon)
		send(10)
		if err := parent.Post(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if got := unwritten(parent); got != 0 {
			t.Errorf("%s: bytes that wait behind what is posted: got %d, want 0", way, got)
		}
		parent.gatherFor(3) // nobody sends, or all have before
		send(10)
		if got := unwritten(parent); got != 0 {
			t.Errorf("%s: bytes that wait after the wait for nobody: got %d, want 0", way, got)
		}
	}
}

func TestWhoComesLateWritesWhatWasLeftAndTheNextLeaveTheirsAgain(t *testing.T) {
	t.Parallel()
	parent, _, _ := admitted(t, unixPrefix)
	parent.mu.Lock()
	parent.gathering = gathering{open: true, missing: 9, began: time.Now().Add(-time.Hour)}
	parent.mu.Unlock()
	if err := parent.Send(t.Context(), make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	parent.mu.Lock()
	defer parent.mu.Unlock()
	g := parent.gathering
	if parent.out.end != parent.sent || !g.open || g.missing != 8 || time.Since(g.began) > time.Minute {
		t.Errorf("after a late sender: got %d bytes unwritten, %+v; want none, and eight more waited for from now on", parent.out.end-parent.sent, g)
	}
}

func TestInACrowdASenderLetsOthersSendFirst(t *testing.T) {
	t.Parallel()
	for _, way := range []string{unixPrefix, tcpPrefix} {
		parent, _, _ := admitted(t, way)
		for _, test := range []struct {
			frames int
			size   int
			want   bool
		}{{crowd - 1, 10, false}, {crowd, 10, true}, {crowd, direct, false}, {1, 10, false}} {
			parent.gatherFor(test.frames)
			parent.mu.Lock()
			parent.gathering = gathering{}
			parent.mu.Unlock()
			if err := parent.Send(t.Context(), make([]byte, test.size)); err != nil {
				t.Fatal(err)
			}
			parent.mu.Lock()
			let, open := !parent.gathering.began.IsZero(), parent.gathering.open
			parent.mu.Unlock()
			if let != test.want || open || unwritten(parent) != 0 {
				t.Errorf("%s: a frame of %d bytes after %d frames together: others went first: %v, are waited for still: %v, bytes unwritten: %d; want %v, false, 0",
					way, test.size, test.frames, let, open, unwritten(parent), test.want)
			}
		}
	}
}

func TestWhateverIsSentWhileFramesComeTogetherArrives(t *testing.T) {
	t.Parallel()
	for _, way := range []string{unixPrefix, tcpPrefix} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			const frames, rounds = 16, 50
			parent, c, _ := admitted(t, way)
			runner := newLink("r", Hello{}, MaxSilence)
			runner.resumable = way == tcpPrefix
			if !runner.attach(c.wire, 0, 0) {
				t.Fatal("attach: got false")
			}
			parent.Gather()
			awake := make(chan string, frames) // those who are let go on
			var callers sync.WaitGroup
			for range frames {
				callers.Go(func() {
					for text := range awake {
						if text[len(text)-1] == '0' {
							continue // it says nothing
						}
						if err := parent.Send(t.Context(), []byte(text)); err != nil {
							t.Errorf("Send: %v", err)
						}
					}
				})
			}
			go func() { _ = parent.Serve(func(frame []byte) { awake <- string(frame) }) }()
			back := make(chan string, frames)
			go func() { _ = runner.Serve(func(frame []byte) { back <- string(frame) }) }()
			for round := range rounds {
				want := map[string]bool{}
				runner.mu.Lock()
				for i := range frames {
					text := fmt.Sprintf("%d.%d", round, i)
					want[text] = i%10 != 0
					runner.put(recordFrame, len(text), []byte(text))
				}
				runner.kick()
				runner.mu.Unlock()
				for range frames - 2 {
					if text := <-back; !want[text] {
						t.Fatalf("got %q, which was not sent in round %d, or twice", text, round)
					} else {
						want[text] = false
					}
				}
			}
			runner.Close(nil)
			<-parent.Done()
			close(awake)
			callers.Wait()
		})
	}
}
