package app

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/server"
)

// The defaults of a pool.
const (
	defaultPoolIdle   = 5 * time.Minute
	defaultPoolMaxAge = 24 * time.Hour
)

// checkPools checks what a pool's section alone can tell. The engine checks the rest, with the providers at hand.
func (c *Config) checkPools() error {
	for name, p := range c.Pools {
		key := "pools." + name
		switch {
		case !queueName.MatchString(name):
			return fault.Field(key, "%q is not the name of a pool: 1 to 64 characters of a-z, 0-9, '_', '.' and '-'", name)
		case p.Max < 1:
			return fault.Field(key, "max is %d; say how many machines the pool may have, at least 1", p.Max)
		case p.Min < 0 || p.Min > p.Max:
			return fault.Field(key, "min is %d; it must be between 0 and max, which is %d", p.Min, p.Max)
		case p.Concurrency < 0:
			return fault.Field(key, "concurrency is %d; say how many jobs a machine carries out at once, at least 1", p.Concurrency)
		case p.MaxUses < 0:
			return fault.Field(key, "max_uses cannot be negative; 0 means no limit")
		case p.Prewarm < 0 || p.Prewarm > 1:
			return fault.Field(key, "prewarm is %v; it is a share from 0 to 1", p.Prewarm)
		case p.Idle < 0 || p.MaxAge < 0:
			return fault.Field(key, "idle and max_age cannot be negative")
		case strings.ContainsAny(p.Provider, ",:"):
			return fault.Field(key, "provider is %q; a pool is on one provider, and its region has a key of its own", p.Provider)
		case p.Provider == "" && strings.ContainsAny(c.DefaultProvider, ",:"):
			return fault.Field(key, "say on which provider it is, because default_provider is %q", c.DefaultProvider)
		}
		if p.Size == "" {
			continue
		}
		if _, err := machine.ParseSize(p.Size); err != nil {
			return fault.Field(key, "there is no size %q; the sizes are %s", p.Size, strings.Join(machine.Presets(), ", "))
		}
	}
	for name, q := range c.Queues {
		if _, ok := c.Pools[q.Pool]; q.Pool != "" && !ok {
			return fault.Field("queues."+name, "pool is %q, and there is no section [pools.%s]", q.Pool, q.Pool)
		}
	}
	return nil
}

// checkPoolProviders checks that the pools are on providers that there are.
func (c *Config) checkPoolProviders() error {
	for name, p := range c.Pools {
		if on := cmp.Or(p.Provider, c.DefaultProvider); !slices.Contains(c.ProviderNames(), on) {
			return fault.Field("pools."+name, "provider %q is not enabled; the providers are %s", on, strings.Join(c.ProviderNames(), ", "))
		}
	}
	return nil
}

// serverPools returns the pools as the server takes them.
func (c *Config) serverPools() map[string]server.Pool {
	pools := make(map[string]server.Pool, len(c.Pools))
	for name, p := range c.Pools {
		pools[name] = server.Pool{
			Provider: p.Provider, Region: p.Region, Image: p.Image, Size: p.Size, Min: p.Min, Max: p.Max, Concurrency: p.Concurrency, Prewarm: p.Prewarm,
			Idle: cmp.Or(time.Duration(p.Idle), defaultPoolIdle), MaxAge: cmp.Or(time.Duration(p.MaxAge), defaultPoolMaxAge),
			MaxUses: p.MaxUses, OneUse: p.Reuse != nil && !*p.Reuse, Isolate: p.Isolate,
		}
	}
	return pools
}
