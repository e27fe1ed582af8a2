package machine

import (
	"fmt"
	"path"
	"strings"

	"github.com/dayfly-run/dayfly/fault"
)

// Validate reports what every [Execer] must refuse in a Command, as fault.Invalid: no program, a word, a variable, a
// directory or a user that no process could be given. Providers call it first and then add their own refusals.
func (c *Command) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("machine: %w: %s", fault.Invalid, fmt.Sprintf(format, args...))
	}
	if len(c.Args) == 0 || c.Args[0] == "" {
		return bad("there is no command to run: its first word is missing or empty")
	}
	for _, arg := range c.Args {
		if !isText(arg) {
			return bad("the command holds a NUL byte, or bytes that are not UTF-8")
		}
	}
	for key, value := range c.Env {
		if key == "" || strings.Contains(key, "=") || !isText(key) || !isText(value) {
			return bad("environment variable %q is not one a process can be given: it needs a name without =, and both in UTF-8 without NUL", key)
		}
	}
	if c.Dir != "" && (!path.IsAbs(c.Dir) || !isText(c.Dir)) {
		return bad("the working directory %q must be an absolute path", c.Dir)
	}
	if !isText(c.User) || len(c.User) > 256 {
		return bad("the user must be at most 256 bytes of UTF-8 without NUL")
	}
	return nil
}

// CheckSignal reports, as fault.Invalid, a name that is not one of a signal which can be sent to a machine: the names
// of Linux's standard signals, such as "SIGTERM".
func CheckSignal(name string) error {
	for known := range strings.FieldsSeq(signals) {
		if name == known {
			return nil
		}
	}
	return fmt.Errorf("machine: %w", fault.Say(fault.Invalid, "%q is not the name of a signal; one is, for example, SIGTERM.", name))
}

const signals = `
	SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2 SIGPIPE SIGALRM SIGTERM
	SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU SIGXFSZ SIGVTALRM SIGPROF SIGWINCH SIGIO SIGPWR SIGSYS`
