//go:build linux

package survival_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/machine"
)

// whoAmI runs on runners of fleets.
var whoAmI = dayfly.Func("survival.whoAmI", func(context.Context, string) (int, error) { return os.Getpid(), nil })

// shareRunner calls a function from two programs, one after the other, whose runners the server keeps. Afterwards nothing is left of
// them, and nothing is written down.
func shareRunner(t *testing.T, in *installation) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	in.shareRunner(machine.Spec{Lifetime: time.Hour, Command: []string{self}})
}

// shareUploadedRunner does the same with a program that is uploaded first.
func shareUploadedRunner(_ *testing.T, in *installation) {
	in.shareRunner(machine.Spec{Lifetime: time.Hour})
}

func (in *installation) shareRunner(spec machine.Spec) {
	t := in.t
	for i := range 2 {
		fleet := in.newClient(0).Fleet("story", "local", &dayfly.FleetOptions{Max: 1, Idle: 200 * time.Millisecond})
		pool, err := dayfly.NewPool(fleet, &dayfly.PoolOptions{
			Name: fmt.Sprintf("program-%d", i), Idle: 50 * time.Millisecond, Spec: spec,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- pool.Run(ctx) }()
		calling, cancel := context.WithTimeout(t.Context(), patience)
		if pid, err := whoAmI.Call(calling, pool, ""); err != nil || pid == os.Getpid() {
			t.Errorf("a call of program %d: got process %d and error %v, want that of a runner", i, pid, err)
		}
		cancel()
		stop()
		if err := <-over; err != nil {
			t.Errorf("the pool of program %d ended with %v", i, err)
		}
	}
	in.empty()
	eventually(t, patience, "nothing is written down", func() error {
		left, err := os.ReadDir(filepath.Join(in.dir, "hired"))
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d are, such as %s", len(left), left[0].Name())
		}
		return err
	})
}
