package sqlite

import (
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

// text is how bytes of JSON are stored: as text, or NULL for nil.
func text(b []byte) any {
	if b == nil {
		return nil
	}
	return string(b)
}

// The types below receive columns. database/sql finds its way to a named type, or to NULL, by reflection, which for
// a row of thirty columns costs more than reading it.

// instant receives a time.
type instant struct{ to *time.Time }

// Scan implements sql.Scanner.
func (c instant) Scan(value any) error {
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

// number receives an integer.
type number[T ~int | ~int64] struct{ to *T }

// Scan implements sql.Scanner.
func (c number[T]) Scan(value any) error {
	v, ok := value.(int64)
	if !ok {
		return unexpected(value)
	}
	*c.to = T(v)
	return nil
}

// optional receives an integer or NULL.
type optional struct{ to **int }

// Scan implements sql.Scanner.
func (c optional) Scan(value any) error {
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

// flag receives a truth value, stored as 0 or 1.
type flag struct{ to *bool }

// Scan implements sql.Scanner.
func (c flag) Scan(value any) error {
	v, ok := value.(int64)
	if !ok {
		return unexpected(value)
	}
	*c.to = v != 0
	return nil
}

// word receives text.
type word[T ~string] struct{ to *T }

// Scan implements sql.Scanner.
func (c word[T]) Scan(value any) error {
	v, ok := value.(string)
	if !ok {
		return unexpected(value)
	}
	*c.to = T(v)
	return nil
}

// document receives JSON, or NULL as nil.
type document[T ~[]byte] struct{ to *T }

// Scan implements sql.Scanner.
func (c document[T]) Scan(value any) error {
	switch v := value.(type) {
	case nil:
		*c.to = nil
	case string:
		*c.to = T(v)
	default:
		return unexpected(value)
	}
	return nil
}

func unexpected(value any) error {
	if value == nil {
		return fmt.Errorf("a column that always has a value is NULL")
	}
	return fmt.Errorf("a column holds a %T, which is not its type", value)
}
