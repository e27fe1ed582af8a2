// Package blobtest checks that a [blob.Store] does what package blob says. It is the specification; a store is
// supported when it passes:
//
//	func TestStore(t *testing.T) {
//		blobtest.Run(t, blobtest.Harness{New: func(t *testing.T) blob.Store { return openMine(t) }})
//	}
//
// A store that is a [blob.Signer] is also tried as one, by requests over the network as a stranger would make them. So the
// backend has to be a real one that checks signatures; a fake that lets everybody in does not pass.
//
// The suite is tested too: stores that are each wrong in one way must fail.
package blobtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"testing"
	"testing/iotest"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
)

// Harness is how the suite gets at a store.
type Harness struct {
	// New returns an empty store. It is called once per case and cleans up with t.Cleanup.
	New func(t *testing.T) blob.Store
	// Reopen returns what a new process would see of the same store, for stores that survive their process. It is
	// optional.
	Reopen func(t *testing.T, s blob.Store) blob.Store
	// Flat says that the backend cannot hold an object beside others for which its key is a folder, such as a beside a/b,
	// because it keeps them in a file system. It must refuse the second of them then. Dayfly makes no such keys.
	Flat bool
	// Holds reports whether the backend can hold a key of this form; nil: it can hold all. What it cannot hold it must
	// refuse with fault.Invalid.
	Holds func(key string) bool
	// Many is how many objects a long listing is tried with: more than one page of the backend. Default 100.
	Many int
}

// Run runs all cases, each on a store of its own.
func Run(t *testing.T, h Harness) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, h Harness, s blob.Store)
	}{
		{"PutThenGetReturnsTheSameBytes", putThenGet},
		{"StatTellsWhatPutReturned", statTells},
		{"ReadersOfEveryKindAreReadToTheEnd", oddReaders},
		{"AnAbsentObjectIsNotFound", absent},
		{"PutReplacesAllOfWhatWasThere", replaces},
		{"APutWhoseReaderFailsLeavesNothing", failingReader},
		{"ACanceledPutLeavesNothing", canceledPut},
		{"AnEndedContextIsObeyed", endedContext},
		{"TheLimitIsExact", limit},
		{"TheAnnouncedSizeMustBeTrue", announcedSize},
		{"RangesAreExact", ranges},
		{"KeysOfAllFormsAreApart", weirdKeys},
		{"KeysThatAreNoneAreInvalid", invalidKeys},
		{"HostileKeysReachNothingElse", hostileKeys},
		{"ListIsInKeyOrderAndFollowsThePrefix", listing},
		{"ListYieldsManyObjectsOnceEach", longListing},
		{"ListStopsWhenItsCallerDoes", listStops},
		{"FoldersAreYieldedOnceEach", folders},
		{"ManyFoldersAreYieldedOnceEach", manyFolders},
		{"DeleteMayBeRepeated", deleteRepeats},
		{"DeleteRemovesOneObjectOnly", deleteOne},
		{"ConcurrentPutsOfOneKeyLeaveOneWholeObject", concurrentPuts},
		{"ConcurrentUseOfManyKeysIsSafe", concurrentKeys},
		{"ObjectsSurviveTheirProcess", survives},
		{"ABackendThatIsFlatRefusesTheSecond", flat},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, h, h.New(t)) })
	}
	if _, ok := h.New(t).(blob.Signer); ok {
		t.Run("Signed", func(t *testing.T) { runSigned(t, h) })
	}
}

// content returns n bytes that differ from place to place, and from seed to seed.
func content(n int, seed byte) []byte {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func put(t *testing.T, s blob.Store, key string, data []byte) *blob.Info {
	t.Helper()
	info, err := s.Put(t.Context(), key, bytes.NewReader(data), nil)
	if err != nil {
		t.Fatalf("Put %.100q of %d bytes: %v", key, len(data), err)
	}
	return info
}

func read(ctx context.Context, s blob.Store, key string, offset, length int64) ([]byte, error) {
	r, err := s.Get(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

func wantBytes(t *testing.T, s blob.Store, key string, want []byte) {
	t.Helper()
	got, err := read(t.Context(), s, key, 0, -1)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("Get %q: got %d bytes, %v; want the %d that were put", key, len(got), err, len(want))
	}
}

func wantKind(t *testing.T, what string, err error, want fault.Kind) {
	t.Helper()
	if fault.Of(err) != want {
		t.Errorf("%s: got error %v of kind %q, want kind %q", what, err, fault.Of(err), want)
	}
}

func wantAbsent(t *testing.T, s blob.Store, key string) {
	t.Helper()
	_, err := s.Stat(t.Context(), key)
	wantKind(t, "Stat of "+key, err, fault.NotFound)
	_, err = s.Get(t.Context(), key, 0, -1)
	wantKind(t, "Get of "+key, err, fault.NotFound)
	for info, err := range s.List(t.Context(), "") {
		if err != nil || info.Key == key {
			t.Errorf("List yields %+v, %v; want no %q", info, err, key)
		}
	}
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func putThenGet(t *testing.T, _ Harness, s blob.Store) {
	for _, n := range []int{0, 1, 511, 4096, 128<<10 - 1, 128 << 10, 128<<10 + 1, 1<<20 + 3} {
		data := content(n, 1)
		put(t, s, "some/key", data)
		wantBytes(t, s, "some/key", data)
	}
}

func statTells(t *testing.T, _ Harness, s blob.Store) {
	data := content(1000, 2)
	stored, err := s.Put(t.Context(), "a/b.txt", bytes.NewReader(data), &blob.PutOptions{ContentType: "text/plain; charset=utf-8", Size: 1000, Limit: 1000})
	if err != nil {
		t.Fatalf("Put: %v", err)
	}
	known, err := s.Stat(t.Context(), "a/b.txt")
	if err != nil {
		t.Fatalf("Stat: %v", err)
	}
	for name, info := range map[string]*blob.Info{"Put": stored, "Stat": known} {
		if info.Key != "a/b.txt" || info.Size != 1000 || info.SHA256 != hash(data) || info.ContentType != "text/plain; charset=utf-8" || info.StoredAt.IsZero() {
			t.Errorf("%s returned %+v; want key a/b.txt, size 1000, SHA-256 %s, the content type and a time", name, *info, hash(data))
		}
	}
	for info, err := range s.List(t.Context(), "a/") {
		if err != nil {
			t.Fatalf("List: %v", err)
		}
		if info.SHA256 == "" { // as the listings of some backends have it
			info.SHA256 = known.SHA256
		}
		if info.ContentType == "" {
			info.ContentType = known.ContentType
		}
		if *info != *known {
			t.Errorf("List yields %+v; want what Stat says, %+v", *info, *known)
		}
	}
	put(t, s, "a/plain", nil)
	info, err := s.Stat(t.Context(), "a/plain")
	if err != nil || info.Size != 0 || info.ContentType != "" && info.ContentType != "application/octet-stream" {
		t.Errorf("Stat of an empty object without a content type: got %+v, %v", info, err)
	}
}

func oddReaders(t *testing.T, _ Harness, s blob.Store) {
	data := content(10_000, 3)
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"one byte at a time":      iotest.OneByteReader,
		"half of what is asked":   iotest.HalfReader,
		"the end with the bytes":  iotest.DataErrReader,
		"nothing now and then":    func(r io.Reader) io.Reader { return &stutter{r: r} },
		"and cannot seek or tell": func(r io.Reader) io.Reader { return struct{ io.Reader }{r} },
	} {
		if _, err := s.Put(t.Context(), "k", wrap(bytes.NewReader(data)), nil); err != nil {
			t.Errorf("Put from a reader that gives %s: %v", name, err)
		}
		wantBytes(t, s, "k", data)
	}
}

// stutter returns no bytes and no error every other time, as a reader may.
type stutter struct {
	r     io.Reader
	again bool
}

func (s *stutter) Read(p []byte) (int, error) {
	if s.again = !s.again; s.again {
		return 0, nil
	}
	return s.r.Read(p)
}

func absent(t *testing.T, _ Harness, s blob.Store) {
	wantAbsent(t, s, "nobody/put/this")
	put(t, s, "a/b", []byte("x"))
	for _, key := range []string{"a", "a/b/c", "a/bb", "a/B"} {
		wantAbsent(t, s, key)
	}
}

func replaces(t *testing.T, _ Harness, s blob.Store) {
	for i, n := range []int{1000, 10, 5000, 0, 1} {
		data := content(n, byte(i))
		put(t, s, "k", data)
		wantBytes(t, s, "k", data)
		if info, err := s.Stat(t.Context(), "k"); err != nil || info.Size != int64(n) || info.SHA256 != hash(data) {
			t.Errorf("Stat after replacing with %d bytes: got %+v, %v", n, info, err)
		}
	}
}

func failingReader(t *testing.T, _ Harness, s blob.Store) {
	broken := errors.New("the line was cut")
	old := content(100, 4)
	put(t, s, "old", old)
	for _, n := range []int{0, 1, 200 << 10, 2 << 20} {
		for _, key := range []string{"new", "old"} {
			r := io.MultiReader(bytes.NewReader(content(n, 5)), iotest.ErrReader(broken))
			if _, err := s.Put(t.Context(), key, r, nil); !errors.Is(err, broken) {
				t.Errorf("Put from a reader that fails after %d bytes: got %v, want its error", n, err)
			}
		}
		wantAbsent(t, s, "new")
		wantBytes(t, s, "old", old)
	}
}

func canceledPut(t *testing.T, _ Harness, s blob.Store) {
	old := content(100, 6)
	put(t, s, "old", old)
	for _, key := range []string{"new", "old"} {
		ctx, cancel := context.WithCancel(t.Context())
		r := io.MultiReader(bytes.NewReader(content(300<<10, 7)), readerFunc(func(p []byte) (int, error) {
			cancel()
			return copy(p, "and on and on"), nil // it never ends
		}))
		_, err := s.Put(ctx, key, r, nil)
		wantKind(t, "Put whose context is canceled", err, fault.Canceled)
	}
	wantAbsent(t, s, "new")
	wantBytes(t, s, "old", old)
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func endedContext(t *testing.T, _ Harness, s blob.Store) {
	put(t, s, "k", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Put(ctx, "k", bytes.NewReader([]byte("y")), nil)
	wantKind(t, "Put with an ended context", err, fault.Canceled)
	_, err = s.Stat(ctx, "k")
	wantKind(t, "Stat with an ended context", err, fault.Canceled)
	_, err = s.Get(ctx, "k", 0, -1)
	wantKind(t, "Get with an ended context", err, fault.Canceled)
	wantKind(t, "Delete with an ended context", s.Delete(ctx, "k"), fault.Canceled)
	var last error
	for _, err := range s.List(ctx, "") {
		last = err
	}
	wantKind(t, "List with an ended context", last, fault.Canceled)
	for _, err := range s.Folders(ctx, "") {
		last = err
	}
	wantKind(t, "Folders with an ended context", last, fault.Canceled)
	wantBytes(t, s, "k", []byte("x"))
}

func limit(t *testing.T, _ Harness, s blob.Store) {
	for _, n := range []int64{1, 1000, 128 << 10, 1 << 20} {
		exact := content(int(n), 8)
		if _, err := s.Put(t.Context(), "k", bytes.NewReader(exact), &blob.PutOptions{Limit: n}); err != nil {
			t.Errorf("Put of exactly the limit of %d bytes: %v", n, err)
		}
		over := io.MultiReader(bytes.NewReader(exact), bytes.NewReader([]byte("x")))
		_, err := s.Put(t.Context(), "k", over, &blob.PutOptions{Limit: n})
		wantKind(t, "Put of one byte over the limit", err, fault.TooLarge)
		wantBytes(t, s, "k", exact)
		_, err = s.Put(t.Context(), "new", readerFunc(func(p []byte) (int, error) { return len(p), nil }), &blob.PutOptions{Limit: n})
		wantKind(t, "Put of an endless reader with a limit", err, fault.TooLarge)
		wantAbsent(t, s, "new")
	}
}

func announcedSize(t *testing.T, _ Harness, s blob.Store) {
	for name, n := range map[string]int{"too few": 99, "too many": 101, "none": 0} {
		_, err := s.Put(t.Context(), "k", bytes.NewReader(content(n, 9)), &blob.PutOptions{Size: 100})
		wantKind(t, "Put of "+name+" bytes", err, fault.Invalid)
		wantAbsent(t, s, "k")
	}
}

func ranges(t *testing.T, _ Harness, s blob.Store) {
	data := content(300<<10, 10)
	put(t, s, "k", data)
	n := int64(len(data))
	for _, r := range []struct{ offset, length int64 }{
		{0, -1}, {0, 0}, {0, 1}, {0, n}, {0, n + 1}, {1, -1}, {1, 1}, {n - 1, -1}, {n - 1, 1}, {n - 1, 100},
		{128 << 10, 4096}, {128<<10 - 1, 2}, {5, n - 10}, {n / 2, n}, {n, -1}, {n, 0}, {n, 1}, {1, math.MaxInt64},
	} {
		want := data[r.offset:]
		if r.length >= 0 && r.length < int64(len(want)) {
			want = want[:r.length]
		}
		got, err := read(t.Context(), s, "k", r.offset, r.length)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("Get from %d, length %d of %d bytes: got %d bytes, %v; want %d", r.offset, r.length, n, len(got), err, len(want))
		}
	}
	for _, offset := range []int64{-1, n + 1, 10 * n} {
		for _, length := range []int64{-1, 0, 1} {
			_, err := read(t.Context(), s, "k", offset, length)
			wantKind(t, fmt.Sprintf("Get from %d, length %d of %d bytes", offset, length, n), err, fault.Invalid)
		}
	}
}
