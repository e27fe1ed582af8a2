package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/api"
	"github.com/dayfly-run/dayfly/internal/store"
)

func TestEveryKindOfFailureHasItsStatus(t *testing.T) {
	t.Parallel()
	for kind, want := range map[fault.Kind]struct {
		status int
		retry  bool
	}{
		fault.Invalid: {422, false}, fault.TooLarge: {413, false}, fault.Unauthenticated: {401, false}, fault.Denied: {403, false},
		fault.NotFound: {404, false}, fault.Conflict: {409, false}, fault.AlreadyClaimed: {409, false}, fault.StaleAttempt: {409, false},
		fault.AlreadyFinished: {409, false}, fault.IdempotencyMismatch: {409, false}, fault.Exhausted: {429, true}, fault.StoreFull: {507, true},
		fault.Unavailable: {503, true}, fault.Unsupported: {501, false}, fault.Canceled: {503, true}, fault.Internal: {500, false},
	} {
		g := newRig(t)
		for name, err := range map[string]error{
			"with a sentence": fault.Say(kind, "a sentence for people"),
			"without":         fmt.Errorf("store: secret-detail: %w: /var/lib/secret", kind),
		} {
			g.engine.err = err
			got := g.do("GET", "/v1/jobs/job_a", "")
			p := got.want(t, string(kind)+" "+name, want.status, kind)
			if strings.Contains(string(got.body), "secret") {
				t.Errorf("%s %s: the answer tells internals: %s", kind, name, got.body)
			}
			if name == "with a sentence" && p.Detail != "a sentence for people" {
				t.Errorf("%s: got detail %q, want the sentence", kind, p.Detail)
			}
			if (got.header.Get("Retry-After") != "") != want.retry {
				t.Errorf("%s: Retry-After %q, want one: %v", kind, got.header.Get("Retry-After"), want.retry)
			}
		}
	}
}

func TestAFailureInsideIsLoggedUnderTheIDThatTheAnswerCarries(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	g := newRig(t, func(o *api.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	g.engine.err = errors.New("secret-detail of an unknown failure")
	p := g.do("GET", "/v1/jobs/job_a", "").want(t, "an unknown failure", 500, fault.Internal)
	if p.RequestID == "" || !strings.Contains(log.String(), p.RequestID) || !strings.Contains(log.String(), "secret-detail") {
		t.Errorf("the log does not have the failure under %q: %s", p.RequestID, log.String())
	}
	g.engine.err, g.engine.boom = nil, true
	p = g.do("GET", "/v1/jobs/job_a", "").want(t, "a panic", 500, fault.Internal)
	if !strings.Contains(log.String(), p.RequestID) || !strings.Contains(log.String(), "out of order") || !strings.Contains(log.String(), "fake_test.go") {
		t.Errorf("the log does not have the panic and its stack under %q: %s", p.RequestID, log.String())
	}
	g.engine.boom = false
	if got := g.do("GET", "/healthz", ""); got.status != 200 {
		t.Errorf("after the panic: got %d", got.status)
	}
}

func TestUnknownRoutesAndMethodsAreProblems(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/job", "/v2/jobs", "/v1/jobs/", "/v1/jobs/a/b", "/agent/v1", "/favicon.ico", "/debug/pprof/"} {
		g.do("GET", path, "").want(t, path, 404, fault.NotFound)
	}
	for request, allow := range map[string]string{
		"PUT /v1/jobs":              "GET, HEAD, POST",
		"PATCH /v1/jobs/job_a":      "GET, HEAD, DELETE",
		"GET /v1/jobs/job_a/cancel": "POST",
		"GET /agent/v1/batch":       "POST",
		"POST /healthz":             "GET, HEAD",
		"DELETE /v1/blobs/a/b":      "GET, HEAD, PUT",
		"OPTIONS /v1/jobs":          "GET, HEAD, POST",
	} {
		method, path, _ := strings.Cut(request, " ")
		got := g.do(method, path, "")
		got.want(t, request, 405, fault.Invalid)
		if got.header.Get("Allow") != allow {
			t.Errorf("%s: Allow is %q, want %q", request, got.header.Get("Allow"), allow)
		}
	}
}

func TestHealthAndReadiness(t *testing.T) {
	t.Parallel()
	var failure error
	g := newRig(t, requireToken, func(o *api.Options) { o.Ready = func(context.Context) error { return failure } })
	if got := g.do("GET", "/readyz", ""); got.status != 200 {
		t.Errorf("ready: got %d", got.status)
	}
	failure = fault.Say(fault.Unavailable, "the server is still reading its store")
	if p := g.do("GET", "/readyz", "").want(t, "starting", 503, fault.Unavailable); p.Detail != failure.Error() {
		t.Errorf("starting: got %q", p.Detail)
	}
	failure = errors.New("secret-detail")
	if got := g.do("GET", "/readyz", ""); got.status != 503 || strings.Contains(string(got.body), "secret") {
		t.Errorf("broken: got %d %s", got.status, got.body)
	}
	if got := g.do("GET", "/healthz", ""); got.status != 200 {
		t.Errorf("healthy: got %d", got.status)
	}
	version := decode[struct{ Version string }](t, g.do("GET", "/v1/version", "", g.token("r", "read")), 200)
	if version.Version != "1.2.3" {
		t.Errorf("version: got %q", version.Version)
	}
}

func TestTheDescriptionIsOpenAPIWithoutAnythingFromElsewhere(t *testing.T) {
	t.Parallel()
	g := newRig(t, requireToken)
	got := g.do("GET", "/openapi.json", "")
	var spec struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Summary     string `json:"summary"`
			RequestBody any    `json:"requestBody"`
		} `json:"paths"`
		Components struct {
			Schemas map[string]any `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(got.body, &spec); err != nil || got.status != 200 || !strings.HasPrefix(spec.OpenAPI, "3.1") {
		t.Fatalf("the description: status %d, version %q, %v", got.status, spec.OpenAPI, err)
	}
	for pattern := range expected {
		method, path, _ := strings.Cut(pattern, " ")
		operation := spec.Paths[path][strings.ToLower(method)]
		public := strings.HasPrefix(path, "/v1/") && !strings.Contains(path, "blobs")
		if public && (operation.OperationID == "" || operation.Summary == "") {
			t.Errorf("%s is not described", pattern)
		}
		if strings.HasPrefix(path, "/agent/") && operation.OperationID != "" {
			t.Errorf("%s is described, but agents come with the server", pattern)
		}
	}
	if spec.Paths["/v1/jobs"]["post"].RequestBody == nil || spec.Components.Schemas["JobSpec"] == nil || spec.Components.Schemas["Problem"] == nil {
		t.Error("the description lacks the body of a submission, or the form of errors")
	}
	if strings.Contains(string(got.body), "ErrorModel") {
		t.Error("the description has huma's form of errors")
	}
	if got := g.do("GET", "/openapi.yaml", ""); got.status != 200 || !strings.Contains(string(got.body), "/v1/jobs/{id}/logs") {
		t.Errorf("as YAML: got %d", got.status)
	}
	page := g.do("GET", "/docs", "")
	if page.status != 200 || strings.Contains(string(page.body), "<script") || strings.Contains(string(page.body), "src=") || !strings.Contains(string(page.body), "concurrency_key") {
		t.Errorf("the page for people: got %d, %d bytes", page.status, len(page.body))
	}
	if page.header.Get("Content-Security-Policy") == "" {
		t.Error("the page for people has no Content-Security-Policy")
	}
}

func TestMetricsCountRequestsAndJobs(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *api.Options) {
		o.Fleets = func() []dayfly.FleetStatus {
			return []dayfly.FleetStatus{{Name: "thumbs", Provider: "docker", Token: "web", Runners: map[string]int{"busy": 2}, Waiting: 5}}
		}
	})
	g.do("GET", "/v1/jobs/none", "")
	g.do("GET", "/nowhere/at/all", "")
	got := string(g.do("GET", "/metrics", "").body)
	for _, want := range []string{
		`dayfly_http_request_seconds_count{route="GET /v1/jobs/{id}",status="404"} 1`,
		`dayfly_http_request_seconds_count{route="none",status="404"} 1`,
		`dayfly_jobs{provider="local",queue="default",state="queued"} 3`,
		"dayfly_streams 0",
		`dayfly_pool_machines{pool="ffmpeg",provider="fly",state="idle"} 1`,
		`dayfly_pool_machines{pool="ffmpeg",provider="fly",state="busy"} 0`,
		`dayfly_fleet_runners{fleet="thumbs",provider="docker",state="busy",token="web"} 2`,
		`dayfly_fleet_runners{fleet="thumbs",provider="docker",state="idle",token="web"} 0`,
		`dayfly_fleet_waiting{fleet="thumbs",provider="docker",token="web"} 5`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

func TestMachinesAreListedWithoutThoseThatAreGone(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.engine.machines = []*store.Machine{
		{Name: "m3", Provider: "local", State: store.MachinePresent}, {Name: "m2", Provider: "fly", State: store.MachineDeleting}, {Name: "m1", Provider: "local", State: store.MachineGone},
	}
	type page struct {
		Items []dayfly.Machine `json:"items"`
		Next  string           `json:"next_cursor"`
	}
	for target, want := range map[string]string{
		"/v1/machines": "m3 m2", "/v1/machines?all=true": "m3 m2 m1", "/v1/machines?state=gone": "m1", "/v1/machines?provider=fly": "m2",
	} {
		var names []string
		for _, m := range decode[page](t, g.do("GET", target, ""), 200).Items {
			names = append(names, m.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: got %s, want %s", target, got, want)
		}
	}
	first := decode[page](t, g.do("GET", "/v1/machines?limit=1", ""), 200)
	second := decode[page](t, g.do("GET", "/v1/machines?limit=1&cursor="+first.Next, ""), 200)
	if len(second.Items) != 1 || second.Items[0].Name != "m2" {
		t.Errorf("the second page: got %+v", second)
	}
	for _, target := range []string{"/v1/machines?state=running", "/v1/machines?all=maybe", "/v1/machines?limit=1001"} {
		g.do("GET", target, "").want(t, target, 422, fault.Invalid)
	}
}

func TestHeadIsAnsweredLikeGetWithoutABody(t *testing.T) {
	t.Parallel()
	g := newRig(t).serve()
	g.engine.addJob("job_a", dayfly.Running, "att_a")
	for _, path := range []string{"/v1/jobs", "/v1/jobs/job_a", "/v1/jobs/job_a/logs?follow=true", "/v1/jobs/job_a/events", "/healthz"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodHead, g.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", "text/event-stream")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatalf("HEAD %s: %v", path, err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("HEAD %s: got %s", path, resp.Status)
		}
	}
}
