//go:build linux

package survival_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
)

// TestAMinuteOfKillsLosesNothing submits a few hundred jobs of all sorts while the server is killed every few seconds.
func TestAMinuteOfKillsLosesNothing(t *testing.T) {
	t.Parallel()
	const jobs, clients = 300, 6
	length := time.Minute
	if testing.Short() {
		length = 10 * time.Second
	}
	in := install(t, "DAYFLY_PROVIDERS_LOCAL_MAX_MACHINES=12")
	in.start("")

	over := make(chan struct{})
	kills := 0
	var killer sync.WaitGroup
	killer.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(time.Second + rand.N(3*time.Second)):
			}
			if err := in.killAndStart(); err != nil {
				t.Errorf("after %d kills: %v", kills, err)
				return
			}
			kills++
		}
	})

	// The jobs come evenly over the whole time, so that there are always some in each state.
	began := time.Now()
	var mu sync.Mutex
	wanted := map[string]task{}
	var group sync.WaitGroup
	for client := range clients {
		group.Go(func() {
			for i := client; i < jobs; i += clients {
				pass(time.Until(began.Add(length * time.Duration(i) / jobs)))
				k := task{lines: rand.IntN(30), exit: rand.IntN(2) * taskExit}
				job, err := in.client.Submit(t.Context(), in.spec(k), &dayfly.SubmitOptions{IdempotencyKey: fmt.Sprint("job-", i)})
				if err != nil {
					t.Errorf("submit: %v", err)
					return
				}
				mu.Lock()
				wanted[job.ID] = k
				mu.Unlock()
			}
		})
	}
	group.Wait()
	close(over)
	killer.Wait()

	t.Logf("the server was killed %d times in %v", kills, time.Since(began).Round(time.Second))
	if len(wanted) != jobs {
		t.Errorf("got %d jobs, want %d", len(wanted), jobs)
	}
	for id, k := range wanted {
		in.checkTask(id, k)
	}
	for job, err := range in.client.Jobs(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		if _, known := wanted[job.ID]; !known {
			t.Errorf("there is a job %s that was never acknowledged, although each submit was repeated until it was", job.ID)
		}
	}
	in.empty()
	in.last().kill(t)
	in.intact()
}

// TestNoMixtureOfKillsStartsACommandTwice kills and stops servers and agents in any order. Jobs may be lost to that and
// tried again, but no attempt may start its command twice, and in the end everything has ended and nothing is left.
func TestNoMixtureOfKillsStartsACommandTwice(t *testing.T) {
	t.Parallel()
	const jobs, length = 60, 15 * time.Second
	in := install(t, "DAYFLY_TIMEOUTS_LOST_AFTER=1s", "DAYFLY_TIMEOUTS_UNREACHABLE_AFTER=2s")
	in.start("")
	over := make(chan struct{})
	deeds := 0
	var villain sync.WaitGroup
	villain.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(rand.N(1500 * time.Millisecond)):
			}
			if err := in.mischief(deeds % 4); err != nil {
				t.Error(err)
				return
			}
			deeds++
		}
	})
	began := time.Now()
	ids := map[string]bool{}
	for i := range jobs {
		pass(time.Until(began.Add(length * time.Duration(i) / jobs)))
		spec := in.spec(task{lines: rand.IntN(60), exit: taskExit})
		spec.Retry.MaxAttempts = 50
		ids[in.submit(spec).ID] = true
	}
	close(over)
	villain.Wait()
	ends, lost := map[dayfly.Reason]int{}, 0
	for id := range ids {
		job := in.ended(id)
		ends[job.Reason]++
		if job.Reason != dayfly.ReasonExitNonzero && job.Reason != dayfly.ReasonPoison {
			t.Errorf("job %s ended with reason %q, want its own exit code, or to be given up as poison: %s", id, job.Reason, attemptsOf(job))
		}
		for _, a := range job.Attempts {
			if a.State == dayfly.AttemptLost {
				lost++
			}
		}
		starts := map[int]int{}
		for _, e := range in.entries("start", id) {
			if starts[e.attempt]++; starts[e.attempt] > 1 || e.attempt > len(job.Attempts) {
				t.Errorf("job %s: got start %d of attempt %d, of %d attempts: %s", id, starts[e.attempt], e.attempt, len(job.Attempts), attemptsOf(job))
			}
		}
		in.checkEvents(job)
	}
	t.Logf("after %d bad deeds and %d lost attempts the jobs ended so: %v", deeds, lost, ends)
	in.empty()
	in.last().kill(t)
	in.intact()
}

// mischief does one of four bad things: it kills or stops the server or an agent.
func (in *installation) mischief(which int) error {
	var agents []int
	for _, p := range below(in.nannies()...) {
		if filepath.Base(p.program) == "dayfly-agent" {
			agents = append(agents, p.pid)
		}
	}
	if which == 0 || len(agents) == 0 {
		return in.killAndStart()
	}
	victim := agents[rand.IntN(len(agents))]
	if which == 1 {
		victim = in.last().pid
	}
	if which < 3 {
		_ = syscall.Kill(victim, syscall.SIGSTOP) // it may be gone
		pass(rand.N(4 * time.Second))
		_ = syscall.Kill(victim, syscall.SIGCONT)
		return nil
	}
	_ = syscall.Kill(victim, syscall.SIGKILL)
	return nil
}

// killAndStart kills the server that runs and starts the next.
func (in *installation) killAndStart() error {
	s := in.last()
	if err := s.send(syscall.SIGKILL); err != nil {
		return err
	}
	<-s.ended
	next, err := in.begin("")
	if err != nil {
		return err
	}
	return in.answers(next)
}
