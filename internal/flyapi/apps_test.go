package flyapi_test

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestAppsAreMadeListedFoundAndDeleted(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	var made struct {
		ID        string `json:"id"`
		CreatedAt int64  `json:"created_at"`
	}
	h.want(201, &made, "POST", "/v1/apps?wait=true", `{"name":"second","org_slug":"acme","network":"n"}`)
	if made.ID == "" || made.CreatedAt < 1_000_000_000_000 {
		t.Errorf("a new app: got %+v, want an id and the milliseconds of its creation", made)
	}
	var taken struct{ Error, Status string }
	a := h.want(422, nil, "POST", "/v1/apps", `{"app_name":"second","org_slug":"acme"}`)
	if err := json.Unmarshal(a.body, &taken); err != nil || taken.Status != "name_taken" {
		t.Errorf("a name that is taken: got %s, want the status name_taken", a.body)
	}
	var list struct {
		Apps  []struct{ Name, Status string }
		Total int `json:"total_apps"`
	}
	h.want(200, &list, "GET", "/v1/apps?org_slug=acme", nil)
	if list.Total != 1 || list.Apps[0].Name != "second" {
		t.Errorf("the apps of an organization: got %+v, want second alone", list)
	}
	var app struct {
		Name, Status string
		Organization struct{ Slug string }
	}
	h.want(200, &app, "GET", "/v1/apps/second", nil)
	if app.Organization.Slug != "acme" || app.Status != "pending" {
		t.Errorf("the app: got %+v, want it pending in acme", app)
	}
	h.want(202, nil, "DELETE", "/v1/apps/second", nil)
	h.want(404, nil, "GET", "/v1/apps/second", nil)
}

func TestAnAppIsMadeOnceForOneIdempotencyKey(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	body := `{"app_name":"once","org_slug":"acme","idempotency_key":"k1"}`
	var first, second struct{ ID string }
	h.want(201, &first, "POST", "/v1/apps", body)
	h.want(201, &second, "POST", "/v1/apps", body)
	if first.ID != second.ID {
		t.Errorf("the same request again: got app %s, want %s", second.ID, first.ID)
	}
	h.want(422, nil, "POST", "/v1/apps", strings.Replace(body, "k1", "k2", 1))
}

func TestAnAppWithMachinesIsDeletedByForceAlone(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.started(idle)
	h.want(412, nil, "DELETE", "/v1/apps/app", nil)
	h.want(202, nil, "DELETE", "/v1/apps/app?force=true", nil)
	h.eventually("its machines are gone", func() bool { return len(h.launches()) == 0 })
}

func TestNamesOfAppsThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	for _, name := range []string{"", "-a", "A", "a_b", "a/b", strings.Repeat("a", 64)} {
		h.want(422, nil, "POST", "/v1/apps", map[string]string{"app_name": name})
	}
}

func TestAppsAndMachinesSurviveARestartOfTheServer(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.want(201, nil, "POST", "/v1/apps", `{"app_name":"kept"}`)
	m := h.started(`{"image":"app:1","metadata":{"k":"v"}}`)
	stopped := h.reach("stopped")
	var lease struct{ Data struct{ Nonce string } }
	h.want(201, &lease, "POST", machines+"/"+stopped.ID+"/lease", `{"ttl":600}`)
	before := len(h.launches())

	h.restart()

	h.want(200, nil, "GET", "/v1/apps/kept", nil)
	if got := h.get(m.ID); got.State != "started" || got.InstanceID != m.InstanceID || got.Config["metadata"].(map[string]any)["k"] != "v" {
		t.Errorf("a machine after the restart: got %+v, want it as it was: %+v", got, m)
	}
	h.want(409, nil, "POST", machines+"/"+stopped.ID+"/start", nil)
	h.want(200, nil, "POST", machines+"/"+stopped.ID+"/start", nil, "fly-machine-lease-nonce", lease.Data.Nonce)
	h.wait(stopped.ID, "started")
	if got := len(h.launches()); got != before+1 {
		t.Errorf("launches: got %d, want the %d from before and the one that was started", got, before)
	}
}
