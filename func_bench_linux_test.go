package dayfly_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
)

// The benchmarks measure between two processes, and beside the figures of a call that of a bare TCP connection between two
// processes: where they run decides more than what they do, so only the ratio says something. "taskset -c 0" puts both on
// one processor.

var (
	nothing = dayfly.Func("test/nothing", func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil })
	size    = dayfly.Func("test/size", func(_ context.Context, b []byte) (int, error) { return len(b), nil })
	echo    = dayfly.Func("test/echo", func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	record  = dayfly.Func("test/record", func(_ context.Context, r identity) (identity, error) { return r, nil })
)

// echoServer answers each 64 bytes with the same, in a process of its own.
func echoServer() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		os.Exit(1)
	}
	os.Stdout.WriteString(l.Addr().String() + "\n")
	c, err := l.Accept()
	if err != nil {
		os.Exit(1)
	}
	buf := make([]byte, 64)
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			os.Exit(0)
		}
		if _, err := c.Write(buf); err != nil {
			os.Exit(0)
		}
	}
}

// percentiles reports how long single operations took.
func percentiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "p99-µs")
}

func BenchmarkTCPEcho(b *testing.B) {
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_ECHO=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	address := make([]byte, 64)
	n, err := out.Read(address)
	if err != nil {
		b.Fatal(err)
	}
	c, err := net.Dial("tcp", strings.TrimSpace(string(address[:n])))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 64)
	took := make([]time.Duration, 0, 1<<20)
	for b.Loop() {
		began := time.Now()
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	c.Close()
	_ = cmd.Wait()
	percentiles(b, took)
}

func benchPool(b *testing.B, o dayfly.PoolOptions) *dayfly.Pool {
	b.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	p, err := dayfly.NewPool(dayfly.Local(), &o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	return p
}

func benchCall[A, R any](b *testing.B, f *dayfly.Function[A, R], a A) {
	p := benchPool(b, dayfly.PoolOptions{Max: 1})
	ctx := context.Background()
	if _, err := f.Call(ctx, p, a); err != nil {
		b.Fatal(err)
	}
	took := make([]time.Duration, 0, 1<<20)
	b.ReportAllocs()
	for b.Loop() {
		began := time.Now()
		if _, err := f.Call(ctx, p, a); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	percentiles(b, took)
}

func BenchmarkCallNothing(b *testing.B) { benchCall(b, nothing, struct{}{}) }
func BenchmarkCallStruct(b *testing.B)  { benchCall(b, record, identity{PID: 1, Invitation: "abc"}) }
func BenchmarkCallMiB(b *testing.B)     { benchCall(b, size, make([]byte, 1<<20)) }
func BenchmarkCallMiBEcho(b *testing.B) { benchCall(b, echo, make([]byte, 1<<20)) }

// processorTime is what this process and the pool's runners have used of processors. Unlike the time that passes it says
// something on a busy computer, too.
func processorTime(b *testing.B, p *dayfly.Pool) time.Duration {
	b.Helper()
	total := time.Duration(0)
	for _, pid := range append(children(b, p.Name()), os.Getpid()) {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			b.Fatal(err)
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')'):]))
		for _, field := range fields[12:14] { // utime and stime, in hundredths of a second
			n, err := strconv.Atoi(field)
			if err != nil {
				b.Fatal(err)
			}
			total += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return total
}

// Sixty-four callers at once.
func BenchmarkCalls64(b *testing.B) {
	for name, o := range map[string]dayfly.PoolOptions{"one": {Name: "bench-one", Max: 1}, "four": {Name: "bench-four", Min: 4, Max: 4}} {
		b.Run(name, func(b *testing.B) {
			p := benchPool(b, o)
			ctx := context.Background()
			if _, err := nothing.Call(ctx, p, struct{}{}); err != nil {
				b.Fatal(err)
			}
			for p.Stats().Up < o.Min {
				<-time.After(time.Millisecond)
			}
			var failed atomic.Int64
			b.SetParallelism(64 / runtime.GOMAXPROCS(0))
			used := processorTime(b, p)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := nothing.Call(ctx, p, struct{}{}); err != nil {
						failed.Add(1)
					}
				}
			})
			if n := failed.Load(); n > 0 {
				b.Errorf("%d calls failed", n)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
			b.ReportMetric(float64((processorTime(b, p)-used).Microseconds())/float64(b.N), "cpu-µs/call")
		})
	}
}

// From no runner at all to a result.
func BenchmarkCallCold(b *testing.B) {
	p := benchPool(b, dayfly.PoolOptions{SingleUse: true, Max: 4})
	var took []time.Duration
	for b.Loop() {
		for p.Stats().Up+p.Stats().Stopping > 0 {
			<-time.After(time.Millisecond)
		}
		began := time.Now()
		if _, err := nothing.Call(context.Background(), p, struct{}{}); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	percentiles(b, took)
}
