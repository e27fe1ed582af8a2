package fly_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/fly"
)

// owner is the installation of the tests in this file.
const owner = "tests"

// staying is the spec of a bare machine that stays until it is destroyed.
func staying(name string) *machine.Spec {
	return &machine.Spec{
		Name: name, Owner: owner, Labels: map[string]string{"job": "job_1", "note": ""}, Lifetime: time.Hour, Command: []string{"stay"},
	}
}

// want checks the kind of an error.
func want(t *testing.T, what string, err error, kind fault.Kind) {
	t.Helper()
	if got := fault.Of(err); got != kind {
		t.Errorf("%s: got %q (%v), want %q", what, got, err, kind)
	}
	if err != nil && strings.Contains(err.Error(), "secretsecret") {
		t.Errorf("%s: the error holds the token: %v", what, err)
	}
}

// create creates a machine that must be accepted.
func create(t *testing.T, p *fly.Provider, spec *machine.Spec) *machine.Machine {
	t.Helper()
	m, err := p.Create(t.Context(), spec)
	if err != nil {
		t.Fatalf("Create(%s): got %v, want a machine", spec.Name, err)
	}
	return m
}

// wantNames checks which machines the owner has.
func wantNames(t *testing.T, p *fly.Provider, names ...string) {
	t.Helper()
	list, err := p.List(t.Context(), owner)
	if err != nil {
		t.Fatalf("List: got %v, want a list", err)
	}
	var got []string
	for _, m := range list {
		got = append(got, m.Name)
	}
	slices.Sort(got)
	slices.Sort(names)
	if !slices.Equal(got, names) {
		t.Errorf("List: got %v, want %v", got, names)
	}
}

func TestAMachineThatSomebodyElseDestroyedIsNotFoundAndNotListed(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := c.provider()
	m := create(t, p, staying("m1"))
	if _, err := p.Get(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	for _, shown := range []bool{true, false} { // Fly shows it as destroyed for a while
		c.mu.Lock()
		c.machines[0].state, c.machines[0].destroyed = "destroyed", time.Now()
		if !shown {
			c.shown = 0
		}
		c.mu.Unlock()
		_, err := p.Get(t.Context(), m.ID)
		want(t, "Get", err, fault.NotFound)
		wantNames(t, p)
		if err := p.Destroy(t.Context(), m.ID); err != nil {
			t.Errorf("Destroy of what is gone: got %v, want nil", err)
		}
	}
}

func TestACreateThatHappenedThoughItFailedIsAdoptedByAskingAgain(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]failure{
		"408":                after(refuseWith(408, "deadline_exceeded: machine")),
		"500":                after(refuseWith(500, "internal")),
		"503 from a proxy":   after(refuse(503, "<html>no backend</html>")),
		"404 of a proxy":     after(refuse(404, "404 page not found")),
		"reset":              after(hangUp),
		"truncated":          cut,
		"garbage":            after(refuse(200, "\x00\xffnot json")),
		"wrong type":         after(refuse(200, `["a","b"]`)),
		"wrong inner type":   after(refuse(200, `{"id":7,"name":["m1"],"state":{}}`)),
		"empty object":       after(refuse(200, `{}`)),
		"nothing":            after(refuse(200, "")),
		"another machine":    after(refuse(200, `{"id":"1","name":"other","state":"started"}`)),
		"redirect elsewhere": after(refuse(302, "", "Location", "http://127.0.0.1:1/")),
		"409 of a new kind":  after(refuseWith(409, "aborted: the moon is in the wrong place")),
		"409 that is a race": after(refuseWith(409, "aborted: machine update failed due to concurrent update")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCloud(t)
			p := c.provider()
			c.fail("create", 1, f)
			_, err := p.Create(t.Context(), staying("m1"))
			if name == "409 of a new kind" { // whether it is there can be asked at once
				want(t, "the first Create", err, "")
			} else {
				want(t, "the first Create", err, fault.Unavailable)
			}
			wantNames(t, p, "m1")
			m := create(t, p, staying("m1"))
			if living := c.living(); len(living) != 1 || m.ID != living[0].id {
				t.Errorf("after asking again: got %s of %d machines, want the only one", m.ID, len(living))
			}
			if m.Labels["job"] != "job_1" || m.Owner != owner {
				t.Errorf("the adopted machine: got %+v, want owner and labels", m)
			}
			if first, again := fmt.Sprint(c.created(0)), fmt.Sprint(c.created(1)); first != again {
				t.Errorf("the second request: got %s, want the same as the first: %s", again, first)
			}
		})
	}
}

func TestACreateThatLandsLateIsListedAndDestroyed(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := c.provider()
	land := make(chan struct{})
	landed := make(chan struct{})
	c.fail("create", 1, func(w http.ResponseWriter, _ *http.Request, carryOut func(http.ResponseWriter)) {
		go func() {
			defer close(landed)
			<-land
			carryOut(discard{})
		}()
		complain(w, 408, "deadline_exceeded")
	})
	_, err := p.Create(t.Context(), staying("m1"))
	want(t, "Create", err, fault.Unavailable)
	wantNames(t, p)
	close(land)
	<-landed
	wantNames(t, p, "m1")
	list, err := p.List(t.Context(), owner)
	if err != nil || len(list) != 1 || list[0].Labels["job"] != "job_1" {
		t.Fatalf("List: got %v and %v, want the late machine with its labels", list, err)
	}
	if err := p.Destroy(t.Context(), list[0].ID); err != nil {
		t.Fatal(err)
	}
	wantNames(t, p)
}

func TestANameThatIsTakenIsAdoptedOrLeftAloneByWhoseItIs(t *testing.T) {
	t.Parallel()
	ours := map[string]any{"dayfly_owner": owner, "dayfly_name": "m1", "dayfly_lifetime": "1h0m0s"}
	other := map[string]any{"dayfly_owner": "somebody", "dayfly_name": "m1"}
	for name, x := range map[string]struct {
		metadata map[string]any
		refusal  string // what 409 says when it is not the cloud's own words
		kind     fault.Kind
	}{
		"ours":                              {ours, "", ""},
		"ours, without an id":               {ours, "already_exists: unique machine name violation", ""},
		"ours, in words nobody knows":       {ours, "conflict", ""},
		"another installation's":            {other, "", fault.Conflict},
		"another's, without an id":          {other, "already_exists: unique machine name violation", fault.Conflict},
		"nobody's":                          {map[string]any{}, "", fault.Conflict},
		"nobody's, without an id":           {nil, "already_exists: unique machine name violation", fault.Conflict},
		"ours, with the id of what is gone": {ours, "already_exists: unique machine name violation, machine ID e999 already exists", fault.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCloud(t)
			p := c.provider()
			b := c.add("m1", x.metadata)
			if x.refusal != "" {
				c.fail("create", 1, refuseWith(409, x.refusal))
			}
			m, err := p.Create(t.Context(), staying("m1"))
			want(t, "Create", err, x.kind)
			if x.kind == "" && m.ID != b.id {
				t.Errorf("Create: got %+v, want machine %s", m, b.id)
			}
			if len(c.living()) != 1 || c.count("destroy") != 0 {
				t.Errorf("the machine that has the name: got %d machines and %d destroys, want it left alone", len(c.living()), c.count("destroy"))
			}
		})
	}
}

func TestAForeignMachineIsNeitherShownNorDestroyed(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := c.provider()
	b := c.add("web", map[string]any{"fly_process_group": "app"})
	_, err := p.Get(t.Context(), b.id)
	want(t, "Get", err, fault.NotFound)
	wantNames(t, p)
	want(t, "Destroy", p.Destroy(t.Context(), b.id), fault.Conflict)
	if c.count("destroy") != 0 {
		t.Error("Destroy of a foreign machine: got a request to destroy it, want none")
	}
}

func TestAServerThatDoesNotKnowTheFilterShowsNobodyElsesMachines(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := c.provider()
	create(t, p, staying("m1"))
	c.add("web", map[string]any{"dayfly_owner": owner + "-2"})
	c.fail("list", -1, func(w http.ResponseWriter, _ *http.Request, _ func(http.ResponseWriter)) {
		c.mu.Lock()
		defer c.mu.Unlock()
		reply(w, 200, []any{c.machines[0].show(), c.machines[1].show()})
	})
	wantNames(t, p, "m1")
}

// TestRetryAfterIsObeyed runs on a clock of its own: for five minutes the cloud refuses whatever comes before the time
// it has said, and counts it.
func TestRetryAfterIsObeyed(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		header func(wait time.Duration) []string
		exact  bool
	}{
		"in seconds": {func(wait time.Duration) []string { return []string{"Retry-After", fmt.Sprint(wait.Seconds())} }, true},
		"as a date": {func(wait time.Duration) []string {
			return []string{"Retry-After", time.Now().Add(wait).UTC().Format(http.TimeFormat)}
		}, false},
		"as a date by a clock that is wrong": {func(wait time.Duration) []string {
			theirs := time.Now().Add(-3 * time.Hour)
			return []string{"Date", theirs.UTC().Format(http.TimeFormat), "Retry-After", theirs.Add(wait).UTC().Format(http.TimeFormat)}
		}, false},
		"not at all": {func(time.Duration) []string { return nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCloud(t)
				p := fly.New(app, token, &fly.Options{Image: "debian:12", Transport: inside{c}})
				const wait = 7 * time.Second
				began := time.Now()
				c.fail("create", -1, func(w http.ResponseWriter, r *http.Request, carryOut func(http.ResponseWriter)) {
					if time.Since(began) > 5*time.Minute {
						carryOut(w)
						return
					}
					refuseWith(429, "rate limit exceeded", x.header(wait)...)(w, r, carryOut)
				})
				refused := 0
				for {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					_, err := p.Create(ctx, staying("m1"))
					cancel()
					if err == nil {
						break
					}
					want(t, "Create", err, fault.Exhausted)
					refused++
					time.Sleep(time.Second)
				}
				if refused == 0 || len(c.living()) != 1 {
					t.Errorf("got %d refusals and %d machines, want some and then one", refused, len(c.living()))
				}
				times := c.times("")
				for i, at := range times[:len(times)-1] {
					gap := times[i+1].Sub(at)
					if x.exact && gap < wait || x.header(wait) != nil && gap < wait-time.Second {
						t.Errorf("request %d came %v after the one before, want at least the %v that were asked for", i+1, gap, wait)
					}
				}
				if n := len(times); n < 5 || n > 70 {
					t.Errorf("in five minutes: got %d requests, want one for each time that was asked for", n)
				}
			})
		})
	}
}

func TestRequestsKeepToFlysRates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		p := fly.New(app, token, &fly.Options{Image: "debian:12", Transport: inside{c}})
		const machines = 20
		made := make(chan *machine.Machine, machines)
		for i := range machines {
			go func() {
				m, err := p.Create(t.Context(), staying(fmt.Sprintf("m%d", i)))
				want(t, "Create", err, "")
				made <- m
			}()
		}
		var one *machine.Machine
		for range machines {
			one = <-made
		}
		for range 30 {
			if _, err := p.Get(t.Context(), one.ID); err != nil {
				t.Error(err)
			}
		}
		for action, x := range map[string]struct {
			burst int
			rate  time.Duration
		}{"create": {3, time.Second}, "get " + one.ID: {10, time.Second / 5}} {
			at := c.times(action)
			for i := x.burst; i < len(at); i++ {
				// Of burst+1 requests in a row the last comes one turn after the first.
				if gap := at[i].Sub(at[i-x.burst]); gap < x.rate-time.Millisecond {
					t.Errorf("%s: request %d came %v after number %d, want at least %v", action, i, gap, i-x.burst, x.rate)
				}
			}
			if len(at) < 20 {
				t.Errorf("%s: got %d requests, want all", action, len(at))
			}
		}
	})
}

func TestACreateWhoseTurnComesTooLateIsRefusedAtOnceAndAsksNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		p := fly.New(app, token, &fly.Options{Image: "debian:12", Transport: inside{c}})
		for i := range 3 {
			create(t, p, staying(fmt.Sprintf("m%d", i)))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := p.Create(ctx, staying("m3"))
		want(t, "Create", err, fault.Exhausted)
		if took := time.Since(began); took > 0 || c.count("create") != 3 {
			t.Errorf("got %d creates after %v, want the fourth refused at once", c.count("create"), took)
		}
	})
}

func TestWithHalfOfAllCallsFailingEveryMachineIsMadeOnceAndDestroyed(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := c.provider()
	random := rand.New(rand.NewPCG(1, 2))
	faults := []failure{
		refuseWith(500, "internal"), refuseWith(503, "unavailable"), refuseWith(408, "deadline_exceeded"), hangUp,
		after(refuseWith(500, "internal")), after(refuseWith(408, "deadline_exceeded")), after(hangUp), cut,
	}
	for _, action := range []string{"create", "get", "list", "destroy", "wait"} {
		c.fail(action, -1, func(w http.ResponseWriter, r *http.Request, carryOut func(http.ResponseWriter)) {
			c.mu.Lock()
			fails, which := random.IntN(2) == 0, random.IntN(len(faults))
			c.mu.Unlock()
			if fails {
				faults[which](w, r, carryOut)
			} else {
				carryOut(w)
			}
		})
	}
	// patiently repeats what the contract lets be repeated.
	patiently := func(what string, do func() error) {
		t.Helper()
		for range 200 {
			err := do()
			if err == nil {
				return
			}
			want(t, what, err, fault.Unavailable)
		}
		t.Fatalf("%s: got no success in 200 tries", what)
	}
	for i := range 10 {
		var m *machine.Machine
		patiently("Create", func() (err error) { m, err = p.Create(t.Context(), staying(fmt.Sprintf("m%d", i))); return err })
		patiently("Get", func() error { _, err := p.Get(t.Context(), m.ID); return err })
		patiently("List", func() error { _, err := p.List(t.Context(), owner); return err })
		if living := c.living(); len(living) != 1 {
			t.Fatalf("after Create: got %d machines, want one", len(living))
		}
		patiently("Destroy", func() error { return p.Destroy(t.Context(), m.ID) })
		if living := c.living(); len(living) != 0 {
			t.Fatalf("after Destroy: got %d machines, want none", len(living))
		}
	}
}

func TestAnswersThatMakeNoSenseSayNothingAboutAnyMachine(t *testing.T) {
	t.Parallel()
	huge := func(w http.ResponseWriter, _ *http.Request, _ func(http.ResponseWriter)) {
		chunk := []byte(strings.Repeat(" ", 1<<20))
		for range 50 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	for name, f := range map[string]failure{
		"garbage":                 refuse(200, "\x00\x01\xff"),
		"HTML":                    refuse(200, "<html>Sign in to the hotel's network</html>"),
		"nothing":                 refuse(200, ""),
		"a string":                refuse(200, `"started"`),
		"a list of strings":       refuse(200, `["started"]`),
		"a list of empty objects": refuse(200, `[{}]`),
		"an empty object":         refuse(200, `{}`),
		"truncated":               cut,
		"50 MiB":                  huge,
		"404 of a proxy":          refuse(404, "404 page not found"),
		"404 of another API":      refuse(404, `{"title":"Not Found","status":404,"detail":"no such route"}`),
		"reset":                   hangUp,
		"a redirect":              refuse(301, "", "Location", "http://127.0.0.1:1/elsewhere"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCloud(t)
			p := c.provider()
			m := create(t, p, staying("m1"))
			if _, err := p.Get(t.Context(), m.ID); err != nil {
				t.Fatal(err)
			}
			for _, action := range []string{"get", "list", "destroy", "wait"} {
				c.fail(action, -1, f)
			}
			_, err := p.Get(t.Context(), m.ID)
			want(t, "Get", err, fault.Unavailable)
			_, err = p.List(t.Context(), owner)
			want(t, "List", err, fault.Unavailable)
			want(t, "Destroy", p.Destroy(t.Context(), m.ID), fault.Unavailable)
			if len(c.living()) != 1 {
				t.Error("the machine: got it destroyed, want it as it was")
			}
			c.heal()
			wantNames(t, p, "m1")
		})
	}
}

func TestAMachineThatFlyDoesNotShowYetIsNotGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		p := fly.New(app, token, &fly.Options{Image: "debian:12", Transport: inside{c}, Rate: -1})
		m := create(t, p, staying("m1"))
		c.fail("get", 3, refuseWith(404, "machine not found"))
		for range 3 {
			_, err := p.Get(t.Context(), m.ID)
			want(t, "Get of a machine that was just made", err, fault.Unavailable)
		}
		if _, err := p.Get(t.Context(), m.ID); err != nil {
			t.Errorf("Get: got %v, want the machine", err)
		}
		// Once it has been shown, or time has passed, 404 means what it says.
		c.fail("get", 1, refuseWith(404, "machine not found"))
		_, err := p.Get(t.Context(), m.ID)
		want(t, "Get of a machine that was shown before", err, fault.NotFound)
		unseen := create(t, p, staying("m2"))
		c.fail("get", 1, refuseWith(404, "machine not found"))
		time.Sleep(time.Minute)
		_, err = p.Get(t.Context(), unseen.ID)
		want(t, "Get of a machine that was made a minute ago", err, fault.NotFound)
	})
}

func TestAMachineThatFlyDoesNotShowYetIsDestroyed(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := c.provider()
	m := create(t, p, staying("m1"))
	c.fail("get", 1, refuseWith(404, "machine not found"))
	if err := p.Destroy(t.Context(), m.ID); err != nil {
		t.Errorf("Destroy: got %v, want nil", err)
	}
	if living := c.living(); len(living) != 0 {
		t.Errorf("after Destroy: got %d machines, want none", len(living))
	}
}

func TestAListIsWholeOrAnError(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := c.provider()
	var names []string
	for i := range 7 {
		name := fmt.Sprintf("m%d", i)
		c.add(name, map[string]any{"dayfly_owner": owner, "dayfly_name": name, "dayfly_lifetime": "1h0m0s"})
		names = append(names, name)
	}
	// page serves pages of two, whatever is asked for, as Fly may; and change spoils them.
	page := func(change func(from int, list []any) []any) failure {
		return func(w http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter)) {
			c.mu.Lock()
			defer c.mu.Unlock()
			from := 0
			fmt.Sscan(r.URL.Query().Get("cursor"), &from)
			var list []any
			for _, b := range c.machines[from:min(from+2, 7)] {
				list = append(list, b.show())
			}
			if from+2 < 7 {
				w.Header().Set("Fly-Next-Cursor", fmt.Sprint(from+2))
			}
			if list = change(from, list); list == nil {
				complain(w, 500, "page lost")
				return
			}
			reply(w, 200, list)
		}
	}
	for name, change := range map[string]func(from int, list []any) []any{
		"pages":              func(_ int, list []any) []any { return list },
		"shuffled":           func(_ int, list []any) []any { slices.Reverse(list); return list },
		"with duplicates":    func(_ int, list []any) []any { return append(list, c.machines[0].show(), list[0]) },
		"with an empty page": func(_ int, list []any) []any { return list },
	} {
		c.fail("list", -1, page(change))
		t.Log(name)
		wantNames(t, p, names...)
		c.heal()
	}
	for _, lost := range []int{0, 2, 6} {
		c.fail("list", -1, page(func(from int, list []any) []any {
			if from == lost {
				return nil
			}
			return list
		}))
		_, err := p.List(t.Context(), owner)
		want(t, fmt.Sprintf("List whose page from %d is lost", lost), err, fault.Unavailable)
		c.heal()
	}
	c.fail("list", -1, refuse(200, "[]", "Fly-Next-Cursor", "7"))
	_, err := p.List(t.Context(), owner)
	want(t, "List that does not end", err, fault.Unavailable)
}

func TestAListThatIsEmptyOrLagsIsPassedOnAndGetKnowsBetter(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := c.provider()
	m := create(t, p, staying("m1"))
	c.fail("list", -1, refuse(200, "[]"))
	wantNames(t, p)
	if got, err := p.Get(t.Context(), m.ID); err != nil || got.State.Rank() > machine.Running.Rank() {
		t.Errorf("Get: got %+v and %v, want the machine as it is", got, err)
	}
	// A repeated create does not need the list either.
	if again := create(t, p, staying("m1")); again.ID != m.ID {
		t.Errorf("Create of the same name: got %s, want %s", again.ID, m.ID)
	}
}

func TestAHostThatDoesNotAnswerHidesNoMachine(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := c.provider()
	m := create(t, p, staying("m1"))
	hide := func(whole bool) func(map[string]any) map[string]any {
		return func(shown map[string]any) map[string]any {
			if !whole {
				shown["incomplete_config"] = shown["config"]
			}
			delete(shown, "config")
			shown["host_status"] = "unreachable"
			return shown
		}
	}
	hideAll := func(whole bool) failure {
		return edit(func(list []map[string]any) []map[string]any {
			for i := range list {
				list[i] = hide(whole)(list[i])
			}
			return list
		})
	}
	c.fail("list", 1, hideAll(false))
	wantNames(t, p, "m1")
	c.fail("get", 1, edit(hide(false)))
	if got, err := p.Get(t.Context(), m.ID); err != nil || got.Labels["job"] != "job_1" {
		t.Errorf("Get with an incomplete config: got %+v and %v, want the machine and its labels", got, err)
	}
	c.fail("list", 1, hideAll(true))
	_, err := p.List(t.Context(), owner)
	want(t, "List of what nobody knows whose it is", err, fault.Unavailable)
	c.fail("get", 1, edit(hide(true)))
	_, err = p.Get(t.Context(), m.ID)
	want(t, "Get of what nobody knows whose it is", err, fault.Unavailable)
}

func TestCredentialsThatAreRevokedAreToldAndWorkAgainWithoutARestart(t *testing.T) {
	t.Parallel()
	for _, refusal := range []failure{
		refuseWith(401, "Authenticate: token validation error: "+token), refuseWith(403, "forbidden for "+token), refuseWith(404, "app not found"),
	} {
		c := newCloud(t)
		p := c.provider()
		m := create(t, p, staying("m1"))
		for _, action := range []string{"create", "get", "list", "destroy"} {
			c.fail(action, -1, refusal)
		}
		_, err := p.Create(t.Context(), staying("m2"))
		want(t, "Create", err, fault.Denied)
		_, err = p.Get(t.Context(), m.ID)
		want(t, "Get", err, fault.Denied)
		_, err = p.List(t.Context(), owner)
		want(t, "List", err, fault.Denied)
		want(t, "Destroy", p.Destroy(t.Context(), m.ID), fault.Denied)
		c.heal()
		wantNames(t, p, "m1")
		if err := p.Destroy(t.Context(), m.ID); err != nil {
			t.Errorf("Destroy with good credentials again: got %v, want nil", err)
		}
	}
}

func TestTimesThatAreWrongOrMissingChangeNothingButWhatIsShown(t *testing.T) {
	t.Parallel()
	for name, created := range map[string]any{
		"an hour behind":    time.Now().Add(-time.Hour).UTC().Format(time.RFC3339),
		"an hour ahead":     time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
		"in another zone":   time.Now().In(time.FixedZone("", 5*3600)).Format(time.RFC3339),
		"empty":             "",
		"no time":           "yesterday",
		"of another type":   nil,
		"before all events": "0001-01-01T00:00:00Z",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCloud(t)
			p := c.provider()
			m := create(t, p, staying("m1"))
			c.fail("get", -1, edit(func(shown map[string]any) map[string]any {
				shown["created_at"] = created
				return shown
			}))
			got, err := p.Get(t.Context(), m.ID)
			if err != nil || got.State.Rank() > machine.Running.Rank() || got.Exit != nil {
				t.Errorf("Get: got %+v and %v, want the machine as it is", got, err)
			}
			if err == nil && got.Expires.Sub(got.Created) != time.Hour {
				t.Errorf("Expires: got %v after Created, want the lifetime", got.Expires.Sub(got.Created))
			}
		})
	}
}

func TestAnAddressThatIsNoneIsTold(t *testing.T) {
	t.Parallel()
	p := fly.New(app, token, &fly.Options{URL: "http://bad host/", Image: "debian:12"})
	_, err := p.Create(t.Context(), staying("m1"))
	want(t, "Create at an address that is none", err, fault.Invalid)
	p = fly.New(app, token, &fly.Options{URL: "http://127.0.0.1:1", Image: "debian:12"})
	_, err = p.Get(t.Context(), "e286")
	want(t, "Get where nobody listens", err, fault.Unavailable)
	if errors.Is(err, fault.NotFound) {
		t.Error("Get where nobody listens: got not_found, want no statement")
	}
}

// discard is where the answer to a call goes that nobody waits for.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

func TestANewProcessDoesNotTakeAMachineOfTheLastOneForGoneAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		connect := func() *fly.Provider {
			return fly.New(app, token, &fly.Options{Image: "debian:12", Transport: inside{c}})
		}
		m := create(t, connect(), staying("m1"))
		p := connect()
		c.fail("get", 2, refuseWith(404, "machine not found"))
		if got, err := p.Get(t.Context(), m.ID); err != nil || got.ID != m.ID {
			t.Errorf("Get by a new process of a machine that is not shown yet: got %+v and %v, want the machine", got, err)
		}
		c.fail("get", 1, refuseWith(404, "machine not found"))
		_, err := p.Get(t.Context(), m.ID)
		want(t, "Get of a machine that it has seen", err, fault.NotFound)
		time.Sleep(time.Minute)
		began := time.Now()
		_, err = p.Get(t.Context(), "e999")
		want(t, "Get of nothing, later", err, fault.NotFound)
		if took := time.Since(began); took > 0 {
			t.Errorf("Get of nothing, later: it took %v, want no time", took)
		}
	})
}

func TestAMachineThatSomebodyElseHasJustMadeIsAdoptedOnceItIsShown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		first := fly.New(app, token, &fly.Options{Image: "debian:12", Transport: inside{c}})
		m := create(t, first, staying("m1"))
		second := fly.New(app, token, &fly.Options{Image: "debian:12", Transport: inside{c}})
		time.Sleep(time.Minute) // so that it is no new process
		c.fail("get", 4, refuseWith(404, "machine not found"))
		if again := create(t, second, staying("m1")); again.ID != m.ID {
			t.Errorf("Create of a name that is taken and not shown yet: got %s, want %s", again.ID, m.ID)
		}
	})
}
