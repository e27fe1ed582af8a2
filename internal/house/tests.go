package house

import (
	"go/ast"
	"path"
	"slices"
	"strconv"
	"strings"
)

func testRules() []Rule {
	return []Rule{{
		Name:  "TestsDoNotSleep",
		Why:   "a test that sleeps is slow when it passes and wrong when the computer is busy",
		Mend:  "wait for the condition itself: a channel, a poll with a deadline, or testing/synctest, inside whose bubble sleeping is free",
		Check: checkSleep,
	}, {
		Name:  "TestsSkipOnlyForAKnownReason",
		Why:   "a skipped test looks like one that passed; each reason must be one that somebody has agreed to",
		Mend:  "make the test run everywhere, or add the reason, with why it cannot be helped, to internal/house/tests.go",
		Check: checkSkips,
	}, {
		Name:  "EveryBackendRunsItsSuite",
		Why:   "a capability's suite is its specification: a backend that does not run it is not known to be one",
		Mend:  "call the suite's Run from a test in the backend's folder; docs/adding-a-provider.md shows how",
		Check: checkSuites,
	}}
}

func checkSleep(t *Tree) []Finding {
	var found []Finding
	for f := range t.testFiles {
		ast.Inspect(f.Go, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			switch maker(call) {
			case "synctest.Test":
				return false // its clock is not the computer's
			case "time.Sleep":
				found = append(found, t.at(f, call, "time.Sleep"))
			}
			return true
		})
	}
	return found
}

// skip is a reason for which a test may be skipped: how it begins, and why it cannot be helped.
type skip struct {
	reason string
	why    string
}

func skips() []skip {
	return []skip{
		{"the harness offers no", "a suite offers cases that not every backend can take part in"},
		{"the provider is no", "a provider has those optional interfaces that its machines can do"},
		{"runs only as a child of", "the test is the other process of a test that does run"},
		{"this computer has no usable cgroups", "limits are the kernel's, and a container may be given none; the fallback is tested everywhere"},
		{"no pids controller", "limits are the kernel's, and a container may be given none"},
		{"no cpu controller", "limits are the kernel's, and a container may be given none"},
		{"no memory controller", "limits are the kernel's, and a container may be given none"},
		{"no controllers", "limits are the kernel's, and a container may be given none"},
		{"only a cgroup of version 2", "the older hierarchy cannot promise it"},
		{"this computer lets nobody limit", "limits are the kernel's, and a container may be given none"},
		{"this computer lets nobody mount", "a full disk takes a file system of its own"},
		{"only root can mount", "a full disk takes a file system of its own"},
		{"only root can start a supervisor as another user", "the limit is the kernel's on a user, and it does not hold for root"},
		{"this user cannot mount", "a full disk takes a file system of its own"},
		{"this kernel allows no mount namespace", "a full disk takes a file system of its own"},
		{"this machine lets nobody mount", "a full disk takes a file system of its own"},
		{"no container can be made here", "namespaces are the kernel's, and not everybody may make them or mount in them"},
		{"this user cannot make an opening wait", "fanotify, which stands for a file system that does not answer, is for root and an option of the kernel"},
		{"no jobs yet", "a random walk draws another step when one does not apply; it skips the step, not the test"},
		{"no attempts yet", "a random walk draws another step when one does not apply; it skips the step, not the test"},
		{"no machines of pools yet", "a random walk draws another step when one does not apply; it skips the step, not the test"},
		{"not a move of an active job", "a random walk draws another step when one does not apply; it skips the step, not the test"},
		{"it takes long", "only with -short"},
		{"only Linux", "the test is about something that only Linux has"},
	}
}

func checkSkips(t *Tree) []Finding {
	var found []Finding
	for f := range t.testFiles {
		ast.Inspect(f.Go, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			receiver, method, ok := strings.Cut(maker(call), ".")
			if !ok || !slices.Contains([]string{"t", "b", "f", "tb"}, receiver) {
				return true
			}
			switch method {
			case "SkipNow":
				found = append(found, t.at(f, call, "%s.SkipNow gives no reason", receiver))
			case "Skip", "Skipf":
				if reason := firstString(call); !isKnownSkip(reason) {
					found = append(found, t.at(f, call, "%s.%s for a reason that is not listed: %q", receiver, method, reason))
				}
			}
			return true
		})
	}
	return found
}

// firstString returns the first argument when it is a string literal, and "" otherwise.
func firstString(call *ast.CallExpr) string {
	if len(call.Args) == 0 {
		return ""
	}
	literal, ok := call.Args[0].(*ast.BasicLit)
	if !ok {
		return ""
	}
	text, err := strconv.Unquote(literal.Value)
	if err != nil {
		return ""
	}
	return text
}

func isKnownSkip(reason string) bool {
	return slices.ContainsFunc(skips(), func(s skip) bool { return strings.HasPrefix(reason, s.reason) })
}

// checkSuites checks that every folder directly below a capability that has a suite runs it.
func checkSuites(t *Tree) []Finding {
	var found []Finding
	dirs, files := t.packages()
	for _, dir := range dirs {
		capability := path.Dir(dir)
		suite := path.Base(capability) + "test"
		if len(files[path.Join(capability, suite)]) == 0 || path.Base(dir) == suite {
			continue
		}
		if !t.runs(dir, suite) {
			found = append(found, Finding{Path: dir, What: "no test of this folder calls " + suite + ".Run"})
		}
	}
	return found
}

// runs reports whether a test in the folder calls SUITE.Run.
func (t *Tree) runs(dir, suite string) bool {
	for _, f := range t.Files {
		if f.Go == nil || !f.Test() || f.Dir() != dir {
			continue
		}
		called := false
		ast.Inspect(f.Go, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && maker(call) == suite+".Run" {
				called = true
			}
			return !called
		})
		if called {
			return true
		}
	}
	return false
}
