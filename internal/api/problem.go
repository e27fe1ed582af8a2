package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/api/strict"
)

// Problem is an error answer: a problem detail (RFC 9457).
type Problem struct {
	Type   string         `json:"type" doc:"Always about:blank; code tells problems apart."`
	Title  string         `json:"title" doc:"The status in words."`
	Status int            `json:"status" doc:"The HTTP status."`
	Code   fault.Kind     `json:"code" doc:"What to decide by: invalid, not_found, conflict, …"`
	Detail string         `json:"detail" doc:"What is wrong and what would be right, in a sentence."`
	Field  string         `json:"field,omitempty" doc:"Which part of the request is wrong, in its own words, such as inputs[0].name."`
	Errors []FieldProblem `json:"errors,omitempty" doc:"All that is wrong, when it is several things."`

	Stored    *int64 `json:"stored,omitempty" doc:"When output was refused: the offset that is wanted."`
	RequestID string `json:"request_id,omitempty" doc:"Under which the server's log has the details of an internal error."`

	header http.Header
}

// FieldProblem is one of several things wrong with a request.
type FieldProblem struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

var (
	_ huma.StatusError       = (*Problem)(nil)
	_ huma.HeadersError      = (*Problem)(nil)
	_ huma.ContentTypeFilter = (*Problem)(nil)
)

// Error returns the detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders implements huma.HeadersError.
func (p *Problem) GetHeaders() http.Header { return p.header }

// ContentType implements huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return problemType }

const problemType = "application/problem+json"

// withStatus gives an error a status that its kind alone does not say.
type withStatus struct {
	error
	status int
}

// Unwrap returns the error.
func (w *withStatus) Unwrap() error { return w.error }

// statusOf returns the HTTP status of an error.
func statusOf(err error) int {
	if s, ok := errors.AsType[*withStatus](err); ok {
		return s.status
	}
	if _, ok := errors.AsType[*strict.Malformed](err); ok {
		return http.StatusBadRequest
	}
	return statusOfKind(fault.Of(err))
}

func statusOfKind(kind fault.Kind) int {
	switch kind {
	case fault.TooLarge:
		return http.StatusRequestEntityTooLarge
	case fault.StoreFull:
		return http.StatusInsufficientStorage
	}
	switch kind.General() {
	case fault.Invalid:
		return http.StatusUnprocessableEntity
	case fault.Unauthenticated:
		return http.StatusUnauthorized
	case fault.Denied:
		return http.StatusForbidden
	case fault.NotFound:
		return http.StatusNotFound
	case fault.Conflict:
		return http.StatusConflict
	case fault.Exhausted:
		return http.StatusTooManyRequests
	case fault.Unavailable, fault.Canceled:
		return http.StatusServiceUnavailable
	case fault.Unsupported:
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

// problem turns an error into its answer. What may be shown of it is shown; the rest goes to the log, under an id that
// the answer carries.
func (a *API) problem(ctx context.Context, err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	kind, status := fault.Of(err), statusOf(err)
	p := &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: kind, header: http.Header{}}
	p.describe(err)
	switch status {
	case http.StatusUnauthorized:
		p.header.Set("WWW-Authenticate", `Bearer realm="dayfly"`)
	case http.StatusTooManyRequests:
		p.header.Set("Retry-After", "5")
	case http.StatusServiceUnavailable:
		p.header.Set("Retry-After", "1")
		if sentence, _ := fault.Sentence(err); kind == fault.Unavailable && err.Error() != sentence {
			a.logger.WarnContext(ctx, "a request could not be served at the moment", "error", err)
		}
	case http.StatusInsufficientStorage:
		p.header.Set("Retry-After", "10")
		a.logger.WarnContext(ctx, "a request was refused because the disk is full", "error", err)
	case http.StatusInternalServerError:
		p.Code, p.RequestID = fault.Internal, rand.Text()
		p.header.Set("X-Request-Id", p.RequestID)
		a.logger.ErrorContext(ctx, "a request failed", "request", p.RequestID, "error", err)
	}
	return p
}

// describe fills in the words: those made for the caller, if there are any.
func (p *Problem) describe(err error) {
	if wrong, ok := errors.AsType[*strict.Wrong](err); ok {
		p.list(wrong.Fields)
		return
	}
	if field, ok := errors.AsType[*fault.FieldError](err); ok {
		p.Field, p.Detail = field.Field, field.Message
		return
	}
	if malformed, ok := errors.AsType[*strict.Malformed](err); ok {
		p.Detail = malformed.Error()
		return
	}
	if sentence, ok := fault.Sentence(err); ok {
		p.Detail = sentence
		return
	}
	p.Detail = plainDetail(p.Code)
}

// list describes several wrong fields: the first in full, and all of them in Errors.
func (p *Problem) list(fields []*fault.FieldError) {
	p.Field, p.Detail = fields[0].Field, fields[0].Message
	if len(fields) == 1 {
		return
	}
	p.Detail += fmt.Sprintf(" (and %d more: see errors)", len(fields)-1)
	for _, f := range fields {
		p.Errors = append(p.Errors, FieldProblem{f.Field, f.Message})
	}
}

// plainDetail is what is said of an error that nobody found words for.
func plainDetail(kind fault.Kind) string {
	switch kind {
	case fault.StoreFull:
		return "the server's disk is full; nothing was changed; try again when there is space"
	case fault.TooLarge:
		return "the request is larger than what is allowed"
	}
	switch kind.General() {
	case fault.Invalid:
		return "the request cannot be carried out as it is written"
	case fault.Unauthenticated:
		return "a valid token is needed"
	case fault.Denied:
		return "this token may not do that"
	case fault.NotFound:
		return "there is no such thing, or it is not yours to know of"
	case fault.Conflict:
		return "the thing is in a state that does not allow this; read it again"
	case fault.Exhausted:
		return "there is no room for this now; try again later"
	case fault.Unavailable:
		return "the server cannot do this at the moment; try again"
	case fault.Unsupported:
		return "this server cannot do that"
	case fault.Canceled:
		return "the request ended before it was carried out; it may or may not have had its effect"
	}
	return "something went wrong inside the server; its log has the details"
}

// write answers with the problem.
func (p *Problem) write(w http.ResponseWriter) {
	header := w.Header()
	for name, values := range p.header {
		header[name] = values
	}
	header.Set("Content-Type", problemType)
	header.Del("Content-Length")
	body, err := json.Marshal(p)
	if err != nil {
		panic("api: a problem cannot be encoded: " + err.Error()) // it holds strings and numbers only
	}
	w.WriteHeader(p.Status)
	w.Write(append(body, '\n')) // the client may be gone, which is its own affair
}

// refuse answers a request with an error.
func (a *API) refuse(w http.ResponseWriter, r *http.Request, err error) {
	a.problem(r.Context(), err).write(w)
}

// transform is huma's hook before an answer is written: it gives huma's own errors, about parameters, our form. That
// is how the form of errors is one without assigning huma's package variable NewError, which is every program's.
func (a *API) transform(ctx huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	fields := make([]*fault.FieldError, len(e.Errors))
	for i, detail := range e.Errors {
		fields[i] = parameterError(detail)
	}
	if len(fields) == 0 {
		return a.problem(ctx.Context(), fmt.Errorf("api: huma answers %d: %s", e.Status, e.Detail)), nil
	}
	return a.problem(ctx.Context(), &strict.Wrong{Fields: fields}), nil
}

// parameterError says in our words what huma says of a parameter.
func parameterError(d *huma.ErrorDetail) *fault.FieldError {
	_, name, _ := strings.Cut(d.Location, ".")
	f := &fault.FieldError{Field: name, Kind: fault.Invalid, Message: "is not valid: " + d.Message}
	for _, words := range [][2]string{
		{"unknown query parameter", "is not a parameter of this route"},
		{"invalid integer", "must be a whole number"},
		{"invalid boolean", "must be true or false"},
		{"expected number >= ", "must be at least "},
		{"expected number <= ", "must be at most "},
		{"expected length >= ", "must have at least this many characters: "},
		{"expected length <= ", "must have at most this many characters: "},
		{"expected array length <= ", "must not be given more often than "},
		{"expected value to be one of ", "must be one of "},
	} {
		if rest, ok := strings.CutPrefix(d.Message, words[0]); ok {
			f.Message = words[1] + rest
			break
		}
	}
	return f
}

// tooLarge refuses a body over its limit.
func tooLarge(limit int64) error {
	return fault.Say(fault.TooLarge, "the body is larger than %s bytes, which is the limit", strconv.FormatInt(limit, 10))
}
