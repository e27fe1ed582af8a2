package storetest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

func (m *model) Claim(_ context.Context, c *store.Claim) (*store.Job, *store.Attempt, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j, a, err := m.findAttempt(c.Attempt)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case a.State == dayfly.AttemptRunning && a.ClaimedBy == c.By:
		return m.pair(j, a)
	case a.State == dayfly.AttemptRunning:
		return nil, nil, refuse(fault.AlreadyClaimed, "attempt %s", a.ID)
	case a.State.Terminal() || j.Attempt != a.ID || !j.CancelRequestedAt.IsZero() || !m.claimable(a, c.By):
		return nil, nil, refuse(fault.StaleAttempt, "attempt %s", a.ID)
	}
	j.Fence++
	j.State = dayfly.Running
	a.State, a.Fence, a.ClaimedBy, a.ClaimedAt = dayfly.AttemptRunning, j.Fence, c.By, c.Time
	if machine := m.machines[j.machine[a.ID]]; machine.State == store.MachineCreating {
		machine.State = store.MachinePresent
	}
	m.use(a)
	j.moved(c.Time, "running", a.Number, "", "")
	return m.pair(j, a)
}

func (m *model) pair(j *modelJob, a *store.Attempt) (*store.Job, *store.Attempt, error) {
	job, attempt := j.row(), *a
	job.Inputs = slices.Clone(j.Inputs)
	attempt.Job = job
	return job, &attempt, nil
}

func (m *model) End(_ context.Context, e *store.Ending) (*store.Job, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j, a, err := m.findAttempt(e.Attempt)
	switch {
	case err != nil:
		return nil, err
	case a.State == e.State && a.Fence == e.Fence && e.Fence != 0:
		return j.row(), nil
	case a.State.Terminal() || a.Fence != e.Fence || j.Attempt != a.ID:
		return nil, refuse(fault.StaleAttempt, "attempt %s", a.ID)
	case j.Version != e.JobVersion:
		return nil, refuse(fault.Conflict, "job %s is at %d", j.ID, j.Version)
	}
	a.State, a.EndedAt, a.Reason, a.Message, a.Started, a.Exit = e.State, e.Time, e.Reason, e.Message, e.Started, e.Exit
	a.Unbilled = e.Unbilled
	if machine := m.machines[j.machine[a.ID]]; machine.State == store.MachineCreating || machine.State == store.MachinePresent {
		machine.State, machine.DeleteAt = store.MachineDeleting, e.Time
		if !e.KeepUntil.IsZero() {
			machine.State, machine.DeleteAt = store.MachineKept, e.KeepUntil
		}
	}
	if a.Runner != "" {
		m.vacate(j, a, e)
	}
	j.artifacts[a.ID] = e.Artifacts
	n := e.Job
	j.State, j.Starts, j.Launches, j.Losses = n.State, n.Starts, n.Launches, n.Losses
	j.Reason, j.Message, j.ExitCode, j.Result = n.Reason, n.Message, n.ExitCode, n.Value
	if len(n.Refusals) > 0 {
		j.Refusals = n.Refusals
	}
	if e.Result != nil && e.Result.Progress != nil {
		j.Progress = &dayfly.Progress{Fraction: e.Result.Progress.Fraction, Text: e.Result.Progress.Text}
	}
	switch n.State {
	case dayfly.Queued:
		j.QueuedAt = e.Time
		j.moved(e.Time, "attempt_ended", a.Number, e.Reason, e.Message)
	case dayfly.Scheduled:
		j.RunAt = n.RunAt
		j.moved(e.Time, "attempt_ended", a.Number, e.Reason, e.Message)
	default:
		j.FinishedAt = e.Time
		j.moved(e.Time, string(n.State), a.Number, n.Reason, n.Message)
	}
	if n.ReleaseKey {
		m.release(j.Queue, j.Key)
	}
	return j.row(), nil
}

func (m *model) Note(_ context.Context, notes []*store.Note) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range notes {
		j, a, err := m.findAttempt(n.Attempt)
		if err != nil {
			continue
		}
		fresh := a.State == dayfly.AttemptCreating || a.State == dayfly.AttemptCreateUnknown
		switch {
		case n.Booted != nil:
			if fresh {
				a.State, a.BootedAt, a.Message = dayfly.AttemptBooting, n.Time, ""
			}
			machine := m.machines[j.machine[a.ID]]
			machine.Image = cmp.Or(n.Booted.Image, machine.Image)
			if machine.State != store.MachineGone {
				machine.ID, machine.Location = n.Booted.ID, n.Booted.Location
				if machine.State == store.MachineCreating {
					machine.State = store.MachinePresent
				}
			}
			if r := m.runners[a.Runner]; r != nil {
				r.MachineID, r.Location, r.Image = n.Booted.ID, n.Booted.Location, cmp.Or(n.Booted.Image, r.Image)
				r.Version++
			}
		case n.Prepared && a.PreparedAt.IsZero():
			a.PreparedAt = n.Time
		case n.Unknown != "" && a.State == dayfly.AttemptCreating:
			a.State, a.Message = dayfly.AttemptCreateUnknown, n.Unknown
		case n.Progress != nil && a.State == dayfly.AttemptRunning:
			j.Progress = n.Progress
		}
	}
	return nil
}

func (m *model) Live(_ context.Context, after int64, limit int) ([]*store.Attempt, []error, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var live []*store.Attempt
	for _, j := range m.jobs {
		for _, a := range j.attempts {
			if !a.State.Terminal() && a.Seq > after && len(live) < limit {
				c := m.wholeAttempt(j, a)
				c.Job = j.row()
				live = append(live, c)
			}
		}
	}
	return live, nil, nil
}

func (m *model) Attempt(_ context.Context, id string) (*store.Attempt, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j, a, err := m.findAttempt(id)
	if err != nil {
		return nil, err
	}
	c := m.wholeAttempt(j, a)
	c.Job = j.row()
	return c, nil
}

func (m *model) Machines(_ context.Context, q *store.MachineQuery) ([]*store.Machine, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[string]*store.Machine{}
	for key, machine := range m.machines {
		if key == machine.Name {
			all[key] = machine
		}
	}
	for name, r := range m.runners {
		if name == r.Host {
			all[name] = store.MachineOf(m.slots(name, true)...)
		}
	}
	var list []*store.Machine
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(all))) {
		machine := *all[name]
		if (len(q.States) == 0 || slices.Contains(q.States, machine.State)) && len(list) < q.Limit &&
			(q.Provider == "" || q.Provider == machine.Provider) && (q.Before == "" || name < q.Before) &&
			(len(q.Names) == 0 || slices.Contains(q.Names, name)) {
			list = append(list, &machine)
		}
	}
	return list, nil
}

func (m *model) MoveMachine(_ context.Context, moves []*store.MachineMove) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range moves {
		machine := m.machines[w.Name]
		if machine == nil {
			m.moveRunner(w)
			continue
		}
		if !slices.Contains(w.From, machine.State) {
			continue
		}
		machine.State, machine.GoneAt = w.To, time.Time{}
		machine.Message = cmp.Or(w.Message, machine.Message)
		switch w.To {
		case store.MachineGone:
			machine.GoneAt = w.Time
			m.settle(machine, cmp.Or(w.Wall, w.Time))
		case store.MachineDeleting:
			machine.DeleteAt = w.Time
		}
	}
	return nil
}

func (m *model) AdoptMachine(_ context.Context, machine *store.Machine) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.machines[machine.Name] != nil {
		return refuse(fault.Conflict, "machine %s", machine.Name)
	}
	c := *machine
	m.machines[machine.Name] = &c
	return nil
}

func (m *model) Boot(context.Context) (*store.Identity, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, j := range m.jobs {
		j.Held = false
	}
	m.identity.Epoch++
	identity := m.identity
	return &identity, nil
}

func (m *model) Delete(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	j, err := m.find(id)
	if err != nil {
		return err
	}
	if !j.State.Terminal() {
		return refuse(fault.Conflict, "job %s is %s", id, j.State)
	}
	for _, machine := range m.machines {
		if machine.JobID == id && machine.State != store.MachineGone {
			return refuse(fault.Conflict, "machine %s is %s", machine.Name, machine.State)
		}
	}
	for _, name := range j.machine {
		delete(m.machines, name)
	}
	m.jobs = slices.DeleteFunc(m.jobs, func(other *modelJob) bool { return other == j })
	return nil
}

func (m *model) Expendable(_ context.Context, before time.Time, limit int) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*modelJob
	for _, j := range m.jobs {
		expendable := j.State.Terminal() && j.FinishedAt.Before(before)
		for _, machine := range m.machines {
			expendable = expendable && (machine.JobID != j.ID || machine.State == store.MachineGone)
		}
		if expendable {
			list = append(list, j)
		}
	}
	slices.SortStableFunc(list, func(a, b *modelJob) int { return a.FinishedAt.Compare(b.FinishedAt) })
	var names []string
	for _, j := range list[:min(limit, len(list))] {
		names = append(names, j.ID)
	}
	return names, nil
}
