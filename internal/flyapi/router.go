package flyapi

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// handle answers a request with a status and a body, which is nil for none, or with an error.
type handle func(*request) (status int, body any, err error)

// route is one endpoint.
type route struct {
	pattern string // of http.ServeMux
	action  string // for limits of its own; those of one action and one machine, or app, share one
	changes bool   // changes the machine that it names, for which a lease asks for its nonce
	handle  handle
}

// request is one request on its way.
type request struct {
	*http.Request
	w     http.ResponseWriter
	app   *appRecord // that the path names
	entry *entry     // that the path names
}

// table returns all endpoints.
func (s *Service) table() []route {
	const a, m = "/v1/apps/{app}", "/v1/apps/{app}/machines/{id}"
	return []route{
		{"POST /v1/apps", "create-app", false, s.createApp},
		{"GET /v1/apps", "list-apps", false, s.listApps},
		{"GET " + a, "get-app", false, s.getApp},
		{"DELETE " + a, "delete-app", false, s.deleteApp},

		{"POST " + a + "/machines", "create", false, s.createMachine},
		{"GET " + a + "/machines", "list", false, s.listMachines},
		{"GET " + m, "get", false, s.getMachine},
		{"POST " + m, "update", true, s.updateMachine},
		{"DELETE " + m, "destroy", true, s.destroyMachine},
		{"POST " + m + "/start", "start", true, s.startMachine},
		{"POST " + m + "/stop", "stop", true, s.stopMachine},
		{"POST " + m + "/suspend", "suspend", true, s.suspendMachine},
		{"POST " + m + "/restart", "restart", true, s.restartMachine},
		{"POST " + m + "/signal", "signal", true, s.signalMachine},
		{"GET " + m + "/wait", "wait", false, s.waitMachine},
		{"POST " + m + "/cordon", "cordon", true, s.cordonMachine},
		{"POST " + m + "/uncordon", "uncordon", true, s.uncordonMachine},

		{"GET " + m + "/lease", "get-lease", false, s.getLease},
		{"POST " + m + "/lease", "lease", false, s.takeLease},
		{"DELETE " + m + "/lease", "release-lease", false, s.releaseLease},

		{"POST " + m + "/exec", "exec", true, s.execMachine},
		{"GET " + m + "/ps", "ps", false, s.processes},
		{"GET " + m + "/events", "events", false, s.events},
		{"GET " + m + "/versions", "versions", false, s.versions},

		{"GET " + m + "/metadata", "get-metadata", false, s.getMetadata},
		{"PUT " + m + "/metadata", "metadata", true, s.putMetadata},
		{"PATCH " + m + "/metadata", "metadata", true, s.patchMetadata},
		{"GET " + m + "/metadata/{key}", "get-metadata", false, s.getMetadataKey},
		{"POST " + m + "/metadata/{key}", "metadata", true, s.setMetadataKey},
		{"DELETE " + m + "/metadata/{key}", "metadata", true, s.deleteMetadataKey},

		{"GET " + m + "/memory", "get-memory", false, s.getMemory},
		{"PUT " + m + "/memory", "memory", true, s.putMemory},
		{"POST " + m + "/memory/reclaim", "memory", true, s.reclaimMemory},

		{"GET /v1/platform/regions", "regions", false, s.listRegions},
		{"POST /v1/platform/placements", "placements", false, s.placements},
	}
}

func (s *Service) router() *http.ServeMux {
	mux := http.NewServeMux()
	for _, r := range s.table() {
		mux.HandleFunc(r.pattern, func(w http.ResponseWriter, hr *http.Request) { s.answer(w, hr, &r) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			probe := *r
			probe.Method = method
			if _, pattern := mux.Handler(&probe); pattern != "/" {
				writeProblem(w, refuse(http.StatusMethodNotAllowed, "unimplemented: %.20s is not possible here", r.Method))
				return
			}
		}
		writeProblem(w, refuse(http.StatusNotFound, "not_found: there is nothing at this path; docs/fly-api.md lists what is served"))
	})
	return mux
}

// drainTime is how long the rest of a body may take that is not wanted any more.
const drainTime = 5 * time.Second

// serve is the way of every request.
func (s *Service) serve(w http.ResponseWriter, r *http.Request) {
	id := s.ids.ulid(s.Now()) + "-" + s.Regions[0]
	w.Header().Set("fly-request-id", id)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	defer func() {
		if r.ContentLength != 0 {
			// What is left of a body that nobody wanted is read and thrown away by net/http, without a limit in time.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(drainTime))
		}
	}()
	defer func() {
		if failure := recover(); failure != nil {
			if err, ok := failure.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(failure)
			}
			s.log.Error("a request failed", "route", r.Pattern, "request", id, "panic", failure, "stack", string(debug.Stack()))
			writeProblem(w, describe(fault.Internal))
		}
	}()
	if s.Authorize != nil {
		if err := s.Authorize(withBearer(r)); err != nil {
			writeProblem(w, describe(err))
			return
		}
	}
	s.routes.ServeHTTP(w, r)
}

// withBearer returns the request with its token as the scheme Bearer. Fly's own tokens come as "FlyV1 TOKEN", and from
// some clients as "Bearer FlyV1 TOKEN".
func withBearer(r *http.Request) *http.Request {
	token := strings.TrimSpace(r.Header.Get("Authorization"))
	trimmed := false
	for _, scheme := range []string{"Bearer ", "FlyV1 "} {
		if len(token) >= len(scheme) && strings.EqualFold(token[:len(scheme)], scheme) {
			token, trimmed = strings.TrimSpace(token[len(scheme):]), true
		}
	}
	if !trimmed || len(r.Header["Authorization"]) != 1 {
		return r
	}
	clone := r.Clone(r.Context())
	clone.Header.Set("Authorization", "Bearer "+token)
	return clone
}

// answer answers one request of a route.
func (s *Service) answer(w http.ResponseWriter, hr *http.Request, rt *route) {
	r := &request{Request: hr, w: w}
	status, body, err := s.respond(r, rt)
	if err != nil {
		p := describe(err)
		if p.status >= http.StatusInternalServerError && fault.Of(err) != fault.Canceled {
			s.log.Warn("a request failed", "route", rt.pattern, "request", w.Header().Get("fly-request-id"), "error", err)
		}
		writeProblem(w, p)
		return
	}
	if body == nil {
		w.WriteHeader(status)
		return
	}
	writeJSON(w, status, body)
}

func (s *Service) respond(r *request, rt *route) (int, any, error) {
	if err := s.quirks.before(rt, r); err != nil {
		return 0, nil, err
	}
	if err := s.resolve(r); err != nil {
		return 0, nil, err
	}
	if rt.changes {
		if err := s.checkLease(r.entry.record(), r.Header.Get(nonceHeader)); err != nil {
			return 0, nil, err
		}
	}
	return rt.handle(r)
}

// resolve finds the app and the machine that the path names.
func (s *Service) resolve(r *request) error {
	if name := r.PathValue("app"); name != "" {
		if r.app = s.app(name); r.app == nil {
			return noApp()
		}
	}
	id := r.PathValue("id")
	if id == "" {
		return nil
	}
	if !validID(id) {
		return refuse(http.StatusBadRequest, "invalid machine ID, '%.60s'", id)
	}
	e := s.find(id)
	if e == nil || e.record().App != r.app.ID || s.quirks.hides(e.record()) {
		return noMachine()
	}
	r.entry = e
	return nil
}

// read reads the request's body.
func (r *request) read(limit int64, v any) error { return readBody(r.w, r.Request, limit, v) }

// committed is a context for what must be finished once it has been begun, whoever hangs up.
func (r *request) committed() context.Context { return context.WithoutCancel(r.Context()) }

// yes reports whether a parameter of the query is set.
func (r *request) yes(name string) bool {
	values, given := r.URL.Query()[name]
	return given && values[0] != "false" && values[0] != "0"
}

// fine is the answer to what was done.
type fine struct {
	OK bool `json:"ok"`
}
