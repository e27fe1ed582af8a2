package call_test

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/call"
	"github.com/dayfly-run/dayfly/internal/link"
)

// joinLinked is join over a real link of the given kind.
func joinLinked(t testing.TB, way string) *joined {
	t.Helper()
	hello := link.Hello{Build: "test"}
	home, err := link.NewHome(hello, &link.HomeOptions{Dir: t.TempDir() + "/home", Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		if err := home.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-over
	})
	guest, err := home.Expect("runner")
	if err != nil {
		t.Fatal(err)
	}
	i := guest.Invitation()
	var addresses []string
	for _, a := range i.Addresses {
		if strings.HasPrefix(a, way) {
			addresses = append(addresses, a)
		}
	}
	i.Addresses = addresses
	dialing, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	runner, err := link.Dial(dialing, &i, hello)
	if err != nil {
		t.Fatal(err)
	}
	parent, err := guest.Wait(dialing)
	if err != nil {
		t.Fatal(err)
	}
	j := &joined{logs: call.NewLogs(), registry: &call.Registry{}, served: make(chan error, 1), ended: make(chan error, 1)}
	j.server = call.NewServer(j.registry, runner, j.logs)
	go func() { j.served <- j.server.Serve() }()
	j.leads = &leads{Link: parent}
	if j.Client, err = call.NewClient(t.Context(), j.leads, settings(), nil); err != nil {
		t.Fatal(err)
	}
	go func() { j.ended <- j.Serve() }()
	return j
}

// A function that has been quick is run by the goroutine that reads the link. Here it then is not, in every way.
func TestAQuickFunctionThatIsNotQuickHoldsUpNobody(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"unix:", "tcp:"} {
		t.Run(strings.Trim(way, ":"), func(t *testing.T) {
			t.Parallel()
			j := joinLinked(t, way)
			release := make(chan struct{})
			f := declare(t, j.registry, "moody", func(ctx context.Context, how string) ([]byte, error) {
				switch how {
				case "waits":
					<-release
				case "releases":
					close(release)
				case "large":
					return make([]byte, 3<<20), nil
				case "goexit":
					runtime.Goexit()
				case "panic":
					panic("a panic")
				}
				return nil, nil
			})
			rehearse := func() {
				t.Helper()
				for range 200 {
					if _, err := f.call(t.Context(), j, ""); err != nil {
						t.Fatal(err)
					}
				}
			}
			rehearse()
			var waiting sync.WaitGroup
			for range 3 {
				waiting.Go(func() {
					if _, err := f.call(t.Context(), j, "waits"); err != nil {
						t.Errorf("one that waits: %v", err)
					}
				})
			}
			for j.Running() < 3 {
				runtime.Gosched()
			}
			if _, err := f.call(t.Context(), j, "releases"); err != nil {
				t.Errorf("the one that it waits for: %v", err)
			}
			waiting.Wait()
			for range 2 {
				rehearse()
				if got, err := f.call(t.Context(), j, "large"); err != nil || len(got) != 3<<20 {
					t.Errorf("a large result: got %d bytes, %v", len(got), err)
				}
				rehearse()
				for _, how := range []string{"panic", "goexit"} {
					_, err := f.call(t.Context(), j, how)
					if _, ok := errors.AsType[*call.FunctionError](err); !ok {
						t.Errorf("%s: got %v, want a FunctionError", how, err)
					}
				}
			}
			rehearse()
		})
	}
}

func BenchmarkCallOverASocket(b *testing.B) {
	j := joinLinked(b, "unix:")
	f := declare(b, j.registry, "nothing", func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil })
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.call(b.Context(), j, struct{}{}); err != nil {
			b.Fatal(err)
		}
	}
}
