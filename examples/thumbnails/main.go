// Command thumbnails is a web server that makes thumbnails of uploaded videos, and makes them elsewhere: a call of
// [Thumbnail] runs on a runner, which is this same program on a machine that comes when there is work and goes when
// there is none. It shows what a call needs in a real program, and draws how its pool grows and shrinks.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/docker"
)

func main() {
	// First of all: in a runner this serves calls and does not return.
	dayfly.Main()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "thumbnails:", err)
		os.Exit(1)
	}
}

// settings are what the command line says.
type settings struct {
	listen      string
	provider    string
	image       string
	runners     int
	concurrency int
	idle        time.Duration
	load        time.Duration
	plot        string
}

func parse(args []string) (*settings, error) {
	s := &settings{}
	flags := flag.NewFlagSet("thumbnails", flag.ContinueOnError)
	flags.StringVar(&s.listen, "listen", "127.0.0.1:8080", "the `host:port` to serve at")
	flags.StringVar(&s.provider, "on", "local", "where runners run: local or docker")
	flags.StringVar(&s.image, "image", "", "an image with ffmpeg, for docker")
	flags.IntVar(&s.runners, "runners", 4, "how many runners there may be")
	flags.IntVar(&s.concurrency, "concurrency", 2, "how many videos one runner works on at once")
	flags.DurationVar(&s.idle, "idle", 3*time.Second, "how long a runner is kept without work")
	flags.DurationVar(&s.load, "load", 0, "upload sample videos for so long, wait until all runners have gone, and exit")
	flags.StringVar(&s.plot, "plot", "", "an SVG `file` to draw runners and calls over time into, at the end")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("%q is no option; -help lists them", flags.Arg(0))
	}
	if _, _, err := net.SplitHostPort(s.listen); err != nil {
		return nil, fmt.Errorf("-listen %s: it must be a host and a port, such as 127.0.0.1:8080, or :8080 for every address of this computer", s.listen)
	}
	return s, nil
}

// machines returns where runners live. Nothing else in this program depends on it.
func (s *settings) machines() (machine.Provider, machine.Spec, error) {
	switch s.provider {
	case "local":
		return dayfly.Local(), machine.Spec{}, nil
	case "docker":
		if s.image == "" {
			return nil, machine.Spec{}, errors.New("-on docker needs -image, one in which there is ffmpeg")
		}
		return docker.New(docker.Program{}, nil), machine.Spec{Image: s.image}, nil
	}
	return nil, machine.Spec{}, fmt.Errorf("there is no provider %q; it is local or docker", s.provider)
}

func serve(ctx context.Context, args []string) error {
	s, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	provider, spec, err := s.machines()
	if err != nil {
		return err
	}

	listener, err := net.Listen("tcp", s.listen)
	if err != nil {
		return fmt.Errorf("-listen %s: %w", s.listen, err)
	}
	defer listener.Close()
	var plot *os.File
	if ending := filepath.Ext(s.plot); ending != "" && ending != ".svg" {
		return fmt.Errorf("-plot: the plot is an SVG, and the name %s says that it is something else; let it end in .svg", s.plot)
	}
	if s.plot != "" {
		// What cannot be drawn at the end is better known at the beginning.
		if plot, err = os.Create(s.plot); err != nil {
			return fmt.Errorf("-plot: %w", err)
		}
		defer plot.Close()
	}

	pool, err := dayfly.NewPool(provider, &dayfly.PoolOptions{
		Name: "thumbnails", Max: s.runners, Concurrency: s.concurrency, Idle: s.idle, Spec: spec,
	})
	if err != nil {
		return err
	}
	history := newHistory(pool)
	watching, stopWatching := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { defer close(watched); history.watch(watching) }()

	err = s.serveHTTP(ctx, listener, pool, history)
	// Closing the pool lets calls end, and ends the runners.
	err = errors.Join(err, pool.Close())
	stopWatching()
	<-watched
	if plot != nil {
		err = errors.Join(err, history.save(plot))
	}
	return err
}

// serveHTTP serves until the context ends or the load is over.
func (s *settings) serveHTTP(ctx context.Context, listener net.Listener, pool *dayfly.Pool, history *history) error {
	address := "http://" + listener.Addr().String()
	slog.Info("upload videos here", "address", address)

	ctx, over := context.WithCancel(ctx)
	defer over()
	server := &http.Server{Handler: newSite(pool, history), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() {
		defer over()
		failed <- server.Serve(listener)
	}()
	var loadErr error
	if s.load > 0 {
		loadErr = load(ctx, address, s.load, 3*s.runners*s.concurrency)
		if loadErr == nil {
			loadErr = history.untilNobodyRuns(ctx)
		}
		over()
	}
	<-ctx.Done()

	// Whoever uploads now still gets a picture.
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	err := server.Shutdown(ending)
	if serving := <-failed; !errors.Is(serving, http.ErrServerClosed) {
		err = errors.Join(err, serving)
	}
	return errors.Join(loadErr, err)
}
