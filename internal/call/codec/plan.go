package codec

import (
	"context"
	"encoding"
	"encoding/gob"
	"io"
	"reflect"
	"slices"
	"sync"

	"github.com/dayfly-run/dayfly/fault"
)

// planOf says how a type travels, or why it cannot.
func planOf(t reflect.Type) (plan, error) {
	p := plan{typ: t, form: coded}
	switch {
	case isReader(t):
		p.form, p.streams = stream, [][]int{{}}
		return p, nil
	case t.Kind() == reflect.Pointer:
		p.form = pointer
		if t.Elem().Kind() == reflect.Pointer {
			return plan{}, fault.Say(fault.Invalid, "%s cannot travel: it points to a pointer", t)
		}
	case isOpaque(t):
	case t.Kind() == reflect.Struct && t.NumField() == 0:
		p.form = empty
		return p, nil
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 && !isOpaque(t.Elem()):
		p.form = raw
		return p, nil
	case t.Kind() == reflect.String:
		p.form = text
		return p, nil
	case t.Kind() == reflect.Interface:
		p.form = boxed
	}
	w := walk{seen: map[reflect.Type]bool{}}
	w.visit(t, t.String(), true, nil)
	if w.err != nil {
		return plan{}, w.err
	}
	p.fresh, p.streams = w.interfaces, w.streams
	if w.interfaces || w.recursive {
		p.endless = &sync.Map{}
	}
	return p, nil
}

// walk looks at a type and all that is in it.
type walk struct {
	seen       map[reflect.Type]bool // where no reader may be; elsewhere each has a path of its own
	within     []step                // what lies between the outermost type and this one
	interfaces bool                  // there is a place for values of any type
	recursive  bool                  // a type contains itself
	streams    [][]int               // paths of the readers
	err        error
}

// step is a type on the way to another, and whether a reader could be streamed from there.
type step struct {
	typ    reflect.Type
	direct bool
}

// visit looks at t, which is found at where. It is direct as long as only structs, or the one pointer at the outside,
// lie between the value and it; then path leads there.
func (w *walk) visit(t reflect.Type, where string, direct bool, path []int) {
	switch {
	case w.err != nil || (isOpaque(t) && t.Kind() != reflect.Interface):
		return
	case isReader(t) && !direct:
		w.refuse("%s is a reader, which is streamed only from a field of the argument or result itself, or of a struct in it: not from behind a pointer, nor from a slice or a map", where)
		return
	case isReader(t):
		w.streams = append(w.streams, path)
		return
	case slices.Contains(w.within, step{t, direct}):
		w.recursive = true
		return
	case w.seen[t] && !direct:
		return
	}
	if !direct {
		w.seen[t] = true
	}
	w.within = append(w.within, step{t, direct})
	defer func() { w.within = w.within[:len(w.within)-1] }()
	switch t.Kind() {
	case reflect.Interface:
		w.interfaces = true
		if advice := bound(t); advice != "" {
			w.refuse("%s is of type %s, %s", where, t, advice)
		}
	case reflect.Chan, reflect.Func, reflect.UnsafePointer:
		w.refuse("%s is of type %s, and only what is known on the other side too can travel: not a channel, a function or an address", where, t)
	case reflect.Pointer:
		w.visit(t.Elem(), where, direct && len(path) == 0, path)
	case reflect.Slice, reflect.Array:
		w.visit(t.Elem(), where+"[]", false, nil)
	case reflect.Map:
		w.visit(t.Key(), where+"'s key", false, nil)
		w.visit(t.Elem(), where+"[]", false, nil)
	case reflect.Struct:
		w.fields(t, where, direct, path)
	}
}

func (w *walk) fields(t reflect.Type, where string, direct bool, path []int) {
	sent := 0
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		sent++
		w.visit(f.Type, where+"."+f.Name, direct, append(path[:len(path):len(path)], i))
	}
	if sent == 0 && t.NumField() > 0 && w.err == nil { // struct{}, as in a set, has nothing to lose
		if advice := bound(t); advice != "" {
			w.refuse("%s is of type %s, %s", where, t, advice)
			return
		}
		w.refuse("%s is of type %s, which has no exported field and does not say how it travels (gob.GobEncoder or encoding.BinaryMarshaler)", where, t)
	}
}

// bound says what to do about a type whose values are bound to the process they are in, "" if it is none of the known ones.
func bound(t reflect.Type) string {
	for _, b := range []struct {
		is     reflect.Type
		advice string
	}{
		{reflect.TypeFor[context.Context](), "which is this process's own: the function has a context that ends with its caller's"},
		{reflect.TypeFor[io.Reader](), "which is this process's own: declare it as io.Reader or io.ReadCloser, and what it reads is streamed"},
		{reflect.TypeFor[io.Writer](), "which is this process's own: let the function return an io.ReadCloser, or be a Stream"},
	} {
		if t.Implements(b.is) || t.Kind() != reflect.Interface && reflect.PointerTo(t).Implements(b.is) {
			return b.advice
		}
	}
	return ""
}

func (w *walk) refuse(format string, args ...any) {
	w.err = fault.Say(fault.Invalid, format, args...)
}

// isOpaque reports whether values of t write themselves.
func isOpaque(t reflect.Type) bool {
	if t.Kind() == reflect.Interface {
		return false
	}
	for _, i := range []reflect.Type{reflect.TypeFor[gob.GobEncoder](), reflect.TypeFor[encoding.BinaryMarshaler]()} {
		if t.Implements(i) || reflect.PointerTo(t).Implements(i) {
			return true
		}
	}
	return false
}

func isReader(t reflect.Type) bool {
	return t == reflect.TypeFor[io.Reader]() || t == reflect.TypeFor[io.ReadCloser]()
}
