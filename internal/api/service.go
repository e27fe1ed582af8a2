package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/dayfly-run/dayfly/fault"
)

// addService adds the routes about the server itself. It comes after the others, because it describes them.
func (a *API) addService(metrics *prometheus.Registry) {
	add(a, route{method: http.MethodGet, path: "/v1/version", id: "get-version", summary: "Show the server's version"}, a.showVersion)
	add(a, route{method: http.MethodGet, path: "/healthz", id: "check-health", summary: "Whether the server answers"}, a.healthz)
	add(a, route{
		method: http.MethodGet, path: "/readyz", id: "check-readiness", summary: "Whether the server can take jobs", text: "503 while it cannot.",
	}, a.readyz)
	if metrics != nil {
		a.router.HandleFunc("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}).ServeHTTP)
	}
}

type versionOutput struct {
	Body struct {
		Version string `json:"version"`
	}
}

func (a *API) showVersion(context.Context, *struct{ caller }) (*versionOutput, error) {
	out := &versionOutput{}
	out.Body.Version = a.version
	return out, nil
}

type statusOutput struct {
	Body struct {
		Status string `json:"status" doc:"Always ok."`
	}
}

func (a *API) healthz(context.Context, *struct{ caller }) (*statusOutput, error) {
	out := &statusOutput{}
	out.Body.Status = "ok"
	return out, nil
}

func (a *API) readyz(ctx context.Context, in *struct{ caller }) (*statusOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := a.ready(ctx); err != nil {
		if sentence, ok := fault.Sentence(err); ok {
			return nil, fault.Say(fault.Unavailable, "%s", sentence)
		}
		a.logger.WarnContext(ctx, "the server is not ready", "error", err)
		return nil, fmt.Errorf("%w: %w", fault.Unavailable, err)
	}
	return a.healthz(ctx, in)
}

// describe makes the description of the API and serves it: for programs, and for people.
func (a *API) describe(metrics bool) {
	rendered := sync.OnceValues(func() (*description, error) {
		spec := a.huma.OpenAPI()
		describePlain(spec, metrics)
		describeJobs(spec)
		return render(spec)
	})
	serve := func(pattern, contentType string, part func(*description) []byte) {
		a.router.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			d, err := rendered()
			if err != nil {
				a.refuse(w, r, err)
				return
			}
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
			w.Write(part(d)) // the client may be gone, which is its own affair
		})
	}
	serve("GET /openapi.json", "application/openapi+json", func(d *description) []byte { return d.json })
	serve("GET /openapi.yaml", "application/openapi+yaml", func(d *description) []byte { return d.yaml })
	serve("GET /docs", "text/html; charset=utf-8", func(d *description) []byte { return d.page })
}

// description is the API's description in its three forms.
type description struct{ json, yaml, page []byte }

// render writes the description. That takes half as long as all the rest of a start, and most commands that serve
// themselves never ask for it, so it is done at the first request.
func render(spec *huma.OpenAPI) (*description, error) {
	asJSON, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("api: describing the API: %w", err)
	}
	asYAML, err := spec.YAML()
	if err != nil {
		return nil, fmt.Errorf("api: describing the API: %w", err)
	}
	var page bytes.Buffer
	writeDocs(&page, spec)
	return &description{asJSON, asYAML, page.Bytes()}, nil
}
