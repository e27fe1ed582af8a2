package flyapi

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/machine"
)

// startMachine starts a machine that is stopped, or lets a suspended one go on.
func (s *Service) startMachine(r *request) (int, any, error) {
	var before string
	m, err := s.asked(r, "start", func(m *record) error {
		before = m.State
		switch {
		case m.State == destroyed || m.State == destroying:
			return noMachine()
		case m.State == suspended:
			m.State, m.Resume = starting, true
		case m.State == stopped || m.State == failed || m.State == created && m.Launch == 0:
			m.launch(time.Time{})
		case m.State == replacing || m.State == launchFailed:
			return precondition("unable to start machine from current state: '%s'", m.State)
		default:
			return precondition("machine still active, refusing to start")
		}
		m.Restarts, m.Count = nil, 0
		s.happened(m, "start", starting, byUser, nil)
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	if err := s.verdict(r.Context(), r.entry, m.Launch); err != nil {
		return 0, nil, describePlacing(err)
	}
	return http.StatusOK, map[string]any{"previous_state": before, "migrated": false, "new_host": ""}, nil
}

// stopRequest is the body of a stop.
type stopRequest struct {
	Signal  anySignal `json:"signal"`
	Timeout duration  `json:"timeout"`
}

func (s *Service) stopMachine(r *request) (int, any, error) {
	wanted := &stopRequest{}
	if err := r.read(maxSmallBody, wanted); err != nil {
		return 0, nil, err
	}
	if wanted.Timeout < 0 || time.Duration(wanted.Timeout) > maxStop {
		return 0, nil, invalid("timeout must be from 0s to %v", maxStop)
	}
	_, err := s.asked(r, "stop", func(m *record) error {
		switch m.State {
		case destroyed, destroying:
			return noMachine()
		case stopped, stopping, failed, launchFailed:
			return errUnchanged
		case started, suspended, starting, restarting:
		default:
			if !m.busy() {
				return errUnchanged // it was made without being launched
			}
		}
		s.stop(m, r.entry.config(), string(wanted.Signal), time.Duration(wanted.Timeout))
		m.After = thenStop
		s.happened(m, "stop", stopping, byUser, nil)
		return nil
	})
	if err != nil && !isUnchanged(err) {
		return 0, nil, err
	}
	return http.StatusOK, &fine{OK: true}, nil
}

// stop makes the record ask for the end of the launch.
func (s *Service) stop(m *record, c *config, signal string, timeout time.Duration) {
	usual, usually := c.stopping()
	if signal == "" {
		signal = usual
	}
	if timeout == 0 {
		timeout = usually
	}
	if m.State == suspended {
		timeout = 0 // it hears no signal
	}
	m.State, m.Requested, m.Signal, m.Resume = stopping, true, signal, false
	m.Deadline = s.Now().Add(timeout)
}

func (s *Service) suspendMachine(r *request) (int, any, error) {
	if _, ok := s.Provider.(machine.Suspender); !ok {
		return 0, nil, precondition("unable to suspend machine: machines of this server's provider cannot be suspended")
	}
	_, err := s.asked(r, "suspend", func(m *record) error {
		c := r.entry.config()
		switch {
		case m.State == destroyed || m.State == destroying:
			return noMachine()
		case m.State == suspended || m.State == suspending:
			return errUnchanged
		case m.State != started:
			return precondition("unable to suspend machine from current state: '%s'", m.State)
		case c.guest.MemoryMB > 4096:
			return precondition("unable to suspend machine: it has more than 4096 MiB of memory")
		case c.Schedule != "":
			return precondition("unable to suspend machine: it has a schedule")
		}
		m.State = suspending
		s.happened(m, "suspend", suspending, byUser, nil)
		return nil
	})
	if err != nil && !isUnchanged(err) {
		return 0, nil, err
	}
	return http.StatusOK, &fine{OK: true}, nil
}

// restartMachine ends what runs and starts it anew.
func (s *Service) restartMachine(r *request) (int, any, error) {
	query := r.URL.Query()
	timeout, err := parseDuration(query.Get("timeout"))
	if err != nil {
		return 0, nil, err
	}
	name := query.Get("signal")
	if name != "" {
		if name, err = signalName(name); err != nil {
			return 0, nil, err
		}
	}
	if timeout < 0 || timeout > maxStop {
		return 0, nil, invalid("timeout must be from 0s to %v", maxStop)
	}
	_, err = s.asked(r, "restart", func(m *record) error {
		switch m.State {
		case destroyed, destroying:
			return noMachine()
		case started:
		case stopped, failed:
			m.launch(time.Time{})
			s.happened(m, "start", starting, byUser, nil)
			return nil
		default:
			return precondition("unable to restart machine from current state: '%s'", m.State)
		}
		s.stop(m, r.entry.config(), name, timeout)
		if r.yes("force_stop") {
			m.Deadline = s.Now()
		}
		m.State, m.After = restarting, thenLaunch
		s.happened(m, "restart", restarting, byUser, nil)
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &fine{OK: true}, nil
}

// signalRequest is the body of a signal.
type signalRequest struct {
	Signal anySignal `json:"signal"`
}

func (s *Service) signalMachine(r *request) (int, any, error) {
	wanted := &signalRequest{}
	if err := r.read(maxSmallBody, wanted); err != nil {
		return 0, nil, err
	}
	if wanted.Signal == "" {
		return 0, nil, invalid("signal is required")
	}
	m, err := s.runs(r.entry, "signal")
	if err != nil {
		return 0, nil, err
	}
	if err := machine.Signal(r.Context(), s.Provider, s.providerID(r.entry, m), string(wanted.Signal)); err != nil {
		return 0, nil, describePlacing(err)
	}
	return http.StatusOK, &fine{OK: true}, nil
}

// runs returns the record of a machine that runs, or refuses.
func (s *Service) runs(e *entry, what string) (*record, error) {
	m := e.record()
	switch m.State {
	case destroyed, destroying:
		return nil, noMachine()
	case started:
		return m, nil
	}
	return nil, precondition("unable to %s machine from current state: '%s'", what, m.State)
}

// destroyMachine destroys a machine. Without force, or kill as other clients say, it must not run.
func (s *Service) destroyMachine(r *request) (int, any, error) {
	force := r.yes("force") || r.yes("kill")
	_, err := s.asked(r, "destroy", func(m *record) error {
		idle := m.State == created && !m.busy()
		switch {
		case m.State == destroyed:
			return noMachine()
		case m.State == launchFailed:
			return errUnchanged // that is what happens next
		case !force && !idle && !slices.Contains([]string{stopped, suspended, failed, destroying}, m.State):
			return errRuns()
		}
		return s.doom(m)
	})
	if err != nil && !isUnchanged(err) {
		return 0, nil, err
	}
	return http.StatusOK, &fine{OK: true}, nil
}

func errRuns() error {
	return precondition("unable to destroy machine, not currently stopped, suspended, failed or created")
}

// destroy makes a machine's destruction the intent, whatever its state.
func (s *Service) destroy(ctx context.Context, e *entry) error {
	_, err := s.change(ctx, e, "destroy", s.doom)
	if isUnchanged(err) {
		return nil
	}
	return err
}

// doom makes the record ask for the machine's destruction.
func (s *Service) doom(m *record) error {
	switch {
	case m.State == destroyed || m.State == destroying || m.State == launchFailed:
		return errUnchanged
	case !m.busy():
		s.gone(m)
		s.happened(m, "destroy", destroyed, byUser, nil)
	default:
		m.State = destroying
		s.happened(m, "destroy", destroying, byUser, nil)
	}
	return nil
}

func (s *Service) cordonMachine(r *request) (int, any, error)   { return s.setCordon(r, true) }
func (s *Service) uncordonMachine(r *request) (int, any, error) { return s.setCordon(r, false) }

func (s *Service) setCordon(r *request, cordoned bool) (int, any, error) {
	_, err := s.asked(r, "cordon", func(m *record) error {
		switch {
		case m.State == destroyed:
			return noMachine()
		case m.Cordoned == cordoned:
			return errUnchanged
		}
		m.Cordoned = cordoned
		return nil
	})
	if err != nil && !isUnchanged(err) {
		return 0, nil, err
	}
	return http.StatusOK, &fine{OK: true}, nil
}

// getMachine shows a machine; a destroyed one too, for a while.
func (s *Service) getMachine(r *request) (int, any, error) {
	v := view(r.entry.state())
	if r.yes("include_leases") {
		v.Lease = s.shownLease(r.entry.record())
	}
	return http.StatusOK, v, nil
}

// listMachines lists the machines of an app that all filters let through, oldest first.
func (s *Service) listMachines(r *request) (int, any, error) {
	query := r.URL.Query()
	var states []string
	for _, given := range query["state"] {
		for state := range strings.SplitSeq(given, ",") {
			if state = strings.TrimSpace(state); state != "" {
				states = append(states, state)
			}
		}
	}
	deleted := r.yes("include_deleted") || slices.Contains(states, destroyed)
	views := []*machineView{}
	for _, e := range s.all(r.app.ID) {
		now := e.state()
		m := now.record
		switch {
		case m.State == destroyed && !deleted,
			s.quirks.hides(m),
			len(states) > 0 && !slices.Contains(states, m.State),
			query.Get("region") != "" && query.Get("region") != m.Region,
			!hasMetadata(m, query):
			continue
		}
		v := view(now)
		if r.yes("summary") {
			v.summarize()
		}
		if r.yes("include_leases") {
			v.Lease = s.shownLease(m)
		}
		views = append(views, v)
	}
	return http.StatusOK, views, nil
}

// hasMetadata reports whether a machine has every value that a query like metadata.key=value asks for.
func hasMetadata(m *record, query map[string][]string) bool {
	for name, values := range query {
		key, ok := strings.CutPrefix(name, "metadata.")
		if !ok {
			continue
		}
		for _, value := range values {
			if m.Metadata[key] != value {
				return false
			}
		}
	}
	return true
}
