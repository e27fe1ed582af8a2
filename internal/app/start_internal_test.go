package app

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"unicode"
)

func TestWhatOthersSayDrivesNoTerminalFromTheLog(t *testing.T) {
	t.Parallel()
	for name, colors := range map[string][]string{"in a file": nil, "in color": {"\x1b[2m", "\x1b[0m", "\x1b[92m"}} {
		open := func(b *bytes.Buffer) *slog.Logger {
			return newLogger(Log{Level: "info", Format: "text"}, b, colors != nil)
		}
		for _, said := range []string{
			"a\x1b[31mred", "\x1b]0;title\x07z", "\x1b[2Jz", "\x1bcz", "\x1b]52;c;aaaa\x1b\\z", "a\x1b", "a\nz", "a\rz", "\u009b31mz",
			"\u202egpj.exe", "a\x00z", "\u2028z", "x\xffz", "x\x1b[\xffz", "a\"z", "ä",
		} {
			var before, out bytes.Buffer
			open(&before).Info("said", "text", "x")
			open(&out).Info("said", "text", said, "error", fmt.Errorf("failed: %w", errors.New(said)), "list", []string{said},
				slog.Group("group", "text", said))
			line := strings.TrimSuffix(out.String(), "\n")
			for _, color := range colors {
				if !strings.Contains(before.String(), color) {
					t.Fatalf("the color %q is not in %q, want the colors of the log", color, before.String())
				}
				line = strings.ReplaceAll(line, color, "")
			}
			if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%s, %q: the log has %q, want only what can be shown", name, said, line)
			}
			if end := said[len(said)-1:]; unicode.IsLetter(rune(end[0])) && strings.Count(line, end) < 4 {
				t.Errorf("%s, %q: the log has %q, want all of what was said, four times", name, said, line)
			}
		}
	}
}
