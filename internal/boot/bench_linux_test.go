package boot_test

import (
	"context"
	"syscall"
	"testing"

	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/machine"
)

// BenchmarkBoot is the way from a name to an answer of a runner on this computer and back to nothing: with a supervisor that
// runs already, and with one that has to be started first.
func BenchmarkBoot(b *testing.B) {
	hello, err := link.ThisProcess()
	if err != nil {
		b.Fatal(err)
	}
	once := func(b *testing.B, booter *boot.Booter) {
		r, err := booter.Boot(b.Context(), fresh())
		if err != nil {
			b.Fatal(err)
		}
		echoed := make(chan bool, 1)
		go func() { _ = r.Link().Serve(func([]byte) { echoed <- true }) }()
		if err := r.Link().Send(b.Context(), []byte("hello")); err != nil {
			b.Fatal(err)
		}
		<-echoed
		b.StopTimer()
		if err := r.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	begin := func(b *testing.B) (*boot.Booter, func()) {
		p, err := boot.LocalIn([]string{b.TempDir()}, nil)
		if err != nil {
			b.Fatal(err)
		}
		booter, err := boot.New(p, "bench", hello, &boot.Options{Spec: machine.Spec{Env: map[string]string{roleVariable: "runner"}}})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		over := make(chan error, 1)
		go func() { over <- booter.Run(ctx) }()
		return booter, func() {
			cancel()
			<-over
			if err := p.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("supervisor=running", func(b *testing.B) {
		booter, end := begin(b)
		defer end()
		for b.Loop() {
			once(b, booter)
		}
	})
	b.Run("supervisor=none", func(b *testing.B) {
		for b.Loop() {
			booter, end := begin(b)
			once(b, booter)
			b.StopTimer()
			end()
			b.StartTimer()
		}
	})
}

// BenchmarkLoss is how long it takes from the death of a runner on this computer until it is known how it ended.
func BenchmarkLoss(b *testing.B) {
	hello, err := link.ThisProcess()
	if err != nil {
		b.Fatal(err)
	}
	p, err := boot.LocalIn([]string{b.TempDir()}, nil)
	if err != nil {
		b.Fatal(err)
	}
	booter, err := boot.New(p, "bench", hello, &boot.Options{Spec: machine.Spec{Env: map[string]string{roleVariable: "runner"}}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	over := make(chan error, 1)
	go func() { over <- booter.Run(ctx) }()
	for b.Loop() {
		b.StopTimer()
		r, err := booter.Boot(b.Context(), fresh())
		if err != nil {
			b.Fatal(err)
		}
		go func() { _ = r.Link().Serve(func([]byte) {}) }()
		b.StartTimer()
		if err := syscall.Kill(r.Link().Peer().PID, syscall.SIGKILL); err != nil {
			b.Fatal(err)
		}
		<-r.Done()
		b.StopTimer()
		if err := r.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	cancel()
	<-over
	if err := p.Close(); err != nil {
		b.Fatal(err)
	}
}
