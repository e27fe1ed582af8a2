package server

import (
	"net/http"
	"strings"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/api"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// hireOwner returns the owner of hired machines at their providers, which is not that of jobs' machines: what the engine
// sweeps is its own. It is "" as long as the engine does not know which installation this is.
func (s *Server) hireOwner() string {
	install := s.engine.Install()
	if install == "" {
		return ""
	}
	return "dayfly-hired-" + install
}

// withHire sends the requests of programs that hire machines to who hires them out, and all others on.
func (s *Server) withHire(others http.Handler, main *api.API) http.Handler {
	hired := s.hire.Handler(main.PermitHire, main.Refuse)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, wire.HirePrefix) || strings.HasPrefix(r.URL.Path, wire.ProgramPrefix) {
			hired.ServeHTTP(w, r)
			return
		}
		others.ServeHTTP(w, r)
	})
}

// hired returns the hired machines as the API shows machines.
func (s *Server) hired() []dayfly.Machine {
	var all []dayfly.Machine
	uses := s.fleets.Uses()
	for _, m := range s.hire.Machines() {
		state := store.MachinePresent
		if m.State == machine.Creating {
			state = store.MachineCreating
		}
		all = append(all, dayfly.Machine{
			Name: m.Name, Provider: m.Provider, State: string(state), HiredBy: m.HiredBy, Use: uses[m.Name], Image: m.Image, Location: m.Location, CreatedAt: m.Created.UTC(),
		})
	}
	return all
}
