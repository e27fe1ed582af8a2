// These tests test the suite: a provider that is broken in one way must fail in the cases about that and in no other.
package machinetest_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/machinetest"
)

// asChild is set in the environment of the process in which broken providers may fail tests.
const asChild = "MACHINETEST_BROKEN_PROVIDERS"

func harness(open func(b *backend, h *hooks), as func(*hooks) machine.Provider, settle time.Duration) machinetest.Harness {
	var last *backend // cases run one after the other
	return machinetest.Harness{
		New: func(t *testing.T) machine.Provider {
			last = newBackend(t.TempDir(), open)
			t.Cleanup(last.cloud.Close)
			return as(last.provider())
		},
		Reopen:   func(*testing.T, machine.Provider) machine.Provider { return as(last.provider()) },
		Spec:     machine.Spec{Command: []string{"stay"}},
		Exits:    machine.Spec{Command: []string{"exit"}},
		Alive:    func(_ *testing.T, m *machine.Machine) bool { return last.alive(m.Name) },
		Agent:    func(_ *testing.T, m *machine.Machine) *machine.Agent { return last.agent(m.Name) },
		Settle:   settle,
		Lifetime: 300 * time.Millisecond,
		Exceeds:  []machine.Spec{{Command: []string{"take 64 MiB"}, Size: machine.Size{MemoryMB: 32}}},
		Refused:  []machine.Spec{{Image: "debian"}},
		Script:   machine.Spec{Command: []string{"sh", "-c", `eval "$SCRIPT"`}},
		Program:  machine.Spec{Program: &machine.Program{File: "/bin/sh", Args: []string{"-c", `eval "$SCRIPT"`}}},
	}
}

// Each group of providers is broken in something else, and is run through the cases about that alone: there are many,
// and in those about optional interfaces real programs run.

func TestBrokenProviders(t *testing.T) {
	runBroken(t, brokenProviders(), func(h *hooks) machine.Provider { return essential{h, h} }, time.Second)
}

func TestBrokenExecers(t *testing.T) { runBroken(t, brokenInExec(), whole, 8*time.Second) }

func TestBrokenSignalers(t *testing.T) { runBroken(t, brokenInSignals(), whole, 8*time.Second) }

func TestBrokenLoggers(t *testing.T) { runBroken(t, brokenInLogs(), whole, 8*time.Second) }

func TestBrokenPreparers(t *testing.T) { runBroken(t, brokenInPrepare(), whole, 8*time.Second) }

// essential hides every optional interface but one, and brings no programs along.
type essential struct {
	machine.Provider
	machine.Watcher
}

func (e essential) Create(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
	if spec.Program != nil {
		return nil, fmt.Errorf("no program is brought along: %w", fault.Unsupported)
	}
	return e.Provider.Create(ctx, spec)
}

func whole(h *hooks) machine.Provider { return h }

func runBroken(t *testing.T, providers []broken, as func(*hooks) machine.Provider, settle time.Duration) {
	t.Helper()
	if os.Getenv(asChild) == "" {
		t.Skip("runs only as a child of TestTheSuiteFindsEachBrokenProvider")
	}
	t.Parallel()
	for _, b := range append(providers, notBroken()) {
		t.Run(b.how, func(t *testing.T) {
			t.Parallel()
			h := harness(b.open, as, settle)
			if _, optional := as(&hooks{}).(machine.Execer); !optional {
				h.Script = machine.Spec{}
			}
			machinetest.Run(t, h)
		})
	}
}

func notBroken() broken {
	return broken{how: "is not broken", open: func(*backend, *hooks) {}}
}

func TestTheSuiteFindsEachBrokenProvider(t *testing.T) {
	t.Parallel()
	cases := "^TestBrokenProviders$" +
		"|^TestBrokenExecers$/./^(Exec|Commands)" +
		"|^TestBrokenSignalers$/./(Signal|Suspended)" +
		"|^TestBrokenLoggers$/./^(Logs|Following)" +
		"|^TestBrokenPreparers$/./^(Prepare|Files|AProgram)"
	// These print megabytes. Where nothing about that is broken, they would only take time.
	large := []string{"ExecLosesNoOutput", "LogsKeepAMebibyte"}
	largeOnes := "^(" + strings.Join(large, "|") + ")$"
	all := slices.Concat(brokenProviders(), brokenInExec(), brokenInSignals(), brokenInLogs(), brokenInPrepare(), []broken{notBroken()})
	concerned := []string{notBroken().how}
	for _, b := range all {
		if slices.ContainsFunc(large, func(name string) bool { return slices.Contains(b.fails, name) || slices.Contains(b.may, name) }) {
			concerned = append(concerned, regexp.QuoteMeta(b.how))
		}
	}
	those := strings.ReplaceAll(strings.Join(concerned, "|"), " ", "_")
	// Providers that are broken fail the children's tests, so their status says nothing; their report says which.
	out := child(t, "-test.run="+cases, "-test.skip=.//"+largeOnes) +
		child(t, "-test.run=^TestBroken(Execers|Loggers)$/^("+those+")$/"+largeOnes)
	failed, ran := report(out)

	caught := map[string]bool{}
	for _, b := range all {
		key := strings.ReplaceAll(b.how, " ", "_")
		slices.Sort(b.fails)
		got := slices.DeleteFunc(failed[key], func(name string) bool { return slices.Contains(b.may, name) })
		if !slices.Equal(got, b.fails) {
			t.Errorf("a provider that %s: got failures in\n\t%s\nwant\n\t%s", b.how, strings.Join(got, "\n\t"), strings.Join(b.fails, "\n\t"))
		}
		for _, name := range b.fails {
			caught[name] = true
		}
	}
	for name := range ran {
		if !caught[name] {
			t.Errorf("case %s: no broken provider fails in it, want at least one, or it may check nothing", name)
		}
	}
	if len(ran) == 0 || t.Failed() {
		t.Logf("the child said:\n%s", out)
	}
}

// child runs tests of this binary that run only as a child, and returns what they said.
func child(t *testing.T, which ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], append(which, "-test.v", "-test.timeout=5m", "-test.parallel=50")...)
	cmd.Env = append(os.Environ(), asChild+"=1")
	out, _ := cmd.CombinedOutput()
	return string(out)
}

// report returns the cases that failed, sorted, by provider, and all cases that ran, from the output of go test -v.
func report(out string) (failed map[string][]string, ran map[string]bool) {
	line := regexp.MustCompile(`(?m)^ +--- (PASS|FAIL): TestBroken\w+/([^/\s]+)/(\w+) `)
	failed, ran = map[string][]string{}, map[string]bool{}
	for _, m := range line.FindAllStringSubmatch(out, -1) {
		ran[m[3]] = true
		if m[1] != "PASS" {
			failed[m[2]] = append(failed[m[2]], m[3])
		}
	}
	for _, names := range failed {
		slices.Sort(names)
	}
	return failed, ran
}
