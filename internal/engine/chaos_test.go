package engine_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

var chaosSeed = flag.Uint64("chaos.seed", 0, "run the chaos test with this seed only")

// TestNoFaultLosesOrDoublesAJob lets everything go wrong at once for some hours of simulated time, then heals the
// world and checks that each promise was kept. A failure names its seed; -chaos.seed runs it again.
func TestNoFaultLosesOrDoublesAJob(t *testing.T) {
	t.Parallel()
	seeds := []uint64{1, 2, 3}
	if *chaosSeed != 0 {
		seeds = []uint64{*chaosSeed}
	} else if !testing.Short() {
		for range 2 {
			seeds = append(seeds, rand.Uint64N(1<<32))
		}
	}
	for _, seed := range seeds {
		inBubble(t, func(t *testing.T) {
			var c *chaos
			other := memmachine.New(&memmachine.Options{Guest: func(ctx context.Context, spec *machine.Spec) machine.Exit { return c.agent(ctx, spec) }})
			fleet, memory := newForgetfulFleet(t, func(o *engine.Options) {
				o.Queues = map[string]engine.QueueLimits{"narrow": {Concurrency: 2, KeyConcurrency: 1}}
				o.MaxMachines = map[string]int{"mem": 8, "other": 3}
				o.Pools = map[string]engine.Pool{"warm": {
					Provider: "mem", Max: 3, Min: 1, Prewarm: 0.6, Idle: 2 * time.Minute, MaxAge: 20 * time.Minute, MaxUses: 5,
					Concurrency: 1 + int(seed%3),
				}}
				o.Providers["other"] = other
			})
			t.Cleanup(other.Cloud().Close)
			c = &chaos{fleet: fleet, memory: memory, other: other.Cloud(), luck: rand.New(rand.NewPCG(seed, 0)), jobs: map[string]int{}, vanished: map[string]bool{}}
			t.Logf("seed %d", seed)
			c.run(2 * time.Hour)
			c.check(seed)
		})
	}
}

type chaos struct {
	*fleet
	memory *forgetful
	other  *memmachine.Cloud // which jobs go on to, or begin with
	luck   *rand.Rand
	jobs   map[string]int // max_attempts by job
	// vanished are the machines that chaos took away: nothing else is a reason to lose an attempt.
	vanished map[string]bool
}

func (c *chaos) run(length time.Duration) {
	c.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
		long := time.Duration(len(a.Command[0])) * 10 * time.Second
		wait(ctx, long)
		if a.Env["FAIL"] != "" && a.Number == 1 {
			return fail(1)(ctx, a)
		}
		return succeed(ctx, a)
	}
	faults := []memmachine.Fault{
		memmachine.ExecuteThenTimeout, memmachine.LandLate(40 * time.Second), memmachine.LandLate(8 * time.Minute), memmachine.StartTwice,
		memmachine.Refuse(fault.Unavailable), memmachine.Refuse(fault.Exhausted), memmachine.Refuse(fault.Denied), memmachine.Delay(20 * time.Second),
		memmachine.ExecuteThenHang, memmachine.Refuse(fault.Unsupported),
		ambiguousThenFull(),
	}
	lies := []memmachine.Fault{memmachine.EmptyList, memmachine.Duplicate, memmachine.Shuffle(7), memmachine.Refuse(fault.Unavailable)}
	slips := rand.New(rand.NewPCG(c.luck.Uint64(), 0)) // used under the store's lock
	c.memory.set(func(write string) fate {
		if write == "submit" || write == "move" || slips.IntN(20) > 0 { // whose callers this test does not let try again
			return done
		}
		if write == "claim" || write == "end" {
			return []fate{refused, lost}[slips.IntN(2)]
		}
		return []fate{refused, lost, late}[slips.IntN(3)]
	})
	for begin := time.Now(); time.Since(begin) < length; {
		wait(context.Background(), time.Duration(c.luck.IntN(30_000))*time.Millisecond)
		cloud := []*memmachine.Cloud{c.cloud, c.cloud, c.other}[c.luck.IntN(3)]
		switch c.luck.IntN(12) {
		case 0, 1, 2, 3:
			c.add()
		case 4, 5:
			cloud.Fail(memmachine.Create, faults[c.luck.IntN(len(faults))]).Times(1 + c.luck.IntN(3))
		case 6:
			cloud.Fail(memmachine.List, lies[c.luck.IntN(len(lies))]).Times(1 + c.luck.IntN(5))
			cloud.Fail(memmachine.Get, memmachine.Refuse(fault.Unavailable)).Times(c.luck.IntN(5))
		case 7:
			cloud.Fail(memmachine.Destroy, []memmachine.Fault{
				memmachine.ExecuteThenTimeout, memmachine.PretendDestroyed, memmachine.Refuse(fault.Unavailable)}[c.luck.IntN(3)]).Times(1 + c.luck.IntN(3))
		case 8:
			c.restart()
		case 9:
			c.stop()
			wait(context.Background(), time.Duration(c.luck.IntN(300))*time.Second)
			c.start()
		case 10:
			if all := cloud.Machines(); len(all) > 0 && c.luck.IntN(3) == 0 {
				victim := all[c.luck.IntN(len(all))]
				c.vanished[victim.Name] = true
				cloud.Vanish(victim.ID)
			}
		case 11:
			for id := range c.jobs {
				if _, err := c.engine.Load().Cancel(context.Background(), id); err != nil && fault.Of(err) != fault.AlreadyFinished {
					c.t.Errorf("cancel of %s: %v", id, err)
				}
				break
			}
		}
	}
	c.cloud.Heal()
	c.other.Heal()
	c.memory.set(nil)
}

// ambiguousThenFull makes a create time out, without an effect or with one that comes later, and refuses it when it is
// sent again.
func ambiguousThenFull() memmachine.Fault {
	asked := map[string]int{}
	var mu sync.Mutex
	return func(ctx context.Context, c *memmachine.Call) error {
		mu.Lock()
		asked[c.Key]++
		n := asked[c.Key]
		mu.Unlock()
		switch {
		case n > 1:
			return memmachine.Refuse(fault.Exhausted)(ctx, c)
		case len(asked)%2 == 0:
			return memmachine.LandLate(25*time.Second)(ctx, c)
		}
		return memmachine.Refuse(fault.Unavailable)(ctx, c)
	}
}

func (c *chaos) add() {
	most := 1 + c.luck.IntN(3)
	job := c.submit(func(s *dayfly.JobSpec) {
		s.Command = []string{"aaaaaaaaaaaaaaaaaaaaaaaaaaaa"[:1+c.luck.IntN(20)]}
		s.Retry.MaxAttempts = most
		s.Provider = []string{"mem", "mem", "mem,other", "other:x,other:y,mem", "other"}[c.luck.IntN(5)]
		s.Priority = c.luck.IntN(3)
		if c.luck.IntN(3) == 0 {
			s.Env = map[string]string{"FAIL": "1"}
		}
		if c.luck.IntN(3) == 0 {
			s.Queue, s.ConcurrencyKey = "narrow", []string{"", "x", "y"}[c.luck.IntN(3)]
		}
		s.Timeouts.Boot = dayfly.Duration(3 * time.Minute)
		if s.Provider == "mem" && c.luck.IntN(2) == 0 {
			s.Pool = "warm"
		}
	})
	c.jobs[job.ID] = most
}

func (c *chaos) check(seed uint64) {
	t := c.t
	for id, most := range c.jobs {
		job := c.finished(id, 3*time.Hour)
		starts := 0
		if len(job.Refusals) > 3 {
			t.Errorf("seed %d: %s keeps %d refusals of at most 3 choices", seed, id, len(job.Refusals))
		}
		for i, a := range job.AttemptLog {
			if a.Number != i+1 || !a.State.Terminal() {
				t.Errorf("seed %d: attempt %d of %s has number %d and state %s; want numbers without holes and terminal states", seed, i+1, id, a.Number, a.State)
			}
			if host, _ := wire.SlotOf(a.Machine.Name); a.State == dayfly.AttemptLost && !c.vanished[host] {
				t.Errorf("seed %d: attempt %d of %s was lost although nothing happened to its machine: %s", seed, a.Number, id, a.Message)
			}
			c.mu.Lock()
			ran := c.starts[a.ID]
			c.mu.Unlock()
			starts += ran
			if ran > 1 {
				t.Errorf("seed %d: attempt %d of %s started user code %d times, want at most once", seed, a.Number, id, ran)
			}
			if a.State == dayfly.AttemptSucceeded && job.State != dayfly.Succeeded && job.State != dayfly.Canceled {
				t.Errorf("seed %d: %s is %s although attempt %d succeeded", seed, id, job.State, a.Number)
			}
		}
		if starts > most {
			t.Errorf("seed %d: user code of %s was started %d times, want at most %d", seed, id, starts, most)
		}
		if job.State == dayfly.Succeeded && starts == 0 {
			t.Errorf("seed %d: %s succeeded without having run", seed, id)
		}
		c.checkEvents(seed, job)
	}
	c.checkPool(seed)
	c.settled(10 * time.Minute)
	c.fleet.cloud = c.other
	c.settled(10 * time.Minute)
	wait(context.Background(), time.Minute)
	live, err := c.store.Machines(t.Context(), &store.MachineQuery{Limit: 10_000,
		States: []store.MachineState{store.MachineCreating, store.MachinePresent, store.MachineDeleting}})
	if err != nil || len(live) > 0 {
		t.Errorf("seed %d: %d machines are not gone in the ledger (%v), want none", seed, len(live), err)
	}
}

// checkPool checks what is promised of the machines of the pool, and then lets them go.
func (c *chaos) checkPool(seed uint64) {
	wait(context.Background(), 10*time.Minute) // it may still back off
	if pools, err := c.engine.Load().Pools(context.Background()); err != nil || pools[0].Machines["idle"] < 1 {
		c.t.Errorf("seed %d: the pool after all jobs: got %+v and error %v, want at least one idle machine", seed, pools, err)
	}
	queues, shared := map[string]string{}, 0
	c.mu.Lock()
	served := map[string][]*wire.Assignment{}
	for slot, jobs := range c.served {
		host, _ := wire.SlotOf(slot)
		served[host] = append(served[host], jobs...)
	}
	for name, jobs := range served {
		if len(jobs) > 5 {
			c.t.Errorf("seed %d: machine %s has begun %d jobs, want 5 at most", seed, name, len(jobs))
		}
		if len(jobs) > 1 {
			shared++
		}
		for _, a := range jobs {
			queue := c.job(a.Job).Queue
			if had, ok := queues[name]; ok && had != queue {
				c.t.Errorf("seed %d: machine %s has carried out jobs of the queues %s and %s", seed, name, had, queue)
			}
			queues[name] = queue
		}
	}
	c.mu.Unlock()
	if shared == 0 {
		c.t.Errorf("seed %d: no machine has carried out two jobs, so nothing was tried", seed)
	}
	c.options.Pools = nil
	c.restart()
}

func (c *chaos) checkEvents(seed uint64, job *store.Job) {
	events, err := c.store.Events(c.t.Context(), job.ID, 0, 1000)
	if err != nil {
		c.t.Fatal(err)
	}
	for i, e := range events {
		if e.Seq != int64(i+1) {
			c.t.Errorf("seed %d: event %d of %s has seq %d", seed, i+1, job.ID, e.Seq)
		}
		if i > 0 && events[i-1].State.Terminal() {
			c.t.Errorf("seed %d: %s has the event %s after it was %s", seed, job.ID, e.Type, events[i-1].State)
		}
	}
	if last := events[len(events)-1].State; last != job.State {
		c.t.Errorf("seed %d: the events of %s end with %s, but it is %s", seed, job.ID, last, job.State)
	}
}
