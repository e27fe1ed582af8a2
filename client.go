package dayfly

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// Client talks to a Dayfly server over HTTP. It is safe for concurrent use.
//
// Every method returns errors whose kind, as [fault.Of] tells it, is the one the server answered with, and whose
// sentence is the server's. A server that cannot be reached is fault.Unavailable.
//
// Calls that are safe to repeat are repeated, with growing random waits, when the connection fails or the server
// answers 408, 429, 502, 503 or 504, until [ClientOptions.Patience] is used up. Calls that would do something twice are
// made so that they do not: [Client.Submit] and [Client.Retry] always carry an Idempotency-Key.
type Client struct {
	base     *url.URL
	token    string
	http     *http.Client
	patience time.Duration
}

// ClientOptions are the optional parts of [NewClient]; nil means the defaults.
type ClientOptions struct {
	// Token is sent as a bearer token. It is not sent to the URLs of inputs and artifacts, which carry their own
	// authority and may lead to another host.
	Token string
	// HTTPClient makes the requests. It must not have a Timeout, which would end the streams of logs and events.
	// Default: one of its own, with the proxies of the environment.
	HTTPClient *http.Client
	// Patience is how long a call goes on trying to reach the server, counted anew whenever it has brought something.
	// Default: one minute. Negative: one try.
	Patience time.Duration
}

// The limits of one call.
const (
	defaultPatience = time.Minute
	callTimeout     = 30 * time.Second // for one try of a call that answers at once
	maxAnswer       = 32 << 20         // bytes of one JSON answer
	backoffFirst    = 50 * time.Millisecond
	backoffMost     = 5 * time.Second
)

// NewClient returns a client of the server at baseURL, such as "http://127.0.0.1:7700". It makes no request.
// fault.Invalid if baseURL is not an http or https URL.
func NewClient(baseURL string, o *ClientOptions) (*Client, error) {
	base, err := url.Parse(strings.TrimRight(baseURL, "/"))
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, fault.Say(fault.Invalid, "%q is not the URL of a server; it looks like http://127.0.0.1:7700", baseURL)
	}
	if o == nil {
		o = &ClientOptions{}
	}
	c := &Client{base: base, token: o.Token, http: o.HTTPClient, patience: o.Patience}
	if c.http == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost = 16
		c.http = &http.Client{Transport: transport}
	}
	if c.patience == 0 {
		c.patience = defaultPatience
	}
	return c, nil
}

// request is one call of the API.
type request struct {
	method string
	path   string // below the base URL
	query  url.Values
	header http.Header
	body   any  // sent as JSON when it is not nil
	once   bool // repeating it could do something twice
	away   bool // it makes something go away: that it is not there, when a try before had no answer, is success
}

// call makes the request, repeating it while that is safe and promises something, and decodes the answer into out
// unless that is nil.
func (c *Client) call(ctx context.Context, r request, out any) error {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return fmt.Errorf("dayfly: encoding the request: %w: %w", fault.Invalid, err)
		}
	}
	again := c.newBackoff()
	lost := false // a try may have been carried out although it had no answer
	for {
		err := c.try(ctx, r, body, out)
		if r.away && lost && errors.Is(err, fault.NotFound) {
			return nil
		}
		if err == nil || r.once || !again.wait(ctx, err) {
			return err
		}
		lost = lost || mayBeDone(err)
	}
}

// try makes the request once and reads the whole answer.
func (c *Client) try(ctx context.Context, r request, body []byte, out any) error {
	tryCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := c.newRequest(tryCtx, r, body)
	if err != nil {
		return err
	}
	return c.do(ctx, req, out)
}

// do makes a request and decodes its answer into out unless that is nil. The end of ctx is not the server's failure.
func (c *Client) do(ctx context.Context, req *http.Request, out any) error {
	resp, err := c.http.Do(req)
	if err != nil {
		return unreachable(ctx, req, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return readProblem(resp)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return unreachable(ctx, req, err)
	}
	if len(data) > maxAnswer {
		return fmt.Errorf("dayfly: %s %s: %w: the answer is larger than %d bytes", req.Method, req.URL.Path, fault.TooLarge, maxAnswer)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("dayfly: %s %s: %w: the answer is not what a Dayfly server sends: %w", req.Method, req.URL.Path, fault.Internal, err)
	}
	return nil
}

// newRequest builds one try of a call.
func (c *Client) newRequest(ctx context.Context, r request, body []byte) (*http.Request, error) {
	target := *c.base
	target = *target.JoinPath(r.path)
	target.RawQuery = r.query.Encode()
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target.String(), reader)
	if err != nil {
		return nil, fmt.Errorf("dayfly: %w: %w", fault.Invalid, err)
	}
	for name, values := range r.header {
		req.Header[name] = values
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if req.Header.Get("Accept") == "" {
		req.Header.Set("Accept", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// unreachable is the error for a request that got no whole answer.
func unreachable(ctx context.Context, req *http.Request, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("dayfly: %s %s: %w", req.Method, req.URL.Path, context.Cause(ctx))
	}
	if _, classified := errors.AsType[fault.Kind](err); classified { // by a transport that knows better than we do
		return fmt.Errorf("dayfly: %s %s: %w", req.Method, req.URL.Path, err)
	}
	reason := err
	if e, ok := errors.AsType[*url.Error](err); ok {
		reason = e.Err // without the request, which the caller knows
	}
	return &unanswered{fault.Say(fault.Unavailable, "the server at %s does not answer: %v", req.URL.Host, reason), err}
}

// unanswered is a sentence for a person about a request that got no whole answer, and what the transport said.
type unanswered struct{ sentence, cause error }

func (u *unanswered) Error() string   { return "dayfly: " + u.sentence.Error() }
func (u *unanswered) Unwrap() []error { return []error{u.sentence, u.cause} }

// backoff spreads the tries of one call over the client's patience: each wait is random between nothing and a bound
// that doubles, so that many clients of one restarted server do not come back all at once.
type backoff struct {
	patience time.Duration
	until    time.Time
	tries    int
}

func (c *Client) newBackoff() *backoff {
	return &backoff{patience: c.patience, until: time.Now().Add(c.patience)}
}

// reset begins anew, because something was achieved.
func (b *backoff) reset() {
	b.tries = 0
	b.until = time.Now().Add(b.patience)
}

// extend leaves out of the patience what was spent with the server and not waiting for it.
func (b *backoff) extend(d time.Duration) { b.until = b.until.Add(d) }

// wait reports whether it makes sense to try again after err, having waited for the right moment.
func (b *backoff) wait(ctx context.Context, err error) bool {
	pause, ok := mayRepeat(err)
	if !ok || ctx.Err() != nil {
		return false
	}
	pause = max(pause, b.next())
	if time.Now().Add(pause).After(b.until) {
		return false
	}
	return sleep(ctx, pause)
}

// next returns the next random wait.
func (b *backoff) next() time.Duration {
	bound := min(backoffFirst<<min(b.tries, 16), backoffMost)
	b.tries++
	return mathrand.N(bound)
}

// sleep reports whether it has slept for all of the time, before the context ended.
func sleep(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// randomKey returns an Idempotency-Key that nobody has used.
func randomKey() string { return rand.Text() }
