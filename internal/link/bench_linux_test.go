package link_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/link"
)

// placements are where the two processes of a measurement run, since waking another processor costs more than
// everything else that is measured.
type placement struct {
	name          string
	parent, other int
}

func placements() []placement {
	return []placement{{"unpinned", -1, -1}, {"one-cpu", 0, 0}, {"two-cpus", 0, 1}}
}

// BenchmarkEcho measures a frame of 64 bytes there and back, beside a bare echo of as many bytes.
func BenchmarkEcho(b *testing.B) {
	for _, p := range placements() {
		for _, kind := range []string{"tcp", "unix"} {
			b.Run(fmt.Sprintf("bare-%s/%s", kind, p.name), func(b *testing.B) { bareEcho(b, kind, p, 64) })
		}
		for name, way := range ways() {
			b.Run(fmt.Sprintf("link-%s/%s", name, p.name), func(b *testing.B) { linkEcho(b, way, p, 64, 1) })
		}
	}
}

// BenchmarkLargeEcho measures a MiB there and back.
func BenchmarkLargeEcho(b *testing.B) {
	for _, p := range placements() {
		b.Run("bare-unix/"+p.name, func(b *testing.B) { bareEcho(b, "unix", p, 1<<20) })
		for name, way := range ways() {
			b.Run(fmt.Sprintf("link-%s/%s", name, p.name), func(b *testing.B) { linkEcho(b, way, p, 1<<20, 1) })
		}
	}
}

// BenchmarkPieces measures a MiB there in pieces of several sizes, put together there, and a byte back.
func BenchmarkPieces(b *testing.B) {
	for _, size := range []int{16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			guest, i := expect(b, newHome(b, nil), "r", "unix:")
			start(b, -1, "collector", i.Encode())
			parent, err := guest.Wait(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			back := make(chan struct{}, 1)
			go func() { _ = parent.Serve(func([]byte) { back <- struct{}{} }) }()
			message := make([]byte, 1<<20)
			measure(b, 100, timed(func() {
				for at := 0; at < len(message); at += size {
					if err := parent.Send(context.Background(), message[at:at+size]); err != nil {
						b.Fatal(err)
					}
				}
				<-back
			}))
		})
	}
}

// BenchmarkCrowd measures frames of 64 bytes there and back when 64 senders wait for their own.
func BenchmarkCrowd(b *testing.B) {
	for _, p := range placements() {
		for name, way := range ways() {
			b.Run(fmt.Sprintf("link-%s/%s", name, p.name), func(b *testing.B) { linkEcho(b, way, p, 64, 64) })
		}
	}
}

func bareEcho(b *testing.B, kind string, p placement, size int) {
	address := "127.0.0.1:0"
	if kind == "unix" {
		address = filepath.Join(b.TempDir(), "echo")
	}
	pin(p.parent)
	defer pin(-1)
	_, address = start(b, p.other, kind, address)
	conn, err := net.Dial(kind, address)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	message, back := make([]byte, size), make([]byte, size)
	measure(b, 100, timed(func() {
		if size > 64<<10 { // more than sockets hold
			go func() { _, _ = conn.Write(message) }()
		} else if _, err := conn.Write(message); err != nil {
			b.Fatal(err)
		}
		for n := 0; n < size; {
			m, err := conn.Read(back)
			if err != nil {
				b.Fatal(err)
			}
			n += m
		}
	}))
}

func linkEcho(b *testing.B, way string, p placement, size, senders int) {
	guest, i := expect(b, newHome(b, nil), "r", way)
	pin(p.parent)
	defer pin(-1)
	start(b, p.other, "runner", i.Encode())
	parent, err := guest.Wait(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	// Each sender has a channel of its own, and a frame says whose it is.
	back := make([]chan struct{}, senders)
	for i := range back {
		back[i] = make(chan struct{}, 1)
	}
	go func() { _ = parent.Serve(func(frame []byte) { back[frame[0]] <- struct{}{} }) }()
	round := func(sender int, message []byte) {
		if err := parent.Send(context.Background(), message); err != nil {
			b.Error(err)
		}
		<-back[sender]
	}
	if senders == 1 {
		message := make([]byte, size)
		measure(b, 100, timed(func() { round(0, message) }))
		return
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	done := make(chan struct{})
	for sender := range senders {
		go func() {
			message := make([]byte, size)
			message[0] = byte(sender)
			for left.Add(-1) >= 0 {
				round(sender, message)
			}
			done <- struct{}{}
		}()
	}
	for range senders {
		<-done
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rounds/s")
}

// BenchmarkIdle measures the parent's memory for each idle link, of which there are 1,000.
func BenchmarkIdle(b *testing.B) {
	for name, way := range ways() {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				before := resident(b)
				home := newHome(b, nil)
				const many = 1000
				guests := make([]*link.Guest, many)
				crowd, _ := start(b, -1, "crowd", "")
				for n := range guests {
					guest, i := expect(b, home, fmt.Sprint(n), way)
					guests[n] = guest
					if _, err := fmt.Fprintln(crowd.in, i.Encode()); err != nil {
						b.Fatal(err)
					}
					l, err := guest.Wait(b.Context())
					if err != nil {
						b.Fatal(err)
					}
					go func() { _ = l.Serve(func([]byte) {}) }()
					if err := l.Send(b.Context(), make([]byte, 100)); err != nil {
						b.Fatal(err)
					}
				}
				debug.FreeOSMemory()
				b.ReportMetric((resident(b)-before)*1000/many, "KiB/link")
				runtime.KeepAlive(guests)
			}
		})
	}
}

// resident returns how many MiB of memory this process has.
func resident(b *testing.B) float64 {
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	var total, pages float64
	if _, err2 := fmt.Sscan(string(text), &total, &pages); err != nil || err2 != nil {
		b.Fatal(err, err2)
	}
	return pages * float64(os.Getpagesize()) / (1 << 20)
}

// BenchmarkDeath measures how long after its runner was killed the parent knows, and how long after the parent was
// killed its runner has ended.
func BenchmarkDeath(b *testing.B) {
	b.Run("runner-killed", func(b *testing.B) {
		home := newHome(b, nil)
		measure(b, 0, func() time.Duration {
			guest, i := expect(b, home, "r"+strconv.Itoa(rand.Int()), "unix:")
			runner, _ := start(b, -1, "runner", i.Encode())
			parent, err := guest.Wait(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			go func() { _ = parent.Serve(func([]byte) {}) }()
			began := time.Now()
			if err := runner.Process.Kill(); err != nil {
				b.Fatal(err)
			}
			<-parent.Done()
			return time.Since(began)
		})
	})
	for name, way := range ways() {
		b.Run("parent-killed-"+name, func(b *testing.B) {
			measure(b, 0, func() time.Duration {
				parent, invitation := start(b, -1, "parent", fmt.Sprint(b.TempDir(), "/home 15s ", way))
				runner, _ := start(b, -1, "runner", invitation)
				began := time.Now()
				if err := parent.Process.Kill(); err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, runner.said) // until it has ended
				return time.Since(began)
			})
		})
	}
}

// timed returns a function that measures another.
func timed(do func()) func() time.Duration {
	return func() time.Duration {
		began := time.Now()
		do()
		return time.Since(began)
	}
}

// measure lets what is to be measured say b.N times how long it took, and reports the distribution.
func measure(b *testing.B, warmups int, do func() time.Duration) {
	for range warmups {
		do()
	}
	took := make([]time.Duration, b.N)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range took {
		took[i] = do()
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/10].Nanoseconds())/1e3, "p10-µs")
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
}
