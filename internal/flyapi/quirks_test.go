package flyapi_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/internal/flyapi"
)

func TestRequestsAboveFlysRatesAreRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := openOn(t, nil, true, func(o *flyapi.Options) { o.Quirks = &flyapi.Quirks{RateLimits: true} })
		create := func() int { return h.call("POST", machines, idle2).status }
		for range 3 {
			if got := create(); got != 200 {
				t.Fatalf("a create within the burst: got %d, want 200", got)
			}
		}
		a := h.call("POST", machines, idle2)
		if a.status != 429 || a.header.Get("Retry-After") != "1" {
			t.Errorf("the fourth create: got %d with Retry-After %q, want 429 with 1", a.status, a.header.Get("Retry-After"))
		}
		time.Sleep(time.Second)
		if got := create(); got != 200 {
			t.Errorf("a create a second later: got %d, want 200", got)
		}
		if got := create(); got != 429 {
			t.Errorf("another in the same second: got %d, want 429", got)
		}
		var list []shown
		h.want(200, &list, "GET", machines, nil) // another action
		for range 10 {
			h.want(200, nil, "GET", machines+"/"+list[0].ID, nil)
		}
		h.want(429, nil, "GET", machines+"/"+list[0].ID, nil)
		h.want(200, nil, "GET", machines+"/"+list[1].ID, nil) // another machine
	})
}

const idle2 = `{"config":{"image":"a"}}`

func TestRegionsWithoutRoomAreSkippedAndSayWhy(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *flyapi.Options) {
		o.Quirks = &flyapi.Quirks{NoRoom: map[string]string{"bos": "region", "dfw": "host", "den": "volume"}}
	})
	for region, want := range map[string]struct {
		status int
		code   string
		text   string
	}{
		"bos": {422, "insufficient_capacity", "could not find a candidate host"},
		"dfw": {409, "", "aborted: could not reserve resource for machine: insufficient memory available to fulfill request"},
		"den": {412, "volume_placement_capacity", "failed_precondition: "},
	} {
		a := h.call("POST", machines, `{"region":"`+region+`","config":{"image":"a"}}`)
		var body struct{ Error, Status string }
		_ = json.Unmarshal(a.body, &body)
		if a.status != want.status || body.Status != want.code || !strings.HasPrefix(body.Error, want.text) {
			t.Errorf("a create in %s: got %d %s, want %d %s %s", region, a.status, a.body, want.status, want.code, want.text)
		}
	}
	for expression, want := range map[string]string{"bos,dfw,mia": "mia", "bos,eu": "ams", "usa": "atl", "": "ams", "any": "ams", "fra,ams": "fra"} {
		m := &shown{}
		h.want(200, m, "POST", machines, `{"region":"`+expression+`","config":{"image":"a"}}`)
		if m.Region != want {
			t.Errorf("a create in %q: got %s, want %s", expression, m.Region, want)
		}
	}
}

func TestACreateMayWorkAndBeAnsweredWithATimeout(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *flyapi.Options) { o.Quirks = &flyapi.Quirks{TimeoutShare: 1} })
	h.want(408, nil, "POST", machines, `{"name":"n","config":{"image":"a","metadata":{"try":"1"}}}`)
	var list []shown
	h.want(200, &list, "GET", machines+"?metadata.try=1", nil)
	if len(list) != 1 || list[0].Name != "n" {
		t.Errorf("machines after it: got %+v, want the one that was made", list)
	}
}

func TestShareOfCreatesIsRefused(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *flyapi.Options) { o.Quirks = &flyapi.Quirks{NoRoomShare: 1, NoRoomClass: "region"} })
	h.want(422, nil, "POST", machines, idle2)
}

func TestANewMachineMayBeHiddenForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := openOn(t, nil, true, func(o *flyapi.Options) { o.Quirks = &flyapi.Quirks{HiddenFor: 3 * time.Second} })
		m := h.create(`{"image":"a"}`)
		h.want(404, nil, "GET", machines+"/"+m.ID, nil)
		h.want(404, nil, "GET", machines+"/"+m.ID+"/wait", nil)
		time.Sleep(3 * time.Second)
		h.want(200, nil, "GET", machines+"/"+m.ID, nil)
	})
}
