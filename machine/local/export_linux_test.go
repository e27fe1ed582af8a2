package local

import (
	"context"
	"time"
)

// SetOverdue shortens the time after which Run ends machines in place of a supervisor that does not answer.
func (p *Provider) SetOverdue(d time.Duration) { p.overdue = d }

// EmptyTrash removes what is in the trash of a state directory.
func EmptyTrash(dir string) error { return layout(dir).emptyTrash() }

// Order does once what Run does all the time.
func (p *Provider) Order(ctx context.Context) error { return p.order(ctx) }

// Prefix returns the name of the cgroup directory of a state directory, which must exist.
func Prefix(dir string) (string, error) { return layout(dir).prefix() }
