package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// Refusal is an error that the server answered with.
type Refusal struct {
	Status     int        // the HTTP status, to show
	Kind       fault.Kind // what to decide by
	Detail     string     // the server's sentence
	RetryAfter time.Duration
	// Foreign is set when nothing shows that the answer is our server's. It counts as none.
	Foreign bool
	// Stored is where the stream ends at the server, in the refusal of a log chunk that begins beyond it; -1 when
	// the server did not say.
	Stored int64
}

// Error returns the kind and the server's sentence.
func (r *Refusal) Error() string {
	if r.Detail == "" {
		return fmt.Sprintf("the server answered %d %s", r.Status, r.Kind)
	}
	return fmt.Sprintf("the server answered %d %s: %s", r.Status, r.Kind, r.Detail)
}

// Unwrap returns the kind, which is how fault.Of finds it.
func (r *Refusal) Unwrap() error { return r.Kind }

// maxRetryAfter bounds the wait that a server may ask for, so that a mistaken one cannot silence its agents.
const maxRetryAfter = time.Minute

// problemBody is a problem detail as the log endpoint extends it: a conflict says where the stream ends.
type problemBody struct {
	wire.Problem
	Stored *int64 `json:"stored"`
}

// decodeRefusal makes an error of an answer whose status is not a success.
func decodeRefusal(status int, header http.Header, body []byte) error {
	var p problemBody
	if json.Unmarshal(body, &p) != nil {
		p = problemBody{} // not ours: the status has to do
	}
	p.Status = status
	r := refusalOf(&p.Problem)
	if p.Stored != nil {
		r.Stored = *p.Stored
	}
	if seconds, err := strconv.Atoi(header.Get("Retry-After")); err == nil && seconds > 0 {
		r.RetryAfter = min(time.Duration(min(seconds, 3600))*time.Second, maxRetryAfter)
	}
	return r
}

// refusalOf makes a Refusal of a problem, which may come from anywhere. A code that is a kind decides. Without one the
// answer is not our server's: a proxy's "404 page not found" while the server restarts must not end the attempt, so
// that counts as no answer at all.
func refusalOf(p *wire.Problem) *Refusal {
	kind := fault.Kind(p.Code)
	foreign := !known(kind)
	if foreign {
		kind = fault.Unavailable
		if p.Status == http.StatusTooManyRequests || p.Status == http.StatusInsufficientStorage {
			kind = fault.Exhausted
		}
	}
	detail := p.Detail
	if detail == "" {
		detail = p.Title
	}
	return &Refusal{Status: p.Status, Kind: kind, Detail: printable(detail, 512), Foreign: foreign, Stored: -1}
}

// answered reports whether err, which is that of a call, is an answer of our server.
func answered(err error) bool {
	r, ok := errors.AsType[*Refusal](err)
	return ok && !r.Foreign
}

// known reports whether k is a kind that this agent can decide by.
func known(k fault.Kind) bool {
	switch k.General() {
	case fault.Invalid, fault.Unauthenticated, fault.Denied, fault.NotFound, fault.Conflict, fault.Exhausted,
		fault.Unavailable, fault.Unsupported, fault.Canceled, fault.Internal:
		return true
	}
	return false
}

// retryable reports whether a call that failed so may succeed when it is made again.
func retryable(err error) bool {
	switch fault.Of(err).General() {
	case fault.Unavailable, fault.Exhausted, fault.Internal, fault.Canceled:
		return true
	}
	return false
}

// final reports whether err says that the attempt is not, or no longer, ours: kill, discard, exit.
func final(err error) bool {
	switch fault.Of(err) {
	case fault.StaleAttempt, fault.AlreadyClaimed, fault.AlreadyFinished, fault.Unauthenticated, fault.Denied, fault.NotFound:
		return true
	}
	return false
}
