package sqlite_test

import (
	"errors"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
)

func TestSmoke(t *testing.T) {
	path := t.TempDir() + "/x.db"
	start := time.Now()
	s, err := sqlite.Open(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("open", time.Since(start))
	_, err = sqlite.Open(t.Context(), path, nil)
	t.Log(err)
	var owned *sqlite.OwnedError
	if !errors.As(err, &owned) || fault.Of(err) != fault.Conflict {
		t.Fatal(err)
	}
	now := time.Now()
	job, _, err := s.Submit(t.Context(), &store.Submission{Job: &store.Job{ID: "job_1", State: dayfly.Queued, Provider: "p", Queue: "q", CreatedAt: now, QueuedAt: now, Spec: dayfly.JobSpec{Command: []string{"a"}}}, Key: "k", BodyHash: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	refusals, err := s.Launch(t.Context(), []*store.Launch{{JobID: "job_1", Version: job.Version, AttemptID: "a1", Machine: "m1", Provider: "p", Lifetime: time.Hour, Time: now, QueueLimit: 1, KeyLimit: 1}})
	t.Log(refusals, err)
	j, a, err := s.Claim(t.Context(), &store.Claim{Attempt: "a1", By: "x", Time: now})
	if err != nil {
		t.Fatal(err)
	}
	j, err = s.End(t.Context(), &store.Ending{Attempt: "a1", Fence: a.Fence, JobVersion: j.Version, State: dayfly.AttemptSucceeded, Time: now, Job: store.Next{State: dayfly.Succeeded}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.MoveMachine(t.Context(), []*store.MachineMove{{Name: "m1", From: []store.MachineState{store.MachineDeleting}, To: store.MachineGone, Time: now}}); err != nil {
		t.Fatal(err)
	}
	j, err = s.Job(t.Context(), "job_1")
	t.Logf("%+v %+v %+v", j, j.AttemptLog[0], err)
	t.Logf("%+v", j.AttemptLog[0].Machine)
	ev, err := s.Events(t.Context(), "job_1", 0, 100)
	for _, e := range ev {
		t.Log(*e)
	}
	c, _ := s.Counts(t.Context())
	t.Log(c)
	l, err := s.Lanes(t.Context())
	t.Log(l, err)
	_, n, err := s.Promote(t.Context(), now, now, 10)
	t.Log(n, err)
	t.Log(s.Boot(t.Context()))
	if err := s.Delete(t.Context(), "job_1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	s, err = sqlite.Open(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("reopen", time.Since(start))
	s.Close()
}
