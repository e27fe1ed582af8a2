package link

import (
	"os"
	"sync"
	"testing"
)

// A socket that is bound and does not listen yet refuses connections, as that of a killed home does.
func TestHomesThatBeginAtOnceLeaveEachOthersSocketsAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		var wg sync.WaitGroup
		made := make(chan *socket, 32)
		for range cap(made) {
			wg.Go(func() {
				s, err := listenUnix(dir)
				if err != nil {
					t.Errorf("listening beside others: got %v, want a socket", err)
					return
				}
				made <- s
			})
		}
		wg.Wait()
		close(made)
		for s := range made {
			if _, err := os.Lstat(s.path); err != nil {
				t.Errorf("the socket of a home that listens: got %v, want it to be there", err)
			}
			s.close()
		}
		if t.Failed() {
			return
		}
	}
}
