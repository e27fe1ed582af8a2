package server

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// drain is how long requests in flight may take to end when the server stops.
const drain = 10 * time.Second

// Run serves until ctx ends, stops as the package comment says, and closes the server. It returns an error when the
// server could not go on.
func (s *Server) Run(ctx context.Context) error {
	var parts errgroup.Group
	failed, fail := context.WithCancelCause(context.Background())
	defer fail(nil)
	// Each part has its own context, because they end one after the other: the requests first, which need the
	// engine, then the engine, which needs the providers.
	start := func(run func(context.Context) error) (stop func()) {
		partCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan struct{})
		parts.Go(func() error {
			defer close(done)
			err := run(partCtx)
			if err != nil && partCtx.Err() == nil {
				fail(err)
				return err
			}
			return nil
		})
		return func() {
			cancel()
			<-done
		}
	}
	stopProviders := start(s.runProviders)
	stopEngine := start(s.engine.Run)
	stopFly := func() {}
	if s.fly != nil {
		stopFly = start(s.fly.Run)
	}
	stopHire := start(s.hire.Run)
	stopFleets := start(s.fleets.Run)
	stopHomes := start(s.homes.run)
	stopHTTP := start(s.serveHTTP)

	select {
	case <-ctx.Done():
		s.logger.Info("stopping; machines go on running")
	case <-failed.Done():
	}
	stopHomes()
	stopHTTP()
	stopFleets()
	stopHire()
	stopFly()
	stopEngine()
	stopProviders()
	return errors.Join(parts.Wait(), s.Close())
}

// runProviders runs the providers that want to be run.
func (s *Server) runProviders(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { <-ctx.Done(); return nil })
	for _, p := range s.options.Providers {
		if runner, ok := p.(interface{ Run(context.Context) error }); ok {
			group.Go(func() error { return runner.Run(ctx) })
		}
	}
	return group.Wait()
}

// serveHTTP serves the API on every listener.
func (s *Server) serveHTTP(ctx context.Context) error {
	stopping, stop := context.WithCancel(context.Background())
	defer stop()
	httpServer := newHTTPServer(endPatient(stopping, s.front.handler), s.logger)
	var group errgroup.Group
	serve := func(listener net.Listener) {
		group.Go(func() error {
			err := httpServer.Serve(listener)
			if errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			stop()
			return err
		})
	}
	for _, listener := range s.front.listeners {
		serve(listener)
	}
	s.logger.Info("serving", "url", s.URL(), "data_dir", s.options.DataDir, "version", s.options.Version)
	for stopping.Err() == nil { // until a listener fails
		select {
		case listener := <-s.front.late:
			serve(listener)
		case <-ctx.Done():
			stop()
		case <-stopping.Done():
		}
	}
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err := httpServer.Shutdown(deadline); err != nil {
		s.logger.Warn("requests were cut off", "error", err)
		_ = httpServer.Close() // cuts them off; there is nothing to do about its own errors
	}
	return group.Wait()
}

// Close closes what is open. Run does it; it may be called again.
func (s *Server) Close() error {
	var errs []error
	if s.front != nil {
		errs = append(errs, s.front.close())
	}
	if s.fly != nil {
		errs = append(errs, s.fly.Close())
		s.fly = nil
	}
	for _, p := range s.options.Providers {
		if closer, ok := p.(io.Closer); ok {
			errs = append(errs, closer.Close())
		}
	}
	s.options.Providers = nil
	if closer, ok := s.blobs.(io.Closer); ok {
		errs = append(errs, closer.Close())
	}
	s.blobs = nil
	if s.logs != nil {
		errs = append(errs, s.logs.Close())
		s.logs = nil
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
		s.store = nil
	}
	return errors.Join(errs...)
}
