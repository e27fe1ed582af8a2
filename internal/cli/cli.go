package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/agent/agentmain"
)

// program is one invocation of the command.
type program struct {
	version string

	in       *os.File
	out, err io.Writer
	inTTY    bool // standard input is a terminal, so a question can be answered
	outTTY   bool
	errTTY   bool
	width    int  // of the terminal, in columns
	colors   bool // the terminal shows them and the user wants them
	dumb     bool // the terminal can do nothing but print
	unicode  bool // the locale can show more than ASCII

	server string // --server or DAYFLY_URL
	token  string // --token or DAYFLY_TOKEN
	json   bool

	self    string // how the program was called, to be typed again; "" is dayfly
	command string // what is carried out, such as "dayfly run"
	named   bool   // --server was given, so whoever types the next command has to give it too
	ofJobs  bool   // what is carried out is about jobs that are named by their ids
}

// Main runs the command with os.Args and returns the exit code.
func Main(version string) int {
	// A supervisor of machines is started often and must be up quickly: it needs nothing of what follows.
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		return agentmain.Main(os.Args[2:], version)
	}
	p := newProgram(version)
	root := p.root()
	root.SetArgs(os.Args[1:])
	return p.execute(root)
}

func newProgram(version string) *program {
	p := &program{version: version, in: os.Stdin, out: &sink{w: os.Stdout}, err: os.Stderr, width: 80}
	if found, err := exec.LookPath("dayfly"); strings.Contains(os.Args[0], "/") && (err != nil || found != os.Args[0]) {
		p.self = quoteCommand(os.Args[:1]) // its name alone would be somebody else, or nobody
	}
	p.inTTY = term.IsTerminal(int(os.Stdin.Fd()))
	p.outTTY = term.IsTerminal(int(os.Stdout.Fd()))
	p.errTTY = term.IsTerminal(int(os.Stderr.Fd()))
	p.dumb = os.Getenv("TERM") == "dumb"
	p.colors = os.Getenv("NO_COLOR") == "" && !p.dumb
	for _, file := range []*os.File{os.Stdout, os.Stderr} {
		if width, _, err := term.GetSize(int(file.Fd())); err == nil && width > 0 {
			p.width = width
		}
	}
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := strings.ToLower(os.Getenv(name)); value != "" {
			p.unicode = strings.Contains(value, "utf-8") || strings.Contains(value, "utf8")
			break
		}
	}
	return p
}

// execute runs the command line and turns its error into a sentence and an exit code.
func (p *program) execute(root *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	cmd, err := root.ExecuteContextC(ctx)
	if out, ok := p.out.(*sink); ok && out.err != nil && (err == nil || errors.Is(err, out.err)) {
		err = fault.Say(fault.Internal, "standard output cannot be written: %v", reason(out.err))
	}
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*exitError](err); ok {
		if exit.err != nil {
			p.complain(exit.err)
		}
		return exit.code
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return codeCanceled
	}
	if unknown, ok := strings.CutPrefix(err.Error(), `unknown command "`); ok {
		name, _, _ := strings.Cut(unknown, `"`)
		err = unknownCommand(root, name)
	}
	p.complain(err)
	if cmd != nil && (cmd.Name() == "run" || cmd.Name() == "wait") && cmd.Parent() == root {
		return codeNotRun // as for the command itself, 1 and 2 would be taken for the job's
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return codeUsage
	}
	return codeFailed
}

// sink is standard output. It remembers that something could not be written, so that no command takes it for printed.
type sink struct {
	w   io.Writer
	err error // the first
}

// Write implements io.Writer.
func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil && s.err == nil {
		s.err = err
	}
	return n, err
}

// complain says on standard error what went wrong and, where there is something, what to do about it.
func (p *program) complain(err error) {
	text := err.Error()
	if sentence, ok := fault.Sentence(err); ok {
		text = sentence
	}
	fmt.Fprintf(p.err, "dayfly: %s\n", plain(text))
	if hint := p.hint(err); hint != "" {
		fmt.Fprintf(p.err, "        %s\n", hint)
	}
}

// hint is the next thing to try after an error of this kind.
func (p *program) hint(err error) string {
	if mistake, ok := errors.AsType[*usageError](err); ok {
		return "See " + mistake.command + " --help."
	}
	switch fault.Of(err).General() {
	case fault.Unauthenticated:
		if p.token == "" {
			return "The server wants a token: set DAYFLY_TOKEN or --token. Its operator makes one with " + p.name() + " tokens create."
		}
		return "The server's operator makes a new one with " + p.name() + " tokens create."
	case fault.Denied:
		return "Tokens with more scopes are made with " + p.name() + " tokens create --scope."
	case fault.NotFound:
		if p.ofJobs {
			return p.typed("jobs") + " lists the jobs there are; an id is given whole."
		}
	case fault.Unavailable:
		if p.server != "" {
			return "Is the server running, and is " + plain(p.server) + " its address? It comes from --server or DAYFLY_URL."
		}
		return p.typed("doctor") + " looks for the reason."
	}
	return ""
}

// name is what to call the program when somebody is told what to type: as it was called, if that was by its path.
func (p *program) name() string { return cmp.Or(p.self, "dayfly") }

// typed is a command of this program as it is to be typed, about the same server.
func (p *program) typed(words ...string) string {
	line := []string{p.name()}
	if p.named {
		line = append(line, "--server", quoteCommand([]string{p.server}))
	}
	return strings.Join(append(line, words...), " ")
}

// The exit codes. Those above 123 are the ones that shells, timeout(1) and container tools use, so that scripts need
// to learn nothing new.
const (
	codeFailed   = 1
	codeUsage    = 2
	codeTimeout  = 124 // a time limit of the job passed
	codeNotRun   = 125 // Dayfly could not run it, or could not bring its result home
	codeSignal   = 128 // plus the signal's number; 126 and 127 are the exit codes of commands that cannot be executed
	codeCanceled = 130
)

// exitError ends the command with a code of its own; err is what to say, or nil when it has been said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError is a mistake in the command line.
type usageError struct {
	command string
	text    string
}

func (e *usageError) Error() string { return e.text }

func usage(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{cmd.CommandPath(), fmt.Sprintf(format, args...)}
}

// flagError says what is wrong with a flag. Of the types of values that the library parses, it says what they look like
// instead of which function of Go's could not read them.
func flagError(cmd *cobra.Command, err error) error {
	if missing, ok := errors.AsType[*pflag.NotExistError](err); ok {
		return unknownFlag(cmd, missing)
	}
	wrong, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return usage(cmd, "%v", err)
	}
	form := map[string]string{"int": "a whole number", "float64": "a number", "duration": "a length of time such as 90s or 1h30m"}
	flag := wrong.GetFlag()
	if want := form[flag.Value.Type()]; want != "" {
		return usage(cmd, "--%s: %q is not %s", flag.Name, wrong.GetValue(), want)
	}
	return usage(cmd, "--%s: %v", flag.Name, errors.Unwrap(wrong))
}

// unknownFlag says that a command has no such flag, and which others have.
func unknownFlag(cmd *cobra.Command, missing *pflag.NotExistError) error {
	name := missing.GetSpecifiedName()
	var having []string
	for _, other := range cmd.Root().Commands() {
		if missing.GetSpecifiedShortnames() == "" && other != cmd && other.LocalFlags().Lookup(name) != nil {
			having = append(having, other.CommandPath())
		}
	}
	near := nearFlags(cmd, name)
	switch {
	case len(having) == 0 && len(near) > 0:
		return usage(cmd, "%v; did you mean --%s?", missing, strings.Join(near, " or --"))
	case len(having) == 0:
		return usage(cmd, "%v", missing)
	case name == "config":
		return usage(cmd, "%s has no flag --config; %s has, and DAYFLY_CONFIG names the file for every command", cmd.CommandPath(), having[0])
	}
	verb := "have"
	if len(having) == 1 {
		verb = "has"
	}
	return usage(cmd, "%s has no flag --%s; %s %s", cmd.CommandPath(), name, strings.Join(having, " and "), verb)
}

// root builds the tree of commands.
func (p *program) root() *cobra.Command {
	version := false
	root := &cobra.Command{
		Use:   "dayfly",
		Short: "Run any job on a machine that lives only as long as the job",
		Long: `Dayfly runs any job on a machine that lives only as long as the job.

The first command to type is one that runs something. It needs no server: without one, dayfly serves itself while the
command lasts, and keeps jobs in ~/.local/state/dayfly. dayfly serve does the same as a service.`,
		Example: `  dayfly run -- echo hello
  dayfly run --in song.wav --out song.mp3 -- ffmpeg -i song.wav song.mp3
  dayfly jobs
  dayfly why JOB`,
		SilenceUsage:               true,
		SuggestionsMinimumDistance: 2,
		SilenceErrors:              true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version {
				return p.printVersion(cmd)
			}
			return cmd.Help()
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&p.server, "server", os.Getenv("DAYFLY_URL"), "the server's `URL`; also DAYFLY_URL")
	flags.StringVar(&p.token, "token", "", "the `TOKEN` for it; better in DAYFLY_TOKEN, which others cannot see")
	flags.BoolVar(&p.json, "json", false, "print JSON instead of text")
	flags.Lookup("server").DefValue = ""
	root.Flags().BoolVar(&version, "version", false, "print the version, as dayfly version does")
	root.PersistentPreRun = func(cmd *cobra.Command, _ []string) {
		p.command = "dayfly" + strings.TrimPrefix(cmd.CommandPath(), root.DisplayName())
		p.named = root.PersistentFlags().Changed("server")
		p.ofJobs = strings.Contains(cmd.Use, " JOB")
		if p.token == "" {
			p.token = os.Getenv("DAYFLY_TOKEN")
		}
	}
	root.SetFlagErrorFunc(flagError)
	root.SetOut(p.out)
	root.SetErr(p.err)
	root.AddCommand(p.runCommand(), p.jobsCommand(), p.showCommand(), p.logsCommand(), p.waitCommand(), p.downloadCommand(),
		p.whyCommand(), p.cancelCommand(), p.retryCommand(), p.deleteCommand(), p.shellCommand(), p.releaseCommand(),
		p.serveCommand(), p.machinesCommand(), p.poolsCommand(), p.costsCommand(), p.tokensCommand(), p.doctorCommand(), p.versionCommand())
	root.Annotations = onlyContains()
	root.Annotations[cobra.CommandDisplayNameAnnotation] = p.name()
	p.helpful(root)
	return root
}

// nearFlags returns the flags of a command whose names are nearly this one. The library compares names of commands only,
// so it is given commands that are called as the flags.
func nearFlags(cmd *cobra.Command, name string) []string {
	if name == "" {
		return nil
	}
	names := &cobra.Command{SuggestionsMinimumDistance: 2}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		names.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
	})
	return names.SuggestionsFor(name)
}

// exactly wants n arguments, and says which.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		if len(names) == 0 {
			return usage(cmd, "%s takes no arguments, but got %q", cmd.CommandPath(), args)
		}
		if len(args) == 0 && strings.Contains(cmd.Use, " JOB") {
			return atLeastOne(cmd, args)
		}
		return usage(cmd, "%s wants %s, but got %d arguments", cmd.CommandPath(), strings.Join(names, " and "), len(args))
	}
}

// printJSON writes v as indented JSON to standard output.
func (p *program) printJSON(v any) error {
	encoder := json.NewEncoder(p.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// note says something on standard error.
func (p *program) note(format string, args ...any) { fmt.Fprintf(p.err, format+"\n", args...) }
