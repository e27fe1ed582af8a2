package docker_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/dockertest"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/docker"
)

// ballast is how much there is to download of an image that is only in a registry, in bytes.
const ballast = 4 << 20

// onlyInRegistry makes an image that prints the agent's version and is nowhere but in the registry, not even its layers.
func onlyInRegistry(t *testing.T, e *dockertest.Engine, r *dockertest.Registry) (ref, digest string) {
	t.Helper()
	program, err := os.ReadFile(dockertest.Agent(t))
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, ballast)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	ref = e.ImageOf(t, r.Host+"/acme/tool:1", map[string][]byte{"program": program, "noise": noise}, `ENTRYPOINT ["/program", "version"]`)
	t.Cleanup(func() { // the engine may be one that others use, too
		_, _ = e.Client.ImageRemove(context.Background(), ref, client.ImageRemoveOptions{Force: true})
	})
	return ref, r.Move(t, e, "acme/tool", "1")
}

// knows returns what has a provider use this user for every registry.
func knows(user, password string) func(*docker.Options) {
	return func(o *docker.Options) {
		o.Credentials = func(context.Context, string) (*docker.Credentials, error) {
			return &docker.Credentials{User: user, Password: password}, nil
		}
	}
}

func TestAnImageOfARegistryIsPulledWithProgressAndRunsWithItsDigest(t *testing.T) {
	t.Parallel()
	e, r := dockertest.Shared(t), dockertest.StartRegistry(t)
	ref, digest := onlyInRegistry(t, e, r)
	p := newProvider(t, knows(dockertest.RegistryUser, dockertest.RegistryPassword))
	spec := fresh(t, e, ref)
	var pulls []machine.Preparation
	if err := p.Prepare(t.Context(), spec, func(r machine.Preparation) {
		if r.Text == "pulling "+ref {
			pulls = append(pulls, r)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if len(pulls) == 0 || pulls[len(pulls)-1].Done != pulls[len(pulls)-1].Total || pulls[len(pulls)-1].Total < ballast {
		t.Errorf("reports of the pull: got %+v, want the last one to say that all of more than %d bytes is done", pulls, ballast)
	}
	for i, report := range pulls {
		if report.Done > report.Total {
			t.Errorf("report %d of the pull: got %d bytes done of %d, want no more than there are", i, report.Done, report.Total)
		}
	}
	if got, exit := run(t, p, spec); !strings.HasPrefix(got, "dayfly-agent") || !exit.OK() {
		t.Errorf("a pulled image: got %q and exit %+v, want the version", got, exit)
	}
	m, err := p.Get(t.Context(), spec.Name)
	if want := ref + "@" + digest; err != nil || m.Image != want {
		t.Errorf("the machine's image: got %+v and error %v, want %s", m, err, want)
	}
}

func TestAnImageThatARegistryDoesNotGiveLeavesNothing(t *testing.T) {
	t.Parallel()
	e, r := dockertest.Shared(t), dockertest.StartRegistry(t)
	ref, digest := onlyInRegistry(t, e, r)
	user := knows(dockertest.RegistryUser, dockertest.RegistryPassword)
	for _, c := range []struct {
		what, ref string
		change    func(*docker.Options)
		words     []string
	}{
		{"nobody", ref, nil, []string{r.Host, "does not let everybody pull", "name a user", "providers.docker.registries"}},
		{"a wrong password", ref, knows(dockertest.RegistryUser, "s3cret"), []string{r.Host, "configured user", "the user's rights", "providers.docker.registries"}},
		{"an unknown user", ref, knows("somebody", "s3cret"), []string{r.Host, "configured user", "providers.docker.registries"}},
		{"no such tag", r.Host + "/acme/tool:2", user, []string{"there is no image " + r.Host + "/acme/tool:2", "check the name and the tag"}},
		{"no such image", r.Host + "/acme/other:1", user, []string{"there is no image " + r.Host + "/acme/other:1", "check the name and the tag"}},
		{"no such digest", r.Host + "/acme/tool@" + digest[:len(digest)-4] + "0000", user, []string{"there is no image " + r.Host + "/acme/tool@", "check the name"}},
	} {
		p := newProvider(t, c.change)
		spec := fresh(t, e, c.ref)
		wantFault(t, c.what+", prepared", p.Prepare(t.Context(), spec, nil), fault.Invalid, c.words...)
		_, err := p.Create(t.Context(), spec)
		wantFault(t, c.what, err, fault.Invalid, c.words...)
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error %q holds the password", c.what, err)
		}
		if m, err := p.Get(t.Context(), spec.Name); !errors.Is(err, fault.NotFound) {
			t.Errorf("%s: got the machine %+v and error %v, want none", c.what, m, err)
		}
		list, err := e.Client.ImageList(t.Context(), client.ImageListOptions{All: true, Filters: make(client.Filters).Add("reference", r.Host+"/*/*")})
		if err != nil || len(list.Items) != 0 {
			t.Errorf("%s: got the images %+v and error %v, want none of the registry at the engine", c.what, list.Items, err)
		}
	}
}

func TestAnImageIsPulledWithWhatDockerLoginHasKept(t *testing.T) {
	t.Parallel()
	e, r := dockertest.Shared(t), dockertest.StartRegistry(t)
	ref, digest := onlyInRegistry(t, e, r)
	file := filepath.Join(t.TempDir(), "config.json")
	pair := base64.StdEncoding.EncodeToString([]byte(dockertest.RegistryUser + ":" + dockertest.RegistryPassword))
	text, err := json.Marshal(map[string]any{"auths": map[string]any{r.Host: map[string]string{"auth": pair}}})
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	p := newProvider(t, func(o *docker.Options) {
		o.Credentials = func(ctx context.Context, registry string) (*docker.Credentials, error) {
			return docker.ReadCredentials(ctx, file, registry)
		}
	})
	// By its digest, as a machine's Image says it, the same image is had again.
	spec := fresh(t, e, ref+"@"+digest)
	if got, exit := run(t, p, spec); !strings.HasPrefix(got, "dayfly-agent") || !exit.OK() {
		t.Errorf("an image pulled by its digest: got %q and exit %+v, want the version", got, exit)
	}
}
