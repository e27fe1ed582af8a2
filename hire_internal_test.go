package dayfly

import (
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

func TestCallsWaitForAServerOfMachinesForHalfAMinuteHoweverLongABootMayTake(t *testing.T) {
	t.Parallel()
	client, err := NewClient("http://127.0.0.1:7700", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		given PoolOptions
		want  time.Duration
	}{
		{PoolOptions{}, 30 * time.Second},
		{PoolOptions{BootTimeout: time.Hour}, 30 * time.Second},
		{PoolOptions{BootTimeout: time.Second}, time.Second},
		{PoolOptions{BootTimeout: time.Second, Patience: time.Hour}, time.Hour},
		{PoolOptions{Patience: Never}, Never},
	} {
		got := c.given
		if client.Provider("docker").complete(&got); got.Patience != c.want || got.BootTimeout != c.given.BootTimeout {
			t.Errorf("of BootTimeout %v and Patience %v: got %v and %v, want the Patience %v", c.given.BootTimeout, c.given.Patience, got.BootTimeout, got.Patience, c.want)
		}
	}
}

// distant is a server in memory.
type distant func() (status int, body string, err error)

func (f distant) RoundTrip(r *http.Request) (*http.Response, error) {
	status, body, err := f()
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func TestAServerIsUnheardUntilItSaysSomethingItself(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		answer distant
		heard  bool
	}{
		"a list":                       {func() (int, string, error) { return http.StatusOK, `{"machines": []}`, nil }, true},
		"that its provider is away":    {func() (int, string, error) { return http.StatusServiceUnavailable, `{"code": "unavailable"}`, nil }, true},
		"a refusal":                    {func() (int, string, error) { return http.StatusForbidden, `{"code": "denied"}`, nil }, true},
		"a proxy's page":               {func() (int, string, error) { return http.StatusServiceUnavailable, "<html>", nil }, false},
		"a proxy that has no answer":   {func() (int, string, error) { return http.StatusBadGateway, "", nil }, false},
		"what no Dayfly server says":   {func() (int, string, error) { return http.StatusOK, "<html>", nil }, false},
		"a connection that is refused": {func() (int, string, error) { return 0, "", syscall.ECONNREFUSED }, false},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client, err := NewClient("http://server:7700", &ClientOptions{HTTPClient: &http.Client{Transport: c.answer}})
				if err != nil {
					t.Fatal(err)
				}
				h := client.Provider("docker")
				if got := h.unheard(); got != 0 {
					t.Errorf("got that a server which nobody has asked is unheard for %v, want 0", got)
				}
				_, _ = h.List(t.Context(), "calls") // what it says does not matter
				time.Sleep(time.Minute)
				_, err = h.List(t.Context(), "calls")
				if got := h.unheard(); (got == 0) != c.heard || !c.heard && got != time.Minute {
					t.Errorf("after the answer %v of kind %q: got that it is unheard for %v, want heard: %t", err, fault.Of(err), got, c.heard)
				}
			})
		})
	}
}
