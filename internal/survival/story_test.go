//go:build linux

package survival_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/dockertest"
)

// story is something that a client does with the server, step by step, and that passes certain failpoints on its way.
// It goes on through the server's absences.
type story struct {
	points  []string                             // without .before and .after
	begin   func(t *testing.T, in *installation) // what comes before the failpoints are set; nil: nothing
	tell    func(t *testing.T, in *installation)
	endless bool // its job's command does not end by itself
	passed  int  // how often its points are passed before it matters

	place func(t *testing.T) *installation // where it happens; nil: an installation with this computer's machines
}

// install makes the installation in which the story happens.
func (s *story) install(t *testing.T) *installation {
	t.Helper()
	if s.place == nil {
		return install(t)
	}
	return s.place(t)
}

// stories pass every failpoint there is; TestEveryFailpointIsPartOfAStory makes sure of that.
func stories() map[string]story {
	return map[string]story{
		"a job runs": {tell: runJob, points: []string{"store.migrate", "store.boot", "store.submit",
			"provider.create", "store.claim", "store.note", "store.end", "provider.destroy", "store.move_machine", "store.touch", "log.append"}},
		"a job gets its inputs":     {tell: runJobWithInput, points: []string{"blob.put", "store.store_input", "store.start"}},
		"a job leaves a file":       {tell: runJobWithOutput, points: []string{"blob.put"}},
		"a log has a torn end":      {begin: tearLog, tell: mendLog, points: []string{"log.cut", "log.append"}},
		"a job is done once more":   {begin: runFirstJob, tell: retryJob, points: []string{"blob.put", "store.store_input", "store.start"}},
		"a job waits for its turn":  {tell: runJobAfterAnother, points: []string{"store.submit", "store.launch", "store.end"}},
		"a job waits for a time":    {tell: runJobLater, points: []string{"store.promote"}},
		"a job waits for too long":  {tell: runJobTooLate, points: []string{"store.promote"}},
		"a waiting job is canceled": {tell: cancelWaitingJob, points: []string{"store.move"}},
		"a running job is canceled": {tell: cancelRunningJob, points: []string{"store.move", "store.end", "provider.destroy"}, endless: true},
		"a job is removed":          {tell: removeJob, points: []string{"blob.delete", "log.close", "log.remove", "store.delete"}},
		"a bare container runs": {tell: runBareContainer, points: []string{"provider.prepare", "provider.logs"},
			place: func(t *testing.T) *installation { return installWithDocker(t, dockertest.Shared(t)) }},
		"jobs share a machine": {tell: shareMachine, points: []string{"store.add_runner", "store.move_runner", "store.submit", "store.claim", "store.end"},
			place: func(t *testing.T) *installation {
				return install(t, "DAYFLY_POOLS_WARM_MAX=3", "DAYFLY_POOLS_WARM_PREWARM=0.5", "DAYFLY_POOLS_WARM_IDLE=500ms")
			}},
		"jobs run side by side on a machine": {tell: runSideBySide, points: []string{"store.launch", "store.move_runner", "store.end"},
			place: func(t *testing.T) *installation {
				return install(t, "DAYFLY_POOLS_WARM_MAX=2", "DAYFLY_POOLS_WARM_CONCURRENCY=2", "DAYFLY_POOLS_WARM_IDLE=500ms")
			}},
		"a job is given a machine that waits":  {tell: giveMachine, points: []string{"store.submit"}, passed: 1, place: installWarm},
		"a job that waited is given a machine": {tell: giveMachineLater, points: []string{"store.launch"}, place: installWarm},
		"programs share a runner": {tell: shareRunner, points: []string{"hire.write", "hire.create", "hire.destroy", "hire.remove"},
			place: func(t *testing.T) *installation { return install(t, "DAYFLY_TIMEOUTS_HIRE_LEASE=3s") }},
		"a program is uploaded": {tell: shareUploadedRunner, points: []string{"program.put"},
			place: func(t *testing.T) *installation { return install(t, "DAYFLY_TIMEOUTS_HIRE_LEASE=3s") }},
		"a token is made":      {tell: makeToken, points: []string{"store.add_token", "store.revoke_token"}},
		"a backup is restored": {begin: restoreBackup, tell: findStray, points: []string{"store.adopt_machine"}, endless: true},
	}
}

// runJob submits a job and checks that it has run once, and that there is one.
func runJob(t *testing.T, in *installation) {
	k := task{lines: 20, exit: taskExit}
	spec := in.spec(k)
	spec.Labels = map[string]string{"story": "one"}
	job := in.submit(spec)
	in.checkTask(job.ID, k)
	in.only(job.ID)
	in.empty()
}

// only makes sure that a job is the only one there is.
func (in *installation) only(id string) {
	in.t.Helper()
	for job, err := range in.client.Jobs(in.t.Context(), nil) {
		if err != nil {
			in.t.Fatal(err)
		}
		if job.ID != id {
			in.t.Errorf("there is a job %s, which nobody submitted; want only %s", job.ID, id)
		}
	}
}

// ledgerLine is the shell command that makes an entry in the ledger.
func ledgerLine(what string) string {
	return `echo "` + what + ` $DAYFLY_JOB_ID $DAYFLY_ATTEMPT $$ $PPID" >> "$LEDGER"; `
}

// runJobAfterAnother submits two jobs to a queue with room for one. The first is launched with its submission, the second
// when the first has ended.
func runJobAfterAnother(t *testing.T, in *installation) {
	k := task{lines: 20, exit: taskExit}
	var ids []string
	for range 2 {
		spec := in.spec(k)
		spec.Queue = "narrow"
		ids = append(ids, in.submit(spec).ID)
	}
	for _, id := range ids {
		in.checkTask(id, k)
	}
	first, second := in.job(ids[0]), in.job(ids[1])
	if began, ended := second.Attempts[0].CreatedAt, first.FinishedAt; ended == nil || began.Before(*ended) {
		t.Errorf("the second job's attempt began at %v, before the first job's end at %v", began, ended)
	}
	in.empty()
}

// shareMachine runs jobs of a pool one after the other. While one runs another machine is made, and when none does all go.
func shareMachine(t *testing.T, in *installation) {
	k := task{lines: 10, exit: taskExit}
	for range 2 {
		spec := in.spec(k)
		spec.Pool = "warm"
		in.checkTask(in.submit(spec).ID, k)
	}
	in.empty()
}

// runSideBySide runs jobs of a pool at once: two fill a machine, and the third has another, or waits until one of them is ready
// for it.
func runSideBySide(t *testing.T, in *installation) {
	k := task{lines: 20, exit: taskExit}
	var ids []string
	for range 3 {
		spec := in.spec(k)
		spec.Pool = "warm"
		ids = append(ids, in.submit(spec).ID)
	}
	for _, id := range ids {
		in.checkTask(id, k)
	}
	in.empty()
}

// installWarm makes an installation with a pool of one machine, which waits for a moment.
func installWarm(t *testing.T) *installation {
	return install(t, "DAYFLY_POOLS_WARM_MAX=1", "DAYFLY_POOLS_WARM_IDLE=3s")
}

// giveMachine runs a job that gets a machine that waits, in the transaction in which it is submitted. That is the claim as well,
// of which the agent on the machine is told as soon as there is a server again.
func giveMachine(t *testing.T, in *installation) {
	in.warm()
	in.given(in.submit(in.ofPool()))
}

// giveMachineLater does the same with a job that waits for its turn, and gets the machine when that has come.
func giveMachineLater(t *testing.T, in *installation) {
	in.warm()
	k := task{lines: 20, exit: taskExit}
	before := in.spec(k)
	before.Queue = "narrow"
	first, second := in.submit(before), in.submit(in.ofPool())
	in.checkTask(first.ID, k)
	in.given(second)
}

// ofPool returns a job of the pool, in a queue whose jobs run one after the other.
func (in *installation) ofPool() *dayfly.JobSpec {
	spec := in.spec(task{lines: 10, exit: taskExit})
	spec.Queue, spec.Pool = "narrow", "warm"
	return spec
}

// warm runs a job on a machine of the pool, which waits for another then.
func (in *installation) warm() {
	in.t.Helper()
	in.checkTask(in.submit(in.ofPool()).ID, task{lines: 10, exit: taskExit})
	err := poll(in.t.Context(), 10*time.Second, func() error {
		pools, err := in.client.Pools(in.t.Context())
		if err == nil && pools[0].Machines["idle"] != 1 {
			err = fmt.Errorf("the pool has %v, want a machine that waits", pools[0].Machines)
		}
		return err
	})
	if err != nil {
		in.t.Fatal(err)
	}
}

// given checks that a job of the pool has run in one attempt.
func (in *installation) given(job *dayfly.Job) {
	in.t.Helper()
	in.checkTask(job.ID, task{lines: 10, exit: taskExit})
	if ended := in.job(job.ID); len(ended.Attempts) != 1 {
		in.t.Errorf("a job that was given a machine has run in %d attempts, want 1: %s", len(ended.Attempts), attemptsOf(ended))
	}
	in.empty()
}

func runJobLater(t *testing.T, in *installation) {
	k := task{lines: 3, exit: taskExit}
	spec := in.spec(k)
	at := time.Now().Add(300 * time.Millisecond)
	spec.RunAt = &at
	job := in.submit(spec)
	in.checkTask(job.ID, k)
	if began := in.job(job.ID).Attempts[0].CreatedAt; began.Before(at.Truncate(time.Microsecond)) {
		t.Errorf("the first attempt was made at %v, want not before %v", began, at)
	}
	in.only(job.ID)
	in.empty()
}

// runJobTooLate runs a job whose total timeout passes while it waits for a second attempt, because another job has its
// place in the queue.
func runJobTooLate(t *testing.T, in *installation) {
	late := in.shell(ledgerLine("start") + ledgerLine("end") + "exit 1")
	late.Queue = "narrow"
	late.Retry.MaxAttempts, late.Retry.BackoffMin, late.Retry.BackoffMax = 100, dayfly.Duration(time.Second), dayfly.Duration(time.Second)
	late.Timeouts.Total = dayfly.Duration(time.Second)
	job := in.submit(late)
	in.running(job.ID)
	k := task{lines: 80, exit: taskExit}
	blocker := in.spec(k)
	blocker.Queue = "narrow"
	blocker.Priority = 1
	other := in.submit(blocker)
	ended := in.ended(job.ID)
	if ended.State != dayfly.Failed || ended.Reason != dayfly.ReasonDeadline {
		t.Errorf("got %s, reason %q, want failed, deadline_exceeded: %s", ended.State, ended.Reason, attemptsOf(ended))
	}
	in.checkEvents(ended)
	in.checkTask(other.ID, k)
	in.empty()
}

// restoreBackup runs a job and then puts the store back to where it was before it knew of the job.
func restoreBackup(t *testing.T, in *installation) {
	s := in.start("")
	s.signal(t, syscall.SIGTERM) // a server that stops leaves all it knows in the one file
	s.wait(t, 10*time.Second)
	backup := read(t, in.database())
	s = in.start("")
	job := in.submit(in.shell(ledgerLine("start") + "while :; do sleep 0.1; done"))
	in.running(job.ID)
	s.kill(t)
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(in.database() + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(in.database(), []byte(backup), 0o600); err != nil {
		t.Fatal(err)
	}
}

// findStray waits until the machine that the store does not know is noticed. Its command ends at once, because nobody
// takes its agent's calls; the machine itself is only removed when it has been watched for a while.
func findStray(t *testing.T, in *installation) {
	eventually(t, patience, "the stray is in the ledger", func() error {
		for m, err := range in.client.Machines(t.Context(), true) {
			if err != nil {
				return err
			}
			if m.State == "quarantined" {
				return nil
			}
		}
		return errors.New("no machine is quarantined")
	})
}

func cancelWaitingJob(t *testing.T, in *installation) {
	spec := in.spec(task{lines: 1})
	start := false
	spec.Start = &start
	job := in.submit(spec)
	in.cancel(job.ID)
	in.check(job.ID, outcome{state: dayfly.Canceled, reason: dayfly.ReasonCanceled, exit: -1})
	in.only(job.ID)
	in.empty()
}

func cancelRunningJob(t *testing.T, in *installation) {
	job := in.submit(in.shell(ledgerLine("start") + `trap '` + ledgerLine("end") + ` exit 1' TERM; while :; do sleep 0.02; done`))
	in.running(job.ID)
	in.cancel(job.ID)
	ended := in.ended(job.ID)
	if ended.State != dayfly.Canceled {
		t.Errorf("got %s, want canceled: %s", ended.State, attemptsOf(ended))
	}
	in.checkAttempts(ended, 1)
	in.checkEvents(ended)
	in.only(job.ID)
	in.empty()
}

// cancel cancels a job and accepts that it has been canceled by a call whose answer was lost.
func (in *installation) cancel(id string) {
	in.t.Helper()
	if _, err := in.client.Cancel(in.t.Context(), id); err != nil {
		in.t.Fatalf("cancel: %v", err)
	}
}

// makeToken makes a token and revokes it. A call whose answer is lost is not repeated by the client, because the token
// is in the answer; so what is to be seen is that there is none afterwards, or one that can be revoked.
func makeToken(t *testing.T, in *installation) {
	_, err := in.client.CreateToken(t.Context(), "robot", []string{"read"}, time.Hour)
	if err != nil && !errors.Is(err, fault.Unavailable) {
		t.Fatalf("making a token: %v", err)
	}
	tokens, err := in.client.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range tokens {
		if err := in.client.RevokeToken(t.Context(), token.ID); err != nil && !errors.Is(err, fault.NotFound) {
			t.Fatalf("revoking token %s: %v", token.Name, err)
		}
	}
	tokens, err = in.client.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range tokens {
		if token.RevokedAt == nil {
			t.Errorf("token %s is still good", token.Name)
		}
	}
}
