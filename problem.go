package dayfly

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// maxProblem is how much of an error answer is read, in bytes.
const maxProblem = 64 << 10

// answered is an error that the server has answered with. It unwraps to a [fault.FieldError] or a sentence of the
// kind that the answer names.
type answered struct {
	status     int
	byServer   bool // it names a kind, as only a Dayfly server does, and nothing that stands before one
	retryAfter time.Duration
	err        error
}

func (a *answered) Error() string { return a.err.Error() }
func (a *answered) Unwrap() error { return a.err }

// readProblem turns an error answer into an error. Answers that are not problem details, such as a proxy's page,
// keep what their status says.
func readProblem(resp *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	var problem struct {
		Code      fault.Kind `json:"code"`
		Detail    string     `json:"detail"`
		Title     string     `json:"title"`
		Field     string     `json:"field"`
		RequestID string     `json:"request_id"`
	}
	// An answer that does not decode leaves the members empty, and the status then says what there is to say.
	_ = json.Unmarshal(data, &problem)
	kind := problem.Code
	if kind == "" {
		kind = kindOfStatus(resp.StatusCode)
	}
	detail := problem.Detail
	if detail == "" {
		detail = problem.Title
	}
	if detail == "" {
		detail = "the server answered " + resp.Status
	}
	if problem.RequestID != "" {
		detail += " (request " + problem.RequestID + ")" // the server's log has the details under this id
	}
	a := &answered{status: resp.StatusCode, byServer: problem.Code != "", err: fault.Say(kind, "%s", detail)}
	if problem.Field != "" {
		a.err = &fault.FieldError{Field: problem.Field, Kind: kind, Message: detail}
	}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		a.retryAfter = min(time.Duration(seconds)*time.Second, time.Minute)
	}
	return a
}

// kindOfStatus is the kind of an answer that names none.
func kindOfStatus(status int) fault.Kind {
	switch status {
	case http.StatusUnauthorized:
		return fault.Unauthenticated
	case http.StatusForbidden:
		return fault.Denied
	case http.StatusNotFound, http.StatusGone:
		return fault.NotFound
	case http.StatusConflict:
		return fault.Conflict
	case http.StatusRequestEntityTooLarge:
		return fault.TooLarge
	case http.StatusTooManyRequests:
		return fault.Exhausted
	case http.StatusNotImplemented:
		return fault.Unsupported
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fault.Unavailable
	}
	if status >= 400 && status < 500 {
		return fault.Invalid
	}
	return fault.Internal
}

// mayRepeat reports whether the same request may succeed later, and how long the server asks to wait before that.
func mayRepeat(err error) (time.Duration, bool) {
	if a, ok := errors.AsType[*answered](err); ok {
		switch a.status {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return a.retryAfter, true
		}
		return 0, false
	}
	return 0, errors.Is(err, fault.Unavailable)
}

// mayBeDone reports whether a request that failed so may have been carried out nevertheless: the connection broke before
// there was an answer, or a proxy had none to pass on.
func mayBeDone(err error) bool {
	if a, ok := errors.AsType[*answered](err); ok {
		return a.status == http.StatusBadGateway || a.status == http.StatusGatewayTimeout
	}
	return true
}
