package sqlite

import (
	"context"
	"maps"
	"slices"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
)

// Parts that only the tests outside the package need.

// OlderThan compares versions.
func OlderThan(version, than string) bool { return olderThan(version, than) }

// Unnumbered takes the numbers out of a statement's parameters.
func Unnumbered(text string) string { return unnumbered(text) }

// CloneSpec copies a spec.
func CloneSpec(s *dayfly.JobSpec) dayfly.JobSpec { return cloneSpec(s) }

// ListQuery is the statement for a page of jobs, when there are so many jobs in each state.
func ListQuery(q *store.Query, jobs int) string {
	text, _ := listQuery(q, func(dayfly.State) int { return jobs })
	return text
}

// MachinesQuery is the statement for a page of machines that launches made. Those that were adopted are few.
func MachinesQuery(q *store.MachineQuery) string {
	text, _ := machinesQuery(q, launchedMachines)
	return text
}

// MaxGroup is how many writes share a transaction at most.
const MaxGroup = maxGroup

// Statements returns every statement that s has prepared and kept.
func (s *Store) Statements(ctx context.Context) ([]string, error) {
	texts := map[string]bool{}
	add := func(c *session) {
		for text := range c.prepared {
			texts[text] = true
		}
	}
	err := s.write(ctx, opTouch, func(t *tx) error {
		add(t.session)
		return nil
	})
	for range cap(s.readers) {
		c := <-s.readers
		add(c)
		s.readers <- c
	}
	return slices.Sorted(maps.Keys(texts)), err
}

// Remembered returns how many live attempts the writer remembers.
func (s *Store) Remembered(ctx context.Context) (n int, err error) {
	err = s.write(ctx, opTouch, func(t *tx) error {
		n = len(t.pairs)
		return nil
	})
	return n, err
}
