package local_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
	"github.com/dayfly-run/dayfly/machine/machinetest"
)

func TestProvider(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		write := []string{"sh", "-c", "for i in 1 2 3; do head -c 3m /dev/zero > f$i || exit 1; done; exec sleep 600"}
		exceeds := []machine.Spec{{Command: write, Size: machine.Size{DiskMB: 4}}}
		if newProvider(t, newDir(t), scan).Abilities().Memory {
			eat := []string{"tail", "/dev/zero"}
			exceeds = append(exceeds, machine.Spec{Command: eat, Size: machine.Size{MemoryMB: 32}})
		}
		machinetest.Run(t, machinetest.Harness{
			New: func(t *testing.T) machine.Provider { return newProvider(t, newDir(t), scan) },
			Reopen: func(t *testing.T, old machine.Provider) machine.Provider {
				p := old.(*testProvider)
				if err := p.Close(); err != nil {
					t.Fatal(err)
				}
				return newProvider(t, p.dir, scan)
			},
			Spec:  machine.Spec{Command: []string{"sh", "-c", "sleep 600 & wait"}},
			Exits: machine.Spec{Command: []string{"sh", "-c", "exit $CODE"}},
			// Each case has its own directory, and a supervisor of its own there.
			Parallel: true,
			Alive:    func(t *testing.T, m *machine.Machine) bool { return environment(t, m) != nil },
			Agent: func(t *testing.T, m *machine.Machine) *machine.Agent {
				for _, variable := range environment(t, m) {
					if text, ok := strings.CutPrefix(variable, agentVariable+"="); ok {
						var agent machine.Agent
						if err := json.Unmarshal([]byte(text), &agent); err != nil {
							t.Fatal(err)
						}
						return &agent
					}
				}
				return nil
			},
			Script:  machine.Spec{Command: []string{"sh", "-c", `eval "$SCRIPT"`}},
			Program: machine.Spec{Program: &machine.Program{File: shell(t), Args: []string{"-c", `eval "$SCRIPT"`}}},
			Exceeds: exceeds,
			Refused: []machine.Spec{
				{Image: "debian"},
				{Region: "ams"},
				{User: "nobody"},
				{Size: machine.Size{GPU: "a100-pcie-40gb"}},
				{Size: machine.Size{MemoryMB: 1 << 30}},
				{Size: machine.Size{CPUs: 4096}},
				{Env: map[string]string{"LARGE": strings.Repeat("x", 1<<20)}},
			},
		})
	})
}

// environment returns the environment of a process that runs in the machine, or nil when there is none.
func environment(t *testing.T, m *machine.Machine) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // The process has ended meanwhile, or is somebody else's.
		}
		if env := strings.Split(string(text), "\x00"); slices.Contains(env, "DAYFLY_MACHINE="+m.Name) {
			return env
		}
	}
	return nil
}

// shell returns the path of the shell.
func shell(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// modes runs a test with and without cgroups.
func modes(t *testing.T, test func(t *testing.T, scan bool)) {
	t.Run("with cgroups", func(t *testing.T) { t.Parallel(); test(t, false) })
	t.Run("by search", func(t *testing.T) { t.Parallel(); test(t, true) })
}

// testProvider is a provider that knows where it is.
type testProvider struct {
	*local.Provider
	dir string
}

// newDir returns a state directory, longer than the address of a socket can be, whose supervisors are ended with the
// test and which must hold no process then.
func newDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("a-very-long-name/", 8))
	t.Cleanup(func() { endSupervisors(t, dir) })
	return dir
}

func newProvider(t *testing.T, dir string, scan bool, args ...string) *testProvider {
	t.Helper()
	return newProviderWith(t, dir, scan, nil, args...)
}

// newProviderWith returns a provider whose options were changed, and whose supervisors get more arguments.
func newProviderWith(t *testing.T, dir string, scan bool, change func(*local.Options), args ...string) *testProvider {
	t.Helper()
	o := local.Options{
		Dir:            dir,
		Supervisor:     append([]string{os.Args[0], "supervise"}, args...),
		AnswerTimeout:  10 * time.Second, // The computer may be busy.
		DisableCgroups: scan,
	}
	if scan {
		o.Supervisor = append(o.Supervisor, "scan")
	}
	if change != nil {
		change(&o)
	}
	p, err := local.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("got %v, want a provider that can be closed", err)
		}
	})
	return &testProvider{Provider: p, dir: dir}
}

// running runs Run until the test ends.
func running(t *testing.T, p *testProvider) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}
