package flyapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// reach returns a machine in a state.
func (h *house) reach(state string) *shown {
	h.t.Helper()
	switch state {
	case "created":
		m := &shown{}
		h.want(200, m, "POST", machines, `{"skip_launch":true,"config":{"image":"app:1"}}`)
		return m
	case "started":
		return h.started(idle)
	case "stopped":
		m := h.started(idle)
		h.want(200, nil, "POST", machines+"/"+m.ID+"/stop", nil)
		h.wait(m.ID, "stopped")
		return m
	case "suspended":
		m := h.started(idle)
		h.want(200, nil, "POST", machines+"/"+m.ID+"/suspend", nil)
		h.wait(m.ID, "suspended")
		return m
	case "destroyed":
		m := h.started(idle)
		h.want(200, nil, "DELETE", machines+"/"+m.ID+"?force=true", nil)
		h.wait(m.ID, "destroyed")
		return m
	}
	h.t.Fatalf("no way leads to the state %s", state)
	return nil
}

func TestEachCallIsAnsweredAsTheMachinesStateSays(t *testing.T) {
	t.Parallel()
	const (
		active  = "failed_precondition: machine still active, refusing to start"
		running = "failed_precondition: unable to destroy machine, not currently stopped, suspended, failed or created"
		none    = "not_found: machine not found"
	)
	update := `{"config":{"image":"app:2"}}`
	cases := []struct {
		state, method, call, body string
		status                    int
		text                      string // of a refusal
		then                      string // the state in which the machine settles
	}{
		{"created", "POST", "/start", "", 200, "", "started"},
		{"stopped", "POST", "/start", "", 200, "", "started"},
		{"suspended", "POST", "/start", "", 200, "", "started"},
		{"started", "POST", "/start", "", 412, active, "started"},
		{"destroyed", "POST", "/start", "", 404, none, "destroyed"},
		{"created", "POST", "/stop", "", 200, "", "created"},
		{"started", "POST", "/stop", `{"signal":"SIGTERM","timeout":"30s"}`, 200, "", "stopped"},
		{"started", "POST", "/stop", `{"id":"x","signal":15,"timeout":1000000000}`, 200, "", "stopped"},
		{"stopped", "POST", "/stop", "", 200, "", "stopped"},
		{"suspended", "POST", "/stop", "", 200, "", "stopped"},
		{"destroyed", "POST", "/stop", "", 404, none, "destroyed"},
		{"started", "POST", "/suspend", "", 200, "", "suspended"},
		{"suspended", "POST", "/suspend", "", 200, "", "suspended"},
		{"stopped", "POST", "/suspend", "", 412, "failed_precondition: unable to suspend machine from current state: 'stopped'", "stopped"},
		{"destroyed", "POST", "/suspend", "", 404, none, "destroyed"},
		{"started", "POST", "/restart?timeout=1&signal=SIGTERM", "", 200, "", "started"},
		{"started", "POST", "/restart?force_stop=true", "", 200, "", "started"},
		{"stopped", "POST", "/restart", "", 200, "", "started"},
		{"suspended", "POST", "/restart", "", 412, "failed_precondition: unable to restart machine from current state: 'suspended'", "suspended"},
		{"destroyed", "POST", "/restart", "", 404, none, "destroyed"},
		{"started", "POST", "/signal", `{"signal":"SIGWINCH"}`, 200, "", "started"},
		{"started", "POST", "/signal", `{"signal":9}`, 200, "", ""},
		{"stopped", "POST", "/signal", `{"signal":"SIGTERM"}`, 412, "failed_precondition: unable to signal machine from current state: 'stopped'", "stopped"},
		{"destroyed", "POST", "/signal", `{"signal":"SIGTERM"}`, 404, none, "destroyed"},
		{"created", "POST", "", update, 200, "", "started"},
		{"started", "POST", "", update, 200, "", "started"},
		{"stopped", "POST", "", update, 200, "", "started"},
		{"stopped", "POST", "", `{"skip_launch":true,"config":{"image":"app:2"}}`, 200, "", "stopped"},
		{"started", "POST", "", `{"skip_launch":true,"config":{"image":"app:2"}}`, 200, "", "stopped"},
		{"suspended", "POST", "", update, 200, "", "started"},
		{"destroyed", "POST", "", update, 404, none, "destroyed"},
		{"created", "DELETE", "", "", 200, "", "destroyed"},
		{"started", "DELETE", "", "", 412, running, "started"},
		{"started", "DELETE", "?force=true", "", 200, "", "destroyed"},
		{"started", "DELETE", "?kill=true", "", 200, "", "destroyed"},
		{"started", "DELETE", "?force=false", "", 412, running, "started"},
		{"stopped", "DELETE", "", "", 200, "", "destroyed"},
		{"suspended", "DELETE", "", "", 200, "", "destroyed"},
		{"destroyed", "DELETE", "?force=true", "", 404, none, "destroyed"},
		{"started", "POST", "/cordon", "", 200, "", "started"},
		{"destroyed", "POST", "/cordon", "", 404, none, "destroyed"},
		{"stopped", "POST", "/exec", `{"command":["echo","a"]}`, 412, "failed_precondition: unable to exec in machine from current state: 'stopped'", "stopped"},
		{"stopped", "GET", "/ps", "", 412, "failed_precondition: unable to exec in machine from current state: 'stopped'", "stopped"},
		{"destroyed", "POST", "/lease", "", 404, none, "destroyed"},
		{"destroyed", "POST", "/metadata/a", `{"value":"b"}`, 404, none, "destroyed"},
	}
	h := open(t, nil)
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s %s%s of a %s machine", c.method, c.call, c.body, c.state), func(t *testing.T) {
			t.Parallel()
			g := *h
			g.t = t
			m := g.reach(c.state)
			a := g.call(c.method, machines+"/"+m.ID+c.call, c.body)
			if a.status != c.status || a.text() != c.text {
				t.Errorf("got %d %s, want %d %q", a.status, a.body, c.status, c.text)
			}
			if c.then != "" {
				g.wait(m.ID, "settled")
				if got := g.get(m.ID); got.State != c.then {
					t.Errorf("it settles as %s, want %s; its events are %+v", got.State, c.then, got.Events)
				}
			}
		})
	}
}

func TestAnUpdateMakesANewInstanceOfTheWholeConfiguration(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	m := h.started(`{"image":"app:1","env":{"A":"1"},"metadata":{"k":"v"}}`)
	path := machines + "/" + m.ID
	a := h.call("POST", path, `{"current_version":"01AAAAAAAAAAAAAAAAAAAAAAAA","config":{"image":"app:2"}}`)
	if a.status != 409 || !strings.HasPrefix(a.text(), "aborted: machine update failed due to concurrent update") {
		t.Errorf("an update of another version: got %d %s, want 409", a.status, a.body)
	}
	updated := &shown{}
	h.want(200, updated, "POST", path, fmt.Sprintf(`{"current_version":%q,"config":{"image":"app:2"}}`, m.InstanceID))
	if updated.InstanceID == m.InstanceID || updated.Config["image"] != "app:2" || updated.Config["env"] != nil || updated.Config["metadata"] != nil {
		t.Errorf("the updated machine: got %+v, want a new instance with nothing of the old configuration", updated)
	}
	h.wait(m.ID, "started")
	if got := h.launches(); len(got) != 1 || got[0].Name != "fly-"+m.ID+"-2" {
		t.Errorf("launches after an update: got %+v, want the second alone", got)
	}
	if a := h.call("GET", path+"/wait?timeout=1&instance_id="+m.InstanceID, nil); a.status != 408 || !strings.HasSuffix(a.text(), "currently replaced") {
		t.Errorf("waiting for the instance before: got %d %s, want 408 that says that it was replaced", a.status, a.body)
	}
	var versions []struct {
		Version    string         `json:"version"`
		UserConfig map[string]any `json:"user_config"`
	}
	h.want(200, &versions, "GET", path+"/versions", nil)
	if len(versions) != 2 || versions[0].Version != updated.InstanceID || versions[1].UserConfig["image"] != "app:1" {
		t.Errorf("versions: got %+v, want two, the new one first", versions)
	}
	for _, body := range []string{`{"name":"other","config":{"image":"a"}}`, `{"region":"fra","config":{"image":"a"}}`} {
		h.want(422, nil, "POST", path, body)
	}
}

func TestAMachineOfAnotherAppIsNotFound(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.want(201, nil, "POST", "/v1/apps", `{"app_name":"other","org_slug":"personal"}`)
	m := h.create(idle)
	for path, want := range map[string]string{
		"/v1/apps/other/machines/" + m.ID:   "not_found: machine not found",
		"/v1/apps/nowhere/machines/" + m.ID: "app not found",
		machines + "/00000000000000":        "not_found: machine not found",
	} {
		if a := h.call("GET", path, nil); a.status != 404 || a.text() != want {
			t.Errorf("GET %s: got %d %s, want 404 %s", path, a.status, a.body, want)
		}
	}
	if a := h.call("GET", machines+"/moon", nil); a.status != http.StatusBadRequest || a.text() != "invalid machine ID, 'moon'" {
		t.Errorf("GET of what is no id: got %d %s, want 400", a.status, a.body)
	}
}
