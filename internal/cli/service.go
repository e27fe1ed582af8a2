package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/app"
)

// serveFlags are the flags of dayfly serve. A flag that is not given overrides nothing.
type serveFlags struct {
	config                                  string
	listen                                  []string
	dataDir, publicURL, logLevel, logFormat string
	requireToken, allowOpen                 bool
}

func (p *program) serveCommand() *cobra.Command {
	f := &serveFlags{}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the API and run jobs until told to stop",
		Long: `Serves the API and runs the jobs submitted to it, until SIGINT or SIGTERM. Jobs that run when it stops go on running;
the next dayfly serve on the same directory finds them again. A second signal stops it at once, which loses nothing
either.

Without any setting it listens on ` + app.DefaultListen + ` and keeps everything in ~/.local/state/dayfly. An address that
other computers can reach needs a token first: dayfly tokens create NAME makes one, even before the server has ever
started, in the directory that DAYFLY_DATA_DIR names. docs/configuration.md lists every setting.`,
		Example: `  dayfly serve
  dayfly serve --listen 0.0.0.0:7700 --public-url https://dayfly.example.com
  dayfly serve --config /etc/dayfly.toml`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.serve(cmd, f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.config, "config", os.Getenv("DAYFLY_CONFIG"), "the configuration `FILE`; also DAYFLY_CONFIG")
	flags.StringSliceVar(&f.listen, "listen", nil, "the `ADDRESS` to serve on (default "+app.DefaultListen+")")
	flags.StringVar(&f.dataDir, "data-dir", "", "the `DIR` to keep everything in (default ~/.local/state/dayfly)")
	flags.StringVar(&f.publicURL, "public-url", "", "the server's base `URL` as clients and machines see it")
	flags.StringVar(&f.logLevel, "log-level", "", "the least `LEVEL` to log: debug, info, warn or error")
	flags.StringVar(&f.logFormat, "log-format", "", "the `FORMAT` of the log: text or json")
	flags.BoolVar(&f.requireToken, "require-token", false, "ask everybody for a token")
	flags.BoolVar(&f.allowOpen, "allow-open", false, "ask nobody for a token, whoever can reach the server")
	flags.Lookup("config").DefValue = ""
	complete(cmd, "log-level", "debug", "info", "warn", "error")
	complete(cmd, "log-format", "text", "json")
	return cmd
}

// configure returns the configuration that the flags, the environment and the file make.
func (f *serveFlags) configure(cmd *cobra.Command) (*app.Config, error) {
	config, err := app.Load(f.config, os.Environ())
	if err != nil {
		return nil, err
	}
	dataDir := f.dataDir
	if dataDir != "" { // what is typed is meant from here
		if dataDir, err = filepath.Abs(dataDir); err != nil {
			return nil, err
		}
	}
	for flag, set := range map[string]func(){
		"listen":     func() { config.Listen = f.listen },
		"data-dir":   func() { config.DataDir = dataDir },
		"public-url": func() { config.PublicURL = f.publicURL },
		"log-level":  func() { config.Log.Level = f.logLevel },
		"log-format": func() { config.Log.Format = f.logFormat },
		"allow-open": func() { config.AllowOpen = f.allowOpen },

		"require-token": func() { config.RequireToken = f.requireToken },
	} {
		if cmd.Flags().Changed(flag) {
			set()
		}
	}
	return config, f.locate(cmd, config.Validate())
}

// locate says of a value that is refused where it was set: by a flag, by a variable or in the file.
func (f *serveFlags) locate(cmd *cobra.Command, err error) error {
	if field, ok := errors.AsType[*fault.FieldError](err); ok {
		flag := strings.NewReplacer(".", "-", "_", "-").Replace(field.Field)
		if set := cmd.Flags().Lookup(flag); set != nil && set.Changed {
			return fault.Say(field.Kind, "--%s: %s", flag, field.Message)
		}
	}
	return app.Locate(err, f.config, os.Environ())
}

func (p *program) serve(cmd *cobra.Command, f *serveFlags) error {
	config, err := f.configure(cmd)
	if err != nil {
		return err
	}
	running, err := app.Start(cmd.Context(), config, &app.StartOptions{Version: p.version, Program: p.name(), Command: p.command, LogTo: p.err, Colors: p.errTTY && p.colors})
	if err != nil {
		return f.locate(cmd, err)
	}
	if p.errTTY {
		p.note("Serving %s from %s. Stop with Ctrl-C; jobs go on running.", running.URL(), config.DataDir)
	}
	// The first signal has ended cmd's context and with it, gently, the server. The second one ends the process.
	stopped := make(chan struct{})
	defer close(stopped)
	go func() {
		select {
		case <-stopped:
			return
		case <-cmd.Context().Done():
		}
		again := make(chan os.Signal, 1)
		signal.Notify(again, syscall.SIGINT, syscall.SIGTERM)
		select {
		case <-stopped:
		case <-again:
			os.Exit(codeFailed)
		}
	}()
	return running.Run(cmd.Context())
}

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print this program's version, and the server's if one is named",
		Example: "  dayfly version\n  dayfly version --server https://dayfly.example.com",
		Args:    exactly(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.printVersion(cmd) },
	}
}

func (p *program) printVersion(cmd *cobra.Command) error {
	answer := map[string]string{"version": p.version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
	if p.server != "" {
		err := p.with(cmd, func(ctx context.Context, c *connection) error {
			var err error
			answer["server"], err = c.Version(ctx)
			return err
		})
		if err != nil {
			return err
		}
	}
	if p.json {
		return p.printJSON(answer)
	}
	fmt.Fprintf(p.out, "dayfly %s (%s, %s)\n", answer["version"], answer["go"], answer["platform"])
	if answer["server"] != "" {
		fmt.Fprintf(p.out, "server %s\n", plain(answer["server"]))
	}
	return nil
}

func (p *program) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check that this computer can run jobs, and say what is missing",
		Long: `Checks the state directory, the disk, the limits that this computer can enforce on jobs, and the server, and says what
to do about each thing that is not as it should be. Exits with 1 when something would keep jobs from running.`,
		Example: "  dayfly doctor\n  dayfly doctor --json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			file := os.Getenv("DAYFLY_CONFIG")
			config, err := app.Load(file, os.Environ())
			if err == nil {
				err = app.Locate(config.Validate(), file, os.Environ())
			}
			var checks []app.Check
			if err != nil {
				checks = []app.Check{{Name: "configuration", Result: app.Bad, Text: err.Error(), Advice: "docs/configuration.md lists every key."}}
			} else {
				checks = app.Examine(cmd.Context(), config, &app.ExamineOptions{Server: p.server, Token: p.token, Program: p.name()})
			}
			return p.report(checks)
		},
	}
}

func (p *program) report(checks []app.Check) error {
	bad := false
	for _, c := range checks {
		bad = bad || c.Result == app.Bad
	}
	if p.json {
		if err := p.printJSON(checks); err != nil {
			return err
		}
	} else {
		for _, c := range checks {
			color := map[app.Result]string{app.Good: green, app.Note: bold, app.Bad: red}[c.Result]
			fmt.Fprintf(p.out, "%s  %-15s  %s\n", p.colored(p.out, color, fmt.Sprintf("%-4s", c.Result)), c.Name, plain(c.Text))
			if c.Advice != "" {
				fmt.Fprintf(p.out, "      %-15s  %s\n", "", plain(c.Advice))
			}
		}
	}
	if bad {
		return &exitError{codeFailed, errors.New("something would keep jobs from running; see above")}
	}
	return nil
}
