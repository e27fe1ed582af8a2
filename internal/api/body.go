package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/api/strict"
)

// The limits of bodies.
const (
	maxSubmit    = 1 << 20
	maxSmallBody = 16 << 10
	bodyTimeout  = 30 * time.Second // to send all of a body
)

// bodies are the buffers that bodies are read into. Those that a large body has grown are left to the collector.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

const keepBuffer = 64 << 10

// readBody reads a whole body of at most limit bytes and hands it to use, which must not keep it.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, use func(data []byte) error) error {
	if r.ContentLength > limit {
		return tooLarge(limit)
	}
	if err := wantPlain(r); err != nil {
		return err
	}
	buffer := bodies.Get().(*bytes.Buffer)
	defer func() {
		if buffer.Cap() <= keepBuffer {
			buffer.Reset()
			bodies.Put(buffer)
		}
	}()
	connection := http.NewResponseController(w)
	connection.SetReadDeadline(time.Now().Add(bodyTimeout)) // where there is none, the server's own limits hold
	n, err := buffer.ReadFrom(io.LimitReader(r.Body, limit+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &withStatus{fault.Say(fault.Canceled, "the body did not arrive within %v", bodyTimeout), http.StatusRequestTimeout}
	case err != nil:
		return &withStatus{fmt.Errorf("%w: %w", fault.Say(fault.Canceled, "the body ended before it was complete"), err), http.StatusBadRequest}
	case n > limit:
		return tooLarge(limit)
	}
	// The deadline must not outlive the body: the server goes on reading, to learn that the client has gone.
	connection.SetReadDeadline(time.Time{})
	return use(buffer.Bytes())
}

// readJSON reads a body that must be one JSON document.
func readJSON[T any](w http.ResponseWriter, r *http.Request, limit int64, decoder *strict.Decoder[T]) (v *T, err error) {
	if err := wantJSON(r); err != nil {
		return nil, err
	}
	err = readBody(w, r, limit, func(data []byte) error {
		v, err = decoder.Decode(data)
		return err
	})
	return v, err
}

// wantJSON refuses a body that says it is something else. Nothing said is taken for JSON.
func wantJSON(r *http.Request) error {
	header := r.Header.Get("Content-Type")
	if header == "application/json" || header == "" {
		return nil
	}
	kind, _, err := mime.ParseMediaType(header)
	if err == nil && kind == "application/json" {
		return nil
	}
	return &withStatus{fault.Field("Content-Type", "must be application/json, not %.100q", header), http.StatusUnsupportedMediaType}
}

// wantPlain refuses a body that is compressed or otherwise encoded: nobody here would decode it.
func wantPlain(r *http.Request) error {
	for _, coding := range r.Header.Values("Content-Encoding") {
		if !strings.EqualFold(strings.TrimSpace(coding), "identity") {
			wrong := fault.Field("Content-Encoding", "%.100q is not decoded here; send the body as it is, without this header", coding)
			return &withStatus{wrong, http.StatusUnsupportedMediaType}
		}
	}
	return nil
}

// noBody refuses a body where none is expected, so that nobody thinks it had an effect.
func noBody(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength == 0 {
		return nil
	}
	return readBody(w, r, maxSmallBody, func(data []byte) error {
		if text := bytes.TrimSpace(data); len(text) > 0 && !bytes.Equal(text, []byte("{}")) {
			return fault.Say(fault.Invalid, "this request takes no body")
		}
		return nil
	})
}
