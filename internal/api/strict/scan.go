package strict

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/fault"
)

// scanner reads one document from beginning to end and checks it against a shape. Its methods return an error only
// when the document is malformed; what is wrong with values is collected, so that all of it is reported at once.
type scanner struct {
	data  []byte
	pos   int
	depth int
	path  []step
	names [][]byte // of the members so far of the objects being read, the innermost last
	wrong []*fault.FieldError
	free  shape // of a value that may be anything
}

// step is one step on the way to a value: a member's name, or an index when that is -1.
type step struct {
	name  []byte
	index int
}

func (s *scanner) document(sh *shape) error {
	s.space()
	if s.pos == len(s.data) {
		return s.malformed("the body is empty; a JSON document is expected")
	}
	if err := s.value(sh); err != nil {
		return err
	}
	if s.space(); s.pos < len(s.data) {
		return s.malformed("there is more after the end of the JSON document")
	}
	return nil
}

func (s *scanner) malformed(format string, args ...any) error {
	return &Malformed{Offset: s.pos, Message: fmt.Sprintf(format, args...)}
}

// bad notes that the value at the current path is wrong.
func (s *scanner) bad(format string, args ...any) {
	if len(s.wrong) < maxFields {
		s.wrong = append(s.wrong, &fault.FieldError{Field: s.where(), Kind: fault.Invalid, Message: fmt.Sprintf(format, args...)})
	}
}

// where writes the current path as a person would: inputs[2].name.
func (s *scanner) where() string {
	var b strings.Builder
	for _, step := range s.path {
		if step.name == nil {
			fmt.Fprintf(&b, "[%d]", step.index)
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		// A name is the sender's, so no more of it is repeated than helps to find it.
		b.WriteString(strings.ToValidUTF8(string(step.name[:min(len(step.name), 100)]), ""))
	}
	return b.String()
}

func (s *scanner) value(sh *shape) error {
	c, start := s.next(), s.pos
	switch {
	case c == '{':
		return s.object(sh)
	case c == '[':
		return s.array(sh)
	case c == '"':
		raw, escaped, err := s.str(sh.kind == base64)
		if err == nil {
			s.checkText(sh, raw, escaped)
		}
		return err
	case c == '-' || '0' <= c && c <= '9':
		if err := s.number(); err != nil {
			return err
		}
		s.checkNumber(sh, s.data[start:s.pos])
		return nil
	case c == 0 && s.pos == len(s.data):
		return s.malformed("the JSON document ends in the middle")
	}
	for _, word := range []string{"true", "false", "null"} {
		if bytes.HasPrefix(s.data[s.pos:], []byte(word)) {
			s.pos += len(word)
			s.checkWord(sh, word)
			return nil
		}
	}
	return s.malformed("a JSON value is expected here")
}

// enter is called before the bracket that opens an array or object is consumed. leave undoes it.
func (s *scanner) enter() error {
	if s.depth++; s.depth > MaxDepth {
		return s.malformed("arrays and objects are nested more than %d deep", MaxDepth)
	}
	s.pos++
	return nil
}

func (s *scanner) leave() {
	s.depth--
	s.pos++
}

func (s *scanner) array(sh *shape) error {
	element := &s.free
	switch {
	case sh.kind == list:
		element = sh.element
	case sh.kind == itself:
		return s.skip(sh)
	case sh.kind != anything:
		s.bad("must be %s, not an array", sh.kind)
	}
	if err := s.enter(); err != nil {
		return err
	}
	n := 0
	if s.next() != ']' {
		for {
			s.path = append(s.path, step{index: n})
			if s.next() == 'n' && element.kind != anything {
				s.bad("must not be null")
			}
			err := s.value(element)
			s.path = s.path[:len(s.path)-1]
			if err != nil {
				return err
			}
			n++
			if c := s.next(); c == ']' {
				break
			} else if c != ',' {
				return s.malformed("a comma or the end of the array is expected here")
			}
			s.pos++
		}
	}
	s.leave()
	if sh.kind == list {
		s.checkLength(sh, n, "item", "items")
	}
	return nil
}

func (s *scanner) object(sh *shape) error {
	switch sh.kind {
	case itself:
		return s.skip(sh)
	case object, mapping, anything:
	default:
		s.bad("must be %s, not an object", sh.kind)
		sh = &s.free
	}
	if err := s.enter(); err != nil {
		return err
	}
	k := known{first: len(s.names)}
	if s.next() != '}' {
		for {
			if err := s.member(sh, &k); err != nil {
				return err
			}
			if c := s.next(); c == '}' {
				break
			} else if c != ',' {
				return s.malformed("a comma or the end of the object is expected here")
			}
			s.pos++
		}
	}
	s.leave()
	s.names = s.names[:k.first]
	return nil
}

// member reads a name and its value.
func (s *scanner) member(sh *shape, k *known) error {
	if s.next() != '"' {
		return s.malformed("the name of a member is expected here, in double quotes")
	}
	at := s.pos
	name, escaped, err := s.str(false)
	if err != nil {
		return err
	}
	if escaped {
		name = unquote(s.data[at:s.pos])
	}
	if s.repeated(name, k) {
		s.pos = at
		return s.malformed("the name %.100q occurs twice in one object", name)
	}
	if s.next() != ':' {
		return s.malformed("a colon is expected here")
	}
	s.pos++
	s.path = append(s.path, step{name: name})
	defer func() { s.path = s.path[:len(s.path)-1] }()
	value := &s.free
	switch sh.kind {
	case object:
		if i, ok := sh.byName[string(name)]; ok {
			value = sh.members[i].shape
		} else {
			s.bad("is not known here%s", sh.suggestion(string(name)))
		}
	case mapping:
		value = sh.element
		if s.next() == 'n' && value.kind != anything {
			s.bad("must not be null")
		}
	}
	return s.value(value)
}

// suggestion names a member that differs in case only.
func (s *shape) suggestion(name string) string {
	for _, m := range s.members {
		if strings.EqualFold(m.name, name) {
			return fmt.Sprintf("; it is written %q", m.name)
		}
	}
	return ""
}

// known is how the names of one object's members are told apart. Few are compared one by one, many by a map.
type known struct {
	first int // in scanner.names
	many  map[string]struct{}
}

// repeated notes a name and reports whether the object has had it.
func (s *scanner) repeated(name []byte, k *known) bool {
	if k.many != nil {
		before := len(k.many)
		k.many[string(name)] = struct{}{}
		return len(k.many) == before
	}
	for _, other := range s.names[k.first:] {
		if bytes.Equal(name, other) {
			return true
		}
	}
	if s.names = append(s.names, name); len(s.names)-k.first == 32 {
		k.many = make(map[string]struct{}, 64)
		for _, name := range s.names[k.first:] {
			k.many[string(name)] = struct{}{}
		}
	}
	return false
}

// skip reads an array or object whose type decodes itself.
func (s *scanner) skip(sh *shape) error {
	start := s.pos
	err := s.value(&s.free)
	if err == nil {
		s.custom(sh, s.data[start:s.pos])
	}
	return err
}

// custom lets a type that decodes itself judge a value.
func (s *scanner) custom(sh *shape, raw []byte) {
	if err := json.Unmarshal(raw, reflect.New(sh.typ).Interface()); err != nil {
		s.bad("%s", plainMessage(err))
	}
}

func (s *scanner) checkWord(sh *shape, word string) {
	switch {
	case word == "null" || sh.kind == anything || sh.kind == boolean:
	case sh.kind == itself:
		s.custom(sh, []byte(word))
	default:
		s.bad("must be %s, not %s", sh.kind, word)
	}
}

func (s *scanner) checkLength(sh *shape, n int, one, many string) {
	noun := many
	if n == 1 {
		noun = one
	}
	if n < sh.minLen {
		s.bad("has %d %s; at least %d must be given", n, noun, sh.minLen)
	}
	if sh.maxLen > 0 && n > sh.maxLen {
		s.bad("has %d %s; at most %d are allowed", n, noun, sh.maxLen)
	}
}

// checkText checks a string. raw is what stands between its quotes.
func (s *scanner) checkText(sh *shape, raw []byte, escaped bool) {
	switch sh.kind {
	case anything, base64:
	case text:
		if sh.minLen == 0 && (sh.maxLen == 0 || len(raw) <= sh.maxLen) {
			return
		}
		if escaped {
			raw = unquote(s.data[s.pos-len(raw)-2 : s.pos])
		}
		s.checkLength(sh, utf8.RuneCount(raw), "character", "characters")
	case moment:
		if _, err := time.Parse(time.RFC3339, string(raw)); err != nil {
			s.bad("must be a time such as 2026-01-31T18:30:00Z")
		}
	case itself:
		s.custom(sh, s.data[s.pos-len(raw)-2:s.pos])
	default:
		s.bad("must be %s, not a string", sh.kind)
	}
}

func (s *scanner) checkNumber(sh *shape, raw []byte) {
	value, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || math.IsInf(value, 0) {
		s.bad("is a number outside of what can be represented")
		return
	}
	switch sh.kind {
	case anything:
		return
	case itself:
		s.custom(sh, raw)
		return
	case integer:
		if _, err := strconv.ParseInt(string(raw), 10, sh.typ.Bits()); err != nil {
			s.bad("must be a whole number within the range of %d bits, written without point and exponent", sh.typ.Bits())
			return
		}
	case number:
	default:
		s.bad("must be %s, not a number", sh.kind)
		return
	}
	if sh.min != nil && value < *sh.min {
		s.bad("must be at least %s", plain(*sh.min))
	}
	if sh.max != nil && value > *sh.max {
		s.bad("must be at most %s", plain(*sh.max))
	}
}

// plain writes a number as people do, without an exponent.
func plain(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }
