package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
)

// request is a job of an ordinary kind.
func request(n int64) *store.Submission {
	now := time.Now()
	return &store.Submission{Job: &store.Job{
		ID:    fmt.Sprintf("job_%026d", n),
		State: dayfly.Queued, Provider: "local", Queue: "default",
		CreatedAt: now, StartedAt: now, QueuedAt: now,
		Spec: dayfly.JobSpec{
			Name: "convert", Command: []string{"ffmpeg", "-i", "in.wav", "out.mp3"}, Provider: "local", Queue: "default",
			Env:      map[string]string{"LANG": "C.UTF-8"},
			Size:     "shared-cpu-1x",
			Timeouts: dayfly.Timeouts{Boot: dayfly.Duration(5 * time.Minute), Run: dayfly.Duration(time.Hour), Grace: dayfly.Duration(10 * time.Second)},
			Retry:    dayfly.Retry{MaxAttempts: 1, MaxLaunches: 5, BackoffMin: dayfly.Duration(time.Second), BackoffMax: dayfly.Duration(5 * time.Minute)},
		},
	}}
}

// cpu is the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func open(tb testing.TB) *sqlite.Store {
	s, err := sqlite.Open(context.Background(), tb.TempDir()+"/store.db", nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// inParallel calls work b.N times from so many goroutines.
func inParallel(b *testing.B, goroutines int, work func() error) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	used := cpu()
	b.ResetTimer()
	for range goroutines {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if err := work(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	b.ReportMetric(float64((cpu()-used).Microseconds())/float64(b.N), "cpu-µs/job")
}

func BenchmarkSubmit(b *testing.B) {
	for _, callers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := open(b)
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

// life takes jobs of the lane through their lives, 32 at a time.
func life(b *testing.B, s *sqlite.Store, lives int, n *atomic.Int64) {
	ctx := context.Background()
	const batch = 32
	var all sync.WaitGroup
	each := func(jobs []*store.Job, work func(int) error) {
		for i := range jobs {
			all.Go(func() {
				if err := work(i); err != nil {
					b.Error(err)
				}
			})
		}
		all.Wait()
	}
	for done := 0; done < lives; done += batch {
		jobs := make([]*store.Job, min(batch, lives-done))
		each(jobs, func(i int) (err error) {
			jobs[i], _, err = s.Submit(ctx, request(n.Add(1)))
			return err
		})
		now := time.Now()
		var launches []*store.Launch
		for _, j := range jobs {
			launches = append(launches, &store.Launch{JobID: j.ID, Version: j.Version, AttemptID: "att" + j.ID, Machine: "dayfly-abcdef-" + j.ID,
				Provider: "local", Lifetime: time.Hour, Time: now, QueueLimit: 1000})
		}
		refusals, err := s.Launch(ctx, launches)
		for _, r := range refusals {
			if err == nil {
				err = r
			}
		}
		if err != nil {
			b.Fatal(err)
		}
		each(jobs, func(i int) error {
			j, a, err := s.Claim(ctx, &store.Claim{Attempt: launches[i].AttemptID, By: "x/y", Time: now})
			if err != nil {
				return err
			}
			_, err = s.End(ctx, &store.Ending{Attempt: a.ID, Fence: a.Fence, JobVersion: j.Version, State: dayfly.AttemptSucceeded,
				Time: now, Started: true, Job: store.Next{State: dayfly.Succeeded, Starts: 1}})
			if err != nil {
				return err
			}
			return s.MoveMachine(ctx, []*store.MachineMove{{Name: launches[i].Machine, From: []store.MachineState{store.MachineDeleting}, To: store.MachineGone, Time: now}})
		})
	}
}

func BenchmarkLife(b *testing.B) {
	s := open(b)
	var n atomic.Int64
	used := cpu()
	b.ResetTimer()
	life(b, s, b.N, &n)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	b.ReportMetric(float64((cpu()-used).Microseconds())/float64(b.N), "cpu-µs/job")
}
