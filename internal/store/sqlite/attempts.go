package sqlite

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

const claimAttempt = `
UPDATE attempts SET state = 'running', fence = $2, claimed_by = $3, claimed_at = $4,
	machine_state = CASE machine_state WHEN 'creating' THEN 'present' ELSE machine_state END
WHERE seq = $1`

const claimJob = `UPDATE jobs SET version = $2, state = 'running', fence = $3, events = $4 WHERE seq = $1`

// Claim implements store.Attempts.
func (s *Store) Claim(ctx context.Context, c *store.Claim) (*store.Job, *store.Attempt, error) {
	if c.By == "" {
		return nil, nil, fmt.Errorf("sqlite: claim of attempt %s: %w: nobody claims it", c.Attempt, fault.Invalid)
	}
	wish := *c
	var claimed *pair
	err := s.write(ctx, opClaim, func(t *tx) (err error) {
		claimed, err = t.claim(&wish)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return claimed.decode()
}

func (t *tx) claim(c *store.Claim) (*pair, error) {
	p, err := t.pair(c.Attempt)
	if err != nil {
		return nil, err
	}
	a, j := &p.attempt, &p.job
	if p.inputs, err = readInputs(t.session, j); err != nil {
		return nil, err
	}
	if a.State == dayfly.AttemptRunning && a.ClaimedBy == c.By {
		return p, nil // the answer to an earlier call was lost
	}
	if err := claimable(p); err != nil {
		return nil, err
	}
	if other, err := t.claimsElse(p, c.By); err != nil {
		return nil, err
	} else if other {
		return nil, fmt.Errorf("sqlite: attempt %s: %w: its machine of a pool is not the claimant", a.ID, fault.StaleAttempt)
	}
	j.Version++
	j.Events++
	j.Fence++
	j.State = dayfly.Running
	a.State, a.Fence, a.ClaimedBy, a.ClaimedAt = dayfly.AttemptRunning, j.Fence, c.By, stored(c.Time)
	if err := t.writeClaim(p); err != nil || a.Runner == "" {
		return p, err
	}
	return p, t.use(p, c.By)
}

// claimable says why an attempt cannot be claimed any more.
func claimable(p *pair) error {
	a, j := &p.attempt, &p.job
	switch {
	case a.State == dayfly.AttemptRunning:
		return fmt.Errorf("sqlite: attempt %s: %w by %s", a.ID, fault.AlreadyClaimed, a.ClaimedBy)
	case a.State.Terminal():
		return fmt.Errorf("sqlite: attempt %s: %w: it is %s", a.ID, fault.StaleAttempt, a.State)
	case j.Attempt != a.ID || j.State != dayfly.Starting:
		return fmt.Errorf("sqlite: attempt %s: %w: its job is %s with attempt %s", a.ID, fault.StaleAttempt, j.State, j.Attempt)
	case !j.CancelRequestedAt.IsZero():
		return fmt.Errorf("sqlite: attempt %s: %w: its job is being canceled", a.ID, fault.StaleAttempt)
	}
	return nil
}

func (t *tx) writeClaim(p *pair) error {
	a, j := &p.attempt, &p.job
	if _, _, err := t.exec(claimAttempt, a.Seq, a.Fence, a.ClaimedBy, micros(a.ClaimedAt)); err != nil {
		return err
	}
	if _, _, err := t.exec(claimJob, j.Seq, j.Version, j.Fence, j.Events); err != nil {
		return err
	}
	t.pairs.remember(p)
	t.moved(j.lane(), dayfly.Starting, dayfly.Running)
	t.event(event{job: j.Seq, seq: j.Events, time: a.ClaimedAt, kind: eventRunning, state: j.State, attempt: a.Number})
	return nil
}

const bootAttempt = `UPDATE attempts SET state = 'booting', booted_at = $2, message = '' WHERE seq = $1`

const bootMachine = `
UPDATE attempts SET machine_id = $2, location = $3,
	machine_state = CASE machine_state WHEN 'creating' THEN 'present' ELSE machine_state END
WHERE seq = $1 AND gone_at IS NULL`

const keepImage = `UPDATE attempts SET image = $2 WHERE seq = $1`

const prepareAttempt = `UPDATE attempts SET prepared_at = $2 WHERE seq = $1`

const doubtAttempt = `UPDATE attempts SET state = 'create_unknown', message = $2 WHERE seq = $1`

const noteProgress = `UPDATE jobs SET progress = $2 WHERE seq = $1`

// note is a store.Note that shares no memory with its caller.
type note struct {
	store.Note
	machineID, location, image string
	progress                   []byte
}

// Note implements store.Attempts.
func (s *Store) Note(ctx context.Context, notes []*store.Note) error {
	if len(notes) == 0 {
		return nil
	}
	list := make([]note, len(notes))
	for i, n := range notes {
		list[i].Note = *n
		switch {
		case n.Booted != nil:
			list[i].machineID, list[i].location, list[i].image = n.Booted.ID, n.Booted.Location, n.Booted.Image
		case n.Prepared:
		case n.Progress != nil:
			progress, err := json.Marshal(n.Progress)
			if err != nil {
				return fmt.Errorf("sqlite: note on attempt %s: %w: %w", n.Attempt, fault.Invalid, err)
			}
			list[i].progress = progress
		case n.Unknown == "":
			return fmt.Errorf("sqlite: note on attempt %s: %w: it says nothing", n.Attempt, fault.Invalid)
		}
	}
	return s.write(ctx, opNote, func(t *tx) error {
		for i := range list {
			if err := t.note(&list[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t *tx) note(n *note) error {
	p, err := t.pair(n.Attempt)
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	a := &p.attempt
	switch {
	case n.Booted != nil:
		return t.booted(p, n)
	case n.progress != nil && a.State == dayfly.AttemptRunning:
		p.job.progress = n.progress
		_, _, err = t.exec(noteProgress, p.job.Seq, string(n.progress))
	case n.Prepared && a.PreparedAt.IsZero():
		a.PreparedAt = stored(n.Time)
		_, _, err = t.exec(prepareAttempt, a.Seq, micros(a.PreparedAt))
	case n.Unknown != "" && a.State == dayfly.AttemptCreating:
		a.State, a.Message = dayfly.AttemptCreateUnknown, n.Unknown
		_, _, err = t.exec(doubtAttempt, a.Seq, n.Unknown)
	default:
		return nil
	}
	t.pairs.remember(p)
	return err
}

// booted records the answer of a provider. It may come after the machine has called, or after the attempt has ended.
// What the provider calls the machine is recorded all the same, because that is how the machine will be destroyed.
func (t *tx) booted(p *pair, n *note) error {
	a := &p.attempt
	if a.State == dayfly.AttemptCreating || a.State == dayfly.AttemptCreateUnknown {
		a.State, a.BootedAt, a.Message = dayfly.AttemptBooting, stored(n.Time), ""
		if _, _, err := t.exec(bootAttempt, a.Seq, micros(a.BootedAt)); err != nil {
			return err
		}
		t.pairs.remember(p)
	}
	if n.image != "" { // which is worth knowing of a machine that is gone, too
		if _, _, err := t.exec(keepImage, a.Seq, n.image); err != nil {
			return err
		}
	}
	_, _, err := t.exec(bootMachine, a.Seq, n.machineID, n.location)
	if err != nil || a.Runner == "" {
		return err
	}
	r, err := readRunner(t.session, runnerByName, a.Runner)
	if err != nil || r == nil {
		return err
	}
	r.MachineID, r.Location, r.Image = n.machineID, n.location, cmp.Or(n.image, r.Image)
	return t.writeRunner(r)
}

const attemptByID = `
SELECT ` + attemptColumns + `, ` + machineColumns + `, ` + jobColumns + `
FROM attempts a JOIN ` + jobTables + `
WHERE a.id = $1 AND j.seq = a.job`

// Attempt implements store.Attempts.
func (s *Store) Attempt(ctx context.Context, id string) (*store.Attempt, error) {
	var p pair
	var m machineRow
	err := s.read(ctx, func(c *session) error {
		dest := append(p.attempt.columns(), m.columns()...)
		found, err := c.one(append(dest, p.job.columns()...), attemptByID, id)
		if err == nil && !found {
			return noAttempt(id)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	job, a, err := p.decode()
	if err != nil {
		return nil, err
	}
	a.Machine = m.of(a, job.ID)
	return a, nil
}

// The live attempts are so few that sorting them anew for every page costs less than keeping another index would.
const liveAttempts = `
SELECT ` + attemptColumns + `, ` + machineColumns + `, ` + jobColumns + `
FROM (
	SELECT seq FROM attempts INDEXED BY attempts_live WHERE ended_at IS NULL AND seq > $1 ORDER BY seq LIMIT $2 + 0
) live
JOIN attempts a ON a.seq = live.seq
LEFT JOIN jobs j ON j.seq = a.job LEFT JOIN specs s ON j.spec IS NULL AND s.job = j.seq
ORDER BY a.seq`

// maxBad is how many unreadable rows Live reports; more would say no more.
const maxBad = 100

// Live implements store.Attempts.
func (s *Store) Live(ctx context.Context, after int64, limit int) (live []*store.Attempt, bad []error, err error) {
	for limit > 0 {
		missing := limit - len(live)
		read := 0
		err := s.read(ctx, func(c *session) error {
			return c.each(func(values row) error {
				read++
				var p pair
				var m machineRow
				dest := append(p.attempt.columns(), m.columns()...)
				err := c.scan(values, append(dest, p.job.columns()...))
				after = p.attempt.Seq
				if err == nil {
					var a *store.Attempt
					if _, a, err = p.decode(); err == nil {
						a.Machine = m.of(a, p.job.ID)
						live = append(live, a)
					}
				}
				if err != nil && len(bad) < maxBad {
					bad = append(bad, fmt.Errorf("attempt %s: %w", p.attempt.ID, err))
				}
				return nil
			}, liveAttempts, after, missing)
		})
		if err != nil || read < missing || len(live) == limit {
			return live, bad, err
		}
	}
	return nil, nil, nil
}
