package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// router is the ServeMux behind all routes. A route exists only if the table of access knows it.
type router struct {
	api      *API
	mux      *http.ServeMux
	patterns []string
	errs     []error
}

func newRouter(a *API) *router {
	rt := &router{api: a, mux: http.NewServeMux()}
	rt.mux.HandleFunc("/", rt.nowhere)
	return rt
}

// HandleFunc adds a route, guarded by what the table says. It has the form that huma's adapter wants.
func (rt *router) HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request)) {
	rule, ok := accessOf(pattern)
	if !ok {
		rt.errs = append(rt.errs, fmt.Errorf("api: route %q is missing in the table of access", pattern))
		return
	}
	rt.patterns = append(rt.patterns, pattern)
	rt.mux.HandleFunc(pattern, rt.api.guarded(rule, handler))
}

// ServeHTTP passes a request on to its route.
func (rt *router) ServeHTTP(w http.ResponseWriter, r *http.Request) { rt.mux.ServeHTTP(w, r) }

// check reports routes that could not be added.
func (rt *router) check() error { return errors.Join(rt.errs...) }

// nowhere answers what no route matches.
func (rt *router) nowhere(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete} {
		probe := *r
		probe.Method = method
		if _, pattern := rt.mux.Handler(&probe); pattern != "/" {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		rt.api.refuse(w, r, fault.Say(fault.NotFound, "there is nothing at this path; /openapi.json describes what there is"))
		return
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	rt.api.refuse(w, r, &withStatus{fault.Say(fault.Invalid, "%.20s is not possible here; %s is", r.Method, strings.Join(allowed, " or ")), http.StatusMethodNotAllowed})
}

// drainTimeout is how long the rest of a body may take that is not wanted any more.
const drainTimeout = 5 * time.Second

// serve is the way of every request.
func (a *API) serve(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w}
	begin := a.now()
	defer func() {
		if r.ContentLength != 0 {
			// What is left of a body that nobody wanted is read and thrown away by net/http, without a limit in time.
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(drainTimeout))
		}
		a.measures.request(r.Pattern, rec.status, a.now().Sub(begin))
	}()
	defer func() {
		if failure := recover(); failure != nil {
			a.recovered(rec, r, failure)
		}
	}()
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := errors.Join(a.checkHost(r), a.checkOrigin(r)); err != nil {
		a.refuse(rec, r, err)
		return
	}
	a.router.ServeHTTP(rec, r)
}

// recovered answers a request whose handler panicked. If the answer has begun, all that is left is to break the
// connection, so that nobody takes half of it for the whole.
func (a *API) recovered(rec *recorder, r *http.Request, failure any) {
	if err, ok := failure.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(failure)
	}
	err := panicked(failure)
	if rec.status != 0 {
		a.logger.ErrorContext(r.Context(), "a request failed in the middle of its answer", "route", r.Pattern, "error", err)
		panic(http.ErrAbortHandler)
	}
	a.refuse(rec, r, err)
}

func panicked(failure any) error { return fmt.Errorf("api: panic: %v\n%s", failure, debug.Stack()) }

// recovering runs a function and makes an error of its panic.
func recovering(run func() error) (err error) {
	defer func() {
		if failure := recover(); failure != nil {
			err = panicked(failure)
		}
	}()
	return run()
}

// checkOrigin refuses requests that a browser makes for a page of another site.
func (a *API) checkOrigin(r *http.Request) error {
	if a.origins.Check(r) != nil {
		return fault.Say(fault.Denied, "this request comes from a page of another site, which may not use this server")
	}
	return nil
}

// recorder notes the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (rec *recorder) WriteHeader(status int) {
	if rec.status == 0 && status >= 200 {
		rec.status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (rec *recorder) Write(p []byte) (int, error) {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	return rec.ResponseWriter.Write(p)
}

// ReadFrom implements io.ReaderFrom, which is how files are sent by the kernel.
func (rec *recorder) ReadFrom(r io.Reader) (int64, error) {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	if to, ok := rec.ResponseWriter.(io.ReaderFrom); ok {
		return to.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{rec.ResponseWriter}, r)
}

// Unwrap lets http.ResponseController find the connection.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }
