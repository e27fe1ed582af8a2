package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
)

// service turns requests into rows, signed URLs and runs. Its methods are what the endpoints do.
type service struct {
	store   *store
	objects objects
	runs    runner
	apiURL  string // where workers reach this service
	largest int64  // bytes of a source
	log     *slog.Logger
	locks   locks
	wake    chan struct{} // there is a run to follow; of capacity 1
}

func newService(st *store, o objects, r runner, apiURL string, largest int64, log *slog.Logger) *service {
	return &service{
		store: st, objects: o, runs: r, apiURL: strings.TrimRight(apiURL, "/"), largest: largest, log: log,
		wake: make(chan struct{}, 1),
	}
}

// view is a job as clients see it. Its fields are the original's; error is there only when the job has failed, which
// no job of the original could.
type view struct {
	ID string `json:"_id"`
	body
}

// item is a job in the list, where the original also showed a field of its database library.
type item struct {
	ID       string    `json:"_id"`
	Revision *struct{} `json:"revision_id"`
	body
}

type body struct {
	Status    string    `json:"status"`
	MachineID *string   `json:"machine_id"`
	Source    urls      `json:"source"`
	Transcode transcode `json:"transcode"`
	Error     string    `json:"error,omitempty"`
}

type urls struct {
	Download *string `json:"download_url"`
	Upload   *string `json:"upload_url"`
}

type transcode struct {
	Format format `json:"format"`
	urls
}

func sourceKey(j *job) string { return "sources/" + j.id }
func resultKey(j *job) string { return "transcodes/" + j.id + "." + j.format.Extension }

// sentWith returns what an upload must be sent with, byte for byte. That of the result is the same whatever its extension,
// which is how workers send it.
func sentWith(kind, name string) blob.SignOptions {
	return blob.SignOptions{Life: urlLife, ContentType: kind, ContentDisposition: "attachment;filename=" + name}
}

// body shows a job with URLs signed now. Those that only the worker needs are there once there is a run.
func (s *service) body(ctx context.Context, j *job) (body, error) {
	b := body{Status: j.status, Transcode: transcode{Format: j.format}, Error: j.err}
	if j.run != "" {
		b.MachineID = &j.run
	}
	download := blob.SignOptions{Life: urlLife}
	for _, u := range []struct {
		needed      bool
		into        **string
		method, key string
		with        blob.SignOptions
	}{
		{true, &b.Source.Upload, http.MethodPut, sourceKey(j), sentWith("audio/wav", j.id+".wav")},
		{j.token != "", &b.Source.Download, http.MethodGet, sourceKey(j), download},
		{j.token != "", &b.Transcode.Upload, http.MethodPut, resultKey(j), sentWith("audio/mpeg", j.id+".mp3")},
		{j.status == completed, &b.Transcode.Download, http.MethodGet, resultKey(j), download},
	} {
		if !u.needed {
			continue
		}
		signed, err := s.objects.Sign(ctx, u.method, u.key, &u.with)
		if err != nil {
			return body{}, err
		}
		*u.into = &signed.URL
	}
	return b, nil
}

func (s *service) view(ctx context.Context, j *job) (*view, error) {
	b, err := s.body(ctx, j)
	if err != nil {
		return nil, err
	}
	return &view{j.id, b}, nil
}

func (s *service) create(ctx context.Context, f format) (*job, error) {
	j := &job{id: uuid.NewString(), status: created, format: f}
	return j, s.store.add(ctx, j)
}

// job returns a job, or the refusal that there is none.
func (s *service) job(ctx context.Context, id string) (*job, error) {
	j, err := s.store.job(ctx, id)
	if errors.Is(err, fault.NotFound) {
		return nil, notFound(id)
	}
	return j, err
}

// start runs the worker for a job, once: a job that is started already is answered as it is. What is to be done is
// written down first and the run is named after the job, so a start that was interrupted at any point is carried on
// by the next.
func (s *service) start(ctx context.Context, id, size string) (*job, error) {
	defer s.locks.lock(id)()
	j, err := s.job(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case j.status == failed:
		return nil, refuse(http.StatusConflict, "Job %s has failed and is not started again; create another.", id)
	case j.status != created:
		return j, nil
	}
	if err := s.checkSource(ctx, j); err != nil {
		return nil, err
	}
	if err := s.store.intend(ctx, id, size, rand.Text()); err != nil {
		return nil, err
	}
	if j, err = s.job(ctx, id); err != nil {
		return nil, err
	}
	// A client that hangs up now has started it all the same, and should find it so.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	run, err := s.runs.Launch(ctx, &order{job: id, apiURL: s.apiURL + "/t/" + j.token, size: j.size})
	if err != nil {
		s.followSoon() // it may have been launched all the same
		return nil, launchError(err)
	}
	if err := s.store.launched(context.WithoutCancel(ctx), id, j.token, run); err != nil {
		return nil, err
	}
	s.followSoon()
	return s.job(context.WithoutCancel(ctx), id)
}

// launchError says whether a start that did not work may work later.
func launchError(err error) error {
	if errors.Is(err, fault.Unavailable) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", fault.Say(fault.Unavailable, "Dayfly does not answer; start the job again later, it will not run twice."), err)
	}
	return fmt.Errorf("launching: %w", err)
}

// checkSource refuses a job without a source, with an empty one and with one that is too large.
func (s *service) checkSource(ctx context.Context, j *job) error {
	source, err := s.objects.Stat(ctx, sourceKey(j))
	switch {
	case errors.Is(err, fault.NotFound) || err == nil && source.Size == 0:
		return refuse(http.StatusConflict, "Job %s has no source; PUT the WAV to source.upload_url first.", j.id)
	case err != nil:
		return err
	case source.Size > s.largest:
		return refuse(http.StatusRequestEntityTooLarge, "The source of job %s has %d bytes; at most %d are allowed.", j.id, source.Size, s.largest)
	}
	return nil
}

// complete ends a job whose result is stored. Only the job's own worker may say so.
func (s *service) complete(ctx context.Context, id, token string) (*job, error) {
	j, err := s.job(ctx, id)
	if err != nil {
		return nil, err
	}
	if !j.admits(token) {
		return nil, refuse(http.StatusForbidden, "Only the worker of job %s may complete it.", id)
	}
	if j.status == created || j.status == started {
		stored, err := s.resultStored(ctx, j)
		if err != nil {
			return nil, err
		}
		if !stored {
			return nil, refuse(http.StatusConflict, "The result of job %s is not stored; PUT it to transcode.upload_url first.", id)
		}
		if err := s.store.complete(ctx, id, token); err != nil {
			return nil, err
		}
		if j, err = s.job(ctx, id); err != nil {
			return nil, err
		}
	}
	if j.status != completed {
		return nil, refuse(http.StatusConflict, "Job %s has failed.", id)
	}
	return j, nil
}

// admits reports whether the token is that of the job's run.
func (j *job) admits(token string) bool {
	return j.token != "" && subtle.ConstantTimeCompare([]byte(j.token), []byte(token)) == 1
}

// resultStored reports whether there is a result, and something in it.
func (s *service) resultStored(ctx context.Context, j *job) (bool, error) {
	result, err := s.objects.Stat(ctx, resultKey(j))
	if errors.Is(err, fault.NotFound) {
		return false, nil
	}
	return err == nil && result.Size > 0, err
}

// removeAll removes every job with its run and its objects, and returns how many there were. A job of which something
// could not be removed stays, to be removed by the next call.
func (s *service) removeAll(ctx context.Context) (int, error) {
	jobs, err := s.store.all(ctx)
	if err != nil {
		return 0, err
	}
	errs := make([]error, len(jobs))
	var group errgroup.Group
	group.SetLimit(8)
	for i, j := range jobs {
		group.Go(func() error {
			if errs[i] = s.remove(ctx, j); errs[i] != nil {
				errs[i] = fmt.Errorf("removing job %s: %w", j.id, errs[i])
			}
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs, all of them
	return len(jobs), errors.Join(errs...)
}

// remove removes a job, the row last: as long as anything is left of it, it can be found.
func (s *service) remove(ctx context.Context, j *job) error {
	defer s.locks.lock(j.id)()
	if err := s.runs.Remove(ctx, j.id); err != nil {
		return err
	}
	for _, key := range []string{sourceKey(j), resultKey(j)} {
		if err := s.objects.Delete(ctx, key); err != nil {
			return err
		}
	}
	return s.store.remove(ctx, j.id)
}

// locks keeps start and removal of one job apart. Its zero value is ready.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	mu    sync.Mutex
	users int
}

// lock waits for the job's turn and returns what ends it.
func (l *locks) lock(id string) (unlock func()) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*lock{}
	}
	k := l.held[id]
	if k == nil {
		k = &lock{}
		l.held[id] = k
	}
	k.users++
	l.mu.Unlock()
	k.mu.Lock()
	return func() {
		k.mu.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.held, id)
		}
	}
}
