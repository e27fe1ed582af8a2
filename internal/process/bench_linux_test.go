package process_test

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

// BenchmarkMachine compares a whole group, made, run and removed, with a bare fork, exec and wait of the same program
// at the same parallelism. The difference is what supervision costs.
func BenchmarkMachine(b *testing.B) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	b.Run("bare", func(b *testing.B) {
		measure(b, func(int64) error {
			fd := null.Fd()
			pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{Files: []uintptr{fd, fd, fd}, Env: environment()})
			if err != nil {
				return err
			}
			_, err = syscall.Wait4(pid, nil, 0, nil)
			return err
		})
	})
	b.Run("group", func(b *testing.B) {
		host, err := process.NewHost(&process.Options{Prefix: "dayfly-bench"})
		if err != nil {
			b.Fatal(err)
		}
		defer host.Close()
		b.Logf("kill by %s", host.Abilities().Kill)
		dir := b.TempDir()
		measure(b, func(n int64) error {
			group, err := host.Group(fmt.Sprintf("m%d", n), machine.Size{})
			if err != nil {
				return err
			}
			p, err := group.Start(&process.Command{Argv: []string{"true"}, Env: environment(), Dir: dir})
			if err != nil {
				return err
			}
			if exit, _ := p.Exit(); !exit.OK() {
				return fmt.Errorf("got %+v, want success", exit)
			}
			return group.Close()
		})
	})
}

// measure runs one from 16 goroutines and reports the processor time that it takes: in this process, and in the programs
// that are run.
func measure(b *testing.B, one func(n int64) error) {
	var count atomic.Int64
	self, programs := processorTime(syscall.RUSAGE_SELF), processorTime(syscall.RUSAGE_CHILDREN)
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := one(count.Add(1)); err != nil {
				b.Error(err)
				return
			}
		}
	})
	self, programs = processorTime(syscall.RUSAGE_SELF)-self, processorTime(syscall.RUSAGE_CHILDREN)-programs
	b.ReportMetric(float64(self)/1000/float64(b.N), "self-µs/op")
	b.ReportMetric(float64(programs)/1000/float64(b.N), "programs-µs/op")
	b.ReportMetric(float64(self+programs)/1000/float64(b.N), "cpu-µs/op")
}

func processorTime(who int) (nanoseconds int64) {
	var u syscall.Rusage
	_ = syscall.Getrusage(who, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}

func environment() []string { return []string{"PATH=/usr/bin:/bin"} }
