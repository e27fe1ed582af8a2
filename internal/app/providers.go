package app

import (
	"log/slog"
	"slices"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/server"
)

// Providers configures what machines are made by, each in a section of its own.
type Providers struct {
	Local  Local  `toml:"local"`
	Docker Docker `toml:"docker"`
	Fly    Fly    `toml:"fly"`
}

// backend is one kind of provider, as this package knows it: its section of the configuration, and how it is made.
type backend struct {
	name        string // of the section, and what jobs call it
	enabled     bool
	absent      string // why it is not enabled: a sentence without a capital or full stop
	maxMachines int
	plain       bool              // its machines are plain processes and have no images
	prices      machine.OwnPrices // in place of all others, unless they are zero
	// validate reports what is wrong in the section, as Config.Validate does; it is asked only of an enabled one, and nil
	// if maxMachines is all there is to check.
	validate func() error
	// reach reports what keeps the machines from calling this server; nil if nothing can. It is not asked of a server inside
	// a command: that has no address to call, and the command's job may well run elsewhere.
	reach func() error
	// open makes the provider. It does not wait for anything beyond this process: a provider that cannot be reached says so
	// to whoever asks it for a machine.
	open func(*slog.Logger) (*opened, error)
}

// opened is a provider that was made.
type opened struct {
	provider machine.Provider
	// started, if it is not nil, is called once the server listens.
	started func(*server.Server, *StartOptions)
}

// backends lists every kind of provider there is, with what the configuration says of it. A new one is a file of its own
// beside this one and a line here.
func (c *Config) backends() []backend {
	return []backend{
		c.localBackend(),
		c.dockerBackend(),
		c.flyBackend(),
	}
}

// enabledBackends are those that jobs may name.
func (c *Config) enabledBackends() []backend {
	return slices.DeleteFunc(c.backends(), func(b backend) bool { return !b.enabled })
}

// ProviderNames returns the names of the enabled providers, in the order in which the documents name them.
func (c *Config) ProviderNames() []string {
	var names []string
	for _, b := range c.enabledBackends() {
		names = append(names, b.name)
	}
	return names
}

// absent returns, by name, why providers are not enabled.
func (c *Config) absent() map[string]string {
	why := map[string]string{}
	for _, b := range c.backends() {
		if !b.enabled {
			why[b.name] = b.absent
		}
	}
	return why
}

// validateProviders checks the providers' sections, and that jobs that name none have one.
func (c *Config) validateProviders() error {
	enabled := c.enabledBackends()
	if len(enabled) == 0 {
		return fault.Field("providers", "no provider is enabled, so no job could run; enable one, such as providers.local.enabled")
	}
	for _, b := range enabled {
		if b.maxMachines < 1 {
			return fault.Field("providers."+b.name+".max_machines", "%d is too few; the least that works is 1", b.maxMachines)
		}
		if b.validate == nil {
			continue
		}
		if err := b.validate(); err != nil {
			return err
		}
	}
	if _, err := engine.CheckProviders("default_provider", c.DefaultProvider, c.ProviderNames(), c.absent()); err != nil {
		return err
	}
	if err := c.checkPoolProviders(); err != nil {
		return err
	}
	for name, q := range c.Queues {
		if q.Provider == "" {
			continue
		}
		if _, err := engine.CheckProviders("queues."+name+".provider", q.Provider, c.ProviderNames(), c.absent()); err != nil {
			return err
		}
	}
	return nil
}

// reachProviders checks that machines can call this server.
func (c *Config) reachProviders() error {
	for _, b := range c.enabledBackends() {
		if b.reach == nil {
			continue
		}
		if err := b.reach(); err != nil {
			return err
		}
	}
	return nil
}

// openProviders makes every enabled provider.
func (c *Config) openProviders(logger *slog.Logger) (map[string]*opened, error) {
	all := map[string]*opened{}
	for _, b := range c.enabledBackends() {
		o, err := b.open(logger)
		if err != nil {
			return nil, err
		}
		all[b.name] = o
	}
	return all, nil
}
