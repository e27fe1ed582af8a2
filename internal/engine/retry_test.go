package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/ticket"
)

// stumbling is a blob store of which one put fails.
type stumbling struct {
	blob.Store
	puts atomic.Int64 // the one that brings this down to 0 fails
}

func (s *stumbling) Put(ctx context.Context, key string, r io.Reader, o *blob.PutOptions) (*blob.Info, error) {
	if s.puts.Add(-1) == 0 {
		return nil, fmt.Errorf("stumbled over %s: %w", key, fault.Unavailable)
	}
	return s.Store.Put(ctx, key, r, o)
}

// upload stores an input of a job.
func (f *fleet) upload(job, name, data string) error {
	f.t.Helper()
	info, err := f.options.Blobs.Put(f.t.Context(), ticket.NewUploadKey(job), strings.NewReader(data), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.engine.Load().InputStored(f.t.Context(), job,
		store.Input{Name: name, Size: info.Size, SHA256: info.SHA256, Blob: info.Key})
}

// uploads returns what is stored of a job's inputs, by key.
func (f *fleet) uploads(job string) map[string]string {
	f.t.Helper()
	stored := map[string]string{}
	for info, err := range f.options.Blobs.List(f.t.Context(), ticket.InputPrefix(job)) {
		if err != nil {
			f.t.Fatal(err)
		}
		r, err := f.options.Blobs.Get(f.t.Context(), info.Key, 0, -1)
		if err != nil {
			f.t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if r.Close(); err != nil {
			f.t.Fatal(err)
		}
		stored[info.Key] = string(data)
	}
	return stored
}

// uploaded submits a job with two inputs, uploads them and starts it.
func (f *fleet) uploaded() *store.Job {
	f.t.Helper()
	job := f.submit(func(s *dayfly.JobSpec) { s.Inputs = []dayfly.InputSpec{{Name: "a"}, {Name: "b"}} })
	for _, name := range []string{"a", "b"} {
		if err := f.upload(job.ID, name, "input "+name); err != nil {
			f.t.Fatal(err)
		}
	}
	if _, err := f.engine.Load().Start(f.t.Context(), job.ID); err != nil {
		f.t.Fatal(err)
	}
	return job
}

func TestARetryThatBrokeOffIsFinishedByTheNextCall(t *testing.T) {
	t.Parallel()
	for name, failing := range map[string]int64{"at the first input": 1, "at the second input": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				blobs := new(stumbling)
				f := newFleet(t, func(o *engine.Options) {
					blobs.Store = o.Blobs
					o.Blobs = blobs
				})
				first := f.uploaded()
				check(t, f.finished(first.ID, time.Minute), dayfly.Succeeded, "", 1)

				blobs.puts.Store(failing)
				_, _, err := f.engine.Load().Retry(t.Context(), first.ID, "once more")
				if fault.Of(err) != fault.Unavailable {
					t.Fatalf("a retry whose copy fails: got error %v, want fault.Unavailable", err)
				}
				again, replayed, err := f.engine.Load().Retry(t.Context(), first.ID, "once more")
				if err != nil || !replayed {
					t.Fatalf("the same retry: got replayed = %v, %v; want true", replayed, err)
				}
				done := f.finished(again.ID, time.Minute)
				check(t, done, dayfly.Succeeded, "", 1)
				if len(done.Inputs) != 2 || done.Inputs[0].SHA256 == "" || done.Inputs[1].SHA256 == "" {
					t.Errorf("got inputs %+v, want both of the first job", done.Inputs)
				}
				if same, replayed, err := f.engine.Load().Retry(t.Context(), first.ID, "once more"); err != nil || same.ID != again.ID || !replayed {
					t.Errorf("the same retry, later: got job %v, replayed = %v, %v; want %s", same, replayed, err, again.ID)
				}
			})
		})
	}
}

// hangUp is a blob store during whose next put the client of the call hangs up.
type hangUp struct {
	blob.Store
	client context.CancelFunc
}

func (h *hangUp) Put(ctx context.Context, key string, r io.Reader, o *blob.PutOptions) (*blob.Info, error) {
	if h.client == nil {
		return h.Store.Put(ctx, key, r, o)
	}
	h.client()
	return nil, fmt.Errorf("putting %s: %w", key, ctx.Err())
}

func TestARetryWhoseClientHangsUpLeavesNoJobBehind(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		blobs := new(hangUp)
		f := newFleet(t, func(o *engine.Options) {
			blobs.Store = o.Blobs
			o.Blobs = blobs
		})
		first := f.uploaded()
		check(t, f.finished(first.ID, time.Minute), dayfly.Succeeded, "", 1)
		ctx, cancel := context.WithCancel(t.Context())
		blobs.client = cancel
		if _, _, err := f.engine.Load().Retry(ctx, first.ID, ""); err == nil {
			t.Fatal("a retry whose client hung up: got nil, want an error")
		}
		jobs, _, err := f.engine.Load().Jobs(t.Context(), &store.Query{Limit: 10})
		if err != nil || len(jobs) != 2 {
			t.Fatalf("got %d jobs and %v, want 2 and nil", len(jobs), err)
		}
		if again := jobs[0]; again.State != dayfly.Canceled {
			t.Errorf("the job of the retry is %s, want it canceled: nobody will start it", again.State)
		}
	})
}

func TestAKeyThatWasUsedForSomethingElseIsNamed(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		e := f.engine.Load()
		spec := dayfly.JobSpec{Command: []string{"true"}}
		first, _, err := e.Submit(t.Context(), &engine.Submission{Spec: spec, Key: "k", BodyHash: []byte("one")})
		if err != nil {
			t.Fatal(err)
		}
		check(t, f.finished(first.ID, time.Minute), dayfly.Succeeded, "", 1)
		_, _, submitted := e.Submit(t.Context(), &engine.Submission{Spec: spec, Key: "k", BodyHash: []byte("two")})
		_, _, retried := e.Retry(t.Context(), first.ID, "k")
		for what, err := range map[string]error{"another submission": submitted, "a retry": retried} {
			field, ok := errors.AsType[*fault.FieldError](err)
			if !ok || fault.Of(err) != fault.IdempotencyMismatch || field.Field != "Idempotency-Key" || !strings.Contains(field.Message, "new key") {
				t.Errorf("%s: got %v, want fault.IdempotencyMismatch that names the key and says what to do", what, err)
			}
		}
	})
}

func TestAnUploadThatDoesNotCountIsRemoved(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		job := f.submit(func(s *dayfly.JobSpec) { s.Inputs = []dayfly.InputSpec{{Name: "a"}} })
		want := func(when, data string) {
			t.Helper()
			in, stored := f.job(job.ID).Inputs[0], f.uploads(job.ID)
			if len(stored) != 1 || stored[in.Blob] != data {
				t.Errorf("%s: stored are %q and recorded is %s, want %q alone", when, stored, in.Blob, data)
			}
		}
		for _, data := range []string{"first", "second"} {
			if err := f.upload(job.ID, "a", data); err != nil {
				t.Fatal(err)
			}
			want("after the upload "+data, data)
		}
		if _, err := f.engine.Load().Start(t.Context(), job.ID); err != nil {
			t.Fatal(err)
		}
		if err := f.upload(job.ID, "a", "late"); fault.Of(err) != fault.Conflict {
			t.Errorf("an upload after the start: got %v, want fault.Conflict", err)
		} else if sentence, _ := fault.Sentence(err); !strings.Contains(sentence, "discarded") {
			t.Errorf("an upload after the start is refused with %q, which does not say what became of it", sentence)
		}
		want("after the refused upload", "second")
		check(t, f.finished(job.ID, time.Minute), dayfly.Succeeded, "", 1)
		if err := f.engine.Load().Delete(t.Context(), job.ID); err != nil {
			t.Fatal(err)
		}
		if err := f.upload(job.ID, "a", "later"); fault.Of(err) != fault.NotFound {
			t.Errorf("an upload after the delete: got %v, want fault.NotFound", err)
		}
		if stored := f.uploads(job.ID); len(stored) != 0 {
			t.Errorf("of the deleted job there is %q", stored)
		}
	})
}

func TestARetryRefusesAnInputThatIsNotWhatWasRecorded(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		job := f.uploaded()
		check(t, f.finished(job.ID, time.Minute), dayfly.Succeeded, "", 1)
		if _, err := f.options.Blobs.Put(t.Context(), f.job(job.ID).Inputs[0].Blob, strings.NewReader("other a"), nil); err != nil {
			t.Fatal(err)
		}
		_, _, err := f.engine.Load().Retry(t.Context(), job.ID, "")
		sentence, _ := fault.Sentence(err)
		if fault.Of(err) != fault.Conflict || !strings.Contains(sentence, "input a of job "+job.ID) {
			t.Errorf("got %v, want fault.Conflict and a sentence that names the input", err)
		}
	})
}
