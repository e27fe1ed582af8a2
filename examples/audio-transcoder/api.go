package main

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/fault"
)

// maxBody is how long the body of a request may be, in bytes.
const maxBody = 64 << 10

// endpoint is one row of the API.
type endpoint struct {
	method string
	path   string // {job_id} stands for a job's id
	worker bool   // also for the job's worker, below /t/TOKEN
	do     func(ctx context.Context, s *service, r *request) (any, error)
}

// request is what an endpoint gets of a request.
type request struct {
	*http.Request
	id    string // of the job, if the path names one
	token string // of the run, if the path begins with one
}

func endpoints() []endpoint {
	return []endpoint{
		{"POST", "/jobs/", false, createJob},
		{"GET", "/jobs/", false, listJobs},
		{"DELETE", "/jobs/", false, deleteJobs},
		{"GET", "/jobs/{job_id}/", true, getJob},
		{"POST", "/jobs/{job_id}/status/started/", false, startJob},
		{"POST", "/jobs/{job_id}/status/completed/", true, completeJob},
	}
}

// api serves the endpoints. apiToken, when it is not "", is asked of everybody but workers, which have their own.
type api struct {
	service  *service
	apiToken string
}

// ServeHTTP answers one request.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	answer, err := a.serve(w, r)
	var no *refusal
	switch {
	case err == nil && answer == nil && w.Header().Get("Location") != "":
		w.WriteHeader(http.StatusTemporaryRedirect)
	case err == nil:
		write(w, http.StatusOK, answer)
	case errors.As(err, &no):
		write(w, no.status, map[string]any{"detail": no.detail})
	case errors.Is(err, fault.Unavailable) || errors.Is(err, fault.Exhausted):
		a.service.log.Warn("a request cannot be served now", "method", r.Method, "error", err)
		sentence, ok := fault.Sentence(err)
		if !ok {
			sentence = "Not now; try again later."
		}
		write(w, http.StatusServiceUnavailable, map[string]any{"detail": sentence})
	case r.Context().Err() != nil: // nobody waits for the answer
	default:
		a.service.log.Error("a request failed", "method", r.Method, "error", err)
		http.Error(w, "Internal Server Error", http.StatusInternalServerError)
	}
}

func (a *api) serve(w http.ResponseWriter, r *http.Request) (any, error) {
	path, token, byToken := splitToken(r.URL.Path)
	e, id, allowed := find(r.Method, path)
	switch {
	case e == nil && len(allowed) > 0:
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return nil, refuse(http.StatusMethodNotAllowed, "Method Not Allowed")
	case e == nil:
		if _, _, methods := find("", path+"/"); len(methods) > 0 {
			// Relative to the host, which another program in front of this one may call otherwise.
			to := url.URL{Path: r.URL.Path + "/", RawQuery: r.URL.RawQuery}
			w.Header().Set("Location", to.String())
			return nil, nil
		}
		return nil, refuse(http.StatusNotFound, "Not Found")
	}
	req := &request{Request: r, token: token}
	if byToken {
		if err := a.checkWorker(r.Context(), e, id, token); err != nil {
			return nil, err
		}
	} else if !a.knows(r) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		return nil, refuse(http.StatusUnauthorized, "Not authenticated")
	}
	if id != "" {
		var problems []problem
		if req.id, problems = readID(id); len(problems) > 0 {
			return nil, unprocessable(problems...)
		}
	}
	return e.do(r.Context(), a.service, req)
}

// knows reports whether the request is a client's.
func (a *api) knows(r *http.Request) bool {
	if a.apiToken == "" {
		return true
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && subtle.ConstantTimeCompare([]byte(token), []byte(a.apiToken)) == 1
}

// checkWorker lets a worker see and complete its own job, and nothing else.
func (a *api) checkWorker(ctx context.Context, e *endpoint, id, token string) error {
	if e.worker {
		if id, problems := readID(id); len(problems) == 0 {
			j, err := a.service.job(ctx, id)
			if err != nil || j.admits(token) {
				return err
			}
		}
	}
	return refuse(http.StatusForbidden, "This token is not for that.")
}

// splitToken takes /t/TOKEN from the beginning of a path. A worker that knows nothing of tokens sends one all the same,
// because it is part of the base URL that it is given.
func splitToken(path string) (rest, token string, ok bool) {
	after, ok := strings.CutPrefix(path, "/t/")
	if !ok {
		return path, "", false
	}
	token, rest, _ = strings.Cut(after, "/")
	return "/" + rest, token, true
}

// find returns the endpoint for a method and a path, with the id in the path, and the methods that the path has.
func find(method, path string) (found *endpoint, id string, methods []string) {
	for _, e := range endpoints() {
		if value, ok := match(e.path, path); ok {
			methods = append(methods, e.method)
			if e.method == method {
				found, id = &e, value
			}
		}
	}
	return found, id, methods
}

func match(pattern, path string) (id string, ok bool) {
	parts := strings.Split(path, "/")
	ok = slices.EqualFunc(strings.Split(pattern, "/"), parts, func(want, got string) bool {
		if want == "{job_id}" && got != "" {
			id = got
			return true
		}
		return want == got
	})
	return id, ok
}

// data is how every success is wrapped.
type data struct {
	Data any `json:"data"`
}

func createJob(ctx context.Context, s *service, r *request) (any, error) {
	body, err := io.ReadAll(r.Body)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, refuse(http.StatusRequestEntityTooLarge, "The body has more than %d bytes.", maxBody)
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "There was an error parsing the body")
	}
	f, problems := readFormat(r.Header.Get("Content-Type"), body)
	if len(problems) > 0 {
		return nil, unprocessable(problems...)
	}
	j, err := s.create(ctx, f)
	return s.answer(ctx, j, err)
}

func listJobs(ctx context.Context, s *service, _ *request) (any, error) {
	jobs, err := s.store.all(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]item, len(jobs))
	for i, j := range jobs {
		items[i].ID = j.id
		if items[i].body, err = s.body(ctx, j); err != nil {
			return nil, err
		}
	}
	return data{items}, nil
}

func deleteJobs(ctx context.Context, s *service, _ *request) (any, error) {
	n, err := s.removeAll(ctx)
	if err == nil && n == 0 {
		return nil, refuse(http.StatusNotFound, "No jobs found.")
	}
	return nil, err
}

func getJob(ctx context.Context, s *service, r *request) (any, error) {
	j, err := s.job(ctx, r.id)
	return s.answer(ctx, j, err)
}

func startJob(ctx context.Context, s *service, r *request) (any, error) {
	size, problems := readSize(r.URL.Query())
	if len(problems) > 0 {
		return nil, unprocessable(problems...)
	}
	j, err := s.start(ctx, r.id, size)
	return s.answer(ctx, j, err)
}

func completeJob(ctx context.Context, s *service, r *request) (any, error) {
	j, err := s.complete(ctx, r.id, r.token)
	return s.answer(ctx, j, err)
}

// answer is one job as the answer to a request.
func (s *service) answer(ctx context.Context, j *job, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	v, err := s.view(ctx, j)
	if err != nil {
		return nil, err
	}
	return data{v}, nil
}

func write(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // URLs are full of &, and people read this with curl
	_ = e.Encode(answer)   // who has hung up gets no answer, and there is nobody else to tell
}
