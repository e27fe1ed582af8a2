package flyapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/dayfly-run/dayfly/fault"
)

// problem is a refusal as Fly words it: a status, a text that usually begins with the name of a gRPC code, and for some a
// code of its own, which clients decide by before they read the text.
type problem struct {
	status int
	text   string
	code   string // such as name_taken; "": none
	after  int    // seconds after which to ask again; 0: it does not say
}

func (p *problem) Error() string { return p.text }

func refuse(status int, format string, args ...any) *problem {
	return &problem{status: status, text: fmt.Sprintf(format, args...)}
}

func (p *problem) coded(code string) *problem {
	p.code = code
	return p
}

// invalid is a request that can never succeed as it is written.
func invalid(format string, args ...any) *problem {
	return refuse(http.StatusBadRequest, "invalid_argument: "+format, args...)
}

// unprocessable is a request that is well formed and asks for what cannot be.
func unprocessable(format string, args ...any) *problem {
	return refuse(http.StatusUnprocessableEntity, "invalid_argument: "+format, args...)
}

// precondition is a request that the machine's state forbids.
func precondition(format string, args ...any) *problem {
	return refuse(http.StatusPreconditionFailed, "failed_precondition: "+format, args...)
}

func noMachine() *problem { return refuse(http.StatusNotFound, "not_found: machine not found") }
func noApp() *problem     { return refuse(http.StatusNotFound, "app not found") }

// describe returns the problem that an error is for a client. Only sentences that were meant to be shown are.
func describe(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	switch kind := fault.Of(err); kind.General() {
	case fault.Unauthenticated:
		return refuse(http.StatusUnauthorized, "Authenticate: token validation error")
	case fault.Denied:
		return refuse(http.StatusForbidden, "permission_denied: %s", sentence(err, "this token may not do that"))
	case fault.NotFound:
		return refuse(http.StatusNotFound, "not_found: %s", sentence(err, "machine not found"))
	case fault.Invalid, fault.Unsupported:
		return unprocessable("%s", sentence(err, "this cannot be done"))
	case fault.Conflict:
		return refuse(http.StatusConflict, "aborted: %s", sentence(err, "another change is under way"))
	case fault.Exhausted:
		if kind == fault.StoreFull {
			return refuse(http.StatusServiceUnavailable, "unavailable: the disk of this server is full")
		}
		return refuse(http.StatusTooManyRequests, "resource_exhausted: %s", sentence(err, "rate limit exceeded"))
	case fault.Unavailable:
		return refuse(http.StatusServiceUnavailable, "unavailable: %s", sentence(err, "a passing failure; try again"))
	case fault.Canceled:
		return refuse(http.StatusRequestTimeout, "deadline_exceeded: the request was given up before it was done")
	}
	return refuse(http.StatusInternalServerError, "unknown: an internal error; the server's log has it under this fly-request-id")
}

// describePlacing returns the problem that a provider's refusal of a new machine is.
func describePlacing(err error) *problem {
	switch fault.Of(err).General() {
	case fault.Exhausted:
		return refuse(http.StatusConflict, "aborted: insufficient resources available to fulfill request: %s",
			sentence(err, "there is no room for another machine now"))
	case fault.Invalid, fault.Unsupported, fault.NotFound, fault.Denied:
		return unprocessable("%s", sentence(err, "the machine cannot be created as its configuration asks"))
	case fault.Conflict:
		return refuse(http.StatusConflict, "already_exists: %s", sentence(err, "the machine's name is taken at the provider"))
	}
	return describe(err)
}

func sentence(err error, otherwise string) string {
	if said, ok := fault.Sentence(err); ok {
		return said
	}
	return otherwise
}

// errorBody is the body of every refusal.
type errorBody struct {
	Error   string `json:"error"`
	Status  string `json:"status,omitempty"`
	Details any    `json:"details,omitempty"`
}

// writeProblem answers with a refusal.
func writeProblem(w http.ResponseWriter, p *problem) {
	if p.after > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(p.after))
	}
	writeJSON(w, p.status, &errorBody{Error: p.text, Status: p.code})
}

// writeJSON answers with a body. What is written was made here and can always be encoded; a client that hangs up while
// it is written is nobody's failure.
func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(body)
}
