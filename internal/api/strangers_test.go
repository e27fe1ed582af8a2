package api_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// untouched is a body that nobody may read.
type untouched struct{ t *testing.T }

func (u untouched) Read([]byte) (int, error) {
	u.t.Error("the body of a call is read although its token is not this server's")
	return 0, io.EOF
}

func TestTheBodyOfACallWithAForgedTokenIsNotRead(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	const calls = 100 // far more than the API's own tokens are allowed
	for _, path := range []string{
		"claim", "progress", "attempts/att_1/heartbeat", "attempts/att_1/logs?stream=stdout&offset=0", "attempts/att_1/artifacts",
		"attempts/att_1/result",
	} {
		for i := range calls {
			r := httptest.NewRequest("POST", "http://127.0.0.1/agent/v1/"+path, untouched{t})
			r.Header.Set("Authorization", fmt.Sprintf("Bearer dfs_att_1.1_%043d", i))
			w := httptest.NewRecorder()
			g.api.Handler().ServeHTTP(w, r)
			if w.Code != http.StatusUnauthorized {
				t.Fatalf("%s, forged token %d: got %d, want 401: whose token is void has to hear that, however many others there are", path, i, w.Code)
			}
		}
	}
	counted := string(g.do("GET", "/metrics", "").body)
	if want := fmt.Sprintf("dayfly_tokens_refused_total %d\n", 6*calls); !strings.Contains(counted, want) {
		t.Errorf("the metrics do not say %q", want)
	}
}

// flood begins requests of strangers, each with the first bytes of a large body, until one is refused. It returns how many
// are being read, and what ends them.
func (g *rig) flood(path string) (reading int, end func()) {
	g.t.Helper()
	var ends []func()
	for {
		body, writer := io.Pipe()
		answered := make(chan int, 1)
		go func() {
			w := httptest.NewRecorder()
			r := httptest.NewRequest("POST", "http://127.0.0.1"+path, body)
			g.api.Handler().ServeHTTP(w, r)
			body.Close() // as a server does
			answered <- w.Code
		}()
		_, err := writer.Write([]byte(`{"calls":[`)) // is over when it is read
		if err != nil {
			if status := <-answered; status != http.StatusServiceUnavailable {
				g.t.Errorf("%s, stranger %d: got %d, want 503", path, reading, status)
			}
			break
		}
		reading++
		ends = append(ends, func() { writer.Close(); <-answered })
		if reading > 100 {
			break
		}
	}
	return reading, func() {
		for _, end := range ends {
			end()
		}
	}
}

func TestAFloodOfStrangersTakesLittleMemoryAndHoldsUpNoAgent(t *testing.T) {
	t.Parallel()
	for path, body := range map[string]func(g *rig) string{
		"/agent/v1/batch": func(g *rig) string {
			return encode(t, wire.Batch{Calls: []wire.BatchCall{{Attempt: "att_1", Token: g.key.Session("att_1", 1), Result: &wire.Result{Outcome: wire.Succeeded}}}})
		},
		"/agent/v1/heartbeats": func(g *rig) string {
			return encode(t, wire.Beats{Beats: []wire.Beat{{Attempt: "att_1", Token: g.key.Session("att_1", 1), Phase: wire.Running}}})
		},
	} {
		g := newRig(t)
		reading, end := g.flood(path)
		if reading > 16 {
			t.Errorf("%s: the bodies of %d strangers are read at once, want at most 16", path, reading)
		}
		for name, header := range map[string]string{
			"the session":       g.session("att_1"),
			"another attempt's": g.session("att_2"),
			"a bootstrap token": "Authorization: Bearer " + g.key.Bootstrap("att_3"),
		} {
			if got := g.do("POST", path, body(g), header); got.status != http.StatusOK {
				t.Errorf("%s in a flood, with %s in the header: got %d %s, want an answer", path, name, got.status, got.body)
			}
		}
		g.do("POST", path, body(g), "Authorization: Bearer dfs_att_1.1_x").want(t, "a forged token in the header", http.StatusServiceUnavailable, fault.Unavailable)
		end()
		if got := g.do("POST", path, body(g)); got.status != http.StatusOK {
			t.Errorf("%s after the flood, without a header: got %d %s, want an answer", path, got.status, got.body)
		}
	}
}
