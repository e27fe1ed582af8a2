package flyapi

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// The bounds of a list of events.
const (
	defaultEvents = 20
	maxEvents     = 50
)

// events lists what happened to a machine, newest first.
func (s *Service) events(r *request) (int, any, error) {
	limit := defaultEvents
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return 0, nil, invalid("limit %.40q is not a number from 1 to %d", text, maxEvents)
		}
		limit = min(n, maxEvents)
	}
	events := newestFirst(r.entry.record().Events)
	return http.StatusOK, events[:min(limit, len(events))], nil
}

// versionView is one version of a machine's configuration.
type versionView struct {
	Version    string                     `json:"version"`
	UserConfig map[string]json.RawMessage `json:"user_config"`
}

// versions lists the versions of a machine's configuration, newest first.
func (s *Service) versions(r *request) (int, any, error) {
	kept, err := s.ledger.Configs(r.Context(), r.entry.record().ID, "")
	if err != nil {
		return 0, nil, err
	}
	views := make([]versionView, 0, len(kept))
	for _, k := range kept {
		c, err := parseConfig(k.Config)
		if err != nil {
			return 0, nil, err
		}
		views = append(views, versionView{Version: k.Version, UserConfig: c.echo})
	}
	return http.StatusOK, views, nil
}
