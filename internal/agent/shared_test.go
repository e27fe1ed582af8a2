package agent_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/agent/memhome"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// claims makes n claims at once and returns their errors.
func claims(t *testing.T, home *memhome.Home, link agent.Link, n int) []error {
	t.Helper()
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		boot := home.Add(script("true"))
		all.Go(func() {
			to := agent.Address{URL: home.URL(), Attempt: boot.Attempt, Token: boot.Token}
			job, err := link.Claim(t.Context(), to, &wire.ClaimRequest{
				Attempt: boot.Attempt, Instance: "m", Nonce: "n", Protocol: wire.Version,
			})
			if err == nil && job.Attempt != boot.Attempt {
				err = fmt.Errorf("the claim of %s was answered with %s", boot.Attempt, job.Attempt)
			}
			errs[i] = err
		})
	}
	all.Wait()
	return errs
}

func TestCallsMadeAtOnceShareRequests(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	home.Fault = func(c memhome.Call) memhome.Failure {
		if c.Kind == "batch" {
			return memhome.Failure{Wait: 20 * time.Millisecond} // so that calls gather
		}
		return memhome.Failure{}
	}
	link := agent.NewShared("test")
	t.Cleanup(link.Close)
	const n = 1000
	if err := errors.Join(claims(t, home, link, n)...); err != nil {
		t.Error(err)
	}
	if got := home.Requests("/batch"); got > 40 {
		t.Errorf("%d claims took %d requests, want at most 40", n, got)
	}
}

func TestEachCallInABatchHasItsOwnAnswer(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	home.Fault = func(c memhome.Call) memhome.Failure {
		switch {
		case c.Kind == "batch":
			return memhome.Failure{Wait: 20 * time.Millisecond}
		case c.Kind == "claim" && c.Attempt == "att_0007":
			return memhome.Failure{Status: http.StatusConflict, Code: string(fault.StaleAttempt)}
		case c.Kind == "claim" && c.Attempt == "att_0008":
			return memhome.Failure{Status: http.StatusServiceUnavailable, Code: string(fault.Unavailable)}
		}
		return memhome.Failure{}
	}
	link := agent.NewShared("test")
	t.Cleanup(link.Close)
	for i, err := range claims(t, home, link, 20) {
		want := map[int]fault.Kind{6: fault.StaleAttempt, 7: fault.Unavailable}[i]
		if fault.Of(err) != want {
			t.Errorf("claim %d: %v, want %q", i+1, err, want)
		}
	}
}

func TestBatchThatIsRefusedAsAWholeIsTakenApart(t *testing.T) {
	t.Parallel()
	var refused atomic.Bool
	home := memhome.New(t)
	home.Fault = func(c memhome.Call) memhome.Failure {
		switch {
		case c.Kind == "batch" && c.Calls > 1:
			refused.Store(true)
			return memhome.Failure{Status: http.StatusBadRequest, Code: string(fault.Invalid)}
		case c.Kind == "batch":
			return memhome.Failure{Wait: 20 * time.Millisecond} // so that calls gather
		}
		return memhome.Failure{}
	}
	link := agent.NewShared("test")
	t.Cleanup(link.Close)
	if err := errors.Join(claims(t, home, link, 10)...); err != nil {
		t.Errorf("calls failed because others could not be read: %v", err)
	}
	if !refused.Load() {
		t.Error("no batch held several calls, so that none was taken apart")
	}
}

func TestHeartbeatsShareOneRequest(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	link := agent.NewShared("test")
	t.Cleanup(link.Close)
	const n = 1200 // more than fit into one
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var beats atomic.Int64
	for range n {
		boot := home.Add(script("true"))
		to := agent.Address{URL: home.URL(), Attempt: boot.Attempt, Token: "session-" + boot.Attempt}
		all.Go(func() {
			for ctx.Err() == nil {
				_, err := link.Beat(ctx, to, &wire.Heartbeat{Phase: wire.Running, WaitMS: 300})
				if err == nil {
					beats.Add(1)
				} else if ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	eventually(t, "each has beaten several times", func() bool { return beats.Load() > 5*n })
	stop()
	all.Wait()
	if got, rounds := home.Requests("/heartbeats"), beats.Load()/n; int64(got) > 6*(rounds+1) {
		t.Errorf("%d rounds of %d heartbeats took %d requests, want about 3 a round", rounds, n, got)
	}
}

func TestRoundsThatBeganApartJoin(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	link := agent.NewShared("test")
	t.Cleanup(link.Close)
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var latest sync.Map // when each has last begun a heartbeat
	for i := range 3 {
		boot := home.Add(script("true"))
		to := agent.Address{URL: home.URL(), Attempt: boot.Attempt, Token: "session-" + boot.Attempt}
		began := make(chan struct{})
		var once sync.Once
		all.Go(func() {
			for ctx.Err() == nil {
				latest.Store(i, time.Now())
				once.Do(func() { close(began) })
				_, _ = link.Beat(ctx, to, &wire.Heartbeat{Phase: wire.Running, WaitMS: 5000})
			}
		})
		<-began
		home.Await(boot.Attempt, "it beats", func(a memhome.Attempt) bool { return len(a.Phases) > 0 })
	}
	eventually(t, "all begin their heartbeats together", func() bool {
		var first, last time.Time
		for i := range 3 {
			at, _ := latest.Load(i)
			if when := at.(time.Time); first.IsZero() || when.Before(first) {
				first = when
			}
			if when := at.(time.Time); when.After(last) {
				last = when
			}
		}
		return last.Sub(first) < 100*time.Millisecond
	})
	stop()
	all.Wait()
}

func TestOrderForOneLetsTheOthersWait(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	link := agent.NewShared("test")
	t.Cleanup(link.Close)
	const n, wait = 20, 1500 * time.Millisecond
	var boots []string
	for range n {
		boots = append(boots, home.Add(script("true")).Attempt)
	}
	took := make([]time.Duration, n)
	answers := make([]*wire.HeartbeatAnswer, n)
	var all sync.WaitGroup
	for i, id := range boots {
		all.Go(func() {
			began := time.Now()
			answer, err := link.Beat(t.Context(), agent.Address{URL: home.URL(), Attempt: id, Token: "session-" + id},
				&wire.Heartbeat{Phase: wire.Running, WaitMS: wait.Milliseconds()})
			if err != nil {
				t.Error(err)
			}
			took[i], answers[i] = time.Since(began), answer
		})
	}
	home.Await(boots[3], "it beats", func(a memhome.Attempt) bool { return len(a.Phases) > 0 })
	home.Order(boots[3], wire.Canceled)
	all.Wait()
	for i := range n {
		ordered := i == 3
		if (answers[i].Order == wire.OrderStop) != ordered || (took[i] < wait/2) != ordered {
			t.Errorf("heartbeat %d was answered with %+v after %v", i, answers[i], took[i])
		}
	}
	if got := home.Requests("/heartbeats"); got > 4 {
		t.Errorf("%d requests, want no more than 4", got)
	}
}

func TestTokensFollowNoRedirect(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			t.Error("a request has followed the redirect")
		}))
		t.Cleanup(thief.Close)
		server := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
		t.Cleanup(server.Close)
		to := agent.Address{URL: server.URL, Attempt: "a", Token: "secret"}
		if err := link.Result(t.Context(), to, &wire.Result{}); fault.Of(err) != fault.Unavailable {
			t.Errorf("error %v, want %q", err, fault.Unavailable)
		}
		if _, err := link.Beat(t.Context(), to, &wire.Heartbeat{WaitMS: 10}); fault.Of(err) != fault.Unavailable {
			t.Errorf("error %v, want %q", err, fault.Unavailable)
		}
	})
}
