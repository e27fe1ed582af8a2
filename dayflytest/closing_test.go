package dayflytest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/dayflytest"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

func TestAPoolDoesNotWaitTwiceForAProviderThatIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		runners := dayflytest.New(t)
		pool, err := dayfly.NewPool(runners.Provider(), &dayfly.PoolOptions{Min: 2, ShutdownTimeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		runners.Cloud().Fail(memmachine.Destroy, memmachine.Refuse(fault.Unavailable))
		began := time.Now()
		err = pool.Close()
		if took := time.Since(began); took > 40*time.Second {
			t.Errorf("Close took %v, want the half minute of one attempt and a last question", took)
		}
		if !errors.Is(err, fault.Unavailable) {
			t.Errorf("Close: got %v, want why the machines may be left", err)
		}
		runners.Heal()
		for _, m := range runners.Cloud().Machines() {
			if err := runners.Cloud().Connect().Destroy(t.Context(), m.ID); err != nil {
				t.Errorf("Destroy: got %v, want nil", err)
			}
		}
	})
}

var deaf = dayfly.Func("test/deaf", func(_ context.Context, d time.Duration) (int, error) {
	<-time.After(d)
	return 0, nil
})

func TestACallThatOutlastsTheShutdownIsToldSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, _ := dayflytest.NewPool(t, &dayfly.PoolOptions{ShutdownTimeout: 5 * time.Second})
		failed := make(chan error, 1)
		go func() {
			_, err := deaf.Call(t.Context(), pool, 20*time.Second)
			failed <- err
		}()
		synctest.Wait()
		if err := pool.Close(); err != nil {
			t.Errorf("Close: got %v, want nil", err)
		}
		if err := <-failed; fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), "ShutdownTimeout") {
			t.Errorf("got %v, want what its time was limited by", err)
		}
		time.Sleep(time.Minute) // until the function has ended
	})
}
