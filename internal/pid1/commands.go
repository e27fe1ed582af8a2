package pid1

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/internal/process"
)

// Commands says what [Command] takes, for a program's help. NAME stands for how the program is called.
const Commands = `  NAME init --lifetime D [--exit FILE] [--order FILE] -- PROGRAM [ARGUMENT]...
        Runs a program as the first process of a container: collects what ends there, passes signals on, and after
        the lifetime ends everything, first with SIGTERM and 5 seconds later for good. Exits with the program's
        status, or 128 and the number of the signal that ended it; what that does not say goes into FILE as JSON,
        which is there before. When somebody removes the FILE, the container is taken for removed, and ends. Signal 35
        makes it read the FILE of the order: "suspend" halts everything else in the container, "resume" undoes that.

  NAME exec [--dir DIR] [--columns N --rows N] -- PROGRAM [ARGUMENT]...
        Becomes the program, in the directory and on a terminal of that size.

  NAME kill VARIABLE=VALUE
        Ends the processes of this container that have the variable in their environment.
`

// Command carries out one of [Commands] for a program of that name, and returns the status to exit with. An error is a
// command line that makes no sense, and flag.ErrHelp one that asks for help. known is false, and nothing was done, for the
// name of any other command. The clock is that of [Run].
func Command(program, name string, args []string, clock func() time.Duration) (status int, known bool, err error) {
	say := func(format string, words ...any) { fmt.Fprintf(os.Stderr, program+": "+format+"\n", words...) }
	switch name {
	case "init":
		status, err = initCommand(args, clock, say)
	case "exec":
		status, err = execCommand(args, say)
	case "kill":
		if len(args) != 1 || !strings.Contains(args[0], "=") {
			return 0, true, errors.New("kill needs one VARIABLE=VALUE")
		}
		Kill(args[0])
	default:
		return 0, false, nil
	}
	return status, true, err
}

// initCommand runs a program as the first process of a container.
func initCommand(args []string, clock func() time.Duration, say func(string, ...any)) (int, error) {
	flags := flag.NewFlagSet("init", flag.ContinueOnError)
	lifetime := flags.Duration("lifetime", 0, "")
	file := flags.String("exit", "", "")
	orders := flags.String("order", "", "")
	argv, err := parse(flags, args)
	if err != nil {
		return 0, err
	}
	if *lifetime <= 0 {
		return 0, errors.New("init needs --lifetime, longer than 0")
	}
	var note *Note
	removed := func() bool { return false }
	if *file != "" {
		if note, err = Begin(*file); err != nil {
			say("that the machine has begun cannot be kept: %v", err)
		} else {
			removed = note.Removed
		}
	}
	killed := process.KilledForMemory()
	exit := Run(argv, *lifetime, clock, removed, func() Order { return LastOrder(*orders) })
	exit.OOMKilled = !exit.OK() && process.KilledForMemory() > killed // not every engine knows
	if note != nil && Status(&exit) >= Telling {
		if err := note.End(&exit); err != nil {
			say("how the machine ended cannot be kept: %v", err)
		}
	}
	if exit.Message != "" {
		say("%s", exit.Message)
	}
	return Status(&exit), nil
}

// execCommand becomes another program.
func execCommand(args []string, say func(string, ...any)) (int, error) {
	flags := flag.NewFlagSet("exec", flag.ContinueOnError)
	dir := flags.String("dir", "", "")
	columns := flags.Int("columns", 0, "")
	rows := flags.Int("rows", 0, "")
	argv, err := parse(flags, args)
	if err != nil {
		return 0, err
	}
	status, err := Exec(argv, *dir, *columns, *rows)
	say("%v", err)
	return status, nil
}

// parse parses the flags of a command that runs another one, which comes after them.
func parse(flags *flag.FlagSet, args []string) (argv []string, err error) {
	flags.SetOutput(io.Discard)
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", flags.Name(), err)
	}
	if flags.NArg() == 0 || flags.Arg(0) == "" {
		return nil, fmt.Errorf("%s needs a program to run", flags.Name())
	}
	return flags.Args(), nil
}
