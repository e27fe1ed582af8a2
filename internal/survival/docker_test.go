//go:build linux

package survival_test

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/dockertest"
)

// installWithDocker makes an installation whose containers are made by an engine.
func installWithDocker(t *testing.T, e *dockertest.Engine) *installation {
	t.Helper()
	in := install(t, "DAYFLY_PROVIDERS_DOCKER_HOST="+e.Host, "DAYFLY_PROVIDERS_DOCKER_NETWORK="+e.Network,
		"DAYFLY_PROVIDERS_DOCKER_AGENT="+dockertest.Agent(t), "DAYFLY_PROVIDERS_DOCKER_CAPABILITIES=CHOWN")
	return in
}

// contained returns a job that runs a script in a container.
func (in *installation) contained(image, script string) *dayfly.JobSpec {
	spec := in.command("sh", "-c", script)
	spec.Provider, spec.Image, spec.Env = "docker", image, nil
	return spec
}

// noContainers waits until the engine has no container of a job.
func (in *installation) noContainers(e *dockertest.Engine, job string) {
	in.t.Helper()
	eventually(in.t, patience, "no container is left", func() error {
		list, err := e.Client.ContainerList(in.t.Context(), client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", "run.dayfly.owner")})
		if err != nil {
			return err
		}
		for _, c := range list.Items {
			if strings.Contains(c.Labels["run.dayfly.machine"], job) {
				return fmt.Errorf("%s is %s", c.Names, c.State)
			}
		}
		return nil
	})
}

func TestAContainerOutlivesTheServerThatWantedIt(t *testing.T) {
	t.Parallel()
	e := dockertest.Shared(t)
	image := e.Image(t, "dayfly-test/bb:1")
	in := installWithDocker(t, e)
	server := in.start("")
	spec := in.contained(image, `i=0; while [ $i -lt 30 ]; do echo line $i; sleep 0.05; i=$((i+1)); done; cat in/x in/x > twice`)
	spec.Inputs, spec.Outputs = []dayfly.InputSpec{{Name: "in/x"}}, []string{"twice"}
	job := in.submit(spec)
	in.upload(job, "in/x", "application/octet-stream", "moin\n")
	if _, err := in.client.Start(t.Context(), job.ID); err != nil {
		t.Fatal(err)
	}
	in.reaches(job.ID, func(j *dayfly.Job) bool { return j.State == dayfly.Running })
	server.kill(t)
	in.start("")
	done := in.ended(job.ID)
	if done.State != dayfly.Succeeded || len(done.Attempts) != 1 {
		t.Fatalf("the job: got %s (%s) %s in %d attempts, want it to have succeeded in one", done.State, done.Reason, done.Message, len(done.Attempts))
	}
	if got, want := string(in.printed(job.ID, 1, "stdout")), "line 29\n"; !strings.HasPrefix(got, "line 0\n") || !strings.HasSuffix(got, want) || strings.Count(got, "\n") != 30 {
		t.Errorf("what it printed: got %q, want 30 lines", got)
	}
	if len(done.Artifacts) != 1 || in.downloaded(done.Artifacts[0]) != "moin\nmoin\n" {
		t.Errorf("its outputs: got %+v, want the input twice", done.Artifacts)
	}
	in.noContainers(e, job.ID)
}

func TestContainersEndAsTheirJobsSay(t *testing.T) {
	t.Parallel()
	e := dockertest.Shared(t)
	image := e.Image(t, "dayfly-test/bb:1")
	entered := e.Image(t, "dayfly-test/echo:1", `ENTRYPOINT ["echo", "entered"]`, "USER 1000")
	in := installWithDocker(t, e)
	in.start("")
	for what, c := range map[string]struct {
		change func(*dayfly.JobSpec)
		state  dayfly.State
		reason dayfly.Reason
		code   int
		output string
	}{
		"well":               {func(s *dayfly.JobSpec) { s.Command = []string{"sh", "-c", "pwd; id -u"} }, dayfly.Succeeded, "", 0, "/dayfly/work\n0\n"},
		"by its status":      {func(s *dayfly.JobSpec) { s.Command = []string{"sh", "-c", "exit 7"} }, dayfly.Failed, dayfly.ReasonExitNonzero, 7, ""},
		"for want of memory": {func(s *dayfly.JobSpec) { s.MemoryMB, s.Command = 64, []string{"sh", "-c", "tail /dev/zero; exit 7"} }, dayfly.Failed, dayfly.ReasonOOMKilled, 7, ""},
		"by its timeout": {func(s *dayfly.JobSpec) {
			s.Timeouts.Run, s.Command = dayfly.Duration(time.Second), []string{"sleep", "60"}
		}, dayfly.Failed, dayfly.ReasonTimeout, -1, ""},
		"without a program":         {func(s *dayfly.JobSpec) { s.Command = []string{"no-such-program"} }, dayfly.Failed, dayfly.ReasonCommandNotFound, 127, ""},
		"by its entrypoint":         {func(s *dayfly.JobSpec) { s.Image, s.Command = entered, []string{"a", "b"} }, dayfly.Succeeded, "", 0, "entered a b\n"},
		"never, as it is too small": {func(s *dayfly.JobSpec) { s.MemoryMB = 5 }, dayfly.Failed, dayfly.ReasonRefused, -1, ""},
		"never, without an image":   {func(s *dayfly.JobSpec) { s.Image = "" }, dayfly.Failed, dayfly.ReasonRefused, -1, ""},
	} {
		t.Run(what, func(t *testing.T) {
			spec := in.contained(image, "true")
			spec.Retry = dayfly.Retry{MaxAttempts: 1}
			c.change(spec)
			job := in.submit(spec)
			done := in.ended(job.ID)
			code := -1
			if done.ExitCode != nil {
				code = *done.ExitCode
			}
			if done.State != c.state || done.Reason != c.reason || code != c.code {
				t.Errorf("got %s (%s), status %d: %s; want %s (%s), status %d", done.State, done.Reason, code, done.Message, c.state, c.reason, c.code)
			}
			if c.state == dayfly.Succeeded {
				if got := string(in.printed(job.ID, 1, "stdout")); got != c.output {
					t.Errorf("it printed %q, want %q", got, c.output)
				}
			}
			in.noContainers(e, job.ID)
		})
	}
}

func TestACanceledJobsContainerIsRemoved(t *testing.T) {
	t.Parallel()
	e := dockertest.Shared(t)
	image := e.Image(t, "dayfly-test/bb:1")
	in := installWithDocker(t, e)
	in.start("")
	job := in.submit(in.contained(image, "sleep 600"))
	in.reaches(job.ID, func(j *dayfly.Job) bool { return j.State == dayfly.Running })
	in.cancel(job.ID)
	if done := in.ended(job.ID); done.State != dayfly.Canceled {
		t.Errorf("the job: got %s (%s), want canceled", done.State, done.Reason)
	}
	in.noContainers(e, job.ID)
}

func TestTheEngineMayBeRestarted(t *testing.T) {
	t.Parallel()
	e := dockertest.Start(t)
	image := e.Image(t, "dayfly-test/bb:1")
	in := installWithDocker(t, e)
	in.start("")

	// Its containers end with the engine, or at its next start. The job begins anew, and nothing is left of the first try.
	first := in.submit(in.contained(image, `[ "$DAYFLY_ATTEMPT" != 1 ] || sleep 600; echo done`))
	in.reaches(first.ID, func(j *dayfly.Job) bool { return j.State == dayfly.Running })
	e.Kill(t, syscall.SIGKILL)
	// A job that comes while there is no engine waits for it.
	second := in.submit(in.contained(image, "echo later"))
	eventually(t, patience, "the job without an engine is tried", func() error {
		if job := in.job(second.ID); job.State != dayfly.Starting {
			return errors.New(string(job.State))
		}
		return nil
	})
	e.Restart(t)
	for _, job := range []*dayfly.Job{first, second} {
		if done := in.ended(job.ID); done.State != dayfly.Succeeded {
			t.Errorf("the job: got %s (%s) %s, want it to have succeeded", done.State, done.Reason, done.Message)
		}
		in.noContainers(e, job.ID)
	}
}

// TestNobodyGetsInByTheMachinesDoor tries the address that the server listens on for containers, when it asks nobody for a
// token elsewhere.
func TestNobodyGetsInByTheMachinesDoor(t *testing.T) {
	t.Parallel()
	e := dockertest.Shared(t)
	image := e.Image(t, "dayfly-test/bb:1")
	in := installWithDocker(t, e)
	in.start("")
	job := in.submit(in.contained(image, `wget -q -O - "$DAYFLY_URL/v1/jobs" && echo open; wget -q -O - "$DAYFLY_URL/healthz" >/dev/null && echo there`))
	if done := in.ended(job.ID); done.State != dayfly.Succeeded {
		t.Fatalf("the job: got %s (%s) %s, want it to have succeeded", done.State, done.Reason, done.Message)
	}
	if got := string(in.printed(job.ID, 1, "stdout")); got != "there\n" {
		t.Errorf("what a container without a token gets: got %q, want only to know that there is a server", got)
	}
}

func TestAContainerOfAPoolIsUsedAgainOnlyIfNothingOfItsJobIsLeft(t *testing.T) {
	t.Parallel()
	e := dockertest.Shared(t)
	image := e.Image(t, "dayfly-test/bb:1")
	in := install(t, "DAYFLY_PROVIDERS_DOCKER_HOST="+e.Host, "DAYFLY_PROVIDERS_DOCKER_NETWORK="+e.Network,
		"DAYFLY_PROVIDERS_DOCKER_AGENT="+dockertest.Agent(t), "DAYFLY_POOLS_BOX_PROVIDER=docker", "DAYFLY_POOLS_BOX_IMAGE="+image,
		"DAYFLY_POOLS_BOX_MAX=1", "DAYFLY_POOLS_BOX_IDLE=1m")
	in.start("")
	settled := func() string {
		in.t.Helper()
		use := ""
		eventually(t, patience, "the machine waits, or is gone", func() error {
			use = ""
			for m, err := range in.client.Machines(t.Context(), false) {
				if err != nil {
					return err
				}
				if use = m.Use; use != "idle" {
					return fmt.Errorf("it is %s", use)
				}
			}
			return nil
		})
		return use
	}
	ran := func(script string) (machine, printed string) {
		in.t.Helper()
		spec := in.contained(image, script)
		spec.Provider, spec.Pool = "", "box"
		done := in.ended(in.submit(spec).ID)
		if done.State != dayfly.Succeeded || len(done.Attempts) != 1 {
			t.Fatalf("%s: got %s (%s) %s, want it to have succeeded", script, done.State, done.Reason, done.Message)
		}
		return done.Attempts[0].Machine.Name, string(in.printed(done.ID, 1, "stdout"))
	}
	first, _ := ran(`touch mine /dev/shm/mine; sleep 1000 & echo`)
	if use := settled(); use != "idle" {
		t.Fatalf("the machine after a job that left files where they may be: got %q, want it idle", use)
	}
	second, left := ran(`ls -A . /dev/shm; ps 2>/dev/null | grep -c "[s]leep 1000"; echo`)
	if second != first || strings.Contains(left, "mine") {
		t.Errorf("the second job: got machine %s with %q in it, want that of the first, %s, with nothing of it", second, left, first)
	}
	before, _ := ran("echo evil >/etc/evil")
	settled()
	if after, _ := ran("echo"); before == after {
		t.Error("after a job that left a file in /etc the next one got the same machine")
	}
}
