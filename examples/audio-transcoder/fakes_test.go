package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
)

// fakeObjects signs as the real bucket does, which needs no server, and remembers what is stored.
type fakeObjects struct {
	*bucket
	mu    sync.Mutex
	sizes map[string]int64
	err   error // of everything that asks the storage
}

func (f *fakeObjects) put(key string, size int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sizes[key] = size
}

func (f *fakeObjects) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fakeObjects) Stat(_ context.Context, key string) (*blob.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	size, ok := f.sizes[key]
	switch {
	case f.err != nil:
		return nil, f.err
	case !ok:
		return nil, fmt.Errorf("%s: %w", key, fault.NotFound)
	}
	return &blob.Info{Key: key, Size: size}, nil
}

func (f *fakeObjects) Delete(_ context.Context, key string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		delete(f.sizes, key)
	}
	return f.err
}

// fakeRuns remembers what was launched, and lets the test say how it ends.
type fakeRuns struct {
	mu       sync.Mutex
	launches int
	orders   map[string]*order // by job
	ended    map[string]chan *outcome
	removed  []string
	err      error
	findErr  error
	onLaunch func(o *order) // while the launch is under way
}

func (f *fakeRuns) Launch(_ context.Context, o *order) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.launches++
	if f.orders[o.job] == nil {
		f.orders[o.job], f.ended["run-"+o.job] = o, make(chan *outcome, 1)
	}
	if f.onLaunch != nil {
		f.onLaunch(o)
	}
	return "run-" + o.job, f.err
}

// fail makes Launch, which launches all the same, and Find answer with errors.
func (f *fakeRuns) fail(launch, find error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.findErr = launch, find
}

func (f *fakeRuns) Find(_ context.Context, job string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.findErr != nil || f.orders[job] == nil {
		return "", cmp.Or[error](f.findErr, fault.NotFound)
	}
	return "run-" + job, nil
}

func (f *fakeRuns) Wait(ctx context.Context, run string) (*outcome, error) {
	f.mu.Lock()
	ended := f.ended[run]
	f.mu.Unlock()
	if ended == nil {
		return nil, fmt.Errorf("%s: %w", run, fault.NotFound)
	}
	select {
	case o := <-ended:
		return o, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *fakeRuns) Remove(_ context.Context, job string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.removed = append(f.removed, job)
	return f.err
}

func (f *fakeRuns) end(job string, o *outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended["run-"+job] <- o
}

func (f *fakeRuns) order(job string) *order {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.orders[job]
}

// world is a service with everything around it.
type world struct {
	*service
	objects *fakeObjects
	runs    *fakeRuns
	url     string
}

// newWorld serves, on a real connection, a service whose storage and runner are fakes.
func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldAt(t, filepath.Join(t.TempDir(), "jobs.db"), "")
}

func newWorldAt(t *testing.T, database, apiToken string) *world {
	t.Helper()
	st, err := openStore(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	b, err := openBucket("http://storage.test", "us-east-1", "music", "key", "secret")
	if err != nil {
		t.Fatal(err)
	}
	o := &fakeObjects{bucket: b, sizes: map[string]int64{}}
	r := &fakeRuns{orders: map[string]*order{}, ended: map[string]chan *outcome{}}
	s := newService(st, o, r, "http://api.test/", 1000, slog.New(slog.DiscardHandler))
	server := httptest.NewServer(&api{s, apiToken})
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		server.Close()
		stop()
		if err := errors.Join(<-done, st.close()); err != nil {
			t.Error(err)
		}
	})
	return &world{s, o, r, server.URL}
}

// call makes one request, without following redirects, and returns the status and the body.
func (w *world) call(t *testing.T, method, path, body string, headers ...string) (int, string, http.Header) {
	t.Helper()
	return call(t, method, w.url+path, body, headers...)
}

func (w *world) newJob(t *testing.T) string {
	t.Helper()
	j, err := w.create(t.Context(), format{"mp3", 16, 320, 44100})
	if err != nil {
		t.Fatal(err)
	}
	return j.id
}

// newStartedJob returns a job that is started, and the token of its run.
func (w *world) newStartedJob(t *testing.T) (id, token string) {
	t.Helper()
	id = w.newJob(t)
	w.objects.put("sources/"+id, 100)
	if status, body, _ := w.call(t, "POST", "/jobs/"+id+"/status/started/", ""); status != http.StatusOK {
		t.Fatalf("start: %d %s", status, body)
	}
	_, token, _ = strings.Cut(w.runs.order(id).apiURL, "/t/")
	return id, token
}
