package cli

import (
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commandGroup is a part of the list of commands.
type commandGroup struct {
	title    string
	commands []string
}

// commandGroups are all commands in the order in which a newcomer needs them: what runs something first, then what tells of
// it, then what ends it.
func commandGroups() []commandGroup {
	return []commandGroup{
		{"Run something", []string{"run"}},
		{"Jobs", []string{"jobs", "show", "logs", "why", "wait", "download", "cancel", "retry", "delete", "shell", "release"}},
		{"The server", []string{"serve", "tokens", "machines", "pools", "costs"}},
		{"Dayfly itself", []string{"doctor", "version", "completion", "help"}},
	}
}

// commandNames are the names of all commands, in the order of their groups.
func commandNames() []string {
	var names []string
	for _, group := range commandGroups() {
		names = append(names, group.commands...)
	}
	return names
}

// otherNames are what commands are called by other programs, from which people come with habits.
func otherNames() map[string][]string {
	return map[string][]string{
		"run":      {"exec", "start", "submit", "create"},
		"jobs":     {"ps", "ls", "list"},
		"show":     {"inspect", "status", "describe", "info", "get"},
		"logs":     {"tail", "output"},
		"download": {"cp", "fetch", "pull"},
		"cancel":   {"kill", "stop"},
		"retry":    {"restart", "rerun"},
		"delete":   {"rm", "remove"},
		"serve":    {"server", "daemon", "up"},
		"shell":    {"ssh", "attach", "enter", "console"},
		"costs":    {"bill", "billing", "usage", "spend"},
	}
}

// helpful gives every command help that fits the terminal and names the program as it was called, and refuses to explain
// what does not exist.
func (p *program) helpful(root *cobra.Command) {
	root.SetHelpCommand(p.helpCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { p.help(cmd) })
	root.SetUsageFunc(func(cmd *cobra.Command) error { return p.usage(p.out, cmd) })
	for _, cmd := range root.Commands() {
		if cmd.Name() != "completion" {
			continue
		}
		cmd.Short = "Print a script that completes commands in a shell"
		cmd.Long = "Prints a script with which a shell completes commands, flags and the ids of jobs. Each of the commands below says with " +
			"--help how to load it."
		cmd.Example = "  source <(dayfly completion bash)"
		cmd.Args = noneBut
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		cmd.Annotations = onlyContains()
	}
	eachCommand(root, func(cmd *cobra.Command) {
		cmd.Flags().SortFlags = false // they are registered in the order of their use
		cmd.SuggestionsMinimumDistance = 2
		cmd.SuggestFor = otherNames()[cmd.Name()]
	})
}

// onlyContains marks a command that does nothing but hold others.
func onlyContains() map[string]string { return map[string]string{"contains": "commands"} }

// eachCommand calls fn for a command and all below it.
func eachCommand(cmd *cobra.Command, fn func(*cobra.Command)) {
	fn(cmd)
	for _, child := range cmd.Commands() {
		eachCommand(child, fn)
	}
}

func (p *program) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]...",
		Short: "Explain a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			target := cmd.Root()
			for _, name := range args {
				i := slices.IndexFunc(target.Commands(), func(c *cobra.Command) bool { return c.Name() == name })
				if i < 0 {
					return unknownCommand(target, name)
				}
				target = target.Commands()[i]
			}
			target.InitDefaultHelpFlag()
			return target.Help()
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return commandNames(), cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// noneBut refuses the arguments of a command that only has commands below it.
func noneBut(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return unknownCommand(cmd, args[0])
}

// below returns the names of the commands below one.
func below(cmd *cobra.Command) []string {
	if !cmd.HasParent() {
		return commandNames()
	}
	var names []string
	for _, child := range cmd.Commands() {
		if child.IsAvailableCommand() {
			names = append(names, child.Name())
		}
	}
	return names
}

// unknownCommand says that there is no such command, and which ones may have been meant, or which there are.
func unknownCommand(parent *cobra.Command, name string) error {
	others := below(parent)
	said := "there is no command " + strings.Join(append(words(parent), name), " ")
	forgotten := "" // who forgot run is told how the program of that name is run
	if _, err := exec.LookPath(name); err == nil && !parent.HasParent() && !strings.Contains(name, "/") {
		forgotten = fmt.Sprintf("the program %s is run by: %s run -- %s", name, parent.DisplayName(), name)
	}
	switch near := parent.SuggestionsFor(name); {
	case len(near) > 0 && forgotten != "":
		said += "; did you mean " + strings.Join(near, " or ") + "? Or: " + forgotten
	case len(near) > 0:
		said += "; did you mean " + strings.Join(near, " or ") + "?"
	case forgotten != "":
		said += "; " + forgotten
	case len(others) == 1:
		said += "; there is only " + others[0]
	case len(others) > 1:
		said += "; there are " + strings.Join(others, ", ")
	}
	return usage(parent, "%s", said)
}

// words are the names of a command and those above it, without the program's.
func words(cmd *cobra.Command) []string {
	if !cmd.HasParent() {
		return nil
	}
	return append(words(cmd.Parent()), cmd.Name())
}

// help prints what a command does and how it is used.
func (p *program) help(cmd *cobra.Command) {
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	fmt.Fprintf(p.out, "%s\n\n", wrapped(p.retold(text), p.measure()))
	_ = p.usage(p.out, cmd) // what could not be written is remembered by p.out
}

// measure is how wide help is: longer lines are hard to read, and on a narrower terminal than this nothing can be read.
func (p *program) measure() int { return min(max(p.width, 40), 100) }

// usage prints how a command is written, with examples, flags and the commands below it.
func (p *program) usage(w io.Writer, cmd *cobra.Command) error {
	var out strings.Builder
	fmt.Fprintf(&out, "Usage:\n")
	if cmd.Annotations["contains"] == "" {
		fmt.Fprintf(&out, "  %s\n", cmd.UseLine())
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&out, "  %s COMMAND\n", cmd.CommandPath())
	}
	if cmd.HasExample() {
		fmt.Fprintf(&out, "\nExamples:\n%s\n", p.retold(cmd.Example))
	}
	p.listCommands(&out, cmd)
	list := func(title string, flags *pflag.FlagSet) {
		if flags.HasAvailableFlags() {
			fmt.Fprintf(&out, "\n%s:\n%s\n", title, strings.TrimRight(flags.FlagUsagesWrapped(p.measure()), "\n"))
		}
	}
	if cmd.HasParent() {
		list("Flags", cmd.LocalFlags())
		list("Flags of every command", cmd.InheritedFlags())
	} else {
		list("Flags", cmd.LocalNonPersistentFlags())
		list("Flags of every command", cmd.PersistentFlags())
		fmt.Fprintf(&out, "\n%s COMMAND --help explains a command.\n", cmd.CommandPath())
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// listCommands prints the commands below one.
func (p *program) listCommands(out *strings.Builder, cmd *cobra.Command) {
	groups := []commandGroup{{"Commands", below(cmd)}}
	if !cmd.HasParent() {
		groups = commandGroups()
	}
	known := map[string]*cobra.Command{}
	longest := 0
	for _, child := range cmd.Commands() {
		known[child.Name()] = child
		longest = max(longest, len(child.Name()))
	}
	for _, group := range groups {
		if len(group.commands) == 0 {
			continue
		}
		fmt.Fprintf(out, "\n%s:\n", group.title)
		for _, name := range group.commands {
			fmt.Fprintf(out, "  %-*s  %s\n", longest, name, known[name].Short)
		}
	}
}

// retold is a text of the help with the program named as it was called, where a command is to be typed.
func (p *program) retold(text string) string {
	if p.self == "" {
		return text
	}
	typed := regexp.MustCompile(`\bdayfly (` + strings.Join(commandNames(), "|") + `)\b`)
	return typed.ReplaceAllStringFunc(text, func(found string) string { return p.self + strings.TrimPrefix(found, "dayfly") })
}

// wrapped breaks the paragraphs of a text anew, to lines of some width. Lines that are indented stay as they are.
func wrapped(text string, width int) string {
	var lines []string
	line := ""
	end := func() {
		if line != "" {
			lines = append(lines, line)
		}
		line = ""
	}
	for original := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		if original == "" || original[0] == ' ' || original[0] == '\t' {
			end()
			lines = append(lines, original)
			continue
		}
		for word := range strings.FieldsSeq(original) {
			if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
				end()
			}
			if line != "" {
				line += " "
			}
			line += word
		}
	}
	end()
	return strings.Join(lines, "\n")
}
