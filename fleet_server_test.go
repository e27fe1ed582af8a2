package dayfly_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// remote is a server in memory: it is asked for what it says to each request, in a bubble.
type remote func(*http.Request) (status int, body string, err error)

func (f remote) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer r.Body.Close()
	}
	status, body, err := f(r)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// reserve asks such a server for a runner of a fleet, and returns how long that took.
func (f remote) reserve(t *testing.T) (*machine.Machine, time.Duration, error) {
	t.Helper()
	return f.reserveIn(t, t.Context())
}

func (f remote) reserveIn(t *testing.T, ctx context.Context) (*machine.Machine, time.Duration, error) {
	t.Helper()
	client, err := dayfly.NewClient("http://server:7700", &dayfly.ClientOptions{HTTPClient: &http.Client{Transport: f}})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	m, err := client.Fleet("thumbnails", "docker", nil).Create(ctx, &machine.Spec{
		Name: "thumbnails-1", Owner: "calls-thumbnails", Lifetime: time.Hour, Command: []string{"/app/thumbnails"},
	})
	return m, time.Since(began), err
}

const reserved = `{"id": "r1", "name": "thumbnails-1", "state": "running"}`

func TestAFleetsServerThatIsNotThereIsAskedForSomeSeconds(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func() (int, string, error){
		"refuses connections":  func() (int, string, error) { return 0, "", syscall.ECONNREFUSED },
		"is behind a proxy":    func() (int, string, error) { return http.StatusBadGateway, "", nil },
		"has an error of its":  func() (int, string, error) { return http.StatusInternalServerError, "", nil },
		"is no Dayfly server":  func() (int, string, error) { return http.StatusOK, "<html>", nil },
		"breaks in the answer": func() (int, string, error) { return 0, "", io.ErrUnexpectedEOF },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				_, took, err := remote(func(*http.Request) (int, string, error) { return away() }).reserve(t)
				if fault.Of(err) != fault.Unavailable || took < 5*time.Second || took > 7*time.Second {
					t.Errorf("from a server that stays away: got error %v after %v, want fault.Unavailable after 5 s", err, took)
				}
				began := time.Now()
				m, took, err := remote(func(*http.Request) (int, string, error) {
					if time.Since(began) < 4*time.Second {
						return away()
					}
					return http.StatusOK, reserved, nil
				}).reserve(t)
				if err != nil || m.ID != "r1" || took > 6*time.Second {
					t.Errorf("from a server that comes back after 4 s: got %+v and error %v after %v, want the runner r1", m, err, took)
				}
			})
		})
	}
}

func TestWhoWaitsInAFleetsLineHasNoSuchLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began, asked := time.Now(), 0
		m, _, err := remote(func(*http.Request) (int, string, error) {
			asked++
			switch {
			case time.Since(began) > 4*time.Minute:
				return http.StatusOK, reserved, nil
			case asked%3 == 0: // now and then it is started again
				return 0, "", syscall.ECONNREFUSED
			}
			time.Sleep(20 * time.Second) // as it is asked to
			return http.StatusAccepted, `{"id": "r1", "why": "All 10 runners are in use."}`, nil
		}).reserve(t)
		if err != nil || m.ID != "r1" {
			t.Errorf("after four minutes in line: got %+v and error %v, want the runner", m, err)
		}
	})
}

func TestWhoHasLittleTimeHearsWhyThereIsNoRunner(t *testing.T) {
	t.Parallel()
	for _, limit := range []time.Duration{100 * time.Millisecond, 3 * time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			server := remote(func(r *http.Request) (int, string, error) {
				var want struct {
					WaitMS int64 `json:"wait_ms"`
				}
				if err := json.NewDecoder(r.Body).Decode(&want); err != nil {
					t.Error(err)
				}
				select {
				case <-time.After(time.Duration(want.WaitMS) * time.Millisecond):
					return http.StatusAccepted, `{"id": "r1", "why": "All 10 runners are in use."}`, nil
				case <-r.Context().Done():
					return 0, "", r.Context().Err()
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, took, err := server.reserveIn(t, ctx)
			if fault.Of(err) != fault.Canceled || !strings.Contains(fmt.Sprint(err), "All 10 runners are in use.") || took != limit {
				t.Errorf("got error %v after %v, want after %v that all are in use", err, took, limit)
			}
		})
	}
}

func TestABootOfAFleetThatFailsIsToldAndNotAskedForAgain(t *testing.T) {
	t.Parallel()
	for _, kind := range []fault.Kind{fault.Unavailable, fault.Invalid, fault.Exhausted, fault.NotFound} {
		synctest.Test(t, func(t *testing.T) {
			asked := 0
			_, took, err := remote(func(*http.Request) (int, string, error) {
				asked++
				return http.StatusAccepted, `{"id": "r1", "failed": {"code": "` + string(kind) + `", "detail": "It printed: no such flag"}}`, nil
			}).reserve(t)
			if fault.Of(err) != kind || !strings.Contains(err.Error(), "no such flag") || asked != 1 || took > 0 {
				t.Errorf("got error %v after %d requests and %v, want what the machine printed, of kind %s, at once", err, asked, took, kind)
			}
		})
	}
}

func TestACallOverAFleetFailsWhenItsServerStaysAway(t *testing.T) {
	t.Parallel()
	client, err := dayfly.NewClient("http://127.0.0.1:1", nil) // where nobody listens
	if err != nil {
		t.Fatal(err)
	}
	p, err := dayfly.NewPool(client.Fleet("nobody", "local", nil), &dayfly.PoolOptions{Name: poolName(t), Patience: time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = double.Call(t.Context(), p, 1)
	failed, ok := errors.AsType[*dayfly.CallError](err)
	if !ok || failed.Ran || fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), "the server at 127.0.0.1:1 does not answer") {
		t.Errorf("Call: got error %v, want one that says that the server does not answer", err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("Close: got %v, want nil", err)
	}
}

func TestACallOverAServersMachinesFailsWhenItStaysAwayHoweverLongABootMayTake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		away := remote(func(*http.Request) (int, string, error) { return 0, "", syscall.ECONNREFUSED })
		client, err := dayfly.NewClient("http://127.0.0.1:7700", &dayfly.ClientOptions{HTTPClient: &http.Client{Transport: away}})
		if err != nil {
			t.Fatal(err)
		}
		p, err := dayfly.NewPool(client.Provider("docker"), &dayfly.PoolOptions{BootTimeout: time.Hour, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = double.Call(t.Context(), p, 1)
		if took := time.Since(began); fault.Of(err) != fault.Unavailable || !strings.Contains(fmt.Sprint(err), "the server at 127.0.0.1:7700 does not answer") || took > time.Minute {
			t.Errorf("Call: got error %v after %v, want within a minute that the server does not answer", err, took)
		}
		if err := p.Close(); err != nil {
			t.Errorf("Close: got %v, want nil", err)
		}
	})
}
