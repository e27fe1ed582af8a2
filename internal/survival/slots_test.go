//go:build linux

package survival_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/dockertest"
)

// TestJobsInOneContainerDoNotDisturbOneAnother has a pool of one container, which is divided into two slots.
func TestJobsInOneContainerDoNotDisturbOneAnother(t *testing.T) {
	t.Parallel()
	e := dockertest.Shared(t)
	in := installWithDocker(t, e)
	in.config = append(in.config, "DAYFLY_POOLS_TWO_PROVIDER=docker", "DAYFLY_POOLS_TWO_IMAGE="+e.Image(t, "dayfly-test/bb:1"),
		"DAYFLY_POOLS_TWO_MIN=1", "DAYFLY_POOLS_TWO_MAX=1", "DAYFLY_POOLS_TWO_CONCURRENCY=2")
	in.start("")
	in.idleSlots(2)

	steady := in.submit(in.inSlot(`touch mine /tmp/of-one; echo up; while [ ! -e /tmp/go ]; do sleep 0.05; done; ls`))
	eventually(t, patience, "the first job has begun", func() error {
		if printed := in.printed(steady.ID, 1, "stdout"); !bytes.Contains(printed, []byte("up\n")) {
			return fmt.Errorf("it has printed %q", printed)
		}
		return nil
	})
	first := in.submit(in.inSlot(`(setsid env -i sh -c 'echo $$ > /tmp/daemon; exec sleep 1000' &); while [ ! -s /tmp/daemon ]; do sleep 0.05; done; touch mine $TMPDIR/mine`))
	second := in.inSlotAfter(first, `ls -A . $TMPDIR; ls /tmp; grep -s State: /proc/$(cat /tmp/daemon)/status | grep -v Z; touch /tmp/go`)
	if got, want := strings.Join(strings.Fields(string(in.printed(second.ID, 1, "stdout"))), " "), "daemon of-one"; !strings.Contains(got, want) ||
		strings.Contains(got, "mine") || strings.Contains(got, "State") {
		t.Errorf("what the second job in the slot sees: got %q, want %q in /tmp, which the job beside it may need, and no file or daemon of the first", got, want)
	}
	if done := in.ended(steady.ID); done.State != dayfly.Succeeded || string(in.printed(steady.ID, 1, "stdout")) != "up\nmine\n" {
		t.Errorf("the job beside them: got %s (%s) and output %q, want success and its file", done.State, done.Reason, in.printed(steady.ID, 1, "stdout"))
	}

	in.idleSlots(2)
	clean := in.inSlotAfter(nil, `ls -A /tmp; echo changed >> /etc/passwd`)
	if got := string(in.printed(clean.ID, 1, "stdout")); got != "" {
		t.Errorf("/tmp when no job has run beside: got %q, want nothing of those before", got)
	}
	in.idleSlots(2) // of another machine: the last job has changed what cannot be put right
	fresh := in.inSlotAfter(nil, `grep changed /etc/passwd; echo fresh`)
	if got := string(in.printed(fresh.ID, 1, "stdout")); got != "fresh\n" {
		t.Errorf("what a job finds after one that has changed /etc/passwd: got %q, want a machine on which nothing has", got)
	}
	machineOf := func(job *dayfly.Job) string {
		name, _, _ := strings.Cut(job.Attempts[0].Machine.Name, ".") // behind it is the number of the slot
		return name
	}
	machines := map[string]bool{}
	for _, job := range []*dayfly.Job{in.job(steady.ID), in.job(first.ID), second, clean} {
		machines[machineOf(job)] = true
	}
	if other := machineOf(fresh); len(machines) != 1 || machines[other] {
		t.Errorf("the machines of the jobs: got %v and then %s, want one for the first four and another then", machines, other)
	}
}

// inSlot returns a job that runs a script in a slot of the pool.
func (in *installation) inSlot(script string) *dayfly.JobSpec {
	spec := in.command("sh", "-c", script)
	spec.Pool, spec.Env, spec.Retry = "two", nil, dayfly.Retry{MaxAttempts: 1}
	return spec
}

// inSlotAfter runs a job in a slot of the pool when another, if there is one, has left its own.
func (in *installation) inSlotAfter(before *dayfly.Job, script string) *dayfly.Job {
	in.t.Helper()
	if before != nil {
		if done := in.ended(before.ID); done.State != dayfly.Succeeded {
			in.t.Fatalf("a job before: got %s (%s) %s, want success", done.State, done.Reason, done.Message)
		}
		in.idleSlots(1)
	}
	job := in.submit(in.inSlot(script))
	done := in.ended(job.ID)
	if done.State != dayfly.Succeeded {
		in.t.Fatalf("a job: got %s (%s) %s, want success", done.State, done.Reason, done.Message)
	}
	return done
}

// idleSlots waits until so many slots of the pool wait for a job.
func (in *installation) idleSlots(want int) {
	in.t.Helper()
	eventually(in.t, patience, fmt.Sprintf("%d slots wait for a job", want), func() error {
		pools, err := in.client.Pools(in.t.Context())
		if err != nil {
			return err
		}
		if got := pools[0].Slots["idle"]; got != want || pools[0].Machines["draining"] > 0 {
			return fmt.Errorf("%v of its slots and %v of its machines", pools[0].Slots, pools[0].Machines)
		}
		return nil
	})
}
