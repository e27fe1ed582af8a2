package local

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestARecordIsReadAsItWasMeant(t *testing.T) {
	const born = `{"name":"m1","owner":"o","created":"2026-01-02T03:04:05Z","lifetime":60000000000,"clock":7,"boot":"b","supervisor":3,"slot":4}` + "\n"
	const ended = "\n" + `{"of":7,"exit":{"code":5}}` + "\n"
	cases := []struct {
		name, text string
		err        error
		code       int // of the exit; -2: not ended; -3: ended, nobody knows how
	}{
		{"Born", born, nil, -2},
		{"Ended", born + ended, nil, 5},
		{"EndedAfterHalfALine", born + `{"of":7,"ex` + ended, nil, 5},
		{"HalfAnEnd", born + "\n" + `{"of":7,"exit":{"code":5}`, nil, -2},
		{"Lost", born + "\n" + `{"of":7,"exit":null,"lost":true}` + "\n", nil, -3},
		{"LostAndYetEnded", born + "\n" + `{"of":7,"exit":null,"lost":true}` + "\n" + ended, nil, 5},
		{"EndedAndThenTakenForLost", born + ended + `{"of":7,"exit":null,"lost":true}` + "\n", nil, 5},
		{"TheEndOfWhatTheFileHeldBefore", born + "\n" + `{"of":6,"exit":{"code":5}}` + "\n", nil, -2},
		{"TheRecordOfAnother", strings.Replace(born, "m1", "m2", 1) + ended, fs.ErrNotExist, 0},
		{"Empty", "", errSpoiled, 0},
		{"HalfABirth", born[:40], errSpoiled, 0},
		{"Garbage", "garbage\n" + born, errSpoiled, 0},
		{"TooLarge", born + strings.Repeat("\n", maxRecord), errSpoiled, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r, err := parseRecord("m1", []byte(c.text))
			if !errors.Is(err, c.err) {
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			if r.group() != "3.4" || r.expires() != 7+time.Minute {
				t.Errorf("got group %s and end %v, want 3.4 and %v", r.group(), r.expires(), 7+time.Minute)
			}
			code := -2
			if r.ended != nil {
				code = -3
				if r.ended.Exit != nil {
					code = r.ended.Exit.Code
				}
			}
			if code != c.code {
				t.Errorf("got %d, want %d", code, c.code)
			}
		})
	}
}

func TestARecordThatIsBeingWrittenIsNotTakenForSpoiled(t *testing.T) {
	t.Parallel()
	l := layout(t.TempDir())
	if err := l.make(); err != nil {
		t.Fatal(err)
	}
	g, err := openRegistry(l)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	file, name := filepath.Join(string(l), "record"), filepath.Join(l.machines(), "m1")
	births := []string{`{"name":"m1","ow`, `{"name":"m1","owner":"o","boot":"b"}` + "\n"}
	written := make(chan struct{})
	go func() {
		defer close(written)
		for range 200 {
			_ = os.Remove(name)
			for _, text := range births {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Error(err)
				}
			}
			if err := os.Link(file, name); err != nil {
				t.Error(err)
			}
		}
	}()
	defer func() { <-written }()
	for !closed(written) {
		if _, certain, err := g.spoiled("m1"); certain || err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("got %v, %v of a record that is whole whenever it has the name, want false", certain, err)
		}
	}
	if _, certain, err := g.spoiled("m1"); certain || err != nil {
		t.Errorf("got %v, %v of a record that is whole, want false", certain, err)
	}
	if err := os.WriteFile(name, []byte(births[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	for certain := false; !certain; {
		if _, certain, err = g.spoiled("m1"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFramesSentAtOnceArriveWhole(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	w := &frameWriter{conn: ours, timeout: 10 * time.Second}
	const senders, frames = 16, 50
	got := make(chan map[uint64]int, 1)
	go func() {
		seen := map[uint64]int{}
		err := readFrames(theirs, func(r *request) error {
			if r.Destroy != strings.Repeat("x", int(r.ID)) {
				t.Errorf("got %d bytes in frame %d, want as many as its id says", len(r.Destroy), r.ID)
			}
			seen[r.ID]++
			return nil
		})
		if err != nil {
			t.Errorf("got %v, want frames until the end", err)
		}
		got <- seen
	}()
	var group sync.WaitGroup
	for i := range senders {
		group.Go(func() {
			for j := range frames {
				id := i*frames + j
				if err := w.send(&request{ID: uint64(id), Destroy: strings.Repeat("x", id)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	ours.Close()
	if seen := <-got; len(seen) != senders*frames {
		t.Errorf("got %d different frames, want %d", len(seen), senders*frames)
	}
}

func TestAWriterWhoseReaderSleepsGivesUp(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	w := &frameWriter{conn: ours, timeout: 20 * time.Millisecond}
	if err := w.send(&request{Hello: true}); err == nil {
		t.Error("got success, want a timeout")
	}
	if err := w.send(&request{Hello: true}); err == nil {
		t.Error("got success after a failure, want the failure again")
	}
}

func TestAFrameThatIsTooLargeEndsTheConnection(t *testing.T) {
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- readFrames(theirs, func(*request) error { return nil }) }()
	go func() {
		_, _ = ours.Write(bytes.Repeat([]byte("x"), maxFrame+1))
		ours.Close()
	}()
	if err := <-done; err == nil {
		t.Error("got success, want an error")
	}
	theirs.Close()
}
