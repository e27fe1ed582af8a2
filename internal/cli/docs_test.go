package cli

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// every calls fn for each command of the tree that a user can see.
func every(cmd *cobra.Command, fn func(*cobra.Command)) {
	if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" {
		return
	}
	fn(cmd)
	for _, child := range cmd.Commands() {
		every(child, fn)
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	t.Parallel()
	every((&program{}).root(), func(cmd *cobra.Command) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: the short help is %q, want a phrase", cmd.CommandPath(), cmd.Short)
		}
		if !strings.Contains(cmd.Example, "  dayfly ") && !strings.Contains(cmd.Example, "| dayfly ") {
			t.Errorf("%s: the help has no example", cmd.CommandPath())
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s has no help", cmd.CommandPath(), f.Name)
			}
		})
		for line := range strings.Lines(cmd.Long) {
			if len(line) > 121 {
				t.Errorf("%s: a line of the help is longer than 120 columns: %s", cmd.CommandPath(), line)
			}
		}
	})
}

func TestTheListOfCommandsHasEachOfThemOnce(t *testing.T) {
	t.Parallel()
	root := (&program{}).root()
	listed := map[string]int{}
	for _, name := range commandNames() {
		listed[name]++
	}
	for _, cmd := range root.Commands() {
		if cmd.Hidden {
			continue
		}
		if got := listed[cmd.Name()]; got != 1 {
			t.Errorf("dayfly --help lists %s %d times, want once", cmd.Name(), got)
		}
		delete(listed, cmd.Name())
	}
	for name := range listed {
		t.Errorf("dayfly --help lists %s, which does not exist", name)
	}
}

func TestThePageOfCommandsNamesEveryCommandAndFlag(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	every((&program{}).root(), func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		if path != "dayfly" && path != "dayfly tokens" && !strings.Contains(page, "`"+path) && !strings.Contains(page, "\n## "+path) {
			t.Errorf("docs/cli.md does not mention %s", path)
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !strings.Contains(page, "`--"+f.Name+"`") {
				t.Errorf("docs/cli.md does not mention %s --%s", path, f.Name)
			}
		})
	})
}

func TestThePageOfCommandsNamesNoFlagThatDoesNotExist(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"help": true}
	every((&program{}).root(), func(cmd *cobra.Command) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
		cmd.PersistentFlags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
	})
	for _, piece := range strings.Split(string(data), "`--")[1:] {
		name := strings.FieldsFunc(piece, func(r rune) bool { return r == '`' || r == ' ' || r == '=' })[0]
		if !known[name] {
			t.Errorf("docs/cli.md mentions --%s, which is no flag", name)
		}
	}
}
