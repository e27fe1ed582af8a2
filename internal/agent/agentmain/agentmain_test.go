package agentmain_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/agent/agentmain"
	"github.com/dayfly-run/dayfly/internal/agent/memhome"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
)

// TestMain lets the test binary be the agent: whatever go test starts it with begins with a dash and "test".
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		os.Exit(roles[os.Args[1]](os.Args[2:]))
	}
	if len(os.Args) < 2 || !strings.HasPrefix(os.Args[1], "-test.") {
		os.Exit(agentmain.Main(os.Args[1:], "1.2.3"))
	}
	os.Exit(m.Run())
}

// roles is what else the test binary can be.
var roles = map[string]func(args []string) int{}

// program returns a command that runs the agent with an environment of nothing but PATH and what is given.
func program(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self, args...)
	c.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	return c
}

func exitCode(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args   []string
		code   int
		output string
	}{
		"Version":            {[]string{"version"}, 0, "dayfly-agent 1.2.3\n"},
		"Help":               {[]string{"help"}, 0, "DAYFLY_AGENT_ATTEMPT"},
		"HelpOfACommand":     {[]string{"run", "-h"}, 0, "DAYFLY_AGENT_ATTEMPT"},
		"Nothing":            {nil, 2, "say what to do"},
		"UnknownCommand":     {[]string{"walk"}, 2, `there is no command "walk"`},
		"UnknownFlag":        {[]string{"run", "--fast"}, 2, "-fast"},
		"UnexpectedArgument": {[]string{"run", "it"}, 2, `run takes no argument "it"`},
		"RunWithoutAttempt":  {[]string{"run"}, 2, "DAYFLY_AGENT_URL is not set"},
		"RunForNoTime":       {[]string{"run", "--lifetime", "0s"}, 2, "the lifetime is 0s"},
		"SuperviseNothing":   {[]string{"supervise"}, 2, "supervise needs --dir"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			output, err := program(t, nil, c.args...).CombinedOutput()
			if got := exitCode(err); got != c.code || !strings.Contains(string(output), c.output) {
				t.Errorf("exit %d with %q, want %d and %q in it", got, output, c.code, c.output)
			}
		})
	}
}

// agentEnv returns the environment that a container's provider gives the agent.
func agentEnv(boot machine.Agent) []string {
	return []string{"DAYFLY_AGENT_URL=" + boot.URL, "DAYFLY_AGENT_ATTEMPT=" + boot.Attempt, "DAYFLY_AGENT_TOKEN=" + boot.Token, "COLOR=blue"}
}

func shell(text string) wire.Assignment {
	return wire.Assignment{Name: "test", Command: []string{"sh", "-c", text}, HeartbeatMS: 100, KillGraceMS: 5000, OrphanAfterMS: 60_000}
}

func TestRunCarriesOutTheAttemptOfItsEnvironment(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	job := shell(`env | grep -e DAYFLY_AGENT -e COLOR; pwd; echo '"value"' > "$DAYFLY_RESULT"; exit 3`)
	boot := home.Add(job)
	dir := t.TempDir()
	c := program(t, agentEnv(boot), "run", "--work", dir)
	var output bytes.Buffer
	c.Stderr = &output
	if err := c.Run(); err != nil {
		t.Fatalf("the agent ended with %v although its result was accepted: %s", err, output.String())
	}
	a := home.Attempt(boot.Attempt)
	if a.Result == nil || a.Result.Exit == nil || a.Result.Exit.Code != 3 || string(a.Result.Value) != `"value"` {
		t.Fatalf("result %+v", a.Result)
	}
	if got, want := string(a.Streams[wire.Stdout].Data), "COLOR=blue\n"+dir+"\n"; got != want {
		t.Errorf("stdout = %q, want %q: the image's variables, and none of the agent's", got, want)
	}
	if a.Result.AgentInfo != "1.2.3" {
		t.Errorf("agent %q, want its version", a.Result.AgentInfo)
	}
}

func TestRunOfARefusedAttemptExitsWith75(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	boot := home.Add(shell("echo ran > ran"))
	home.Supersede(boot.Attempt)
	dir := t.TempDir()
	output, err := program(t, agentEnv(boot), "run", "--work", dir).CombinedOutput()
	if got := exitCode(err); got != agent.ExitNotOurs || !strings.Contains(string(output), "the attempt is over") {
		t.Errorf("exit %d with %q, want %d and why", got, output, agent.ExitNotOurs)
	}
	if strings.Contains(string(output), boot.Token) {
		t.Errorf("the token is in the log: %q", output)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in the working directory: %v, %v", left, err)
	}
}

func TestSIGTERMEndsRunAndWhatItRuns(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	boot := home.Add(shell(`trap "" TERM; setsid sleep 3600 & echo $! $$; while :; do sleep 0.1; done`))
	c := program(t, agentEnv(boot), "run", "--work", t.TempDir())
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	a := home.Await(boot.Attempt, "it runs", func(a memhome.Attempt) bool { return len(a.Streams[wire.Stdout].Data) > 0 })
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := exitCode(c.Wait()); got != agent.ExitNotOurs {
		t.Errorf("exit %d, want %d", got, agent.ExitNotOurs)
	}
	for _, pid := range strings.Fields(string(a.Streams[wire.Stdout].Data)) {
		if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") {
			t.Errorf("process %s is alive: %s", pid, stat)
		}
	}
}

func TestRunEndsAtTheEndOfItsLifetimeWithAllThatItRuns(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	boot := home.Add(shell(`trap "" TERM; setsid sleep 3600 & echo $! $$; while :; do sleep 0.1; done`))
	c := program(t, agentEnv(boot), "run", "--work", t.TempDir(), "--lifetime", "2s")
	var output bytes.Buffer
	c.Stderr = &output
	if got := exitCode(c.Run()); got != 124 || !strings.Contains(output.String(), "lifetime") {
		t.Errorf("exit %d with %q, want 124 and why", got, output.String())
	}
	for _, pid := range strings.Fields(string(home.Attempt(boot.Attempt).Streams[wire.Stdout].Data)) {
		if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") {
			t.Errorf("process %s is alive: %s", pid, stat)
		}
	}
}

func TestRunOfAnAttemptThatEndsBeforeItsLifetimeSaysNothingOfIt(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	boot := home.Add(shell("exit 3"))
	output, err := program(t, agentEnv(boot), "run", "--work", t.TempDir(), "--lifetime", "10m").CombinedOutput()
	if got := exitCode(err); got != 0 || strings.Contains(string(output), "lifetime") {
		t.Errorf("exit %d with %q, want 0: the result was accepted in time", got, output)
	}
}

// TestLocalMachinesAreCarriedOutByOneSupervisor goes the whole way: a provider makes machines, its supervisor is this
// program, and their agents share its connections.
func TestLocalMachinesAreCarriedOutByOneSupervisor(t *testing.T) {
	t.Parallel()
	home, provider, _ := newLocal(t)
	const machines = 8
	for i := range machines {
		job := shell(fmt.Sprintf("cat in; echo %d; echo out > out.txt", i))
		job.Inputs, job.Outputs = []wire.Input{home.Input("in", []byte("input "))}, []string{"out.txt"}
		boot := home.Add(job)
		boot.URL = "http://127.0.0.1:1" // the provider's Home is newer
		spec := &machine.Spec{
			Name: fmt.Sprintf("m%d", i), Owner: "tests", Lifetime: time.Minute, Agent: &boot, Env: map[string]string{"COLOR": "blue"},
		}
		m, err := provider.Create(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := provider.Destroy(t.Context(), m.ID); err != nil && t.Context().Err() == nil {
				t.Error(err)
			}
		})
	}
	for i := range machines {
		id := fmt.Sprintf("att_%04d", i+1)
		a := home.Await(id, "its result is in", func(a memhome.Attempt) bool { return a.Result != nil })
		if got, want := string(a.Streams[wire.Stdout].Data), fmt.Sprintf("input %d\n", i); got != want || a.Result.Outcome != wire.Succeeded {
			t.Errorf("%s: %s with stdout %q, want %q; %s", id, a.Result.Outcome, got, want, a.Result.Message)
		}
		if !slices.ContainsFunc(a.Result.Artifacts, func(x wire.Artifact) bool { return x.Name == "out.txt" }) {
			t.Errorf("%s: artifacts %v, want out.txt", id, a.Result.Artifacts)
		}
	}
	if n := home.Requests("/claim") + home.Requests("/result"); n > 0 {
		t.Errorf("%d calls were made one by one, want batches", n)
	}
}

// newLocal returns a provider of machines on this computer, whose supervisors are this program, and their server.
func newLocal(t *testing.T) (home *memhome.Home, provider *local.Provider, dir string) {
	t.Helper()
	home, dir = memhome.New(t), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if provider, err = local.New(local.Options{Dir: dir, Supervisor: []string{self, "supervise"}, Home: home.URL()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := provider.Close(); err != nil {
			t.Error(err)
		}
		endSupervisors(t, dir, syscall.SIGTERM)
	})
	return home, provider, dir
}

// endSupervisors ends the supervisors that were started for a state directory of this test.
func endSupervisors(t *testing.T, dir string, by syscall.Signal) {
	t.Helper()
	infos, err := filepath.Glob(filepath.Join(dir, "supervisors", "*", "info.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range infos {
		var info struct {
			PID int `json:"pid"`
		}
		text, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(text, &info)
		}
		line := "/proc/" + strconv.Itoa(info.PID) + "/cmdline"
		if args, readErr := os.ReadFile(line); err != nil || readErr != nil || !bytes.Contains(args, []byte(dir)) {
			continue // it has ended by itself, and the id may be somebody else's
		}
		if err := syscall.Kill(info.PID, by); err != nil {
			t.Error(err)
		}
		deadline := time.Now().Add(20 * time.Second)
		for args := []byte(dir); bytes.Contains(args, []byte(dir)); args, _ = os.ReadFile(line) {
			if time.Now().After(deadline) {
				t.Fatalf("supervisor %d has not ended", info.PID)
			}
			<-time.After(10 * time.Millisecond)
		}
	}
}
