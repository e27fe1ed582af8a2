// Command audio-transcoder is an HTTP service that turns WAV into MP3, each on a machine of its own that lives only as
// long as that takes. It is what a small program on top of Dayfly looks like, and it speaks the API of an earlier one,
// the FastAPI service whose endpoints, bodies and signed URLs the README describes, so that clients of that need no
// change.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dayfly-run/dayfly"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "audio-transcoder: %v\n", err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context) (err error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	c, err := readConfig(os.Getenv)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.listen)
	if err != nil {
		return fmt.Errorf("LISTEN: %w", err)
	}
	if c.apiURL == "" {
		c.apiURL = "http://" + listener.Addr().String()
	}
	s, err := build(ctx, c, log)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer func() { err = errors.Join(err, s.store.close()) }()
	log.Info("serving", "url", "http://"+listener.Addr().String())
	server := &http.Server{
		Handler: &api{s, c.apiToken}, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.Run(ctx) })
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return server.Shutdown(end)
	})
	return group.Wait()
}

// build makes the service of its parts.
func build(ctx context.Context, c *config, log *slog.Logger) (*service, error) {
	b, err := openBucket(c.endpoint, c.region, c.bucket, c.accessKey, c.secretKey)
	if err != nil {
		return nil, err
	}
	if err := b.check(ctx); err != nil { // jobs can be looked at all the same, and it may come back
		log.Warn("the object storage cannot be used now", "error", err)
	}
	client, err := dayfly.NewClient(c.dayflyURL, &dayfly.ClientOptions{Token: c.dayflyToken})
	if err != nil {
		return nil, err
	}
	st, err := openStore(ctx, c.database)
	if err != nil {
		return nil, err
	}
	runs := &dayflyRuns{
		client: client, provider: c.provider, queue: c.queue, image: c.image, command: c.command,
		attempts: c.attempts, timeout: c.timeout, largest: c.largest,
	}
	return newService(st, b, runs, c.apiURL, c.largest, log), nil
}
