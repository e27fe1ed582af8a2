package joblog

import (
	"bytes"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/wire"
)

// FuzzDecodeRecord checks that no bytes make the decoder fail in another way than with an error, and that what it
// accepts is exactly what the encoder writes.
func FuzzDecodeRecord(f *testing.F) {
	at := time.UnixMilli(1_700_000_000_000).UTC()
	for _, r := range []Record{
		{Stream: wire.Stdout, Data: []byte("hello\n"), Time: at},
		{Stream: wire.Stderr, Offset: 1 << 40, Data: []byte{0}, Time: at},
		{Stream: wire.Stdout, Offset: 6, Gap: 9, Why: "lost", Time: at},
		{Stream: wire.Stderr, Gap: 1 << 62, Why: "", Last: true, Time: at},
	} {
		f.Add(appendRecord(nil, &r))
	}
	f.Add([]byte{})
	f.Add(make([]byte, headerSize))
	f.Add(bytes.Repeat([]byte{0xff}, 2*headerSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, size, err := decodeRecord(b)
		if err != nil {
			return
		}
		if size > len(b) || r.Offset < 0 || r.Gap < 0 || r.end() < r.Offset {
			t.Fatalf("decoded %+v of size %d from %d bytes", r, size, len(b))
		}
		if again := appendRecord(nil, &r); !bytes.Equal(again, b[:size]) {
			t.Errorf("decoding and encoding again gives\n%x, want\n%x", again, b[:size])
		}
	})
}
