package engine_test

import (
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

func TestAJobThatHasJustEndedIsDeletedOnceItsMachineIsGone(t *testing.T) {
	t.Parallel()
	for name, destroy := range map[string]memmachine.Fault{
		"at once":                     nil,
		"after a slow destroy":        memmachine.Delay(3 * time.Second),
		"after a destroy that failed": memmachine.Refuse(fault.Unavailable),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				f := newFleet(t, nil)
				if destroy != nil {
					f.cloud.Fail(memmachine.Destroy, destroy).Times(1)
				}
				job := f.finished(f.submit(nil).ID, time.Minute)
				if err := f.engine.Load().Delete(t.Context(), job.ID); err != nil {
					t.Fatalf("delete: %v", err)
				}
				if _, err := f.engine.Load().Job(t.Context(), job.ID); fault.Of(err) != fault.NotFound {
					t.Errorf("the deleted job: got %v, want fault.NotFound", err)
				}
				if left := f.cloud.Machines(); len(left) > 0 {
					t.Errorf("%d machines are left of a job that was deleted", len(left))
				}
			})
		})
	}
}

func TestAJobWhoseMachineStaysIsNotForgotten(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		stays := f.cloud.Fail(memmachine.Destroy, memmachine.Refuse(fault.Unavailable))
		job := f.finished(f.submit(nil).ID, time.Minute)
		began := time.Now()
		err := f.engine.Load().Delete(t.Context(), job.ID)
		if took := time.Since(began); fault.Of(err) != fault.Conflict || took > 6*time.Second {
			t.Fatalf("delete: got %v after %v, want fault.Conflict within seconds", err, took)
		}
		machine := f.job(job.ID).AttemptLog[0].Machine
		sentence, _ := fault.Sentence(err)
		for _, part := range []string{job.ID, machine.Name, machine.Provider, "later"} {
			if !strings.Contains(sentence, part) {
				t.Errorf("the refusal %q does not mention %q", sentence, part)
			}
		}
		if machine.State != store.MachineDeleting {
			t.Errorf("the machine in the ledger: got %s, want deleting", machine.State)
		}
		stays.Stop()
		f.settled(2 * time.Minute)
		if err := f.engine.Load().Delete(t.Context(), job.ID); err != nil {
			t.Errorf("delete once the machine is gone: %v", err)
		}
	})
}

func TestAJobThatRunsIsNotDeleted(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = workFor(5 * time.Minute)
		job := f.submit(nil)
		wait(t.Context(), time.Minute)
		began := time.Now()
		if err := f.engine.Load().Delete(t.Context(), job.ID); fault.Of(err) != fault.Conflict || time.Since(began) > time.Second {
			t.Errorf("delete: got %v after %v, want fault.Conflict at once", err, time.Since(began))
		}
		check(t, f.finished(job.ID, 2*time.Hour), dayfly.Succeeded, "", 1)
	})
}
