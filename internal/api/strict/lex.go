package strict

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// The words of JSON: white space, numbers and strings.

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// next returns the next byte after white space without consuming it, or 0 at the end.
func (s *scanner) next() byte {
	if s.space(); s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

// number consumes a number.
func (s *scanner) number() error {
	if s.data[s.pos] == '-' {
		s.pos++
	}
	if s.at('0') {
		s.pos++
	} else if !s.digits() {
		return s.malformed("a digit is expected here")
	}
	if s.at('.') {
		s.pos++
		if !s.digits() {
			return s.malformed("a digit is expected after the point")
		}
	}
	if s.at('e') || s.at('E') {
		s.pos++
		if s.at('+') || s.at('-') {
			s.pos++
		}
		if !s.digits() {
			return s.malformed("a digit is expected in the exponent")
		}
	}
	if s.pos < len(s.data) && strings.IndexByte("0123456789.eE+-", s.data[s.pos]) >= 0 {
		return s.malformed("this is not a number as JSON writes it")
	}
	return nil
}

func (s *scanner) at(c byte) bool { return s.pos < len(s.data) && s.data[s.pos] == c }

// digits consumes digits and reports whether there was one.
func (s *scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.data) && '0' <= s.data[s.pos] && s.data[s.pos] <= '9' {
		s.pos++
	}
	return s.pos > start
}

// str consumes a string and returns what stands between its quotes, and whether there are escapes in it. Long strings
// that are to be base64 are not looked at here, because decoding them finds every byte that is not.
func (s *scanner) str(isBase64 bool) (raw []byte, escaped bool, err error) {
	s.pos++
	start := s.pos
	if isBase64 {
		if n := bytes.IndexByte(s.data[start:], '"'); n >= 0 && bytes.IndexByte(s.data[start:start+n], '\\') < 0 {
			s.pos = start + n + 1
			return s.data[start : start+n], false, nil
		}
	}
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return s.data[start : s.pos-1], escaped, nil
		case c == '\\':
			escaped = true
			if err := s.escape(); err != nil {
				return nil, false, err
			}
		case c < ' ':
			return nil, false, s.malformed("a control character in a string must be escaped")
		case c < utf8.RuneSelf:
			s.pos++
		default:
			r, size := utf8.DecodeRune(s.data[s.pos:])
			if r == utf8.RuneError && size == 1 {
				return nil, false, s.malformed("this is not UTF-8")
			}
			s.pos += size
		}
	}
	return nil, false, s.malformed("a string does not end")
}

// escape consumes one escape, or two that together make one character.
func (s *scanner) escape() error {
	if s.pos+1 < len(s.data) && strings.IndexByte(`"\/bfnrt`, s.data[s.pos+1]) >= 0 {
		s.pos += 2
		return nil
	}
	unit, ok := s.unit()
	if !ok {
		return s.malformed("this escape does not exist")
	}
	if utf16.IsSurrogate(unit) {
		s.pos += 6
		second, ok := s.unit()
		if !ok || utf16.DecodeRune(unit, second) == utf8.RuneError {
			return s.malformed("an escaped surrogate without its other half is not a character")
		}
	}
	s.pos += 6
	return nil
}

// unit returns the UTF-16 unit that an escape at the current position stands for.
func (s *scanner) unit() (rune, bool) {
	if s.pos+6 > len(s.data) || s.data[s.pos] != '\\' || s.data[s.pos+1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(s.data[s.pos+2:s.pos+6]), 16, 16)
	return rune(n), err == nil
}

// unquote returns what a string with escapes stands for. The string has been checked.
func unquote(quoted []byte) []byte {
	var text string
	if err := json.Unmarshal(quoted, &text); err != nil {
		return quoted
	}
	return []byte(text)
}
