package joblog_test

import (
	"fmt"
	"testing"

	"github.com/dayfly-run/dayfly/internal/joblog"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// BenchmarkShortJob is a job that prints one line: an open, a write and the close of an older file.
func BenchmarkShortJob(b *testing.B) {
	s := open(b, b.TempDir(), nil)
	c := chunk(wire.Stdout, 0, "hello, world\n")
	for i := 0; b.Loop(); i++ {
		if _, err := s.Append(fmt.Sprintf("att_%d", i), c, wire.DefaultLogLimit); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFlood is one attempt that prints as fast as it can.
func BenchmarkFlood(b *testing.B) {
	s := open(b, b.TempDir(), nil)
	data := make([]byte, wire.MaxChunk)
	b.SetBytes(int64(len(data)))
	n := 0
	for b.Loop() {
		// A new file each GiB, removed at once, keeps the disk out of the measurement.
		id := fmt.Sprintf("att_%d", n/4096)
		if n%4096 == 0 && n > 0 {
			if err := s.Remove(fmt.Sprintf("att_%d", n/4096-1)); err != nil {
				b.Fatal(err)
			}
		}
		c := &wire.LogChunk{Stream: wire.Stdout, Offset: int64(n%4096) * int64(len(data)), Data: data}
		if _, err := s.Append(id, c, 0); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

// BenchmarkFollow is a reader that has everything and asks for more.
func BenchmarkFollow(b *testing.B) {
	s := open(b, b.TempDir(), nil)
	var at joblog.Position
	var offset int64
	for b.Loop() {
		mustAppend(b, s, chunk(wire.Stdout, offset, "a line of output\n"), 0, offset+17)
		offset += 17
		records, err := s.Read(attempt, at)
		if err != nil {
			b.Fatal(err)
		}
		for r := range records {
			at = r.Next
		}
	}
}
