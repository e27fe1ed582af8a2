package api_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/api"
	"github.com/dayfly-run/dayfly/internal/ticket"
)

// described is what these tests read of the description of one operation.
type described struct {
	OperationID string `json:"operationId"`
	Summary     string `json:"summary"`
	Parameters  []struct {
		In, Name string
		Required bool
	} `json:"parameters"`
	RequestBody *struct {
		Content map[string]any `json:"content"`
	} `json:"requestBody"`
	Responses map[string]struct {
		Description string                    `json:"description"`
		Headers     map[string]map[string]any `json:"headers"`
		Content     map[string]any            `json:"content"`
	} `json:"responses"`
}

// description returns what the server says of itself, by path and method in lower case.
func (g *rig) description() map[string]map[string]described {
	g.t.Helper()
	return decode[struct {
		Paths map[string]map[string]described `json:"paths"`
	}](g.t, g.do("GET", "/openapi.json", ""), 200).Paths
}

func TestEveryRouteIsDescribedExceptTheAgents(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *api.Options) { o.Metrics = prometheus.NewRegistry() })
	paths := g.description()
	routes := map[string]bool{}
	for _, pattern := range g.api.Routes() {
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.ReplaceAll(path, "...}", "}")
		operation, isDescribed := paths[path][strings.ToLower(method)]
		routes[strings.ToLower(method)+" "+path] = true
		switch agents := strings.HasPrefix(path, "/agent/"); {
		case agents && isDescribed:
			t.Errorf("%s is described, but agents come with the server", pattern)
		case !agents && (operation.OperationID == "" || operation.Summary == "" || len(operation.Responses) < 2):
			t.Errorf("%s is described as %+v, want an id, a summary and its answers", pattern, operation)
		}
		for _, part := range strings.Split(path, "/") {
			name, isVariable := strings.CutPrefix(strings.TrimSuffix(part, "}"), "{")
			if isVariable && isDescribed && !operation.has("path", name, true) {
				t.Errorf("%s is described without its variable %s", pattern, name)
			}
		}
	}
	for path, operations := range paths {
		for method := range operations {
			if !routes[method+" "+path] && !(method == "head" && routes["get "+path]) {
				t.Errorf("%s %s is described and does not exist", method, path)
			}
		}
	}
}

func (d described) has(in, name string, required bool) bool {
	for _, p := range d.Parameters {
		if p.In == in && p.Name == name {
			return p.Required == required
		}
	}
	return false
}

// TestFilesAreDescribedAsTheyAreServed makes requests for files that are answered in every way, and holds what came
// against the description.
func TestFilesAreDescribedAsTheyAreServed(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	operations := g.description()["/v1/blobs/{key}"]
	g.engine.addJob("job_a", dayfly.Running, "att_a", "att_b")
	const key = "artifacts/job_a/att_b/n"
	put, get := g.putURL(key, 10, "text/plain"), g.getURL(key, "n")
	old := g.key.URL("", ticket.File{Method: "PUT", Key: key, Expires: time.Now().Add(-time.Hour), Limit: 10})
	tag := `"` + sum("0123456789") + `"`
	seen := map[string]map[int]bool{"put": {}, "get": {}, "head": {}}
	for _, request := range []struct {
		method, target, body string
		headers              []string
	}{
		{"GET", get, "", nil},
		{"PUT", put, "0123456789", []string{"Content-Type: text/plain"}},
		{"PUT", put, "0123456789", []string{"Content-Type: text/html"}},
		{"PUT", put, "0123456789a", []string{"Content-Type: text/plain"}},
		{"PUT", old, "0123456789", nil},
		{"PUT", g.putURL(key, 10, ""), "0123456789", []string{"Content-Type: ;;"}},
		{"PUT", g.putURL("artifacts/job_a/att_a/n", 10, ""), "0123456789", nil},
		{"PUT", g.putURL("artifacts/job_b/att_a/n", 10, ""), "0123456789", nil},
		{"GET", get, "", nil},
		{"GET", get, "", []string{"Range: bytes=1-2", "If-Range: " + tag}},
		{"GET", get, "", []string{"Range: bytes=10-"}},
		{"GET", get, "", []string{"If-None-Match: " + tag}},
		{"GET", get + "x", "", nil},
		{"HEAD", get, "", nil},
		{"HEAD", get, "", []string{"Range: bytes=1-2"}},
		{"HEAD", get, "", []string{"If-None-Match: " + tag}},
		{"HEAD", get + "x", "", nil},
	} {
		got := g.do(request.method, request.target, request.body, request.headers...)
		method := strings.ToLower(request.method)
		operation := operations[method]
		seen[method][got.status] = true
		answer, known := operation.Responses[strconv.Itoa(got.status)]
		if !known {
			t.Errorf("%s answered %d, which is not described", request.method, got.status)
			continue
		}
		contentType, _, _ := strings.Cut(got.header.Get("Content-Type"), ";")
		if _, any := answer.Content["*/*"]; len(got.body) > 0 && method != "head" && !any && answer.Content[contentType] == nil {
			t.Errorf("%s answered %d with %s, described are %v", request.method, got.status, contentType, slices.Collect(maps.Keys(answer.Content)))
		}
		for name := range answer.Headers {
			if got.header.Get(name) == "" {
				t.Errorf("%s answered %d without %s, which is described", request.method, got.status, name)
			}
		}
		for _, name := range []string{"Etag", "Content-Range", "Content-Disposition", "Last-Modified", "Accept-Ranges"} {
			if described := answer.Headers[name] != nil || answer.Headers["ETag"] != nil && name == "Etag"; got.header.Get(name) != "" && !described && got.status < 400 {
				t.Errorf("%s answered %d with %s, which is not described", request.method, got.status, name)
			}
		}
		for _, header := range request.headers {
			if name, _, _ := strings.Cut(header, ":"); name != "Content-Type" && method == "get" && !operation.has("header", name, false) {
				t.Errorf("%s takes the header %s, which is not described", request.method, name)
			}
		}
		_, query, _ := strings.Cut(request.target, "?")
		for pair := range strings.SplitSeq(query, "&") {
			name, _, _ := strings.Cut(pair, "=")
			if !operation.has("query", name, name == "expires" || name == "signature") {
				t.Errorf("%s takes the parameter %s, which is not described as it is", request.method, name)
			}
		}
	}
	for method, want := range map[string][]int{
		"put": {201, 403, 404, 409, 413, 415, 422}, "get": {200, 206, 304, 403, 404, 416}, "head": {200, 206, 304, 403},
	} {
		if got := slices.Sorted(maps.Keys(seen[method])); !slices.Equal(got, want) {
			t.Errorf("%s was answered with %v, want %v, or the test shows less than it should", method, got, want)
		}
	}
	if body := operations["put"].RequestBody; body == nil || body.Content["*/*"] == nil {
		t.Errorf("the body of an upload is described as %v", body)
	}
	for status := range operations["put"].Responses {
		if code, err := strconv.Atoi(status); err == nil && http.StatusText(code) == "" {
			t.Errorf("%s is no status", status)
		}
	}
}

func TestTheDescriptionNamesNoHeaderTwice(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	var raw map[string]any
	if err := json.Unmarshal(g.do("GET", "/openapi.json", "").body, &raw); err != nil {
		t.Fatal(err)
	}
	for path, operations := range g.description() {
		for method, operation := range operations {
			seen := map[string]bool{}
			for _, p := range operation.Parameters {
				if seen[p.In+p.Name] {
					t.Errorf("%s %s has the parameter %s twice", method, path, p.Name)
				}
				seen[p.In+p.Name] = true
			}
			for status, answer := range operation.Responses {
				if answer.Description == "" {
					t.Errorf("%s %s: the answer %s has no description", method, path, status)
				}
				for name, header := range answer.Headers {
					if header["name"] != nil || header["in"] != nil {
						t.Errorf("%s %s: the header %s of %s says its name, which OpenAPI forbids", method, path, name, status)
					}
				}
			}
		}
	}
}

// constants returns the values of a file's constants of a type.
func constants(t *testing.T, file, kind string) (words []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		name, ok := spec.Type.(*ast.Ident)
		value, literal := spec.Values[0].(*ast.BasicLit)
		if !ok || !literal || name.Name != kind {
			return true
		}
		word, err := strconv.Unquote(value.Value)
		if err != nil {
			t.Fatal(err)
		}
		words = append(words, word)
		return true
	})
	slices.Sort(words)
	return words
}

func TestTheWordsOfTheAPIAreDescribedCompletely(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	type property struct {
		Type any
		Enum []string
	}
	schemas := decode[struct {
		Components struct {
			Schemas map[string]struct{ Properties map[string]property }
		}
	}](t, g.do("GET", "/openapi.json", ""), 200).Components.Schemas
	jobStates, reasons := constants(t, "../../job.go", "State"), constants(t, "../../job.go", "Reason")
	for where, want := range map[string][]string{
		"Job state": jobStates, "Event state": jobStates, "Why state": jobStates, "Attempt state": constants(t, "../../job.go", "AttemptState"),
		"Job reason": reasons, "Event reason": reasons, "Attempt reason": reasons, "Problem code": constants(t, "../../fault/fault.go", "Kind"),
	} {
		schema, name, _ := strings.Cut(where, " ")
		got := slices.Sorted(slices.Values(schemas[schema].Properties[name].Enum))
		if len(want) == 0 || !slices.Equal(got, want) {
			t.Errorf("%s: got the words %v, want %v", where, got, want)
		}
	}
	if command := schemas["JobSpec"].Properties["command"].Type; command != "array" {
		t.Errorf("a command is described as %v, want an array and never null", command)
	}
}

func TestEveryAnswerOfTheRoutesAboutJobsIsDescribed(t *testing.T) {
	t.Parallel()
	paths := newRig(t).description()
	for route, want := range map[string]string{
		"post /v1/jobs 200":            "application/json",
		"post /v1/jobs 201":            "application/json",
		"post /v1/jobs/{id}/retry 200": "application/json",
		"get /v1/jobs/{id}/logs 200":   "text/event-stream text/plain",
		"get /v1/jobs/{id}/logs 204":   "",
		"get /v1/jobs/{id}/events 200": "application/json text/event-stream",
		"get /v1/jobs/{id}/events 204": "",
	} {
		part := strings.Fields(route)
		answer, ok := paths[part[1]][part[0]].Responses[part[2]]
		if got := strings.Join(slices.Sorted(maps.Keys(answer.Content)), " "); !ok || got != want {
			t.Errorf("%s: described is %v with the content %q, want %q", route, ok, got, want)
		}
	}
}
