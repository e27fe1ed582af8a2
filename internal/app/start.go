package app

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/lmittmann/tint"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/server"
)

// StartOptions are the optional parts of [Start]; nil means the defaults.
type StartOptions struct {
	Version string    // to show
	Program string    // what to call the dayfly command in advice; "": dayfly
	Command string    // what this process was started as, such as "dayfly run"; told to whoever finds the data directory in use
	LogTo   io.Writer // where the log goes; nil: nowhere
	Colors  bool      // LogTo shows colors, and whoever reads it wants them
	// Embedded is set when the server lives inside a command that does something else, for as long as that takes. It
	// then asks everybody for a token, because nobody has asked for a server, and it leaves the process as it is.
	Embedded bool
	// Prepare is set when a job is about to be submitted: what its machine will need is then made ready meanwhile.
	Prepare bool
}

// Start builds the server that the configuration describes, with its listeners open. The caller calls Run, or Close.
// Errors are those of [Config.Validate] and of server.New.
func Start(ctx context.Context, c *Config, o *StartOptions) (*server.Server, error) {
	if o == nil {
		o = &StartOptions{}
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if !o.Embedded {
		if err := c.reachProviders(); err != nil {
			return nil, err
		}
	}
	certificate, err := c.TLS.load()
	if err != nil {
		return nil, err
	}
	if !o.Embedded {
		tuneProcess()
	}
	logger := newLogger(c.Log, o.LogTo, o.Colors)
	if err := server.MakeDir(c.DataDir); err != nil { // first of all, so that a wrong one is left as it is
		return nil, err
	}
	all, err := c.openProviders(logger)
	if err != nil {
		return nil, err
	}
	providers, maxMachines, prices := map[string]machine.Provider{}, map[string]int{}, map[string]machine.Pricer{}
	for _, b := range c.enabledBackends() {
		providers[b.name], maxMachines[b.name] = all[b.name].provider, b.maxMachines
		if pricer := b.pricer(all[b.name].provider); pricer != nil {
			prices[b.name] = pricer
		}
	}
	blobs, err := c.openBlobs()
	if err != nil {
		return nil, err
	}
	queues := make(map[string]server.Queue, len(c.Queues))
	for name, q := range c.Queues {
		queues[name] = server.Queue(q)
	}
	s, err := server.New(ctx, server.Options{
		DataDir:         c.DataDir,
		Providers:       providers,
		DefaultProvider: c.DefaultProvider,
		Blobs:           blobs,
		OwnsBlobs:       c.ownsBlobs(blobs),
		DirectBlobs:     c.Blobs.signsFor(),
		Listen:          c.Listen,
		TLS:             certificate,
		PublicURL:       c.PublicURL,
		MachineURLs:     map[string]string{"docker": c.Providers.Docker.ServerURL, "fly": c.Providers.Fly.ServerURL},
		Absent:          c.absent(),
		RequireToken:    c.RequireToken || o.Embedded,
		AllowOpen:       c.AllowOpen,
		Connections:     c.Limits.Connections,
		Queues:          queues,
		Pools:           c.serverPools(),
		MaxMachines:     maxMachines,
		Prices:          prices,
		DailyCost:       c.Limits.DailyCost,
		MaxOpenJobs:     c.Limits.OpenJobs,
		LogLimit:        int64(c.Limits.OutputMB) << 20,
		Retention:       time.Duration(c.Retention),
		LostAfter:       time.Duration(c.Timeouts.LostAfter), UnreachableAfter: time.Duration(c.Timeouts.UnreachableAfter),
		OrphanAfter: time.Duration(c.Timeouts.OrphanAfter), Heartbeat: time.Duration(c.Timeouts.Heartbeat),
		HireLease: time.Duration(c.Timeouts.HireLease),
		FlyAPI:    c.FlyAPI.options(c, o.Embedded),
		Program:   o.Program, Command: o.Command, Passing: o.Embedded,
		Version: o.Version,
		Logger:  logger,
	})
	if err != nil {
		return nil, err
	}
	if blobs != nil && !o.Embedded {
		// A store that cannot be used now may be later, and jobs that need none of it run meanwhile.
		if err := probe(ctx, blobs); err != nil {
			logger.Error("the object store cannot be used; inputs and artifacts are refused until it can", "error", err)
		} else if err := c.ownsBlobs(blobs)(ctx); err != nil {
			logger.Warn("files that no job knows are not removed from the object store", "error", err)
		}
	}
	for _, made := range all {
		if made.started != nil {
			made.started(s, o)
		}
	}
	return s, nil
}

// tuneProcess sets what belongs to the whole process and is right for one that serves for weeks: files that nobody
// else may read, and a collector that lets twice as much garbage gather as usual, unless GOGC says otherwise. A server's
// live memory is a few MiB, so that costs some MiB, and it saves a tenth of the processor time of a busy server.
func tuneProcess() {
	syscall.Umask(0o077)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
}

func (t TLS) load() (*tls.Config, error) {
	if t.Certificate == "" {
		return nil, nil
	}
	certificate, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
	if err != nil {
		return nil, fault.Field("tls", "the certificate cannot be used: %v", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}, nil
}

// newLogger returns the logger that the configuration asks for.
func newLogger(l Log, w io.Writer, colors bool) *slog.Logger {
	if w == nil {
		return slog.New(slog.DiscardHandler)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		level = slog.LevelInfo // Validate has refused this
	}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: time.DateTime, NoColor: !colors, ReplaceAttr: tame}))
}

// tame makes visible what the handler does not quote, as it does whatever else cannot be shown: escape sequences, which it
// takes for colors and passes on to a terminal, and otherwise drops along with some of what follows; and what is no UTF-8
// or stands for that, at which it stops. Nobody who writes log lines here colors values, and others have a say in them:
// what a provider answers, what a file is called.
func tame(_ []string, a slog.Attr) slog.Attr {
	if kind := a.Value.Kind(); kind != slog.KindString && kind != slog.KindAny && kind != slog.KindLogValuer {
		return a
	}
	text := a.Value.Resolve().String()
	shown := strings.Map(func(r rune) rune {
		switch r {
		case '\x1b':
			return '␛'
		case utf8.RuneError:
			return '?'
		}
		return r
	}, text)
	if shown == text {
		return a
	}
	return slog.String(a.Key, shown)
}
