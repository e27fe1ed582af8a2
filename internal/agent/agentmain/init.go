package agentmain

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/pid1"
	"github.com/dayfly-run/dayfly/internal/process"
)

// initMode runs a program as the first process of a container.
func initMode(args []string) int {
	flags := flag.NewFlagSet("init", flag.ContinueOnError)
	lifetime := flags.Duration("lifetime", 0, "")
	file := flags.String("exit", "", "")
	argv, code, ok := parseCommand(flags, args)
	if !ok {
		return code
	}
	if *lifetime <= 0 {
		return refuse("init needs --lifetime, longer than 0")
	}
	killed := process.KilledForMemory()
	exit := pid1.Run(argv, *lifetime, agent.BootClock)
	exit.OOMKilled = !exit.OK() && process.KilledForMemory() > killed // not every engine knows
	if *file != "" && pid1.Status(&exit) >= pid1.Telling {
		if err := pid1.WriteExit(*file, &exit); err != nil {
			fmt.Fprintf(os.Stderr, "dayfly-agent: how the machine ended cannot be kept: %v\n", err)
		}
	}
	if exit.Message != "" {
		fmt.Fprintln(os.Stderr, "dayfly-agent: "+exit.Message)
	}
	return pid1.Status(&exit)
}

// execMode becomes another program.
func execMode(args []string) int {
	flags := flag.NewFlagSet("exec", flag.ContinueOnError)
	dir := flags.String("dir", "", "")
	columns := flags.Int("columns", 0, "")
	rows := flags.Int("rows", 0, "")
	argv, code, ok := parseCommand(flags, args)
	if !ok {
		return code
	}
	code, err := pid1.Exec(argv, *dir, *columns, *rows)
	fmt.Fprintf(os.Stderr, "dayfly-agent: %v\n", err)
	return code
}

// killMode ends the processes of a container that have a variable in their environment.
func killMode(args []string) int {
	if len(args) != 1 || !strings.Contains(args[0], "=") {
		return refuse("kill needs one VARIABLE=VALUE")
	}
	pid1.Kill(args[0])
	return 0
}
