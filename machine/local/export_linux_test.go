package local

import "time"

// SetOverdue shortens the time after which Run ends machines in place of a supervisor that does not answer.
func (p *Provider) SetOverdue(d time.Duration) { p.overdue = d }

// EmptyTrash removes what is in the trash of a state directory.
func EmptyTrash(dir string) error { return layout(dir).emptyTrash() }
