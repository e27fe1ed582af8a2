package sqlite_test

import (
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
)

// plan asks SQLite how it will carry out a statement.
func plan(t *testing.T, db *sql.DB, text string) []string {
	t.Helper()
	args := make([]any, 64)
	n := 0
	for _, number := range regexp.MustCompile(`\$(\d+)`).FindAllStringSubmatch(text, -1) {
		var i int
		if _, err := fmt.Sscan(number[1], &i); err != nil {
			t.Fatal(err)
		}
		n = max(n, i)
	}
	n = max(n, strings.Count(text, "?"))
	if n > len(args) {
		args = make([]any, n)
	}
	rows, err := db.Query("EXPLAIN QUERY PLAN "+text, args[:n]...)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer rows.Close()
	var steps []string
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, step)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return steps
}

// everyStatement returns every statement that a store keeps prepared after doing all that a store can do.
func everyStatement(t *testing.T) (texts []string, path string) {
	t.Helper()
	seen := map[string]bool{}
	collect := func(s *sqlite.Store) {
		t.Helper()
		all, err := s.Statements(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range all {
			if !seen[text] {
				seen[text] = true
				texts = append(texts, text)
			}
		}
	}
	for _, o := range operations() {
		s := open(t, t.TempDir()+"/store.db", &sqlite.Options{Readers: 1})
		if err := o.prepare(s); err != nil {
			t.Fatal(err)
		}
		if err := o.write(s); err != nil {
			t.Fatal(err)
		}
		collect(s)
	}
	path = t.TempDir() + "/store.db"
	s := open(t, path, &sqlite.Options{Readers: 1})
	first := running(t, s, 1)
	keyed := request(2)
	keyed.Job.Key, keyed.Key = "key", "request"
	job, _, err := s.Submit(t.Context(), keyed)
	_, _, again := s.Submit(t.Context(), keyed)
	l := wish(job)
	l.QueueLimit, l.KeyLimit = 10, 10
	_, launched := s.Launch(t.Context(), []*store.Launch{l})
	leaving := request(3)
	leaving.Job.Key = "key"
	released, _, submitted := s.Submit(t.Context(), leaving)
	_, canceled := s.Move(t.Context(), &store.Move{JobID: released.ID, Version: 1, From: dayfly.Queued, To: dayfly.Canceled, Time: time.Now()})
	failure := success(first)
	failure.State, failure.Job.State, failure.Job.RunAt, failure.Job.ReleaseKey = dayfly.AttemptLost, dayfly.Scheduled, time.Now(), true
	failure.Artifacts = []dayfly.Artifact{{Name: "a"}}
	_, ended := s.End(t.Context(), failure)
	_, lanes := s.Lanes(t.Context())
	_, readied := s.Ready(t.Context(), store.Lane{}, nil, 10)
	_, behind := s.Ready(t.Context(), store.Lane{}, job, 10)
	_, ahead := s.Ahead(t.Context(), job)
	_, _, live := s.Live(t.Context(), 0, 10)
	_, events := s.Events(t.Context(), job.ID, 0, 10)
	_, tokens := s.Tokens(t.Context())
	_, costs := s.Costs(t.Context(), "2026-01-01", "2026-12-31")
	_, unsettled := s.Unsettled(t.Context())
	_, expendable := s.Expendable(t.Context(), time.Now(), 10)
	if err := errors.Join(err, again, launched, submitted, canceled, ended, lanes, readied, behind, ahead, live, events, tokens, costs, unsettled, expendable, s.Check(t.Context())); err != nil {
		t.Fatal(err)
	}
	collect(s)
	return texts, path
}

// Which statements may go through an index from its beginning, or sort, and why that is no harm.
func harmlessPlans() map[string]string {
	return map[string]string{
		"SELECT provider, queue, state, count(*)": "counts the backlog once, when the store is opened",
		"WITH RECURSIVE lane":                     "begins with the first entry of an index, and stops there",
		"UPDATE jobs SET held = 0 WHERE seq IN":   "takes the first held jobs, of an index that holds no others",
		"SELECT count(*) FROM installation":       "there is one row",
		"SELECT install, epoch, clock":            "there is one row",
		"UPDATE installation":                     "there is one row",
		"SELECT a.seq, a.id, a.number, a.state, a.fence, a.claimed_by, a.provider, a.queued_at, a.created_at, a.prepared_at, a.booted_at, " +
			"a.claimed_at, a.ended_at, a.reason, a.message, a.started, a.report, a.price_rate, a.price_minimum, a.price_date, a.unbilled, a.runner, a.machine": "sorts the few live attempts",
		"SELECT count(DISTINCT host) FROM runners": "counts the machines of a pool, which are few",
		"SELECT machine, id, host, slots, pool, state, version, spec, tenant, attempt, job, claimed_by, uses, provider, machine_id, region, image, location, lifetime, " +
			"price_rate, price_minimum, price_date, created_at, idle_at, free_at, drain_at, gone_at, message FROM runners INDEXED BY": "goes through the machines of pools that are not gone",
		"SELECT id, name, hash": "lists all tokens, which are few",
		"SELECT queue, provider, price_rate, price_minimum, price_date, created_at, gone_at, lifetime, unbilled FROM attempts INDEXED BY attempts_unsettled": "goes through the machines that run up costs, of an index that holds no others",
	}
}

func TestNoStatementReadsWhatItDoesNotNeed(t *testing.T) {
	t.Parallel()
	texts, path := everyStatement(t)
	if len(texts) < 50 {
		t.Fatalf("only %d statements were found, want all", len(texts))
	}
	db := raw(t, path)
	used := map[string]bool{}
	for _, text := range texts {
		plain := strings.Join(strings.Fields(text), " ")
		if plain == "COMMIT" || strings.HasPrefix(plain, "BEGIN") {
			continue
		}
		for _, step := range plan(t, db, text) {
			if !strings.HasPrefix(step, "SCAN") && !strings.Contains(step, "TEMP B-TREE") || step == "SCAN CONSTANT ROW" ||
				strings.HasPrefix(step, "SCAN lane") || step == "SCAN holding" || strings.Contains(step, "-ROW VALUES") {
				continue
			}
			excused := false
			for prefix := range harmlessPlans() {
				if strings.HasPrefix(plain, prefix) {
					excused, used[prefix] = true, true
				}
			}
			if !excused {
				t.Errorf("this statement takes the step %q:\n%s", step, text)
			}
		}
	}
	for prefix := range harmlessPlans() {
		if !used[prefix] {
			t.Errorf("no statement needs the excuse for %q", prefix)
		}
	}
}

func TestNoStatementIsCompiledAnewForItsLimit(t *testing.T) {
	t.Parallel()
	texts, _ := everyStatement(t)
	texts = append(texts, sqlite.MachinesQuery(&store.MachineQuery{Limit: 10}),
		sqlite.ListQuery(&store.Query{Limit: 10, States: []dayfly.State{dayfly.Failed}}, 100))
	bare, limit := regexp.MustCompile(`LIMIT (\$\d+|\?)($|\)|\s+[^+\s])`), 0
	for _, text := range texts {
		if bare.MatchString(text) {
			t.Errorf("this statement's limit is a bare parameter, for which SQLite compiles it whenever it runs; write LIMIT $n + 0:\n%s", text)
		}
		limit += strings.Count(text, "LIMIT $")
	}
	if limit < 10 {
		t.Errorf("got %d statements with a limit that is given to them, want 10 at least: they are not looked at", limit)
	}
}

func TestLanesAreFoundByLeapsThroughTheIndex(t *testing.T) {
	t.Parallel()
	texts, path := everyStatement(t)
	i := slices.IndexFunc(texts, func(text string) bool { return strings.Contains(text, "WITH RECURSIVE lane") })
	if i < 0 {
		t.Fatal("the statement that finds lanes is missing")
	}
	steps := strings.Join(plan(t, raw(t, path), texts[i]), "\n")
	for _, leap := range []string{"jobs_ready (provider=? AND queue>?)", "jobs_ready (provider>?)"} {
		if !strings.Contains(steps, leap) {
			t.Errorf("lanes are not found by %s:\n%s", leap, steps)
		}
	}
}

func TestListsSeekWhereThereIsAnIndex(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/store.db"
	open(t, path, nil)
	db := raw(t, path)
	label := map[string]string{"a": "b"}
	for _, q := range []*store.Query{
		{Limit: 10, Labels: label},
		{Limit: 10, Labels: label, Before: 7, States: []dayfly.State{dayfly.Succeeded}, Queue: "q", Name: "n"},
		{Limit: 10, States: []dayfly.State{dayfly.Created}},
		{Limit: 10, States: []dayfly.State{dayfly.Scheduled, dayfly.Queued}},
		{Limit: 10, States: []dayfly.State{dayfly.Starting, dayfly.Running}, Queue: "q"},
		{Limit: 10, States: []dayfly.State{dayfly.Failed, dayfly.Canceled, dayfly.Expired}},
		{Limit: 10, States: []dayfly.State{dayfly.Failed, dayfly.Running}, Before: 9},
		{Limit: 10, States: []dayfly.State{dayfly.Failed}, Name: "n"},
	} {
		text := sqlite.ListQuery(q, 100)
		steps := strings.Join(plan(t, db, text), "\n")
		if regexp.MustCompile(`SCAN j$|SCAN j\n|SCAN jobs\n|SCAN jobs$|SCAN attempts\n|SCAN labels`).MatchString(steps) {
			t.Errorf("%+v is answered by going through a table:\n%s", q, steps)
		}
	}
	// Of a state with very many jobs the newest are found from the newest on, without sorting.
	many := strings.Join(plan(t, db, sqlite.ListQuery(&store.Query{Limit: 10, States: []dayfly.State{dayfly.Queued}}, 1e6)), "\n")
	if !strings.HasPrefix(many, "SCAN j") || strings.Contains(many, "TEMP B-TREE") || strings.Contains(many, "LIST") {
		t.Errorf("the newest of a million queued jobs are found by:\n%s", many)
	}
	for _, q := range []*store.MachineQuery{
		{Limit: 10, States: []store.MachineState{store.MachineDeleting}},
		{Limit: 10, States: []store.MachineState{store.MachineCreating, store.MachinePresent}, Provider: "p", Before: "x"},
		{Limit: 10, Names: []string{"a", "b"}},
		{Limit: 10},
	} {
		text := sqlite.MachinesQuery(q)
		if steps := strings.Join(plan(t, db, text), "\n"); regexp.MustCompile(`SCAN a$|SCAN a\n`).MatchString(steps) {
			t.Errorf("%+v is answered by going through a table:\n%s\n%s", q, text, steps)
		}
	}
}
