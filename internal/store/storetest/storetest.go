// Package storetest is the specification of package store as a test: every store passes it.
//
// The cases are grouped by part of the interface, one file each. Each case gets a fresh store and says in its name
// what it shows. The package also holds a model, which is a store in memory without any cleverness, and drives it
// beside the store under test with random operations: what one of them answers the other must answer too.
//
// The package's own test breaks stores on purpose, one rule at a time, and checks that the case that guards the rule
// fails.
package storetest

import (
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/store"
)

// Harness makes the stores that are tested.
type Harness struct {
	// New returns a fresh store. It is closed by the suite.
	New func(t testing.TB) store.Store
	// Reopen closes a store made by New and opens what it has left behind.
	Reopen func(t testing.TB, s store.Store) store.Store
}

// Run checks that the stores of h do what package store says.
func Run(t *testing.T, h Harness) {
	for _, g := range groups() {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			for _, c := range g.cases {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					c.run(newKit(t, h))
				})
			}
		})
	}
}

// group is the cases of one part of the interface.
type group struct {
	name  string
	cases []testCase
}

// testCase shows one thing. Its name is a sentence.
type testCase struct {
	name string
	run  func(*kit)
}

func groups() []group {
	return []group{
		{"Jobs", jobsCases()},
		{"Queue", queueCases()},
		{"Limits", limitsCases()},
		{"Attempts", attemptsCases()},
		{"Endings", endingsCases()},
		{"Choices", choicesCases()},
		{"Machines", machinesCases()},
		{"Runners", runnersCases()},
		{"Costs", costsCases()},
		{"Tokens", tokensCases()},
		{"Keeper", keeperCases()},
		{"Transitions", transitionsCases()},
		{"Model", modelCases()},
	}
}

// epoch is when the tests take place. Stores read no clock.
func epoch() time.Time { return time.Date(2026, 5, 4, 3, 2, 1, 123456000, time.UTC) }
