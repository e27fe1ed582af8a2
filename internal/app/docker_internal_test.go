package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine/docker"
)

func TestTheCredentialsOfARegistryAreFoundWhereTheConfigurationSays(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("HUB_TOKEN", "from-env")
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	login := `{"auths": {"quay.io": {"auth": "Y2FybDpmcm9tLWxvZ2lu"}}}` // carl:from-login
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(login), 0o600); err != nil {
		t.Fatal(err)
	}
	d := Docker{Registries: []string{"ghcr.io robot file:" + file, "docker.io me env:HUB_TOKEN", "bad.example me env:NOT_SET_ANYWHERE"}}
	for registry, want := range map[string]*docker.Credentials{
		"ghcr.io": {User: "robot", Password: "from-file"}, "docker.io": {User: "me", Password: "from-env"},
		"quay.io": {User: "carl", Password: "from-login"}, "else.example": nil,
	} {
		got, err := d.credentials(t.Context(), registry)
		if err != nil || (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("credentials of %s: got %+v and error %v, want %+v", registry, got, err, want)
		}
	}
	if _, err := d.credentials(t.Context(), "bad.example"); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "NOT_SET_ANYWHERE") {
		t.Errorf("a password in a variable that is not set: got error %v, want fault.Invalid with its name", err)
	}
}

func TestAnEntryOfARegistryThatCannotBeReadIsRefusedWithoutRepeatingIt(t *testing.T) {
	t.Parallel()
	d := Default().Providers.Docker
	d.Registries = []string{"ghcr.io robot s3cret"}
	err := d.validate()
	if fault.Of(err) != fault.Invalid || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "file:") {
		t.Errorf("an entry with the password itself: got error %v, want fault.Invalid that says how it is written and not what it holds", err)
	}
}

func TestWhyThereIsNoEngineIsSaidWithItsPlace(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "docker.sock")
	d := Docker{Host: "unix://" + missing}
	if got := d.absent(); !strings.Contains(got, missing) || !strings.Contains(got, "DOCKER_HOST") {
		t.Errorf("an engine at a socket that does not exist: got %q, want it to say which, and what to set", got)
	}
	if err := os.WriteFile(missing, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := d.absent(); got != "" {
		t.Errorf("an engine at a socket that exists: got %q, want nothing against it", got)
	}
	d.Host = "tcp://build-1:2376"
	if got := d.absent(); got != "" {
		t.Errorf("an engine elsewhere: got %q, want nothing against it", got)
	}
}

func TestTheDoctorSaysWhyJobsCannotRunInContainers(t *testing.T) {
	t.Parallel()
	c := Default()
	c.Providers.Docker.Host = "unix://" + filepath.Join(t.TempDir(), "docker.sock")
	got := examineContainers(t.Context(), &c.Providers.Docker)
	if got.Result != Note || !strings.Contains(got.Text, "docker.sock") || !strings.Contains(got.Text, "start the engine") {
		t.Errorf("without an engine: got %+v, want a note that says where it was looked for and what to do", got)
	}
}
