//go:build linux

package survival_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
)

// TestAServerThatWasStoppedDeclaresNothingLost stops the server for longer than any silence it would tolerate of an
// agent. The silence was its own.
func TestAServerThatWasStoppedDeclaresNothingLost(t *testing.T) {
	t.Parallel()
	in := install(t, "DAYFLY_TIMEOUTS_LOST_AFTER=1s", "DAYFLY_TIMEOUTS_UNREACHABLE_AFTER=2s")
	s := in.start("")
	var jobs []*dayfly.Job
	k := task{lines: 250, exit: taskExit}
	for range 5 {
		jobs = append(jobs, in.submit(in.spec(k)))
	}
	short := task{lines: 50, exit: taskExit} // ends while the server stands still
	jobs = append(jobs, in.submit(in.spec(short)))
	for _, job := range jobs {
		in.running(job.ID)
	}
	s.signal(t, syscall.SIGSTOP)
	pass(3200 * time.Millisecond)
	s.signal(t, syscall.SIGCONT)
	for _, job := range jobs[:5] {
		in.checkTask(job.ID, k)
	}
	in.checkTask(jobs[5].ID, short)
	in.empty()
}

// TestAServerStopsSoonAndItsMachinesGoOn ends a busy server in the polite way and starts the next one.
func TestAServerStopsSoonAndItsMachinesGoOn(t *testing.T) {
	t.Parallel()
	in := install(t)
	s := in.start("")
	long, short := task{lines: 150, exit: taskExit}, task{lines: 10, exit: taskExit}
	var runs []*dayfly.Job
	for range 10 {
		runs = append(runs, in.submit(in.spec(long)))
	}
	for _, job := range runs {
		in.running(job.ID)
	}
	load := in.load(short, 4)
	eventually(t, patience, "the server is busy", func() error {
		if n := len(load.jobs()); n < 10 {
			return fmt.Errorf("%d jobs were acknowledged", n)
		}
		return nil
	})

	began := time.Now()
	s.signal(t, syscall.SIGTERM)
	status := s.wait(t, 10*time.Second)
	if took := time.Since(began); !status.Exited() || status.ExitStatus() != 0 {
		t.Errorf("after %v the server ended with %s, want exit status 0", took, describe(status))
	}
	for _, job := range runs {
		if run := in.entries("start", job.ID)[0]; len(in.entries("end", job.ID)) == 0 {
			if _, alive := lookAt(run.pid); !alive && len(in.entries("end", job.ID)) == 0 {
				t.Errorf("the command of job %s did not go on", job.ID)
			}
		}
	}
	eventually(t, patience, "a job ends while there is no server", func() error {
		if n := len(in.entries("end", runs[0].ID)); n == 0 {
			return fmt.Errorf("job %s still runs", runs[0].ID)
		}
		return nil
	})
	in.start("")
	load.end()
	for _, job := range runs {
		in.checkTask(job.ID, long)
	}
	for _, id := range load.jobs() {
		in.checkTask(id, short)
	}
	in.empty()
}

// TestNothingIsLeftRunningWhenTheServerHasStopped makes sure that agents, which outlive their server for the sake of
// their machines, end when they have none.
func TestNothingIsLeftRunningWhenTheServerHasStopped(t *testing.T) {
	t.Parallel()
	in := install(t)
	s := in.start("")
	k := task{lines: 5, exit: taskExit}
	in.checkTask(in.submit(in.spec(k)).ID, k)
	in.empty()
	s.signal(t, syscall.SIGTERM)
	s.wait(t, 10*time.Second)
	eventually(t, 90*time.Second, "no process is left", func() error {
		if left := below(in.nannies()...); len(left) > 0 {
			return fmt.Errorf("these are: %v", left)
		}
		return nil
	})
}

// TestASecondSignalEndsTheServerAtOnce is for the operator who has no patience; the jobs do not pay for it.
func TestASecondSignalEndsTheServerAtOnce(t *testing.T) {
	t.Parallel()
	in := install(t)
	// A provider that takes its time is what holds up a server that wants to end.
	s := in.start("provider.create.before=1*off->delay(8000)")
	k := task{lines: 60, exit: taskExit}
	job := in.submit(in.spec(k))
	in.running(job.ID)
	waits := in.submit(in.spec(k))
	in.reaches(waits.ID, func(job *dayfly.Job) bool { return job.State == dayfly.Starting })
	s.signal(t, syscall.SIGTERM)
	pass(200 * time.Millisecond)
	_ = s.send(syscall.SIGTERM) // it may have ended
	s.wait(t, 2*time.Second)
	in.start("")
	in.checkTask(job.ID, k)
	in.checkTask(waits.ID, k)
	in.empty()
}

// TestOutputIsWholeAfterTheServerWasAway kills the server while a command prints, and starts it when the command has
// ended.
func TestOutputIsWholeAfterTheServerWasAway(t *testing.T) {
	t.Parallel()
	const size = 3 << 20
	in := install(t)
	s := in.start("")
	spec := in.shell(ledgerLine("start") + `"$@"; ` + ledgerLine("end"))
	spec.Command = append(spec.Command, helper(t, "chatter", size)...)
	job := in.submit(spec)
	in.running(job.ID)
	follower := in.follow(job.ID)
	eventually(t, patience, "some output arrives", func() error {
		if n := follower.length(); n < size/20 {
			return fmt.Errorf("%d bytes so far", n)
		}
		return nil
	})
	s.kill(t)
	in.finished(job.ID)
	in.start("")
	in.check(job.ID, outcome{state: dayfly.Succeeded, attempts: 1})
	if got, want := in.printed(job.ID, 1, "stdout"), babble(size); !bytes.Equal(got, want) {
		t.Errorf("got %d bytes of output, want %d; they begin to differ at %d", len(got), len(want), difference(got, want))
	}
	if got, want := follower.wait(t), babble(size); !bytes.Equal(got, want) {
		t.Errorf("who followed the output saw %d bytes, want %d; they begin to differ at %d", len(got), len(want), difference(got, want))
	}
	in.empty()
}

// finished waits until the ledger says that a job's command has ended.
func (in *installation) finished(id string) {
	in.t.Helper()
	eventually(in.t, patience, "the command of job "+id+" ends", func() error {
		if len(in.entries("end", id)) == 0 {
			return fmt.Errorf("it has not; it began as %v", in.entries("start", id))
		}
		return nil
	})
}

func difference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// TestAServerThatHasMovedIsFound starts the server again at another address while a job runs.
func TestAServerThatHasMovedIsFound(t *testing.T) {
	t.Parallel()
	in := install(t)
	s := in.start("")
	k := task{lines: 50, exit: taskExit}
	job := in.submit(in.spec(k))
	in.running(job.ID)
	s.kill(t)
	in.at(strings.Replace(in.address, ":7700", ":7701", 1))
	in.start("")
	in.checkTask(job.ID, k)
	in.checkTask(in.submit(in.spec(k)).ID, k)
	in.empty()
}

// TestAServerThatIsBackCanCancel cancels jobs that have run without a server for a while.
func TestAServerThatIsBackCanCancel(t *testing.T) {
	t.Parallel()
	in := install(t)
	s := in.start("")
	spec, file := in.daemonizing(t)
	job := in.submit(spec)
	in.running(job.ID)
	daemon := in.pidIn(file)
	for range 3 { // the more often it starts, the more chances it has to start something twice
		s.kill(t)
		s = in.start("")
	}
	in.cancel(job.ID)
	ended := in.ended(job.ID)
	if ended.State != dayfly.Canceled {
		t.Errorf("got %s, want canceled: %s", ended.State, attemptsOf(ended))
	}
	in.checkAttempts(ended, 1)
	in.empty()
	in.gone(daemon)
}

// follower reads a job's output as it is written.
type follower struct {
	done chan struct{}
	mu   sync.Mutex
	data []byte
	err  error
}

func (in *installation) follow(id string) *follower {
	f := &follower{done: make(chan struct{})}
	go func() {
		defer close(f.done)
		for record, err := range in.client.Logs(in.t.Context(), id, &dayfly.LogOptions{Follow: true, Stream: "stdout"}) {
			f.mu.Lock()
			f.data, f.err = append(f.data, record.Data...), err
			f.mu.Unlock()
		}
	}()
	return f
}

func (f *follower) length() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.data)
}

func (f *follower) wait(t *testing.T) []byte {
	t.Helper()
	select {
	case <-f.done:
	case <-time.After(patience):
		t.Fatalf("following the output did not end; %d bytes so far", f.length())
	}
	if f.err != nil {
		t.Errorf("following the output ended with %v", f.err)
	}
	return f.data
}

// load is a number of clients that submit tasks without a pause.
type load struct {
	stop    chan struct{}
	clients sync.WaitGroup
	mu      sync.Mutex
	ids     []string // of acknowledged jobs
}

// load begins to submit tasks, with so many clients. They go on through the server's absences until end is called.
func (in *installation) load(k task, clients int) *load {
	l := &load{stop: make(chan struct{})}
	for range clients {
		l.clients.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
				job, err := in.client.Submit(in.t.Context(), in.spec(k), nil)
				if err != nil {
					in.t.Errorf("submit: %v", err)
					return
				}
				l.mu.Lock()
				l.ids = append(l.ids, job.ID)
				l.mu.Unlock()
			}
		})
	}
	return l
}

func (l *load) end() {
	close(l.stop)
	l.clients.Wait()
}

// jobs returns the ids of the jobs that have been acknowledged so far.
func (l *load) jobs() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.ids...)
}
