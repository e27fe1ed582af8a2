package sqlite

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"time"
)

// micros is how a time is stored: microseconds since 1970, or NULL for the zero time.
func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// stored is t as it will be read: in UTC and in microseconds.
func stored(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.UnixMicro(t.UnixMicro()).UTC()
}

// text is how JSON is stored: as text, or NULL for nil.
func text(b []byte) any {
	if b == nil {
		return nil
	}
	return string(b)
}

// column is where a value of a row goes.
type column interface {
	set(value driver.Value) error
}

// Each function below returns a column that leaves what it receives in the variable at to.

// instant receives a time.
func instant(to *time.Time) column { return instantColumn{to} }

// number receives an integer.
func number[T ~int | ~int64](to *T) column { return numberColumn[T]{to} }

// optional receives an integer or NULL.
func optional(to **int) column { return optionalColumn{to} }

// flag receives a truth value, stored as 0 or 1.
func flag(to *bool) column { return flagColumn{to} }

// word receives text.
func word[T ~string](to *T) column { return wordColumn[T]{to} }

// document receives text or bytes, or NULL as nil.
func document[T ~[]byte](to *T) column { return documentColumn[T]{to} }

type (
	instantColumn                 struct{ to *time.Time }
	numberColumn[T ~int | ~int64] struct{ to *T }
	optionalColumn                struct{ to **int }
	flagColumn                    struct{ to *bool }
	wordColumn[T ~string]         struct{ to *T }
	documentColumn[T ~[]byte]     struct{ to *T }
)

func (c instantColumn) set(value driver.Value) error {
	switch v := value.(type) {
	case nil:
		*c.to = time.Time{}
	case int64:
		*c.to = time.UnixMicro(v).UTC()
	default:
		return unexpected(value)
	}
	return nil
}

func (c numberColumn[T]) set(value driver.Value) error {
	v, ok := value.(int64)
	if !ok {
		return unexpected(value)
	}
	*c.to = T(v)
	return nil
}

func (c optionalColumn) set(value driver.Value) error {
	switch v := value.(type) {
	case nil:
		*c.to = nil
	case int64:
		n := int(v)
		*c.to = &n
	default:
		return unexpected(value)
	}
	return nil
}

func (c flagColumn) set(value driver.Value) error {
	v, ok := value.(int64)
	if !ok {
		return unexpected(value)
	}
	*c.to = v != 0
	return nil
}

func (c wordColumn[T]) set(value driver.Value) error {
	v, ok := value.(string)
	if !ok {
		return unexpected(value)
	}
	*c.to = T(v)
	return nil
}

func (c documentColumn[T]) set(value driver.Value) error {
	switch v := value.(type) {
	case nil:
		*c.to = nil
	case string:
		*c.to = T(v)
	case []byte:
		*c.to = T(v) // the driver has made it for this row
	default:
		return unexpected(value)
	}
	return nil
}

func unexpected(value driver.Value) error {
	if value == nil {
		return errors.New("it is NULL, which it never should be")
	}
	return fmt.Errorf("it holds a %T, which is not its type", value)
}
