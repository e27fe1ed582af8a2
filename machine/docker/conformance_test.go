package docker_test

import (
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/dockertest"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/docker"
	"github.com/dayfly-run/dayfly/machine/machinetest"
)

func TestMain(m *testing.M) {
	// These tests wait for engines much more than they compute, so more of them run at once than there are processors, unless
	// -parallel says otherwise.
	if err := flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	os.Exit(dockertest.Main(m))
}

func TestProvider(t *testing.T) {
	t.Parallel()
	conforms(t, dockertest.Shared(t), 10*time.Second)
}

func TestProviderWithPodman(t *testing.T) {
	t.Parallel()
	conforms(t, dockertest.SharedPodman(t), 30*time.Second) // it starts programs for all that it does, so a busy computer slows it more
}

// conforms checks that machines of an engine are as they must be.
func conforms(t *testing.T, e *dockertest.Engine, settle time.Duration) {
	t.Helper()
	image := e.Image(t, "dayfly-test/here:1", "WORKDIR /tmp") // elsewhere Podman lets nobody write who has no capabilities
	machinetest.Run(t, machinetest.Harness{
		New: func(t *testing.T) machine.Provider { return providerOf(t, e, nil) },
		Reopen: func(t *testing.T, old machine.Provider) machine.Provider {
			if err := old.(*docker.Provider).Close(); err != nil {
				t.Fatal(err)
			}
			return providerOf(t, e, nil)
		},
		Spec:  machine.Spec{Image: image, Command: []string{"sh", "-c", "sleep 600 & wait"}},
		Exits: machine.Spec{Image: image, Command: []string{"sh", "-c", "exit $CODE"}},
		Alive: func(t *testing.T, m *machine.Machine) bool { return len(processes(t, m)) > 0 },
		Agent: func(t *testing.T, m *machine.Machine) *machine.Agent {
			told := map[string]string{}
			for _, dir := range processes(t, m) {
				args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
				if err != nil || !slices.Contains(strings.Split(string(args), "\x00"), "run") || strings.Contains(string(args), "\x00init\x00") {
					continue
				}
				env, err := os.ReadFile(filepath.Join(dir, "environ"))
				if err != nil {
					continue
				}
				for _, entry := range strings.Split(string(env), "\x00") {
					name, value, _ := strings.Cut(entry, "=")
					told[name] = value
				}
			}
			if told["DAYFLY_AGENT_INSTANCE"] != m.Name {
				return nil
			}
			return &machine.Agent{URL: told["DAYFLY_AGENT_URL"], Attempt: told["DAYFLY_AGENT_ATTEMPT"], Token: told["DAYFLY_AGENT_TOKEN"]}
		},
		Exceeds: []machine.Spec{
			{Image: image, Command: []string{"tail", "/dev/zero"}, Size: machine.Size{MemoryMB: 32}},
		},
		Refused: []machine.Spec{
			{Command: []string{"true"}},
			{Image: image, Region: "ams"},
			{Image: image, Size: machine.Size{MemoryMB: 5}},
			{Image: image, Size: machine.Size{CPUs: 4096}},
			{Image: image, Size: machine.Size{CPUs: 0.001}},
			{Image: image, Size: machine.Size{GPU: "a10"}},
			{Image: image, User: "nobody-of-that-name"},
			{Image: "No Image"},
			{Image: image, Files: []machine.File{{Path: "/dayfly/agent"}}},
			{Image: "sha256:0000000000000000000000000000000000000000000000000000000000000000"},
		},
		Script:   machine.Spec{Image: image, Command: []string{"sh", "-c", `eval "$SCRIPT"`}},
		Program:  machine.Spec{Program: &machine.Program{File: busybox(t), Args: []string{"sh", "-c", `eval "$SCRIPT"`}}},
		User:     "1000",
		Parallel: true,
		Settle:   settle,
		Lifetime: 2 * time.Second,
	})
}

// busybox returns the path of a static shell.
func busybox(t *testing.T) string {
	t.Helper()
	for _, file := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	t.Fatal("there is no static busybox; run scripts/setup, or: apt-get install busybox-static")
	return ""
}

// newProvider returns a provider of the shared engine.
func newProvider(t *testing.T, change func(*docker.Options)) *docker.Provider {
	t.Helper()
	return providerOf(t, dockertest.Shared(t), change)
}

func providerOf(t *testing.T, e *dockertest.Engine, change func(*docker.Options)) *docker.Provider {
	t.Helper()
	o := &docker.Options{Host: e.Host, Network: "none"} // a network is a third of what a container costs
	if change != nil {
		change(o)
	}
	p := docker.New(docker.Program{File: dockertest.Agent(t)}, o)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("got %v, want a provider that can be closed", err)
		}
	})
	return p
}

// processes returns the directories in /proc of what runs in a machine's container, as the kernel has them.
func processes(t *testing.T, m *machine.Machine) []string {
	t.Helper()
	id := strings.Fields(m.Location)[1]
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), id) {
			dirs = append(dirs, filepath.Dir(file))
		}
	}
	return dirs
}
