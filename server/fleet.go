package server

import (
	"net/http"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/api"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// isFleet reports whether a request is about a fleet: a parent's, or a runner's.
func isFleet(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, wire.FleetPrefix) || strings.HasPrefix(r.URL.Path, wire.FleetRunnerPrefix)
}

// withFleets sends the requests of programs that share runners, and of those runners, to who lends them, and all others on.
func (s *Server) withFleets(others http.Handler, main *api.API) http.Handler {
	fleets := s.fleets.Handler(main.PermitHire, main.Refuse)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isFleet(r) {
			fleets.ServeHTTP(w, r)
			return
		}
		others.ServeHTTP(w, r)
	})
}

// fleetStatuses returns the fleets as the API shows them.
func (s *Server) fleetStatuses() []dayfly.FleetStatus {
	all := []dayfly.FleetStatus{}
	for _, f := range s.fleets.Fleets() {
		all = append(all, dayfly.FleetStatus{
			Name: f.Name, Provider: f.Provider, Token: f.Tenant, Min: f.Min, Max: f.Max, Programs: f.Programs, Runners: f.Runners,
			Waiting: f.Waiting, PausedUntil: orNil(f.PausedUntil), Message: f.Failure, FailedAt: orNil(f.FailedAt),
		})
	}
	return all
}

// orNil returns nil for no time.
func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
