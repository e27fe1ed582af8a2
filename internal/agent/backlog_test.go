package agent

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/internal/wire"
)

// reader plays a server that stores chunks: it has the bytes of a stream, or a gap for each that is missing.
type reader struct {
	data   []byte
	gap    []bool
	chunks int
}

func (r *reader) take(t interface{ Fatalf(string, ...any) }, c wire.LogChunk) {
	if c.Offset > int64(len(r.data)) {
		t.Fatalf("a chunk at %d although the stream ends at %d", c.Offset, len(r.data))
	}
	if len(c.Data) > wire.MaxChunk || (c.Gap > 0) == (len(c.Data) > 0) || (c.Gap > 0) != (c.Why != "") {
		t.Fatalf("a chunk with %d bytes, a gap of %d and %q for a reason", len(c.Data), c.Gap, c.Why)
	}
	r.chunks++
	data, gap := c.Data, c.Gap > 0
	if gap {
		data = make([]byte, c.Gap)
	}
	if skip := int64(len(r.data)) - c.Offset; skip < int64(len(data)) {
		r.data = append(r.data, data[skip:]...)
		r.gap = append(r.gap, slices.Repeat([]bool{gap}, len(data)-int(skip))...)
	}
}

// TestBacklogLosesNothingSilently plays a command that prints, a disk that fails, a server that is away, takes a part,
// repeats itself or forgets, in any order. At the end each byte is stored where it belongs, or there is a gap.
func TestBacklogLosesNothingSilently(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]int64{0, 1, 1000, 300_000, 1 << 30}).Draw(t, "limit")
		b := &backlog{stream: wire.Stdout, allowance: newAllowance(limit), dir: dir}
		defer b.free()
		var printed []byte
		server := &reader{}
		forgot := false
		t.Repeat(map[string]func(*rapid.T){
			"print": func(t *rapid.T) {
				n := rapid.SampledFrom([]int{1, 10, 5000, 65536, 200_000}).Draw(t, "bytes")
				p := bytes.Repeat([]byte{byte(1 + len(printed)%250)}, n)
				printed = append(printed, p...)
				b.append(p, time.Unix(1, 0))
				if len(b.head) > memoryPerStream {
					t.Fatalf("%d bytes in memory, want at most %d", len(b.head), memoryPerStream)
				}
			},
			"store": func(t *rapid.T) {
				if c, ok := b.next(); ok {
					server.take(t, c)
					b.acknowledge(int64(len(server.data)))
				}
			},
			"store without an answer": func(t *rapid.T) {
				if c, ok := b.next(); ok {
					server.take(t, c)
				}
			},
			"forget": func(t *rapid.T) {
				n := rapid.IntRange(0, len(server.data)).Draw(t, "end")
				if n < len(server.data) {
					forgot = true
				}
				server.data, server.gap = server.data[:n], server.gap[:n]
				b.acknowledge(int64(n))
			},
			"lose the disk": func(*rapid.T) { b.dir = filepath.Join(dir, "gone") },
			"find the disk": func(*rapid.T) { b.dir = dir },
			"refuse": func(t *rapid.T) {
				if c, ok := b.next(); ok && c.Gap == 0 {
					b.abandon(int64(len(c.Data)), "refused by the test")
					forgot = true
				}
			},
			"": func(t *rapid.T) {
				if got := b.length(); got != int64(len(printed)) {
					t.Fatalf("length %d, want %d", got, len(printed))
				}
			},
		})
		b.close()
		for {
			if rest := b.rest(10_000); rest != nil {
				for _, c := range rest {
					server.take(t, c)
				}
				break
			}
			c, ok := b.next()
			if !ok {
				break
			}
			server.take(t, c)
			b.acknowledge(int64(len(server.data)))
		}
		if len(server.data) != len(printed) {
			t.Fatalf("%d bytes are stored or accounted for, want %d", len(server.data), len(printed))
		}
		kept := 0
		for i := range printed {
			if !server.gap[i] {
				kept++
				if server.data[i] != printed[i] {
					t.Fatalf("byte %d is %d, want %d", i, server.data[i], printed[i])
				}
			}
		}
		if int64(kept) > limit && !forgot {
			t.Fatalf("%d bytes are kept, more than the limit of %d", kept, limit)
		}
	})
}

func TestBacklogKeepsNothingOnDiskForAServerThatKeepsUp(t *testing.T) {
	t.Parallel()
	b := &backlog{stream: wire.Stdout, allowance: newAllowance(1 << 30), dir: "/nonexistent"}
	for range 1000 {
		b.append(make([]byte, memoryPerStream), time.Now())
		c, ok := b.next()
		if !ok || len(c.Data) != memoryPerStream {
			t.Fatalf("next = %d bytes, %v; want all of them", len(c.Data), ok)
		}
		b.acknowledge(c.Offset + int64(len(c.Data)))
	}
}

func TestSpoolHasNoNameAndGivesItsSpaceBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := &backlog{stream: wire.Stdout, allowance: newAllowance(1 << 30), dir: dir}
	defer b.free()
	for range 10 {
		b.append(make([]byte, memoryPerStream), time.Now())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("in the directory: %v, %v; want nothing", left, err)
	}
	info, err := b.spool.file.Stat()
	if err != nil || info.Size() != 9*memoryPerStream {
		t.Errorf("the spool has %d bytes, %v; want %d", info.Size(), err, 9*memoryPerStream)
	}
	b.acknowledge(10 * memoryPerStream)
	if info, err = b.spool.file.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("the drained spool has %d bytes, %v; want 0", info.Size(), err)
	}
}

func TestUnwritableDiskIsNamedInTheGap(t *testing.T) {
	t.Parallel()
	b := &backlog{stream: wire.Stdout, allowance: newAllowance(1 << 30), dir: filepath.Join(t.TempDir(), "gone")}
	b.append(make([]byte, memoryPerStream), time.Now())
	b.append(make([]byte, 1000), time.Now())
	b.append(make([]byte, 234), time.Now())
	b.acknowledge(memoryPerStream)
	c, ok := b.next()
	if !ok || c.Gap != 1234 || !strings.Contains(c.Why, "1234 bytes not kept") || !strings.Contains(c.Why, "no such file") {
		t.Errorf("next = %+v, %v; want a gap of 1234 bytes that names the error", c, ok)
	}
	b.acknowledge(memoryPerStream + 1234)
	b.append([]byte("after"), time.Now())
	if c, ok = b.next(); !ok || string(c.Data) != "after" || c.Offset != memoryPerStream+1234 {
		t.Errorf("next = %+v, %v; want what came after the gap", c, ok)
	}
}

func TestHandedOutBytesAreNeverOverwritten(t *testing.T) {
	t.Parallel()
	b := &backlog{stream: wire.Stdout, allowance: newAllowance(1 << 30), dir: t.TempDir()}
	defer b.free()
	b.append([]byte("first"), time.Now())
	c, _ := b.next() // a request may go on reading this after its call has returned
	b.acknowledge(5)
	b.append([]byte("SECOND"), time.Now())
	if string(c.Data) != "first" {
		t.Errorf("the first chunk has become %q", c.Data)
	}
}

func TestByteSize(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 bytes", 1000: "1000 bytes", 1024: "1 KiB", 64 << 20: "64 MiB", 3 << 29: "1536 MiB", 1 << 62: "4194304 TiB"} {
		if got := byteSize(n); got != want {
			t.Errorf("byteSize(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestReadPipeTellsTheEndFromAFailure(t *testing.T) {
	t.Parallel()
	r, w, err := newPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []byte
	done := make(chan error, 1)
	go func() { done <- readPipe(r, func(p []byte) { got = append(got, p...) }) }()
	if _, err := w.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("readPipe = %v, want the deadline", err)
	}
	w.Close()
	if string(got) != "hello" {
		t.Errorf("read %q", got)
	}
}
