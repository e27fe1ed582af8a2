package remoteblob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
)

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func TestWhatIsGatheredIsKnownWholeAndInParts(t *testing.T) {
	t.Parallel()
	const part = 1 << 20
	for _, n := range []int{0, 1, part - 1, part, part + 1, 3 * part, 3*part + 5} {
		dir := t.TempDir()
		data := bytes.Repeat([]byte("0123456789abcdefg"), n/17+1)[:n]
		s, err := gather(t.Context(), iotest.HalfReader(bytes.NewReader(data)), &blob.PutOptions{}, &Settings{SpoolDir: dir, PartSize: part, Patience: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for piece := range slices.Chunk(data, part) {
			want = append(want, sumOf(piece))
		}
		if n == 0 {
			want = []string{sumOf(nil)}
		}
		if s.Size != int64(n) || s.SHA256 != sumOf(data) || !slices.Equal(s.Parts, want) {
			t.Errorf("of %d bytes: got size %d, SHA-256 %s and parts %v; want %s and %v", n, s.Size, s.SHA256, s.Parts, sumOf(data), want)
		}
		var sent atomic.Int64
		err = s.Send(t.Context(), func(_ context.Context, p *Part) error {
			got, err := io.ReadAll(p)
			offset := p.Number * part
			if err != nil || p.Size != int64(len(got)) || p.SHA256 != sumOf(got) || !bytes.Equal(got, data[offset:offset+len(got)]) {
				t.Errorf("of %d bytes, those of part %d: got %d of %d, %v; want what was gathered", n, p.Number, len(got), p.Size, err)
			}
			sent.Add(p.Size)
			return nil
		})
		if err != nil || sent.Load() != int64(n) {
			t.Errorf("of %d bytes, got parts of %d together, %v", n, sent.Load(), err)
		}
		// A process that dies must leave nothing.
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("while %d bytes are held the directory has %v, %v; want no name in it", n, left, err)
		}
		s.close()
	}
}

func TestWhatCannotBeGatheredSaysWhy(t *testing.T) {
	t.Parallel()
	o, here := &blob.PutOptions{}, &Settings{SpoolDir: t.TempDir(), PartSize: 1 << 20}
	large := bytes.Repeat([]byte("x"), 2<<20)
	_, err := gather(t.Context(), bytes.NewReader(large), o, &Settings{SpoolDir: filepath.Join(t.TempDir(), "none"), PartSize: 1 << 20})
	if err == nil || strings.Contains(err.Error(), t.TempDir()) {
		t.Errorf("without a directory: got %v, want an error that names no path", err)
	}
	broken := errors.New("the line was cut")
	if _, err := gather(t.Context(), iotest.ErrReader(broken), o, here); !errors.Is(err, broken) {
		t.Errorf("from a reader that fails: got %v, want its error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := gather(ctx, bytes.NewReader(large), o, here); fault.Of(err) != fault.Canceled {
		t.Errorf("with an ended context: got %v, want kind canceled", err)
	}
}

func TestAWatchEndsOnlyWhatStandsStill(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, watch := newWatch(t.Context(), time.Minute)
		defer watch.stop()
		for range 10 {
			time.Sleep(50 * time.Second)
			watch.moved()
		}
		if ctx.Err() != nil {
			t.Fatal("a transfer that moves every 50 s was ended after a minute without")
		}
		time.Sleep(61 * time.Second)
		if ctx.Err() == nil || fault.Of(watch.cause(ctx.Err())) != fault.Unavailable {
			t.Errorf("after a minute without a byte: got %v, want it ended with kind unavailable", watch.cause(ctx.Err()))
		}
	})
}
