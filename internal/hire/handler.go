package hire

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// Handler returns the service over HTTP, see package wire. permit reports whether the caller may hire, and refuse answers
// with an error.
func (s *Service) Handler(permit func(*http.Request) error, refuse func(http.ResponseWriter, *http.Request, error)) http.Handler {
	mux := http.NewServeMux()
	add := func(pattern string, handle func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			err := permit(r)
			var answer any
			if err == nil {
				answer, err = handle(r)
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
			_ = json.NewEncoder(w).Encode(answer) // who does not take it asks again
		})
	}
	const base = wire.HirePrefix + "{provider}/"
	add("POST "+base+"machines", func(r *http.Request) (any, error) {
		var h wire.Hire
		if err := read(r, &h); err != nil {
			return nil, err
		}
		return s.Create(r.Context(), r.PathValue("provider"), &h)
	})
	add("GET "+base+"machines", func(r *http.Request) (any, error) {
		list, err := s.List(r.Context(), r.PathValue("provider"), r.FormValue("owner"), r.FormValue("holder"))
		return &wire.Hired{Machines: list}, err
	})
	add("GET "+base+"machines/{id}", func(r *http.Request) (any, error) {
		return s.Get(r.Context(), r.PathValue("provider"), r.PathValue("id"))
	})
	add("DELETE "+base+"machines/{id}", func(r *http.Request) (any, error) {
		return nil, s.Destroy(r.Context(), r.PathValue("provider"), r.PathValue("id"))
	})
	add("POST "+base+"programs", func(r *http.Request) (any, error) {
		var program machine.Program
		if err := read(r, &program); err != nil {
			return nil, err
		}
		return nil, s.CheckProgram(r.Context(), r.PathValue("provider"), &program)
	})
	add("GET "+base+"gateway", func(r *http.Request) (any, error) {
		address, err := s.Gateway(r.Context(), r.PathValue("provider"))
		return &wire.HireGateway{Address: address}, err
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, r, fault.Say(fault.NotFound, "there is nothing at this path"))
	})
	return mux
}

// read reads the body of a request.
func read(r *http.Request, into any) error {
	text, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, wire.MaxHire))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return fault.Say(fault.TooLarge, "the request has more than %d bytes", wire.MaxHire)
	}
	if err != nil {
		return fault.Say(fault.Unavailable, "the request did not come whole")
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fault.Say(fault.Invalid, "the request is not what a Dayfly program sends")
	}
	return nil
}
