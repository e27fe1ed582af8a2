package flyapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/flyapi/ledger"
)

// maxApps is how many apps may exist.
const maxApps = 1000

// appRequest asks for an app. Some clients say app_name, others name.
type appRequest struct {
	Name           string `json:"name"`
	AppName        string `json:"app_name"`
	OrgSlug        string `json:"org_slug"`
	Network        string `json:"network"`
	IdempotencyKey string `json:"idempotency_key"`
}

// appView is an app as it is shown.
type appView struct {
	ID           string       `json:"id"`
	Name         string       `json:"name"`
	Status       string       `json:"status"`
	MachineCount int          `json:"machine_count"`
	Network      string       `json:"network,omitempty"`
	Organization organization `json:"organization"`
}

type organization struct {
	Name string `json:"name"`
	Slug string `json:"slug"`
}

// appName is what an app may be called: it becomes a part of host names and labels.
var appName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

func (s *Service) createApp(r *request) (int, any, error) {
	wanted := &appRequest{}
	if err := r.read(maxSmallBody, wanted); err != nil {
		return 0, nil, err
	}
	if wanted.Name == "" {
		wanted.Name = wanted.AppName
	}
	app, err := s.addApp(r.committed(), wanted)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, map[string]any{"id": app.ID, "created_at": app.Created.UnixMilli()}, nil
}

// addApp makes an app. Asking again with the same idempotency key finds it.
func (s *Service) addApp(ctx context.Context, wanted *appRequest) (*appRecord, error) {
	if !appName.MatchString(wanted.Name) {
		return nil, unprocessable("name %.80q is not the name of an app: 1 to 63 characters of a-z, 0-9 and '-'", wanted.Name)
	}
	if len(wanted.OrgSlug) > 100 || len(wanted.Network) > 100 || len(wanted.IdempotencyKey) > 200 {
		return nil, unprocessable("org_slug, network and idempotency_key are short texts")
	}
	s.mu.Lock()
	existing := s.apps[wanted.Name]
	count := len(s.apps)
	app := &appRecord{ID: randomHex(8), Name: wanted.Name, Org: wanted.OrgSlug, Network: wanted.Network, Created: s.Now().UTC(), Key: wanted.IdempotencyKey}
	if app.Org == "" {
		app.Org = "personal"
	}
	if existing == nil && count < maxApps {
		s.apps[wanted.Name] = app // taken, before it is written, so that nobody else takes it meanwhile
	}
	s.mu.Unlock()
	switch {
	case existing != nil && existing.Key != "" && existing.Key == wanted.IdempotencyKey:
		return existing, nil
	case existing != nil:
		return nil, refuse(http.StatusUnprocessableEntity, "Validation failed: Name has already been taken").coded("name_taken")
	case count >= maxApps:
		return nil, unprocessable("there are %d apps, which is the limit", maxApps)
	}
	data, err := json.Marshal(app)
	if err != nil {
		err = fmt.Errorf("flyapi: %w: %w", fault.Internal, err)
	} else {
		err = s.ledger.Commit(ctx, "app", &ledger.Change{Apps: map[string][]byte{app.ID: data}})
	}
	if err != nil {
		s.mu.Lock()
		delete(s.apps, app.Name)
		s.mu.Unlock()
		return nil, err
	}
	return app, nil
}

// app returns an app by its name, or nil.
func (s *Service) app(name string) *appRecord {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.apps[name]
}

func (s *Service) appByID(id string) *appRecord {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, app := range s.apps {
		if app.ID == id {
			return app
		}
	}
	return nil
}

func (s *Service) listApps(r *request) (int, any, error) {
	org := r.URL.Query().Get("org_slug")
	s.mu.RLock()
	var apps []*appRecord
	for _, app := range s.apps {
		if org == "" || app.Org == org {
			apps = append(apps, app)
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(apps, func(a, b *appRecord) int { return strings.Compare(a.Name, b.Name) })
	views := make([]appView, 0, len(apps))
	for _, app := range apps {
		views = append(views, s.viewApp(app))
	}
	return http.StatusOK, map[string]any{"apps": views, "total_apps": len(views)}, nil
}

func (s *Service) viewApp(app *appRecord) appView {
	count := s.living(app.ID)
	status := "pending"
	if count > 0 {
		status = "deployed"
	}
	return appView{
		ID: app.ID, Name: app.Name, Status: status, MachineCount: count, Network: app.Network,
		Organization: organization{Name: app.Org, Slug: app.Org},
	}
}

// living counts the machines of an app that are not destroyed; of all apps if app is "".
func (s *Service) living(app string) int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	count := 0
	for _, e := range s.machines {
		if r := e.record(); (app == "" || r.App == app) && r.State != destroyed {
			count++
		}
	}
	return count
}

func (s *Service) getApp(r *request) (int, any, error) {
	return http.StatusOK, s.viewApp(r.app), nil
}

// deleteApp deletes an app. With force its machines are destroyed first, and their rows go when they are gone.
func (s *Service) deleteApp(r *request) (int, any, error) {
	if count := s.living(r.app.ID); count > 0 && !r.yes("force") {
		return 0, nil, precondition("the app has %d machines; destroy them first, or delete it with force=true", count)
	}
	ctx := r.committed()
	if err := s.ledger.Commit(ctx, "drop-app", &ledger.Change{DropApps: []string{r.app.ID}}); err != nil {
		return 0, nil, err
	}
	s.mu.Lock()
	delete(s.apps, r.app.Name)
	s.mu.Unlock()
	for _, e := range s.all(r.app.ID) {
		if err := s.destroy(ctx, e); err != nil {
			return 0, nil, err
		}
	}
	return http.StatusAccepted, nil, nil
}
