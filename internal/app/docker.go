package app

import (
	"cmp"
	"context"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/docker"
)

// Docker configures machines that are containers of Docker or Podman.
type Docker struct {
	Enabled      *bool    `toml:"enabled"`      // nil: if there is an engine that this user may use
	MaxMachines  int      `toml:"max_machines"` // at once
	Host         string   `toml:"host"`         // the engine's URL; "": DOCKER_HOST, or the first of the usual sockets
	Network      string   `toml:"network"`      // what containers are attached to
	ServerURL    string   `toml:"server_url"`   // the server's base URL as containers see it; "": public_url, or found out
	Agent        string   `toml:"agent"`        // the agent's program; "": the one beside this program
	Capabilities []string `toml:"capabilities"` // that containers keep
	MemoryMB     int      `toml:"memory_mb"`    // of a container whose job does not say; 0: no limit
	Processes    int      `toml:"processes"`    // in a container whose job does not say
	Registries   []string `toml:"registries"`   // "HOST USER file:PATH" or "HOST USER env:NAME"

	PriceCPUHour machine.Rate `toml:"price_cpu_hour"` // what an hour of a processor costs
	PriceGBHour  machine.Rate `toml:"price_gb_hour"`  // and of a GB of memory
}

func (c *Config) dockerBackend() backend {
	d := &c.Providers.Docker
	b := backend{
		name: "docker", maxMachines: d.MaxMachines, validate: d.validate,
		prices: machine.OwnPrices{CPUHour: d.PriceCPUHour, GBHour: d.PriceGBHour},
	}
	if d.Enabled != nil {
		b.enabled, b.absent = *d.Enabled, "providers.docker.enabled is false; set it to true, or leave it out to use an engine where there is one"
	} else {
		b.absent = d.absent()
		b.enabled = b.absent == ""
	}
	b.open = func(logger *slog.Logger) (*opened, error) { return &opened{provider: d.provider(logger)}, nil }
	return b
}

// provider makes the provider. Nothing is sent to an engine.
func (d *Docker) provider(logger *slog.Logger) *docker.Provider {
	certificates := ""
	if os.Getenv("DOCKER_TLS_VERIFY") != "" {
		certificates = cmp.Or(os.Getenv("DOCKER_CERT_PATH"), dockerConfigDir())
	}
	return docker.New(d.program(), &docker.Options{
		Host: d.Host, TLS: certificates,
		Network: d.Network, Capabilities: d.Capabilities, MemoryMB: d.MemoryMB, Processes: d.Processes,
		Credentials: d.credentials, Logger: logger,
	})
}

// program is the agent that containers run.
func (d *Docker) program() docker.Program {
	if d.Agent != "" {
		return docker.Program{File: d.Agent}
	}
	command := supervisor()
	return docker.Program{File: command[0], Args: command[1 : len(command)-1]}
}

// absent says why there is no engine to use, or "" if there may be one. It looks, and asks nobody.
func (d *Docker) absent() string {
	hosts := docker.Sockets()
	if named := cmp.Or(d.Host, os.Getenv("DOCKER_HOST")); named != "" {
		hosts = []string{named}
	}
	var files []string
	closed := ""
	for _, host := range hosts {
		file, isFile := strings.CutPrefix(host, "unix://")
		if !isFile || unix.Access(file, unix.W_OK) == nil {
			return ""
		}
		if _, err := os.Stat(file); err == nil && closed == "" {
			closed = file
		}
		files = append(files, file)
	}
	if closed != "" {
		return "the socket " + closed + " of the container engine is not for this user; add the user to its group (often: docker), " +
			"use a rootless engine, or set providers.docker.host or DOCKER_HOST to another one"
	}
	return "no Docker or Podman runs here: there is no " + strings.Join(files, ", no ") + "; start one (often: systemctl start docker), " +
		"or set providers.docker.host or DOCKER_HOST to where it is"
}

// credentials finds what a registry knows this server by: what the configuration says, or else what docker login has kept.
func (d *Docker) credentials(ctx context.Context, registry string) (*docker.Credentials, error) {
	for _, line := range d.Registries {
		host, user, secret, err := parseRegistry(line)
		if err != nil || host != registry {
			continue
		}
		password, err := readSecret(secret)
		if err != nil {
			return nil, fault.Say(fault.Invalid, "the password for the registry %s in providers.docker.registries: %v", host, err)
		}
		return &docker.Credentials{User: user, Password: password}, nil
	}
	if dir := dockerConfigDir(); dir != "" {
		return docker.ReadCredentials(ctx, filepath.Join(dir, "config.json"), registry)
	}
	return nil, nil
}

// dockerConfigDir is where docker login keeps things.
func dockerConfigDir() string {
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".docker")
}

// parseRegistry reads a line of providers.docker.registries.
func parseRegistry(line string) (host, user, secret string, err error) {
	words := strings.Fields(line)
	if len(words) != 3 || !strings.HasPrefix(words[2], "file:") && !strings.HasPrefix(words[2], "env:") {
		// The text is not repeated: somebody may have put the password itself there.
		return "", "", "", fault.Field("providers.docker.registries", "each must be a registry, a user, and where the password is: "+
			`"ghcr.io robot file:/etc/dayfly/ghcr" or "ghcr.io robot env:GHCR_PASSWORD"`)
	}
	return words[0], words[1], words[2], nil
}

// maxSecret is the longest secret that is read from a file, in bytes.
const maxSecret = 64 << 10

// readSecret reads a secret from where "file:PATH" or "env:NAME" says it is.
func readSecret(where string) (string, error) {
	if name, ok := strings.CutPrefix(where, "env:"); ok {
		if value := os.Getenv(name); value != "" {
			return value, nil
		}
		return "", fault.Say(fault.Invalid, "the environment variable %s is not set", name)
	}
	file := strings.TrimPrefix(where, "file:")
	info, err := os.Stat(file)
	if err == nil && info.Size() > maxSecret {
		return "", fault.Say(fault.Invalid, "the file %s is too large for a password", file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fault.Say(fault.Invalid, "%v", err)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}

var capability = regexp.MustCompile(`^[A-Z][A-Z_]*$`)

func (d *Docker) validate() error {
	const section = "providers.docker."
	if d.Host != "" {
		if u, err := url.Parse(d.Host); err != nil || (u.Scheme != "unix" && u.Scheme != "tcp" && u.Scheme != "ssh") {
			return fault.Field(section+"host", "%q is not the URL of an engine, such as unix:///var/run/docker.sock or tcp://build-1:2376", d.Host)
		}
	}
	if u, err := url.Parse(d.ServerURL); d.ServerURL != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https")) {
		return fault.Field(section+"server_url", "%q is not a URL such as http://host.docker.internal:7700", d.ServerURL)
	}
	for _, name := range d.Capabilities {
		if !capability.MatchString(name) {
			return fault.Field(section+"capabilities", "%q is not a capability such as NET_BIND_SERVICE", name)
		}
	}
	if d.MemoryMB < 0 || d.MemoryMB > 0 && d.MemoryMB < 6 {
		return fault.Field(section+"memory_mb", "%d is too little: a container gets at least 6; 0 is no limit", d.MemoryMB)
	}
	if d.Processes < 1 {
		return fault.Field(section+"processes", "%d is too few; the least that works is 1", d.Processes)
	}
	for _, line := range d.Registries {
		if _, _, _, err := parseRegistry(line); err != nil {
			return err
		}
	}
	return nil
}
