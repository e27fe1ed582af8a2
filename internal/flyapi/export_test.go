package flyapi

import (
	"encoding/json"
	"time"

	"github.com/dayfly-run/dayfly/machine"
)

// Patterns returns the patterns of all endpoints, as "METHOD PATH".
func (s *Service) Patterns() []string {
	var all []string
	for _, r := range s.table() {
		all = append(all, r.pattern)
	}
	return all
}

// ParseConfig reads a machine's configuration.
func ParseConfig(data []byte) (*Config, error) {
	c, err := parseConfig(data)
	return &Config{c}, err
}

// Config is a machine's configuration.
type Config struct{ config *config }

// Shown is the configuration as it is shown.
func (c *Config) Shown() string {
	data, err := json.Marshal(c.config.echo)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Spec is what a provider is asked for.
func (c *Config) Spec() *machine.Spec {
	s := &Service{Options: Options{Lifetime: machine.MaxLifetime, Regions: []string{"ams"}}, owner: "dfm-test"}
	r := &record{ID: "00000000000000", Launch: 1, Name: "n", Region: "ams", Instance: "i"}
	spec, err := s.spec(&state{r, c.config})
	if err != nil {
		return &machine.Spec{}
	}
	return spec
}

// StatusOf returns the status that an error is answered with.
func StatusOf(err error) int { return describe(err).status }

// NextRun returns when a schedule that was given at from is due next.
func NextRun(schedule string, from, now time.Time) time.Time { return nextRun(schedule, from, now) }
