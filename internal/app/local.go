package app

import (
	"log/slog"
	"os"
	"path/filepath"

	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
	"github.com/dayfly-run/dayfly/server"
)

// Local configures machines that are process trees on the server's own host.
type Local struct {
	Enabled     bool `toml:"enabled"`
	MaxMachines int  `toml:"max_machines"` // at once

	PriceCPUHour machine.Rate `toml:"price_cpu_hour"` // what an hour of a processor costs
	PriceGBHour  machine.Rate `toml:"price_gb_hour"`  // and of a GB of memory
}

func (c *Config) localBackend() backend {
	return backend{
		name: "local", enabled: c.Providers.Local.Enabled, maxMachines: c.Providers.Local.MaxMachines, plain: true,
		prices: machine.OwnPrices{CPUHour: c.Providers.Local.PriceCPUHour, GBHour: c.Providers.Local.PriceGBHour},
		absent: "providers.local.enabled is false; set it to true to run jobs on the server's own computer",
		open: func(logger *slog.Logger) (*opened, error) {
			provider, err := local.New(local.Options{
				Dir: filepath.Join(c.DataDir, "machines"), Supervisor: supervisor(), Logger: logger,
			})
			if err != nil {
				return nil, err
			}
			return &opened{provider: provider, started: func(s *server.Server, o *StartOptions) {
				// A supervisor that has outlived the last server learns here where the new one is.
				provider.SetHome(s.LocalURL())
				if o.Prepare {
					provider.Prepare()
				}
			}}, nil
		},
	}
}

// supervisor is the command that supervises machines on this host: the small program beside this one, or else this
// one itself, which can do that too.
func supervisor() []string {
	self, err := os.Executable()
	if err != nil {
		return []string{"dayfly-agent", "supervise"} // to be found in PATH; without it the provider says what is missing
	}
	small := filepath.Join(filepath.Dir(self), "dayfly-agent")
	if info, err := os.Stat(small); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
		return []string{small, "supervise"}
	}
	return []string{self, "agent", "supervise"}
}
