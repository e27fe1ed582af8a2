package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheGuideShowsThisProgram(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../../docs/calls.md")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, shown, _ := strings.Cut(string(program), "\n") // without the comment on the package
	if !strings.Contains(string(guide), "```go\n"+shown+"```\n") {
		t.Error("docs/calls.md does not show examples/first-call/main.go as it is; copy it there")
	}
}

func TestTheProgramOfTheGuideRuns(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "first-call")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	out, err := exec.Command(program).Output()
	if err != nil || !strings.Contains(string(out), " has 00000") {
		t.Errorf("got %q, %v, want a number whose hash begins with five zeros", out, err)
	}
}
