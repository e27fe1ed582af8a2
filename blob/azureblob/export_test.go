package azureblob

import "time"

// SetPatience sets how long a transfer may stand still.
func (s *Store) SetPatience(d time.Duration) { s.patience = d }
