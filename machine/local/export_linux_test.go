package local

import "time"

// SetOverdue shortens the time after which Run ends machines in place of a supervisor that does not answer.
func (p *Provider) SetOverdue(d time.Duration) { p.overdue = d }
