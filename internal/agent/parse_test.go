package agent

import (
	"encoding/json"
	"math"
	"net/http"
	"path"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
)

func TestParseProgress(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 200)
	for name, c := range map[string]struct {
		tail     string
		finished bool
		want     *wire.Progress
	}{
		"FractionAndText":             {"0.42 encoding\n", false, &wire.Progress{Fraction: 0.42, Text: "encoding"}},
		"FractionAlone":               {"0.42\n", false, &wire.Progress{Fraction: 0.42}},
		"Percentage":                  {"42% encoding\n", false, &wire.Progress{Fraction: 0.42, Text: "encoding"}},
		"PercentageWithFraction":      {"99.5%\n", false, &wire.Progress{Fraction: 0.995}},
		"LastLineCounts":              {"0.1 a\n0.2 b\n", false, &wire.Progress{Fraction: 0.2, Text: "b"}},
		"HalfALineDoesNot":            {"0.1 a\n0.2", false, &wire.Progress{Fraction: 0.1, Text: "a"}},
		"HalfALineDoesInTheEnd":       {"0.1 a\n0.2", true, &wire.Progress{Fraction: 0.2}},
		"GarbageIsPassedOver":         {"0.1 a\nhello\n\n\n", false, &wire.Progress{Fraction: 0.1, Text: "a"}},
		"CarriageReturnIsNoText":      {"0.5 half\r\n", false, &wire.Progress{Fraction: 0.5, Text: "half"}},
		"TooMuchIsOne":                {"42 answers\n", false, &wire.Progress{Fraction: 1, Text: "answers"}},
		"LessThanNothingIsZero":       {"-3%\n", false, &wire.Progress{}},
		"ControlCharactersAreSpaces":  {"0.5 a\x1b[31mb\tc\n", false, &wire.Progress{Fraction: 0.5, Text: "a [31mb c"}},
		"InvalidUTF8IsReplaced":       {"0.5 a\xffb\n", false, &wire.Progress{Fraction: 0.5, Text: "a\uFFFDb"}},
		"LongTextIsCutBetweenLetters": {"0.5 " + long + "\n", false, &wire.Progress{Fraction: 0.5, Text: strings.Repeat("é", 128)}},
		"InfinityIsGarbage":           {"Inf\n", false, nil},
		"NotANumberIsGarbage":         {"NaN\n", false, nil},
		"HexIsGarbage":                {"0x1p-2\n", false, nil},
		"ExponentIsGarbage":           {"1e-1\n", false, nil},
		"CommaIsGarbage":              {"0,42\n", false, nil},
		"Nothing":                     {"", true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := parseProgress([]byte(c.tail), c.finished)
			if (got == nil) != (c.want == nil) || got != nil && (math.Abs(got.Fraction-c.want.Fraction) > 1e-9 || got.Text != c.want.Text) {
				t.Errorf("parseProgress(%q, %v) = %+v, want %+v", c.tail, c.finished, got, c.want)
			}
		})
	}
}

func FuzzParseProgress(f *testing.F) {
	for _, seed := range []string{"", "\n", "0.42 encoding\n", "42%\n", "0.1\n0.", "-1 \xff\xfe\n", "1e309\n", strings.Repeat("9", 400) + "\n", "0.5 " + strings.Repeat("€", 100)} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, tail []byte, finished bool) {
		p := parseProgress(tail, finished)
		if p == nil {
			return
		}
		if !(p.Fraction >= 0 && p.Fraction <= 1) {
			t.Errorf("fraction %v", p.Fraction)
		}
		if len(p.Text) > wire.MaxProgressText || !utf8.ValidString(p.Text) || strings.ContainsFunc(p.Text, unicode.IsControl) {
			t.Errorf("text %q", p.Text)
		}
	})
}

func TestGlobMatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a", "a/b", false}, {"*", "a", true}, {"*", "a/b", false},
		{"*.txt", "a.txt", true}, {"*.txt", ".txt", true}, {"a/*", "a/b", true}, {"a/*", "a/b/c", false},
		{"**", "a", true}, {"**", "a/b/c", true}, {"**/c", "c", true}, {"**/c", "a/b/c", true}, {"**/c", "a/c/b", false},
		{"a/**", "a/b", true}, {"a/**", "a/b/c", true}, {"a/**", "a", false}, {"a/**", "b/a", false},
		{"a/**/z", "a/z", true}, {"a/**/z", "a/b/c/z", true}, {"a/**/z", "a/b/c", false},
		{"**/b/**/d", "a/b/c/d", true}, {"**/b/**/d", "b/d", true}, {"**/b/**/d", "a/b/c", false}, {"**/b/*/d", "b/x/b/y/d", true},
		{"**/**", "a", true}, {"a**", "ab/c", false}, {"a**", "abc", true}, {"./a", "a", true}, {"a/", "a", true}, {"/a", "a", false},
		{"[a-c]x", "bx", true}, {"\\*", "*", true}, {"\\*", "a", false}, {"?", "é", true},
	} {
		g, err := parseGlob(c.pattern)
		if err != nil {
			t.Errorf("parseGlob(%q): %v", c.pattern, err)
			continue
		}
		if got := g.match(c.name); got != c.want {
			t.Errorf("%q matches %q = %v, want %v", c.pattern, c.name, got, c.want)
		}
	}
}

// naiveMatch says the same as glob.match in the most obvious way, which takes exponential time.
func naiveMatch(pattern, elements []string) bool {
	switch {
	case len(pattern) == 0:
		return len(elements) == 0
	case pattern[0] == "**" && len(pattern) == 1:
		return len(elements) > 0
	case pattern[0] == "**":
		for i := range len(elements) + 1 {
			if naiveMatch(pattern[1:], elements[i:]) {
				return true
			}
		}
		return false
	case len(elements) == 0:
		return false
	}
	ok, _ := path.Match(pattern[0], elements[0])
	return ok && naiveMatch(pattern[1:], elements[1:])
}

func FuzzGlob(f *testing.F) {
	for _, seed := range [][2]string{{"**/b/**/d", "a/b/c/d"}, {"*", ""}, {"[", "["}, {"a/**", "a"}, {"**/*/**", "x/y"}, {"\\", "\\"}, {"a//b/../c", "a/c"}, {"[a-", "a"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if strings.Count(pattern, "**") > 6 || len(name) > 40 {
			return // the naive one would take too long
		}
		g, err := parseGlob(pattern)
		if err != nil {
			return
		}
		elements := strings.Split(name, "/")
		got := g.match(name)
		if want := naiveMatch(g, elements); got != want {
			t.Errorf("%q (%q) matches %q = %v, want %v", pattern, []string(g), name, got, want)
		}
		for i := 1; got && i < len(elements); i++ {
			if dir := strings.Join(elements[:i], "/"); !g.within(dir) {
				t.Errorf("%q matches %q, but %q would not be read", pattern, name, dir)
			}
		}
	})
}

func TestGlobTakesNoExponentialTime(t *testing.T) {
	t.Parallel()
	g, err := parseGlob(strings.Repeat("**/a/", 60) + "b")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if g.match(strings.Repeat("a/", 500) + "c") {
		t.Error("it matches")
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

// FuzzAnswers decodes anything as every kind of answer. What comes out is complete or an error that the agent can
// decide by.
func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{
		``, `null`, `{}`, `[]`, `{"answers":null}`, `{"answers":[{"log":{"stored":-1}}]}`, `{"answers":[{"error":{"status":409,"code":"stale_attempt"}}]}`,
		`{"answers":[{"assignment":{"attempt":"a","token":"t","command":["x"],"orphan_after_ms":-9223372036854775808}}]}`,
		`{"status":404,"code":"nonsense","detail":"\u0000"}`, `{"code":"conflict","stored":7}`, `{"orders":[{"attempt":"a","order":"stop","reason":"x"}]}`,
		`{"uploads":[{"method":"PUT","url":"http://x"}]}`, strings.Repeat("[", 10_001),
	} {
		f.Add(409, "3", []byte(seed))
	}
	f.Fuzz(func(t *testing.T, status int, retryAfter string, body []byte) {
		refusal := decodeRefusal(status, http.Header{"Retry-After": {retryAfter}}, body)
		if kind := fault.Of(refusal); !known(kind) {
			t.Errorf("a refusal of kind %q", kind)
		}
		if wait := backoff(3, refusal); wait <= 0 || wait > backoffLast+maxRetryAfter+time.Second {
			t.Errorf("a wait of %v", wait)
		}
		if answers, err := decodeBatch(body, 1); err == nil {
			if len(answers) != 1 {
				t.Errorf("%d answers", len(answers))
			}
			if err := callError(&answers[0]); err != nil && !known(fault.Of(err)) {
				t.Errorf("a call failed with %v", err)
			}
			if j := answers[0].Assignment; checkAssignment(j, "a") == nil {
				if j.Attempt != "a" || j.Token == "" || len(j.Command) == 0 {
					t.Errorf("assignment %+v passed", j)
				}
				for _, ms := range []int64{j.RunTimeoutMS, j.KillGraceMS, j.HeartbeatMS, j.OrphanAfterMS} {
					if d := milliseconds(ms, time.Second); d <= 0 {
						t.Errorf("%d ms became %v", ms, d)
					}
				}
			}
		} else if !retryable(err) {
			t.Errorf("a garbled batch is not tried again: %v", err)
		}
		if _, err := decodeOrders(body); err != nil && !retryable(err) {
			t.Errorf("a garbled answer to heartbeats is not tried again: %v", err)
		}
		var uploads wire.ArtifactAnswer
		if json.Unmarshal(body, &uploads) == nil && checkUploads(&uploads, 1) == nil && (len(uploads.Uploads) != 1 || uploads.Uploads[0].URL == "") {
			t.Errorf("uploads %+v passed", uploads)
		}
	})
}

func TestBackoffStaysWithinItsBounds(t *testing.T) {
	t.Parallel()
	for tries := range 100 {
		if wait := backoff(tries, fault.Unavailable); wait <= 0 || wait > backoffLast+time.Millisecond {
			t.Errorf("backoff(%d) = %v", tries, wait)
		}
	}
	refusal := &Refusal{Kind: fault.Unavailable, RetryAfter: 10 * time.Second}
	if wait := backoff(0, refusal); wait < 10*time.Second {
		t.Errorf("backoff = %v although the server asked for 10 s", wait)
	}
}
