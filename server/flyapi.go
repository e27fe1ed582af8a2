package server

import (
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/api"
	"github.com/dayfly-run/dayfly/internal/flyapi"
)

// FlyAPI configures Fly's Machines API, which is then served beside Dayfly's own, under /v1/apps and /v1/platform. See
// docs/fly-api.md. The zero value of each field is its default.
type FlyAPI struct {
	// Provider makes the machines; default: that of jobs.
	Provider string
	// Plain says that the provider's machines are plain processes: Images then says which programs stand for images.
	Plain  bool
	Images []FlyImage

	Regions     []string      // the default one first; default: Fly's own
	Apps        []string      // made when the server starts, if they are missing
	Lifetime    time.Duration // of one launch of a machine; default and at most machine.MaxLifetime
	MaxCPUs     int           // that a machine is given at most; 0: what it asks for
	MaxMemoryMB int           // the same of memory
	MaxMachines int           // that may exist; default 1000
	Quirks      *FlyQuirks    // misbehavior to try clients with; nil: none
}

// FlyImage is a program that stands for images.
type FlyImage = flyapi.Image

// FlyQuirks is misbehavior like that of Fly on a bad day.
type FlyQuirks = flyapi.Quirks

// openFlyAPI makes the Machines API and returns the handler of both APIs.
func (s *Server) openFlyAPI(ctx context.Context, main *api.API) (http.Handler, error) {
	o := s.options.FlyAPI
	if o == nil {
		return main.Handler(), nil
	}
	name := o.Provider
	if name == "" {
		name = s.options.DefaultProvider
	}
	provider := s.options.Providers[name]
	if provider == nil {
		return nil, fault.Say(fault.Invalid, "the Machines API's provider %q is not one of the providers", name)
	}
	settings := flyapi.Options{
		Provider: provider, Ledger: filepath.Join(s.options.DataDir, "fly.db"),
		Regions: o.Regions, Apps: o.Apps, Lifetime: o.Lifetime, MaxCPUs: float64(o.MaxCPUs), MaxMemoryMB: o.MaxMemoryMB,
		MaxMachines: o.MaxMachines, Quirks: o.Quirks, Authorize: main.PermitFly, Logger: s.logger,
	}
	if o.Plain {
		settings.Images = &flyapi.Images{Known: o.Images}
	}
	var err error
	if s.fly, err = flyapi.New(ctx, settings); err != nil {
		return nil, err
	}
	return split(s.fly.Handler(), main.Handler()), nil
}

// split sends the requests of Fly's API to fly, and all others to main.
func split(fly, main http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path := r.URL.Path; path == "/v1/apps" || strings.HasPrefix(path, "/v1/apps/") || strings.HasPrefix(path, "/v1/platform/") {
			fly.ServeHTTP(w, r)
			return
		}
		main.ServeHTTP(w, r)
	})
}
