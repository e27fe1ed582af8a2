package app

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine/docker"
	"github.com/dayfly-run/dayfly/server"
)

// Config is everything that can be configured. docs/configuration.md documents each key, and a test holds the two
// together. [Default] is the configuration of a server that nobody has configured.
type Config struct {
	// Listen are the addresses the API is served on.
	Listen []string `toml:"listen"`
	// RequireToken asks everybody for a token, whatever the addresses.
	RequireToken bool `toml:"require_token"`
	// AllowOpen lets the API be served beyond this computer without a token.
	AllowOpen bool `toml:"allow_open"`
	// DataDir is where everything is kept.
	DataDir string `toml:"data_dir"`
	// PublicURL is the server's base URL as clients and machines see it, when that is not the first of Listen.
	PublicURL string `toml:"public_url"`
	// DefaultProvider runs the jobs that name none: one provider, or several in the order of preference, separated by commas.
	DefaultProvider string `toml:"default_provider"`
	// Retention is how long jobs are kept after their end, with their logs and files.
	Retention dayfly.Duration `toml:"retention"`

	Blobs     Blobs            `toml:"blobs"`
	Log       Log              `toml:"log"`
	TLS       TLS              `toml:"tls"`
	Providers Providers        `toml:"providers"`
	Queues    map[string]Queue `toml:"queues"`
	Pools     map[string]Pool  `toml:"pools"`
	Limits    Limits           `toml:"limits"`
	Timeouts  Timeouts         `toml:"timeouts"`
	FlyAPI    FlyAPI           `toml:"fly_api"`
}

// Log says how the server logs.
type Log struct {
	Level  string `toml:"level"`  // debug, info, warn or error
	Format string `toml:"format"` // text or json
}

// TLS names the files of the server's certificate; with neither it serves plain HTTP.
type TLS struct {
	Certificate string `toml:"certificate"`
	Key         string `toml:"key"`
}

// Queue says where the jobs of one queue run, and how many at once.
type Queue struct {
	Provider       string       `toml:"provider"`        // of jobs that name none; "": the default provider
	Concurrency    int          `toml:"concurrency"`     // all together; 0: no limit
	KeyConcurrency int          `toml:"key_concurrency"` // with the same concurrency key; 0: no limit
	Pool           string       `toml:"pool"`            // of jobs that name none and can use it; "": none
	DailyCost      dayfly.Money `toml:"daily_cost"`      // what its jobs may cost in a day before no more are launched; 0: no limit
}

// Pool says which machines are kept warm for the jobs that name it.
type Pool struct {
	Provider    string          `toml:"provider"` // "": the default provider
	Region      string          `toml:"region"`
	Image       string          `toml:"image"`
	Size        string          `toml:"size"`
	Min         int             `toml:"min"`         // machines that are kept although no job comes
	Max         int             `toml:"max"`         // machines at most; at least 1
	Concurrency int             `toml:"concurrency"` // jobs that a machine carries out at once; 0: one
	Prewarm     float64         `toml:"prewarm"`     // the share that may be in use before another is made, from 0 to 1; 0: none is made ahead
	Idle        dayfly.Duration `toml:"idle"`        // after which a machine beyond min goes; 0: five minutes
	MaxAge      dayfly.Duration `toml:"max_age"`     // after which a machine gets no more jobs; 0: a day
	MaxUses     int             `toml:"max_uses"`    // jobs of one machine; 0: no limit
	Reuse       *bool           `toml:"reuse"`       // whether a machine is used for a second job; nil: it is
	Isolate     string          `toml:"isolate"`     // a label: jobs that differ in it share no machine; "": none
}

// Limits bound what clients may use.
type Limits struct {
	Connections int          `toml:"connections"` // open at once
	OpenJobs    int          `toml:"open_jobs"`   // that have not ended
	OutputMB    int          `toml:"output_mb"`   // MiB kept of what one attempt prints
	DailyCost   dayfly.Money `toml:"daily_cost"`  // what all jobs may cost in a day before no more are launched; 0: no limit
}

// Timeouts say how long the server waits before it concludes something.
type Timeouts struct {
	LostAfter        dayfly.Duration `toml:"lost_after"`
	UnreachableAfter dayfly.Duration `toml:"unreachable_after"`
	OrphanAfter      dayfly.Duration `toml:"orphan_after"`
	Heartbeat        dayfly.Duration `toml:"heartbeat"`
	HireLease        dayfly.Duration `toml:"hire_lease"`
}

// DefaultListen is where a server listens when it is not told where.
const DefaultListen = server.DefaultListen

// Default returns the configuration that holds where nothing else is said. This is the only place that knows the
// defaults.
func Default() *Config {
	return &Config{
		Listen:          []string{DefaultListen},
		DataDir:         StateDir(),
		DefaultProvider: "local",
		Retention:       dayfly.Duration(7 * 24 * time.Hour),
		Blobs:           Blobs{Direct: true},
		Log:             Log{Level: "info", Format: "text"},
		Providers: Providers{
			Local:  Local{Enabled: true, MaxMachines: 32},
			Fly:    defaultFly(),
			Docker: Docker{MaxMachines: 32, Network: "bridge", Capabilities: []string{}, Processes: docker.DefaultProcesses, Registries: []string{}},
		},
		Queues: map[string]Queue{},
		Pools:  map[string]Pool{},
		Limits: Limits{Connections: 4096, OpenJobs: 1_000_000, OutputMB: 64},
		Timeouts: Timeouts{
			LostAfter:        dayfly.Duration(time.Minute),
			UnreachableAfter: dayfly.Duration(5 * time.Minute),
			OrphanAfter:      dayfly.Duration(10 * time.Minute),
			HireLease:        dayfly.Duration(time.Minute),
			Heartbeat:        dayfly.Duration(5 * time.Second),
		},
		FlyAPI: defaultFlyAPI(),
	}
}

// StateDir is where Dayfly keeps its data when it is not told where: $XDG_STATE_HOME/dayfly, which is
// ~/.local/state/dayfly unless the variable is set. It is "" when there is neither the variable nor a home.
func StateDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) { // the standard says to ignore relative ones
		return filepath.Join(dir, "dayfly")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".local", "state", "dayfly")
}

var queueName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// Validate reports the first thing that is wrong with the configuration, as a [fault.FieldError] that names the key.
func (c *Config) Validate() error {
	if len(c.Listen) == 0 {
		return fault.Field("listen", "at least one address is needed, such as %q", DefaultListen)
	}
	for _, address := range c.Listen {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return fault.Field("listen", "%q is not an address and a port, such as %q", address, DefaultListen)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return fault.Field("listen", "the port of %q is not a number from 0 to 65535; 0 takes any free port", address)
		}
	}
	if c.DataDir == "" {
		return fault.Field("data_dir", "there is no directory to keep things in; set data_dir, or HOME or XDG_STATE_HOME")
	}
	if !filepath.IsAbs(c.DataDir) {
		return fault.Field("data_dir", "%q is not an absolute path such as /var/lib/dayfly", c.DataDir)
	}
	if u, err := url.Parse(c.PublicURL); c.PublicURL != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https")) {
		return fault.Field("public_url", "%q is not a URL such as https://dayfly.example.com", c.PublicURL)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		return fault.Field("log.level", "%q is not one of debug, info, warn and error", c.Log.Level)
	}
	if !slices.Contains([]string{"text", "json"}, c.Log.Format) {
		return fault.Field("log.format", "%q is neither text nor json", c.Log.Format)
	}
	if (c.TLS.Certificate == "") != (c.TLS.Key == "") {
		return fault.Field("tls", "certificate and key belong together; one of them is missing")
	}
	if err := c.Blobs.validate(); err != nil {
		return err
	}
	return c.validateRunning()
}

// validateRunning checks what concerns the running of jobs.
func (c *Config) validateRunning() error {
	if err := c.validateProviders(); err != nil {
		return err
	}
	if err := c.FlyAPI.validate(c); err != nil {
		return err
	}
	for _, limit := range []struct {
		key          string
		value, least int
	}{
		{"limits.connections", c.Limits.Connections, 16}, // machines and waiting clients hold one each
		{"limits.open_jobs", c.Limits.OpenJobs, 1},
		{"limits.output_mb", c.Limits.OutputMB, 1},
	} {
		if limit.value < limit.least {
			return fault.Field(limit.key, "%d is too few; the least that works is %d", limit.value, limit.least)
		}
	}
	for name, q := range c.Queues {
		if !queueName.MatchString(name) {
			return fault.Field("queues."+name, "%q is not the name of a queue: 1 to 64 characters of a-z, 0-9, '_', '.' and '-'", name)
		}
		if q.Concurrency < 0 || q.KeyConcurrency < 0 {
			return fault.Field("queues."+name, "a limit cannot be negative; 0 means no limit")
		}
	}
	if err := c.checkPools(); err != nil {
		return err
	}
	for _, d := range []struct {
		key   string
		value dayfly.Duration
		least time.Duration
	}{
		{"retention", c.Retention, time.Minute},
		{"timeouts.heartbeat", c.Timeouts.Heartbeat, 100 * time.Millisecond},
		{"timeouts.lost_after", c.Timeouts.LostAfter, time.Second},
		{"timeouts.unreachable_after", c.Timeouts.UnreachableAfter, 2 * time.Duration(c.Timeouts.Heartbeat)},
		{"timeouts.orphan_after", c.Timeouts.OrphanAfter, 2 * time.Duration(c.Timeouts.Heartbeat)},
		{"timeouts.hire_lease", c.Timeouts.HireLease, 2 * time.Second},
	} {
		if time.Duration(d.value) < d.least {
			return fault.Field(d.key, "%v is too short; the shortest that works is %v", d.value, d.least)
		}
	}
	return nil
}

// String names the file kinds of error use; it keeps a Config from being printed whole.
func (c *Config) String() string {
	return fmt.Sprintf("the configuration of a server on %v in %s", c.Listen, c.DataDir)
}
