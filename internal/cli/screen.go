package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// screen is a writer to a terminal that lets the output of a job through and disarms what could act on the terminal.
//
// A job's output is somebody else's bytes: an escape sequence in it could retitle the window, write the clipboard or
// repaint a line that was printed before. So only text, newlines, tabs and plain colors pass. A lone carriage return
// becomes a newline, which keeps a progress line legible without letting it overwrite anything. Everything else is
// shown instead of obeyed: ESC as ^[, a bidirectional control as <U+202E>, a byte that is not UTF-8 as \xNN.
//
// With colorless the colors are left out: somebody has said not to want them.
//
// A character or color that is cut by the end of one Write is completed by the next.
type screen struct {
	w         io.Writer
	colorless bool
	held      []byte // an unfinished character or escape sequence
	colors    bool   // a color was set and not reset
	cr        bool   // the last byte was a carriage return, already written as a newline
}

// maxColor is the longest color sequence that passes, in bytes.
const maxColor = 32

// Write disarms p and writes it. It always takes all of p.
func (s *screen) Write(p []byte) (int, error) {
	in := append(s.held, p...)
	s.held = nil
	var out strings.Builder
	for len(in) > 0 {
		n := s.next(&out, in)
		if n == 0 {
			s.held = append([]byte(nil), in...)
			break
		}
		in = in[n:]
	}
	if _, err := io.WriteString(s.w, out.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush writes what is unfinished as it is, disarmed, and ends the colors.
func (s *screen) Flush() error {
	var out strings.Builder
	for _, b := range s.held {
		show(&out, rune(b), b < utf8.RuneSelf)
	}
	s.held = nil
	if s.colors {
		s.colors = false
		out.WriteString("\x1b[0m")
	}
	_, err := io.WriteString(s.w, out.String())
	return err
}

// next writes the first unit of in and returns its length, or 0 when in ends within it.
func (s *screen) next(out *strings.Builder, in []byte) int {
	wasCR := s.cr
	s.cr = false
	b := in[0]
	switch {
	case b == '\n':
		if !wasCR { // "\r\n" is one newline
			out.WriteByte('\n')
		}
		return 1
	case b == '\r':
		s.cr = true
		out.WriteByte('\n')
		return 1
	case b == '\t' || (b >= ' ' && b < 0x7f):
		out.WriteByte(b)
		return 1
	case b == 0x1b:
		n, complete := color(in)
		if n > 0 {
			if s.colorless {
				return n
			}
			out.Write(in[:n])
			s.colors = string(in[:n]) != "\x1b[m" && string(in[:n]) != "\x1b[0m"
			return n
		}
		if !complete {
			s.cr = wasCR
			return 0
		}
		out.WriteString("^[")
		return 1
	case b < utf8.RuneSelf:
		show(out, rune(b), true)
		return 1
	}
	if !utf8.FullRune(in) {
		s.cr = wasCR
		return 0
	}
	r, n := utf8.DecodeRune(in)
	if r == utf8.RuneError && n == 1 {
		show(out, rune(b), false)
		return 1
	}
	if harmless(r) {
		out.WriteRune(r)
	} else {
		show(out, r, true)
	}
	return n
}

// color returns the length of the color sequence that in begins with, or 0. complete is false when in ends before it
// can be told.
func color(in []byte) (n int, complete bool) {
	for i := 1; i < len(in); i++ {
		c := in[i]
		switch {
		case i == 1 && c == '[':
		case i == 1:
			return 0, true
		case c == 'm':
			if visible(string(in[2:i])) {
				return i + 1, true
			}
			return 0, true
		case (c >= '0' && c <= '9') || c == ';':
			if i >= maxColor {
				return 0, true
			}
		default:
			return 0, true
		}
	}
	return 0, false
}

// visible reports whether the parameters of a color sequence only color, embolden, underline or reset. Text that is
// concealed, or that blinks, is not let through.
func visible(parameters string) bool {
	if parameters == "" {
		return true
	}
	fields := strings.Split(parameters, ";")
	for i := 0; i < len(fields); i++ {
		code, err := strconv.Atoi(fields[i])
		if fields[i] == "" {
			code, err = 0, nil
		}
		if err != nil {
			return false
		}
		switch {
		case (code == 38 || code == 48) && i+2 < len(fields) && fields[i+1] == "5":
			i += 2
		case (code == 38 || code == 48) && i+4 < len(fields) && fields[i+1] == "2":
			i += 4
		case code <= 4, code == 7, code >= 21 && code <= 24, code == 27,
			code >= 30 && code <= 37, code == 39, code >= 40 && code <= 47, code == 49,
			code >= 90 && code <= 97, code >= 100 && code <= 107:
		default:
			return false
		}
	}
	return true
}

// harmless reports whether a character beyond ASCII may reach a terminal: no C1 control, no control of direction, no
// separator that some terminals take for a newline, no invisible character that hides a difference.
func harmless(r rune) bool {
	switch {
	case r >= 0x80 && r < 0xa0,
		r == 0x061c, r == 0x200e, r == 0x200f,
		r >= 0x202a && r <= 0x202e,
		r >= 0x2066 && r <= 0x2069,
		r == 0x2028, r == 0x2029,
		r == 0xfeff,
		r >= 0xfff9 && r <= 0xfffb,
		r >= 0xe0000 && r <= 0xe007f:
		return false
	}
	return true
}

// show writes a character that may not pass in a form that can be seen. whole is false for a byte that is not part
// of a character.
func show(out *strings.Builder, r rune, whole bool) {
	switch {
	case !whole:
		fmt.Fprintf(out, `\x%02x`, r)
	case r == 0x7f:
		out.WriteString("^?")
	case r < 0x20:
		out.WriteByte('^')
		out.WriteRune(r + '@')
	case r < 0x7f:
		out.WriteRune(r)
	default:
		fmt.Fprintf(out, "<U+%04X>", r)
	}
}

// plain disarms text from elsewhere, such as a name or a message, for one line of our own.
func plain(text string) string {
	clean := true
	for _, r := range text {
		if r < ' ' || r == 0x7f || r == utf8.RuneError || !harmless(r) {
			clean = false
			break
		}
	}
	if clean {
		return text
	}
	var out strings.Builder
	for i, r := range text {
		switch {
		case r == utf8.RuneError:
			if _, n := utf8.DecodeRuneInString(text[i:]); n == 1 {
				show(&out, rune(text[i]), false)
				continue
			}
			out.WriteRune(r)
		case r < ' ' || r == 0x7f || !harmless(r):
			show(&out, r, true)
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}
