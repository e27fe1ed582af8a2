//go:build linux

package survival_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/dockertest"
)

// TestMain runs the tests, or, when it was started by one of them, the helper they asked for: this binary is also the
// nanny of the servers, the command of the jobs that a shell cannot play, and a program that calls its own functions.
func TestMain(m *testing.M) {
	dayfly.Main() // or a runner that programs share, see shareRunner
	if len(os.Args) > 2 && os.Args[1] == helperMark {
		os.Exit(help(os.Args[2], os.Args[3:]))
	}
	flag.Parse()
	// Nearly all of the time these tests wait, so more of them can run at once than there are processors.
	if !isSet("test.parallel") {
		_ = flag.Set("test.parallel", "6")
	}
	code := dockertest.Main(m)
	_ = os.RemoveAll(workshop())
	os.Exit(code)
}

func isSet(name string) bool {
	found := false
	flag.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

// workshop is the directory that the binaries are built into. It belongs to this process.
func workshop() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("dayfly-survival-%d", os.Getpid()))
}

// build makes the two binaries, once for all tests: the server's with failpoints. They are built as a release is, so that
// most of what is compiled for one is there already.
var build = sync.OnceValue(func() error {
	if err := os.MkdirAll(workshop(), 0o755); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", "failpoint", "-o", workshop()+"/", "./cmd/dayfly", "./cmd/dayfly-agent")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, output)
	}
	return nil
})

// binary returns the path of the server's binary, once it has been built.
func binary() string { return filepath.Join(workshop(), "dayfly") }
