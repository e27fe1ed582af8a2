package docker_test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"context"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/dockertest"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/docker"
)

// registryEngine is an engine that has no image until it has pulled it.
type registryEngine struct {
	*faulty
	mu     sync.Mutex
	auth   string
	pulled bool
	arch   string
}

func newRegistryEngine(t *testing.T, stream string, status int) *registryEngine {
	t.Helper()
	r := &registryEngine{faulty: newFaulty(t, nil), arch: "amd64"}
	r.set(
		rule{method: "POST", path: "/images/create", times: -1, answer: func(w http.ResponseWriter, req *http.Request) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.auth = req.Header.Get("X-Registry-Auth")
			r.pulled = status == 200 && !strings.Contains(stream, "errorDetail")
			says(status, stream)(w, req)
		}},
		rule{method: "GET", path: "/json", times: -1, answer: func(w http.ResponseWriter, req *http.Request) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if !r.pulled {
				failsWith(404, "No such image")(w, req)
				return
			}
			says(200, `{"Id":"sha256:1111111111111111111111111111111111111111111111111111111111111111","Os":"linux","Architecture":"`+r.arch+`",
				"RepoDigests":["ghcr.io/acme/tool@sha256:2222222222222222222222222222222222222222222222222222222222222222"],"Config":{}}`)(w, req)
		}},
	)
	return r
}

func pulling() *machine.Spec {
	return &machine.Spec{Name: "a", Owner: "b", Lifetime: time.Minute, Image: "ghcr.io/acme/tool:1.4", Command: []string{"true"}}
}

func TestAPullIsReportedAndUsesTheCredentialsOfItsRegistry(t *testing.T) {
	t.Parallel()
	r := newRegistryEngine(t, `{"status":"Pulling from acme/tool","id":"1.4"}
{"status":"Downloading","progressDetail":{"current":50,"total":100},"id":"aa"}
{"status":"Pull complete","progressDetail":{},"id":"aa"}
`, 200)
	var asked []string
	p := r.provider(t, func(o *docker.Options) {
		o.Credentials = func(_ context.Context, registry string) (*docker.Credentials, error) {
			asked = append(asked, registry)
			return &docker.Credentials{User: "robot", Password: "s3cret"}, nil
		}
	})
	var reports []machine.Preparation
	if err := p.Prepare(t.Context(), pulling(), func(r machine.Preparation) { reports = append(reports, r) }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(asked, []string{"ghcr.io"}) {
		t.Errorf("registries whose credentials were asked for: got %q, want ghcr.io", asked)
	}
	text, err := base64.URLEncoding.DecodeString(r.auth)
	var sent struct{ Username, Password string }
	if err != nil || json.Unmarshal(text, &sent) != nil || sent.Username != "robot" || sent.Password != "s3cret" {
		t.Errorf("what the engine was told: got %q and error %v, want the user and the password", text, err)
	}
	if !slices.ContainsFunc(reports, func(r machine.Preparation) bool { return r.Text == "pulling ghcr.io/acme/tool:1.4" && r.Total == 100 }) {
		t.Errorf("reports: got %+v, want one of the pull with 100 bytes in all", reports)
	}
}

func TestWhyAnImageCannotBePulledIsSaidWithoutSecrets(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what, stream string
		status       int
		want         fault.Kind
		words        []string
	}{
		{"no image", `{"message":"manifest for ghcr.io/acme/tool:1.4 not found: manifest unknown"}`, 404, fault.Invalid, []string{"there is no image ghcr.io/acme/tool:1.4", "check the name"}},
		{"no rights", `{"message":"pull access denied for acme/tool, repository does not exist or may require 'docker login'"}`, 404, fault.Invalid, []string{"ghcr.io", "providers.docker.registries"}},
		{"wrong password", `{"message":"unauthorized: incorrect username or password s3cret"}`, 500, fault.Invalid, []string{"providers.docker.registries"}},
		{"denied in the middle", `{"errorDetail":{"message":"denied: requested access to the resource is denied"},"error":"denied"}`, 200, fault.Invalid, []string{"does not let"}},
		{"too many", `{"message":"toomanyrequests: You have reached your pull rate limit"}`, 500, fault.Exhausted, []string{"too many pulls"}},
		{"another processor", `{"message":"no matching manifest for linux/amd64 in the manifest list entries"}`, 404, fault.Invalid, []string{"processor"}},
		{"no network", `{"message":"Get \"https://ghcr.io/v2/\": dial tcp: lookup ghcr.io: no such host"}`, 500, fault.Unavailable, []string{"ghcr.io"}},
		{"a full disk", `{"errorDetail":{"message":"write /var/lib/x: no space left on device"}}`, 200, fault.Exhausted, []string{"no space"}},
		{"garbage", `<html>`, 200, fault.Unavailable, nil},
	} {
		r := newRegistryEngine(t, c.stream, c.status)
		p := r.provider(t, func(o *docker.Options) {
			o.Credentials = func(context.Context, string) (*docker.Credentials, error) {
				return &docker.Credentials{User: "robot", Password: "s3cret"}, nil
			}
		})
		_, err := p.Create(t.Context(), pulling())
		wantFault(t, c.what, err, c.want, c.words...)
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error %q holds the password", c.what, err)
		}
	}
}

func TestAnImageForOtherProcessorsIsRefusedBeforeItIsStarted(t *testing.T) {
	t.Parallel()
	r := newRegistryEngine(t, `{"status":"done"}`, 200)
	r.arch = "s390x"
	_, err := r.provider(t, nil).Create(t.Context(), pulling())
	wantFault(t, "an image for another processor", err, fault.Invalid, "s390x", "providers.docker.agent")
}

func TestAnAgentThatImagesCannotRunIsRefused(t *testing.T) {
	t.Parallel()
	script := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{script, "/nowhere/agent"} {
		p := docker.New(docker.Program{File: file}, &docker.Options{Host: newFaulty(t, nil).host})
		_, err := p.Create(t.Context(), pulling())
		wantFault(t, "the agent "+file, err, fault.Unsupported, file, "providers.docker.agent")
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

// run runs a machine to its end and returns what it printed and how it ended.
func run(t *testing.T, p *docker.Provider, spec *machine.Spec) (stdout string, exit *machine.Exit) {
	t.Helper()
	m, err := p.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := p.Logs(t.Context(), m.ID, true, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for m.State != machine.Exited {
		if m, err = p.Get(t.Context(), m.ID); err != nil {
			t.Fatal(err)
		}
	}
	return out.String(), m.Exit
}

func TestAnImageKeepsItsEntrypointUserDirectoryAndEnvironment(t *testing.T) {
	t.Parallel()
	e := dockertest.Shared(t)
	image := e.Image(t, "dayfly-test/all:1", `ENTRYPOINT ["sh", "-c"]`, `CMD ["echo default $(id -u) $(pwd) $COLOR"]`, "USER 1000", "WORKDIR /app", "ENV COLOR=red")
	p := newProvider(t, nil)
	for what, c := range map[string]struct {
		change func(*machine.Spec)
		want   string
	}{
		"as it is":                {func(*machine.Spec) {}, "default 1000 /app red\n"},
		"with arguments":          {func(s *machine.Spec) { s.Command = []string{"echo mine $0", "arg"} }, "mine arg\n"},
		"with another entrypoint": {func(s *machine.Spec) { s.Entrypoint, s.Command = []string{"echo", "so"}, []string{"x"} }, "so x\n"},
		"with another user":       {func(s *machine.Spec) { s.User, s.Command = "0", []string{"id -u"} }, "0\n"},
		"with more environment":   {func(s *machine.Spec) { s.Env, s.Command = map[string]string{"COLOR": "blue"}, []string{"echo $COLOR"} }, "blue\n"},
	} {
		spec := fresh(t, e, image)
		c.change(spec)
		if got, exit := run(t, p, spec); got != c.want || !exit.OK() {
			t.Errorf("the image %s: got %q and exit %+v, want %q", what, got, exit, c.want)
		}
	}
}

func TestAnImageFromScratchRunsAndIsRecordedWithItsDigest(t *testing.T) {
	t.Parallel()
	e := dockertest.Shared(t)
	agent, err := os.ReadFile(dockertest.Agent(t)) // a static program that is at hand
	if err != nil {
		t.Fatal(err)
	}
	image := e.ImageOf(t, "dayfly-test/scratch:1", map[string][]byte{"program": agent}, `ENTRYPOINT ["/program", "version"]`)
	p := newProvider(t, nil)
	spec := fresh(t, e, image)
	if got, exit := run(t, p, spec); !strings.HasPrefix(got, "dayfly-agent") || !exit.OK() {
		t.Errorf("an image from scratch: got %q and exit %+v, want the version", got, exit)
	}
	m, err := p.Get(t.Context(), spec.Name)
	if err != nil || !strings.HasPrefix(m.Image, image+"@sha256:") {
		t.Errorf("the machine's image: got %+v and error %v, want %s with a digest", m, err, image)
	}
}

func TestAContainerMayDoNoMoreThanItNeeds(t *testing.T) {
	t.Parallel()
	e := dockertest.Shared(t)
	image := e.Image(t, "dayfly-test/bb:1")
	status := "grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null"
	got, _ := run(t, newProvider(t, func(o *docker.Options) { o.Processes = 77 }), fresh(t, e, image, "sh", "-c", status))
	for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "77\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("what a container may do: got %q, want %q in it", got, want)
		}
	}
	got, _ = run(t, newProvider(t, func(o *docker.Options) { o.Capabilities = []string{"CHOWN"} }), fresh(t, e, image, "sh", "-c", status))
	if want := "CapEff:\t0000000000000001"; !strings.Contains(got, want) {
		t.Errorf("what a container with one capability may do: got %q, want %q in it", got, want)
	}
}
