package flyapi_test

import (
	"testing"
)

func TestAMachineIsCreatedStartedStoppedStartedAgainAndDestroyed(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	m := h.create(idle)
	if m.State != "created" || len(m.Events) != 1 || m.Events[0].Type != "launch" || m.Events[0].Status != "created" || m.Events[0].Request != nil {
		t.Errorf("a fresh machine: got %+v, want state created with one event launch, created and no request", m)
	}
	h.wait(m.ID, "started")
	if got := h.launches(); len(got) != 1 || got[0].Name != "fly-"+m.ID+"-1" {
		t.Errorf("launches at the provider: got %+v, want one named for the machine and its first launch", got)
	}
	h.want(200, nil, "POST", machines+"/"+m.ID+"/stop", nil)
	h.wait(m.ID, "stopped")
	if got := h.launches(); len(got) != 0 {
		t.Errorf("launches of a stopped machine: got %+v, want none", got)
	}
	var start struct {
		Previous string `json:"previous_state"`
	}
	h.want(200, &start, "POST", machines+"/"+m.ID+"/start", nil)
	if start.Previous != "stopped" {
		t.Errorf("previous_state: got %q, want stopped", start.Previous)
	}
	h.wait(m.ID, "started")
	if a := h.call("DELETE", machines+"/"+m.ID, nil); a.status != 412 || a.text() != "failed_precondition: unable to destroy machine, not currently stopped, suspended, failed or created" {
		t.Errorf("destroying what runs: got %d %s", a.status, a.body)
	}
	h.want(200, nil, "DELETE", machines+"/"+m.ID+"?force=true", nil)
	h.wait(m.ID, "destroyed")
	if got := h.get(m.ID); got.State != "destroyed" || got.Events[0].Type != "destroy" {
		t.Errorf("a destroyed machine: got %+v, want state destroyed and the event of it first", got)
	}
	if got := h.launches(); len(got) != 0 {
		t.Errorf("launches of a destroyed machine: got %+v, want none", got)
	}
	h.want(404, nil, "DELETE", machines+"/"+m.ID+"?force=true", nil)
	h.want(404, nil, "POST", machines+"/"+m.ID+"/start", nil)
}
