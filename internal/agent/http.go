package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
)

const (
	// maxAnswer bounds what is read of an answer to one call. The largest is an assignment with a payload.
	maxAnswer = 4 << 20
	// patience is how long a call may take, beside the time that its body needs on a slow line.
	patience = 30 * time.Second
	// slowest is the slowest line that is waited for, in bytes per second.
	slowest = 4 << 10
)

// client makes requests of the protocol. It is safe for concurrent use.
type client struct {
	http      *http.Client
	userAgent string
}

// newClient returns a client that keeps a few connections open, does not follow redirects, and takes the proxy from
// the environment as other programs do.
func newClient(version string) *client {
	return &client{
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:                 http.ProxyFromEnvironment,
				DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
				TLSHandshakeTimeout:   10 * time.Second,
				MaxIdleConnsPerHost:   16,
				IdleConnTimeout:       90 * time.Second,
				ExpectContinueTimeout: time.Second,
				ForceAttemptHTTP2:     true,
			},
			// A token must not follow a redirect to somebody else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		userAgent: "dayfly-agent/" + version,
	}
}

// post is one request of the protocol.
type post struct {
	url, token, contentType string
	body                    []byte
	wait                    time.Duration // how long the server may hold it
	maxAnswer               int64
}

// send makes the request and returns the body of its answer.
func (c *client) send(ctx context.Context, p *post) ([]byte, error) {
	limit := patience + p.wait + time.Duration(len(p.body)/slowest)*time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(p.body))
	if err != nil {
		return nil, fmt.Errorf("agent: %w: %w", fault.Unavailable, withoutURL(err))
	}
	request.Header.Set("Content-Type", p.contentType)
	request.Header.Set("User-Agent", c.userAgent)
	if p.token != "" {
		request.Header.Set("Authorization", "Bearer "+p.token)
	}
	// Every call may be repeated. This entry, which is not sent, lets the transport repeat one by itself when a kept
	// connection turns out to be closed.
	request.Header["Idempotency-Key"] = nil

	response, err := c.http.Do(request)
	if err != nil {
		return nil, unanswered(ctx, err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, p.maxAnswer+1))
	switch {
	case err != nil:
		return nil, unanswered(ctx, err)
	case int64(len(answer)) > p.maxAnswer:
		return nil, garbled("it is longer than %s", byteSize(p.maxAnswer))
	case response.StatusCode < 200 || response.StatusCode > 299:
		return nil, decodeRefusal(response.StatusCode, response.Header, answer)
	}
	return answer, nil
}

// unanswered makes the error of a request that got no answer.
func unanswered(ctx context.Context, err error) error {
	err = withoutURL(err)
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, ctx.Err()) {
		err = cause
	}
	return fmt.Errorf("agent: %w: %w", fault.Unavailable, err)
}

// withoutURL strips the URL from an error of net/http: a signed one is a secret.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// encodeJSON encodes without escaping for HTML, which would blow up what a command returned.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("agent: %w: encoding a request: %w", fault.Invalid, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), nil
}

// decodeJSON decodes an answer. One that is not what the protocol says is as good as none.
func decodeJSON(answer []byte, v any) error {
	if err := json.Unmarshal(answer, v); err != nil {
		return garbled("it is not the JSON it should be: %v", err)
	}
	return nil
}

// garbled is the error of an answer that makes no sense. The call may have been carried out, so it is repeated.
func garbled(format string, args ...any) error {
	return fmt.Errorf("agent: %w: the server's answer makes no sense: %s", fault.Unavailable, fmt.Sprintf(format, args...))
}

// checkAssignment refuses an assignment that nothing could be done with.
func checkAssignment(j *wire.Assignment, attempt string) error {
	switch {
	case j == nil:
		return garbled("the assignment is missing")
	case j.Wait && ofPool(attempt):
		return nil
	case j.Attempt == "" || j.Attempt != attempt && !ofPool(attempt):
		return garbled("it assigns attempt %q instead of %q", j.Attempt, attempt)
	case j.Token == "":
		return garbled("the session token is missing")
	case len(j.Command) == 0 || j.Command[0] == "":
		return garbled("the command is missing")
	}
	return nil
}

// checkUploads refuses an answer that does not say where to put each output.
func checkUploads(a *wire.ArtifactAnswer, wanted int) error {
	if len(a.Uploads) != wanted {
		return garbled("%d uploads for %d outputs", len(a.Uploads), wanted)
	}
	for _, u := range a.Uploads {
		if u.URL == "" || u.Method == "" {
			return garbled("an upload without URL or method")
		}
	}
	return nil
}
