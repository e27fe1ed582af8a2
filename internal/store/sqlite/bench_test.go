package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// cpu is the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// inParallel calls work b.N times from so many goroutines and reports how it went.
func inParallel(b *testing.B, goroutines int, work func() error) {
	var left atomic.Int64
	left.Store(int64(b.N))
	took := make([][]time.Duration, goroutines)
	var all sync.WaitGroup
	used := cpu()
	b.ResetTimer()
	for i := range goroutines {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				start := time.Now()
				if err := work(); err != nil {
					b.Error(err)
					return
				}
				took[i] = append(took[i], time.Since(start))
			}
		})
	}
	all.Wait()
	b.StopTimer()
	report(b, used)
	calls := slices.Concat(took...)
	slices.Sort(calls)
	b.ReportMetric(float64(calls[len(calls)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(calls[len(calls)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(calls[len(calls)-1].Microseconds()), "max-µs")
}

// report reports the rate and the processor time per job, given the processor time used before.
func report(b *testing.B, used time.Duration) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	b.ReportMetric(float64((cpu()-used).Microseconds())/float64(b.N), "cpu-µs/job")
	b.ReportMetric(0, "ns/op")
}

func BenchmarkSubmit(b *testing.B) {
	for _, callers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := open(b, b.TempDir()+"/store.db", nil)
			var n atomic.Int64
			inParallel(b, callers, func() error {
				_, _, err := s.Submit(context.Background(), request(n.Add(1)))
				return err
			})
		})
	}
	b.Run("baseline-one-transaction-each/callers=64", func(b *testing.B) {
		db, err := sql.Open("sqlite", "file:"+b.TempDir()+"/plain.db?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
		if err != nil {
			b.Fatal(err)
		}
		defer db.Close()
		db.SetMaxOpenConns(1)
		if _, err := db.Exec(`CREATE TABLE jobs (seq INTEGER PRIMARY KEY, id TEXT UNIQUE, state TEXT, queue TEXT, spec TEXT)`); err != nil {
			b.Fatal(err)
		}
		var n atomic.Int64
		inParallel(b, 64, func() error {
			_, err := db.Exec(`INSERT INTO jobs (id, state, queue, spec) VALUES ($1, 'queued', 'default', $2)`,
				fmt.Sprintf("job_%026d", n.Add(1)), `{"command":["ffmpeg","-i","in.wav","out.mp3"]}`)
			return err
		})
	})
}

// crew is a number of goroutines that work together, as connections of a server do.
type crew struct{ tasks chan func() }

func newCrew(tb testing.TB, n int) *crew {
	c := &crew{tasks: make(chan func())}
	for range n {
		go func() {
			for task := range c.tasks {
				task()
			}
		}()
	}
	tb.Cleanup(func() { close(c.tasks) })
	return c
}

// each calls work with 0 to n-1 and waits for all of them.
func (c *crew) each(tb testing.TB, n int, work func(int) error) {
	tb.Helper()
	var all sync.WaitGroup
	all.Add(n)
	for i := range n {
		c.tasks <- func() {
			defer all.Done()
			if err := work(i); err != nil {
				tb.Error(err)
			}
		}
	}
	all.Wait()
}

// How many jobs go through their lives at a time in the benchmark, and how many are launched by one call.
const (
	inFlight    = 128
	launchBatch = 32
)

// life takes up to inFlight new jobs of a lane from submission to the end of their machines.
func life(tb testing.TB, c *crew, s *sqlite.Store, n int, next *atomic.Int64, queue string) {
	tb.Helper()
	ctx := context.Background()
	jobs := make([]*store.Job, n)
	c.each(tb, n, func(i int) (err error) {
		r := request(next.Add(1))
		r.Job.Queue = queue
		jobs[i], _, err = s.Submit(ctx, r)
		return err
	})
	now := time.Now()
	launches := make([]*store.Launch, n)
	for i, j := range jobs {
		launches[i] = &store.Launch{JobID: j.ID, Version: j.Version, AttemptID: "att" + j.ID[3:], Machine: "dayfly-abcdef-" + j.ID[4:],
			Provider: "local", Lifetime: time.Hour, Time: now, QueueLimit: 1000}
	}
	c.each(tb, (n+launchBatch-1)/launchBatch, func(i int) error {
		refusals, err := s.Launch(ctx, launches[i*launchBatch:min(n, (i+1)*launchBatch)])
		return errors.Join(append(refusals, err)...)
	})
	c.each(tb, n, func(i int) error {
		j, a, err := s.Claim(ctx, &store.Claim{Attempt: launches[i].AttemptID, By: launches[i].Machine + "/nonce", Time: now})
		if err != nil {
			return err
		}
		_, err = s.End(ctx, &store.Ending{
			Attempt: a.ID, Fence: a.Fence, JobVersion: j.Version, State: dayfly.AttemptSucceeded, Time: now, Started: true,
			Exit:   &machine.Exit{},
			Result: &wire.Result{StdoutBytes: 100, RunMS: 20, FetchMS: 1, FinishMS: 1, MaxRSSKB: 4096, UserMS: 10, SystemMS: 2},
			Job:    store.Next{State: dayfly.Succeeded, Starts: 1},
		})
		if err != nil {
			return err
		}
		return s.MoveMachine(ctx, []*store.MachineMove{{Name: launches[i].Machine,
			From: []store.MachineState{store.MachineDeleting}, To: store.MachineGone, Time: now}})
	})
}

func BenchmarkLife(b *testing.B) {
	s := open(b, b.TempDir()+"/store.db", nil)
	c := newCrew(b, inFlight)
	var next atomic.Int64
	used := cpu()
	b.ResetTimer()
	for done := 0; done < b.N; done += inFlight {
		life(b, c, s, min(inFlight, b.N-done), &next, "default")
	}
	b.StopTimer()
	report(b, used)
}

// backlog returns a store with so many jobs queued.
func backlog(b *testing.B, c *crew, jobs int, next *atomic.Int64, queue string) *sqlite.Store {
	b.Helper()
	s := open(b, b.TempDir()+"/store.db", nil)
	for done := 0; done < jobs; done += inFlight {
		c.each(b, min(inFlight, jobs-done), func(int) error {
			r := request(next.Add(1))
			r.Job.Queue = queue
			_, _, err := s.Submit(context.Background(), r)
			return err
		})
	}
	return s
}

// BenchmarkBacklog takes jobs through their lives beside a short and beside a long backlog of others, in turns, so that
// whatever else the machine does falls on both. The rate beside the long one should be that beside the short one.
func BenchmarkBacklog(b *testing.B) {
	c := newCrew(b, inFlight)
	var next atomic.Int64
	stores := []*sqlite.Store{backlog(b, c, 1000, &next, "waiting"), backlog(b, c, 100_000, &next, "waiting")}
	b.ReportMetric(residentMiB(b), "RSS-MiB")
	used := make([]time.Duration, 2)
	took := make([]time.Duration, 2)
	b.ResetTimer()
	for done := 0; done < b.N; done += inFlight {
		for i, s := range stores {
			start, before := time.Now(), cpu()
			life(b, c, s, min(inFlight, b.N-done), &next, "default")
			took[i] += time.Since(start)
			used[i] += cpu() - before
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(used[0].Microseconds())/float64(b.N), "cpu-µs/job@1k")
	b.ReportMetric(float64(used[1].Microseconds())/float64(b.N), "cpu-µs/job@100k")
	b.ReportMetric(took[0].Seconds()/took[1].Seconds(), "rate@100k/rate@1k")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkDispatch reads the first jobs of a lane with a backlog, as the dispatcher does.
func BenchmarkDispatch(b *testing.B) {
	for _, jobs := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("queued=%d", jobs), func(b *testing.B) {
			c := newCrew(b, inFlight)
			s := backlog(b, c, jobs, new(atomic.Int64), "default")
			b.ResetTimer()
			for range b.N {
				lanes, err := s.Lanes(context.Background())
				if err != nil || len(lanes) != 1 {
					b.Fatalf("got %d lanes and error %v, want 1", len(lanes), err)
				}
				if ready, err := s.Ready(context.Background(), lanes[0], nil, launchBatch); err != nil || len(ready) != launchBatch {
					b.Fatalf("got %d jobs and error %v, want %d", len(ready), err, launchBatch)
				}
				if _, err := s.Counts(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// residentMiB is how much memory this process occupies.
func residentMiB(b *testing.B) float64 {
	b.Helper()
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var total, resident float64
	if _, err := fmt.Sscan(string(text), &total, &resident); err != nil {
		b.Fatal(err)
	}
	return resident * float64(os.Getpagesize()) / (1 << 20)
}
