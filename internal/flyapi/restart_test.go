package flyapi_test

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/internal/flyapi"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// program is a guest that takes a second and ends with the status in CODE; without one it stays.
func program(ctx context.Context, spec *machine.Spec) machine.Exit {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return machine.Exit{Code: -1, Signal: "SIGKILL"}
	}
	if code, err := strconv.Atoi(spec.Env["CODE"]); err == nil {
		return machine.Exit{Code: code}
	}
	<-ctx.Done()
	return machine.Exit{Code: -1, Signal: "SIGTERM"}
}

func TestTheRestartPolicyDecidesWhatFollowsAnEnd(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, config string
		code, starts int // how often it is started within four minutes
		then         string
	}{
		{"the default after a success", `{}`, 0, 1, "stopped"},
		{"the default after failures", `{}`, 1, 11, "stopped"},
		{"no after a failure", `{"restart":{"policy":"no"}}`, 1, 1, "stopped"},
		{"on-failure after a success", `{"restart":{"policy":"on-failure"}}`, 0, 1, "stopped"},
		{"on-failure with two retries", `{"restart":{"policy":"on-failure","max_retries":2}}`, 3, 3, "stopped"},
		{"auto_destroy after a success", `{"auto_destroy":true}`, 0, 1, "destroyed"},
		{"auto_destroy after a failure", `{"auto_destroy":true,"restart":{"policy":"no"}}`, 1, 1, "destroyed"},
		{"auto_destroy after retries", `{"auto_destroy":true,"restart":{"policy":"on-failure","max_retries":1}}`, 1, 2, "destroyed"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := openOn(t, &memmachine.Options{Guest: program}, true, nil)
				config := fmt.Sprintf(`{"image":"a","env":{"CODE":"%d"},%s`, c.code, c.config[1:])
				if c.config == "{}" {
					config = fmt.Sprintf(`{"image":"a","env":{"CODE":"%d"}}`, c.code)
				}
				m := h.create(config)
				time.Sleep(4 * time.Minute)
				synctest.Wait()
				got := h.get(m.ID)
				starts := 0
				for _, e := range got.Events {
					if e.Type == "start" && e.Status == "started" {
						starts++
					}
				}
				if got.State != c.then || starts != c.starts {
					t.Errorf("got state %s after %d starts, want %s after %d; events: %+v", got.State, starts, c.then, c.starts, got.Events)
				}
				if left := h.launches(); len(left) != 0 {
					t.Errorf("launches left at the provider: %+v, want none", left)
				}
				if got.Events[0].Type == "exit" {
					exit := got.Events[0].Request["exit_event"].(map[string]any)
					code, given := exit["exit_code"]
					if c.code == 0 && given || c.code != 0 && code != float64(c.code) || exit["requested_stop"] != false {
						t.Errorf("the last exit: got %v, want exit_code %d, left out when 0", exit, c.code)
					}
				}
			})
		})
	}
}

func TestAlwaysIsStartedAgainAndAgainUntilSomebodyStopsIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := openOn(t, &memmachine.Options{Guest: program}, true, nil)
		m := h.create(`{"image":"a","env":{"CODE":"0"},"auto_destroy":true,"restart":{"policy":"always"}}`)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := h.get(m.ID).State; got == "stopped" || got == "destroyed" {
			t.Fatalf("after an hour it is %s, want it started or about to be", got)
		}
		h.want(200, nil, "POST", machines+"/"+m.ID+"/stop", nil)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := h.get(m.ID).State; got != "destroyed" {
			t.Errorf("stopped with auto_destroy: got %s, want destroyed", got)
		}
	})
}

func TestAScheduledMachineRunsAtItsTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int32
		h := openOn(t, &memmachine.Options{Guest: func(ctx context.Context, spec *machine.Spec) machine.Exit {
			runs.Add(1)
			return program(ctx, spec)
		}}, true, nil)
		m := h.create(`{"image":"a","env":{"CODE":"0"},"schedule":"hourly"}`)
		time.Sleep(59 * time.Minute)
		synctest.Wait()
		if got := h.get(m.ID).State; got != "created" || runs.Load() != 0 {
			t.Errorf("before its time: got %s after %d runs, want created after none", got, runs.Load())
		}
		time.Sleep(2 * time.Minute)
		h.restart() // the schedule survives it
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := h.get(m.ID).State; got != "stopped" || runs.Load() != 2 {
			t.Errorf("after two hours: got %s after %d runs, want stopped after 2", got, runs.Load())
		}
	})
}

func TestASchedulesTimesAreCountedFromWhenItWasGiven(t *testing.T) {
	t.Parallel()
	from := time.Date(2026, 1, 10, 12, 30, 0, 0, time.UTC)
	for _, c := range []struct {
		schedule  string
		now, want time.Time
	}{
		{"hourly", from, from.Add(time.Hour)},
		{"hourly", from.Add(5*time.Hour + time.Minute), from.Add(6 * time.Hour)},
		{"daily", from, time.Date(2026, 1, 11, 12, 30, 0, 0, time.UTC)},
		{"weekly", from, time.Date(2026, 1, 17, 12, 30, 0, 0, time.UTC)},
		{"monthly", from, time.Date(2026, 2, 10, 12, 30, 0, 0, time.UTC)},
		{"monthly", time.Date(2026, 2, 10, 12, 30, 0, 0, time.UTC), time.Date(2026, 3, 10, 12, 30, 0, 0, time.UTC)},
	} {
		if got := flyapi.NextRun(c.schedule, from, c.now); !got.Equal(c.want) {
			t.Errorf("%s at %v: got %v, want %v", c.schedule, c.now, got, c.want)
		}
	}
}

func TestWhatIgnoresItsSignalIsKilledWhenItsTimeIsUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		deaf := func(ctx context.Context, _ *machine.Spec) machine.Exit {
			memmachine.In(ctx).Signals()
			<-ctx.Done()
			return machine.Exit{Code: -1, Signal: "SIGKILL"}
		}
		h := openOn(t, &memmachine.Options{Guest: deaf}, true, nil)
		for timeout, after := range map[string]time.Duration{`"10s"`: 10 * time.Second, "20000000000": 20 * time.Second, "null": 5 * time.Second} {
			m := h.create(`{"image":"a","stop_config":{"timeout":` + timeout + `,"signal":"SIGUSR1"}}`)
			synctest.Wait()
			h.want(200, nil, "POST", machines+"/"+m.ID+"/stop", nil)
			time.Sleep(after - time.Second)
			synctest.Wait()
			if got := h.get(m.ID).State; got != "stopping" {
				t.Errorf("a second before its time of %v is up: got %s, want stopping", after, got)
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if got := h.get(m.ID).State; got != "stopped" {
				t.Errorf("a second after its time of %v: got %s, want stopped", after, got)
			}
		}
	})
}

func TestADestroyedMachineIsShownForAnHourAndItsNameIsFreeAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := openOn(t, nil, true, nil)
		named := `{"name":"worker","config":{"image":"a"}}`
		m, again := &shown{}, &shown{}
		h.want(200, m, "POST", machines, named)
		synctest.Wait()
		a := h.call("POST", machines, named)
		want := `already_exists: unique machine name violation, machine ID ` + m.ID + ` already exists with name "worker"`
		if a.status != 409 || a.text() != want {
			t.Errorf("a name that is taken: got %d %s, want 409 %s", a.status, a.body, want)
		}
		h.want(200, nil, "DELETE", machines+"/"+m.ID+"?force=true", nil)
		synctest.Wait()
		h.want(200, again, "POST", machines, named)
		time.Sleep(59 * time.Minute)
		h.want(200, nil, "GET", machines+"/"+m.ID, nil)
		time.Sleep(2 * time.Minute)
		h.want(404, nil, "GET", machines+"/"+m.ID, nil)
		h.want(200, nil, "GET", machines+"/"+again.ID, nil)
	})
}

func TestALaunchThatVanishesIsAFailureOfTheMachine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := openOn(t, nil, true, nil)
		m := h.create(`{"image":"a","restart":{"policy":"no"}}`)
		synctest.Wait()
		h.cloud.Vanish(h.launches()[0].ID)
		time.Sleep(time.Minute)
		synctest.Wait()
		got := h.get(m.ID)
		exit, _ := got.Events[0].Request["exit_event"].(map[string]any)
		if got.State != "stopped" || exit["error"] != "the machine vanished from its host" {
			t.Errorf("got %s with the last event %+v, want stopped, and an exit that says so", got.State, got.Events[0])
		}
	})
}

func TestALaunchThatNobodyKnowsIsDestroyedAfterAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := openOn(t, nil, true, nil)
		m := h.create(idle)
		synctest.Wait()
		owner := h.launches()[0].Owner
		for _, spec := range []machine.Spec{
			{Name: "fly-00000000000000-1", Owner: owner},
			{Name: "fly-" + m.ID + "-7", Owner: owner},
			{Name: "somebody-elses", Owner: "another"},
		} {
			spec.Image, spec.Lifetime = "a", time.Hour
			if _, err := h.options.Provider.Create(t.Context(), &spec); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		var left []string
		for _, l := range h.launches() {
			left = append(left, l.Name)
		}
		if fmt.Sprint(left) != fmt.Sprint([]string{"fly-" + m.ID + "-1", "somebody-elses"}) {
			t.Errorf("left at the provider: %v, want the launch of the machine and what is somebody else's", left)
		}
	})
}

func TestOfManyDestroyedMachinesTheOldestAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := openOn(t, nil, true, func(o *flyapi.Options) { o.MaxDestroyed = 2 })
		var ids []string
		for range 4 {
			m := h.create(idle)
			h.want(200, nil, "DELETE", machines+"/"+m.ID+"?force=true", nil)
			time.Sleep(100 * time.Millisecond)
			ids = append(ids, m.ID)
		}
		time.Sleep(2 * time.Second)
		for n, want := range []int{404, 404, 200, 200} {
			h.want(want, nil, "GET", machines+"/"+ids[n], nil)
		}
	})
}

func TestWhatIsFarFromWhatIsRememberedIsRemovedALittleAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := openOn(t, nil, true, nil)
		h.create(idle)
		synctest.Wait()
		owner := h.launches()[0].Owner
		for n := range 25 {
			spec := &machine.Spec{Name: fmt.Sprintf("fly-000000000000%02d-1", n), Owner: owner, Image: "a", Lifetime: time.Hour}
			if _, err := h.options.Provider.Create(t.Context(), spec); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []int{26, 16, 6, 1} { // seen once, then ten in each sweep
			time.Sleep(30 * time.Second)
			synctest.Wait()
			if got := len(h.launches()); got != want {
				t.Errorf("machines at the provider: got %d, want %d", got, want)
			}
		}
	})
}
