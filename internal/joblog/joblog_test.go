package joblog_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/joblog"
	"github.com/dayfly-run/dayfly/internal/wire"
)

const attempt = "att_01jd8k3m"

func open(t testing.TB, dir string, o *joblog.Options) *joblog.Store {
	t.Helper()
	s, err := joblog.Open(dir, o)
	if err != nil {
		t.Fatalf("Open(%s): %v", dir, err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func chunk(stream wire.Stream, offset int64, data string) *wire.LogChunk {
	return &wire.LogChunk{Stream: stream, Offset: offset, Data: []byte(data), TimeMS: 1_700_000_000_123}
}

func mustAppend(t testing.TB, s *joblog.Store, c *wire.LogChunk, limit, want int64) {
	t.Helper()
	got, err := s.Append(attempt, c, limit)
	if err != nil || got != want {
		t.Fatalf("Append of %d bytes at %s:%d: got %d, %v; want %d, nil", len(c.Data), c.Stream, c.Offset, got, err, want)
	}
}

// transcript reads all records into lines such as "stdout 0 hello" and "stderr 5 gap 3: why".
func transcript(t testing.TB, s *joblog.Store, from joblog.Position) (lines []string, next joblog.Position) {
	t.Helper()
	records, err := s.Read(attempt, from)
	if err != nil {
		t.Fatalf("Read from %d: %v", from, err)
	}
	next = from
	for r, err := range records {
		if err != nil {
			t.Fatalf("reading on from %d: %v", next, err)
		}
		line := fmt.Sprintf("%s %d %s", r.Stream, r.Offset, r.Data)
		if r.Gap > 0 {
			line = fmt.Sprintf("%s %d gap %d: %s", r.Stream, r.Offset, r.Gap, r.Why)
		}
		if r.Last {
			line += " (last)"
		}
		lines = append(lines, line)
		next = r.Next
	}
	return lines, next
}

func wantTranscript(t testing.TB, s *joblog.Store, want ...string) {
	t.Helper()
	got, _ := transcript(t, s, 0)
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the output reads\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func wantLengths(t testing.TB, s *joblog.Store, stdout, stderr int64) {
	t.Helper()
	gotOut, gotErr, err := s.Lengths(attempt)
	if err != nil || gotOut != stdout || gotErr != stderr {
		t.Errorf("Lengths: got %d, %d, %v; want %d, %d, nil", gotOut, gotErr, err, stdout, stderr)
	}
}

func TestChunksAreStoredOnceAndInOrderOfEachStream(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, nil)

	mustAppend(t, s, chunk(wire.Stdout, 0, "hello "), 0, 6)
	mustAppend(t, s, chunk(wire.Stderr, 0, "oops"), 0, 4)
	mustAppend(t, s, chunk(wire.Stdout, 0, "hello "), 0, 6)       // repeated: its answer was lost
	mustAppend(t, s, chunk(wire.Stdout, 3, "lo world"), 0, 11)    // overlaps
	mustAppend(t, s, chunk(wire.Stdout, 2, "llo"), 0, 11)         // lies within
	mustAppend(t, s, chunk(wire.Stdout, 11, ""), 0, 11)           // empty
	mustAppend(t, s, chunk(wire.Stderr, 4, "\x00\xff\n\n"), 0, 8) // any bytes
	want := []string{"stdout 0 hello ", "stderr 0 oops", "stdout 6 world", "stderr 4 \x00\xff\n\n"}
	wantTranscript(t, s, want...)
	wantLengths(t, s, 11, 8)

	again := open(t, dir, nil)
	wantTranscript(t, again, want...)
	wantLengths(t, again, 11, 8)
	mustAppend(t, again, chunk(wire.Stdout, 11, "!"), 0, 12)
	wantTranscript(t, again, append(want, "stdout 11 !")...)
}

func TestTheTimeOfAChunkIsKeptInUTC(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), nil)
	mustAppend(t, s, chunk(wire.Stdout, 0, "x"), 0, 1)
	records, err := s.Read(attempt, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := time.UnixMilli(1_700_000_000_123).UTC()
	for r := range records {
		if r.Time != want {
			t.Errorf("the record's time: got %v, want %v", r.Time, want)
		}
	}
}

func TestAChunkBeyondTheEndIsRefusedWithTheOffsetWanted(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), nil)
	mustAppend(t, s, chunk(wire.Stdout, 0, "abc"), 0, 3)
	stored, err := s.Append(attempt, chunk(wire.Stdout, 4, "e"), 0)
	if stored != 3 || !errors.Is(err, fault.Conflict) {
		t.Errorf("Append beyond the end: got %d, %v; want 3 and fault.Conflict", stored, err)
	}
	if sentence, ok := fault.Sentence(err); !ok || !strings.Contains(sentence, "offset 3") {
		t.Errorf("the refusal says %q, want it to name offset 3", sentence)
	}
	wantTranscript(t, s, "stdout 0 abc")
}

func TestAGapTakesThePlaceOfBytesThatAreLost(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), nil)
	mustAppend(t, s, chunk(wire.Stdout, 0, "abc"), 0, 3)
	gap := &wire.LogChunk{Stream: wire.Stdout, Offset: 1, Gap: 10, Why: "the spool was full"}
	mustAppend(t, s, gap, 0, 11) // bytes 1 and 2 are there after all
	mustAppend(t, s, gap, 0, 11)
	mustAppend(t, s, chunk(wire.Stdout, 11, "xyz"), 0, 14)
	wantTranscript(t, s, "stdout 0 abc", "stdout 3 gap 8: the spool was full", "stdout 11 xyz")
}

func TestTheReasonOfAGapIsShortenedAtARune(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), nil)
	mustAppend(t, s, &wire.LogChunk{Stream: wire.Stdout, Gap: 1, Why: strings.Repeat("ä", 1000)}, 0, 1)
	records, err := s.Read(attempt, 0)
	if err != nil {
		t.Fatal(err)
	}
	for r := range records {
		if len(r.Why) != 512 || !utf8.ValidString(r.Why) {
			t.Errorf("the reason is kept with %d bytes, valid %v; want 512, true", len(r.Why), utf8.ValidString(r.Why))
		}
	}
}

func TestOutputOverTheLimitEndsWithOneRecordForEachStream(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, nil)
	const limit = 10
	mustAppend(t, s, chunk(wire.Stdout, 0, "12345678"), limit, 8)
	mustAppend(t, s, chunk(wire.Stdout, 8, "90abc"), limit, 13)
	mustAppend(t, s, chunk(wire.Stdout, 13, "defg"), limit, 17)
	mustAppend(t, s, chunk(wire.Stderr, 0, "e"), limit, 1)
	mustAppend(t, s, chunk(wire.Stderr, 1, "f"), limit, 2)
	why := ": the output is over its limit of 10 bytes; the rest of this stream is not kept (last)"
	want := []string{"stdout 0 12345678", "stdout 8 90", "stdout 10 gap 3" + why, "stderr 0 gap 1" + why}
	wantTranscript(t, s, want...)
	wantLengths(t, s, 17, 2)

	// What was dropped without a record is forgotten by a restart, and the agent may go on all the same.
	again := open(t, dir, nil)
	wantLengths(t, again, 13, 1)
	mustAppend(t, again, chunk(wire.Stdout, 17, "hij"), limit, 20)
	wantTranscript(t, again, want...)
}

func TestTinyRecordsCannotFillTheDiskPastTheLimit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, nil)
	const limit = 1000
	for i := range int64(10_000) {
		mustAppend(t, s, &wire.LogChunk{Stream: wire.Stdout, Offset: i, Gap: 1, Why: "none"}, limit, i+1)
	}
	if size := treeSize(t, dir); size > 3*limit+64<<10 {
		t.Errorf("10,000 gaps of 1 byte with a limit of %d take %d bytes of disk", limit, size)
	}
}

func treeSize(t *testing.T, dir string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			info, err := d.Info()
			size += info.Size()
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

func TestWhatIsNoChunkIsRefused(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), nil)
	const most = int64(^uint64(0) >> 1)
	for name, test := range map[string]struct {
		attempt string
		chunk   wire.LogChunk
		kind    fault.Kind
	}{
		"no such stream":       {attempt, wire.LogChunk{Stream: "stdin"}, fault.Invalid},
		"a negative offset":    {attempt, wire.LogChunk{Stream: wire.Stdout, Offset: -1}, fault.Invalid},
		"a negative gap":       {attempt, wire.LogChunk{Stream: wire.Stdout, Gap: -1}, fault.Invalid},
		"a gap with data":      {attempt, wire.LogChunk{Stream: wire.Stdout, Gap: 1, Data: []byte("x")}, fault.Invalid},
		"an endless gap":       {attempt, wire.LogChunk{Stream: wire.Stdout, Offset: 1, Gap: most}, fault.Invalid},
		"an offset at the end": {attempt, wire.LogChunk{Stream: wire.Stdout, Offset: most, Data: []byte("x")}, fault.Invalid},
		"too much data":        {attempt, wire.LogChunk{Stream: wire.Stdout, Data: make([]byte, wire.MaxChunk+1)}, fault.TooLarge},
		"a path as attempt":    {"../x", wire.LogChunk{Stream: wire.Stdout, Data: []byte("x")}, fault.Invalid},
		"no attempt":           {"", wire.LogChunk{Stream: wire.Stdout, Data: []byte("x")}, fault.Invalid},
		"a very long attempt":  {strings.Repeat("a", 129), wire.LogChunk{Stream: wire.Stdout}, fault.Invalid},
	} {
		if _, err := s.Append(test.attempt, &test.chunk, 0); fault.Of(err) != test.kind {
			t.Errorf("%s: got %v, want fault %s", name, err, test.kind)
		}
	}
	if _, _, err := s.Lengths("a/b"); fault.Of(err) != fault.Invalid {
		t.Errorf("Lengths of a path: got %v, want fault.Invalid", err)
	}
	if _, err := s.Read("a\x00b", 0); fault.Of(err) != fault.Invalid {
		t.Errorf("Read of an id with NUL: got %v, want fault.Invalid", err)
	}
}

func TestALargeChunkIsDividedBetweenCharacters(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), nil)
	text := "x" + strings.Repeat("€", 50_000)
	mustAppend(t, s, chunk(wire.Stdout, 0, text), 0, int64(len(text)))
	binary := bytes.Repeat([]byte{0x80}, wire.MaxChunk)
	mustAppend(t, s, chunk(wire.Stderr, 0, string(binary)), 0, wire.MaxChunk)
	records, err := s.Read(attempt, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := map[wire.Stream][]byte{}
	for r, err := range records {
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Data) > 16<<10 {
			t.Errorf("a record holds %d bytes, want at most %d", len(r.Data), 16<<10)
		}
		if r.Stream == wire.Stdout && !utf8.Valid(r.Data) {
			t.Errorf("the record at offset %d of a text is not valid UTF-8", r.Offset)
		}
		got[r.Stream] = append(got[r.Stream], r.Data...)
	}
	if string(got[wire.Stdout]) != text || !bytes.Equal(got[wire.Stderr], binary) {
		t.Errorf("read back %d and %d bytes, not what was stored", len(got[wire.Stdout]), len(got[wire.Stderr]))
	}
}

func TestReadingGoesOnFromAPosition(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), nil)
	mustAppend(t, s, chunk(wire.Stdout, 0, "one"), 0, 3)
	_, next := transcript(t, s, 0)
	if lines, at := transcript(t, s, next); len(lines) != 0 || at != next {
		t.Errorf("reading at the end: got %q, %d; want nothing, %d", lines, at, next)
	}
	mustAppend(t, s, chunk(wire.Stdout, 3, "two"), 0, 6)
	if lines, _ := transcript(t, s, next); len(lines) != 1 || lines[0] != "stdout 3 two" {
		t.Errorf("reading on: got %q, want only the second chunk", lines)
	}
}

func TestAPositionFromElsewhereIsInvalid(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), nil)
	mustAppend(t, s, chunk(wire.Stdout, 0, strings.Repeat("x", 100)), 0, 100)
	_, end := transcript(t, s, 0)
	for p := joblog.Position(-1); p <= end+1; p++ {
		records, err := s.Read(attempt, p)
		if err == nil {
			for r, e := range records {
				if e == nil && p != 0 {
					t.Errorf("position %d yields %+v", p, r)
				}
				err = e
			}
		}
		valid := p == 0 || p == end
		if valid != (err == nil) || !valid && fault.Of(err) != fault.Invalid {
			t.Errorf("position %d of %d: got %v; want an error that is fault.Invalid: %v", p, end, err, !valid)
		}
	}
}

func TestRemovedOutputIsNotFoundRatherThanEmpty(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, nil)
	if _, err := s.Read(attempt, 0); fault.Of(err) != fault.NotFound {
		t.Errorf("reading before anything is stored: got %v, want fault.NotFound", err)
	}
	mustAppend(t, s, chunk(wire.Stdout, 0, "x"), 0, 1)
	late, err := s.Read(attempt, 0)
	if err != nil {
		t.Fatal(err)
	}
	changed := s.Changed(attempt)
	if err := s.Remove(attempt, "att_other"); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	select {
	case <-changed:
	default:
		t.Error("removing did not wake who waits")
	}
	if _, err := s.Read(attempt, 0); fault.Of(err) != fault.NotFound {
		t.Errorf("reading after removing: got %v, want fault.NotFound", err)
	}
	for _, err := range late {
		if fault.Of(err) != fault.NotFound {
			t.Errorf("a reader from before the removal: got %v, want fault.NotFound", err)
		}
	}
	if size := treeSize(t, dir); size != 0 {
		t.Errorf("after removing, %d bytes are left", size)
	}
	wantLengths(t, s, 0, 0)
	if err := s.Remove(attempt); err != nil {
		t.Errorf("removing again: got %v, want nil", err)
	}
}

func TestANewChunkWakesWhoWaitsForIt(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), nil)
	const total = 200
	done := make(chan []string)
	go func() {
		var lines []string
		var at joblog.Position
		for len(lines) < total {
			changed := s.Changed(attempt)
			records, err := s.Read(attempt, at)
			if fault.Of(err) == fault.NotFound {
				<-changed
				continue
			}
			n := len(lines)
			for r, err := range records {
				if err != nil {
					t.Error(err)
				}
				lines, at = append(lines, string(r.Data)), r.Next
			}
			if len(lines) == n {
				<-changed
			}
		}
		done <- lines
	}()
	for i := range int64(total) {
		mustAppend(t, s, chunk(wire.Stdout, 4*i, fmt.Sprintf("%04d", i)), 0, 4*i+4)
	}
	for i, line := range <-done {
		if want := fmt.Sprintf("%04d", i); line != want {
			t.Fatalf("line %d: got %q, want %q", i, line, want)
		}
	}
}

func TestOpenFilesAreBoundedHoweverManyAttemptsWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, &joblog.Options{MaxOpen: 4, MaxStates: 16})
	const attempts, chunks = 100, 20
	var wg sync.WaitGroup
	for a := range attempts {
		wg.Go(func() {
			id := fmt.Sprintf("att_%d", a)
			for i := range int64(chunks) {
				data := fmt.Sprintf("%d/%02d;", a, i)
				c := chunk(wire.Stdout, i*int64(len(data)), data)
				if _, err := s.Append(id, c, 0); err != nil {
					t.Errorf("Append to %s: %v", id, err)
				}
			}
		})
	}
	wg.Wait()
	if open := openFilesIn(t, dir); open > 4 {
		t.Errorf("%d files are open after the last call, want at most 4", open)
	}
	for a := range attempts {
		id, want := fmt.Sprintf("att_%d", a), ""
		for i := range chunks {
			want += fmt.Sprintf("%d/%02d;", a, i)
		}
		records, err := s.Read(id, 0)
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		for r, err := range records {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, r.Data...)
		}
		if string(got) != want {
			t.Errorf("%s reads %q, want %q", id, got, want)
		}
	}
}

func openFilesIn(t *testing.T, dir string) (n int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatalf("counting open files: %v", err)
	}
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(target, dir) {
			n++
		}
	}
	return n
}

func TestConcurrentRepeatsOfOneAttemptStoreEachByteOnce(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), nil)
	text := strings.Repeat("0123456789", 100)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var at int64
			for at < int64(len(text)) {
				stored, err := s.Append(attempt, chunk(wire.Stdout, at, text[at:min(at+7, int64(len(text)))]), 0)
				if err != nil {
					t.Errorf("Append at %d: %v", at, err)
					return
				}
				at = stored
			}
		})
	}
	wg.Wait()
	records, err := s.Read(attempt, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for r := range records {
		got = append(got, r.Data...)
	}
	if string(got) != text {
		t.Errorf("%d bytes are stored, want the %d that were sent by each of 8 senders", len(got), len(text))
	}
}

func TestASymbolicLinkInThePlaceOfALogIsNotFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, &joblog.Options{MaxStates: 1})
	mustAppend(t, s, chunk(wire.Stdout, 0, "x"), 0, 1)
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.log"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files: %v, %v", files, err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(os.WriteFile(secret, nil, 0o600), os.Remove(files[0]), os.Symlink(secret, files[0])); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir, nil)
	if _, err := again.Append(attempt, chunk(wire.Stdout, 0, "x"), 0); err == nil {
		t.Error("Append through a symbolic link: got nil, want an error")
	}
	if data, err := os.ReadFile(secret); err != nil || len(data) != 0 {
		t.Errorf("the link's target holds %q, %v; want nothing", data, err)
	}
}
