// Package agentmain is the command line of the agent. The program dayfly-agent is nothing else, and dayfly offers the
// same commands, so that one binary can be both the server and what it starts.
package agentmain

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	// An image that is made from scratch knows no certificate authority, and the agent in it has to find a server at an https
	// URL all the same. These are used only where the system has none.
	_ "golang.org/x/crypto/x509roots/fallback"

	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/pid1"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
)

const usageText = `dayfly-agent carries out jobs for a Dayfly server. It is started by a machine provider, not by hand.

  dayfly-agent run [--work DIR] [--scratch DIR] [--lifetime D]
        Carries out one attempt. It finds these variables in its environment, and does not pass them on:
          DAYFLY_AGENT_URL       the server's base URL
          DAYFLY_AGENT_ATTEMPT   the attempt to claim
          DAYFLY_AGENT_TOKEN     the token that opens the claim
          DAYFLY_AGENT_INSTANCE  the machine's name; the host name when it is missing
          DAYFLY_AGENT_ENTRYPOINT  words to put before the job's command, as a JSON array: an image's entrypoint
        Exits with 0 when the server has accepted the attempt's result, whatever that was, with 75 when the
        attempt was refused, superseded or cut short, and with 124 at the end of its lifetime, such as 1h30m: then
        everything it has started is killed. Without one it takes as long as the attempt does.

%s
  dayfly-agent supervise --dir DIR
        Holds the machines of the local provider whose directory this is. The provider starts it.

  dayfly-agent version
        Prints the version.
`

// usage is the program's help.
func usage() string {
	return fmt.Sprintf(usageText, strings.ReplaceAll(pid1.Commands, "NAME", "dayfly-agent"))
}

// The exit codes of the program, beside [agent.ExitNotOurs].
const (
	exitFailure = 1
	exitUsage   = 2
	exitExpired = 124 // as timeout(1) has it; machine/fly knows it too
)

// Main runs the command that args name, without the program's own name, and returns the exit code. SIGTERM and SIGINT
// end it: what runs is killed.
func Main(args []string, version string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	switch name {
	case "run":
		return run(ctx, args, version)
	case "init", "exec", "kill":
		stop() // signals are for what it starts
		code, _, err := pid1.Command("dayfly-agent", name, args, agent.BootClock)
		switch {
		case errors.Is(err, flag.ErrHelp):
			fmt.Print(usage())
			return 0
		case err != nil:
			return refuse("%v", err)
		}
		return code
	case "supervise":
		return supervise(ctx, args, version)
	case "version", "--version":
		fmt.Println("dayfly-agent " + version)
		return 0
	case "help", "--help", "-h":
		fmt.Print(usage())
		return 0
	case "":
		return refuse("say what to do")
	default:
		return refuse("there is no command %q", name)
	}
}

// refuse says what is wrong with the command line.
func refuse(format string, args ...any) int {
	fmt.Fprintf(os.Stderr, "dayfly-agent: "+format+"\n\n%s", append(args, usage())...)
	return exitUsage
}

// fail says what went wrong.
func fail(err error) int {
	fmt.Fprintf(os.Stderr, "dayfly-agent: %v\n", err)
	return exitFailure
}

// parse parses the flags of a command that takes nothing else, and reports whether it is to be run.
func parse(flags *flag.FlagSet, args []string) (code int, ok bool) {
	flags.SetOutput(io.Discard)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage())
		return 0, false
	case err != nil:
		return refuse("%s: %v", flags.Name(), err), false
	case flags.NArg() > 0:
		return refuse("%s takes no argument %q", flags.Name(), flags.Arg(0)), false
	}
	return 0, true
}

// logger returns what the program logs to.
func logger() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }

// supervise holds machines of the local provider.
func supervise(ctx context.Context, args []string, version string) int {
	flags := flag.NewFlagSet("supervise", flag.ContinueOnError)
	dir := flags.String("dir", "", "")
	if code, ok := parse(flags, args); !ok {
		return code
	}
	if *dir == "" {
		return refuse("supervise needs --dir")
	}
	link := agent.NewShared(version)
	defer link.Close()
	log := logger()
	err := local.Supervise(ctx, local.SupervisorOptions{Dir: *dir, Guest: Guest(link, version, log), Logger: log})
	if err != nil {
		return fail(err)
	}
	return 0
}

// Guest returns what carries out the machines of a local supervisor: each is an agent, and all share the link.
func Guest(link agent.Link, version string, log *slog.Logger) func(ctx context.Context, c *local.Cell) machine.Exit {
	options := &agent.Options{Version: version, Logger: log, Web: web()}
	return func(ctx context.Context, c *local.Cell) machine.Exit {
		place := placeOf(c)
		place.Divide = func(slots int) ([]*agent.Place, error) {
			cells, err := c.Divide(slots)
			places := make([]*agent.Place, len(cells))
			for i, cell := range cells {
				places[i] = placeOf(cell)
			}
			return places, err
		}
		return agent.Run(ctx, link, place, options)
	}
}

// placeOf returns a cell of a local supervisor as the place of an attempt.
func placeOf(c *local.Cell) *agent.Place {
	return &agent.Place{
		Boot: *c.Spec.Agent, Instance: c.Spec.Name, Group: c.Group, WorkDir: c.WorkDir, ScratchDir: c.ScratchDir, Env: c.Env,
		Home: c.Home, Renew: c.Renew,
	}
}

// web returns a client for the inputs and outputs of many attempts, most of which come from one place.
func web() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 32
	transport.ResponseHeaderTimeout = 2 * time.Minute
	return &http.Client{Transport: transport}
}

// run carries out the attempt that the environment names.
func run(ctx context.Context, args []string, version string) int {
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	work := flags.String("work", ".", "")
	scratch := flags.String("scratch", "", "")
	lifetime := flags.Duration("lifetime", machine.MaxLifetime, "")
	if code, ok := parse(flags, args); !ok {
		return code
	}
	if *lifetime <= 0 || *lifetime > machine.MaxLifetime {
		return refuse("run: the lifetime is %v; it must be more than 0 and at most %v", *lifetime, machine.MaxLifetime)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, *lifetime, errExpired)
	defer cancel()
	// Whatever keeps the agent from ending, the machine ends with it.
	defer time.AfterFunc(*lifetime+expiryGrace, func() { os.Exit(exitExpired) }).Stop()
	place, err := placeFromEnvironment()
	if err != nil {
		return refuse("run: %v", err)
	}
	place.WorkDir, place.ScratchDir = *work, *scratch
	if place.ScratchDir == "" {
		// An image made of one program may have no directory for temporary files.
		_ = os.MkdirAll(os.TempDir(), 0o777)
		if place.ScratchDir, err = os.MkdirTemp("", "dayfly-"); err != nil {
			return fail(err)
		}
		defer os.RemoveAll(place.ScratchDir)
	}
	exit, err := inGroup(place, func(slots *slots) machine.Exit {
		if strings.HasPrefix(place.Boot.Attempt, wire.RunnerPrefix) {
			slots.renewable(place)
		}
		link := agent.NewDirect(version)
		defer link.Close()
		return agent.Run(ctx, link, place, &agent.Options{Version: version, Logger: logger()})
	})
	if err != nil {
		return fail(err)
	}
	if exit.Code != 0 && errors.Is(context.Cause(ctx), errExpired) {
		fmt.Fprintf(os.Stderr, "dayfly-agent: %v\n", errExpired)
		return exitExpired
	}
	if exit.Message != "" {
		fmt.Fprintln(os.Stderr, "dayfly-agent: "+exit.Message)
	}
	return exit.Code
}

// errExpired is why an agent ends that has reached the end of its lifetime.
var errExpired = errors.New("the end of this machine's lifetime has come")

// expiryGrace is how long an agent may take to end at the end of its lifetime.
const expiryGrace = 15 * time.Second

// placeFromEnvironment takes what is for the agent out of its environment. The rest is the command's.
func placeFromEnvironment() (*agent.Place, error) {
	const prefix = "DAYFLY_AGENT_"
	mine := make(map[string]string)
	place := &agent.Place{}
	for _, entry := range os.Environ() {
		key, value, _ := strings.Cut(entry, "=")
		if name, ok := strings.CutPrefix(key, prefix); ok {
			mine[name] = value
			continue
		}
		place.Env = append(place.Env, entry)
	}
	for _, name := range []string{"URL", "ATTEMPT", "TOKEN"} {
		if mine[name] == "" {
			return nil, fmt.Errorf("%s%s is not set", prefix, name)
		}
	}
	if text := mine["ENTRYPOINT"]; text != "" {
		if err := json.Unmarshal([]byte(text), &place.Entrypoint); err != nil {
			return nil, fmt.Errorf("%sENTRYPOINT is not a JSON array of texts", prefix)
		}
	}
	place.Boot = machine.Agent{URL: mine["URL"], Attempt: mine["ATTEMPT"], Token: mine["TOKEN"]}
	if place.Instance = mine["INSTANCE"]; place.Instance == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, err
		}
		place.Instance = host
	}
	return place, nil
}
