package dockertest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
)

// The one user that a Registry knows.
const (
	RegistryUser     = "puller"
	RegistryPassword = "let me pull"
)

// registryUsers is the user as htpasswd writes it: the password's bcrypt, as cheap as there is.
const registryUsers = RegistryUser + ":$2y$04$v6kg1UCLqf7w/q3VD0bktO4cRjONzulDcj/SlLmcYqD5vYhQ6JQ6a\n"

// registryConfig has it take a port that is free, which it then says in its log.
const registryConfig = `version: 0.1
log: {level: info, formatter: json, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: "127.0.0.1:0", secret: "of nobody else"}
auth: {htpasswd: {realm: tests, path: %q}}
`

// listening finds the address in the log.
var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:[0-9]+)`)

// Registry is a registry of images that lets in nobody but RegistryUser. Engines of the same computer speak plain HTTP with
// it, as they do with any registry at 127.0.0.1.
type Registry struct {
	Host string // what the names of its images begin with: "127.0.0.1:40123"
}

// StartRegistry returns an empty registry that ends with the test.
func StartRegistry(t testing.TB) *Registry {
	t.Helper()
	if _, err := exec.LookPath("docker-registry"); err != nil {
		t.Fatal("dockertest: docker-registry is not installed; run scripts/setup, or: apt-get install --no-install-recommends docker-registry")
	}
	dir := t.TempDir()
	users, config, log := filepath.Join(dir, "users"), filepath.Join(dir, "config.yml"), filepath.Join(dir, "log")
	for file, text := range map[string]string{users: registryUsers, config: fmt.Sprintf(registryConfig, filepath.Join(dir, "images"), users)} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.CommandContext(context.Background(), "docker-registry", "serve", config)
	cmd.Stdout, cmd.Stderr = out, out
	d, err := spawn(cmd)
	if err != nil {
		t.Fatalf("dockertest: starting the registry: %v", err)
	}
	t.Cleanup(func() {
		_ = d.process.Kill() // unless it has ended already
		<-d.ended
	})
	late := time.After(patience)
	for {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if found := listening.FindSubmatch(text); found != nil {
			return &Registry{Host: string(found[1])}
		}
		select {
		case <-d.ended:
			t.Fatalf("dockertest: the registry has ended at once; its log says:\n%s", text)
		case <-late:
			t.Fatalf("dockertest: the registry does not listen; its log says:\n%s", text)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Move moves an image that an engine has under a name of this registry, "127.0.0.1:40123/acme/tool:1", into the registry:
// the engine has it no more. It returns the digest that the registry has given it.
func (r *Registry) Move(t testing.TB, e *Engine, repository, tag string) (digest string) {
	t.Helper()
	ref := r.Host + "/" + repository + ":" + tag
	auth, err := authconfig.Encode(registry.AuthConfig{Username: RegistryUser, Password: RegistryPassword, ServerAddress: r.Host})
	if err != nil {
		t.Fatal(err)
	}
	push, err := e.Client.ImagePush(t.Context(), ref, client.ImagePushOptions{RegistryAuth: auth})
	if err == nil {
		err = push.Wait(t.Context())
	}
	if err != nil {
		t.Fatalf("dockertest: pushing %s: %v", ref, err)
	}
	if _, err := e.Client.ImageRemove(t.Context(), ref, client.ImageRemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodHead, "http://"+r.Host+"/v2/"+repository+"/manifests/"+tag, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth(RegistryUser, RegistryPassword)
	request.Header.Set("Accept", "application/vnd.docker.distribution.manifest.v2+json")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if digest = answer.Header.Get("Docker-Content-Digest"); answer.StatusCode != http.StatusOK || digest == "" {
		t.Fatalf("dockertest: the registry's answer about %s: got status %d and digest %q, want 200 and one", ref, answer.StatusCode, digest)
	}
	return digest
}
