package flyapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/flyapi/ledger"
)

// machineRequest is the body of a create and of an update. What is not listed is passed over, as Fly does.
type machineRequest struct {
	Name           string          `json:"name"`
	Region         string          `json:"region"`
	Config         json.RawMessage `json:"config"`
	LeaseTTL       int64           `json:"lease_ttl"`
	SkipLaunch     bool            `json:"skip_launch"`
	CurrentVersion string          `json:"current_version"`
}

// machineLabel is what a machine may be called.
var machineLabel = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// placeTime is how long a create waits for the provider's verdict. An image that has to be fetched takes longer; the
// client is then answered that the machine is created, which it is, and what becomes of it is seen in its state.
const placeTime = 3 * time.Second

// createMachine makes a machine. Its row is committed before the provider is asked for anything, so from then on it is
// never lost; a provider that refuses it within placeTime makes the answer a refusal, and the machine a destroyed one.
func (s *Service) createMachine(r *request) (int, any, error) {
	wanted := &machineRequest{}
	if err := r.read(maxMachineBody, wanted); err != nil {
		return 0, nil, err
	}
	c, err := parseConfig(wanted.Config)
	if err != nil {
		return 0, nil, err
	}
	if wanted.Name == "" {
		wanted.Name = randomName()
	}
	if !machineLabel.MatchString(wanted.Name) {
		return 0, nil, unprocessable("name %.80q is not the name of a machine: 1 to 63 letters, digits, '-', '_' and '.'", wanted.Name)
	}
	if wanted.LeaseTTL < 0 || wanted.LeaseTTL > maxLease {
		return 0, nil, invalid("lease_ttl must be from 0 to %d seconds", maxLease)
	}
	regions, err := s.regionsOf(wanted.Region)
	if err != nil {
		return 0, nil, err
	}
	region, err := s.quirks.roomIn(regions)
	if err != nil {
		return 0, nil, err
	}
	e, err := s.insert(r.committed(), r.app, wanted, c, region)
	if err != nil {
		return 0, nil, err
	}
	first := e.state()
	s.kick(e)
	if err := s.verdict(r.Context(), e, first.record.Launch); err != nil {
		return 0, nil, describePlacing(err)
	}
	if err := s.quirks.afterCreate(); err != nil {
		return 0, nil, err
	}
	v := view(first)
	if l := first.record.Lease; l != nil {
		v.Nonce = l.Nonce
	}
	return http.StatusOK, v, nil
}

// insert makes the row of a new machine.
func (s *Service) insert(ctx context.Context, app *appRecord, wanted *machineRequest, c *config, region string) (*entry, error) {
	now := s.Now().UTC()
	r := &record{
		ID: randomHex(7), App: app.ID, Name: wanted.Name, Region: region, State: created, Instance: s.ids.ulid(now),
		Created: now, Updated: now, Metadata: c.Metadata,
	}
	s.schedule(r, c, now)
	if !wanted.SkipLaunch && c.Schedule == "" {
		r.Launch = 1
	}
	if wanted.LeaseTTL > 0 {
		r.Lease = newLease(r, wanted.LeaseTTL, "", now)
	}
	s.happened(r, "launch", created, byUser, nil)
	e := newEntry(r, c)
	if err := s.reserve(e); err != nil {
		return nil, err
	}
	data, err := json.Marshal(r)
	if err != nil {
		err = fmt.Errorf("flyapi: %w: %w", fault.Internal, err)
	} else {
		err = s.ledger.Commit(ctx, "create", &ledger.Change{
			Machines: map[string][]byte{r.ID: data},
			Configs:  []ledger.Config{{Machine: r.ID, Version: r.Instance, Config: wanted.Config}},
		})
	}
	if err != nil {
		s.release(e)
		return nil, err
	}
	s.mu.Lock()
	s.machines[r.ID] = e
	s.mu.Unlock()
	return e, nil
}

// reserve takes the machine's name in its app.
func (s *Service) reserve(e *entry) error {
	r := e.record()
	key := r.App + "/" + r.Name
	if s.living("") >= s.MaxMachines {
		return unprocessable("You have reached the limit of machines: this server allows %d", s.MaxMachines)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.names[key]; other != nil {
		return refuse(http.StatusConflict, "already_exists: unique machine name violation, machine ID %s already exists with name %q",
			other.record().ID, r.Name)
	}
	s.names[key] = e
	return nil
}

// verdict waits until the provider has taken a launch or refused it, for placeTime at most, and returns the refusal.
func (s *Service) verdict(ctx context.Context, e *entry, launch int) error {
	if launch == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, placeTime)
	defer cancel()
	for {
		news := e.news()
		r := e.record()
		seen, _ := e.sight()
		if err := e.refusal(launch); err != nil && (r.Launch != launch || !r.busy()) {
			return err
		}
		undecided := r.State == created || r.State == starting || r.State == launchFailed
		if r.Launch != launch || seen != nil && r.State != launchFailed || !undecided {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return e.refusal(launch)
		}
	}
}

// updateMachine replaces a machine's configuration by a new version. A machine that runs is started anew with it.
func (s *Service) updateMachine(r *request) (int, any, error) {
	wanted := &machineRequest{}
	if err := r.read(maxMachineBody, wanted); err != nil {
		return 0, nil, err
	}
	c, err := parseConfig(wanted.Config)
	if err != nil {
		return 0, nil, err
	}
	_, err = s.changeConfig(r.committed(), r.entry, "update", wanted.Config, c, func(m *record) error {
		if err := s.checkLease(m, r.Header.Get(nonceHeader)); err != nil {
			return err
		}
		switch {
		case m.State == destroyed || m.State == destroying:
			return noMachine()
		case wanted.CurrentVersion != "" && wanted.CurrentVersion != m.Instance:
			return refuse(http.StatusConflict, "aborted: machine update failed due to concurrent update: current_version %.40s is not %s", wanted.CurrentVersion, m.Instance)
		case wanted.Name != "" && wanted.Name != m.Name:
			return unprocessable("a machine's name cannot be changed")
		case wanted.Region != "" && wanted.Region != m.Region:
			return unprocessable("a machine's region cannot be changed")
		case !m.settled():
			return precondition("unable to update machine from current state: '%s'", m.State)
		}
		now := s.Now().UTC()
		m.Instance, m.Metadata = s.ids.ulid(now), c.Metadata
		s.happened(m, "update", replacing, byUser, nil)
		s.schedule(m, c, now)
		s.replace(m, r.entry, wanted.SkipLaunch || c.Schedule != "")
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	now := r.entry.state()
	s.kick(r.entry)
	return http.StatusOK, view(now), nil
}

// replace moves a machine on to its new version.
func (s *Service) replace(m *record, e *entry, skipLaunch bool) {
	then := thenLaunch
	if skipLaunch {
		then = thenStop
	}
	switch {
	case m.State == started || m.State == suspended:
		signal, timeout := e.config().stopping() // of the version that runs
		m.State, m.After, m.Requested, m.Signal = replacing, then, true, signal
		m.Deadline = s.Now().Add(timeout)
		if m.Resume = false; e.record().State == suspended {
			m.Deadline = s.Now() // what is suspended hears no signal
		}
	case skipLaunch:
	default:
		m.launch(time.Time{})
	}
}

// isUnchanged reports whether a change found nothing to do.
func isUnchanged(err error) bool { return errors.Is(err, errUnchanged) }
