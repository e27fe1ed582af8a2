package machine_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

func TestACommandThatNobodyCouldRunIsInvalid(t *testing.T) {
	t.Parallel()
	for _, good := range []machine.Command{
		{Args: []string{"true"}},
		{Args: []string{"true", ""}, Env: map[string]string{"A": ""}, Dir: "/", User: "1000:1000"},
	} {
		if err := good.Validate(); err != nil {
			t.Errorf("Validate(%+v): got error %v, want nil", good, err)
		}
	}
	for what, wrong := range map[string]machine.Command{
		"no program":               {},
		"an empty program":         {Args: []string{""}},
		"a NUL in a word":          {Args: []string{"echo", "a\x00b"}},
		"what is not UTF-8":        {Args: []string{"echo", "\xff"}},
		"a variable without name":  {Args: []string{"true"}, Env: map[string]string{"": "x"}},
		"a variable's name with =": {Args: []string{"true"}, Env: map[string]string{"A=B": "x"}},
		"a relative directory":     {Args: []string{"true"}, Dir: "work"},
		"a user without end":       {Args: []string{"true"}, User: strings.Repeat("u", 257)},
	} {
		if err := wrong.Validate(); !errors.Is(err, fault.Invalid) {
			t.Errorf("Validate of a command with %s: got error %v, want fault.Invalid", what, err)
		}
	}
}

func TestOnlyNamesOfSignalsAreSignals(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"SIGTERM", "SIGKILL", "SIGURG", "SIGSYS"} {
		if err := machine.CheckSignal(name); err != nil {
			t.Errorf("CheckSignal(%q): got error %v, want nil", name, err)
		}
	}
	for _, name := range []string{"", "TERM", "sigterm", "SIGTERM ", "SIG", "9", "SIGHUP SIGINT"} {
		if err := machine.CheckSignal(name); !errors.Is(err, fault.Invalid) {
			t.Errorf("CheckSignal(%q): got error %v, want fault.Invalid", name, err)
		}
	}
}
