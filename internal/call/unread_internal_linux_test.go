package call

import (
	"os"
	"testing"
)

func TestWhatWaitsInAPipeIsKnown(t *testing.T) {
	t.Parallel()
	var readers, writers [2]*os.File
	for i := range readers {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			r.Close()
			w.Close()
		})
		readers[i], writers[i] = r, w
	}
	unread, err := unreadOf(readers[:]...)
	if err != nil {
		t.Fatal(err)
	}
	if unread() {
		t.Error("two empty pipes: something waits, want nothing")
	}
	for i, w := range writers {
		if _, err := w.WriteString("line\n"); err != nil {
			t.Fatal(err)
		}
		if !unread() {
			t.Errorf("pipe %d was written to: nothing waits, want a line", i)
		}
		if _, err := readers[i].Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if unread() {
			t.Errorf("pipe %d was read: something waits, want nothing", i)
		}
	}
	writers[0].Close()
	if unread() {
		t.Error("a pipe that nobody can write to any more: something waits, want nothing")
	}
}
