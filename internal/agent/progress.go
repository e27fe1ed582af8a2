package agent

import (
	"bytes"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/internal/wire"
)

// maxProgressTail is how much of the end of a progress file is read. The last line counts, however long the file.
const maxProgressTail = 4 << 10

// parseProgress returns what the last line says that can be understood, or nil if there is none. A line is a fraction
// ("0.42") or a percentage ("42%"), and after a space what is being done ("0.42 encoding"). A line that is not ended
// yet may be half written: it counts only when finished.
func parseProgress(tail []byte, finished bool) *wire.Progress {
	if !finished {
		tail = tail[:bytes.LastIndexByte(tail, '\n')+1]
	}
	for len(tail) > 0 {
		tail = bytes.TrimSuffix(tail, []byte{'\n'})
		start := bytes.LastIndexByte(tail, '\n') + 1
		if p, ok := parseProgressLine(string(tail[start:])); ok {
			return p
		}
		tail = tail[:start]
	}
	return nil
}

func parseProgressLine(line string) (*wire.Progress, bool) {
	number, text, _ := strings.Cut(strings.TrimSpace(line), " ")
	digits, percent := strings.CutSuffix(number, "%")
	if digits == "" || strings.Trim(digits, "+-.0123456789") != "" {
		return nil, false // strconv would also take "Inf", "0x1p-2" and "1e999"
	}
	fraction, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return nil, false
	}
	if percent {
		fraction /= 100
	}
	return &wire.Progress{
		Fraction: min(max(fraction, 0), 1),
		Text:     printable(strings.TrimSpace(text), wire.MaxProgressText),
	}, true
}

// printable returns text as valid UTF-8 without control characters, cut to at most limit bytes between two characters.
func printable(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}
