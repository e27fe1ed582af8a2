package agent

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/internal/wire"
)

// Direct is a [Link] that makes one request of each call. It suits a machine that runs one attempt.
type Direct struct{ client *client }

// NewDirect returns a link; version is the agent's, to show.
func NewDirect(version string) *Direct { return &Direct{client: newClient(version)} }

// Close closes the connections that are kept open. Calls may still be made.
func (d *Direct) Close() { d.client.http.CloseIdleConnections() }

// Claim implements [Link].
func (d *Direct) Claim(ctx context.Context, to Address, c *wire.ClaimRequest) (*wire.Assignment, error) {
	var job wire.Assignment
	wait := time.Duration(c.WaitMS) * time.Millisecond
	path := "/agent/v1/claim"
	if wait > 0 {
		path += "?held=true"
	}
	if err := d.call(ctx, to.URL+path, to.Token, c, &job, wait); err != nil {
		return nil, err
	}
	return &job, checkAssignment(&job, to.Attempt)
}

// Beat implements [Link].
func (d *Direct) Beat(ctx context.Context, to Address, b *wire.Heartbeat) (*wire.HeartbeatAnswer, error) {
	var answer wire.HeartbeatAnswer
	wait := time.Duration(b.WaitMS) * time.Millisecond
	if err := d.call(ctx, to.endpoint("heartbeat"), to.Token, b, &answer, wait); err != nil {
		return nil, err
	}
	return &answer, nil
}

// Log implements [Link].
func (d *Direct) Log(ctx context.Context, to Address, c *wire.LogChunk) (*wire.LogAnswer, error) {
	query := url.Values{
		"stream":  {string(c.Stream)},
		"offset":  {strconv.FormatInt(c.Offset, 10)},
		"time_ms": {strconv.FormatInt(c.TimeMS, 10)},
	}
	if c.Gap > 0 {
		query.Set("gap", strconv.FormatInt(c.Gap, 10))
		query.Set("why", c.Why)
	}
	body, err := d.client.send(ctx, &post{
		url:         to.endpoint("logs") + "?" + query.Encode(),
		token:       to.Token,
		contentType: "application/octet-stream",
		body:        c.Data,
		maxAnswer:   maxAnswer,
	})
	if err != nil {
		return nil, err
	}
	var answer wire.LogAnswer
	return &answer, decodeJSON(body, &answer)
}

// Artifacts implements [Link].
func (d *Direct) Artifacts(ctx context.Context, to Address, r *wire.ArtifactRequest) (*wire.ArtifactAnswer, error) {
	var answer wire.ArtifactAnswer
	if err := d.call(ctx, to.endpoint("artifacts"), to.Token, r, &answer, 0); err != nil {
		return nil, err
	}
	return &answer, checkUploads(&answer, len(r.Artifacts))
}

// Result implements [Link].
func (d *Direct) Result(ctx context.Context, to Address, r *wire.Result) error {
	return d.call(ctx, to.endpoint("result"), to.Token, r, nil, 0)
}

// endpoint returns the URL of a call that belongs to the attempt.
func (to Address) endpoint(name string) string {
	return to.URL + "/agent/v1/attempts/" + url.PathEscape(to.Attempt) + "/" + name
}

// call posts a request as JSON and decodes the answer into it, unless that is nil.
func (d *Direct) call(ctx context.Context, url, token string, request, answer any, wait time.Duration) error {
	body, err := encodeJSON(request)
	if err != nil {
		return err
	}
	body, err = d.client.send(ctx, &post{url, token, "application/json", body, wait, maxAnswer})
	if err != nil || answer == nil {
		return err
	}
	return decodeJSON(body, answer)
}
