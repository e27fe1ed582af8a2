package app

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/flyapi"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/server"
)

// FlyAPI configures Fly's Machines API, served beside Dayfly's own.
type FlyAPI struct {
	Enabled     bool            `toml:"enabled"`
	Provider    string          `toml:"provider"` // "": the default provider
	Regions     []string        `toml:"regions"`  // none: Fly's own
	Apps        []string        `toml:"apps"`     // made when the server starts
	Lifetime    dayfly.Duration `toml:"lifetime"`
	MaxMachines int             `toml:"max_machines"`
	MaxCPUs     int             `toml:"max_cpus"`      // 0: what a machine asks for
	MaxMemoryMB int             `toml:"max_memory_mb"` // 0: what a machine asks for

	// Images says by patterns which programs stand for images, where machines are plain processes.
	Images map[string]FlyImage `toml:"images"`
	Quirks FlyQuirks           `toml:"quirks"`
}

// FlyImage is a program that stands for images.
type FlyImage struct {
	Entrypoint []string `toml:"entrypoint"`
	Command    []string `toml:"command"`
	Dir        string   `toml:"dir"`
}

// FlyQuirks makes the Machines API misbehave, to try clients with.
type FlyQuirks struct {
	RateLimits     bool            `toml:"rate_limits"`
	NoRoom         []string        `toml:"no_room"` // REGION:CLASS
	NoRoomPercent  int             `toml:"no_room_percent"`
	NoRoomClass    string          `toml:"no_room_class"`
	TimeoutPercent int             `toml:"timeout_percent"`
	HiddenFor      dayfly.Duration `toml:"hidden_for"`
}

func defaultFlyAPI() FlyAPI {
	return FlyAPI{
		Lifetime: dayfly.Duration(machine.MaxLifetime), MaxMachines: 1000,
		Regions: []string{}, Apps: []string{}, Images: map[string]FlyImage{},
		Quirks: FlyQuirks{NoRoom: []string{}, NoRoomClass: "host"},
	}
}

// validate checks the section, as Config.Validate does.
func (f *FlyAPI) validate(c *Config) error {
	if f.Provider != "" && !slices.Contains(c.ProviderNames(), f.Provider) {
		return fault.Field("fly_api.provider", "%q is not an enabled provider; the enabled providers are: %s",
			f.Provider, strings.Join(c.ProviderNames(), ", "))
	}
	if d := time.Duration(f.Lifetime); d < time.Second || d > machine.MaxLifetime {
		return fault.Field("fly_api.lifetime", "%v is not between 1s and %v", f.Lifetime, machine.MaxLifetime)
	}
	if f.MaxMachines < 1 {
		return fault.Field("fly_api.max_machines", "%d is too few; the least that works is 1", f.MaxMachines)
	}
	for _, limit := range []struct {
		key   string
		value int
	}{{"fly_api.max_cpus", f.MaxCPUs}, {"fly_api.max_memory_mb", f.MaxMemoryMB}} {
		if limit.value < 0 {
			return fault.Field(limit.key, "%d is no limit; 0 gives machines what they ask for", limit.value)
		}
	}
	for _, pattern := range slices.Sorted(maps.Keys(f.Images)) {
		image, key := f.Images[pattern], "fly_api.images."+pattern
		if len(image.Command)+len(image.Entrypoint) == 0 {
			return fault.Field(key, "command is missing: what a machine of such an image runs")
		}
		if image.Dir != "" && !filepath.IsAbs(image.Dir) {
			return fault.Field(key, "dir %q is not an absolute path", image.Dir)
		}
	}
	return f.Quirks.validate()
}

func (q *FlyQuirks) validate() error {
	classes := flyapi.NoRoomClasses()
	for _, entry := range q.NoRoom {
		if region, class, ok := strings.Cut(entry, ":"); !ok || region == "" || !slices.Contains(classes, class) {
			return fault.Field("fly_api.quirks.no_room", "%q is not a region and one of %s, such as \"bos:region\"", entry, strings.Join(classes, ", "))
		}
	}
	if !slices.Contains(classes, q.NoRoomClass) {
		return fault.Field("fly_api.quirks.no_room_class", "%q is not one of %s", q.NoRoomClass, strings.Join(classes, ", "))
	}
	for _, percent := range []struct {
		key   string
		value int
	}{{"fly_api.quirks.no_room_percent", q.NoRoomPercent}, {"fly_api.quirks.timeout_percent", q.TimeoutPercent}} {
		if percent.value < 0 || percent.value > 100 {
			return fault.Field(percent.key, "%d is not between 0 and 100", percent.value)
		}
	}
	return nil
}

// options returns the section as the server takes it; nil when the API is not served. A server inside of another command
// does not serve it: nobody would find it there.
func (f *FlyAPI) options(c *Config, embedded bool) *server.FlyAPI {
	if !f.Enabled || embedded {
		return nil
	}
	o := &server.FlyAPI{
		Provider: f.Provider, Regions: f.Regions, Apps: f.Apps, Lifetime: time.Duration(f.Lifetime),
		MaxCPUs: f.MaxCPUs, MaxMemoryMB: f.MaxMemoryMB, MaxMachines: f.MaxMachines,
		Quirks: &server.FlyQuirks{
			RateLimits: f.Quirks.RateLimits, NoRoom: map[string]string{},
			NoRoomShare: float64(f.Quirks.NoRoomPercent) / 100, NoRoomClass: f.Quirks.NoRoomClass,
			TimeoutShare: float64(f.Quirks.TimeoutPercent) / 100, HiddenFor: time.Duration(f.Quirks.HiddenFor),
		},
	}
	for _, entry := range f.Quirks.NoRoom {
		region, class, _ := strings.Cut(entry, ":")
		o.Quirks.NoRoom[region] = class
	}
	name := f.Provider
	if name == "" {
		name = c.DefaultProvider
	}
	for _, b := range c.enabledBackends() {
		o.Plain = o.Plain || b.name == name && b.plain
	}
	// The longest pattern is the most exact one, so it is tried first.
	patterns := slices.Sorted(maps.Keys(f.Images))
	slices.SortStableFunc(patterns, func(a, b string) int { return len(b) - len(a) })
	for _, pattern := range patterns {
		image := f.Images[pattern]
		o.Images = append(o.Images, server.FlyImage{Pattern: pattern, Entrypoint: image.Entrypoint, Command: image.Command, Dir: image.Dir})
	}
	return o
}
