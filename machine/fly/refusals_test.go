package fly_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
)

func TestARegionWithoutRoomIsFollowedByTheNext(t *testing.T) {
	t.Parallel()
	capacity := func(status int, body string) failure { return refuse(status, body) }
	for name, x := range map[string]struct {
		fault   failure
		again   bool // the same region is asked once more
		another bool // the next region is asked
	}{
		"422 by its code":        {capacity(422, `{"error":"whatever","status":"insufficient_capacity"}`), false, true},
		"422 by its text":        {capacity(422, `{"error":"could not find a candidate host","status":"unknown"}`), false, true},
		"409 of the region":      {capacity(409, `{"error":"aborted: no capacity"}`), false, true},
		"409 of a host":          {capacity(409, `{"error":"aborted: could not reserve resource for machine: insufficient memory available to fulfill request"}`), true, true},
		"409 of a host's CPUs":   {capacity(409, `{"error":"aborted: could not reserve resource for machine: insufficient CPUs available"}`), true, true},
		"409 of a host's all":    {capacity(409, `{"error":"aborted: insufficient resources available to fulfill request"}`), true, true},
		"409 whose code decides": {capacity(409, `{"error":"aborted: insufficient resources available","status":"insufficient_capacity"}`), false, true},
		"412 of volumes":         {capacity(412, `{"error":"failed_precondition","status":"volume_placement_capacity"}`), false, true},
		"422 that is no room":    {capacity(422, `{"error":"invalid config.guest"}`), false, false},
		"422 of a quota":         {capacity(422, `{"error":"you have reached the machine limit of your plan"}`), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCloud(t)
			p := c.provider()
			c.fail("create", -1, func(w http.ResponseWriter, r *http.Request, carryOut func(http.ResponseWriter)) {
				c.mu.Lock()
				n := len(c.asked)
				c.mu.Unlock()
				full := 1
				if x.again {
					full = 2
				}
				if n <= full {
					x.fault(w, r, carryOut)
				} else {
					carryOut(w)
				}
			})
			spec := staying("m1")
			spec.Region = "ams, eu"
			m, err := p.Create(t.Context(), spec)
			if !x.another {
				if err == nil || c.count("create") != 1 {
					t.Errorf("Create: got %+v, %v and %d requests, want it refused without another region", m, err, c.count("create"))
				}
				return
			}
			if err != nil || m.Location != "eu" {
				t.Fatalf("Create: got %+v and %v, want a machine in the second region, whose alias is passed on", m, err)
			}
		})
	}
}

func TestWhenNoRegionHasRoomEachReasonIsTold(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := c.provider()
	c.fail("create", 1, refuse(422, `{"error":"could not find a candidate host in ams","status":"insufficient_capacity"}`))
	c.fail("create", 1, refuse(422, `{"error":"invalid region fra"}`))
	c.fail("create", 2, refuseWith(409, "aborted: insufficient memory available in lhr"))
	spec := staying("m1")
	spec.Region = "ams,fra,lhr"
	_, err := p.Create(t.Context(), spec)
	want(t, "Create", err, fault.Exhausted)
	sentence, _ := fault.Sentence(err)
	for _, part := range []string{"ams: ", "candidate host in ams", "fra: ", "invalid region fra", "lhr: ", "memory available in lhr", "01JREQUEST"} {
		if !strings.Contains(sentence, part) {
			t.Errorf("the sentence: got %q, want %q in it", sentence, part)
		}
	}
	if n := c.count("create"); n != 4 || len(c.living()) != 0 {
		t.Errorf("got %d requests and %d machines, want 4 (the host that was full is tried again) and none", n, len(c.living()))
	}
}

func TestAnAmbiguousRegionIsNotFollowedByAnother(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := c.provider()
	c.fail("create", 1, refuse(422, `{"error":"full","status":"insufficient_capacity"}`))
	c.fail("create", 1, after(refuseWith(408, "deadline_exceeded")))
	spec := staying("m1")
	spec.Region = "ams,fra,lhr"
	_, err := p.Create(t.Context(), spec)
	want(t, "Create", err, fault.Unavailable)
	if n := c.count("create"); n != 2 {
		t.Errorf("got %d requests, want 2: in fra there may be a machine", n)
	}
	if m := create(t, p, spec); m.Location != "fra" || len(c.living()) != 1 {
		t.Errorf("Create again: got a machine in %s of %d, want the one in fra", m.Location, len(c.living()))
	}
}

func TestRefusalsOfACreateAreClassified(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		status int
		body   string
		kind   fault.Kind
	}{
		"400":                   {400, `{"error":"invalid_argument: config.guest"}`, fault.Invalid},
		"401":                   {401, `{"error":"Authenticate: token validation error"}`, fault.Denied},
		"403":                   {403, `{"error":"not authorized"}`, fault.Denied},
		"404 app":               {404, `{"error":"app not found"}`, fault.Denied},
		"404 in other words":    {404, `{"error":"Could not resolve App"}`, fault.Denied},
		"412":                   {412, `{"error":"failed_precondition: something"}`, fault.Invalid},
		"422":                   {422, `{"error":"invalid config.guest.cpus"}`, fault.Invalid},
		"422 limit":             {422, `{"error":"organization has reached its machine limit"}`, fault.Exhausted},
		"429":                   {429, `{"error":"rate limit exceeded"}`, fault.Exhausted},
		"500 that is no JSON":   {500, `oops`, fault.Unavailable},
		"418":                   {418, ``, fault.Invalid},
		"a message, not error":  {422, `{"message":"invalid image","error":""}`, fault.Invalid},
		"an error of an object": {422, `{"error":{"code":"x"}}`, fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCloud(t)
			p := c.provider()
			c.fail("create", -1, refuse(x.status, x.body, "Retry-After", "3600"))
			_, err := p.Create(t.Context(), staying("m1"))
			want(t, "Create", err, x.kind)
			if sentence, ok := fault.Sentence(err); !ok || !strings.Contains(sentence, "01JREQUEST") {
				t.Errorf("the sentence: got %q, want one with the fly-request-id", sentence)
			}
		})
	}
}
