package sqlite

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

const install = `INSERT INTO installation (id, install, epoch) VALUES (1, $1, 0) ON CONFLICT DO NOTHING`

const raiseEpoch = `UPDATE installation SET epoch = epoch + 1`

const identity = `SELECT install, epoch, clock, count, since FROM installation`

const touch = `UPDATE installation SET clock = $1, count = $2, since = $3 WHERE clock IS NULL OR clock < $1`

// bootBatch is how many held jobs are let go in one transaction, so that a boot does not keep others from writing.
const bootBatch = 1000

const releaseSome = `UPDATE jobs SET held = 0 WHERE seq IN (SELECT seq FROM jobs WHERE held = 1 LIMIT $1 + 0)`

// Boot implements store.Keeper. It also lets go every job that is held, because the limits of keys may have changed;
// those that are still over one will be held again when their turn comes.
func (s *Store) Boot(ctx context.Context) (*store.Identity, error) {
	fresh := strings.ToLower(rand.Text()[:6])
	var id *store.Identity
	var released int64
	err := s.write(ctx, opBoot, func(t *tx) error {
		id = new(store.Identity)
		var count int64
		if _, _, err := t.exec(install, fresh); err != nil {
			return err
		}
		if _, _, err := t.exec(raiseEpoch); err != nil {
			return err
		}
		last := &id.Last
		_, err := t.one([]column{word(&id.Install), number(&id.Epoch), instant(&last.Clock), number(&count), word(&last.Since)}, identity)
		if err != nil {
			return err
		}
		last.Count = time.Duration(count) * time.Microsecond
		released, _, err = t.exec(releaseSome, bootBatch)
		return err
	})
	for err == nil && released == bootBatch {
		err = s.write(ctx, opBoot, func(t *tx) (err error) {
			released, _, err = t.exec(releaseSome, bootBatch)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	return id, nil
}

// Touch implements store.Keeper.
func (s *Store) Touch(ctx context.Context, r store.Reading) error {
	return s.write(ctx, opTouch, func(t *tx) error {
		_, _, err := t.exec(touch, r.Clock.UnixMicro(), r.Count.Microseconds(), r.Since)
		return err
	})
}

const jobToDelete = `
SELECT j.seq, j.state, coalesce(j.spec, s.spec), j.request_key FROM ` + jobTables + ` WHERE j.id = $1`

// machinesLeft counts the machines of a job that are not gone, by its id and the range of its attempts.
const machinesLeft = `
SELECT (SELECT count(*) FROM attempts WHERE seq BETWEEN $2 AND $3 AND gone_at IS NULL) +
	(SELECT count(*) FROM adopted WHERE job = $1 AND gone_at IS NULL)`

const (
	deleteLabel     = `DELETE FROM labels WHERE key = $1 AND value = $2 AND job = $3`
	deleteKey       = `DELETE FROM request_keys WHERE key = $1`
	deleteArtifacts = `DELETE FROM artifacts WHERE attempt BETWEEN $1 AND $2`
	deleteAttempts  = `DELETE FROM attempts WHERE seq BETWEEN $1 AND $2`
	deleteEvents    = `DELETE FROM events WHERE job = $1`
	deleteInputs    = `DELETE FROM inputs WHERE job = $1`
	deleteSpec      = `DELETE FROM specs WHERE job = $1`
	deleteJob       = `DELETE FROM jobs WHERE seq = $1`
)

// Delete implements store.Keeper.
func (s *Store) Delete(ctx context.Context, id string) error {
	return s.write(ctx, opDelete, func(t *tx) error {
		var seq int64
		var state dayfly.State
		var spec, key []byte
		found, err := t.one([]column{number(&seq), word(&state), document(&spec),
			document(&key)}, jobToDelete, id)
		switch {
		case err != nil:
			return err
		case !found:
			return noJob(id)
		case !state.Terminal():
			return fmt.Errorf("sqlite: delete job %s: %w: it is %s", id, fault.Conflict, state)
		}
		var machines int
		first, last := firstAttempt(seq), lastAttempt(seq)
		if _, err := t.one([]column{number(&machines)}, machinesLeft, id, first, last); err != nil {
			return err
		}
		if machines > 0 {
			return fmt.Errorf("sqlite: delete job %s: %w: %d machines of it are not gone", id, fault.Conflict, machines)
		}
		return t.delete(seq, string(key), spec)
	})
}

// delete removes everything that belongs to a job.
func (t *tx) delete(job int64, key string, spec []byte) error {
	type deletion struct {
		text string
		args []any
	}
	first, last := firstAttempt(job), lastAttempt(job)
	list := []deletion{
		{deleteArtifacts, []any{first, last}}, {deleteAttempts, []any{first, last}}, {deleteEvents, []any{job}},
		{deleteInputs, []any{job}}, {deleteSpec, []any{job}}, {deleteJob, []any{job}}, {deleteKey, []any{key}},
	}
	// A spec that cannot be read has no labels that could be found.
	var marks struct{ Labels map[string]string }
	_ = json.Unmarshal(spec, &marks)
	for key, value := range marks.Labels {
		list = append(list, deletion{deleteLabel, []any{key, value, job}})
	}
	for _, d := range list {
		if _, _, err := t.exec(d.text, d.args...); err != nil {
			return err
		}
	}
	return nil
}

const expendable = `
SELECT id FROM jobs
WHERE finished_at IS NOT NULL AND finished_at < $1
	AND NOT EXISTS (
		SELECT 1 FROM attempts
		WHERE attempts.seq BETWEEN jobs.seq << 20 AND (jobs.seq << 20) + 1048575 AND gone_at IS NULL)
	AND NOT EXISTS (SELECT 1 FROM adopted WHERE job = jobs.id AND gone_at IS NULL)
ORDER BY finished_at LIMIT $2 + 0`

// Expendable implements store.Keeper.
func (s *Store) Expendable(ctx context.Context, before time.Time, limit int) ([]string, error) {
	if limit < 1 {
		return nil, nil
	}
	var ids []string
	err := s.read(ctx, func(c *session) error {
		return c.each(func(values row) error {
			var id string
			err := c.scan(values, []column{word(&id)})
			ids = append(ids, id)
			return err
		}, expendable, before.UnixMicro(), limit)
	})
	return ids, err
}

// Check implements store.Keeper. It reads the database, and makes sure that the file it reads is still the one that
// others would find.
func (s *Store) Check(ctx context.Context) error {
	select {
	case <-s.writer.stopped:
		return closed("check")
	default:
	}
	info, err := os.Stat(s.path)
	if err == nil && !os.SameFile(info, s.file) {
		err = errors.New("the file has been replaced by another")
	}
	if err != nil {
		return fmt.Errorf("sqlite: %s: %w: %w", s.path, fault.Internal, err)
	}
	return s.read(ctx, func(c *session) error {
		var newest, rows int64
		_, err := c.one([]column{number(&newest)}, `SELECT coalesce(max(seq), 0) FROM jobs`)
		if err != nil {
			return err
		}
		_, err = c.one([]column{number(&rows)}, `SELECT count(*) FROM installation`)
		return err
	})
}
