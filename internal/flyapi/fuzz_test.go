package flyapi_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/internal/flyapi"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// FuzzConfig checks that whatever is sent as a machine's configuration is answered as a refusal, or taken and shown in a
// form that is taken again and then shown alike; and that what is taken makes a spec that every provider takes.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		idle, `{}`, `[]`, `{"image":"a","guest":{"cpus":0,"memory_mb":0,"cpu_kind":""},"size":"performance-2x"}`,
		`{"image":"a","processes":[{"name":"worker","entrypoint":["python"],"cmd":["worker.py"]},{"exec":["it's"],"env":{"A":"'"}}]}`,
		`{"image":"a","files":[{"guest_path":"/tmp/events.json","raw_value":"W10=","mode":420}],"stop_config":{"timeout":"10s","signal":"SIGTERM"}}`,
		`{"image":"a","services":[{"autostop":"off"}],"restart":{"policy":"always"},"schedule":"hourly","metadata":{"a":"b"}}`,
		`{"image":"a","init":{"exec":[""]},"env":{"":""},"stop_config":{"timeout":-9223372036854775808}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := flyapi.ParseConfig([]byte(text))
		if err != nil {
			if flyapi.StatusOf(err) >= 500 || flyapi.StatusOf(err) < 400 {
				t.Errorf("%q is refused with %d %v, want a refusal that blames the client", text, flyapi.StatusOf(err), err)
			}
			return
		}
		shown := c.Shown()
		again, err := flyapi.ParseConfig([]byte(shown))
		if err != nil {
			t.Fatalf("%q is shown as %s, which is refused: %v", text, shown, err)
		}
		if twice := again.Shown(); twice != shown {
			t.Errorf("%q is shown as %s, and that as %s", text, shown, twice)
		}
		if err := c.Spec().Validate(); err != nil && !emptyCommand(c.Spec()) {
			t.Errorf("%q makes a spec that is refused: %v", text, err)
		}
	})
}

// emptyCommand reports whether a spec's command begins with an empty word, which as an image's arguments is good.
func emptyCommand(spec *machine.Spec) bool { return len(spec.Command) > 0 && spec.Command[0] == "" }

// FuzzRequest checks that no request is answered with a failure of the server.
func FuzzRequest(f *testing.F) {
	service, err := flyapi.New(f.Context(), flyapi.Options{
		Provider: memmachine.New(nil), Ledger: filepath.Join(f.TempDir(), "machines.db"), Apps: []string{"app"},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = service.Close() })
	handler := service.Handler()
	const id = "00000000000000"
	for _, seed := range [][3]string{
		{"POST", "/v1/apps", `{"app_name":"a","org_slug":"b"}`}, {"GET", "/v1/apps?org_slug=b", ""}, {"DELETE", "/v1/apps/a?force", ""},
		{"POST", machines, `{"config":{"image":"a"},"region":"any,eu","lease_ttl":5,"skip_launch":true}`},
		{"GET", machines + "?state=started,stopped&metadata.a=b&summary=1", ""}, {"POST", machines + "/" + id + "/stop", `{"signal":9,"timeout":"1s"}`},
		{"GET", machines + "/" + id + "/wait?timeout=1&state=settled", ""}, {"POST", machines + "/" + id + "/lease?ttl=5", ""},
		{"PATCH", machines + "/" + id + "/metadata", `{"metadata":{"a":null}}`}, {"POST", "/v1/platform/placements", `{"count":3,"compute":{"cpus":2}}`},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, method, path, body string) {
		if !strings.HasPrefix(path, "/v1/") || strings.Contains(path, "/wait") && strings.Contains(path, "timeout") {
			return
		}
		r, err := http.NewRequestWithContext(t.Context(), method, "http://127.0.0.1"+path, strings.NewReader(body))
		if err != nil || method == "CONNECT" {
			return
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code >= 500 && w.Code != http.StatusNotImplemented {
			t.Errorf("%s %q with %q: got %d %s", method, path, body, w.Code, w.Body)
		}
	})
}
