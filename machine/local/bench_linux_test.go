package local_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
)

// BenchmarkMachine compares the whole life of a machine, asked for over the socket, run, watched to its end and
// destroyed, with a bare fork, exec and wait of the same program at the same parallelism.
func BenchmarkMachine(b *testing.B) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	b.Run("bare", func(b *testing.B) {
		inParallel(b, 0, func(int64) error {
			fd := null.Fd()
			pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{Files: []uintptr{fd, fd, fd}, Env: []string{"PATH=/bin"}})
			if err != nil {
				return err
			}
			_, err = syscall.Wait4(pid, nil, 0, nil)
			return err
		})
	})
	b.Run("command", func(b *testing.B) {
		benchmarkMachines(b, func(name string) *machine.Spec {
			return &machine.Spec{Name: name, Owner: "bench", Lifetime: time.Minute, Command: []string{"/bin/true"}}
		})
	})
	b.Run("agent", func(b *testing.B) {
		benchmarkMachines(b, func(name string) *machine.Spec {
			return &machine.Spec{Name: name, Owner: "bench", Lifetime: time.Minute, Agent: &machine.Agent{URL: "http://127.0.0.1:1", Attempt: "true", Token: "t"}}
		})
	})
}

func benchmarkMachines(b *testing.B, spec func(name string) *machine.Spec) {
	dir := b.TempDir()
	p, err := local.New(local.Options{Dir: dir, Supervisor: []string{os.Args[0], "supervise"}})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	ends := watchEnds(b, p)
	// The first machine starts the supervisor.
	if err := ends.live(p, spec("first")); err != nil {
		b.Fatal(err)
	}
	var info int
	if _, err := fmt.Sscanf(readFile(b, dir+"/supervisors/1/info.json"), `{"pid":%d`, &info); err != nil {
		b.Fatal(err)
	}
	defer syscall.Kill(info, syscall.SIGTERM)
	inParallel(b, info, func(n int64) error { return ends.live(p, spec(fmt.Sprintf("m%d", n))) })
}

// ends tells who waits for a machine that it has ended.
type ends struct {
	mu      sync.Mutex
	waiting map[string]chan *machine.Machine
}

// watchEnds follows all machines until the benchmark ends.
func watchEnds(b *testing.B, p *local.Provider) *ends {
	e := &ends{waiting: map[string]chan *machine.Machine{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m, err := range p.Watch(ctx, "bench") {
			if err != nil {
				b.Error(err)
				return
			}
			if m.State == machine.Exited {
				e.tell(m)
			}
		}
	}()
	b.Cleanup(func() {
		cancel()
		<-done
	})
	return e
}

// of returns where the end of a machine will be told.
func (e *ends) of(name string) chan *machine.Machine {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.waiting[name] == nil {
		e.waiting[name] = make(chan *machine.Machine, 1)
	}
	return e.waiting[name]
}

func (e *ends) tell(m *machine.Machine) {
	select {
	case e.of(m.Name) <- m:
	default:
	}
}

// live is one machine's life as an engine sees it.
func (e *ends) live(p *local.Provider, spec *machine.Spec) error {
	ctx := context.Background()
	m, err := p.Create(ctx, spec)
	if err != nil {
		return err
	}
	if m.State != machine.Exited {
		m = <-e.of(spec.Name)
	}
	if !m.Exit.OK() {
		return fmt.Errorf("got %+v, want success", m.Exit)
	}
	e.mu.Lock()
	delete(e.waiting, spec.Name)
	e.mu.Unlock()
	return p.Destroy(ctx, m.ID)
}

func readFile(b *testing.B, file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	return string(text)
}

// inParallel runs one from 16 goroutines and reports the processor time that it takes: in this process, in the
// supervisor, and in the programs that are run.
func inParallel(b *testing.B, supervisor int, one func(n int64) error) {
	var count atomic.Int64
	before := processorTimes(b, supervisor)
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := one(count.Add(1)); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	total := time.Duration(0)
	for part, after := range processorTimes(b, supervisor) {
		b.ReportMetric(float64((after-before[part]).Microseconds())/float64(b.N), part+"-µs/op")
		total += after - before[part]
	}
	b.ReportMetric(float64(total.Microseconds())/float64(b.N), "cpu-µs/op")
}

// processorTimes adds up what /proc tells, in hundredths of a second.
func processorTimes(b *testing.B, supervisor int) map[string]time.Duration {
	times := map[string]time.Duration{}
	for part, pid := range map[string]int{"self": os.Getpid(), "supervisor": supervisor} {
		if pid == 0 {
			continue
		}
		var skip string
		var user, system, usersOfChildren, systemOfChildren int64
		fields := []any{&skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip}
		fields = append(fields, &user, &system, &usersOfChildren, &systemOfChildren)
		if _, err := fmt.Sscan(readFile(b, fmt.Sprintf("/proc/%d/stat", pid)), fields...); err != nil {
			b.Fatal(err)
		}
		times[part] += time.Duration(user+system) * 10 * time.Millisecond
		times["programs"] += time.Duration(usersOfChildren+systemOfChildren) * 10 * time.Millisecond
	}
	return times
}
