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

// Machines implements store.Machines.
func (s *Store) Machines(ctx context.Context, q *store.MachineQuery) ([]*store.Machine, error) {
	if q.Limit < 1 || q.Limit > 10_000 || len(q.Names) > 1000 {
		return nil, fmt.Errorf("sqlite: machines: %w: limit %d is not between 1 and 10000, or more than 1000 names",
			fault.Invalid, q.Limit)
	}
	var machines []*store.Machine
	err := s.read(ctx, func(c *session) error {
		for _, table := range []string{launchedMachines, adoptedMachines} {
			text, args := machinesQuery(q, table)
			err := c.eachMachine(q, func(values row) error {
				var r machineRow
				var attempt, job string
				err := c.scan(values, append(r.columns(), word(&attempt), word(&job)))
				machines = append(machines, r.decode(attempt, job))
				return err
			}, text, args...)
			if err != nil {
				return err
			}
		}
		pooled, err := pooledMachines(c, q)
		machines = append(machines, pooled...)
		return err
	})
	slices.SortFunc(machines, func(a, b *store.Machine) int { return strings.Compare(b.Name, a.Name) })
	return machines[:min(len(machines), q.Limit)], err
}

// eachMachine is each for a query of machines. One that names them is made up for that once; the rest recur.
func (s *session) eachMachine(q *store.MachineQuery, scan func(row) error, text string, args ...any) error {
	if len(q.Names) > 0 {
		return s.eachOnce(scan, text, args...)
	}
	return s.each(scan, text, args...)
}

const launchedMachines = `SELECT ` + machineColumns + `, a.id, j.id FROM attempts a JOIN jobs j ON j.seq = a.job`

const adoptedMachines = `SELECT ` + machineColumns + `, a.attempt, a.job FROM adopted a`

// machinesQuery returns the statement for a page of machines of one of the two tables. Names grow with time, so the
// newest come first when they are in falling order.
func machinesQuery(q *store.MachineQuery, table string) (string, []any) {
	var s query
	if table == launchedMachines {
		s.and("a.runner = ''") // those are listed for themselves
	}
	if len(q.States) > 0 {
		s.in("a.machine_state", words(q.States)...)
	}
	switch {
	case len(q.Names) > 0:
		s.in("a.machine", q.Names...)
	case len(q.States) > 0 && !slices.Contains(q.States, store.MachineGone):
		s.and("a.gone_at IS NULL") // there is an index of these few
	}
	if q.Before != "" {
		s.and("a.machine < " + s.arg(q.Before))
	}
	if q.Provider != "" {
		s.and("a.provider = " + s.arg(q.Provider))
	}
	return s.text(table, " ORDER BY a.machine DESC LIMIT "+s.limit(q.Limit)), s.args
}

// The states from which a machine may move are six at most. Those missing are filled up with one that is there.
const (
	ifFrom = ` WHERE machine = $1 AND
	(machine_state = $4 OR machine_state = $5 OR machine_state = $6 OR machine_state = $7 OR machine_state = $8 OR
	machine_state = $9)`

	toGone     = ` SET machine_state = 'gone', gone_at = $2` + withMessage + ifFrom
	toDeleting = ` SET machine_state = 'deleting', delete_at = $2, gone_at = NULL` + withMessage + ifFrom
	toOther    = ` SET machine_state = $10, gone_at = NULL` + withMessage + ifFrom + ` AND $2 IS NOT NULL`

	withMessage = `, machine_message = CASE $3 WHEN '' THEN machine_message ELSE $3 END`
)

// machineMove is a store.MachineMove made ready to be written: to one table, or else to the other.
type machineMove struct {
	launched, adopted string
	args              []any
	gone              *settling // set when it moves to gone
	move              store.MachineMove
}

func newMachineMove(m *store.MachineMove) (*machineMove, error) {
	if len(m.From) == 0 || len(m.From) > 6 || m.Time.IsZero() {
		return nil, fmt.Errorf("sqlite: move machine %s: %w: from %d states, at %v", m.Name, fault.Invalid, len(m.From), m.Time)
	}
	args := []any{m.Name, micros(m.Time), m.Message}
	for i := range 6 {
		args = append(args, string(m.From[min(i, len(m.From)-1)]))
	}
	switch m.To {
	case store.MachineGone:
		wall := m.Wall
		if wall.IsZero() {
			wall = m.Time
		}
		return &machineMove{`UPDATE attempts` + toGone, `UPDATE adopted` + toGone, args, &settling{m.Name, wall}, *m}, nil
	case store.MachineDeleting:
		return &machineMove{`UPDATE attempts` + toDeleting, `UPDATE adopted` + toDeleting, args, nil, *m}, nil
	case store.MachineCreating, store.MachinePresent, store.MachineKept, store.MachineQuarantined:
		return &machineMove{`UPDATE attempts` + toOther, `UPDATE adopted` + toOther, append(args, string(m.To)), nil, *m}, nil
	}
	return nil, fmt.Errorf("sqlite: move machine %s: %w: state %q is unknown", m.Name, fault.Invalid, m.To)
}

// MoveMachine implements store.Machines.
func (s *Store) MoveMachine(ctx context.Context, moves []*store.MachineMove) error {
	if len(moves) == 0 {
		return nil
	}
	list := make([]*machineMove, len(moves))
	for i, m := range moves {
		move, err := newMachineMove(m)
		if err != nil {
			return err
		}
		list[i] = move
	}
	return s.write(ctx, opMoveMachine, func(t *tx) error {
		for _, m := range list {
			changed, _, err := t.exec(m.launched, m.args...)
			switch {
			case err == nil && changed == 0:
				if changed, _, err = t.exec(m.adopted, m.args...); err == nil && changed == 0 {
					err = t.moveRunnersMachine(&m.move)
				}
			case err == nil && m.gone != nil:
				err = t.settle(m.gone)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

const machineKnown = `SELECT count(*) FROM attempts WHERE machine = $1`

const insertAdopted = `
INSERT INTO adopted (machine, provider, machine_id, attempt, job, machine_state, lifetime, location, machine_message,
	created_at, delete_at, gone_at, region, image)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`

// Nothing else removes adopted machines, since no job of ours need have made them.
const forgetAdopted = `
DELETE FROM adopted WHERE machine IN (
	SELECT machine FROM adopted WHERE gone_at IS NOT NULL AND gone_at < $1 LIMIT 100)`

// keepAdopted is how long an adopted machine is remembered once it is gone.
const keepAdopted = 7 * 24 * time.Hour

// AdoptMachine implements store.Machines.
func (s *Store) AdoptMachine(ctx context.Context, m *store.Machine) error {
	adopted := *m
	return s.write(ctx, opAdoptMachine, func(t *tx) error {
		var known int
		if _, err := t.one([]column{number(&known)}, machineKnown, adopted.Name); err != nil {
			return err
		}
		if known > 0 {
			return fmt.Errorf("sqlite: adopt machine %s: %w: a launch made it", adopted.Name, fault.Conflict)
		}
		_, _, err := t.exec(insertAdopted, adopted.Name, adopted.Provider, adopted.ID, adopted.Attempt, adopted.JobID,
			string(adopted.State), adopted.Lifetime.Microseconds(), adopted.Location, adopted.Message,
			micros(adopted.CreatedAt), micros(adopted.DeleteAt), micros(adopted.GoneAt), adopted.Region, adopted.Image)
		if err != nil {
			return fmt.Errorf("sqlite: adopt machine %s: %w", adopted.Name, err)
		}
		_, _, err = t.exec(forgetAdopted, adopted.CreatedAt.Add(-keepAdopted).UnixMicro())
		return err
	})
}
