package link

import (
	"bytes"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
)

func TestALargeRecordArrivesWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	random := rand.NewChaCha8([32]byte{})
	for _, size := range []int{OwnFrame, OwnFrame + 1, largeBuffer - headerSize, largeBuffer, MaxFrame} {
		sent := make([]byte, size)
		_, _ = random.Read(sent) // it cannot fail
		head := header(recordFrame, size)
		for _, missing := range []int{0, 1, size / 2, size} {
			here, there := net.Pipe()
			go func() {
				defer there.Close()
				_, err1 := there.Write(head[:])
				_, err2 := there.Write(sent[:size-missing])
				if err1 != nil || err2 != nil {
					t.Errorf("writing a record: %v, %v", err1, err2)
				}
			}()
			r := reader{conn: here, quiet: new(atomic.Int32)}
			kind, got, err := r.next()
			switch {
			case missing == 0 && (err != nil || kind != recordFrame || !bytes.Equal(got, sent)):
				t.Errorf("a record of %d bytes: got kind %d, %d bytes that are the same: %v, %v; want all", size, kind, len(got), bytes.Equal(got, sent), err)
			case missing > 0 && (err == nil || got != nil):
				t.Errorf("a record of %d bytes of which %d are missing: got %d bytes, %v; want none and an error", size, missing, len(got), err)
			}
			r.release()
			here.Close()
		}
	}
}
