package api

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/ticket"
)

// The scopes of tokens. Each is for itself; admin includes the others.
const (
	scopeSubmit = "submit" // add, start and retry jobs
	scopeRead   = "read"   // see jobs, their output and machines
	scopeCancel = "cancel" // cancel and delete jobs
	scopeFly    = "fly"    // use Fly's Machines API
	scopeHire   = "hire"   // have machines for the runners of one's own programs
	scopeShell  = "shell"  // enter the machines of jobs, and see all that is in them
	scopeAdmin  = "admin"  // everything, tokens too
)

// access says who may use a route.
type access struct {
	// scope is what a token must have; "" means that the handler itself looks at the caller's authority: a signed
	// URL, an agent's token, or none because the answer is for everybody.
	scope string
	// own lets the token of a running command use the route for its own job.
	own bool
}

// accessOf is the table of all routes. What is not in it cannot be reached.
func accessOf(pattern string) (access, bool) {
	rule, ok := map[string]access{
		"POST /v1/jobs":              {scope: scopeSubmit},
		"POST /v1/quotes":            {scope: scopeSubmit},
		"GET /v1/costs":              {scope: scopeRead},
		"POST /v1/jobs/{id}/start":   {scope: scopeSubmit},
		"POST /v1/jobs/{id}/retry":   {scope: scopeSubmit},
		"POST /v1/jobs/{id}/cancel":  {scope: scopeCancel},
		"DELETE /v1/jobs/{id}":       {scope: scopeCancel},
		"GET /v1/jobs":               {scope: scopeRead},
		"GET /v1/jobs/{id}":          {scope: scopeRead, own: true},
		"GET /v1/jobs/{id}/logs":     {scope: scopeRead, own: true},
		"GET /v1/jobs/{id}/events":   {scope: scopeRead, own: true},
		"GET /v1/jobs/{id}/why":      {scope: scopeRead},
		"GET /v1/jobs/{id}/wait":     {scope: scopeRead},
		"GET /v1/machines":           {scope: scopeRead},
		"GET /v1/pools":              {scope: scopeRead},
		"GET /v1/fleets":             {scope: scopeRead},
		"GET /v1/version":            {scope: scopeRead},
		"GET /metrics":               {scope: scopeRead},
		"POST /v1/tokens":            {scope: scopeAdmin},
		"GET /v1/tokens":             {scope: scopeAdmin},
		"DELETE /v1/tokens/{id}":     {scope: scopeAdmin},
		"POST /v1/jobs/{id}/release": {scope: scopeCancel},
		"GET /v1/jobs/{id}/shell":    {scope: scopeShell},

		// For everybody: they say nothing about jobs.
		"GET /healthz":      {},
		"GET /readyz":       {},
		"GET /docs":         {},
		"GET /openapi.json": {},
		"GET /openapi.yaml": {},

		// The signed URL is the authority.
		"PUT /v1/blobs/{key...}": {},
		"GET /v1/blobs/{key...}": {},

		// The tokens of attempts and commands are, and the engine checks them.
		"POST /agent/v1/claim":                         {},
		"POST /agent/v1/attempts/{id}/heartbeat":       {},
		"POST /agent/v1/attempts/{id}/logs":            {},
		"POST /agent/v1/attempts/{id}/artifacts":       {},
		"POST /agent/v1/attempts/{id}/result":          {},
		"GET /agent/v1/attempts/{id}/inputs/{name...}": {},
		"POST /agent/v1/progress":                      {},
		"POST /agent/v1/batch":                         {},
		"POST /agent/v1/heartbeats":                    {},
	}[pattern]
	return rule, ok
}

// guarded returns the handler behind its rule.
func (a *API) guarded(rule access, handler http.HandlerFunc) http.HandlerFunc {
	if rule.scope == "" {
		return handler
	}
	return func(w http.ResponseWriter, r *http.Request) {
		if err := a.permit(r, rule); err != nil {
			a.refuse(w, r, err)
			return
		}
		handler(w, r)
	}
}

// permit reports whether the caller of a route may use it.
func (a *API) permit(r *http.Request, rule access) error {
	_, err := a.caller(r, rule)
	return err
}

// caller returns the token of a caller who may use a route; nil when he has none of the store's, and needs none.
func (a *API) caller(r *http.Request, rule access) (*store.Token, error) {
	token, err := bearer(r)
	switch {
	case err != nil:
		return nil, err
	case token == "" && a.needsToken(r):
		return nil, fault.Say(fault.Unauthenticated, "a token is needed; send it as: Authorization: Bearer TOKEN")
	case token == "":
		return nil, nil
	case ticket.IsAttemptToken(token) && a.key.Genuine(token):
		return nil, a.permitOwn(r, rule, token)
	case ticket.IsAttemptToken(token):
		a.measures.refusedToken()
		return nil, a.guard.unknown(r.RemoteAddr)
	}
	known, err := a.guard.live(r.Context(), token, r.RemoteAddr)
	if err != nil {
		if kind := fault.Of(err); kind == fault.Unauthenticated || kind == fault.Exhausted { // and not a store that fails
			a.measures.refusedToken()
		}
		return nil, err
	}
	for _, s := range known.Scopes {
		if s == rule.scope || s == scopeAdmin {
			return known, nil
		}
	}
	return nil, fault.Say(fault.Denied, "this token does not have the scope %s", rule.scope)
}

// PermitFly reports whether a request may use Fly's Machines API, which is served beside this one: as for a route that
// wants the scope fly. Where no token is asked for, one that cannot be ours is passed over, because programs written for
// Fly always send one. The kinds are fault.Unauthenticated, fault.Denied and fault.Exhausted.
func (a *API) PermitFly(r *http.Request) error {
	if err := errors.Join(a.checkHost(r), a.checkOrigin(r)); err != nil {
		return err
	}
	if token, err := bearer(r); !a.needsToken(r) && (err != nil || !strings.HasPrefix(token, tokenPrefix) && !ticket.IsAttemptToken(token)) {
		return nil
	}
	return a.permit(r, access{scope: scopeFly})
}

// PermitHire reports whether a request may hire machines, which is served beside this API: as for a route that wants the scope
// hire. It returns for whom: the name of the token, so that who replaces a token by another of that name keeps what he has
// hired; "" is the owner, and whoever comes where no token is asked for. The kinds are fault.Unauthenticated, fault.Denied and
// fault.Exhausted.
func (a *API) PermitHire(r *http.Request) (tenant string, err error) {
	if err := errors.Join(a.checkHost(r), a.checkOrigin(r)); err != nil {
		return "", err
	}
	token, err := a.caller(r, access{scope: scopeHire})
	if err != nil || token == nil || token.ID == OwnersToken {
		return "", err
	}
	return token.Name, nil
}

// OwnersToken is the id of the owner's token, which is none of the store's: another may have its name.
const OwnersToken = "owner"

// Refuse answers a request that is served beside this API with an error, as this one does.
func (a *API) Refuse(w http.ResponseWriter, r *http.Request, err error) { a.refuse(w, r, err) }

// needsToken reports whether nobody is let in without a token where the request came.
func (a *API) needsToken(r *http.Request) bool { return a.requireToken || a.fromMachine(r) }

// permitOwn lets a running command see its own job. Other jobs do not exist for it.
func (a *API) permitOwn(r *http.Request, rule access, token string) error {
	if !rule.own {
		return fault.Say(fault.Denied, "the token of a running job may only read that job and report its progress")
	}
	id, err := a.engine.JobOf(r.Context(), token)
	if err != nil {
		return err
	}
	if id != r.PathValue("id") {
		return noJob(r.PathValue("id"))
	}
	return nil
}

// bearer returns the token that a request carries, or "". It is looked for in the header only: what stands in URLs
// ends up in histories and logs.
func bearer(r *http.Request) (string, error) {
	header := r.Header["Authorization"]
	if len(header) == 0 {
		return "", nil
	}
	scheme, token, _ := strings.Cut(header[0], " ")
	token = strings.TrimSpace(token)
	if len(header) > 1 || !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > 512 {
		return "", fault.Say(fault.Unauthenticated, "the header must be: Authorization: Bearer TOKEN")
	}
	return token, nil
}

// checkHost refuses requests that do not name this computer, when no token is asked for. A page on the web can make a
// browser send requests here by pointing its own name at this address; but the name then gives it away. Addresses
// cannot be pointed elsewhere.
func (a *API) checkHost(r *http.Request) error {
	if a.needsToken(r) {
		return nil
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if own, err := url.Parse(a.baseURL(nil)); err == nil && host != "" && strings.EqualFold(host, own.Hostname()) {
		return nil
	}
	return fault.Say(fault.Denied, "this server does not go by the host name %.100q; use its address, or configure its public URL", host)
}
