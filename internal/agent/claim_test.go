package agent_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/agent/memhome"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

func TestRefusedClaimRunsNothing(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(home *memhome.Home, place *agent.Place){
		"SupersededAttempt": func(home *memhome.Home, place *agent.Place) { home.Supersede(place.Boot.Attempt) },
		"UnknownAttempt":    func(_ *memhome.Home, place *agent.Place) { place.Boot.Attempt = "att_unknown" },
		"WrongToken":        func(_ *memhome.Home, place *agent.Place) { place.Boot.Token = "wrong" },
	} {
		t.Run(name, func(t *testing.T) {
			eachLink(t, func(t *testing.T, link agent.Link) {
				home := memhome.New(t)
				boot := home.Add(script("echo ran > ran"))
				r := &running{place: newPlace(t, boot)}
				spoil(home, r.place)
				exit := agent.Run(t.Context(), link, r.place, nil)
				if exit.Code != agent.ExitNotOurs || exit.Message == "" {
					t.Errorf("exit %+v, want code %d and a sentence", exit, agent.ExitNotOurs)
				}
				if a := home.Attempt(boot.Attempt); a.Claims != 0 || a.Result != nil || r.has("ran") {
					t.Errorf("%d claims, result %+v, ran = %v; want nothing", a.Claims, a.Result, r.has("ran"))
				}
			})
		})
	}
}

func TestOfTwoClaimantsOneRunsTheCommand(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t)
		boot := home.Add(script("echo once"))
		if exit := agent.Run(t.Context(), link, newPlace(t, boot), nil); exit.Code != 0 {
			t.Errorf("the first ended with %+v", exit)
		}
		if exit := agent.Run(t.Context(), link, newPlace(t, boot), nil); exit.Code != agent.ExitNotOurs {
			t.Errorf("the second ended with %+v, want code %d", exit, agent.ExitNotOurs)
		}
		if a := home.Attempt(boot.Attempt); a.Claims != 1 || a.Refused != 1 || a.Results != 1 {
			t.Errorf("%d claims, %d refused, %d results; want one of each", a.Claims, a.Refused, a.Results)
		}
	})
}

func TestLostRepliesAreAskedForAgain(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t)
		home.Fault = func(c memhome.Call) memhome.Failure {
			lose := c.Number == 1 && (c.Kind == "claim" || c.Kind == "result" || c.Kind == "log")
			return memhome.Failure{Drop: lose, After: true}
		}
		boot := home.Add(script("echo a; sleep 0.2; echo b"))
		exit := agent.Run(t.Context(), link, newPlace(t, boot), nil)
		a := home.Attempt(boot.Attempt)
		wantOutcome(t, exit, a, wire.Succeeded, "")
		if a.Claims != 2 || a.Results < 2 {
			t.Errorf("%d claims and %d results were carried out, want two of each: the first answers were lost", a.Claims, a.Results)
		}
		if got := string(a.Streams[wire.Stdout].Data); got != "a\nb\n" {
			t.Errorf("stdout = %q, want each line once", got)
		}
	})
}

func TestServerThatIsAwayAtFirstIsWaitedFor(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]memhome.Failure{
		"NoAnswer":           {Drop: true},
		"Unavailable":        {Status: http.StatusServiceUnavailable, Code: "unavailable"},
		"TooManyRequests":    {Status: http.StatusTooManyRequests, Code: "exhausted"},
		"InternalError":      {Status: http.StatusInternalServerError, Code: "internal"},
		"ProxyWithoutServer": {Status: http.StatusBadGateway, Body: "<html>bad gateway</html>"},
		// Answers of something that is not our server must not end an attempt.
		"SomebodyElsesNotFound":     {Status: http.StatusNotFound, Body: "404 page not found"},
		"SomebodyElsesUnauthorized": {Status: http.StatusUnauthorized, Body: "who are you?"},
		"WirelessLoginPage":         {Status: http.StatusOK, Body: "welcome to this wireless network"},
		"EmptyAnswer":               {Status: http.StatusOK, Body: `{}`},
	} {
		t.Run(name, func(t *testing.T) {
			eachLink(t, func(t *testing.T, link agent.Link) {
				home := memhome.New(t)
				_, direct := link.(*agent.Direct)
				home.Fault = func(c memhome.Call) memhome.Failure {
					if c.Number <= 2 && (c.Kind == "claim" && direct || c.Kind == "batch") {
						return failure
					}
					return memhome.Failure{}
				}
				boot := home.Add(script("true"))
				exit := agent.Run(t.Context(), link, newPlace(t, boot), nil)
				a := home.Attempt(boot.Attempt)
				wantOutcome(t, exit, a, wire.Succeeded, "")
				if requests := home.Requests(""); requests < 4 {
					t.Errorf("%d requests, want the claim to have failed twice", requests)
				}
			})
		})
	}
}

func TestRetryAfterIsHonored(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	home.Fault = func(c memhome.Call) memhome.Failure {
		if c.Kind == "claim" && c.Number == 1 {
			return memhome.Failure{Status: http.StatusServiceUnavailable, Code: "unavailable", Wait: time.Second}
		}
		return memhome.Failure{}
	}
	boot := home.Add(script("true"))
	began := time.Now()
	exit := agent.Run(t.Context(), agent.NewDirect("test"), newPlace(t, boot), nil)
	wantOutcome(t, exit, home.Attempt(boot.Attempt), wire.Succeeded, "")
	if took := time.Since(began); took < time.Second {
		t.Errorf("the claim was repeated after %v although the server asked for a second", took)
	}
}

func TestServerThatNeverComesIsGivenUp(t *testing.T) {
	t.Parallel()
	clock := newClock()
	place := newPlace(t, memhome.New(t).Add(script("true")))
	place.Boot.URL = "http://127.0.0.1:1" // nobody listens
	place.Home = func() (string, <-chan struct{}) { clock.advance(time.Minute); return "", nil }
	exit := agent.Run(t.Context(), agent.NewDirect("test"), place, &agent.Options{Clock: clock.now})
	if exit.Code != agent.ExitNotOurs || !strings.Contains(exit.Message, "has not answered") {
		t.Errorf("exit %+v, want code %d because nobody answered", exit, agent.ExitNotOurs)
	}
}

func TestServerThatMovesIsFollowed(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t)
		boot := home.Add(script("true"))
		boot.URL = "http://127.0.0.1:1" // where it was when the machine was made
		place := newPlace(t, boot)
		place.Home = func() (string, <-chan struct{}) { return home.URL() + "/", nil }
		exit := agent.Run(t.Context(), link, place, nil)
		wantOutcome(t, exit, home.Attempt(boot.Attempt), wire.Succeeded, "")
	})
}

func TestPauseEndsWhenTheServerSaysWhereItIs(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"claim", "beat", "log", "result"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			home := memhome.New(t)
			renewed := make(chan struct{})
			home.Fault = func(c memhome.Call) memhome.Failure {
				if c.Kind != kind || c.Number > 1 {
					return memhome.Failure{}
				}
				close(renewed) // at the worst moment: the call has been made, and fails
				return memhome.Failure{Status: http.StatusServiceUnavailable, Code: "unavailable", Wait: time.Hour}
			}
			link := agent.NewDirect("test")
			t.Cleanup(link.Close)
			job := script(numbers(50_000) + "; while [ ! -e go ]; do sleep 0.01; done")
			boot := home.Add(job)
			place := newPlace(t, boot)
			place.Home = func() (string, <-chan struct{}) {
				select {
				case <-renewed:
					return "", nil
				default:
					return "", renewed
				}
			}
			began := time.Now()
			var exit machine.Exit
			done := make(chan struct{})
			go func() {
				defer close(done)
				exit = agent.Run(t.Context(), link, place, nil)
			}()
			t.Cleanup(func() { <-done }) // before the machine is taken down
			home.Await(boot.Attempt, "it beats and prints", func(a memhome.Attempt) bool {
				return len(a.Phases) > 0 && len(a.Streams[wire.Stdout].Data) > 0
			})
			if err := os.WriteFile(filepath.Join(place.WorkDir, "go"), nil, 0o600); err != nil {
				t.Error(err)
			}
			<-done
			wantOutcome(t, exit, home.Attempt(boot.Attempt), wire.Succeeded, "")
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %v, as if the pause that the server had asked for before had been kept", took)
			}
		})
	}
}

func TestTwoClaimsCarryTheSameNonce(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	boot := home.Add(script("true"))
	home.Fault = func(c memhome.Call) memhome.Failure {
		return memhome.Failure{Drop: c.Kind == "claim" && c.Number <= 2, After: true}
	}
	exit := agent.Run(t.Context(), agent.NewDirect("test"), newPlace(t, boot), nil)
	a := home.Attempt(boot.Attempt)
	wantOutcome(t, exit, a, wire.Succeeded, "")
	if a.Claims != 3 || a.Refused != 0 {
		t.Errorf("%d claims accepted, %d refused; want the same claim three times", a.Claims, a.Refused)
	}
}
