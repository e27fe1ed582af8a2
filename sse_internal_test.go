package dayfly

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// FuzzReadFrame reads anything as a stream of events: each event is within its limits and on its lines, the reader
// comes to an end, and what it has read can be written and read again.
func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("id: 1:5\nevent: stdout\ndata: {\"a\":1}\n\n: keep-alive\n\nevent: end\ndata: {}\n\n"))
	f.Add([]byte("data\n\ndata:\ndata: x\r\n\r\ndata:  y"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(stream), 16)
		var all []frame
		for {
			got, err := readFrame(r)
			if err != nil {
				break
			}
			if strings.ContainsAny(got.id+got.event, "\n") || len(got.id)+len(got.event)+len(got.data) > len(stream) {
				t.Fatalf("%q has the event %+v", stream, got)
			}
			all = append(all, got)
		}
		var again bytes.Buffer
		for _, e := range all {
			fmt.Fprintf(&again, "id: %s\nevent: %s\n", e.id, e.event)
			if e.data != nil {
				fmt.Fprintf(&again, "data: %s\n", bytes.ReplaceAll(e.data, []byte("\n"), []byte("\ndata: ")))
			}
			again.WriteByte('\n')
		}
		r.Reset(&again)
		for i, want := range all {
			got, err := readFrame(r)
			if err != nil || got.id != want.id || got.event != want.event || !bytes.Equal(got.data, want.data) || (got.data == nil) != (want.data == nil) {
				t.Fatalf("event %d of %q is read as %+v, and then as %+v, %v", i, stream, want, got, err)
			}
		}
	})
}
