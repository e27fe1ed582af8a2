//go:build linux

package survival_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
)

// TestAKeptMachineEndsAtItsDateThoughItsServerIsDead kills the server while it keeps the machine of a failed job.
func TestAKeptMachineEndsAtItsDateThoughItsServerIsDead(t *testing.T) {
	t.Parallel()
	in := install(t)
	s := in.start("")
	spec := in.shell("sleep 600 & exit 3")
	spec.KeepOnFailure, spec.Retry.MaxAttempts = dayfly.Duration(4*time.Second), 1
	job := in.ended(in.submit(spec).ID)
	if job.State != dayfly.Failed || len(job.Attempts) != 1 || job.Attempts[0].Machine.State != "kept" {
		t.Fatalf("got a job that is %s with %+v, want it failed and its machine kept", job.State, job.Attempts)
	}
	name := job.Attempts[0].Machine.Name
	s.kill(t)
	if err := recordedEnd(in, name); err == nil {
		t.Errorf("machine %s has ended with the server, want it kept", name)
	}
	eventually(t, patience, "the machine ends without a server", func() error { return recordedEnd(in, name) })
	in.start("")
	in.empty()
}

// recordedEnd returns nil once the record of a machine tells of its end.
func recordedEnd(in *installation, name string) error {
	text, err := os.ReadFile(filepath.Join(in.dir, "machines", "machines", name))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("machine %s has no record, and nobody was there to remove it", name)
	case err == nil && bytes.Count(text, []byte("\n")) < 2:
		return fmt.Errorf("machine %s runs: %s", name, text)
	}
	return err
}
