package dayfly_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/internal/dockertest"
)

func TestProgramsShareAWarmContainer(t *testing.T) {
	t.Parallel()
	engine, err := dockertest.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	program := filepath.Join(t.TempDir(), "sharer")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./testdata/sharer")
	inherited := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "XDG_CACHE_HOME=") }) // this test's own
	build.Env = append(inherited, "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building a program for containers: %v\n%s", err, out)
	}
	s := startServer(t, serving{Docker: engine.Host, Static: program})

	// Each asks in turn, so the container goes from one to the other and back, and is up all the time.
	var programs []*containerSharer
	for range 2 {
		programs = append(programs, startContainerSharer(t, program, s))
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	first := ""
	for i := range 4 {
		p := programs[i%2]
		container, parent, _ := strings.Cut(p.where(t), " ")
		if first == "" {
			first = container
		}
		if container != first || container == host || parent != fmt.Sprint(p.command.Process.Pid) {
			t.Errorf("call %d: got container %s with parent %s, want %s with parent %d", i, container, parent, first, p.command.Process.Pid)
		}
	}
	for _, p := range programs {
		p.input.Close()
		if err := p.command.Wait(); err != nil {
			t.Errorf("a program that shares containers ended with %v", err)
		}
	}
	eventually(t, "the container to go", func() bool {
		for range s.client(t).Machines(t.Context(), false) {
			return false
		}
		return true
	})
}

// containerSharer is a process of testdata/sharer.
type containerSharer struct {
	command *exec.Cmd
	input   io.WriteCloser
	output  *bufio.Reader
}

func startContainerSharer(t *testing.T, program string, s *fleetServer) *containerSharer {
	t.Helper()
	p := &containerSharer{command: exec.CommandContext(t.Context(), program, s.url, s.token)}
	p.command.Stderr = os.Stderr
	var err error
	if p.input, err = p.command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.output = bufio.NewReader(out)
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// where makes a call and returns what that says.
func (p *containerSharer) where(t *testing.T) string {
	t.Helper()
	if _, err := io.WriteString(p.input, "where\n"); err != nil {
		t.Fatal(err)
	}
	line, err := p.output.ReadString('\n')
	if err != nil {
		t.Fatalf("a call gave nothing: %v", err)
	}
	return strings.TrimSpace(line)
}
