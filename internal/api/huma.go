package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"slices"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/machine"
)

// newHuma returns the part of huma that is used here: parameters into structs, structs into answers, and all of it
// into a description. Bodies are read by readBody, and the description is served by addService: huma's own way of
// serving it makes it on the first request, without a lock.
func newHuma(a *API, version string) huma.API {
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	registry.RegisterTypeAlias(reflect.TypeFor[dayfly.Duration](), reflect.TypeFor[durationSchema]())
	registry.RegisterTypeAlias(reflect.TypeFor[dayfly.Money](), reflect.TypeFor[moneySchema]())
	registry.RegisterTypeAlias(reflect.TypeFor[machine.Rate](), reflect.TypeFor[rateSchema]())
	registry.RegisterTypeAlias(reflect.TypeFor[huma.ErrorModel](), reflect.TypeFor[Problem]())
	format := huma.Format{Marshal: marshal, Unmarshal: json.Unmarshal}
	config := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "Dayfly", Version: version, License: &huma.License{Name: "Apache 2.0", Identifier: "Apache-2.0"},
				Description: "Runs any job on a machine that lives only as long as the job. Errors are problem details (RFC 9457) " +
					"whose code says what to decide by. Lists are paged: pass next_cursor on as cursor until it is missing.",
			},
			Servers: []*huma.Server{{URL: "/", Description: "The server that this description comes from."}},
			Components: &huma.Components{
				Schemas: registry,
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"token": {Type: "http", Scheme: "bearer", Description: "A token with the scope that the operation names. Not needed on a server that asks for none."},
				},
			},
		},
		Formats:                      map[string]huma.Format{"application/json": format, "json": format},
		DefaultFormat:                "application/json",
		Transformers:                 []huma.Transformer{a.transform},
		RejectUnknownQueryParameters: true,
	}
	return humago.New(a.router, config)
}

func marshal(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// durationSchema describes a dayfly.Duration, which cannot do so itself: package dayfly does not know huma.
type durationSchema struct{}

// Schema implements huma.SchemaProvider.
func (durationSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		OneOf:       []*huma.Schema{{Type: "string", Examples: []any{"90s", "1h30m"}}, {Type: "number", Minimum: new(float64)}},
		Description: `A length of time: a string such as "90s" or "1h30m", or a number of seconds.`,
	}
}

// caller gives a handler the request it answers. Inputs embed it.
type caller struct {
	w http.ResponseWriter
	r *http.Request
}

// Resolve implements huma.Resolver. It also refuses what huma would read as something else or not at all: a query that
// does not parse, a parameter without a value, one that is given twice.
func (c *caller) Resolve(ctx huma.Context) (errs []error) {
	c.r, c.w = humago.Unwrap(ctx)
	if c.r.URL.RawQuery == "" {
		return nil
	}
	query, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return []error{&huma.ErrorDetail{Location: "query", Message: "the query of the URL cannot be decoded"}}
	}
	for name, values := range query {
		several := name == "state" || name == "label"
		if len(values) > 1 && !several {
			errs = append(errs, &huma.ErrorDetail{Location: "query." + name, Message: "given more than once"})
		}
		if slices.Contains(values, "") {
			errs = append(errs, &huma.ErrorDetail{Location: "query." + name, Message: "empty"})
		}
	}
	return errs
}

// route is what is told about a route.
type route struct {
	method, path string
	id           string // for clients that are generated
	summary      string
	text         string
	status       int // of success; 0: 200
	body         reflect.Type
}

// add adds a route to the router and to the description.
func add[I, O any](a *API, r route, handler func(context.Context, *I) (*O, error)) {
	rule, _ := accessOf(r.method + " " + r.path)
	op := huma.Operation{
		Method: r.method, Path: r.path, OperationID: r.id, Summary: r.summary, Description: r.text, DefaultStatus: r.status,
	}
	if rule.scope != "" {
		op.Security = []map[string][]string{{"token": {}}, {}}
		op.Extensions = map[string]any{"x-scope": rule.scope}
	}
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handler(ctx, in)
		if err != nil {
			return nil, a.problem(ctx, err)
		}
		return out, nil
	})
	if r.body != nil {
		spec := a.huma.OpenAPI()
		schema := spec.Components.Schemas.Schema(r.body, true, "")
		spec.Paths[r.path].Post.RequestBody = &huma.RequestBody{
			Required: true,
			Content:  map[string]*huma.MediaType{"application/json": {Schema: schema}},
		}
	}
}
