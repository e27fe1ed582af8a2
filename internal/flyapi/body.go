package flyapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// The limits of bodies, in bytes.
const (
	maxMachineBody = 2 << 20  // a configuration, whose files are in base64
	maxSmallBody   = 64 << 10 // everything else
	maxExecBody    = 2 << 20  // a command with its standard input
)

// bodyTime is how long a body may take to arrive.
const bodyTime = 30 * time.Second

// readBody reads a JSON object into v, as leniently as Fly does: fields that nobody knows are passed over, null is
// nothing, and no body is the empty object. A list or a text where an object is wanted is refused in encoding/json's
// words, which Fly answers too.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	// A connection that cannot have a deadline is one of a test's own.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err == nil {
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return refuse(http.StatusRequestEntityTooLarge, "invalid_argument: the body is larger than %d bytes", limit)
	}
	if err != nil {
		return refuse(http.StatusRequestTimeout, "deadline_exceeded: the body did not arrive")
	}
	return decode(data, v)
}

// decode decodes one JSON object.
func decode(data []byte, v any) error {
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return nil
	}
	if !utf8.Valid(data) {
		return refuse(http.StatusBadRequest, "invalid_argument: the body is not UTF-8")
	}
	if err := json.Unmarshal(data, v); err != nil {
		return refuse(http.StatusBadRequest, "%s", wordsOf(err))
	}
	return nil
}

// wordsOf returns what encoding/json says of a body, without the names of Go types that only we know.
func wordsOf(err error) string {
	if p, ok := errors.AsType[*problem](err); ok {
		return p.text
	}
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		kind := t.Type.Kind().String()
		if t.Field == "" {
			return "json: cannot unmarshal " + t.Value + " into Go value of type " + kind
		}
		return "json: cannot unmarshal " + t.Value + " into Go struct field " + t.Field + " of type " + kind
	}
	return "invalid_argument: the body is not JSON: " + strings.TrimPrefix(err.Error(), "json: ")
}
