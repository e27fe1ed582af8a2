package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"runtime"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/failpoint"
)

// The bounds of the writer. A full queue makes callers wait, which is the back-pressure.
const (
	maxGroup    = 256 // commits that share one transaction
	maxWaiting  = 1024
	keepConfigs = 25 // versions of one machine's configuration that are kept
)

// request is one caller's commit.
type request struct {
	op     string
	change *Change
	done   chan error // holds one
}

// Commit writes a change and returns when it is on disk. op names it for the failpoints flyapi.OP.before and .after.
//
// A commit whose turn has not come is given up when ctx ends, with fault.Canceled; one that is being carried out is
// waited for. Any error but fault.Canceled may leave the change committed or not, unless it is fault.StoreFull.
func (l *Ledger) Commit(ctx context.Context, op string, change *Change) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("ledger: %s: %w: %w", op, fault.Canceled, err)
	}
	r := &request{op: op, change: change, done: make(chan error, 1)}
	select {
	case l.queue <- r:
	case <-ctx.Done():
		return fmt.Errorf("ledger: %s: %w: %w", op, fault.Canceled, ctx.Err())
	case <-l.closing:
		return closed(op)
	}
	select {
	case err := <-r.done:
		return err
	case <-l.stopped:
	}
	select {
	case err := <-r.done:
		return err
	default:
		return closed(op)
	}
}

func closed(op string) error {
	return fmt.Errorf("ledger: %s: %w: the ledger has been closed", op, fault.Unavailable)
}

// run carries out commits until the ledger is closed, and then those that wait.
func (l *Ledger) run() {
	defer close(l.stopped)
	for {
		var group []*request
		select {
		case first := <-l.queue:
			// Callers whose last commit has just been answered are about to make another. Letting them run first makes the
			// group larger, and so the number of flushes smaller.
			runtime.Gosched()
			group = append(group, first)
		case <-l.closing:
			if len(l.queue) == 0 {
				return
			}
		}
		for len(group) < maxGroup && len(l.queue) > 0 {
			group = append(group, <-l.queue)
		}
		l.carryOut(group)
	}
}

// carryOut commits a group in one transaction and answers each. When that fails each is tried alone, so that one that
// cannot be written takes no other with it.
func (l *Ledger) carryOut(group []*request) {
	ready := group[:0]
	for _, r := range group {
		if err := failpoint.Hit("flyapi." + r.op + ".before"); err != nil {
			r.done <- err
			continue
		}
		ready = append(ready, r)
	}
	if len(ready) == 0 {
		return
	}
	err := l.transact(ready)
	if err != nil && len(ready) > 1 {
		for _, r := range ready {
			r.answer(l.transact([]*request{r}))
		}
		return
	}
	for _, r := range ready {
		r.answer(err)
	}
}

func (r *request) answer(err error) {
	if err == nil {
		err = failpoint.Hit("flyapi." + r.op + ".after")
	}
	r.done <- err
}

// transact writes a group. It has its own context: who waits for a commit that is under way waits for its end.
func (l *Ledger) transact(group []*request) error {
	ctx := context.Background()
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return l.fail("begin", err)
	}
	for _, r := range group {
		if err := write(ctx, tx, r.change); err != nil {
			_ = tx.Rollback() // what it could add is nothing that anybody needs
			return l.fail(r.op, err)
		}
	}
	if err := tx.Commit(); err != nil {
		_ = tx.Rollback()
		return l.fail("commit", err)
	}
	return nil
}

func write(ctx context.Context, tx *sql.Tx, c *Change) error {
	for id, record := range c.Apps {
		if _, err := tx.ExecContext(ctx, `INSERT INTO apps VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET record = ?2`, id, record); err != nil {
			return err
		}
	}
	for id, record := range c.Machines {
		if _, err := tx.ExecContext(ctx, `INSERT INTO machines VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET record = ?2`, id, record); err != nil {
			return err
		}
	}
	for _, config := range c.Configs {
		if _, err := tx.ExecContext(ctx, `INSERT INTO configs VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, config.Machine, config.Version, config.Config); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM configs WHERE machine = ?1 AND version NOT IN
			(SELECT version FROM configs WHERE machine = ?1 ORDER BY version DESC LIMIT ?2)`, config.Machine, keepConfigs); err != nil {
			return err
		}
	}
	for _, id := range c.DropApps {
		if _, err := tx.ExecContext(ctx, `DELETE FROM apps WHERE id = ?`, id); err != nil {
			return err
		}
	}
	for _, id := range c.DropMachines {
		if _, err := tx.ExecContext(ctx, `DELETE FROM machines WHERE id = ?`, id); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM configs WHERE machine = ?`, id); err != nil {
			return err
		}
	}
	return nil
}
