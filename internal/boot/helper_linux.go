package boot

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/internal/pid1"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
)

// Help does what this process is there for if a provider has started its program once more as a helper, see
// [machine.Helper], and returns the status to exit with. helped is false, and nothing was done, for any other process. args
// are those of the process, with its own name. It belongs before everything else that a program does.
func Help(args []string) (status int, helped bool) {
	if len(args) < 3 || args[1] != machine.Helper {
		return 0, false
	}
	command, rest := args[2], args[3:]
	program := programName()
	if command == "supervise" {
		if err := supervise(program, rest); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", program, err)
			return 1, true
		}
		return 0, true
	}
	status, known, err := pid1.Command(program, command, rest, bootClock)
	switch {
	case !known:
		fmt.Fprintf(os.Stderr, "%s: there is no helper %q; this program and whoever has started it are of different versions\n", program, command)
		return 2, true
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s: %v\n", program, err)
		return 2, true
	}
	return status, true
}

// supervisorIdle is how long a supervisor stays when nobody is connected and nothing runs: long enough for a program that
// is started again and again, and not so long that anybody wonders what is left of one that was killed.
const supervisorIdle = 5 * time.Second

// supervise holds the machines of [Local].
func supervise(program string, args []string) error {
	flags := flag.NewFlagSet("supervise", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	dir := flags.String("dir", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *dir == "" || flags.NArg() > 0 {
		return errors.New("supervise needs --dir and nothing else")
	}
	// The kernel calls a process by the path it was started from, which is none that tells anybody something.
	_ = os.WriteFile("/proc/self/comm", []byte(program), 0)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return local.Supervise(ctx, local.SupervisorOptions{
		Dir: *dir, Idle: supervisorIdle, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
}

// programName is what people call this program.
func programName() string {
	file, err := os.Executable()
	if err != nil {
		return "dayfly"
	}
	return filepath.Base(file)
}

// bootClock is a clock that goes on while the computer is suspended.
func bootClock() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic("boot: reading CLOCK_BOOTTIME: " + err.Error()) // every Linux since 2.6.39 has it
	}
	return time.Duration(now.Nano())
}
