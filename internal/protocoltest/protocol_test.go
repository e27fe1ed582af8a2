package protocoltest

import (
	"fmt"
	"strings"
	"testing"
)

// exploration is every state that can be reached, in the order of the number of steps it takes.
type exploration struct {
	states []state
	number map[state]int32
	from   []int32  // by state: the one it was first reached from
	by     []string // and by which step
	edges  [][2]int32
	wrong  map[string]int32 // what goes wrong, with the first state in which it has
}

// explore tries everything, or all until something goes wrong in the way that is looked for.
func explore(r rules, f faults, wanted string) *exploration {
	first := state{left: [4]uint8{f.crashes, f.kills, f.jams, f.refusals}}
	e := &exploration{number: map[state]int32{}, wrong: map[string]int32{}}
	e.reach(first, -1, "")
	w := &walk{rules: r, faults: f}
	for i := int32(0); int(i) < len(e.states); i++ {
		w.from, w.steps = e.states[i], w.steps[:0]
		for _, step := range w.all() {
			if step.wrong == "" {
				e.reach(step.next, i, step.what)
			} else if _, seen := e.wrong[step.wrong]; !seen {
				e.wrong[step.wrong] = i
			}
			if step.wrong != "" && step.wrong == wanted {
				return e
			}
		}
	}
	if i, found := e.deadEnd(); found {
		e.wrong[noWayOut] = i
	}
	return e
}

// reach notes that one state follows another.
func (e *exploration) reach(s state, from int32, by string) {
	i, seen := e.number[s]
	if !seen {
		i = int32(len(e.states))
		e.number[s] = i
		e.states = append(e.states, s)
		e.from, e.by = append(e.from, from), append(e.by, by)
	}
	if from >= 0 && from != i {
		e.edges = append(e.edges, [2]int32{from, i})
	}
}

// before returns the states that each is reached from.
func (e *exploration) before() (of func(state int32) []int32) {
	start := make([]int32, len(e.states)+2)
	for _, edge := range e.edges {
		start[edge[1]+2]++
	}
	for i := 2; i < len(start); i++ {
		start[i] += start[i-1]
	}
	all := make([]int32, len(e.edges))
	for _, edge := range e.edges {
		all[start[edge[1]+1]] = edge[0]
		start[edge[1]+1]++
	}
	return func(state int32) []int32 { return all[start[state]:start[state+1]] }
}

// deadEnd returns the first state from which no settled state can be reached any more.
func (e *exploration) deadEnd() (state int32, found bool) {
	before := e.before()
	escapes := make([]bool, len(e.states))
	var todo []int32
	for i := range e.states {
		if e.states[i].settled() {
			escapes[i] = true
			todo = append(todo, int32(i))
		}
	}
	for len(todo) > 0 {
		last := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, i := range before(last) {
			if !escapes[i] {
				escapes[i] = true
				todo = append(todo, i)
			}
		}
	}
	for i, escaped := range escapes {
		if !escaped {
			return int32(i), true
		}
	}
	return 0, false
}

// story tells how a state is reached.
func (e *exploration) story(i int32) string {
	var steps []string
	for at := i; e.from[at] >= 0; at = e.from[at] {
		steps = append([]string{e.by[at]}, steps...)
	}
	return strings.Join(steps, "\n\t") + fmt.Sprintf("\nwhich leads to %+v", e.states[i])
}

func TestTheProtocolHoldsWhateverHappens(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(r *rules)
		faults faults
	}{
		"with all rules":                               {func(*rules) {}, faults{crashes: 1, kills: 1, jams: 1, servers: 1}},
		"on a provider that makes two of a name":       {func(r *rules) { r.uniqueNames = false }, faults{crashes: 1, kills: 1, servers: 1}},
		"where no machine ends by itself":              {func(r *rules) { r.ownEnd = false }, faults{crashes: 1, jams: 1, servers: 1}},
		"where the sweep finds only what was answered": {func(r *rules) { r.sweepLists = false }, faults{crashes: 1, jams: 1, servers: 1}},
		"with two servers on one store":                {func(*rules) {}, faults{jams: 1, servers: 2}},
		"with two places, which refuse":                {func(*rules) {}, faults{crashes: 1, kills: 1, refusals: 2, places: 2, servers: 1}},
		"with places that make what they have denied":  {func(r *rules) { r.prompt = false }, faults{crashes: 1, refusals: 2, places: 2, servers: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := allRules()
			test.change(&r)
			e := explore(r, test.faults, "")
			for wrong, i := range e.wrong {
				t.Errorf("%s, after:\n\t%s", wrong, e.story(i))
			}
			if len(e.states) < 10_000 {
				t.Errorf("there are only %d states, want so many that they show something", len(e.states))
			}
			t.Logf("%d states", len(e.states))
		})
	}
}

func TestEachRuleIsNeeded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(r *rules)
		wrong  string
		places bool // of a job that names two, which may refuse it
	}{
		"a machine that does not claim": {func(r *rules) { r.claim = false }, startedTwice, false},
		"a claim that is granted twice": {func(r *rules) { r.exclusive = false }, startedTwice, false},
		"a result without a fence":      {func(r *rules) { r.fence = false }, foreign, false},
		"a decision that is not final":  {func(r *rules) { r.final = false }, acceptedTwice, false},
		"a sweep that lists last":       {func(r *rules) { r.listFirst = false }, friendlyFire, false},
		"machines that nobody ends":     {func(r *rules) { r.sweepLists, r.ownEnd = false, false }, noWayOut, false},

		"a refusal that is believed although an answer was lost": {func(r *rules) { r.patience = false }, twoPlaces, true},
		"a refusal that is free although an answer was lost":     {func(r *rules) { r.bill = false }, tooCheap, true},
		"a refusal that is forgotten in a crash":                 {func(r *rules) { r.durable = false }, askedAgain, true},
		"a refusal for now that is taken for one for good":       {func(r *rules) { r.kinds = false }, untried, true},
		"a job that fails when its first place refuses it":       {func(r *rules) { r.fallback = false }, untried, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := allRules()
			test.change(&r)
			f := faults{crashes: 1, kills: 1, jams: 1, servers: 1}
			if test.places {
				f.jams, f.refusals, f.places = 0, 2, 2
			}
			e := explore(r, f, test.wrong)
			i, caught := e.wrong[test.wrong]
			if !caught {
				t.Fatalf("in %d states it never happens that %s; what goes wrong is %v", len(e.states), test.wrong, e.wrong)
			}
			t.Logf("%s, after:\n\t%s", test.wrong, e.story(i))
		})
	}
}
