package flyapi_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestAListShowsWhatAllFiltersLetThrough(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	make := func(name, region, metadata string, skip bool) string {
		m := &shown{}
		h.want(200, m, "POST", machines, fmt.Sprintf(`{"name":%q,"region":%q,"skip_launch":%v,"config":{"image":"a","metadata":%s}}`, name, region, skip, metadata))
		if !skip {
			h.wait(m.ID, "started")
		}
		return m.ID
	}
	make("one", "ams", `{"a":"1","b":"2"}`, false)
	make("two", "fra", `{"a":"1"}`, false)
	make("three", "fra", `{}`, true)
	gone := make("four", "ams", `{"a":"1"}`, true)
	h.want(200, nil, "DELETE", machines+"/"+gone, nil)
	for query, want := range map[string][]string{
		"":                               {"one", "two", "three"},
		"?include_deleted=true":          {"one", "two", "three", "four"},
		"?region=fra":                    {"two", "three"},
		"?state=created":                 {"three"},
		"?state=created,started":         {"one", "two", "three"},
		"?state=destroyed":               {"four"},
		"?metadata.a=1":                  {"one", "two"},
		"?metadata.a=1&metadata.b=2":     {"one"},
		"?metadata.a=1&region=fra":       {"two"},
		"?metadata.a=2":                  {},
		"?metadata.a=1&state=suspended":  {},
		"?region=ams&include_deleted":    {"one", "four"},
		"?summary=true&metadata.b=2":     {"one"},
		"?include_leases=true&region=no": {},
	} {
		var list []shown
		h.want(200, &list, "GET", machines+query, nil)
		got := []string{}
		for _, m := range list {
			got = append(got, m.Name)
			if strings.Contains(query, "summary") && (m.Events != nil || m.Config["restart"] != nil || m.Config["image"] != "a") {
				t.Errorf("a summary: got %+v, want no events and little of the configuration", m)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("the list %q: got %v, want %v", query, got, want)
		}
	}
}

func TestALeaseIsItsHoldersAlone(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	m := &shown{}
	h.want(200, m, "POST", machines, `{"lease_ttl":30,"config":{"image":"a"}}`)
	if m.Nonce == "" {
		t.Fatal("a create with lease_ttl: got no nonce, want one")
	}
	path := machines + "/" + m.ID
	const header = "fly-machine-lease-nonce"
	var held struct {
		Status, Message, Code string
		Data                  struct {
			Nonce, Owner, Version string
			ExpiresAt             int64 `json:"expires_at"`
		}
	}
	h.want(409, &held, "POST", path+"/lease", `{"ttl":10}`)
	if held.Status != "error" || held.Code != "invalid" || !strings.HasPrefix(held.Message, "machine ID "+m.ID+" lease currently held by ") {
		t.Errorf("a lease that is held: got %+v", held)
	}
	for _, call := range []string{"stop", "start", "restart", "suspend", "signal", "cordon", "exec"} {
		h.want(409, nil, "POST", path+"/"+call, nil)
		h.want(409, nil, "POST", path+"/"+call, nil, header, "wrong")
	}
	h.want(409, nil, "DELETE", path+"?force=true", nil)
	h.want(409, nil, "POST", path, `{"config":{"image":"a"}}`)
	h.want(200, nil, "GET", path, nil)

	h.want(200, &held, "GET", path+"/lease", nil)
	if held.Status != "success" || held.Data.Nonce != "" || held.Data.Version != m.InstanceID {
		t.Errorf("the lease as others see it: got %+v, want it without its nonce", held)
	}
	h.want(400, nil, "POST", path+"/lease", `{"ttl":10}`, header, "wrong")
	h.want(201, &held, "POST", path+"/lease?ttl=60", nil, header, m.Nonce)
	if held.Data.Nonce != m.Nonce {
		t.Errorf("a refreshed lease: got nonce %q, want %q", held.Data.Nonce, m.Nonce)
	}
	h.want(200, nil, "POST", path+"/cordon", nil, header, m.Nonce)
	h.want(400, nil, "DELETE", path+"/lease", nil)
	h.want(200, &held, "DELETE", path+"/lease", nil, header, m.Nonce)
	h.want(404, nil, "GET", path+"/lease", nil)
	h.want(404, nil, "DELETE", path+"/lease", nil, header, m.Nonce)
	h.want(200, nil, "POST", path+"/uncordon", nil)
}

func TestMetadataChangesWithoutANewVersion(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	m := h.started(`{"image":"a","metadata":{"a":"1","b":"2"}}`)
	path := machines + "/" + m.ID + "/metadata"
	expect := func(after string, want map[string]string) {
		t.Helper()
		var got map[string]string
		h.want(200, &got, "GET", path, nil)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("metadata after %s: got %v, want %v", after, got, want)
		}
	}
	h.want(204, nil, "POST", path+"/c", `{"value":"3"}`)
	expect("setting c", map[string]string{"a": "1", "b": "2", "c": "3"})
	var value struct{ Value string }
	h.want(200, &value, "GET", path+"/c", nil)
	if value.Value != "3" {
		t.Errorf("one key: got %q, want 3", value.Value)
	}
	h.want(204, nil, "DELETE", path+"/a", nil)
	h.want(404, nil, "GET", path+"/a", nil)
	h.want(204, nil, "PATCH", path, `{"metadata":{"b":null,"d":"4","c":""}}`)
	expect("patching", map[string]string{"d": "4"})
	h.want(412, nil, "PUT", path, `{"metadata":{"e":"5"},"machine_version":"01AAAAAAAAAAAAAAAAAAAAAAAA"}`)
	h.want(204, nil, "PUT", path, fmt.Sprintf(`{"metadata":{"e":"5"},"machine_version":%q}`, m.InstanceID))
	expect("putting", map[string]string{"e": "5"})
	if got := h.get(m.ID); got.InstanceID != m.InstanceID || got.State != "started" {
		t.Errorf("the machine: got %+v, want the same instance, still started", got)
	}
}

func TestAWaitIsHeldToItsBounds(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	m := h.reach("created")
	path := machines + "/" + m.ID + "/wait"
	for _, query := range []string{"?timeout=0", "?timeout=61", "?timeout=-1", "?timeout=x"} {
		a := h.call("GET", path+query, nil)
		if a.status != 400 || a.text() != "invalid_argument: invalid WaitMachineRequest.Timeout: value must be inside range [1s, 1m0s]" {
			t.Errorf("wait%s: got %d %s, want 400", query, a.status, a.body)
		}
	}
	h.want(400, nil, "GET", path+"?state=happy", nil)
	a := h.call("GET", path+"?timeout=1&state=started", nil)
	if a.status != 408 || a.text() != "deadline_exceeded: machine failed to reach desired state, started, currently created" {
		t.Errorf("a wait in vain: got %d %s", a.status, a.body)
	}
	h.want(200, nil, "GET", path+"?state=settled", nil)
	var reached struct {
		OK                      bool
		State, Version, EventID string `json:",omitempty"`
		Event                   string `json:"event_id"`
	}
	h.want(200, nil, "POST", machines+"/"+m.ID+"/start", nil)
	h.want(200, &reached, "GET", path+"?state=stopped,started&timeout=60", nil)
	if !reached.OK || reached.State != "started" || reached.Version != m.InstanceID || reached.Event == "" {
		t.Errorf("what a wait answers: got %+v", reached)
	}
	h.want(408, nil, "GET", path+"?state=started&timeout=1&from_event_id="+reached.Event, nil)
}

func TestExecAnswersWhateverTheStatus(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	m := h.started(idle)
	path := machines + "/" + m.ID + "/exec"
	for body, want := range map[string]string{
		`{"command":["echo","a","&&","b"]}`:       `{"exit_code":0,"exit_signal":0,"stderr":"","stdout":"a && b\n"}`,
		`{"cmd":"echo a && b"}`:                   `{"exit_code":0,"exit_signal":0,"stderr":"","stdout":"a && b\n"}`,
		`{"command":["cat"],"stdin":"in"}`:        `{"exit_code":0,"exit_signal":0,"stderr":"","stdout":"in"}`,
		`{"command":["exit","3"]}`:                `{"exit_code":3,"exit_signal":0,"stderr":"","stdout":""}`,
		`{"command":["nothing"],"container":"c"}`: `{"exit_code":127,"exit_signal":0,"stderr":"nothing: not found\n","stdout":""}`,
	} {
		if a := h.want(200, nil, "POST", path, body); strings.TrimSpace(string(a.body)) != want {
			t.Errorf("exec %s: got %s, want %s", body, a.body, want)
		}
	}
	if a := h.call("POST", path, `{"command":["stay"],"timeout":1}`); a.status != 408 || !strings.HasPrefix(a.text(), "deadline_exceeded") {
		t.Errorf("a command that takes too long: got %d %s, want 408", a.status, a.body)
	}
	h.want(400, nil, "POST", path, `{}`)
}

func TestEventsAreNewestFirst(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	m := h.reach("stopped")
	var events []shownEvent
	h.want(200, &events, "GET", machines+"/"+m.ID+"/events", nil)
	var got []string
	for i, e := range events {
		got = append(got, e.Type+" "+e.Status+" "+e.Source)
		if i > 0 && e.ID >= events[i-1].ID {
			t.Errorf("the ids of events: got %s after %s, want them to fall", e.ID, events[i-1].ID)
		}
	}
	want := []string{"exit stopped flyd", "stop stopping user", "start started flyd", "launch created user"}
	if !slices.Equal(got, want) {
		t.Errorf("events: got %q, want %q", got, want)
	}
	exit := events[0].Request["exit_event"].(map[string]any)
	if exit["requested_stop"] != true || exit["guest_signal"] != 2.0 || exit["exit_code"] != 130.0 || exit["restarting"] != false {
		t.Errorf("the exit of a machine stopped by SIGINT: got %v", exit)
	}
	h.want(200, &events, "GET", machines+"/"+m.ID+"/events?limit=2", nil)
	if len(events) != 2 {
		t.Errorf("events with limit=2: got %d", len(events))
	}
	h.want(400, nil, "GET", machines+"/"+m.ID+"/events?limit=0", nil)
}

func TestThePlatformIsDescribed(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	var regions struct {
		Nearest string
		Regions []struct{ Code, Name string }
	}
	h.want(200, &regions, "GET", "/v1/platform/regions", nil)
	if regions.Nearest != "ams" || len(regions.Regions) < 30 {
		t.Errorf("regions: got %+v, want Fly's", regions)
	}
	var placed struct {
		Regions []struct {
			Region string
			Count  int
		}
	}
	h.want(200, &placed, "POST", "/v1/platform/placements", `{"region":"eu","count":3,"org_slug":"personal","compute":{"cpus":1}}`)
	if placed.Regions[0].Count != 3 {
		t.Errorf("placements: got %+v, want all three in the first region", placed)
	}
	m := h.create(`{"image":"a","guest":{"cpus":2,"memory_mb":1024}}`)
	var memory struct {
		Limit int `json:"limit_mb"`
	}
	h.want(200, &memory, "GET", machines+"/"+m.ID+"/memory", nil)
	if memory.Limit != 1024 {
		t.Errorf("memory: got %d MiB, want 1024", memory.Limit)
	}
	h.want(501, nil, "PUT", machines+"/"+m.ID+"/memory", `{"limit_mb":2048}`)
	h.want(501, nil, "POST", machines+"/"+m.ID+"/memory/reclaim", `{"amount_mb":1}`)
}
