package sqlite

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

// runnerColumns are what [runnerRow.columns] receives, of runners.
const runnerColumns = `machine, id, host, slots, pool, state, version, spec, tenant, attempt, job, claimed_by, uses, provider, machine_id, region, image,
	location, lifetime, price_rate, price_minimum, price_date, created_at, idle_at, free_at, drain_at, gone_at, message`

// runnerRow is a machine of a pool as it was read.
type runnerRow struct {
	store.Runner
	lifetime int64 // microseconds
	price    priceRow
}

func (r *runnerRow) columns() []column {
	columns := []column{
		word(&r.Machine), word(&r.ID), word(&r.Host), number(&r.Slots), word(&r.Pool), word(&r.State), number(&r.Version), word(&r.Spec), word(&r.Tenant), word(&r.Attempt), word(&r.JobID),
		word(&r.By), number(&r.Uses), word(&r.Provider), word(&r.MachineID), word(&r.Region), word(&r.Image), word(&r.Location),
		number(&r.lifetime),
	}
	return append(append(columns, r.price.columns()...),
		instant(&r.CreatedAt), instant(&r.IdleAt), instant(&r.FreeAt), instant(&r.DrainAt), instant(&r.GoneAt), word(&r.Message))
}

func (r *runnerRow) decode() *store.Runner {
	runner := r.Runner
	runner.Lifetime, runner.Price = time.Duration(r.lifetime)*time.Microsecond, r.price.decode()
	return &runner
}

const runnerByName = `SELECT ` + runnerColumns + ` FROM runners WHERE machine = $1`

const runnerByID = `SELECT ` + runnerColumns + ` FROM runners WHERE id = $1`

// readRunner returns a machine of a pool by its name, or nil.
func readRunner(c *session, text, name string) (*store.Runner, error) {
	var r runnerRow
	found, err := c.one(r.columns(), text, name)
	if err != nil || !found {
		return nil, err
	}
	return r.decode(), nil
}

const runnersOfHost = `SELECT ` + runnerColumns + ` FROM runners WHERE host = $1 ORDER BY rowid`

// slotsOf returns the slots of a machine of a pool, the first of them first.
func (s *session) slotsOf(host string) (slots []*store.Runner, err error) {
	err = s.each(func(values row) error {
		var r runnerRow
		err := s.scan(values, r.columns())
		slots = append(slots, r.decode())
		return err
	}, runnersOfHost, host)
	return slots, err
}

const insertRunner = `
INSERT INTO runners (machine, id, pool, state, spec, tenant, attempt, job, provider, region, lifetime, price_rate, price_minimum,
	price_date, created_at, free_at, host, slots)
VALUES ($1, $2, $3, 'warming', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)`

const countRunners = `SELECT count(DISTINCT host) FROM runners WHERE pool = $1 AND gone_at IS NULL AND state <> 'draining'`

// forgetRunners removes what is long gone; nobody else does, since no job leads to it.
const forgetRunners = `
DELETE FROM runners WHERE machine IN (SELECT machine FROM runners WHERE gone_at IS NOT NULL AND gone_at < $1 LIMIT 100)`

// AddRunner implements store.Runners.
func (s *Store) AddRunner(ctx context.Context, r *store.Runner, most int) error {
	added := *r
	added.Price = copied(r.Price)
	return s.write(ctx, opAddRunner, func(t *tx) error { return t.addRunner(&added, most) })
}

func (t *tx) addRunner(r *store.Runner, most int) error {
	var have int
	if _, err := t.one([]column{number(&have)}, countRunners, r.Pool); err != nil {
		return err
	}
	if have >= most {
		return fmt.Errorf("sqlite: pool %s: %w: it has %d machines", r.Pool, fault.Exhausted, have)
	}
	known, err := readRunner(t.session, runnerByName, r.Machine)
	if err != nil {
		return err
	}
	if known != nil {
		return fmt.Errorf("sqlite: machine %s: %w: there is one in pool %s", r.Machine, fault.Conflict, known.Pool)
	}
	price := rowOf(r.Price)
	for _, slot := range r.AllSlots() {
		free := r.CreatedAt
		if slot.Attempt != "" {
			free = time.Time{}
		}
		_, _, err = t.exec(insertRunner, slot.Machine, slot.ID, r.Pool, r.Spec, r.Tenant, slot.Attempt, slot.JobID, r.Provider, r.Region,
			r.Lifetime.Microseconds(), price.rate, price.minimum, price.date, micros(r.CreatedAt), micros(free), slot.Host, slot.Slots)
		if err != nil {
			return fmt.Errorf("sqlite: machine %s of pool %s: %w", slot.Machine, r.Pool, err)
		}
	}
	_, _, err = t.exec(forgetRunners, r.CreatedAt.Add(-keepAdopted).UnixMicro())
	return err
}

const moveRunner = `
UPDATE runners SET state = $2, attempt = $3, job = $4, tenant = $5, claimed_by = $6, uses = $7, machine_id = $8, image = $9,
	location = $10, idle_at = $11, free_at = $12, drain_at = $13, gone_at = $14, message = $15, version = $16
WHERE machine = $1`

func (t *tx) writeRunner(r *store.Runner) error {
	r.Version++
	_, _, err := t.exec(moveRunner, r.Machine, string(r.State), r.Attempt, r.JobID, r.Tenant, r.By, r.Uses, r.MachineID, r.Image, r.Location,
		micros(r.IdleAt), micros(r.FreeAt), micros(r.DrainAt), micros(r.GoneAt), r.Message, r.Version)
	return err
}

// MoveRunner implements store.Runners.
func (s *Store) MoveRunner(ctx context.Context, m *store.RunnerMove) (*store.Runner, error) {
	move := *m
	move.From = slices.Clone(m.From)
	switch {
	case len(move.From) == 0 || move.Time.IsZero():
		return nil, fmt.Errorf("sqlite: move machine %s: %w: from %d states, at %v", m.Machine, fault.Invalid, len(m.From), m.Time)
	case move.To != store.RunnerIdle && move.To != store.RunnerDraining && move.To != store.RunnerWarming:
		return nil, fmt.Errorf("sqlite: move machine %s: %w: it cannot be moved to %q by itself", m.Machine, fault.Invalid, m.To)
	}
	var moved *store.Runner
	err := s.write(ctx, opMoveRunner, func(t *tx) (err error) {
		moved, err = t.moveRunner(&move)
		return err
	})
	if err != nil {
		return nil, err
	}
	return moved, nil
}

func (t *tx) moveRunner(m *store.RunnerMove) (*store.Runner, error) {
	r, err := readRunner(t.session, runnerByName, m.Machine)
	switch {
	case err != nil:
		return nil, err
	case r == nil:
		return nil, fmt.Errorf("sqlite: machine %s: %w", m.Machine, fault.NotFound)
	case !slices.Contains(m.From, r.State) || r.Attempt != m.Attempt:
		return nil, fmt.Errorf("sqlite: move machine %s: %w: it is %s and of attempt %q", m.Machine, fault.Conflict, r.State, r.Attempt)
	}
	for _, keep := range []struct{ to, from *string }{{&r.By, &m.By}, {&r.MachineID, &m.MachineID}, {&r.Image, &m.Image}, {&r.Location, &m.Location}} {
		if *keep.from != "" {
			*keep.to = *keep.from
		}
	}
	become(r, m.To, m.Time, m.Message)
	return r, t.writeRunner(r)
}

// become changes the row of a machine that nobody has, or whose attempt is over.
func become(r *store.Runner, to store.RunnerState, at time.Time, message string) {
	r.State = to
	switch to {
	case store.RunnerIdle:
		r.Attempt, r.JobID, r.IdleAt = "", "", stored(at)
	case store.RunnerDraining:
		r.DrainAt, r.GoneAt, r.Message = stored(at), time.Time{}, message
	}
}

const presentRunners = `SELECT ` + runnerColumns + ` FROM runners INDEXED BY runners_present WHERE gone_at IS NULL`

// Runners implements store.Runners.
func (s *Store) Runners(ctx context.Context) (runners []*store.Runner, err error) {
	err = s.read(ctx, func(c *session) error {
		return c.each(func(values row) error {
			var r runnerRow
			err := c.scan(values, r.columns())
			runners = append(runners, r.decode())
			return err
		}, presentRunners)
	})
	slices.SortFunc(runners, func(a, b *store.Runner) int { return strings.Compare(a.Machine, b.Machine) }) // names grow with time
	return runners, err
}

// Runner implements store.Runners.
func (s *Store) Runner(ctx context.Context, nameOrID string) (r *store.Runner, err error) {
	err = s.read(ctx, func(c *session) error {
		if r, err = readRunner(c, runnerByName, nameOrID); r == nil && err == nil {
			r, err = readRunner(c, runnerByID, nameOrID)
		}
		return err
	})
	if err == nil && r == nil {
		err = fmt.Errorf("sqlite: machine %.128s of a pool: %w", nameOrID, fault.NotFound)
	}
	return r, err
}

// lending is a store.Lending that shares no memory with its caller.
func newLending(l *store.Lending) *store.Lending {
	if l == nil {
		return nil
	}
	lent := *l
	if l.New != nil {
		made := *l.New
		made.Price = copied(l.New.Price)
		lent.New = &made
	}
	return &lent
}

const giveHost = `UPDATE runners SET tenant = $2, version = version + 1 WHERE host = $1 AND machine <> $3`

// lend gives an attempt, which is about to be added, its machine of a pool.
func (t *tx) lend(j *jobRow, l *launch) (*store.Runner, error) {
	if made := l.Lend.New; made != nil {
		r := *made
		r.State, r.Attempt, r.JobID, r.Tenant = store.RunnerWarming, l.AttemptID, j.ID, l.Lend.Tenant
		return &r, t.addRunner(&r, l.Lend.Most)
	}
	r, err := readRunner(t.session, runnerByName, l.Machine)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, fmt.Errorf("sqlite: launch job %s: %w: there is no machine %s", l.JobID, fault.Internal, l.Machine)
	}
	if err := t.charge(r, l.Time, l.Lend.Wall); err != nil {
		return nil, err
	}
	if r.Divided() && r.Tenant == "" && l.Lend.Tenant != "" { // before the row itself is written with it
		if _, _, err := t.exec(giveHost, r.Host, l.Lend.Tenant, r.Machine); err != nil {
			return nil, err
		}
	}
	r.State, r.Attempt, r.JobID, r.Tenant, r.FreeAt = store.RunnerBusy, l.AttemptID, j.ID, l.Lend.Tenant, time.Time{}
	r.Uses++
	return r, t.writeRunner(r)
}

// lendable says why a launch cannot have its machine of a pool.
func (t *tx) lendable(j *jobRow, l *launch) (refusal, err error) {
	taken := func(format string, args ...any) error {
		return fmt.Errorf("sqlite: launch job %s: %w: %w: %s", l.JobID, fault.Conflict, store.ErrTaken, fmt.Sprintf(format, args...))
	}
	if made := l.Lend.New; made != nil {
		var have int
		if _, err := t.one([]column{number(&have)}, countRunners, made.Pool); err != nil {
			return nil, err
		}
		if have >= l.Lend.Most {
			return taken("pool %s has %d machines", made.Pool, have), nil
		}
		return nil, nil
	}
	if !j.CancelRequestedAt.IsZero() {
		return fmt.Errorf("sqlite: launch job %s: %w: it is being canceled", l.JobID, fault.Conflict), nil
	}
	r, err := readRunner(t.session, runnerByName, l.Machine)
	switch {
	case err != nil:
		return nil, err
	case r == nil:
		return taken("there is no machine %s", l.Machine), nil
	case r.State != store.RunnerIdle:
		return taken("machine %s is %s", l.Machine, r.State), nil
	case r.Tenant != "" && r.Tenant != l.Lend.Tenant:
		return taken("machine %s is another tenant's", l.Machine), nil
	case r.By != l.Lend.By:
		return taken("machine %s has another agent", l.Machine), nil
	}
	return nil, nil
}

// use moves the machine of a pool on whose attempt has been claimed. by is who claimed it.
func (t *tx) use(p *pair, by string) error {
	r, err := readRunner(t.session, runnerByName, p.attempt.Runner)
	if err != nil || r == nil || r.Attempt != p.attempt.ID {
		return err
	}
	if r.State == store.RunnerWarming {
		r.State = store.RunnerBusy
	}
	r.By = by
	r.Uses++
	return t.writeRunner(r)
}

// claimsElse reports whether the machine of a pool that an attempt is on has an agent other than the claimant, or is not the
// attempt's any more.
func (t *tx) claimsElse(p *pair, by string) (bool, error) {
	if p.attempt.Runner == "" {
		return false, nil
	}
	r, err := readRunner(t.session, runnerByName, p.attempt.Runner)
	if err != nil || r == nil {
		return true, err
	}
	return r.Attempt != p.attempt.ID || r.By != "" && r.By != by || r.State != store.RunnerWarming, nil
}

// vacate takes an attempt that has ended off its machine of a pool, and settles what the attempt has cost.
func (t *tx) vacate(p *pair, e *ending) error {
	wall := e.Wall
	if wall.IsZero() {
		wall = e.Time
	}
	if err := t.settle(&settling{lentName(p.attempt.Runner, p.attempt.ID), wall}); err != nil {
		return err
	}
	r, err := readRunner(t.session, runnerByName, p.attempt.Runner)
	if err != nil || r == nil || r.Attempt != p.attempt.ID {
		return err
	}
	r.FreeAt = stored(e.Time)
	switch r.State {
	case store.RunnerDraining, store.RunnerGone: // somebody has it destroyed
		return t.writeRunner(r)
	}
	to, why := e.Runner, e.Gone
	if to != store.RunnerRecycling && to != store.RunnerIdle {
		to = store.RunnerDraining
	}
	become(r, to, e.Time, why)
	return t.writeRunner(r)
}

// charge enters what a machine of a pool has cost while no attempt had it.
func (t *tx) charge(r *store.Runner, until, wall time.Time) error {
	if r.FreeAt.IsZero() || r.Price == nil || r.Price.Rate == 0 {
		return nil
	}
	if wall.IsZero() {
		wall = until
	}
	m := r.Meter()
	m.Until = stored(until)
	for _, share := range m.Days(m.Until, wall, 0) {
		if share.Amount == 0 {
			continue
		}
		if _, _, err := t.exec(addCost, share.Day, store.PoolQueue(r.Pool), r.Provider, int64(share.Amount), 0, 0); err != nil {
			return err
		}
	}
	return nil
}

// moveRunnersMachine is a move of the ledger of machines for one that is a pool's.
func (t *tx) moveRunnersMachine(m *store.MachineMove) error {
	slots, err := t.slotsOf(m.Name)
	if err != nil || len(slots) == 0 || !slices.Contains(m.From, store.Together(slots).Machine()) {
		return err
	}
	for _, r := range slots {
		switch {
		case m.To == store.MachineDeleting && r.State != store.RunnerDraining:
			become(r, store.RunnerDraining, m.Time, m.Message)
		case m.To == store.MachineGone:
			if err := t.charge(r, m.Time, m.Wall); err != nil {
				return err
			}
			r.State, r.GoneAt, r.FreeAt = store.RunnerGone, stored(m.Time), time.Time{}
		default:
			continue // it is what its pool says
		}
		if err := t.writeRunner(r); err != nil {
			return err
		}
	}
	return nil
}

// lentName is what an attempt's row has for the name of its machine of a pool.
func lentName(runner, attempt string) string { return runner + "/" + attempt }

// pooledMachines returns the machines of pools that match q.
func pooledMachines(c *session, q *store.MachineQuery) (machines []*store.Machine, err error) {
	var s query
	if len(q.Names) > 0 {
		s.in("machine", q.Names...)
	} else if len(q.States) > 0 && !slices.Contains(q.States, store.MachineGone) {
		s.and("gone_at IS NULL")
	}
	if q.Before != "" {
		s.and("machine < " + s.arg(q.Before))
	}
	if q.Provider != "" {
		s.and("provider = " + s.arg(q.Provider))
	}
	if states := runnerStates(q.States); len(q.States) > 0 {
		s.in(togetherState, states...)
	}
	s.and("host = machine") // the first slot stands for all
	err = c.eachMachine(q, func(values row) error {
		var r runnerRow
		err := c.scan(values, r.columns())
		machines = append(machines, store.MachineOf(r.decode()))
		return err
	}, s.text(`SELECT `+runnerColumns+` FROM runners r`, " ORDER BY machine DESC LIMIT "+s.limit(q.Limit)), s.args...)
	for i, m := range machines {
		if err != nil || !m.Slots[0].Divided() {
			continue
		}
		var slots []*store.Runner
		if slots, err = c.slotsOf(m.Name); err == nil {
			machines[i] = store.MachineOf(slots...)
		}
	}
	return machines, err
}

// togetherState is what [store.Together] says of the slots of a machine whose first slot is r.
const togetherState = `CASE WHEN slots = 1 OR gone_at IS NOT NULL THEN state ELSE (
	SELECT CASE max(CASE s.state WHEN 'busy' THEN 5 WHEN 'recycling' THEN 4 WHEN 'idle' THEN 3 WHEN 'warming' THEN 2 ELSE 1 END)
		WHEN 5 THEN 'busy' WHEN 4 THEN 'recycling' WHEN 3 THEN 'idle' WHEN 2 THEN 'warming' ELSE 'draining' END
	FROM runners s WHERE s.host = r.machine) END`

// runnerStates returns what machines of pools are in that the ledger holds in one of the states.
func runnerStates(states []store.MachineState) []string {
	all := []store.RunnerState{
		store.RunnerWarming, store.RunnerIdle, store.RunnerBusy, store.RunnerRecycling, store.RunnerDraining, store.RunnerGone,
	}
	found := []string{"none"} // so that the list is never empty
	for _, state := range all {
		if slices.Contains(states, state.Machine()) {
			found = append(found, string(state))
		}
	}
	return found
}
