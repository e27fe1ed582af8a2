//go:build linux

package survival_test

import (
	"fmt"
	"math/rand/v2"
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

// killAndStart kills the server that runs and starts the next.
func (in *installation) killAndStart() error {
	s := in.last()
	if err := syscall.Kill(s.pid, syscall.SIGKILL); err != nil {
		return err
	}
	<-s.ended
	next, err := in.begin("")
	if err != nil {
		return err
	}
	return in.answers(next)
}
