//go:build linux

package survival_test

import (
	"testing"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/dockertest"
)

func TestABareContainerOutlivesTheServerAndItsEndIsTheJobs(t *testing.T) {
	t.Parallel()
	e := dockertest.Shared(t)
	image := e.Image(t, "dayfly-test/bb:1")
	in := installWithDocker(t, e)
	server := in.start("")
	spec := in.contained(image, `
		echo begun
		wget -q -O - --header "Authorization: Bearer $DAYFLY_TOKEN" "$DAYFLY_URL/agent/v1/attempts/$DAYFLY_ATTEMPT_ID/inputs/in/x"
		sleep 3; echo over >&2; exit 7`)
	spec.Bare, spec.Inputs = true, []dayfly.InputSpec{{Name: "in/x"}}
	job := in.submit(spec)
	in.upload(job, "in/x", "application/octet-stream", "moin\n")
	if _, err := in.client.Start(t.Context(), job.ID); err != nil {
		t.Fatal(err)
	}
	in.reaches(job.ID, func(j *dayfly.Job) bool {
		return j.State == dayfly.Running && string(in.printed(job.ID, 1, "stdout")) == "begun\nmoin\n"
	})
	server.kill(t)
	in.start("")
	done := in.ended(job.ID)
	if done.State != dayfly.Failed || done.Reason != dayfly.ReasonExitNonzero || done.ExitCode == nil || *done.ExitCode != 7 || len(done.Attempts) != 1 {
		t.Fatalf("the job: got %s (%s) %s in %d attempts, want it to have failed in one with status 7", done.State, done.Reason, done.Message, len(done.Attempts))
	}
	if out, errs := string(in.printed(job.ID, 1, "stdout")), string(in.printed(job.ID, 1, "stderr")); out != "begun\nmoin\n" || errs != "over\n" {
		t.Errorf("what it printed: got %q and %q, want its own words and its input, once", out, errs)
	}
	if done.Attempts[0].Machine.Image == "" {
		t.Error("its machine shows no image, want the one with its digest")
	}
	in.noContainers(e, job.ID)
}

// runBareContainer runs a job in a container without an agent, and checks that it has run once and what it has printed.
func runBareContainer(t *testing.T, in *installation) {
	e := dockertest.Shared(t)
	spec := in.contained(e.Image(t, "dayfly-test/bb:1"), "echo begun; sleep 1; echo over; exit 7")
	spec.Bare = true
	job := in.submit(spec)
	in.check(job.ID, outcome{state: dayfly.Failed, reason: dayfly.ReasonExitNonzero, exit: 7, attempts: 1})
	if out := string(in.printed(job.ID, 1, "stdout")); out != "begun\nover\n" {
		t.Errorf("what it printed: got %q, want both lines, once", out)
	}
	in.only(job.ID)
	in.noContainers(e, job.ID)
}
