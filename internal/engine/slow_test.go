package engine_test

import (
	"context"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// slow is a store that takes long to store the clock.
type slow struct {
	store.Store
	touch time.Duration
}

func (s slow) Touch(ctx context.Context, r store.Reading) error {
	wait(ctx, s.touch)
	return s.Store.Touch(ctx, r)
}

func TestTimeoutsPassWhileTheStoreIsSlow(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		dead := memmachine.New(&memmachine.Options{}) // no agent ever calls
		f := newFleet(t, func(o *engine.Options) {
			o.Store = slow{o.Store, 3 * time.Second}
			o.Providers["dead"] = dead
		})
		t.Cleanup(dead.Cloud().Close)
		job := f.submit(func(s *dayfly.JobSpec) {
			s.Timeouts.Boot, s.Retry.MaxLaunches, s.Provider = dayfly.Duration(time.Minute), 1, "dead"
		})
		check(t, f.finished(job.ID, 2*time.Minute), dayfly.Failed, dayfly.ReasonNeverStarted, 1)
	})
}
