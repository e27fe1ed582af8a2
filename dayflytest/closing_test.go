package dayflytest_test

import (
	"errors"
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
