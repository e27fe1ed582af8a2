package dayfly

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/fault"
)

// SubmitOptions are the optional parts of [Client.Submit]; nil means the defaults.
type SubmitOptions struct {
	// IdempotencyKey names the submission: the server makes one job for one key, however often the request reaches
	// it. Give your own, at most 200 bytes, to be safe across restarts of your program. Default: a random one, which
	// makes the client's own repetitions safe.
	IdempotencyKey string
}

// Submit adds a job and returns it once it is durable. A job without inputs begins at once, unless spec.Start says
// otherwise; one with inputs waits until they are uploaded and [Client.Start] is called.
//
// fault.Invalid, as a [fault.FieldError] that names the field; fault.IdempotencyMismatch when the key was used with
// another spec; fault.Exhausted when the server holds too many jobs.
func (c *Client) Submit(ctx context.Context, spec *JobSpec, o *SubmitOptions) (*Job, error) {
	if err := spec.checkText(); err != nil {
		return nil, err
	}
	key := randomKey()
	if o != nil && o.IdempotencyKey != "" {
		key = o.IdempotencyKey
	}
	var job Job
	r := request{method: http.MethodPost, path: "/v1/jobs", header: http.Header{"Idempotency-Key": {key}}, body: spec}
	if err := c.call(ctx, r, &job); err != nil {
		return nil, err
	}
	return &job, nil
}

// checkText refuses text that is not UTF-8. A request cannot carry it: encoding/json would put other bytes in its place
// in silence, and the command would be given an argument or a file name that nobody wrote.
func (s *JobSpec) checkText() error {
	type text struct{ field, value string }
	texts := []text{
		{"name", s.Name}, {"provider", s.Provider}, {"image", s.Image}, {"size", s.Size}, {"queue", s.Queue},
		{"concurrency_key", s.ConcurrencyKey},
	}
	for i, word := range s.Command {
		texts = append(texts, text{fmt.Sprintf("command[%d]", i), word})
	}
	for i, pattern := range s.Outputs {
		texts = append(texts, text{fmt.Sprintf("outputs[%d]", i), pattern})
	}
	for i, input := range s.Inputs {
		texts = append(texts, text{fmt.Sprintf("inputs[%d].name", i), input.Name},
			text{fmt.Sprintf("inputs[%d].content_type", i), input.ContentType})
	}
	for field, pairs := range map[string]map[string]string{"env": s.Env, "labels": s.Labels} {
		for _, key := range slices.Sorted(maps.Keys(pairs)) {
			texts = append(texts, text{field, key}, text{field + "." + key, pairs[key]})
		}
	}
	for _, t := range texts {
		if !utf8.ValidString(t.value) {
			return fault.Field(t.field, "is not UTF-8, and nothing else can be sent; put such bytes into an input file")
		}
	}
	return nil
}

// Job returns a job with its attempts and artifacts; fault.NotFound if there is none of that id.
func (c *Client) Job(ctx context.Context, id string) (*Job, error) {
	return c.job(ctx, http.MethodGet, id, "", nil)
}

// Start lets a job whose inputs are uploaded begin. Starting it again is no error. fault.NotFound; fault.Conflict
// while inputs are missing; fault.AlreadyFinished.
func (c *Client) Start(ctx context.Context, id string) (*Job, error) {
	return c.job(ctx, http.MethodPost, id, "/start", nil)
}

// Cancel asks for the job's end and returns when the wish is durable; use [Client.Wait] to see it carried out.
// Canceling again is no error. fault.NotFound; fault.AlreadyFinished.
func (c *Client) Cancel(ctx context.Context, id string) (*Job, error) {
	return c.job(ctx, http.MethodPost, id, "/cancel", nil)
}

// Release has the machine destroyed that is kept of a failed job, before its time is over. fault.NotFound; fault.Conflict
// if none is kept.
func (c *Client) Release(ctx context.Context, id string) (*Job, error) {
	return c.job(ctx, http.MethodPost, id, "/release", nil)
}

// Retry adds a new job with the spec and the inputs of one that has ended. fault.NotFound; fault.Conflict while it
// has not ended.
func (c *Client) Retry(ctx context.Context, id string) (*Job, error) {
	return c.job(ctx, http.MethodPost, id, "/retry", http.Header{"Idempotency-Key": {randomKey()}})
}

func (c *Client) job(ctx context.Context, method, id, action string, header http.Header) (*Job, error) {
	path, err := jobPath(id, action)
	if err != nil {
		return nil, err
	}
	var job Job
	if err := c.call(ctx, request{method: method, path: path, header: header}, &job); err != nil {
		return nil, err
	}
	return &job, nil
}

// jobPath returns the path of a job's resource. An id that could lead to another resource is not one.
func jobPath(id, action string) (string, error) {
	if id == "" || id == "." || id == ".." {
		return "", fault.Say(fault.NotFound, "%q is not the id of a job", id)
	}
	return "/v1/jobs/" + url.PathEscape(id) + action, nil
}

// Delete removes a job that has ended, with its logs, inputs and artifacts. It waits a few seconds for the machine of
// one that has just ended. fault.NotFound; fault.Conflict while it has not ended, or its machine is not gone.
func (c *Client) Delete(ctx context.Context, id string) error {
	path, err := jobPath(id, "")
	if err != nil {
		return err
	}
	return c.call(ctx, request{method: http.MethodDelete, path: path, away: true}, nil)
}

// Why explains why a job is where it is; fault.NotFound.
func (c *Client) Why(ctx context.Context, id string) (*Why, error) {
	path, err := jobPath(id, "/why")
	if err != nil {
		return nil, err
	}
	var why Why
	if err := c.call(ctx, request{method: http.MethodGet, path: path}, &why); err != nil {
		return nil, err
	}
	return &why, nil
}

// Query selects jobs. Zero fields select all.
type Query struct {
	States []State           // any of these
	Queue  string            //
	Name   string            // exactly
	Labels map[string]string // all of these
	Limit  int               // how many jobs at most; 0: no limit
	Cost   bool              // with what each has cost, which takes longer
}

// The sizes of a page that the client asks for.
const (
	firstPage = 100
	laterPage = 500
)

// Jobs yields the jobs that match q, newest first, without their attempts and artifacts. It asks for a page at a time
// as it is consumed. An error ends it. nil selects all jobs.
func (c *Client) Jobs(ctx context.Context, q *Query) iter.Seq2[*Job, error] {
	if q == nil {
		q = &Query{}
	}
	values := url.Values{}
	for _, s := range q.States {
		values.Add("state", string(s))
	}
	setIf(values, "queue", q.Queue)
	setIf(values, "name", q.Name)
	if q.Cost {
		values.Set("cost", "true")
	}
	for _, key := range sortedKeys(q.Labels) {
		values.Add("label", key+"="+q.Labels[key])
	}
	return pages[*Job](ctx, c, "/v1/jobs", values, q.Limit)
}

// pages yields the items of a paged list.
func pages[T any](ctx context.Context, c *Client, path string, values url.Values, limit int) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		size, left := firstPage, limit
		for {
			if limit > 0 {
				size = min(size, left)
			}
			values.Set("limit", strconv.Itoa(size))
			var page struct {
				Items []T    `json:"items"`
				Next  string `json:"next_cursor"`
			}
			if err := c.call(ctx, request{method: http.MethodGet, path: path, query: values}, &page); err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
				if left--; limit > 0 && left == 0 {
					return
				}
			}
			if page.Next == "" {
				return
			}
			values.Set("cursor", page.Next)
			size = laterPage
		}
	}
}

// waitTimeout is how long the server is asked to wait in one request; it leaves callTimeout the time to answer.
const waitTimeout = 20 * time.Second

// Wait returns the job once it has ended, however it ended; the server answers as it happens. fault.NotFound;
// fault.Unavailable when the server stays away for longer than the client's patience.
func (c *Client) Wait(ctx context.Context, id string) (*Job, error) {
	path, err := jobPath(id, "/wait")
	if err != nil {
		return nil, err
	}
	r := request{method: http.MethodGet, path: path, query: url.Values{"timeout": {waitTimeout.String()}}}
	var again *backoff // counts from the first request that failed, however long those before it have waited
	early := c.newBackoff()
	for {
		began := time.Now()
		var job Job
		err := c.try(ctx, r, nil, &job)
		switch {
		case err == nil && job.State.Terminal():
			return &job, nil
		case err == nil && time.Since(began) >= waitTimeout-time.Second:
			again = nil
			early.reset()
			continue
		case err == nil: // by somebody who does not wait, such as a proxy, and must not be asked without a pause
			again = nil
			if !sleep(ctx, early.next()) {
				return nil, fmt.Errorf("dayfly: GET %s: %w", path, context.Cause(ctx))
			}
			continue
		case again == nil:
			again = c.newBackoff()
		}
		if !again.wait(ctx, err) {
			return nil, err
		}
	}
}

// Events yields the events of a job with a Seq above after, each once and in order, first those of the past and then
// each as it happens, and ends after the event that ends the job. An error ends it too; fault.NotFound.
func (c *Client) Events(ctx context.Context, id string, after int64) iter.Seq2[*Event, error] {
	return func(yield func(*Event, error) bool) {
		path, err := jobPath(id, "/events")
		if err != nil {
			yield(nil, err)
			return
		}
		from := ""
		if after > 0 {
			from = strconv.FormatInt(after, 10)
		}
		err = c.stream(ctx, request{method: http.MethodGet, path: path}, from, func(f frame) error {
			var e Event
			if err := json.Unmarshal(f.data, &e); err != nil {
				return malformed(path, err)
			}
			if e.Seq <= after {
				return nil
			}
			after = e.Seq
			if !yield(&e, nil) || e.State.Terminal() {
				return errStop
			}
			return nil
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

func malformed(path string, err error) error {
	return fmt.Errorf("dayfly: GET %s: %w: an event is not what a Dayfly server sends: %w", path, fault.Internal, err)
}

// Machines yields the machines of the server's ledger, those that are not gone, or all that it still remembers.
func (c *Client) Machines(ctx context.Context, all bool) iter.Seq2[*Machine, error] {
	values := url.Values{}
	if all {
		values.Set("all", "true")
	}
	return pages[*Machine](ctx, c, "/v1/machines", values, 0)
}

// Pools returns the server's pools of warm machines, by name, with their machines counted.
func (c *Client) Pools(ctx context.Context) ([]WarmPool, error) {
	var answer struct {
		Items []WarmPool `json:"items"`
	}
	err := c.call(ctx, request{method: http.MethodGet, path: "/v1/pools"}, &answer)
	return answer.Items, err
}

// Fleets returns how the runners are that programs share, by name.
func (c *Client) Fleets(ctx context.Context) ([]FleetStatus, error) {
	var answer struct {
		Items []FleetStatus `json:"items"`
	}
	err := c.call(ctx, request{method: http.MethodGet, path: "/v1/fleets"}, &answer)
	return answer.Items, err
}

// Quote checks a spec as Submit does and returns what the job would cost. Nothing is made. Errors are those of Submit.
func (c *Client) Quote(ctx context.Context, spec *JobSpec) (*Quote, error) {
	if err := spec.checkText(); err != nil {
		return nil, err
	}
	var quote Quote
	if err := c.call(ctx, request{method: http.MethodPost, path: "/v1/quotes", body: spec}, &quote); err != nil {
		return nil, err
	}
	return &quote, nil
}

// Costs returns what jobs have cost from one day to another, both included and written 2006-01-02. "" is today.
func (c *Client) Costs(ctx context.Context, from, to string) (*Costs, error) {
	values := url.Values{}
	setIf(values, "from", from)
	setIf(values, "to", to)
	var costs Costs
	if err := c.call(ctx, request{method: http.MethodGet, path: "/v1/costs", query: values}, &costs); err != nil {
		return nil, err
	}
	return &costs, nil
}

// Version returns the version of the server.
func (c *Client) Version(ctx context.Context) (string, error) {
	var answer struct {
		Version string `json:"version"`
	}
	err := c.call(ctx, request{method: http.MethodGet, path: "/v1/version"}, &answer)
	return answer.Version, err
}

// Token is a token of the API.
type Token struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Scopes    []string   `json:"scopes"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
	Secret    string     `json:"token,omitempty"` // in the answer that creates it, and never again
}

// CreateToken makes a token with these scopes (submit, read, cancel, fly, hire, shell, admin), which ends after life, or never if that
// is zero. The answer holds the token itself, which cannot be had again. fault.Conflict if a live one has the name.
func (c *Client) CreateToken(ctx context.Context, name string, scopes []string, life time.Duration) (*Token, error) {
	body := struct {
		Name      string   `json:"name"`
		Scopes    []string `json:"scopes,omitempty"`
		ExpiresIn Duration `json:"expires_in,omitempty"`
	}{name, scopes, Duration(life)}
	var token Token
	if err := c.call(ctx, request{method: http.MethodPost, path: "/v1/tokens", body: body, once: true}, &token); err != nil {
		return nil, err
	}
	return &token, nil
}

// Tokens returns all tokens, newest first, without their secrets.
func (c *Client) Tokens(ctx context.Context) ([]*Token, error) {
	var tokens []*Token
	for t, err := range pages[*Token](ctx, c, "/v1/tokens", url.Values{}, 0) {
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, t)
	}
	return tokens, nil
}

// RevokeToken ends a token at once, by its id or name; fault.NotFound if no live one has it.
func (c *Client) RevokeToken(ctx context.Context, idOrName string) error {
	if idOrName == "" || idOrName == "." || idOrName == ".." {
		return fault.Say(fault.NotFound, "%q is not a token", idOrName)
	}
	err := c.call(ctx, request{method: http.MethodDelete, path: "/v1/tokens/" + url.PathEscape(idOrName), away: true}, nil)
	if errors.Is(err, fault.NotFound) {
		return fault.Say(fault.NotFound, "there is no live token %q", idOrName)
	}
	return err
}

func setIf(values url.Values, key, value string) {
	if value != "" {
		values.Set(key, value)
	}
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
