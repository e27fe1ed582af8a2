package fly

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

const (
	maxAnswer = 2 << 20  // bytes read of an answer about one machine: it repeats its files, 1 MiB in base64 at most
	maxList   = 32 << 20 // bytes read of a page of a list, whose machines repeat the files they were created with

	// callTimeout is how long one request may take unless it says otherwise. Creates of large images have been seen to
	// take tens of seconds.
	callTimeout = 50 * time.Second

	// patience is how long a call goes on asking for what may be asked for again, when its context lets it.
	patience = 30 * time.Second
)

// client speaks the Machines API for one app.
type client struct {
	base  string // without a trailing slash
	app   string
	token func() (string, error)
	agent string // User-Agent
	rate  float64
	web   *http.Client
	pace  *pace
}

// call is one request.
type call struct {
	action  string // what is paced together: "create", "get", …
	method  string
	machine string // the id, or "" for the app's machines as a whole
	verb    string // below the machine: "wait", "exec", …
	query   url.Values
	body    any
	limit   int64         // of the answer; 0: maxAnswer
	timeout time.Duration // 0: callTimeout
}

// answer is what came back, whatever its status.
type answer struct {
	status int
	header http.Header
	body   []byte
	id     string // fly-request-id
}

// do waits for the call's turn, makes it, and returns the answer. A 429 is waited for and asked again while patience
// and the context last; the last one is returned as an answer like any other. The error is fault.Canceled when the
// context ended, fault.Exhausted when the turn would come too late, and otherwise fault.Unavailable: then nobody knows
// whether the call had its effect.
func (c *client) do(ctx context.Context, o *call) (*answer, error) {
	began := time.Now()
	for tries := 0; ; tries++ {
		key, rate, burst := c.bucketOf(o)
		if err := c.pace.wait(ctx, key, rate, burst); err != nil {
			return nil, err
		}
		a, err := c.once(ctx, o)
		if err != nil || a.status != http.StatusTooManyRequests {
			return a, err
		}
		wait, said := retryAfter(a.header, time.Now())
		if !said {
			wait = min(time.Second<<min(tries, 5), patience)
		}
		c.pace.holdFor(key, rate, burst, wait)
		deadline, bounded := ctx.Deadline()
		if time.Since(began)+wait > patience || bounded && time.Now().Add(wait).After(deadline) {
			return a, nil
		}
	}
}

// bucketOf returns which bucket a call is counted in, and how large that is.
func (c *client) bucketOf(o *call) (key string, rate, burst float64) {
	if o.action == "get" {
		return o.action + " " + o.machine, 5 * c.rate, 10
	}
	return o.action + " " + o.machine, c.rate, 3
}

// once makes the call.
func (c *client) once(parent context.Context, o *call) (*answer, error) {
	timeout := o.timeout
	if timeout == 0 {
		timeout = callTimeout
	}
	ctx, cancel := context.WithTimeout(parent, timeout)
	defer cancel()
	token, err := c.token()
	if err != nil {
		return nil, fault.Say(fault.Denied, "the token for Fly cannot be had: %v", err)
	}
	request, err := c.request(ctx, o, token)
	if err != nil {
		return nil, err
	}
	response, err := c.web.Do(request)
	if err != nil {
		return nil, c.broken(parent, o, "", err)
	}
	defer response.Body.Close()
	a := &answer{status: response.StatusCode, header: response.Header, id: plain(response.Header.Get("Fly-Request-Id"), 64)}
	limit := o.limit
	if limit == 0 {
		limit = maxAnswer
	}
	if a.body, err = io.ReadAll(io.LimitReader(response.Body, limit+1)); err != nil {
		return nil, c.broken(parent, o, a.id, err)
	}
	if int64(len(a.body)) > limit {
		isList := bytes.HasPrefix(bytes.TrimSpace(a.body[:min(len(a.body), 64)]), []byte("["))
		return nil, c.broken(parent, o, a.id, &tooLarge{limit, isList})
	}
	return a, nil
}

// tooLarge is the error of an answer that nobody reads to its end.
type tooLarge struct {
	limit  int64
	isList bool // as far as its beginning shows
}

func (t *tooLarge) Error() string { return fmt.Sprintf("the answer is larger than %d bytes", t.limit) }

func (c *client) request(ctx context.Context, o *call, token string) (*http.Request, error) {
	target := c.base + "/v1/apps/" + url.PathEscape(c.app) + "/machines"
	if o.machine != "" {
		target += "/" + url.PathEscape(o.machine)
	}
	if o.verb != "" {
		target += "/" + o.verb
	}
	if len(o.query) > 0 {
		target += "?" + o.query.Encode()
	}
	var body io.Reader
	if o.body != nil {
		encoded, err := json.Marshal(o.body)
		if err != nil {
			return nil, fmt.Errorf("fly: %w: %w", fault.Internal, err)
		}
		body = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, o.method, target, body)
	if err != nil {
		return nil, fault.Say(fault.Invalid, "the Machines API cannot be asked: %v", err)
	}
	request.Header.Set("Authorization", authorization(token))
	request.Header.Set("User-Agent", c.agent)
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}

// authorization returns the header's value for a token. What names its own scheme, as "FlyV1 fm2_…", keeps it.
func authorization(token string) string {
	if strings.HasPrefix(token, "FlyV1 ") || strings.HasPrefix(token, "Bearer ") {
		return token
	}
	return "Bearer " + token
}

// broken is the error of a call that got no answer that could be read.
func (c *client) broken(ctx context.Context, o *call, id string, err error) error {
	if ctx.Err() != nil {
		return canceled(ctx)
	}
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err // without the address, which says nothing new
	}
	return &unanswered{cause: err, said: fault.Say(fault.Unavailable, "%s%s",
		c.tame(fmt.Sprintf("the Machines API at %s gave no answer that could be read to %s: %v", c.host(), o.action, err)), inRequest(id))}
}

// unanswered is a failure of which nobody knows the effect. Its text is that of said.
type unanswered struct {
	said  error
	cause error
}

func (u *unanswered) Error() string   { return u.said.Error() }
func (u *unanswered) Unwrap() []error { return []error{u.said, u.cause} }

func (c *client) host() string {
	if u, err := url.Parse(c.base); err == nil && u.Host != "" {
		return u.Host
	}
	return "the configured address"
}

// decode reads an answer of status 2xx into what it should be. Anything else is fault.Unavailable.
func (c *client) decode(o *call, a *answer, into any) error {
	if err := json.Unmarshal(a.body, into); err != nil {
		return fault.Say(fault.Unavailable, "%s%s",
			c.tame(fmt.Sprintf("the Machines API at %s answered %s with %d and something that is not what it documents: %v",
				c.host(), o.action, a.status, err)), inRequest(a.id))
	}
	return nil
}

// ok reports whether the call succeeded.
func (a *answer) ok() bool { return a.status >= 200 && a.status <= 299 }

// inRequest names the request for Fly's support.
func inRequest(id string) string {
	if id == "" {
		return ""
	}
	return " (fly-request-id " + id + ")"
}

// tame returns what others say as one line of bounded length in which our token does not occur: a server might send it
// back.
func (c *client) tame(text string) string {
	token, _ := c.token() // the one that was sent, unless it has just been replaced
	for _, secret := range strings.FieldsFunc(token, func(r rune) bool { return r == ' ' || r == ',' }) {
		if len(secret) >= 6 {
			text = strings.ReplaceAll(text, secret, "[token]")
		}
	}
	return plain(text, 400)
}

// plain returns text as one line of at most limit characters that a terminal can show.
func plain(text string, limit int) string {
	shown := make([]rune, 0, min(len(text), limit))
	for _, r := range text {
		if len(shown) == limit {
			return string(shown) + "…"
		}
		if !strconv.IsPrint(r) {
			r = ' '
		}
		shown = append(shown, r)
	}
	return strings.TrimSpace(string(shown))
}

// retryAfter reads the header of that name, in seconds or as a date, and reports whether it says anything.
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds >= 0 && seconds <= 86400 {
		return time.Duration(seconds * float64(time.Second)), true
	}
	if at, err := http.ParseTime(text); err == nil {
		// The server's clock decides what its date means, where it shows that.
		if theirs, err := http.ParseTime(h.Get("Date")); err == nil {
			now = theirs
		}
		return min(max(at.Sub(now), 0), 24*time.Hour), true
	}
	return 0, false
}
