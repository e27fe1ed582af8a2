package dayfly_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

func TestNewClientRefusesWhatIsNoURLOfAServer(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "localhost:7700", "ftp://example.com", "http://", "://", "/v1"} {
		if _, err := dayfly.NewClient(bad, nil); !errors.Is(err, fault.Invalid) {
			t.Errorf("NewClient(%q) = %v, want an error of kind invalid", bad, err)
		}
	}
}

func TestSubmitIsRepeatedWithTheSameKey(t *testing.T) {
	t.Parallel()
	var keys []string
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		var spec dayfly.JobSpec
		if err := json.NewDecoder(r.Body).Decode(&spec); err != nil || len(spec.Command) != 1 {
			t.Errorf("try %d brought %+v, %v; want the whole spec", len(keys)+1, spec, err)
		}
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		switch len(keys) {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			hangUp(w)
		default:
			answer(w, http.StatusCreated, dayfly.Job{ID: "job_1", State: dayfly.Queued})
		}
	})
	job, err := c.Submit(t.Context(), &dayfly.JobSpec{Command: []string{"true"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if job.ID != "job_1" || job.State != dayfly.Queued {
		t.Errorf("got job %s in %s, want job_1 in queued", job.ID, job.State)
	}
	if len(keys) != 3 || keys[0] == "" || keys[0] != keys[1] || keys[1] != keys[2] {
		t.Errorf("the tries carried the keys %q, want one key three times", keys)
	}
}

func TestSubmitCarriesTheCallersKey(t *testing.T) {
	t.Parallel()
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, dayfly.Job{ID: r.Header.Get("Idempotency-Key")})
	})
	job, err := c.Submit(t.Context(), &dayfly.JobSpec{Command: []string{"true"}}, &dayfly.SubmitOptions{IdempotencyKey: "order-17"})
	if err != nil || job.ID != "order-17" {
		t.Errorf("got %v, %v; want the key order-17 to have been sent", job, err)
	}
}

func TestSubmitRefusesTextThatARequestCannotCarry(t *testing.T) {
	t.Parallel()
	const strange = "a\xffb"
	for field, spec := range map[string]*dayfly.JobSpec{
		"name":           {Command: []string{"true"}, Name: strange},
		"command[1]":     {Command: []string{"echo", strange}},
		"env":            {Command: []string{"true"}, Env: map[string]string{strange: "x"}},
		"env.A":          {Command: []string{"true"}, Env: map[string]string{"A": strange}},
		"labels":         {Command: []string{"true"}, Labels: map[string]string{strange: "x"}},
		"labels.a":       {Command: []string{"true"}, Labels: map[string]string{"a": strange}},
		"outputs[0]":     {Command: []string{"true"}, Outputs: []string{strange}},
		"inputs[0].name": {Command: []string{"true"}, Inputs: []dayfly.InputSpec{{Name: strange}}},
	} {
		t.Run(field, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
				t.Error("the server was asked")
				answer(w, http.StatusCreated, dayfly.Job{})
			})
			_, err := c.Submit(t.Context(), spec, nil)
			wrong, ok := errors.AsType[*fault.FieldError](err)
			if !ok || wrong.Field != field || fault.Of(err) != fault.Invalid {
				t.Errorf("got error %v, want fault.Invalid for %s", err, field)
			}
		})
	}
}

func TestErrorsAreTheServersKindSentenceAndField(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		status   int
		body     string
		kind     fault.Kind
		general  fault.Kind
		sentence string
		field    string
	}{
		"a sentence": {404, `{"code":"not_found","detail":"there is no job job_1"}`, fault.NotFound, fault.NotFound, "there is no job job_1", ""},
		"a finer kind": {409, `{"code":"already_finished","detail":"job_1 has succeeded"}`, fault.AlreadyFinished, fault.Conflict,
			"job_1 has succeeded", ""},
		"a field": {422, `{"code":"invalid","detail":"must be positive","field":"retry.max_attempts"}`, fault.Invalid, fault.Invalid,
			"retry.max_attempts: must be positive", "retry.max_attempts"},
		"an internal error": {500, `{"code":"internal","detail":"something went wrong","request_id":"R7"}`, fault.Internal, fault.Internal,
			"something went wrong (request R7)", ""},
		"a proxy's page":          {413, `<html>too large</html>`, fault.TooLarge, fault.Invalid, "the server answered 413 Request Entity Too Large", ""},
		"an empty answer":         {500, ``, fault.Internal, fault.Internal, "the server answered 500 Internal Server Error", ""},
		"an unknown client error": {418, ``, fault.Invalid, fault.Invalid, "the server answered 418 I'm a teapot", ""},
		"a token that is no good": {401, `{"code":"unauthenticated","detail":"no token"}`, fault.Unauthenticated, fault.Unauthenticated, "no token", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				fmt.Fprint(w, tc.body)
			})
			_, err := c.Job(t.Context(), "job_1")
			if got := fault.Of(err); got != tc.kind || !errors.Is(err, tc.general) {
				t.Errorf("got an error of kind %q (%v), want %q, which is also %q", got, err, tc.kind, tc.general)
			}
			if got, _ := fault.Sentence(err); got != tc.sentence {
				t.Errorf("got the sentence %q, want %q", got, tc.sentence)
			}
			field, _ := errors.AsType[*fault.FieldError](err)
			if tc.field != "" && (field == nil || field.Field != tc.field) {
				t.Errorf("got the field %v, want %q", field, tc.field)
			}
		})
	}
}

func TestRefusalsAreNotRepeated(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 401, 403, 404, 409, 422, 500} {
		var calls atomic.Int32
		c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
			calls.Add(1)
			w.WriteHeader(status)
		})
		if _, err := c.Job(t.Context(), "job_1"); err == nil {
			t.Errorf("status %d: got no error", status)
		}
		if got := calls.Load(); got != 1 {
			t.Errorf("status %d was asked for %d times, want once", status, got)
		}
	}
}

func TestCallsGiveUpWhenPatienceIsUsedUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		c := clientOver(t, 30*time.Second, func(*http.Request) (*http.Response, error) {
			tries++
			return nil, errors.New("connection refused")
		})
		begin := time.Now()
		_, err := c.Job(t.Context(), "job_1")
		if want := "dayfly: the server at server.test does not answer: connection refused"; fault.Of(err) != fault.Unavailable || err.Error() != want {
			t.Errorf("got %v of kind %v, want %s of kind unavailable", err, fault.Of(err), want)
		}
		if took := time.Since(begin); took > 30*time.Second || took < 15*time.Second || tries < 5 {
			t.Errorf("gave up after %v and %d tries, want most of 30s and several", took, tries)
		}
	})
}

func TestATransportsOwnRefusalIsNotRepeated(t *testing.T) {
	t.Parallel()
	tries := 0
	c := clientOver(t, time.Minute, func(*http.Request) (*http.Response, error) {
		tries++
		return nil, fault.Say(fault.Denied, "the directory is open to others")
	})
	_, err := c.Job(t.Context(), "job_1")
	if sentence, _ := fault.Sentence(err); fault.Of(err) != fault.Denied || sentence != "the directory is open to others" || tries != 1 {
		t.Errorf("got %v after %d tries, want the transport's refusal after one", err, tries)
	}
}

func TestWaitsAtLeastAsLongAsTheServerAsks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		c := clientOver(t, time.Minute, func(*http.Request) (*http.Response, error) {
			if at = append(at, time.Now()); len(at) == 1 {
				return respond(http.StatusTooManyRequests, "", "Retry-After", "7"), nil
			}
			return respond(http.StatusOK, `{"id":"job_1"}`), nil
		})
		if _, err := c.Job(t.Context(), "job_1"); err != nil {
			t.Fatal(err)
		}
		if len(at) != 2 || at[1].Sub(at[0]) < 7*time.Second {
			t.Errorf("asked again after %v, want 7s or more", at[1].Sub(at[0]))
		}
	})
}

func TestContextEndsACallAndItsRepetitions(t *testing.T) {
	t.Parallel()
	c := newClient(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Job(ctx, "job_1"); fault.Of(err) != fault.Unavailable && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline or what the server said", err)
	}
	if ctx.Err() == nil {
		t.Error("the call returned before its context ended, although the server asked to come back")
	}
}

func TestIdsCannotLeadToAnotherResource(t *testing.T) {
	t.Parallel()
	var path string
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.EscapedPath()
		answer(w, http.StatusOK, dayfly.Job{})
	})
	for _, id := range []string{"", ".", ".."} {
		if _, err := c.Job(t.Context(), id); !errors.Is(err, fault.NotFound) || path != "" {
			t.Errorf("Job(%q) asked for %q and returned %v, want not_found without asking", id, path, err)
		}
	}
	if _, err := c.Job(t.Context(), "../tokens?x=1"); err != nil {
		t.Fatal(err)
	}
	if want := "/v1/jobs/..%2Ftokens%3Fx=1"; path != want {
		t.Errorf("asked for %s, want %s", path, want)
	}
}

func TestJobsAsksForPagesAsTheyAreConsumed(t *testing.T) {
	t.Parallel()
	const total = 730
	var asked []string
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		asked = append(asked, r.URL.RawQuery)
		begin, _ := strconv.Atoi(q.Get("cursor"))
		size, _ := strconv.Atoi(q.Get("limit"))
		var jobs []dayfly.Job
		for i := begin; i < min(begin+size, total); i++ {
			jobs = append(jobs, dayfly.Job{ID: fmt.Sprint("job_", i)})
		}
		next := ""
		if begin+size < total {
			next = strconv.Itoa(begin + size)
		}
		answer(w, http.StatusOK, pageOf(jobs, next))
	})
	seen := 0
	for job, err := range c.Jobs(t.Context(), &dayfly.Query{States: []dayfly.State{dayfly.Failed}, Labels: map[string]string{"a": "b"}}) {
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprint("job_", seen); job.ID != want {
			t.Fatalf("got %s, want %s", job.ID, want)
		}
		seen++
	}
	if seen != total {
		t.Errorf("got %d jobs, want %d", seen, total)
	}
	asked = nil
	for _, err := range c.Jobs(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	if len(asked) != 1 {
		t.Errorf("one job cost %d pages, want 1", len(asked))
	}
	seen = 0
	for range c.Jobs(t.Context(), &dayfly.Query{Limit: 101}) {
		seen++
	}
	if seen != 101 {
		t.Errorf("a limit of 101 gave %d jobs", seen)
	}
}

func TestWhatARequestAsksForIsInItsQueryAndNotInItsPath(t *testing.T) {
	t.Parallel()
	for want, call := range map[string]func(ctx context.Context, c *dayfly.Client) error{
		"/v1/costs?": func(ctx context.Context, c *dayfly.Client) error {
			_, err := c.Costs(ctx, "", "")
			return err
		},
		"/v1/costs?from=2026-05-01&to=2026-05-31": func(ctx context.Context, c *dayfly.Client) error {
			_, err := c.Costs(ctx, "2026-05-01", "2026-05-31")
			return err
		},
		"/v1/jobs?cost=true&label=a%26b%3Dc%3Fd&limit=1&name=who%3F&queue=q&state=queued": func(ctx context.Context, c *dayfly.Client) error {
			for _, err := range c.Jobs(ctx, &dayfly.Query{
				States: []dayfly.State{dayfly.Queued}, Queue: "q", Name: "who?", Labels: map[string]string{"a&b": "c?d"}, Limit: 1, Cost: true,
			}) {
				return err
			}
			return nil
		},
		"/v1/machines?all=true&limit=100": func(ctx context.Context, c *dayfly.Client) error {
			for _, err := range c.Machines(ctx, true) {
				return err
			}
			return nil
		},
		"/v1/jobs/a%3Fb/why?": func(ctx context.Context, c *dayfly.Client) error {
			_, err := c.Why(ctx, "a?b")
			return err
		},
		"/v1/tokens/a%3Fb?": func(ctx context.Context, c *dayfly.Client) error { return c.RevokeToken(ctx, "a?b") },
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			got := ""
			c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
				got = r.URL.EscapedPath() + "?" + r.URL.RawQuery
				answer(w, http.StatusOK, struct{}{})
			})
			if err := call(t.Context(), c); err != nil || got != want {
				t.Errorf("got the request %s and error %v, want %s", got, err, want)
			}
		})
	}
}

// newClient returns a client of a server with this handler.
func newClient(t *testing.T, handler http.HandlerFunc) *dayfly.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := dayfly.NewClient(server.URL, &dayfly.ClientOptions{Token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWaitAsksUntilTheJobHasEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		c := clientOver(t, time.Minute, func(r *http.Request) (*http.Response, error) {
			if r.URL.Path != "/v1/jobs/job_1/wait" {
				t.Errorf("asked for %s, want the route that waits", r.URL.Path)
			}
			allowed, err := time.ParseDuration(r.URL.Query().Get("timeout"))
			if err != nil {
				t.Errorf("timeout: %v", err)
			}
			time.Sleep(allowed) // the bubble's clock
			switch tries++; tries {
			default:
				return respond(http.StatusOK, `{"id":"job_1","state":"running"}`), nil
			case 4, 8, 9: // the server stops, each time for less than the client's patience, but all in all for more
				return nil, errors.New("connection reset by peer")
			case 5:
				return respond(http.StatusServiceUnavailable, `{"code":"unavailable"}`, "Content-Type", "application/problem+json"), nil
			case 20:
				return respond(http.StatusOK, `{"id":"job_1","state":"failed"}`), nil
			}
		})
		begin := time.Now()
		job, err := c.Wait(t.Context(), "job_1")
		if err != nil || job.State != dayfly.Failed {
			t.Fatalf("got %+v, %v; want the job, which has failed", job, err)
		}
		if took := time.Since(begin); tries != 20 || took < 2*time.Minute {
			t.Errorf("asked %d times in %v, want 20 times in some minutes", tries, took)
		}
	})
}

func TestWaitGivesUpWhenTheServerStaysAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		c := clientOver(t, time.Minute, func(*http.Request) (*http.Response, error) {
			if tries++; tries == 1 {
				time.Sleep(20 * time.Second)
				return respond(http.StatusOK, `{"id":"job_1","state":"running"}`), nil
			}
			return nil, errors.New("no route")
		})
		begin := time.Now()
		_, err := c.Wait(t.Context(), "job_1")
		if took := time.Since(begin); !errors.Is(err, fault.Unavailable) || took < time.Minute || took > 80*time.Second {
			t.Errorf("got %v after %v, want unavailable about a minute after the last answer", err, took)
		}
	})
}

// clientOver returns a client whose requests are answered by trip, without a network, so that time can be simulated.
func clientOver(t *testing.T, patience time.Duration, trip roundTripper) *dayfly.Client {
	t.Helper()
	c, err := dayfly.NewClient("http://server.test", &dayfly.ClientOptions{HTTPClient: &http.Client{Transport: trip}, Patience: patience})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func respond(status int, body string, header ...string) *http.Response {
	recorder := httptest.NewRecorder()
	for i := 0; i < len(header); i += 2 {
		recorder.Header().Set(header[i], header[i+1])
	}
	recorder.WriteHeader(status)
	io.WriteString(recorder, body)
	return recorder.Result()
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		panic(err)
	}
}

// hangUp breaks the connection without an answer.
func hangUp(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	conn.Close()
}
