package joblog_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/joblog"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// sample makes a log of a few records of all kinds and returns its file and the lines it reads as.
func sample(t testing.TB, dir string) (file string, lines []string) {
	t.Helper()
	s := open(t, dir, nil)
	mustAppend(t, s, chunk(wire.Stdout, 0, "first"), 0, 5)
	mustAppend(t, s, chunk(wire.Stderr, 0, "second"), 0, 6)
	mustAppend(t, s, &wire.LogChunk{Stream: wire.Stdout, Offset: 5, Gap: 7, Why: "lost"}, 0, 12)
	mustAppend(t, s, chunk(wire.Stdout, 12, "third"), 0, 17)
	lines, _ = transcript(t, s, 0)
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.log"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files: %v, %v", files, err)
	}
	return files[0], lines
}

func TestATornEndIsNeverServedAndIsCutOffBeforeTheNextChunk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, lines := sample(t, dir)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, garbage := range []string{"", "\x00", strings.Repeat("\x00", 100), "garbage that is longer than a header is"} {
		for length := range len(whole) + 1 {
			if length == len(whole) && garbage == "" {
				continue
			}
			torn := append(bytes.Clone(whole[:length]), garbage...)
			if err := os.WriteFile(file, torn, 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, dir, nil)
			got, _ := transcript(t, s, 0)
			if len(got) > 0 && !strings.HasPrefix(strings.Join(lines, "\n"), strings.Join(got, "\n")) {
				t.Fatalf("cut at %d: reads %q, which is no beginning of %q", length, got, lines)
			}
			stdout, _, err := s.Lengths(attempt)
			if err != nil {
				t.Fatal(err)
			}
			mustAppend(t, s, chunk(wire.Stdout, stdout, "after the crash"), 0, stdout+15)
			again := open(t, dir, nil)
			wantTranscript(t, again, append(got, fmt.Sprintf("stdout %d after the crash", stdout))...)
		}
	}
}

func TestADamagedByteEndsTheOutputBeforeItsRecord(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, lines := sample(t, dir)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 0x10
		if err := os.WriteFile(file, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		got, _ := transcript(t, open(t, dir, nil), 0)
		if len(got) >= len(lines) || !strings.HasPrefix(strings.Join(lines, "\n"), strings.Join(got, "\n")) {
			t.Fatalf("with byte %d damaged it reads %q, want fewer lines of %q", i, got, lines)
		}
	}
}

// TestStoreAgreesWithAModel sends random chunks, with restarts between, and compares with strings in memory.
func TestStoreAgreesWithAModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "joblog")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		s, err := joblog.Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		model := map[wire.Stream]string{wire.Stdout: "", wire.Stderr: ""} // '?' stands for a missing byte
		for range rapid.IntRange(1, 30).Draw(t, "calls") {
			stream := rapid.SampledFrom([]wire.Stream{wire.Stdout, wire.Stderr}).Draw(t, "stream")
			end := int64(len(model[stream]))
			offset := max(0, end+rapid.Int64Range(-20, 3).Draw(t, "distance"))
			data := rapid.StringMatching(`[a-z]{0,40}`).Draw(t, "data")
			c := &wire.LogChunk{Stream: stream, Offset: offset, Data: []byte(data)}
			if rapid.IntRange(0, 5).Draw(t, "gap") == 0 && len(data) > 0 {
				c.Gap, c.Data = int64(len(data)), nil
				data = strings.Repeat("?", len(data))
			}
			stored, err := s.Append(attempt, c, 0)
			if offset > end {
				if fault.Of(err) != fault.Conflict || stored != end {
					t.Fatalf("at %d with %d stored: got %d, %v; want %d, fault.Conflict", offset, end, stored, err, end)
				}
			} else {
				if past := end - offset; past < int64(len(data)) {
					model[stream] += data[past:]
				}
				if err != nil || stored != int64(len(model[stream])) {
					t.Fatalf("at %d: got %d, %v; want %d, nil", offset, stored, err, len(model[stream]))
				}
			}
			if rapid.IntRange(0, 4).Draw(t, "restart") == 0 {
				s.Close()
				if s, err = joblog.Open(dir, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		got := map[wire.Stream]string{wire.Stdout: "", wire.Stderr: ""}
		records, err := s.Read(attempt, 0)
		if fault.Of(err) == fault.NotFound && model[wire.Stdout]+model[wire.Stderr] == "" {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for r, err := range records {
			if err != nil {
				t.Fatal(err)
			}
			got[r.Stream] += string(r.Data) + strings.Repeat("?", int(r.Gap))
		}
		if got[wire.Stdout] != model[wire.Stdout] || got[wire.Stderr] != model[wire.Stderr] {
			t.Fatalf("reads %q, want %q", got, model)
		}
		s.Close()
	})
}
