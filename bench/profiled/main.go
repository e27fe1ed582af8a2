// Command profiled is the dayfly command with a CPU profile of each of its processes, for bench -profile. It is built
// in place of cmd/dayfly, so that the program people run has no switch for it.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"

	"github.com/dayfly-run/dayfly/internal/cli"
)

func main() { os.Exit(run()) }

// run writes the profile to a file that is named after the subcommand and the process, in the directory that the file
// "profiles" beside this program names. The environment would not do, because a server gives its supervisors none.
func run() int {
	dir, err := directory()
	if err != nil {
		fmt.Fprintln(os.Stderr, "profiled:", err)
		return 1
	}
	name := "dayfly"
	if len(os.Args) > 1 {
		name = filepath.Base(os.Args[1])
	}
	file, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-%d.pprof", name, os.Getpid())))
	if err != nil {
		fmt.Fprintln(os.Stderr, "profiled:", err)
		return 1
	}
	defer file.Close()
	if err := pprof.StartCPUProfile(file); err != nil {
		fmt.Fprintln(os.Stderr, "profiled:", err)
		return 1
	}
	defer pprof.StopCPUProfile()
	return cli.Main("profiled")
}

func directory() (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir, err := os.ReadFile(filepath.Join(filepath.Dir(program), "profiles"))
	return string(dir), err
}
