package cli

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes this test binary the dayfly command too, which the transcripts and the supervisors of machines run.
func TestMain(m *testing.M) {
	// These tests wait for servers and machines much more than they compute, so more of them run at once than there are
	// processors, unless -parallel says otherwise.
	if err := flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	called := os.Args[0] // testscript leaves only the name of it
	testscript.Main(m, map[string]func(){
		"dayfly": func() {
			os.Args[0] = called
			os.Exit(Main("v0-test"))
		},
	})
}

// TestTranscripts runs the transcripts in testdata: real commands, with real servers, agents and stores.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			return setup(e.WorkDir, e.Setenv)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"code":    exitsWith,
			"capture": capture,
			"until":   until,
			"port":    freePort,
		},
	})
}

// setup gives a test a home of its own.
func setup(dir string, setenv func(key, value string)) error {
	setenv("HOME", filepath.Join(dir, "home"))
	setenv("XDG_STATE_HOME", filepath.Join(dir, "state"))
	setenv("LC_ALL", "C.UTF-8")
	return os.MkdirAll(filepath.Join(dir, "home"), 0o700)
}

// exitsWith runs a command that must exit with a code: code CODE COMMAND ARG...
func exitsWith(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code CODE COMMAND ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// capture keeps what a command prints in a variable: capture NAME COMMAND ARG...
func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: capture NAME COMMAND ARG...")
	}
	ts.Check(ts.Exec(args[1], args[2:]...))
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// until repeats a command until its standard output matches: until REGEXP COMMAND ARG...
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until REGEXP COMMAND ARG...")
	}
	want := regexp.MustCompile(`(?m)` + args[0])
	deadline := time.Now().Add(30 * time.Second)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s does not print %s within 30s (%v)", strings.Join(args[1:], " "), args[0], err)
		}
		<-time.After(pause)
	}
}

// freePort puts a free port into a variable: port NAME
func freePort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: port NAME")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	defer listener.Close()
	ts.Setenv(args[0], fmt.Sprint(listener.Addr().(*net.TCPAddr).Port))
}
