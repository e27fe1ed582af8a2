package engine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/joblog"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// bareFleet is a fleet whose machines run no agent but the guest of the test.
type bareFleet struct {
	*fleet
	mu   sync.Mutex
	ran  map[string]int // how often the command of an attempt was started
	last *machine.Spec  // of the machine that was started last
}

// newBareFleet starts an engine with machines on which guest runs.
func newBareFleet(t *testing.T, guest memmachine.Guest, change func(*engine.Options)) *bareFleet {
	t.Helper()
	b := &bareFleet{ran: map[string]int{}}
	p := memmachine.New(&memmachine.Options{Boot: 300 * time.Millisecond, Guest: func(ctx context.Context, spec *machine.Spec) machine.Exit {
		b.mu.Lock()
		b.ran[spec.Labels["attempt"]]++
		b.last = spec
		b.mu.Unlock()
		return guest(ctx, spec)
	}})
	b.fleet = newFleet(t, func(o *engine.Options) {
		o.Providers["mem"] = p
		if change != nil {
			change(o)
		}
	})
	b.cloud.Close()
	b.cloud = p.Cloud()
	return b
}

// wantRan fails if the command of any attempt was started twice, or if it was not started so often in all.
func (b *bareFleet) wantRan(times int) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	total := 0
	for attempt, n := range b.ran {
		if n > 1 {
			b.t.Errorf("the command of %s was started %d times, want once", attempt, n)
		}
		total += n
	}
	if total != times {
		b.t.Errorf("the command was started %d times in all, want %d", total, times)
	}
}

func bareJob(s *dayfly.JobSpec) { s.Bare, s.Command, s.Image = true, nil, "debian:12" }

// after is a guest that ends by itself.
func after(d time.Duration, exit machine.Exit) memmachine.Guest {
	return func(ctx context.Context, _ *machine.Spec) machine.Exit {
		wait(ctx, d)
		return exit
	}
}

func TestTheEndOfABareMachineIsTheEndOfItsJob(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		exit   machine.Exit
		state  dayfly.State
		reason dayfly.Reason
		code   int // -1: none
	}{
		"success":            {machine.Exit{}, dayfly.Succeeded, "", 0},
		"a status":           {machine.Exit{Code: 3}, dayfly.Failed, dayfly.ReasonExitNonzero, 3},
		"a signal":           {machine.Exit{Code: -1, Signal: "SIGSEGV"}, dayfly.Failed, dayfly.ReasonSignaled, -1},
		"no memory":          {machine.Exit{Code: 137, OOMKilled: true}, dayfly.Failed, dayfly.ReasonOOMKilled, 137},
		"a full disk":        {machine.Exit{Code: 1, DiskFull: true}, dayfly.Failed, dayfly.ReasonDiskFull, 1},
		"no such program":    {machine.Exit{Code: 127, Message: "no such file"}, dayfly.Failed, dayfly.ReasonCommandNotFound, 127},
		"it could not start": {machine.Exit{Code: -1, Message: "the image is broken"}, dayfly.Failed, dayfly.ReasonNeverStarted, -1},
		"its lifetime":       {machine.Exit{Code: -1, Signal: "SIGKILL", Expired: true}, dayfly.Failed, dayfly.ReasonTimeout, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				b := newBareFleet(t, after(2*time.Second, c.exit), nil)
				job := b.finished(b.submit(bareJob).ID, time.Minute)
				check(t, job, c.state, c.reason, 1)
				if got := job.ExitCode; c.code < 0 && got != nil || c.code >= 0 && (got == nil || *got != c.code) {
					t.Errorf("its exit code is %v, want %d", got, c.code)
				}
				a := job.AttemptLog[0]
				if a.Fence != 1 || a.ClaimedBy == "" || a.RunMS < 1900 || a.RunMS > 2500 {
					t.Errorf("the attempt has fence %d, claimant %q and ran %d ms; want 1, one, and 2 s", a.Fence, a.ClaimedBy, a.RunMS)
				}
				b.settled(time.Minute)
				b.wantRan(1)
			})
		})
	}
}

func TestABareMachineIsToldWhatItNeedsAndNothingOfTheAgent(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		b := newBareFleet(t, after(time.Second, machine.Exit{}), nil)
		job := b.finished(b.submit(func(s *dayfly.JobSpec) {
			bareJob(s)
			s.Command, s.Env = []string{"-v"}, map[string]string{"A": "1"}
			s.Timeouts = dayfly.Timeouts{Boot: dayfly.Duration(time.Minute), Run: dayfly.Duration(2 * time.Minute), Grace: dayfly.Duration(3 * time.Second)}
		}).ID, time.Minute)
		s := b.last
		if s.Agent != nil || s.Image != "debian:12" || !slices.Equal(s.Command, []string{"-v"}) {
			t.Errorf("the machine was %+v, want the image with the command and no agent", s)
		}
		if want := 3*time.Minute + 3*time.Second; s.Lifetime != want {
			t.Errorf("its lifetime is %v, want %v", s.Lifetime, want)
		}
		for name, want := range map[string]string{"A": "1", "DAYFLY_JOB_ID": job.ID, "DAYFLY_ATTEMPT": "1", "DAYFLY_ATTEMPT_ID": job.Attempt,
			"DAYFLY_URL": "http://home", "DAYFLY_TOKEN": b.options.Key.Session(job.Attempt, 1)} {
			if got := s.Env[name]; got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		for name := range s.Env {
			if strings.HasPrefix(name, "DAYFLY_AGENT") {
				t.Errorf("it is told %s, want nothing that claims", name)
			}
		}
	})
}

func TestAProgramInABareMachineMayCallBeforeItsProviderHasSaidThatItRuns(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		var b *bareFleet
		var problem error
		b = newBareFleet(t, func(ctx context.Context, s *machine.Spec) machine.Exit {
			e, token := b.engine.Load(), s.Env["DAYFLY_TOKEN"]
			problem = e.Progress(ctx, token, &wire.Progress{Fraction: 0.5, Text: "half"})
			if _, err := e.Log(ctx, token, &wire.LogChunk{Stream: wire.Stdout, Data: []byte("x")}); fault.Of(err) != fault.Unsupported {
				problem = fmt.Errorf("sending output: got %w, want it unsupported, because the provider keeps it", err)
			}
			if id, err := e.JobOf(ctx, token); err != nil || id != s.Env["DAYFLY_JOB_ID"] {
				problem = fmt.Errorf("JobOf: got %s, %w", id, err)
			}
			wait(ctx, time.Second)
			err := e.Result(ctx, token, &wire.Result{Outcome: wire.Succeeded, Started: true, Value: []byte(`{"n":1}`)})
			if err != nil {
				problem = err
			}
			return machine.Exit{Code: 1} // which nobody asks for any more
		}, nil)
		slow := b.cloud.Fail(memmachine.Create, memmachine.ExecuteThenHang)
		began := time.Now()
		job := b.finished(b.submit(bareJob).ID, time.Minute)
		slow.Stop()
		check(t, job, dayfly.Succeeded, "", 1)
		if problem != nil {
			t.Error(problem)
		}
		if string(job.Result) != `{"n":1}` || job.Progress == nil || job.Progress.Text != "half" {
			t.Errorf("its result is %s and its progress %+v, want what the program said", job.Result, job.Progress)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v although its program had called, want no wait for the provider's answer", took)
		}
		b.settled(2 * time.Minute)
	})
}

func TestTheOutputOfABareMachineIsTheJobs(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		const lines = 5000
		b := newBareFleet(t, func(ctx context.Context, _ *machine.Spec) machine.Exit {
			out, errs := memmachine.In(ctx).Stdout(), memmachine.In(ctx).Stderr()
			for i := range lines {
				fmt.Fprintf(out, "line %d\n", i)
				if i%1000 == 0 {
					fmt.Fprintf(errs, "thousand %d\n", i)
					wait(ctx, time.Second)
				}
			}
			return machine.Exit{}
		}, nil)
		id := b.submit(bareJob).ID
		wait(t.Context(), 2500*time.Millisecond)
		if got := b.output(id); !strings.HasPrefix(got["stdout"], "line 0\nline 1\n") {
			t.Errorf("while it runs its output is %.40q, want what it has printed so far", got["stdout"])
		}
		b.restart() // what is stored is not stored again
		job := b.finished(id, time.Minute)
		got := b.output(id)
		if want := lines; strings.Count(got["stdout"], "\n") != want || !strings.HasSuffix(got["stdout"], "line 4999\n") {
			t.Errorf("its output has %d lines and ends with %.20q, want %d", strings.Count(got["stdout"], "\n"), got["stdout"][max(0, len(got["stdout"])-20):], want)
		}
		if want := "thousand 0\nthousand 1000\nthousand 2000\nthousand 3000\nthousand 4000\n"; got["stderr"] != want {
			t.Errorf("its standard error is %q, want %q", got["stderr"], want)
		}
		if a := job.AttemptLog[0]; a.StdoutLen != int64(len(got["stdout"])) || a.StderrLen != int64(len(got["stderr"])) {
			t.Errorf("the attempt says %d and %d bytes, want %d and %d", a.StdoutLen, a.StderrLen, len(got["stdout"]), len(got["stderr"]))
		}
	})
}

// output reads what the last attempt of a job has printed, by stream.
func (b *bareFleet) output(id string) map[string]string {
	b.t.Helper()
	streams := map[string]string{}
	records, err := b.options.Logs.Read(b.job(id).Attempt, joblog.Position(0))
	if err != nil {
		b.t.Fatal(err)
	}
	for r, err := range records {
		if err != nil {
			b.t.Fatal(err)
		}
		streams[string(r.Stream)] += string(r.Data)
	}
	return streams
}

func TestABareJobIsStoppedByASignalAndThenByForce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		heeds   bool // it ends when it is told to
		unheard bool // its provider cannot send signals
		within  time.Duration
	}{
		"it heeds SIGTERM":                   {heeds: true, within: 3 * time.Second},
		"it does not":                        {within: 15 * time.Second},
		"its provider cannot tell it to end": {unheard: true, within: 3 * time.Second},
	} {
		for _, cause := range []string{"a cancel", "its run timeout"} {
			t.Run(name+" at "+cause, func(t *testing.T) {
				t.Parallel()
				inBubble(t, func(t *testing.T) {
					b := newBareFleet(t, func(ctx context.Context, _ *machine.Spec) machine.Exit {
						for {
							select {
							case <-memmachine.In(ctx).Signals():
								if c.heeds {
									return machine.Exit{Code: 143}
								}
							case <-ctx.Done():
								return machine.Exit{Code: -1, Signal: "SIGKILL"}
							}
						}
					}, nil)
					if c.unheard {
						b.cloud.Fail(memmachine.Signal, memmachine.Refuse(fault.Unsupported))
					}
					job := b.submit(func(s *dayfly.JobSpec) {
						bareJob(s)
						if cause != "a cancel" {
							s.Timeouts.Run = dayfly.Duration(5 * time.Second)
						}
					})
					wait(t.Context(), 5*time.Second)
					if got := b.job(job.ID).State; got != dayfly.Running {
						t.Errorf("after five seconds it is %s, want it running", got)
					}
					state, reason := dayfly.Failed, dayfly.ReasonTimeout
					if cause == "a cancel" {
						state, reason = dayfly.Canceled, dayfly.ReasonCanceled
						if _, err := b.engine.Load().Cancel(t.Context(), job.ID); err != nil {
							t.Fatal(err)
						}
					}
					check(t, b.finished(job.ID, c.within+time.Second), state, reason, 1)
					b.settled(time.Minute)
					b.wantRan(1)
				})
			})
		}
	}
}

func TestACanceledBareJobIsNotOverWhileItsMachineMayRun(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		b := newBareFleet(t, memmachine.Idle, nil)
		stuck := b.cloud.Fail(memmachine.Destroy, memmachine.Refuse(fault.Unavailable))
		job := b.submit(bareJob)
		wait(t.Context(), 100*time.Millisecond) // its machine has been made and does not run yet
		if _, err := b.engine.Load().Cancel(t.Context(), job.ID); err != nil {
			t.Fatal(err)
		}
		wait(t.Context(), time.Minute)
		if got := b.job(job.ID); got.State.Terminal() {
			t.Errorf("it is %s although its machine is there", got.State)
		}
		stuck.Stop()
		check(t, b.finished(job.ID, 2*time.Minute), dayfly.Canceled, dayfly.ReasonCanceled, 1)
		b.settled(time.Second)
	})
}

func TestTheCommandOfABareJobIsNotStartedAgainWhenNobodyKnowsWhetherItWas(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rules   func(b *bareFleet)
		then    func(b *bareFleet, machine string)
		boot    time.Duration
		most    int // attempts that may start the command
		state   dayfly.State
		reason  dayfly.Reason
		ran     int
		message string
	}{
		"the answer was lost": {
			rules: func(b *bareFleet) { b.cloud.Fail(memmachine.Create, memmachine.ExecuteThenTimeout).Times(1) },
			state: dayfly.Succeeded, ran: 1, most: 1,
		},
		"the answer was lost and it lands late": {
			rules: func(b *bareFleet) { b.cloud.Fail(memmachine.Create, memmachine.LandLate(5*time.Second)).Times(1) },
			state: dayfly.Succeeded, ran: 1, most: 1,
		},
		"it was not made": {
			rules: func(b *bareFleet) { b.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Unavailable)).Times(1) },
			state: dayfly.Succeeded, ran: 1, most: 1,
		},
		"nobody can say whether it was made": {
			rules: func(b *bareFleet) {
				b.cloud.Fail(memmachine.Create, memmachine.ExecuteThenTimeout).Times(1)
				b.cloud.Fail(memmachine.List, memmachine.Refuse(fault.Unavailable)).Times(100)
				b.cloud.Fail(memmachine.Get, memmachine.Refuse(fault.Unavailable)).Times(100)
			},
			boot: 10 * time.Second, state: dayfly.Succeeded, ran: 1, most: 1,
		},
		"its machine vanished": {
			then:  func(b *bareFleet, id string) { b.cloud.Vanish(id) },
			state: dayfly.Failed, reason: dayfly.ReasonMachineLost, ran: 1, most: 1, message: "ended or vanished",
		},
		"its machine vanished, and it may be tried twice": {
			then:  func(b *bareFleet, id string) { b.cloud.Vanish(id) },
			state: dayfly.Succeeded, ran: 2, most: 2,
		},
		"it never came up": {
			rules: func(b *bareFleet) {
				b.cloud.Fail(memmachine.Create, func(ctx context.Context, call *memmachine.Call) error {
					call.Machine = &machine.Machine{ID: "ghost", Name: call.Spec.Name, Owner: call.Spec.Owner, State: machine.Creating}
					return nil
				})
				b.cloud.Fail(memmachine.Get, func(_ context.Context, call *memmachine.Call) error {
					call.Machine = &machine.Machine{ID: "ghost", State: machine.Creating}
					return nil
				})
			},
			boot: 10 * time.Second, state: dayfly.Failed, reason: dayfly.ReasonMachineLost, most: 1, message: "nobody knows",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				b := newBareFleet(t, after(20*time.Second, machine.Exit{}), nil)
				if c.rules != nil {
					c.rules(b)
				}
				job := b.submit(func(s *dayfly.JobSpec) {
					bareJob(s)
					s.Retry.MaxAttempts, s.Timeouts.Boot = c.most, dayfly.Duration(c.boot)
				})
				wait(t.Context(), 5*time.Second)
				if all := b.cloud.Machines(); c.then != nil && len(all) == 1 {
					c.then(b, all[0].ID)
				}
				done := b.finished(job.ID, time.Hour)
				if done.State != c.state || done.Reason != c.reason || !strings.Contains(done.Message, c.message) {
					t.Errorf("got %s (%s): %q, want %s (%s): …%s…", done.State, done.Reason, done.Message, c.state, c.reason, c.message)
				}
				b.settled(time.Minute)
				b.wantRan(c.ran)
			})
		})
	}
}

func TestABareMachineEndsWhileNoServerListens(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		b := newBareFleet(t, after(time.Minute, machine.Exit{Code: 4}), nil)
		job := b.submit(bareJob)
		wait(t.Context(), 10*time.Second)
		b.stop()
		wait(t.Context(), 10*time.Minute)
		b.start()
		check(t, b.finished(job.ID, time.Minute), dayfly.Failed, dayfly.ReasonExitNonzero, 1)
		b.wantRan(1)
	})
}

func TestWhatABareJobCannotHaveIsRefusedWhenItIsSubmitted(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		b := newBareFleet(t, memmachine.Idle, nil)
		for field, spec := range map[string]dayfly.JobSpec{
			"outputs":   {Bare: true, Image: "i", Outputs: []string{"*"}},
			"bare":      {Bare: true},
			"own_agent": {OwnAgent: true, Command: []string{"true"}},
			"command":   {Image: "i"},

			"keep_on_failure": {Bare: true, Image: "i", KeepOnFailure: dayfly.Duration(time.Minute)},
		} {
			_, _, err := b.engine.Load().Submit(t.Context(), &engine.Submission{Spec: spec})
			if fault.Of(err) != fault.Invalid || !strings.HasPrefix(err.Error(), field) {
				t.Errorf("%+v: got %v, want the field %s refused", spec, err, field)
			}
		}
		_, _, err := b.engine.Load().Submit(t.Context(), &engine.Submission{Spec: dayfly.JobSpec{Bare: true, OwnAgent: true, Image: "i"}})
		if fault.Of(err) != fault.Invalid || !strings.HasPrefix(err.Error(), "own_agent") {
			t.Errorf("both at once: got %v, want own_agent refused", err)
		}
		job := b.submit(func(s *dayfly.JobSpec) {
			s.Bare, s.Image, s.Command = true, "registry.example/team/render:3@sha256:0", nil
		})
		if job.Spec.Name != "render:3" {
			t.Errorf("a job without command and name is called %q, want render:3", job.Spec.Name)
		}
	})
}

func TestAnImageWithAnAgentOfItsOwnClaimsItsAttempt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		var f *fleet
		p := memmachine.New(&memmachine.Options{Guest: func(ctx context.Context, s *machine.Spec) machine.Exit {
			with := *s
			with.Agent = &machine.Agent{URL: s.Env["DAYFLY_AGENT_URL"], Attempt: s.Env["DAYFLY_AGENT_ATTEMPT"], Token: s.Env["DAYFLY_AGENT_TOKEN"]}
			if s.Agent != nil || len(s.Command) > 0 || s.Env["K"] != "v" {
				return machine.Exit{Code: 99}
			}
			return f.agent(ctx, &with)
		}})
		f = newFleet(t, func(o *engine.Options) { o.Providers["mem"] = p })
		f.cloud.Close()
		f.cloud = p.Cloud()
		var told *wire.Assignment
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
			told = a
			return succeed(ctx, a)
		}
		job := f.finished(f.submit(func(s *dayfly.JobSpec) {
			s.OwnAgent, s.Image, s.Command, s.Outputs = true, "worker:1", []string{"encode"}, []string{"*.mp3"}
			s.Env = map[string]string{"K": "v"}
		}).ID, time.Minute)
		check(t, job, dayfly.Succeeded, "", 1)
		if told == nil || !slices.Equal(told.Command, []string{"encode"}) || !slices.Equal(told.Outputs, []string{"*.mp3"}) {
			t.Errorf("its assignment is %+v, want the job's command and outputs", told)
		}
	})
}

func TestABareMachineFindsItsInputs(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		var b *bareFleet
		var at string
		var problem, unknown error
		b = newBareFleet(t, func(ctx context.Context, s *machine.Spec) machine.Exit {
			at, problem = b.engine.Load().InputURL(ctx, s.Env["DAYFLY_TOKEN"], "in.wav")
			_, unknown = b.engine.Load().InputURL(ctx, s.Env["DAYFLY_TOKEN"], "other")
			return machine.Exit{}
		}, nil)
		job := b.submit(func(s *dayfly.JobSpec) {
			bareJob(s)
			start := true
			s.Inputs, s.Start = []dayfly.InputSpec{{Name: "in.wav"}}, &start
		})
		if err := b.engine.Load().InputStored(t.Context(), job.ID, store.Input{Name: "in.wav", Blob: "inputs/x", Size: 1, SHA256: "a"}); err != nil {
			t.Fatal(err)
		}
		check(t, b.finished(job.ID, time.Minute), dayfly.Succeeded, "", 1)
		if problem != nil || !strings.HasPrefix(at, "http://home/") || fault.Of(unknown) != fault.NotFound {
			t.Errorf("its input is at %q (%v), and one that it does not have: %v; want a URL, and not found", at, problem, unknown)
		}
	})
}

// TestNoFaultDoublesABareJob lets all go wrong that a provider which keeps its promises may do to bare machines, with
// several providers to go on to, and checks that no command was started twice in an attempt, or more often than the job
// allows, and that nothing is left.
func TestNoFaultDoublesABareJob(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		inBubble(t, func(t *testing.T) {
			luck := rand.New(rand.NewPCG(seed, 7))
			guest := func(ctx context.Context, spec *machine.Spec) machine.Exit {
				wait(ctx, time.Duration(len(spec.Command))*10*time.Second)
				return machine.Exit{Code: len(spec.Command) % 2}
			}
			var b *bareFleet
			other := memmachine.New(&memmachine.Options{Boot: time.Second, Guest: func(ctx context.Context, spec *machine.Spec) machine.Exit {
				b.mu.Lock()
				b.ran[spec.Labels["attempt"]]++
				b.mu.Unlock()
				return guest(ctx, spec)
			}})
			b = newBareFleet(t, guest, func(o *engine.Options) {
				o.Providers["other"], o.MaxMachines = other, map[string]int{"mem": 5, "other": 3}
			})
			t.Cleanup(other.Cloud().Close)
			clouds := []*memmachine.Cloud{b.cloud, other.Cloud()}
			faults := []memmachine.Fault{
				memmachine.ExecuteThenTimeout, memmachine.LandLate(6 * time.Second), memmachine.ExecuteThenHang, memmachine.Delay(20 * time.Second),
				memmachine.Refuse(fault.Unavailable), memmachine.Refuse(fault.Exhausted), memmachine.Refuse(fault.Denied), memmachine.Refuse(fault.Unsupported),
			}
			jobs := map[string]int{}
			for began := time.Now(); time.Since(began) < 2*time.Hour; {
				wait(context.Background(), time.Duration(luck.IntN(30_000))*time.Millisecond)
				cloud := clouds[luck.IntN(2)]
				switch luck.IntN(10) {
				case 0, 1, 2:
					most := 1 + luck.IntN(2)
					job := b.submit(func(s *dayfly.JobSpec) {
						bareJob(s)
						s.Command = slices.Repeat([]string{"x"}, 1+luck.IntN(6))
						s.Provider = []string{"mem", "mem,other", "other:x,mem"}[luck.IntN(3)]
						s.Retry.MaxAttempts, s.Timeouts.Boot = most, dayfly.Duration(2*time.Minute)
					})
					jobs[job.ID] = most
				case 3, 4, 5:
					cloud.Fail(memmachine.Create, faults[luck.IntN(len(faults))]).Times(1 + luck.IntN(2))
				case 6:
					cloud.Fail(memmachine.List, memmachine.Refuse(fault.Unavailable)).Times(1 + luck.IntN(5))
					cloud.Fail(memmachine.Destroy, memmachine.ExecuteThenTimeout).Times(luck.IntN(3))
				case 7:
					b.restart()
				case 8:
					for id := range jobs {
						if _, err := b.engine.Load().Cancel(context.Background(), id); err != nil && fault.Of(err) != fault.AlreadyFinished {
							t.Errorf("cancel of %s: %v", id, err)
						}
						break
					}
				case 9:
					if all := cloud.Machines(); len(all) > 0 && luck.IntN(3) == 0 {
						cloud.Vanish(all[luck.IntN(len(all))].ID)
					}
				}
			}
			for _, cloud := range clouds {
				cloud.Heal()
			}
			for id, most := range jobs {
				job := b.finished(id, 3*time.Hour)
				total := 0
				b.mu.Lock()
				for _, a := range job.AttemptLog {
					n := b.ran[a.ID]
					total += n
					if n > 1 {
						t.Errorf("seed %d: the command of attempt %d of %s was started %d times, want at most once", seed, a.Number, id, n)
					}
					if n == 0 && a.State == dayfly.AttemptSucceeded {
						t.Errorf("seed %d: attempt %d of %s succeeded without having run", seed, a.Number, id)
					}
				}
				b.mu.Unlock()
				if total > most {
					t.Errorf("seed %d: the command of %s was started %d times, want at most %d", seed, id, total, most)
				}
			}
			for _, cloud := range clouds {
				b.cloud = cloud
				b.settled(10 * time.Minute)
			}
		})
	}
}

func TestACapOnItsCostEndsABareMachine(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		b := newBareFleet(t, memmachine.Idle, func(o *engine.Options) { priced(dollarAnHour())(o) })
		job := b.submit(func(s *dayfly.JobSpec) {
			bareJob(s)
			s.MaxCost, s.Timeouts.Run = halfDollar, dayfly.Duration(10*time.Hour)
		})
		done := b.finished(job.ID, time.Hour)
		check(t, done, dayfly.Failed, dayfly.ReasonCostLimit, 1)
		if got := costOf(done); got > halfDollar || got < halfDollar*8/10 {
			t.Errorf("it has cost %s, want nearly %s and no more", got, halfDollar)
		}
	})
}
