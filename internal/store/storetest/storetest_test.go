package storetest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
	"github.com/dayfly-run/dayfly/machine"
)

// TestMain tells rapid that failures are wanted here: it need neither explain them nor keep them. The seed is always
// the same, because whether a random walk comes across a broken rule must not be a matter of luck.
func TestMain(m *testing.M) {
	flag.Parse()
	for name, value := range map[string]string{"rapid.shrinktime": "0s", "rapid.nofailfile": "true", "rapid.seed": "1"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// broken is a store that breaks one rule: a real one, of which some methods are replaced.
type broken struct {
	store.Store
	path string

	submit    func(context.Context, *store.Submission) (*store.Job, bool, error)
	events    func(context.Context, string, int64, int) ([]*dayfly.Event, error)
	move      func(context.Context, *store.Move) (*store.Job, error)
	ready     func(context.Context, store.Lane, *store.Job, int) ([]*store.Job, error)
	launch    func(context.Context, []*store.Launch) ([]error, error)
	promote   func(ctx context.Context, now, wall time.Time, limit int) ([]*store.Job, time.Time, error)
	counts    func(context.Context) ([]store.Count, error)
	claim     func(context.Context, *store.Claim) (*store.Job, *store.Attempt, error)
	end       func(context.Context, *store.Ending) (*store.Job, error)
	live      func(context.Context, int64, int) ([]*store.Attempt, []error, error)
	machine   func(context.Context, []*store.MachineMove) error
	costs     func(ctx context.Context, from, to string) ([]store.Cost, error)
	unsettled func(context.Context) ([]store.Charge, error)
	token     func(context.Context, []byte) (*store.Token, error)
	boot      func(context.Context) (*store.Identity, error)
	delete    func(context.Context, string) error
	add       func(ctx context.Context, r *store.Runner, most int) error
	runner    func(context.Context, *store.RunnerMove) (*store.Runner, error)
	forgets   bool // what it holds does not survive a restart
}

func (b *broken) Submit(ctx context.Context, s *store.Submission) (*store.Job, bool, error) {
	if b.submit != nil {
		return b.submit(ctx, s)
	}
	return b.Store.Submit(ctx, s)
}

func (b *broken) Events(ctx context.Context, id string, after int64, limit int) ([]*dayfly.Event, error) {
	if b.events != nil {
		return b.events(ctx, id, after, limit)
	}
	return b.Store.Events(ctx, id, after, limit)
}

func (b *broken) Move(ctx context.Context, m *store.Move) (*store.Job, error) {
	if b.move != nil {
		return b.move(ctx, m)
	}
	return b.Store.Move(ctx, m)
}

func (b *broken) Ready(ctx context.Context, lane store.Lane, after *store.Job, limit int) ([]*store.Job, error) {
	if b.ready != nil {
		return b.ready(ctx, lane, after, limit)
	}
	return b.Store.Ready(ctx, lane, after, limit)
}

func (b *broken) Launch(ctx context.Context, launches []*store.Launch) ([]error, error) {
	if b.launch != nil {
		return b.launch(ctx, launches)
	}
	return b.Store.Launch(ctx, launches)
}

func (b *broken) Promote(ctx context.Context, now, wall time.Time, limit int) ([]*store.Job, time.Time, error) {
	if b.promote != nil {
		return b.promote(ctx, now, wall, limit)
	}
	return b.Store.Promote(ctx, now, wall, limit)
}

func (b *broken) Counts(ctx context.Context) ([]store.Count, error) {
	if b.counts != nil {
		return b.counts(ctx)
	}
	return b.Store.Counts(ctx)
}

func (b *broken) Claim(ctx context.Context, c *store.Claim) (*store.Job, *store.Attempt, error) {
	if b.claim != nil {
		return b.claim(ctx, c)
	}
	return b.Store.Claim(ctx, c)
}

func (b *broken) End(ctx context.Context, e *store.Ending) (*store.Job, error) {
	if b.end != nil {
		return b.end(ctx, e)
	}
	return b.Store.End(ctx, e)
}

func (b *broken) Live(ctx context.Context, after int64, limit int) ([]*store.Attempt, []error, error) {
	if b.live != nil {
		return b.live(ctx, after, limit)
	}
	return b.Store.Live(ctx, after, limit)
}

func (b *broken) MoveMachine(ctx context.Context, moves []*store.MachineMove) error {
	if b.machine != nil {
		return b.machine(ctx, moves)
	}
	return b.Store.MoveMachine(ctx, moves)
}

func (b *broken) Costs(ctx context.Context, from, to string) ([]store.Cost, error) {
	if b.costs != nil {
		return b.costs(ctx, from, to)
	}
	return b.Store.Costs(ctx, from, to)
}

func (b *broken) Unsettled(ctx context.Context) ([]store.Charge, error) {
	if b.unsettled != nil {
		return b.unsettled(ctx)
	}
	return b.Store.Unsettled(ctx)
}

func (b *broken) TokenByHash(ctx context.Context, hash []byte) (*store.Token, error) {
	if b.token != nil {
		return b.token(ctx, hash)
	}
	return b.Store.TokenByHash(ctx, hash)
}

func (b *broken) Boot(ctx context.Context) (*store.Identity, error) {
	if b.boot != nil {
		return b.boot(ctx)
	}
	return b.Store.Boot(ctx)
}

func (b *broken) Delete(ctx context.Context, id string) error {
	if b.delete != nil {
		return b.delete(ctx, id)
	}
	return b.Store.Delete(ctx, id)
}

func (b *broken) AddRunner(ctx context.Context, r *store.Runner, most int) error {
	if b.add != nil {
		return b.add(ctx, r, most)
	}
	return b.Store.AddRunner(ctx, r, most)
}

func (b *broken) MoveRunner(ctx context.Context, m *store.RunnerMove) (*store.Runner, error) {
	if b.runner != nil {
		return b.runner(ctx, m)
	}
	return b.Store.MoveRunner(ctx, m)
}

// breakage is a rule broken, and the cases that must notice.
type breakage struct {
	name    string
	rule    func(b *broken)
	noticed []string
}

const (
	modelCase = "Model/RandomOperationsAnswerAsTheModelDoes"
	poolsCase = "Model/RandomOperationsOnMachinesOfPoolsAnswerAsTheModelDoes"
)

func breakages() []breakage {
	return []breakage{
		{"completes whatever the fence", completesWithoutFence, []string{"Endings/AnEndWithAStaleFenceIsRefused", modelCase}},
		{"completes the job, not the attempt", completesByJob, []string{"Endings/AnEndOfASupersededAttemptIsRefused", modelCase}},
		{"completes whatever the version", completesWithoutVersion, []string{"Endings/AnEndAfterACancelIsAConflict", modelCase}},
		{"refuses a repeated end", endsOnce, []string{"Endings/AnEndIsAcceptedAgain", modelCase}},
		{"keeps the key's place", keepsPlace, []string{"Limits/AHeldJobGoesOnWhenItsKeyIsReleased", modelCase}},
		{"lets two claim", claimsTwice, []string{"Attempts/OfManyClaimantsOneWins", modelCase}},
		{"refuses a repeated claim", claimsOnce, []string{"Attempts/AClaimantIsAnsweredAgain", modelCase}},
		{"forgets what was refused", forgetsRefusals, []string{"Choices/WhatWasRefusedIsKeptOnTheJob", modelCase}},
		{"forgets what was refused before it is launched", forgetsEarlyRefusals, []string{
			"Choices/WhatIsRefusedBeforeALaunchIsKeptOnTheJob", modelCase}},
		{"forgets the region", forgetsRegion, []string{"Choices/AnAttemptSaysWhereItsMachineWasAskedFor", modelCase}},
		{"forgets idempotency", forgetsKeys, []string{
			"Jobs/AKeyUsedBeforeReturnsTheFirstJob", "Jobs/ConcurrentSubmissionsWithOneKeyAddOneJob", modelCase}},
		{"looks a key up before it adds", checksKeyFirst, []string{"Jobs/ConcurrentSubmissionsWithOneKeyAddOneJob"}},
		{"takes another body for the same", ignoresBody, []string{"Jobs/AKeyUsedForAnotherBodyIsAMismatch", modelCase}},
		{"leaves a gap in the events", skipsEvent, []string{"Transitions/EventsHaveNoGapsAndFoldToTheState", modelCase}},
		{"moves whatever the version", movesWithoutVersion, []string{"Jobs/AMoveWithAnOldVersionChangesNothing", modelCase}},
		{"revives a finished job", revives, []string{"Transitions/NothingLeavesATerminalState"}},
		{"deletes a live job", deletesLive, []string{"Keeper/DeleteRefusesAJobThatIsNotFinished", modelCase}},
		{"ignores the queue's limit", ignoresQueueLimit, []string{
			"Limits/AQueueHasNoMoreActiveJobsThanItsLimit", "Limits/ConcurrentLaunchesExceedNoLimit", modelCase}},
		{"ignores the key's limit", ignoresKeyLimit, []string{"Limits/AKeyHasNoMoreActiveJobsThanItsLimit", modelCase}},
		{"checks limits before it launches", checksLimitFirst, []string{"Limits/ConcurrentLaunchesExceedNoLimit"}},
		{"takes the oldest job first", oldestFirst, []string{"Queue/ReadyJobsComeByPriorityAndThenByAge"}},
		{"forgets lower priorities", forgetsLowerPriorities, []string{"Queue/ReadyJobsBehindOneAreFound", modelCase}},
		{"promotes by one clock", promotesByOneClock, []string{"Queue/PromoteLooksForNamedTimesByTheWallClock", modelCase}},
		{"counts late", countsLate, []string{"Queue/CountsFollowEveryTransition", modelCase}},
		{"overlooks running attempts", overlooksRunning, []string{"Attempts/LiveAttemptsArePagedBySeq", modelCase}},
		{"moves a machine from any state", movesAnyMachine, []string{"Machines/AMachineMovesOnlyFromTheStatesNamed", modelCase}},
		{"settles by one clock", settlesByOneClock, []string{"Costs/ACostIsDividedAtMidnightByTheWallClock", modelCase}},
		{"forgets prices", forgetsPrices, []string{
			"Costs/APriceIsKeptAsItWasAtTheLaunch", "Costs/WhatAMachineHasCostIsSettledWhenItIsGone", modelCase}},
		{"bills what was never made", billsNothing, []string{"Costs/WhatWasNeverMadeCostsNothing", modelCase}},
		{"settles each time", settlesEachTime, []string{"Costs/ACostIsSettledOnce"}},
		{"settles until somebody looked", settlesLate, []string{"Costs/ACostIsThatOfTheLifetimeAtMost"}},
		{"forgets what runs up costs", forgetsCharges, []string{"Costs/WhatAMachineHasCostIsSettledWhenItIsGone", modelCase}},
		{"gives a machine to an agent that is gone", lendsToAnyAgent, []string{"Runners/AMachineOfAPoolHasOneAgent", poolsCase}},
		{"lends a machine to every tenant", lendsToAnyTenant, []string{
			"Runners/AMachineOfAPoolHasOneTenant", "Runners/TheSlotsOfAMachineHaveOneTenant", poolsCase}},
		{"does not divide machines", dividesNothing, []string{
			"Runners/TheSlotsOfAMachineAreOneMachine", "Runners/TheSlotsOfAMachineHaveOneTenant", "Runners/AMachineIsDestroyedWithAllItsSlots", poolsCase}},
		{"destroys a machine and forgets its slots", destroysOneSlot, []string{"Runners/AMachineIsDestroyedWithAllItsSlots", poolsCase}},
		{"makes more machines than a pool may have", makesTooMany, []string{
			"Runners/APoolHasNoMoreMachinesThanItMay", "Runners/AMachineOfAPoolIsMadeForAnAttempt", poolsCase}},
		{"drains what is busy", drainsBusy, []string{"Runners/OnlyAnIdleMachineIsScaledDown", poolsCase}},
		{"uses a machine again that is to go", usesAgain, []string{"Runners/AMachineOfAPoolIsMadeForAnAttempt", poolsCase}},
		{"settles what a pool has cost by one clock", lendsByOneClock, []string{poolsCase}},
		{"forgets what machines have cost that nobody had", forgetsPools, []string{
			"Runners/WhatAMachineOfAPoolCostsIsDividedBetweenJobsAndPool", poolsCase}},
		{"hides revoked tokens", hidesRevoked, []string{"Tokens/ARevokedTokenIsStillFound"}},
		{"begins a new epoch with 1", sameEpoch, []string{"Keeper/BootRaisesTheEpochAndKeepsTheIdentity", modelCase}},
		{"forgets everything in a restart", func(b *broken) { b.forgets = true }, []string{"Keeper/EverythingSurvivesARestart", modelCase}},
	}
}

func completesWithoutFence(b *broken) {
	b.end = func(ctx context.Context, e *store.Ending) (*store.Job, error) {
		c := *e
		if a, err := b.Attempt(ctx, e.Attempt); err == nil {
			c.Fence = a.Fence
		}
		return b.Store.End(ctx, &c)
	}
}

func completesByJob(b *broken) {
	b.end = func(ctx context.Context, e *store.Ending) (*store.Job, error) {
		c := *e
		if a, err := b.Attempt(ctx, e.Attempt); err == nil && a.Job.State == dayfly.Running {
			c.Attempt, c.Fence = a.Job.Attempt, a.Job.Fence
		}
		return b.Store.End(ctx, &c)
	}
}

func completesWithoutVersion(b *broken) {
	b.end = func(ctx context.Context, e *store.Ending) (*store.Job, error) {
		c := *e
		if a, err := b.Attempt(ctx, e.Attempt); err == nil {
			c.JobVersion = a.Job.Version
		}
		return b.Store.End(ctx, &c)
	}
}

func endsOnce(b *broken) {
	var ended sync.Map
	b.end = func(ctx context.Context, e *store.Ending) (*store.Job, error) {
		if _, again := ended.Load(e.Attempt); again {
			return nil, fault.StaleAttempt
		}
		job, err := b.Store.End(ctx, e)
		if err == nil {
			ended.Store(e.Attempt, true)
		}
		return job, err
	}
}

func forgetsRefusals(b *broken) {
	b.end = func(ctx context.Context, e *store.Ending) (*store.Job, error) {
		c := *e
		c.Job.Refusals = nil
		return b.Store.End(ctx, &c)
	}
}

func forgetsEarlyRefusals(b *broken) {
	b.move = func(ctx context.Context, m *store.Move) (*store.Job, error) {
		c := *m
		c.Refusals = nil
		return b.Store.Move(ctx, &c)
	}
}

func forgetsRegion(b *broken) {
	b.launch = func(ctx context.Context, launches []*store.Launch) ([]error, error) {
		without := make([]*store.Launch, len(launches))
		for i, l := range launches {
			c := *l
			c.Region = ""
			without[i] = &c
		}
		return b.Store.Launch(ctx, without)
	}
}

func keepsPlace(b *broken) {
	b.end = func(ctx context.Context, e *store.Ending) (*store.Job, error) {
		c := *e
		c.Job.ReleaseKey = false
		return b.Store.End(ctx, &c)
	}
}

func claimsTwice(b *broken) {
	b.claim = func(ctx context.Context, c *store.Claim) (*store.Job, *store.Attempt, error) {
		job, a, err := b.Store.Claim(ctx, c)
		if !errors.Is(err, fault.AlreadyClaimed) {
			return job, a, err
		}
		a, err = b.Attempt(ctx, c.Attempt)
		if err != nil {
			return nil, nil, err
		}
		return a.Job, a, nil
	}
}

func claimsOnce(b *broken) {
	b.claim = func(ctx context.Context, c *store.Claim) (*store.Job, *store.Attempt, error) {
		if a, err := b.Attempt(ctx, c.Attempt); err == nil && a.State == dayfly.AttemptRunning {
			return nil, nil, fault.AlreadyClaimed
		}
		return b.Store.Claim(ctx, c)
	}
}

func forgetsKeys(b *broken) {
	b.submit = func(ctx context.Context, s *store.Submission) (*store.Job, bool, error) {
		c := *s
		c.Key = ""
		return b.Store.Submit(ctx, &c)
	}
}

// checksKeyFirst keeps keys outside the transaction, so that two who look at once both find nothing.
func checksKeyFirst(b *broken) {
	var keys sync.Map
	b.submit = func(ctx context.Context, s *store.Submission) (*store.Job, bool, error) {
		if id, known := keys.Load(s.Key); s.Key != "" && known {
			job, err := b.Job(ctx, id.(string))
			return job, true, err
		}
		c := *s
		c.Key = ""
		job, replayed, err := b.Store.Submit(ctx, &c)
		if err == nil {
			keys.Store(s.Key, job.ID)
		}
		return job, replayed, err
	}
}

func ignoresBody(b *broken) {
	b.submit = func(ctx context.Context, s *store.Submission) (*store.Job, bool, error) {
		c := *s
		c.BodyHash = []byte("the same")
		return b.Store.Submit(ctx, &c)
	}
}

func skipsEvent(b *broken) {
	b.events = func(ctx context.Context, id string, after int64, limit int) ([]*dayfly.Event, error) {
		events, err := b.Store.Events(ctx, id, after, limit)
		return slices.DeleteFunc(events, func(e *dayfly.Event) bool { return e.Type == "queued" }), err
	}
}

func movesWithoutVersion(b *broken) {
	b.move = func(ctx context.Context, m *store.Move) (*store.Job, error) {
		c := *m
		if job, err := b.Job(ctx, m.JobID); err == nil {
			c.Version = job.Version
		}
		return b.Store.Move(ctx, &c)
	}
}

func revives(b *broken) {
	b.move = func(ctx context.Context, m *store.Move) (*store.Job, error) {
		job, err := b.Store.Move(ctx, m)
		if m.From.Terminal() && errors.Is(err, fault.Conflict) {
			return b.Job(ctx, m.JobID)
		}
		return job, err
	}
}

func deletesLive(b *broken) {
	b.delete = func(ctx context.Context, id string) error {
		if job, err := b.Job(ctx, id); err == nil && job.State == dayfly.Queued && job.Number == 0 {
			m := &store.Move{JobID: id, Version: job.Version, From: job.State, To: dayfly.Canceled, Time: epoch(), Event: "canceled"}
			if _, err := b.Store.Move(ctx, m); err != nil {
				return err
			}
		}
		return b.Store.Delete(ctx, id)
	}
}

func ignoresQueueLimit(b *broken) {
	b.launch = func(ctx context.Context, launches []*store.Launch) ([]error, error) {
		return b.Store.Launch(ctx, limited(launches, func(l *store.Launch) { l.QueueLimit = 0 }))
	}
}

func ignoresKeyLimit(b *broken) {
	b.launch = func(ctx context.Context, launches []*store.Launch) ([]error, error) {
		return b.Store.Launch(ctx, limited(launches, func(l *store.Launch) { l.KeyLimit = 0 }))
	}
}

// checksLimitFirst counts before the transaction, so that two who count at once both find a place.
func checksLimitFirst(b *broken) {
	b.launch = func(ctx context.Context, launches []*store.Launch) ([]error, error) {
		counts, err := b.Store.Counts(ctx)
		if err != nil {
			return nil, err
		}
		active := 0
		for _, c := range counts {
			if c.State == dayfly.Starting || c.State == dayfly.Running {
				active += c.Jobs
			}
		}
		if limit := launches[0].QueueLimit; limit > 0 && active >= limit {
			return []error{fault.Exhausted}, nil
		}
		return b.Store.Launch(ctx, limited(launches, func(l *store.Launch) { l.QueueLimit = 0 }))
	}
}

func limited(launches []*store.Launch, change func(*store.Launch)) []*store.Launch {
	var list []*store.Launch
	for _, l := range launches {
		c := *l
		change(&c)
		list = append(list, &c)
	}
	return list
}

func oldestFirst(b *broken) {
	b.ready = func(ctx context.Context, lane store.Lane, after *store.Job, limit int) ([]*store.Job, error) {
		jobs, err := b.Store.Ready(ctx, lane, after, limit)
		slices.SortFunc(jobs, func(a, b *store.Job) int { return int(a.Seq - b.Seq) })
		return jobs, err
	}
}

func forgetsLowerPriorities(b *broken) {
	b.ready = func(ctx context.Context, lane store.Lane, after *store.Job, limit int) ([]*store.Job, error) {
		jobs, err := b.Store.Ready(ctx, lane, after, limit)
		return slices.DeleteFunc(jobs, func(j *store.Job) bool { return after != nil && j.Priority != after.Priority }), err
	}
}

func promotesByOneClock(b *broken) {
	b.promote = func(ctx context.Context, now, _ time.Time, limit int) ([]*store.Job, time.Time, error) {
		return b.Store.Promote(ctx, now, now, limit)
	}
}

func countsLate(b *broken) {
	var mu sync.Mutex
	var last []store.Count
	b.counts = func(ctx context.Context) ([]store.Count, error) {
		mu.Lock()
		defer mu.Unlock()
		answer := last
		var err error
		last, err = b.Store.Counts(ctx)
		return answer, err
	}
}

func overlooksRunning(b *broken) {
	b.live = func(ctx context.Context, after int64, limit int) ([]*store.Attempt, []error, error) {
		live, bad, err := b.Store.Live(ctx, after, limit)
		return slices.DeleteFunc(live, func(a *store.Attempt) bool { return a.State == dayfly.AttemptRunning }), bad, err
	}
}

func movesAnyMachine(b *broken) {
	b.machine = func(ctx context.Context, moves []*store.MachineMove) error {
		var list []*store.MachineMove
		for _, m := range moves {
			c := *m
			c.From = machineStates()
			list = append(list, &c)
		}
		return b.Store.MoveMachine(ctx, list)
	}
}

func settlesByOneClock(b *broken) {
	b.machine = func(ctx context.Context, moves []*store.MachineMove) error {
		var list []*store.MachineMove
		for _, m := range moves {
			c := *m
			c.Wall = c.Time
			list = append(list, &c)
		}
		return b.Store.MoveMachine(ctx, list)
	}
}

func forgetsPrices(b *broken) {
	b.launch = func(ctx context.Context, launches []*store.Launch) ([]error, error) {
		return b.Store.Launch(ctx, limited(launches, func(l *store.Launch) { l.Price = nil }))
	}
}

func billsNothing(b *broken) {
	b.end = func(ctx context.Context, e *store.Ending) (*store.Job, error) {
		c := *e
		c.Unbilled = false
		return b.Store.End(ctx, &c)
	}
}

// settlesEachTime answers as if what was settled again were added again.
func settlesEachTime(b *broken) {
	moves := 0
	b.machine = func(ctx context.Context, list []*store.MachineMove) error {
		moves++
		return b.Store.MoveMachine(ctx, list)
	}
	b.costs = func(ctx context.Context, from, to string) ([]store.Cost, error) {
		costs, err := b.Store.Costs(ctx, from, to)
		for i := range costs {
			costs[i].Amount *= machine.Money(moves)
		}
		return costs, err
	}
}

// settlesLate takes a machine for longer-lived than it can be.
func settlesLate(b *broken) {
	b.launch = func(ctx context.Context, launches []*store.Launch) ([]error, error) {
		return b.Store.Launch(ctx, limited(launches, func(l *store.Launch) { l.Lifetime = machine.MaxLifetime }))
	}
}

func forgetsCharges(b *broken) {
	b.unsettled = func(context.Context) ([]store.Charge, error) { return nil, nil }
}

func hidesRevoked(b *broken) {
	b.token = func(ctx context.Context, hash []byte) (*store.Token, error) {
		t, err := b.Store.TokenByHash(ctx, hash)
		if err == nil && !t.RevokedAt.IsZero() {
			return nil, fault.NotFound
		}
		return t, err
	}
}

func sameEpoch(b *broken) {
	b.boot = func(ctx context.Context) (*store.Identity, error) {
		id, err := b.Store.Boot(ctx)
		if err == nil {
			id.Epoch = 1
		}
		return id, err
	}
}

// harness makes stores that break a rule.
func (x breakage) harness() Harness {
	open := func(t testing.TB, path string) store.Store {
		t.Helper()
		s, err := sqlite.Open(t.Context(), path, nil)
		if err != nil {
			t.Fatal(err)
		}
		b := &broken{Store: s, path: path}
		x.rule(b)
		return b
	}
	return Harness{
		New: func(t testing.TB) store.Store { return open(t, t.TempDir()+"/store.db") },
		Reopen: func(t testing.TB, s store.Store) store.Store {
			b := s.(*broken)
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if b.forgets {
				b.path = t.TempDir() + "/store.db"
			}
			return open(t, b.path)
		},
	}
}

// recorder is a test whose failure is what is wanted.
type recorder struct {
	testing.TB
	mu       sync.Mutex // guards failures
	failures []string
}

func (r *recorder) fail(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, strings.TrimSpace(text))
}

func (r *recorder) Helper()                   {}
func (r *recorder) Log(...any)                {}
func (r *recorder) Logf(string, ...any)       {}
func (r *recorder) Fail()                     { r.fail("failed") }
func (r *recorder) Error(args ...any)         { r.fail(fmt.Sprintln(args...)) }
func (r *recorder) Errorf(f string, a ...any) { r.fail(fmt.Sprintf(f, a...)) }
func (r *recorder) Fatal(args ...any)         { r.fail(fmt.Sprintln(args...)); runtime.Goexit() }
func (r *recorder) Fatalf(f string, a ...any) { r.fail(fmt.Sprintf(f, a...)); runtime.Goexit() }
func (r *recorder) FailNow()                  { r.fail("failed"); runtime.Goexit() }
func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.failures) > 0
}

// failures runs one case with a harness and returns how it failed.
func failures(t *testing.T, name string, h Harness) []string {
	for _, g := range groups() {
		for _, c := range g.cases {
			if g.name+"/"+c.name != name {
				continue
			}
			r := &recorder{TB: t}
			var done sync.WaitGroup
			done.Go(func() { c.run(newKit(r, h)) })
			done.Wait()
			return r.failures
		}
	}
	t.Fatalf("there is no case %s", name)
	return nil
}

func TestEveryBrokenRuleIsNoticed(t *testing.T) {
	t.Parallel()
	for _, x := range breakages() {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			for _, name := range x.noticed {
				found := failures(t, name, x.harness())
				if len(found) == 0 {
					t.Errorf("a store that %s passed %s, want it to fail", x.name, name)
					continue
				}
				t.Logf("%s: %s", name, strings.SplitN(found[0], "\n", 2)[0])
			}
		})
	}
}

func TestAStoreThatBreaksNoRulePassesThroughTheSameWrapper(t *testing.T) {
	t.Parallel()
	sound := breakage{"breaks nothing", func(*broken) {}, nil}
	for _, g := range groups() {
		for _, c := range g.cases {
			name := g.name + "/" + c.name
			if name == modelCase || name == poolsCase {
				continue // they take long, and sqlite's own test runs them
			}
			if found := failures(t, name, sound.harness()); len(found) > 0 {
				t.Errorf("%s failed: %s", name, found[0])
			}
		}
	}
}
