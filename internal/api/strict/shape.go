package strict

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// kind is what a JSON value must be.
type kind int

const (
	anything kind = iota
	text
	integer
	number
	boolean
	base64 // a string that encodes bytes
	list
	object  // with known members
	mapping // an object whose members are the caller's
	itself  // the type decodes itself
	moment  // a time
)

// shape is what a value of a Go type looks like in JSON.
type shape struct {
	kind     kind
	typ      reflect.Type   // of integer, number and itself
	element  *shape         // of list and mapping
	members  []member       // of object, at most 64
	byName   map[string]int // index in members
	min, max *float64       // of numbers
	minLen   int            // of text in characters, of lists in items
	maxLen   int            // 0: no limit
}

type member struct {
	name  string
	shape *shape
}

// shapeOf returns the shape of a type. known holds the types being looked at, so that recursive types end.
func shapeOf(t reflect.Type, known map[reflect.Type]*shape) *shape {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if s := known[t]; s != nil {
		return s
	}
	pointer := reflect.PointerTo(t)
	switch {
	case t == reflect.TypeFor[json.RawMessage]() || t.Kind() == reflect.Interface:
		return &shape{kind: anything}
	case t == reflect.TypeFor[time.Time]():
		return &shape{kind: moment, typ: t}
	case pointer.Implements(reflect.TypeFor[json.Unmarshaler]()), pointer.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return &shape{kind: itself, typ: t}
	}
	switch t.Kind() {
	case reflect.String:
		return &shape{kind: text}
	case reflect.Bool:
		return &shape{kind: boolean}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return &shape{kind: integer, typ: t}
	case reflect.Float32, reflect.Float64:
		return &shape{kind: number, typ: t}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return &shape{kind: base64}
		}
		return &shape{kind: list, element: shapeOf(t.Elem(), known)}
	case reflect.Map:
		return &shape{kind: mapping, element: shapeOf(t.Elem(), known)}
	case reflect.Struct:
		s := &shape{kind: object, byName: map[string]int{}}
		known[t] = s
		s.addMembers(t, known)
		return s
	}
	panic(fmt.Sprintf("strict: a %v cannot be decoded", t))
}

func (s *shape) addMembers(t reflect.Type, known map[reflect.Type]*shape) {
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case !field.IsExported() || name == "-":
			continue
		case field.Anonymous && name == "":
			s.addMembers(field.Type, known)
			continue
		case name == "":
			name = field.Name
		}
		value := *shapeOf(field.Type, known)
		value.limit(field.Tag)
		if s.byName[name] = len(s.members); len(s.members) == 64 {
			panic(fmt.Sprintf("strict: %v has more than 64 members", t))
		}
		s.members = append(s.members, member{name, &value})
	}
}

// limit reads the limits from a field's tags.
func (s *shape) limit(tag reflect.StructTag) {
	parse := func(name string) *float64 {
		value, ok := tag.Lookup(name)
		if !ok {
			return nil
		}
		f, err := strconv.ParseFloat(value, 64)
		if err != nil {
			panic(fmt.Sprintf("strict: the tag %s:%q is no number", name, value))
		}
		return &f
	}
	s.min, s.max = parse("minimum"), parse("maximum")
	for _, name := range []string{"minLength", "minItems"} {
		if n := parse(name); n != nil {
			s.minLen = int(*n)
		}
	}
	for _, name := range []string{"maxLength", "maxItems"} {
		if n := parse(name); n != nil {
			s.maxLen = int(*n)
		}
	}
}

// String says what is wanted, to go after "must be".
func (k kind) String() string {
	switch k {
	case text, base64, moment:
		return "a string"
	case integer:
		return "a whole number"
	case number:
		return "a number"
	case boolean:
		return "true or false"
	case list:
		return "an array"
	case object, mapping:
		return "an object"
	}
	return "another kind of value"
}
