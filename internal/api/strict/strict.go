// Package strict decodes JSON that strangers have sent.
//
// encoding/json is generous: of two equal keys it takes the last, it matches names whatever their case, replaces
// bytes that are no UTF-8, ignores members it does not know and forgets where in the document a value was wrong. All
// of that hides mistakes from the person who made them. A [Decoder] refuses such documents before encoding/json sees
// them, and names the place in the document's own words: inputs[2].name.
//
// Values are checked against the limits in the struct tags that also make the schema in the API's description:
// minimum, maximum, minLength, maxLength, minItems and maxItems. That a member is missing is not checked here, because
// whoever gives it meaning knows better whether it must be there. null counts as missing.
package strict

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/dayfly-run/dayfly/fault"
)

// MaxDepth is how deep arrays and objects may be nested.
const MaxDepth = 64

// maxFields is how many wrong values are reported at once.
const maxFields = 20

// Malformed says that a document is not JSON, or not JSON that two readers are sure to read alike.
type Malformed struct {
	Offset  int    // the byte at which it was noticed
	Message string // a sentence for a person
}

// Error returns the message and the place.
func (m *Malformed) Error() string { return fmt.Sprintf("%s (at byte %d)", m.Message, m.Offset) }

// Unwrap returns fault.Invalid.
func (m *Malformed) Unwrap() error { return fault.Invalid }

// Wrong lists what is wrong in a document that is well-formed. It unwraps to its fields.
type Wrong struct {
	Fields []*fault.FieldError // at least one
}

// Error returns the first field's error and how many more there are.
func (w *Wrong) Error() string {
	if n := len(w.Fields) - 1; n > 0 {
		return fmt.Sprintf("%s (and %d more)", w.Fields[0].Error(), n)
	}
	return w.Fields[0].Error()
}

// Unwrap returns the fields.
func (w *Wrong) Unwrap() []error {
	errs := make([]error, len(w.Fields))
	for i, f := range w.Fields {
		errs[i] = f
	}
	return errs
}

// Decoder decodes documents into values of type T. It is safe for concurrent use.
type Decoder[T any] struct{ shape *shape }

// NewDecoder returns a Decoder. It panics if T holds what JSON cannot, or a tag that is no number: both are mistakes
// of whoever wrote T.
func NewDecoder[T any]() *Decoder[T] {
	return &Decoder[T]{shapeOf(reflect.TypeFor[T](), map[reflect.Type]*shape{})}
}

// Decode decodes one document. Errors are a *Malformed or a *Wrong. The value shares no memory with data.
func (d *Decoder[T]) Decode(data []byte) (*T, error) {
	s := scanner{data: data}
	if err := s.document(d.shape); err != nil {
		return nil, err
	}
	if len(s.wrong) > 0 {
		return nil, &Wrong{s.wrong}
	}
	v := new(T)
	if err := json.Unmarshal(data, v); err != nil {
		// What remains for encoding/json to find are bytes that are no base64.
		return nil, &Malformed{Message: "the document cannot be decoded: " + err.Error()}
	}
	return v, nil
}

// Check reports whether data is one JSON document, by the same rules.
func Check(data []byte) error {
	s := scanner{data: data}
	return s.document(&s.free)
}

// plainMessage returns an error's text without the name of its kind in front.
func plainMessage(err error) string {
	return strings.TrimPrefix(err.Error(), string(fault.Of(err))+": ")
}
