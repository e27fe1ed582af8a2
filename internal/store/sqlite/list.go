package sqlite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

// List implements store.Jobs.
func (s *Store) List(ctx context.Context, q *store.Query) (jobs []*store.Job, more bool, err error) {
	if q.Limit < 1 || q.Limit > 1000 {
		return nil, false, fmt.Errorf("sqlite: list: %w: limit %d is not between 1 and 1000", fault.Invalid, q.Limit)
	}
	for _, state := range q.States {
		if !knownState(state) {
			return nil, false, fmt.Errorf("sqlite: list: %w: state %q is unknown", fault.Invalid, state)
		}
	}
	left := store.PageBytes
	for page := *q; ; {
		page.Limit = q.Limit - len(jobs)
		rows, err := s.list(ctx, &page, &left)
		if err != nil {
			return nil, false, err
		}
		jobs = append(jobs, s.readable(rows)...)
		switch {
		case len(jobs) == q.Limit || left <= 0 && len(jobs) > 0:
			return jobs, true, nil
		case left <= 0: // none of those could be read, and a page without a job has no place to go on from
			left = store.PageBytes
		case len(rows) < page.Limit:
			return jobs, false, nil
		}
		page.Before = rows[len(rows)-1].Seq
	}
}

// errPageFull ends the reading of rows because they are large.
var errPageFull = errors.New("the page is full")

// list reads one page of rows, of which some may turn out to be unreadable. It takes their bytes from left, and ends when
// there are none.
func (s *Store) list(ctx context.Context, q *store.Query, left *int) ([]*jobRow, error) {
	text, args := listQuery(q, s.writer.tally.inState)
	var rows []*jobRow
	err := s.read(ctx, func(c *session) error {
		return c.eachOnce(func(values row) error {
			r := new(jobRow)
			rows = append(rows, r)
			if err := c.scan(values, r.columns()); err != nil {
				return err
			}
			if *left -= len(r.spec) + len(r.Result); *left <= 0 {
				return errPageFull
			}
			return nil
		}, text, args...)
	})
	if errors.Is(err, errPageFull) {
		err = nil
	}
	return rows, err
}

// query is a statement in the making.
type query struct {
	where []string
	args  []any
}

// arg adds an argument and returns the parameter that stands for it.
func (q *query) arg(value any) string {
	q.args = append(q.args, value)
	return "$" + strconv.Itoa(len(q.args))
}

// limit adds the number of rows that are wanted and returns what stands for it; see [session] for why.
func (q *query) limit(n int) string { return q.arg(n) + " + 0" }

func (q *query) and(condition string) { q.where = append(q.where, condition) }

// in adds the condition that a column has one of these values.
func (q *query) in(column string, values ...string) {
	list := make([]string, len(values))
	for i, value := range values {
		list[i] = q.arg(value)
	}
	q.and(column + " IN (" + strings.Join(list, ", ") + ")")
}

// text puts the statement together.
func (q *query) text(selected, order string) string {
	if len(q.where) > 0 {
		selected += " WHERE " + strings.Join(q.where, " AND ")
	}
	return selected + order
}

// words is a list of named strings as plain ones.
func words[T ~string](list []T) []string {
	plain := make([]string, len(list))
	for i, v := range list {
		plain[i] = string(v)
	}
	return plain
}

// listQuery returns the statement for a page of jobs. count says how many jobs are in a state.
func listQuery(q *store.Query, count func(dayfly.State) int) (string, []any) {
	var s query
	if q.Before > 0 {
		s.and("j.seq < " + s.arg(q.Before))
	}
	if len(q.States) > 0 {
		s.in("j.state", words(q.States)...)
		if !slices.ContainsFunc(q.States, func(state dayfly.State) bool { return !few(state, count) }) {
			s.and("j.seq IN (" + candidates(&s, q) + ")")
		}
	}
	if q.Queue != "" {
		s.and("j.queue = " + s.arg(q.Queue))
	}
	if q.Name != "" {
		s.and("j.name = " + s.arg(q.Name))
	}
	for key, value := range q.Labels {
		s.and("j.seq IN (SELECT job FROM labels WHERE key = " + s.arg(key) + " AND value = " + s.arg(value) + ")")
	}
	return s.text(selectJob, " ORDER BY j.seq DESC LIMIT "+s.limit(q.Limit)), s.args
}

// manyJobs is the number of jobs in a state from which looking for the newest of them among all jobs, from the newest
// on, ends sooner than going through those in the state.
const manyJobs = 5000

// few reports whether an index holds the jobs in a state and not many others. Succeeded jobs are so many that going
// through all jobs is as good.
func few(state dayfly.State, count func(dayfly.State) int) bool {
	return state != dayfly.Succeeded && count(state) <= manyJobs
}

// candidates returns a query for the seqs of all jobs that can be on the page because of their states, by indexes.
func candidates(s *query, q *store.Query) string {
	// Of each state the newest are enough, unless some will be left out for another reason.
	newest := ""
	if q.Queue == "" && q.Name == "" && len(q.Labels) == 0 {
		if q.Before > 0 {
			newest = " AND seq < " + s.arg(q.Before)
		}
		newest += " ORDER BY seq DESC LIMIT " + s.limit(q.Limit)
	}
	var parts []string
	for _, state := range q.States {
		switch state {
		case dayfly.Scheduled:
			parts = append(parts, `SELECT seq FROM jobs WHERE run_at IS NOT NULL AND queued_at IS NULL`,
				`SELECT seq FROM jobs WHERE run_at IS NOT NULL AND queued_at IS NOT NULL`)
		case dayfly.Queued:
			parts = append(parts, `SELECT seq FROM jobs WHERE state = 'queued' AND held = 0`, `SELECT seq FROM jobs WHERE held = 1`)
		case dayfly.Starting, dayfly.Running:
			parts = append(parts, `SELECT job FROM attempts WHERE ended_at IS NULL`)
		case dayfly.Created, dayfly.Failed, dayfly.Canceled, dayfly.Expired:
			parts = append(parts, `SELECT seq FROM (SELECT seq FROM jobs WHERE state = '`+string(state)+`'`+newest+`)`)
		}
	}
	return strings.Join(parts, " UNION ALL ")
}
