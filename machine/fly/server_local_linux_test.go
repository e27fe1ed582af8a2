package fly_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/agent/agentmain"
	"github.com/dayfly-run/dayfly/internal/flyapi"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/fly"
	"github.com/dayfly-run/dayfly/machine/local"
	"github.com/dayfly-run/dayfly/machine/machinetest"
)

// TestMain lets the test binary be the agent, and the supervisor of machines of this computer: whatever go test starts
// it with begins with a dash and "test".
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || !strings.HasPrefix(os.Args[1], "-test.") {
		os.Exit(agentmain.Main(os.Args[1:], "test"))
	}
	os.Exit(m.Run())
}

// TestProviderOverADayflyServer runs the suite against Dayfly's Machines API over processes of this computer: real
// agents that keep their lifetimes, real commands and real exits.
func TestProviderOverADayflyServer(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	apis := map[machine.Provider]*dayfly{}
	connect := func(api *dayfly) machine.Provider {
		p := fly.New(app, token, &fly.Options{URL: api.url, Image: "worker:1", Agent: self, Rate: -1})
		apis[p] = api
		return p
	}
	machinetest.Run(t, machinetest.Harness{
		New: func(t *testing.T) machine.Provider {
			dir := t.TempDir()
			inner, err := local.New(local.Options{
				Dir: filepath.Join(dir, "machines"), Supervisor: []string{self, "supervise"}, AnswerTimeout: 10 * time.Second,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := inner.Close(); err != nil {
					t.Error(err)
				}
				endSupervisors(t, filepath.Join(dir, "machines"))
			})
			images := &flyapi.Images{Known: []flyapi.Image{{Pattern: "worker:*", Command: []string{"true"}}}}
			return connect(serveDayfly(t, flyapi.Options{
				Provider: inner, Ledger: filepath.Join(dir, "fly.db"), Images: images,
				// This computer may have less than the smallest of Fly's machines.
				MaxCPUs: 1, MaxMemoryMB: 256,
			}))
		},
		Reopen: func(_ *testing.T, old machine.Provider) machine.Provider { return connect(apis[old]) },
		Spec:   machine.Spec{Agent: &machine.Agent{URL: "http://127.0.0.1:1", Attempt: "a", Token: "t"}},
		Exits:  machine.Spec{Command: []string{"sh", "-c", "exit $CODE"}},
		Script: machine.Spec{Command: []string{"sh", "-c", `eval "$SCRIPT"`}},
		Alive:  func(t *testing.T, m *machine.Machine) bool { return environment(t, m) != nil },
		Agent: func(t *testing.T, m *machine.Machine) *machine.Agent {
			env := environment(t, m)
			if env == nil || env["DAYFLY_AGENT_TOKEN"] == "" {
				return nil
			}
			return agentOf(env)
		},
		NoTerminal: true, CommandsAreWhole: true,
		Settle: 10 * time.Second, Lifetime: 2 * time.Second,
	})
}

// environment returns the environment of a process that runs in the machine, or nil when there is none.
func environment(t *testing.T, m *machine.Machine) map[string]string {
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
		if variables := strings.Split(string(text), "\x00"); slices.Contains(variables, "FLY_MACHINE_ID="+m.ID) {
			env := map[string]string{}
			for _, variable := range variables {
				key, value, _ := strings.Cut(variable, "=")
				env[key] = value
			}
			return env
		}
	}
	return nil
}

// endSupervisors ends the supervisors of a state directory.
func endSupervisors(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		words := strings.Split(string(text), "\x00")
		if err != nil || len(words) < 4 || words[1] != "supervise" || !strings.HasPrefix(words[3], dir) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
	}
}
