//go:build !linux

package boot

import (
	"crypto/rand"
	"log/slog"

	"github.com/dayfly-run/dayfly/machine/local"
)

// Help returns false: helpers run on Linux only.
func Help([]string) (status int, helped bool) { return 0, false }

// Local returns fault.Unsupported, as [local.New] does on this operating system.
func Local(log *slog.Logger) (*local.Provider, error) { return local.New(local.Options{Logger: log}) }

// identity returns what tells this process from all others there ever were.
func identity() string { return "unknown " + rand.Text() }

// certainlyDead reports false: nobody knows.
func certainlyDead(string) bool { return false }
