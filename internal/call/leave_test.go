package call_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/internal/call"
)

// after says how long something took, as a test of a bubble wants it: exactly.
func after(t *testing.T, what string, want time.Duration, happens func()) {
	t.Helper()
	began := time.Now()
	happens()
	if took := time.Since(began); took != want {
		t.Errorf("%s: it took %v, want %v", what, took, want)
	}
}

func TestARunnerThatIsToldToEndWaitsForItsParentOnlySoLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := join(t, settings(), nil) // whose parent hears that the runner leaves, and does nothing
		f := declare(t, j.registry, "works", func(ctx context.Context, how time.Duration) (int, error) {
			time.Sleep(how)
			return 0, ctx.Err()
		})
		if _, err := f.call(t.Context(), j, time.Second); err != nil {
			t.Fatal(err)
		}
		working := make(chan error, 1)
		go func() {
			_, err := f.call(t.Context(), j, time.Minute)
			working <- err
		}()
		synctest.Wait()
		after(t, "work of a minute, four seconds until more comes, and five without any", 69*time.Second, func() {
			j.server.Leave(5 * time.Second)
			if err := <-working; err != nil {
				t.Errorf("work that is under way when a runner is told to end: got error %v, want its result", err)
			}
			time.Sleep(4 * time.Second)
			if _, err := f.call(t.Context(), j, 0); err != nil { // as it was on its way
				t.Errorf("work that comes late: got error %v, want its result", err)
			}
			if err := <-j.served; err == nil || !strings.Contains(err.Error(), "did not answer") {
				t.Errorf("Serve: got %v, want that the parent did not answer", err)
			}
		})
	})
}

func TestARunnerThatIsAskedBackWaitsForItsParent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := join(t, settings(), nil)
		j.server.Leave(0)
		time.Sleep(time.Hour)
		select {
		case err := <-j.served:
			t.Errorf("Serve has ended with %v, want that it goes on until the parent ends it", err)
		default:
		}
		j.end(t)
	})
}

func TestAParentThatAnswersLetsItsRunnerGoAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaving := make(chan struct{})
		j := join(t, settings(), &call.ClientOptions{Leaving: func() { close(leaving) }})
		go func() {
			<-leaving
			j.wire.Close(nil)
		}()
		after(t, "the end", 0, func() {
			j.server.Leave(5 * time.Second)
			<-j.served
		})
	})
}
