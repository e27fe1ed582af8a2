package server_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/server"
)

// say sends a message and returns the status and the body of the answer.
func say(t *testing.T, method, url, token string, message any) (int, string) {
	t.Helper()
	text, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func terms(command ...string) *wire.FleetTerms {
	return &wire.FleetTerms{Holder: "H1", Build: "b1", Min: 1, Max: 3, IdleMS: 1000, Spec: machine.Spec{Lifetime: time.Hour, Command: command}}
}

func TestFleetsAreShownWithTheirMachines(t *testing.T) {
	t.Parallel()
	s, _ := hireServer(t, nil)
	c := client(t, s, s.Token())
	if status, body := say(t, http.MethodPut, s.URL()+wire.FleetPrefix+"mem/thumbs", s.Token(), terms("sh", "-c", "sleep 600")); status != http.StatusNoContent {
		t.Fatalf("PUT of terms: got %d %s, want 204", status, body)
	}
	fleets, err := c.Fleets(t.Context())
	if err != nil || len(fleets) != 1 || fleets[0].Name != "thumbs" || fleets[0].Provider != "mem" || fleets[0].Min != 1 || fleets[0].Max != 3 ||
		fleets[0].Programs != 1 || fleets[0].Runners["warming"] != 1 {
		t.Errorf("Fleets: got %+v and error %v, want one of which a runner boots", fleets, err)
	}
	eventually(t, func() bool {
		for m, err := range c.Machines(t.Context(), false) {
			if err == nil && m.HiredBy == "fleet thumbs" && m.Use == "warming" && strings.HasPrefix(m.Name, "thumbs-") {
				return true
			}
		}
		return false
	}, "the machine is shown")
	if status, body := say(t, http.MethodPut, s.URL()+wire.FleetPrefix+"mem/broken", s.Token(), terms("sh", "-c", "echo no flags >&2")); status != http.StatusNoContent {
		t.Fatalf("PUT of terms: got %d %s, want 204", status, body)
	}
	var last []dayfly.FleetStatus
	eventually(t, func() bool {
		last, _ = c.Fleets(t.Context())
		return len(last) == 2 && strings.Contains(last[0].Message, "dayfly.Main()") && strings.Contains(last[0].Message, "no flags") && last[0].FailedAt != nil
	}, "it is shown why a runner does not boot")
}

func TestFleetsNeedTheScopeAndRunnersTheirTokens(t *testing.T) {
	t.Parallel()
	s, _ := hireServer(t, func(o *server.Options) { o.RequireToken = true })
	main := client(t, s, s.Token())
	for scope, want := range map[string]int{"submit": http.StatusForbidden, "hire": http.StatusNoContent} {
		token, err := main.CreateToken(t.Context(), scope, []string{scope}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if status, body := say(t, http.MethodPut, s.URL()+wire.FleetPrefix+"mem/thumbs", token.Secret, terms("sh", "-c", "sleep 600")); status != want {
			t.Errorf("PUT of terms with the scope %s: got %d %s, want %d", scope, status, body, want)
		}
	}
	for name, token := range map[string]string{"no token": "", "the owner's token": s.Token(), "a token that is made up": "dfr_thumbs-abc_AAAA"} {
		status, body := say(t, http.MethodPost, s.URL()+wire.FleetRunnerPrefix+"thumbs-abc", token, &wire.FleetCall{Instance: "i", Build: "b1", Number: 1})
		if status != http.StatusUnauthorized {
			t.Errorf("a runner's call with %s: got %d %s, want 401", name, status, body)
		}
	}
	fleets, err := main.Fleets(t.Context())
	if err != nil || len(fleets) != 1 || fleets[0].Token != "hire" {
		t.Errorf("Fleets: got %+v and error %v, want that of the token hire", fleets, err)
	}
}
