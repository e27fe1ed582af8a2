package codec

import (
	"reflect"
	"sync"

	"github.com/dayfly-run/dayfly/fault"
)

const (
	// suspectDepth is from which depth on it is looked whether a value contains itself. Most are never as deep.
	suspectDepth = 100
	// maxDepth is how deep a value may be: gob goes into it by recursion on both sides, and a stack that is full ends the process.
	maxDepth = 200_000
)

// descent looks for what would make gob go on for ever: a value that contains itself.
type descent struct {
	above map[visit]bool // the pointers between the outermost value and this one, from suspectDepth on
	plain *sync.Map      // what isPlain has found, by reflect.Type
}

// visit is a pointer that is being followed.
type visit struct {
	to     uintptr
	length int // of a slice
	typ    reflect.Type
}

// checkDepth returns why a value cannot be encoded: it contains itself, or is too deep.
func (p *plan) checkDepth(v reflect.Value) error {
	d := descent{plain: p.endless}
	return d.into(v, 0)
}

// into looks at v, which is so deep in the outermost value.
func (d *descent) into(v reflect.Value, depth int) error {
	if !v.IsValid() || d.isPlain(v.Type()) {
		return nil
	}
	if depth > maxDepth {
		return fault.Say(fault.Invalid, "it is more than %d values deep", maxDepth)
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice:
		if v.IsNil() {
			return nil
		}
		if depth > suspectDepth {
			here := visit{to: v.Pointer(), typ: v.Type()}
			if v.Kind() == reflect.Slice {
				here.length = v.Len()
			}
			if d.above[here] {
				return fault.Say(fault.Invalid, "it contains itself, by way of a %s", v.Type())
			}
			if d.above == nil {
				d.above = map[visit]bool{}
			}
			d.above[here] = true
			defer delete(d.above, here)
		}
	}
	return d.inside(v, depth+1)
}

// inside looks at what v holds.
func (d *descent) inside(v reflect.Value, depth int) error {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return d.into(v.Elem(), depth)
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if err := d.into(v.Index(i), depth); err != nil {
				return err
			}
		}
	case reflect.Map:
		for each := v.MapRange(); each.Next(); {
			for _, part := range []reflect.Value{each.Key(), each.Value()} {
				if err := d.into(part, depth); err != nil {
					return err
				}
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				if err := d.into(v.Field(i), depth); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// isPlain reports whether no value of t can contain itself.
func (d *descent) isPlain(t reflect.Type) bool {
	if plain, known := d.plain.Load(t); known {
		return plain.(bool)
	}
	w := walk{seen: map[reflect.Type]bool{}}
	w.visit(t, "", false, nil)
	plain := isOpaque(t) || !w.interfaces && !w.recursive && w.err == nil
	d.plain.Store(t, plain)
	return plain
}
