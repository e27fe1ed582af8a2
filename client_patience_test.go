package dayfly_test

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

// answers is a transport that answers the nth request, from 1 on.
type answers func(n int, r *http.Request) (contentType string, body io.Reader)

// client returns a client that is answered so, and how often it was.
func (a answers) client(t *testing.T) (c *dayfly.Client, requests *int) {
	t.Helper()
	requests = new(int)
	transport := roundTripper(func(r *http.Request) (*http.Response, error) {
		*requests++
		contentType, body := a(*requests, r)
		return &http.Response{
			StatusCode: http.StatusOK, Status: "200 OK", Request: r, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(body),
		}, nil
	})
	c, err := dayfly.NewClient("http://dayfly.example.com", &dayfly.ClientOptions{HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	return c, requests
}

func TestAStreamThatNeverBringsAnythingIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, requests := answers(func(int, *http.Request) (string, io.Reader) { return "text/event-stream", strings.NewReader("") }).client(t)
		began := time.Now()
		var err error
		for _, err = range c.Events(t.Context(), "job_a", 0) {
			if time.Since(began) > time.Hour {
				break
			}
		}
		if took := time.Since(began); fault.Of(err) != fault.Unavailable || took > 2*time.Minute || *requests > 200 {
			t.Errorf("got %v after %v and %d requests, want fault.Unavailable after a minute or so and a few dozen", err, took, *requests)
		}
	})
}

func TestAStreamThatStoodForLongIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, _ := answers(func(n int, _ *http.Request) (string, io.Reader) {
			if n > 1 {
				return "text/event-stream", strings.NewReader("id: 1\ndata: {\"seq\":1,\"state\":\"failed\"}\n\n")
			}
			body, pings := io.Pipe()
			go func() {
				for range 40 {
					<-time.After(15 * time.Second)
					io.WriteString(pings, ": ping\n\n")
				}
				pings.CloseWithError(io.ErrUnexpectedEOF)
			}()
			return "text/event-stream", body
		}).client(t)
		events := 0
		for _, err := range c.Events(t.Context(), "job_a", 0) {
			if err != nil {
				t.Fatal(err)
			}
			events++
		}
		if events != 1 {
			t.Errorf("got %d events, want the one that came after ten minutes", events)
		}
	})
}

func TestWaitingAsksSeldomWhenTheAnswerComesTooSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		c, requests := answers(func(int, *http.Request) (string, io.Reader) {
			state := "running"
			if time.Since(began) > 10*time.Minute {
				state = "succeeded"
			}
			return "application/json", strings.NewReader(`{"id":"job_a","state":"` + state + `"}`)
		}).client(t)
		job, err := c.Wait(t.Context(), "job_a")
		if err != nil || job.State != dayfly.Succeeded || *requests > 1000 {
			t.Errorf("got %+v, %v after %d requests in ten minutes, want the job after a few hundred", job, err, *requests)
		}
	})
}

func TestWhatWentAwayWithoutAnAnswerHasGoneAway(t *testing.T) {
	t.Parallel()
	for what, call := range map[string]func(*dayfly.Client) error{
		"a job":   func(c *dayfly.Client) error { return c.Delete(t.Context(), "job_a") },
		"a token": func(c *dayfly.Client) error { return c.RevokeToken(t.Context(), "ci") },
	} {
		for first, want := range map[string]fault.Kind{"": "", "502": "", "408": fault.NotFound, "503": fault.NotFound} {
			t.Run(what+" "+first, func(t *testing.T) {
				t.Parallel()
				tries := 0
				c, err := dayfly.NewClient("http://dayfly.example.com", &dayfly.ClientOptions{HTTPClient: &http.Client{
					Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
						tries++
						status := http.StatusNotFound
						switch {
						case tries == 1 && first == "":
							return nil, io.ErrUnexpectedEOF
						case tries == 1:
							status, _ = strconv.Atoi(first)
						}
						return &http.Response{StatusCode: status, Request: r, Header: http.Header{}, Body: http.NoBody}, nil
					}),
				}})
				if err != nil {
					t.Fatal(err)
				}
				err = call(c)
				if want == "" && err != nil || want != "" && fault.Of(err) != want || tries != 2 {
					t.Errorf("got %v after %d tries, want %q after 2", err, tries, want)
				}
			})
		}
	}
}
