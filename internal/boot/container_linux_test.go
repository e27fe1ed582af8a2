package boot_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/dockertest"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/docker"
)

// staticVariable is set in the environment of this test binary when it was built as programs for containers are.
const staticVariable = "BOOT_TEST_STATIC"

// TestContainers runs the tests whose names begin with TestInContainers in a process of this test binary without C libraries:
// only that can be its own runner in a container.
func TestContainers(t *testing.T) {
	t.Parallel()
	engine := dockertest.Shared(t)
	engine.Image(t, "dayfly-test/bb:1")
	file := filepath.Join(t.TempDir(), "boot.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-trimpath", "-ldflags", "-s -w", "-o", file, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the tests without C libraries: %v\n%s", err, out)
	}
	child := exec.CommandContext(t.Context(), file, "-test.run=^TestInContainers", "-test.v", "-test.timeout=5m")
	child.Env = append(os.Environ(), staticVariable+"=1", "DAYFLY_TEST_DOCKER_HOST="+engine.Host)
	out, err := child.CombinedOutput()
	if passed := strings.Count(string(out), "\n--- PASS: TestInContainers"); err != nil || passed < 4 {
		t.Errorf("got %v and %d tests that passed, want success of at least 4", err, passed)
	}
	t.Logf("%s", out)
}

func containers(t *testing.T) *docker.Provider {
	t.Helper()
	if os.Getenv(staticVariable) == "" {
		t.Skip("runs only as a child of TestContainers")
	}
	t.Parallel()
	p := docker.New(docker.Program{}, &docker.Options{Host: dockertest.Shared(t).Host})
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("got %v, want a provider that can be closed", err)
		}
	})
	return p
}

func TestInContainersTheProgramRunsInAnyImageAndInNone(t *testing.T) {
	for what, image := range map[string]string{"in none": "", "in an image": "dayfly-test/bb:1"} {
		t.Run(what, func(t *testing.T) {
			p := containers(t)
			r, echoed := bootOne(t, newBooter(t, p, "runner", func(o *boot.Options) { o.Spec.Image = image }))
			send(t, r, "hello")
			if got := <-echoed; got != "hello" {
				t.Errorf("got %q back, want hello", got)
			}
			if err := r.Stop(t.Context()); err != nil {
				t.Errorf("Stop: got %v, want nil", err)
			}
			wantGone(t, p, r)
		})
	}
}

func TestInContainersTheEndOfARunnerIsTold(t *testing.T) {
	for what, c := range map[string]struct {
		order string
		want  []string
	}{
		"for want of memory": {"eat", []string{"killed for want of memory", "64 MiB"}},
		"a crash":            {"crash", []string{"status 3", "fatal error: all is lost"}},
	} {
		t.Run(what, func(t *testing.T) {
			p := containers(t)
			r, _ := bootOne(t, newBooter(t, p, "runner", func(o *boot.Options) { o.Spec.Size.MemoryMB = 64 }))
			send(t, r, c.order)
			lost := wantLost(t, r)
			for _, want := range c.want {
				if !strings.Contains(lost.Error(), want) {
					t.Errorf("got %q, want %q in it", lost, want)
				}
			}
			if err := r.Stop(t.Context()); err != nil {
				t.Errorf("Stop: got %v, want nil", err)
			}
		})
	}
}

func TestInContainersABootThatFailsSaysWhyAndLeavesNothing(t *testing.T) {
	for what, c := range map[string]struct {
		role  string
		limit time.Duration
		kind  fault.Kind
		want  []string
	}{
		"a program that panics":   {"panics", time.Minute, fault.Unavailable, []string{"status 2", "there is no configuration"}},
		"a program that ends":     {"ends", time.Minute, fault.Invalid, []string{"dayfly.Main()"}},
		"another build":           {"another build", time.Minute, fault.Invalid, []string{"another build"}},
		"what takes all memory":   {"eats", time.Minute, fault.Invalid, []string{"killed for want of memory", "64 MiB"}},
		"what does not dial home": {"forgets", 3 * time.Second, fault.Unavailable, []string{"has not dialed home", "tcp:", "serving on :8080"}},
	} {
		t.Run(what, func(t *testing.T) {
			p := containers(t)
			b := newBooter(t, p, c.role, func(o *boot.Options) { o.Spec.Size.MemoryMB = 64 })
			ctx, cancel := context.WithTimeout(t.Context(), c.limit)
			defer cancel()
			r, err := b.Boot(ctx, fresh())
			if r != nil || fault.Of(err).General() != c.kind {
				t.Fatalf("Boot: got %v and error %v of kind %q, want kind %q", r, err, fault.Of(err), c.kind)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Boot: got %q, want %q in it", err, want)
				}
			}
			if list, err := p.List(t.Context(), b.Owner()); err != nil || len(list) != 0 {
				t.Errorf("List after Boot has returned: got %v and error %v, want nothing", list, err)
			}
		})
	}
}

func TestInContainersNoRunnerOutlivesAParentThatIsKilled(t *testing.T) {
	p := containers(t)
	pool := "sweep-" + fresh()
	killed := exec.CommandContext(t.Context(), os.Args[0])
	killed.Env = append(os.Environ(), roleVariable+"=container parent", "POOL="+pool)
	out, err := killed.StdoutPipe()
	if err == nil {
		err = killed.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	names := strings.Fields(line)
	if err != nil || len(names) != 3 {
		t.Fatalf("the parent said %q (%v), want the names of three runners", line, err)
	}
	began := time.Now()
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = killed.Wait() // it was killed
	for _, name := range names {
		eventually(t, "the container "+name+" to exit", func() bool {
			m, err := p.Get(t.Context(), name)
			return err == nil && m.State == machine.Exited
		})
	}
	t.Logf("the containers had exited %v after their parent was killed", time.Since(began).Round(time.Millisecond))
	newBooter(t, p, "runner", nil, pool)
	for _, name := range names {
		eventually(t, "the container "+name+" to be swept", func() bool {
			_, err := p.Get(t.Context(), name)
			return errors.Is(err, fault.NotFound)
		})
	}
}
