package fleet

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// Handler returns the service over HTTP, for parents and for runners; see package wire. permit reports whether the caller may hire,
// and as which tenant; refuse answers with an error. Runners prove themselves with tokens of their own.
func (s *Service) Handler(permit func(*http.Request) (tenant string, err error), refuse func(http.ResponseWriter, *http.Request, error)) http.Handler {
	mux := http.NewServeMux()
	add := func(pattern string, permit func(*http.Request) (tenant string, err error), handle func(tenant string, r *http.Request) (status int, answer any, err error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			status, answer := 0, any(nil)
			tenant, err := permit(r)
			if err == nil {
				status, answer, err = handle(tenant, r)
			}
			if err != nil {
				refuse(w, r, err)
				return
			}
			if answer == nil {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(answer) // who does not take it asks again
		})
	}
	const base = wire.FleetPrefix + "{provider}/{fleet}"
	at := func(r *http.Request) (provider, fleet string) { return r.PathValue("provider"), r.PathValue("fleet") }
	add("PUT "+base, permit, func(tenant string, r *http.Request) (int, any, error) {
		var terms wire.FleetTerms
		if err := read(r, wire.MaxHire, &terms); err != nil {
			return 0, nil, err
		}
		provider, fleet := at(r)
		return 0, nil, s.Announce(tenant, provider, fleet, &terms)
	})
	add("POST "+base+"/machines", permit, func(tenant string, r *http.Request) (int, any, error) {
		var want wire.Reserve
		if err := read(r, wire.MaxHire, &want); err != nil {
			return 0, nil, err
		}
		provider, fleet := at(r)
		m, wait, err := s.Reserve(r.Context(), tenant, provider, fleet, &want)
		if wait != nil {
			return http.StatusAccepted, wait, nil
		}
		return http.StatusOK, m, err
	})
	add("GET "+base+"/machines", permit, func(tenant string, r *http.Request) (int, any, error) {
		provider, fleet := at(r)
		list, err := s.List(tenant, provider, fleet, r.FormValue("owner"), r.FormValue("holder"))
		return http.StatusOK, &wire.Hired{Machines: list}, err
	})
	add("GET "+base+"/machines/{id}", permit, func(tenant string, r *http.Request) (int, any, error) {
		provider, fleet := at(r)
		m, err := s.Get(r.Context(), tenant, provider, fleet, r.PathValue("id"))
		return http.StatusOK, m, err
	})
	add("DELETE "+base+"/machines/{id}", permit, func(tenant string, r *http.Request) (int, any, error) {
		provider, fleet := at(r)
		return 0, nil, s.Release(tenant, provider, fleet, r.PathValue("id"))
	})
	add("POST "+base+"/programs", permit, func(tenant string, r *http.Request) (int, any, error) {
		var program machine.Program
		if err := read(r, wire.MaxHire, &program); err != nil {
			return 0, nil, err
		}
		return 0, nil, s.Hire.CheckProgram(r.Context(), r.PathValue("provider"), &program)
	})
	add("GET "+base+"/gateway", permit, func(tenant string, r *http.Request) (int, any, error) {
		address, err := s.Hire.Gateway(r.Context(), r.PathValue("provider"))
		return http.StatusOK, &wire.HireGateway{Address: address}, err
	})
	genuine := func(r *http.Request) (string, error) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !s.Genuine(token, r.PathValue("machine")) {
			return "", fault.Say(fault.Unauthenticated, "this token does not speak for that machine")
		}
		return "", nil
	}
	add("POST "+wire.FleetRunnerPrefix+"{machine}", genuine, func(tenant string, r *http.Request) (int, any, error) {
		var call wire.FleetCall
		if err := read(r, wire.MaxFleetCall, &call); err != nil {
			return 0, nil, err
		}
		answer, err := s.Call(r.Context(), r.PathValue("machine"), &call)
		return http.StatusOK, answer, err
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, r, fault.Say(fault.NotFound, "there is nothing at this path"))
	})
	return mux
}

// read reads the body of a request.
func read(r *http.Request, most int64, into any) error {
	text, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, most))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return fault.Say(fault.TooLarge, "the request has more than %d bytes", most)
	}
	if err != nil {
		return fault.Say(fault.Unavailable, "the request did not come whole")
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fault.Say(fault.Invalid, "the request is not what a Dayfly program sends")
	}
	return nil
}
