package hire

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// Handler returns the service over HTTP, see package wire. permit reports whether the caller may hire, and as which tenant;
// refuse answers with an error.
func (s *Service) Handler(permit func(*http.Request) (tenant string, err error), refuse func(http.ResponseWriter, *http.Request, error)) http.Handler {
	mux := http.NewServeMux()
	add := func(pattern string, handle func(tenant string, w http.ResponseWriter, r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if r.ContentLength != 0 { // what is left of a body that nobody wanted is read, and thrown away
				defer func() { _ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(drainTimeout)) }()
			}
			tenant, err := permit(r)
			var answer any
			if err == nil {
				answer, err = handle(tenant, w, r)
			}
			if err != nil {
				refuse(w, r, err)
				return
			}
			switch answer.(type) {
			case answered:
			case nil:
				w.WriteHeader(http.StatusNoContent)
			default:
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(answer) // who does not take it asks again
			}
		})
	}
	const base = wire.HirePrefix + "{provider}/"
	add("POST "+base+"machines", func(tenant string, w http.ResponseWriter, r *http.Request) (any, error) {
		var h wire.Hire
		if err := read(w, r, &h); err != nil {
			return nil, err
		}
		return s.Create(r.Context(), tenant, r.PathValue("provider"), &h)
	})
	add("GET "+base+"machines", func(tenant string, w http.ResponseWriter, r *http.Request) (any, error) {
		list, err := s.List(r.Context(), tenant, r.PathValue("provider"), r.FormValue("owner"), r.FormValue("holder"))
		return &wire.Hired{Machines: list}, err
	})
	add("GET "+base+"machines/{id}", func(tenant string, w http.ResponseWriter, r *http.Request) (any, error) {
		return s.Get(r.Context(), tenant, r.PathValue("provider"), r.PathValue("id"))
	})
	add("DELETE "+base+"machines/{id}", func(tenant string, w http.ResponseWriter, r *http.Request) (any, error) {
		return nil, s.Destroy(r.Context(), tenant, r.PathValue("provider"), r.PathValue("id"))
	})
	add("GET "+base+"machines/{id}/logs", s.showLogs)
	add("POST "+base+"preparations", s.prepare)
	add("POST "+base+"programs", func(tenant string, w http.ResponseWriter, r *http.Request) (any, error) {
		var program machine.Program
		if err := read(w, r, &program); err != nil {
			return nil, err
		}
		return nil, s.CheckProgram(r.Context(), r.PathValue("provider"), &program)
	})
	add("GET "+base+"gateway", func(tenant string, w http.ResponseWriter, r *http.Request) (any, error) {
		address, err := s.Gateway(r.Context(), r.PathValue("provider"))
		return &wire.HireGateway{Address: address}, err
	})
	add("GET "+wire.ProgramPrefix+"{digest}", func(tenant string, _ http.ResponseWriter, r *http.Request) (any, error) {
		return s.programs.state(tenant, r.PathValue("digest")), nil
	})
	add("PUT "+wire.ProgramPrefix+"{digest}", s.receive)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, r, fault.Say(fault.NotFound, "there is nothing at this path"))
	})
	return mux
}

// answered is the answer of a handler that has given one itself.
type answered struct{}

const (
	bodyTimeout  = 30 * time.Second // for the body of a message, and for a piece of a program
	drainTimeout = 5 * time.Second  // for the rest of a body that is not wanted
)

// receive takes a program, or what is missing of it.
func (s *Service) receive(tenant string, w http.ResponseWriter, r *http.Request) (any, error) {
	query := r.URL.Query()
	size, err1 := strconv.ParseInt(query.Get("size"), 10, 64)
	from, err2 := strconv.ParseInt(query.Get("from"), 10, 64)
	if err1 != nil || err2 != nil {
		return nil, fault.Say(fault.Invalid, "size and from must be numbers of bytes")
	}
	body := &patientReader{r.Body, http.NewResponseController(w)}
	defer body.done()
	return s.programs.receive(part{tenant: tenant, digest: r.PathValue("digest"), name: query.Get("name"), size: size, from: from}, body)
}

// patientReader gives each piece of a body its time.
type patientReader struct {
	body       io.Reader
	connection *http.ResponseController
}

func (p *patientReader) Read(b []byte) (int, error) {
	_ = p.connection.SetReadDeadline(time.Now().Add(bodyTimeout)) // where there is none, the server's own limits hold
	return p.body.Read(b)
}

// done takes the limit back: it must not outlive the body, because the server goes on reading to learn that the client has gone.
func (p *patientReader) done() { _ = p.connection.SetReadDeadline(time.Time{}) }

// read reads the body of a request.
func read(w http.ResponseWriter, r *http.Request, into any) error {
	connection := http.NewResponseController(w)
	_ = connection.SetReadDeadline(time.Now().Add(bodyTimeout))
	defer func() { _ = connection.SetReadDeadline(time.Time{}) }()
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
