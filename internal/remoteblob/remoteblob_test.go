package remoteblob_test

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
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/remoteblob"
)

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func TestWhatIsGatheredIsKnownWholeAndInParts(t *testing.T) {
	t.Parallel()
	const part = 1 << 20
	for _, n := range []int{0, 1, part - 1, part, part + 1, 3 * part, 3*part + 5} {
		dir := t.TempDir()
		data := bytes.Repeat([]byte("0123456789abcdefg"), n/17+1)[:n]
		s, err := remoteblob.Gather(t.Context(), iotest.HalfReader(bytes.NewReader(data)), nil, dir, part)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for piece := range slices.Chunk(data, part) {
			want = append(want, hash(piece))
		}
		if n == 0 {
			want = []string{hash(nil)}
		}
		if s.Size != int64(n) || s.SHA256 != hash(data) || !slices.Equal(s.Parts, want) {
			t.Errorf("of %d bytes: got size %d, SHA-256 %s and parts %v; want %s and %v", n, s.Size, s.SHA256, s.Parts, hash(data), want)
		}
		for offset := 0; offset < n; offset += part {
			length := min(part, n-offset)
			if got, err := io.ReadAll(s.Section(int64(offset), int64(length))); err != nil || !bytes.Equal(got, data[offset:offset+length]) {
				t.Errorf("of %d bytes, those from %d: got %d, %v; want %d", n, offset, len(got), err, length)
			}
		}
		// A process that dies must leave nothing.
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("while %d bytes are held the directory has %v, %v; want no name in it", n, left, err)
		}
		s.Close()
	}
}

func TestWhatCannotBeGatheredSaysWhy(t *testing.T) {
	t.Parallel()
	large := bytes.Repeat([]byte("x"), 2<<20)
	_, err := remoteblob.Gather(t.Context(), bytes.NewReader(large), nil, filepath.Join(t.TempDir(), "none"), 1<<20)
	if err == nil || strings.Contains(err.Error(), t.TempDir()) {
		t.Errorf("without a directory: got %v, want an error that names no path", err)
	}
	broken := errors.New("the line was cut")
	if _, err := remoteblob.Gather(t.Context(), iotest.ErrReader(broken), nil, t.TempDir(), 1<<20); !errors.Is(err, broken) {
		t.Errorf("from a reader that fails: got %v, want its error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := remoteblob.Gather(ctx, bytes.NewReader(large), nil, t.TempDir(), 1<<20); fault.Of(err) != fault.Canceled {
		t.Errorf("with an ended context: got %v, want kind canceled", err)
	}
}

func TestAWatchEndsOnlyWhatStandsStill(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, watch := remoteblob.NewWatch(t.Context(), time.Minute)
		defer watch.Stop()
		for range 10 {
			time.Sleep(50 * time.Second)
			watch.Moved()
		}
		if ctx.Err() != nil {
			t.Fatal("a transfer that moves every 50 s was ended after a minute without")
		}
		time.Sleep(61 * time.Second)
		if ctx.Err() == nil || fault.Of(watch.Cause(ctx.Err())) != fault.Unavailable {
			t.Errorf("after a minute without a byte: got %v, want it ended with kind unavailable", watch.Cause(ctx.Err()))
		}
	})
}
