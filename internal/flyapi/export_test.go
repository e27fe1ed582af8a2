package flyapi

// Patterns returns the patterns of all endpoints, as "METHOD PATH".
func (s *Service) Patterns() []string {
	var all []string
	for _, r := range s.table() {
		all = append(all, r.pattern)
	}
	return all
}
