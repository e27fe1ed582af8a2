package app

import (
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/fly"
)

// Fly configures machines at Fly.io, or at a server that speaks its Machines API.
type Fly struct {
	Enabled           bool   `toml:"enabled"`
	MaxMachines       int    `toml:"max_machines"` // at once
	App               string `toml:"app"`
	Token             string `toml:"token"`
	TokenFile         string `toml:"token_file"`
	APIURL            string `toml:"api_url"`
	ServerURL         string `toml:"server_url"`          // the server's base URL as machines see it; "": public_url
	Image             string `toml:"image"`               // of jobs that name none
	Region            string `toml:"region"`              // of jobs that name none; several are tried in order
	Size              string `toml:"size"`                // of jobs that name none
	Agent             string `toml:"agent"`               // its path in images
	RequestsPerSecond int    `toml:"requests_per_second"` // of one kind; 0: no limit

	PriceCPUHour machine.Rate `toml:"price_cpu_hour"` // what an hour of a processor costs, in place of Fly's price
	PriceGBHour  machine.Rate `toml:"price_gb_hour"`  // and of a GB of memory
}

func defaultFly() Fly {
	return Fly{MaxMachines: 32, APIURL: fly.DefaultURL, Size: "shared-cpu-1x", Agent: fly.DefaultAgent, RequestsPerSecond: 1}
}

func (c *Config) flyBackend() backend {
	f := &c.Providers.Fly
	return backend{
		name: "fly", enabled: f.Enabled, maxMachines: f.MaxMachines,
		absent: "it is not enabled; set providers.fly.enabled, app and token_file in the server's configuration, and its public_url; " +
			"docs/fly.md says how",
		prices:   machine.OwnPrices{CPUHour: f.PriceCPUHour, GBHour: f.PriceGBHour},
		validate: f.validate,
		reach:    func() error { return f.reach(c.PublicURL) },
		open: func(*slog.Logger) (*opened, error) {
			if _, err := f.token(); err != nil {
				return nil, err
			}
			size, err := machine.ParseSize(f.Size)
			if err != nil {
				return nil, err
			}
			rate := float64(f.RequestsPerSecond)
			if rate == 0 {
				rate = -1
			}
			return &opened{provider: fly.New(f.App, "", &fly.Options{
				URL: f.APIURL, Image: f.Image, Region: f.Region, Size: size, Agent: f.Agent, Rate: rate,
				Token: f.token, // so that one which was replaced counts without a restart
			})}, nil
		},
	}
}

var flyApp = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// validate checks the section, as Config.Validate does.
func (f *Fly) validate() error {
	if !flyApp.MatchString(f.App) {
		return fault.Field("providers.fly.app", "%q is not the name of an app at Fly; make one with fly apps create NAME and name it here", f.App)
	}
	switch {
	case f.Token == "" && f.TokenFile == "":
		return fault.Field("providers.fly.token_file", "there is no token for Fly; make one with fly tokens create deploy --app %s, "+
			"put it into a file and name that here, or set %s", f.App, Variable("providers.fly.token"))
	case f.Token != "" && f.TokenFile != "":
		return fault.Field("providers.fly.token_file", "there are two tokens for Fly, in token and in token_file; remove one of them")
	}
	api, err := url.Parse(f.APIURL)
	if err != nil || api.Host == "" || api.Scheme != "http" && api.Scheme != "https" {
		return fault.Field("providers.fly.api_url", "%q is not a URL such as %s", f.APIURL, fly.DefaultURL)
	}
	if u, err := url.Parse(f.ServerURL); f.ServerURL != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		return fault.Field("providers.fly.server_url", "%q is not a URL such as https://dayfly.example.com", f.ServerURL)
	}
	if _, err := machine.ParseSize(f.Size); err != nil {
		return fault.Field("providers.fly.size", "%q is not one of %s", f.Size, strings.Join(machine.Presets(), ", "))
	}
	if !strings.HasPrefix(f.Agent, "/") {
		return fault.Field("providers.fly.agent", "%q is not an absolute path in the image, such as %s", f.Agent, fly.DefaultAgent)
	}
	if f.RequestsPerSecond < 0 {
		return fault.Field("providers.fly.requests_per_second", "%d is no rate; Fly takes 1, and 0 is no limit", f.RequestsPerSecond)
	}
	return nil
}

// reach checks that the machines can call this server, as far as that can be seen from here. Those of an API on this
// computer can.
func (f *Fly) reach(publicURL string) error {
	if api, err := url.Parse(f.APIURL); err != nil || isLoopback(api.Hostname()) {
		return err
	}
	key, home := "providers.fly.server_url", f.ServerURL
	if home == "" {
		key, home = "public_url", publicURL
	}
	if home == "" {
		return fault.Field(key, "machines at Fly call this server, so it needs an address that they can reach; "+
			"set public_url, such as https://dayfly.example.com")
	}
	if u, err := url.Parse(home); err == nil && isLoopback(u.Hostname()) {
		return fault.Field(key, "%s is this computer only, and machines at Fly cannot call it there; "+
			"set it to an address that they can reach, such as https://dayfly.example.com", home)
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// maxTokenFile is how much of a file is read for a token, in bytes. Fly's tokens have a few hundred, and some kilobytes when
// they are chained.
const maxTokenFile = 64 << 10

// token returns the token, from wherever it is. What is wrong with its file is told without its contents.
func (f *Fly) token() (string, error) {
	if f.TokenFile == "" {
		return f.Token, nil
	}
	const key = "providers.fly.token_file"
	data, err := os.ReadFile(f.TokenFile)
	if err != nil {
		return "", fault.Field(key, "the token cannot be read: %v", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" || len(data) > maxTokenFile || strings.ContainsAny(token, "\r\n\x00") {
		return "", fault.Field(key, "%s does not hold a token on one line and nothing else", f.TokenFile)
	}
	return token, nil
}
