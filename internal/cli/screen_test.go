package cli

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestScreenDisarmsWhatCouldActOnATerminal(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ in, want string }{
		"text, tabs and newlines pass":           {"a\tb\nc", "a\tb\nc"},
		"letters beyond ASCII pass":              {"naïve – 日本 🐉", "naïve – 日本 🐉"},
		"colors pass and are ended":              {"\x1b[1;31mred", "\x1b[1;31mred\x1b[0m"},
		"colors that are reset need no end":      {"\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"},
		"256 and true colors pass":               {"\x1b[38;5;208m\x1b[48;2;1;2;3mx\x1b[m", "\x1b[38;5;208m\x1b[48;2;1;2;3mx\x1b[m"},
		"concealed text is shown":                {"\x1b[8msecret", "^[[8msecret"},
		"a window title is not set":              {"\x1b]0;owned\x07", "^[]0;owned^G"},
		"the clipboard is not written":           {"\x1b]52;c;cm0gLXJm\x1b\\", "^[]52;c;cm0gLXJm^[\\"},
		"the cursor does not move":               {"\x1b[2J\x1b[1;1H", "^[[2J^[[1;1H"},
		"a carriage return is a newline":         {"10%\r20%\r", "10%\n20%\n"},
		"a carriage return and newline is one":   {"a\r\nb", "a\nb"},
		"backspace and delete are shown":         {"a\bb\x7f", "a^Hb^?"},
		"NUL is shown":                           {"a\x00b", "a^@b"},
		"C1 controls are shown":                  {"\u009b31m", "<U+009B>31m"},
		"a raw C1 byte is shown":                 {"\x9b31m", `\x9b31m`},
		"bytes that are not UTF-8 are shown":     {"a\xff\xc3", `a\xff\xc3`},
		"direction is not turned":                {"\u202egnp.exe", "<U+202E>gnp.exe"},
		"line separators are shown":              {"a\u2028b", "a<U+2028>b"},
		"an escape at the very end is shown":     {"a\x1b", "a^["},
		"an unfinished color at the end is text": {"a\x1b[3", "a^[[3"},
		"an endless color is text":               {"\x1b[" + strings.Repeat("1", 60) + "m", "^[[" + strings.Repeat("1", 60) + "m"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for size := 1; size <= len(c.in); size++ { // however the output is cut, the screen shows the same
				var out bytes.Buffer
				s := &screen{w: &out}
				for rest := []byte(c.in); len(rest) > 0; {
					n := min(size, len(rest))
					if wrote, err := s.Write(rest[:n]); wrote != n || err != nil {
						t.Fatalf("Write = %d, %v; want %d, nil", wrote, err, n)
					}
					rest = rest[n:]
				}
				if err := s.Flush(); err != nil {
					t.Fatal(err)
				}
				if got := out.String(); got != c.want {
					t.Fatalf("in pieces of %d bytes: got %q, want %q", size, got, c.want)
				}
			}
		})
	}
}

func FuzzScreenNeverLetsAControlThrough(f *testing.F) {
	f.Add([]byte("\x1b]52;c;AAAA\x07\x1b[31mred\x9b\xe2\x80\xae"), 3)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		if size <= 0 || size > 1<<20 {
			size = 1
		}
		var out bytes.Buffer
		s := &screen{w: &out}
		for rest := in; len(rest) > 0; {
			n := min(size, len(rest))
			if _, err := s.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		text := out.String()
		if !utf8.ValidString(text) {
			t.Fatalf("%q becomes %q, which is not UTF-8", in, text)
		}
		for i, r := range text {
			if r == 0x1b {
				if n, _ := color([]byte(text[i:])); n == 0 {
					t.Fatalf("%q lets an escape through: %q", in, text)
				}
				continue
			}
			if r != '\n' && r != '\t' && (r < ' ' || r == 0x7f || !harmless(r)) {
				t.Fatalf("%q lets %U through: %q", in, r, text)
			}
		}
	})
}

func TestPlainKeepsForeignTextOnItsLine(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"transcode":             "transcode",
		"ünïcode":               "ünïcode",
		"a\nb\x1b[2Jc":          "a^Jb^[[2Jc",
		"bad \xff byte \u202e!": `bad \xff byte <U+202E>!`,
	} {
		if got := plain(in); got != want {
			t.Errorf("plain(%q) = %q, want %q", in, got, want)
		}
	}
}
