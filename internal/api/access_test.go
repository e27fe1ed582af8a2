package api_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/api"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/ticket"
)

func requireToken(o *api.Options) { o.RequireToken = true }

// expected says for each route which scopes open it: "" is everybody, "-" another authority than a token of the API.
// A route that is missing here fails the test, and so does one that is not there any more.
var expected = map[string]string{
	"POST /v1/jobs":              "submit",
	"POST /v1/jobs/{id}/start":   "submit",
	"POST /v1/jobs/{id}/retry":   "submit",
	"POST /v1/jobs/{id}/cancel":  "cancel",
	"DELETE /v1/jobs/{id}":       "cancel",
	"GET /v1/jobs":               "read",
	"GET /v1/jobs/{id}":          "read",
	"GET /v1/jobs/{id}/why":      "read",
	"GET /v1/jobs/{id}/logs":     "read",
	"GET /v1/jobs/{id}/events":   "read",
	"GET /v1/jobs/{id}/wait":     "read",
	"GET /v1/machines":           "read",
	"GET /v1/pools":              "read",
	"GET /v1/fleets":             "read",
	"GET /v1/costs":              "read",
	"POST /v1/quotes":            "submit",
	"GET /v1/version":            "read",
	"GET /metrics":               "read",
	"POST /v1/tokens":            "admin",
	"GET /v1/tokens":             "admin",
	"DELETE /v1/tokens/{id}":     "admin",
	"POST /v1/jobs/{id}/release": "cancel",
	"GET /v1/jobs/{id}/shell":    "shell",

	"GET /healthz":      "",
	"GET /readyz":       "",
	"GET /docs":         "",
	"GET /openapi.json": "",
	"GET /openapi.yaml": "",

	"PUT /v1/blobs/{key...}":                       "-",
	"GET /v1/blobs/{key...}":                       "-",
	"POST /agent/v1/claim":                         "-",
	"POST /agent/v1/attempts/{id}/heartbeat":       "-",
	"POST /agent/v1/attempts/{id}/logs":            "-",
	"POST /agent/v1/attempts/{id}/artifacts":       "-",
	"POST /agent/v1/attempts/{id}/result":          "-",
	"GET /agent/v1/attempts/{id}/inputs/{name...}": "-",
	"POST /agent/v1/progress":                      "-",
	"POST /agent/v1/batch":                         "-",
	"POST /agent/v1/heartbeats":                    "-",
}

func TestEveryRouteIsOpenToItsScopesOnly(t *testing.T) {
	t.Parallel()
	g := newRig(t, requireToken)
	roles := map[string]string{"nobody": "", "nothing": g.token("nothing")}
	for _, scope := range []string{"submit", "read", "cancel", "shell", "admin"} {
		roles[scope] = g.token(scope, scope)
	}
	patterns := g.api.Routes()
	for pattern := range expected {
		if !slices.Contains(patterns, pattern) {
			t.Errorf("the route %s is expected and does not exist", pattern)
		}
	}
	for _, pattern := range patterns {
		scope, listed := expected[pattern]
		if !listed {
			t.Errorf("the route %s is not listed in this test: say who may use it", pattern)
			continue
		}
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.NewReplacer("{id}", "job_a", "{key...}", "inputs/job_a/x").Replace(path)
		for role, header := range roles {
			var headers []string
			if header != "" {
				headers = append(headers, header)
			}
			got := g.do(method, path, "", headers...)
			open := scope == "" || role == scope || role == "admin"
			what := role + ": " + pattern
			switch {
			case scope == "-":
				if got.status < 400 {
					t.Errorf("%s: got %d, want a refusal", what, got.status)
				}
			case open && (got.status == http.StatusUnauthorized || got.status == http.StatusForbidden):
				t.Errorf("%s: got %d, want to be let in: %s", what, got.status, got.body)
			case !open && role == "nobody":
				p := got.want(t, what, http.StatusUnauthorized, fault.Unauthenticated)
				if got.header.Get("WWW-Authenticate") == "" || p.Detail == "" {
					t.Errorf("%s: 401 without WWW-Authenticate", what)
				}
			case !open:
				got.want(t, what, http.StatusForbidden, fault.Denied)
			}
		}
	}
}

func TestATokenIsTakenFromTheHeaderOnly(t *testing.T) {
	t.Parallel()
	g := newRig(t, requireToken)
	secret := g.secret("reader", "read")
	g.do("GET", "/v1/jobs?token="+secret, "").want(t, "a token in the URL", 401, fault.Unauthenticated)
	g.do("GET", "/v1/jobs?access_token="+secret, "").want(t, "an access token in the URL", 401, fault.Unauthenticated)
	for name, header := range map[string]string{
		"another scheme": "Basic " + secret,
		"no scheme":      secret,
		"no token":       "Bearer ",
		"two words":      "Bearer a b",
		"another token":  "Bearer " + secret + "x",
		"a NUL":          "Bearer " + secret + "\x00",
		"a prefix":       "Bearer " + secret[:len(secret)-1],
		"very long":      "Bearer " + strings.Repeat("x", 10_000),
		"mistyped":       "Bearer dfy_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
	} {
		g.do("GET", "/v1/jobs", "", "Authorization: "+header).want(t, name, 401, fault.Unauthenticated)
	}
	g.do("GET", "/v1/jobs", "", "Authorization: Bearer "+secret, "Authorization: Bearer x").want(t, "two headers", 401, fault.Unauthenticated)
	if got := g.do("GET", "/v1/jobs", "", "Authorization: bearer  "+secret); got.status != 200 {
		t.Errorf("a scheme in lower case: got %d: %s", got.status, got.body)
	}
}

func TestWithoutRequireTokenAWrongTokenIsStillWrong(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	if got := g.do("GET", "/v1/jobs", ""); got.status != 200 {
		t.Errorf("without a token: got %d", got.status)
	}
	g.do("GET", "/v1/jobs", "", "Authorization: Bearer wrong").want(t, "a wrong token", 401, fault.Unauthenticated)
	g.do("POST", "/v1/jobs", `{"command":["a"]}`, g.token("reader", "read")).want(t, "too small a scope", 403, fault.Denied)
}

func TestATokenIsCreatedShownOnceAndRevoked(t *testing.T) {
	t.Parallel()
	g := newRig(t, requireToken)
	admin := g.token("root", "admin")
	type token struct {
		ID, Name, Token string
		Scopes          []string
		ExpiresAt       *time.Time `json:"expires_at"`
	}
	got := g.do("POST", "/v1/tokens", `{"name":"ci","scopes":["read","submit","read"],"expires_in":"1h"}`, admin)
	made := decode[token](t, got, http.StatusCreated)
	if !strings.HasPrefix(made.Token, "dfy_") || len(made.Token) < 60 || strings.Join(made.Scopes, " ") != "read submit" || made.ExpiresAt == nil || got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("created: %s, header %v", got.body, got.header)
	}
	listed := g.do("GET", "/v1/tokens", "", admin)
	if strings.Contains(string(listed.body), made.Token) || !strings.Contains(string(listed.body), made.ID) || strings.Contains(string(listed.body), "ash") {
		t.Errorf("the list shows the token or its hash, or not the id: %s", listed.body)
	}
	header := "Authorization: Bearer " + made.Token
	if got := g.do("GET", "/v1/jobs", "", header); got.status != 200 {
		t.Errorf("using it: got %d: %s", got.status, got.body)
	}
	g.do("POST", "/v1/tokens", `{"name":"ci"}`, admin).want(t, "the same name", 409, fault.Conflict)
	if got := g.do("DELETE", "/v1/tokens/ci", "", admin); got.status != http.StatusNoContent {
		t.Errorf("revoking: got %d: %s", got.status, got.body)
	}
	g.do("GET", "/v1/jobs", "", header).want(t, "using it after it was revoked", 401, fault.Unauthenticated)
	g.do("DELETE", "/v1/tokens/ci", "", admin).want(t, "revoking it again", 404, fault.NotFound)
	for body, field := range map[string]string{
		`{}`:                                "name",
		`{"name":""}`:                       "name",
		`{"name":"-rf"}`:                    "name",
		`{"name":"a b"}`:                    "name",
		`{"name":"x","scopes":["root"]}`:    "scopes",
		`{"name":"x","expires_in":"never"}`: "expires_in",
		`{"name":"x","expires_in":"0s"}`:    "expires_in",
		`{"name":"x","expires_in":0}`:       "expires_in",
		`{"name":"x","scope":"read"}`:       "scope",
	} {
		if p := g.do("POST", "/v1/tokens", body, admin).want(t, body, 422, fault.Invalid); p.Field != field {
			t.Errorf("%s: got field %q, want %q", body, p.Field, field)
		}
	}
	if n := len(g.tokens.tokens); n != 2 {
		t.Errorf("there are %d tokens, want 2", n)
	}
}

func TestARevokedOrExpiredTokenIsRefusedWithinASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, requireToken)
		header := g.token("reader", "read")
		for range 100 {
			if got := g.do("GET", "/v1/jobs", "", header); got.status != 200 {
				t.Fatalf("got %d", got.status)
			}
		}
		if g.tokens.asked != 1 {
			t.Errorf("for 100 requests at once the store was asked %d times, want once", g.tokens.asked)
		}
		// Revoked elsewhere, such as by the command line on the same store.
		if err := g.tokens.RevokeToken(t.Context(), "reader", time.Now()); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		g.do("GET", "/v1/jobs", "", header).want(t, "a second after it was revoked", 401, fault.Unauthenticated)

		short := g.token("short", "read")
		g.tokens.tokens[0].ExpiresAt = time.Now().Add(time.Minute)
		if got := g.do("GET", "/v1/jobs", "", short); got.status != 200 {
			t.Fatalf("before it expires: got %d", got.status)
		}
		<-time.After(time.Minute)
		g.do("GET", "/v1/jobs", "", short).want(t, "when it has expired", 401, fault.Unauthenticated)
	})
}

func TestWhoKeepsGuessingTokensIsMadeToWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, requireToken)
		good := g.token("reader", "read")
		if got := g.do("GET", "/v1/jobs", "", good); got.status != 200 {
			t.Fatalf("a good token: got %d", got.status)
		}
		refused := 0
		for i := range 1000 {
			got := g.do("GET", "/v1/jobs", "", fmt.Sprintf("Authorization: Bearer guess-%d", i))
			switch got.status {
			case http.StatusTooManyRequests:
				refused++
				if got.header.Get("Retry-After") == "" {
					t.Error("429 without Retry-After")
				}
			case http.StatusUnauthorized:
			default:
				t.Fatalf("guess %d: got %d", i, got.status)
			}
		}
		if refused < 900 {
			t.Errorf("of 1000 guesses at once %d were told to wait, want almost all", refused)
		}
		for name, header := range map[string]string{"that was used before": good, "that was never used": g.token("new", "read", "admin")} {
			if got := g.do("GET", "/v1/jobs", "", header); got.status != 200 {
				t.Errorf("a good token %s from the same address: got %d, want 200", name, got.status)
			}
		}
		counted := string(g.do("GET", "/metrics", "", good).body)
		if !strings.Contains(counted, "dayfly_tokens_refused_total 1000\n") {
			t.Errorf("1000 guesses are not counted as that: %s", counted)
		}
		<-time.After(10 * time.Second)
		g.do("GET", "/v1/jobs", "", "Authorization: Bearer again").want(t, "a guess after a while", 401, fault.Unauthenticated)
	})
}

func TestTheTokenOfARunningCommandOpensItsOwnJobOnly(t *testing.T) {
	t.Parallel()
	for _, require := range []bool{true, false} {
		g := newRig(t, func(o *api.Options) { o.RequireToken = require })
		g.engine.addJob("job_a", dayfly.Running, "att_a")
		g.engine.addJob("job_b", dayfly.Running, "att_b")
		own := "Authorization: Bearer " + g.key.Job("att_a", 1)
		for _, path := range []string{"/v1/jobs/job_a", "/v1/jobs/job_a/logs", "/v1/jobs/job_a/events"} {
			if got := g.do("GET", path, "", own); got.status != 200 {
				t.Errorf("GET %s: got %d: %s", path, got.status, got.body)
			}
			other := strings.Replace(path, "job_a", "job_b", 1)
			g.do("GET", other, "", own).want(t, "GET "+other, 404, fault.NotFound)
			missing := strings.Replace(path, "job_a", "job_x", 1)
			if a, b := g.do("GET", other, "", own).problem(t).Detail, g.do("GET", missing, "", own).problem(t).Detail; strings.ReplaceAll(a, "job_b", "") != strings.ReplaceAll(b, "job_x", "") {
				t.Errorf("GET %s: the answers for another's job and for none differ: %q, %q", path, a, b)
			}
		}
		for pattern, scope := range expected {
			method, path, _ := strings.Cut(pattern, " ")
			path = strings.ReplaceAll(path, "{id}", "job_a")
			if scope == "" || scope == "-" || method == "GET" && (path == "/v1/jobs/job_a" || strings.HasSuffix(path, "/logs") || strings.HasSuffix(path, "/events")) {
				continue
			}
			g.do(method, path, "", own).want(t, "a command's token: "+pattern, 403, fault.Denied)
		}
		if got := g.do("POST", "/agent/v1/progress", `{"fraction":0.5,"text":"half"}`, own); got.status != 200 || len(g.engine.progress) != 1 {
			t.Errorf("progress: got %d: %s", got.status, got.body)
		}
		for name, token := range map[string]string{
			"a session token":  g.key.Session("att_a", 1),
			"a bootstrap one":  g.key.Bootstrap("att_a"),
			"another's fence":  strings.Replace(g.key.Job("att_a", 1), ".1_", ".2_", 1),
			"made up entirely": "dfj_att_a.1_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
		} {
			g.do("GET", "/v1/jobs/job_a", "", "Authorization: Bearer "+token).want(t, name, 401, fault.Unauthenticated)
			if !g.key.Genuine(token) { // for a route that no such token opens
				g.do("GET", "/v1/jobs", "", "Authorization: Bearer "+token).want(t, name+" for all jobs", 401, fault.Unauthenticated)
			}
		}
	}
}

func TestOnlyThisComputersNamesAreAnsweredWithoutTokens(t *testing.T) {
	t.Parallel()
	open, closed := newRig(t), newRig(t, requireToken)
	token := closed.token("reader", "read")
	for host, ok := range map[string]bool{
		"localhost": true, "localhost:7700": true, "LOCALHOST": true, "localhost.": true, "x.localhost:1": true, "127.0.0.1": true, "127.1.2.3:80": true,
		"[::1]": true, "[::1]:7700": true, "10.0.0.7:7700": true, "dayfly.example.com": true, "Dayfly.Example.com:443": true,
		"evil.example": false, "localhost.evil.example": false, "127.0.0.1.evil.example": false, "": false, "evillocalhost": false, "0x7f.1.evil": false,
	} {
		got := open.do("GET", "/v1/jobs", "", "Host: "+host)
		if ok != (got.status == 200) {
			t.Errorf("host %q without tokens: got %d, want it let in: %v", host, got.status, ok)
		}
		if !ok {
			got.want(t, "host "+host, 403, fault.Denied)
		}
		if got := closed.do("GET", "/v1/jobs", "", "Host: "+host, token); got.status != 200 {
			t.Errorf("host %q with a token: got %d, want 200", host, got.status)
		}
	}
}

func TestPagesOfOtherSitesAreRefused(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	const body = `{"command":["true"]}`
	for name, headers := range map[string][]string{
		"Sec-Fetch-Site":     {"Sec-Fetch-Site: cross-site"},
		"same site":          {"Sec-Fetch-Site: same-site"},
		"another origin":     {"Origin: https://evil.example"},
		"the origin of null": {"Origin: null"},
	} {
		g.do("POST", "/v1/jobs", body, headers...).want(t, name, 403, fault.Denied)
	}
	if n := len(g.engine.order); n != 0 {
		t.Errorf("requests for pages of other sites made %d jobs", n)
	}
	for name, header := range map[string]string{"its own page": "Sec-Fetch-Site: same-origin", "its own origin": "Origin: http://127.0.0.1:7700"} {
		got := g.do("POST", "/v1/jobs", body, header)
		if got.status != http.StatusCreated {
			t.Errorf("%s: got %d: %s", name, got.status, got.body)
		}
		if got.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: other origins are allowed to read the answer", name)
		}
	}
}

func TestForgedTokensOfAttemptsAreCountedAndSlowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, requireToken)
		last := 0
		for i := range 100 {
			forged := ticket.NewKey().Job(fmt.Sprintf("att_%d", i), 1)
			last = g.do("GET", "/v1/jobs/job_a", "", "Authorization: Bearer "+forged).status
		}
		if last != http.StatusTooManyRequests {
			t.Errorf("the last of 100 forged tokens at once: got %d, want 429", last)
		}
		counted := string(g.do("GET", "/metrics", "", g.token("reader", "read")).body)
		if !strings.Contains(counted, "dayfly_tokens_refused_total 100\n") {
			t.Errorf("100 forged tokens are not counted as that: %s", counted)
		}
	})
}

func TestATokenThatCannotBeLookedUpIsNotCountedAsRefused(t *testing.T) {
	t.Parallel()
	g := newRig(t, requireToken, func(o *api.Options) { o.Tokens = unreadable{new(keyring)} })
	g.do("GET", "/v1/jobs", "", "Authorization: Bearer good").want(t, "while the store does not answer", 503, fault.Unavailable)
	metrics, err := g.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range metrics {
		if n := family.GetMetric()[0].GetCounter().GetValue(); family.GetName() == "dayfly_tokens_refused_total" && n != 0 {
			t.Errorf("%v tokens are counted as refused, want 0", n)
		}
	}
}

// unreadable is a store of tokens that does not answer.
type unreadable struct{ *keyring }

func (unreadable) TokenByHash(context.Context, []byte) (*store.Token, error) {
	return nil, fmt.Errorf("unreadable: %w", fault.Unavailable)
}
