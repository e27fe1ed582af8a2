package dayfly

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/call"
	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// answering is a server that answers a runner's calls; a status of 0 is no answer.
type answering func(wire.FleetCall) (status int, answer any)

func (f answering) RoundTrip(r *http.Request) (*http.Response, error) {
	var c wire.FleetCall
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
		return nil, err
	}
	if r.URL.Path != "/runners/v1/m" || r.Header.Get("Authorization") != "Bearer t" {
		return nil, errors.New("a call went elsewhere")
	}
	status, answer := f(c)
	if status == 0 {
		return nil, errors.New("connection refused")
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(bytes.NewReader(text)), Header: http.Header{"Content-Type": {"application/json"}}}, nil
}

// newStanding returns a runner whose server answers so. ask asks it to end; own is what it prints.
func newStanding(t *testing.T, server answering) (s *standing, ask func(), own *bytes.Buffer) {
	t.Helper()
	home := &wire.FleetHome{URL: "http://server.example", Machine: "m", Token: "t"}
	client, err := NewClient(home.URL, &ClientOptions{Token: home.Token, Patience: -1, HTTPClient: &http.Client{Transport: server}})
	if err != nil {
		t.Fatal(err)
	}
	asked, ask := context.WithCancel(t.Context())
	own = &bytes.Buffer{}
	return &standing{home: home, fleet: client, hello: link.Hello{Build: "b"}, desk: &desk{logs: call.NewLogs(), asked: asked}, own: own, instance: "i"}, ask, own
}

func TestARunnerOfAFleetEndsAMinuteAfterItsServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began, last := time.Now(), 10*time.Minute
		s, _, _ := newStanding(t, func(c wire.FleetCall) (int, any) {
			if time.Since(began) < last {
				<-time.After(time.Duration(c.WaitMS) * time.Millisecond)
				return http.StatusOK, wire.FleetAnswer{}
			}
			return 0, nil
		})
		err := s.run(nil)
		if fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), "1m0s") || !strings.Contains(err.Error(), "server.example") {
			t.Errorf("got %v, want how long which server has not been there", err)
		}
		if after := time.Since(began) - last; after < aloneTimeout-time.Second || after > aloneTimeout+freeHold+5*time.Second {
			t.Errorf("it ended %v after its server, want about a minute", after)
		}
	})
}

func TestARunnerOfAFleetSaysWhatHasBecomeOfEachInvitation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls []wire.FleetCall
		s, _, own := newStanding(t, func(c wire.FleetCall) (int, any) {
			calls = append(calls, c)
			switch len(calls) {
			case 1:
				return http.StatusOK, wire.FleetAnswer{Reservation: "r1", Invitation: "a"}
			case 2:
				return http.StatusServiceUnavailable, nil // which changes nothing
			case 3:
				return http.StatusOK, wire.FleetAnswer{Reservation: "r2", Invitation: "b"}
			}
			return http.StatusOK, wire.FleetAnswer{End: true, Why: "It has been enough."}
		})
		err := s.run(func(a *wire.FleetAnswer) (string, error) {
			if a.Invitation == "a" {
				return "nobody is there", nil
			}
			return "", nil
		})
		if err != nil || !strings.Contains(own.String(), "It has been enough.") {
			t.Errorf("got %v and %q, want an end in order that says why", err, own)
		}
		want := []wire.FleetCall{{}, {After: "r1", Broken: "nobody is there"}, {After: "r1", Broken: "nobody is there"}, {After: "r2"}}
		for i := range want {
			want[i].Instance, want[i].Build, want[i].Number, want[i].WaitMS = "i", "b", int64(i+1), freeHold.Milliseconds()
			if i >= len(calls) || calls[i] != want[i] {
				t.Fatalf("call %d: got %+v, want %+v", i, calls, want[i])
			}
		}
	})
}

func TestARunnerOfAFleetEndsWhenItIsDismissedOrAsked(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusConflict} {
		s, _, _ := newStanding(t, func(wire.FleetCall) (int, any) { return status, nil })
		if err := s.run(nil); err == nil || !strings.Contains(err.Error(), "dismissed") {
			t.Errorf("status %d: got %v, want that it was dismissed", status, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s, ask, _ := newStanding(t, func(c wire.FleetCall) (int, any) {
			<-time.After(time.Duration(c.WaitMS) * time.Millisecond)
			return http.StatusOK, wire.FleetAnswer{}
		})
		time.AfterFunc(time.Hour, ask)
		if err := s.run(nil); err != nil {
			t.Errorf("when it is asked: got %v, want an end in order", err)
		}
	})
}

func TestARunnerThatServesSaysSoAndIsToldToLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		beats := 0
		s, _, _ := newStanding(t, func(c wire.FleetCall) (int, any) {
			if c.Serving != "r" || c.WaitMS != 0 {
				t.Errorf("got %+v, want that it serves r", c)
			}
			switch beats++; beats {
			case 2:
				return 0, nil // a server that is not there changes nothing
			case 3:
				return http.StatusNotFound, nil // nor one that has forgotten it
			}
			return http.StatusOK, wire.FleetAnswer{Leave: beats > 3}
		})
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		left := 0
		s.beat(ctx, "r", func() {
			if left++; beats != 4 && left == 1 {
				t.Errorf("it leaves after %d beats, want 4", beats)
			}
		})
		if left == 0 || beats < 20 {
			t.Errorf("in a minute: got %d beats and told to leave %d times, want at least 20 and 1", beats, left)
		}
	})
}
