package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// encode writes JSON as an agent does, without escapes that only HTML needs, and, if ascii is set, as encoders do that
// escape whatever is not ASCII.
func encode(t *testing.T, v any, ascii bool) []byte {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	if !ascii {
		return b.Bytes()
	}
	var escaped []byte
	for _, r := range b.String() {
		if r < 0x80 {
			escaped = append(escaped, byte(r))
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			escaped = fmt.Appendf(escaped, `\u%04x`, unit)
		}
	}
	return escaped
}

// full returns a text of so many bytes, made of the piece.
func full(piece string, bytes int) string { return strings.Repeat(piece, bytes/len(piece)) }

func TestTheLargestResultFitsIntoARequestAndIntoABatch(t *testing.T) {
	t.Parallel()
	for name, piece := range map[string]string{
		"plain names": "x", "names to escape": `"`, "two bytes a character": "é", "three bytes a character": "蜉", "four bytes a character": "🪰",
	} {
		r := &wire.Result{
			Outcome: wire.Failed, Reason: full("r", 64), Message: full(piece, wire.MaxSentence),
			Exit:     &machine.Exit{Code: math.MaxInt, Signal: "SIGRTMIN+15", OOMKilled: true, DiskFull: true, Expired: true, Message: full(piece, wire.MaxSentence)},
			Value:    json.RawMessage(`"` + full("v", wire.MaxResultValue-2) + `"`),
			Progress: &wire.Progress{Fraction: 1.0 / 3, Text: full(piece, wire.MaxProgressText)},
			MaxRSSKB: math.MaxInt64, FetchMS: math.MaxInt64, RunMS: math.MaxInt64, FinishMS: math.MaxInt64, UserMS: math.MaxInt64, SystemMS: math.MaxInt64,
			StdoutBytes: math.MaxInt64, StderrBytes: math.MaxInt64, StartedMS: math.MaxInt64, AgentInfo: full("a", 128), Started: true,
		}
		for range wire.MaxWarnings {
			r.Warnings = append(r.Warnings, full(piece, wire.MaxSentence))
		}
		for range wire.MaxArtifacts {
			r.Artifacts = append(r.Artifacts, wire.Artifact{Name: full(piece, wire.MaxArtifactNames/wire.MaxArtifacts), Size: math.MaxInt64, SHA256: full("0", 64)})
		}
		for _, ascii := range []bool{false, true} {
			if n := len(encode(t, r, ascii)); n > wire.MaxRequest {
				t.Errorf("%s (as ASCII: %v): the largest result has %d bytes, want at most %d", name, ascii, n, wire.MaxRequest)
			}
			batch := wire.Batch{Calls: []wire.BatchCall{{Attempt: full("a", 128), Token: full("t", 512), Result: r}}}
			if n := len(encode(t, batch, ascii)); n > wire.MaxBatchBytes {
				t.Errorf("%s (as ASCII: %v): the largest result in a batch has %d bytes, want at most %d", name, ascii, n, wire.MaxBatchBytes)
			}
		}
	}
}

func TestTheLargestQuestionForPlacesFitsIntoARequest(t *testing.T) {
	t.Parallel()
	var r wire.ArtifactRequest
	for range wire.MaxArtifacts {
		r.Artifacts = append(r.Artifacts, wire.ArtifactWant{Name: full("é", wire.MaxArtifactNames/wire.MaxArtifacts), Size: math.MaxInt64})
	}
	if n := len(encode(t, r, true)); n > wire.MaxRequest {
		t.Errorf("it has %d bytes, want at most %d", n, wire.MaxRequest)
	}
}

func TestTheLargestChunkFitsIntoABatch(t *testing.T) {
	t.Parallel()
	call := wire.BatchCall{Attempt: full("a", 128), Token: full("t", 512), Log: &wire.LogChunk{
		Stream: wire.Stdout, Offset: math.MaxInt64, Data: make([]byte, wire.MaxChunk), TimeMS: math.MaxInt64,
	}}
	if n := len(encode(t, wire.Batch{Calls: []wire.BatchCall{call}}, false)); n > wire.MaxBatchBytes {
		t.Errorf("it has %d bytes, want at most %d", n, wire.MaxBatchBytes)
	}
}

func TestAFleetHomeIsOneWord(t *testing.T) {
	t.Parallel()
	want := wire.FleetHome{URL: "http://172.17.0.1:7701", Machine: "thumbnails-abc", Token: "secret"}
	word := want.Encode()
	got, err := wire.ParseFleetHome(word)
	if err != nil || *got != want || !wire.IsFleetHome(word) {
		t.Errorf("ParseFleetHome of what Encode returns: got %+v and error %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "fleet:", "fleet:e30", "fleet:!", word[1:], (&wire.FleetHome{URL: "nowhere", Machine: "m", Token: "t"}).Encode()} {
		if got, err := wire.ParseFleetHome(bad); !errors.Is(err, fault.Invalid) {
			t.Errorf("ParseFleetHome(%q): got %+v and error %v, want fault.Invalid", bad, got, err)
		}
	}
}

func TestASlotHasOneIdWhichTellsItsMachine(t *testing.T) {
	t.Parallel()
	for k := 1; k <= wire.MaxSlots; k++ {
		id := wire.Slot("rnr_x.y", k)
		if machine, got := wire.SlotOf(id); machine != "rnr_x.y" || got != k {
			t.Errorf("SlotOf(%q): got slot %d of %q, want slot %d of %q", id, got, machine, k, "rnr_x.y")
		}
	}
	if got := []string{wire.Slot("rnr_x", 1), wire.Slot("rnr_x", 2)}; got[0] != "rnr_x" || got[1] != "rnr_x.2" {
		t.Errorf("the ids of two slots: got %q, want those of the machine and of its slot 2", got)
	}
	for _, other := range []string{"", ".", "rnr_x", "rnr_x.", "rnr_x.0", "rnr_x.1", "rnr_x.02", "rnr_x.+2", "rnr_x.-2", "rnr_x.y", "rnr_x.129", "rnr_x.99999999999999999999"} {
		if machine, k := wire.SlotOf(other); machine != other || k != 1 {
			t.Errorf("SlotOf(%q), which is no slot's id: got slot %d of %q, want it whole", other, k, machine)
		}
	}
}
