package flyapi

import (
	"errors"
	"time"
)

// schedule sets when a machine with a schedule is to be started next. It is started once per interval, counted from when
// the schedule was given; a run that falls into a time when no server is there is made up for once.
func (s *Service) schedule(m *record, c *config, now time.Time) {
	if c.Schedule == "" {
		m.NextRun = time.Time{}
		return
	}
	m.NextRun = nextRun(c.Schedule, now, now)
}

// nextRun returns the first time after now that is a whole number of intervals behind from.
func nextRun(schedule string, from, now time.Time) time.Time {
	for n := 1; ; n++ {
		var next time.Time
		switch schedule {
		case "hourly":
			next = from.Add(time.Duration(n) * time.Hour)
		case "daily":
			next = from.AddDate(0, 0, n)
		case "weekly":
			next = from.AddDate(0, 0, 7*n)
		default:
			next = from.AddDate(0, n, 0)
		}
		if next.After(now) {
			return next
		}
	}
}

// runDue starts the machines whose time has come. One that still runs is left to it.
func (s *Service) runDue() {
	now := s.Now()
	for _, e := range s.all("") {
		r := e.record()
		if r.NextRun.IsZero() || r.NextRun.After(now) {
			continue
		}
		_, err := s.change(s.life, e, "schedule", func(m *record) error {
			if m.NextRun.IsZero() || m.NextRun.After(now) {
				return errUnchanged
			}
			m.NextRun = nextRun(e.config().Schedule, m.NextRun, now)
			if m.State == stopped || m.State == failed || m.State == created && m.Launch == 0 {
				m.launch(time.Time{})
				m.Restarts, m.Count = nil, 0
				s.happened(m, "start", starting, byHost, nil)
			}
			return nil
		})
		if err != nil && !errors.Is(err, errUnchanged) {
			s.log.Warn("a scheduled machine cannot be started; it will be tried again", "machine", r.ID, "error", err)
		}
	}
}
