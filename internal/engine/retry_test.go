package engine_test

import (
	"context"
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

// uploaded submits a job with two inputs, uploads them and starts it.
func (f *fleet) uploaded() *store.Job {
	f.t.Helper()
	job := f.submit(func(s *dayfly.JobSpec) { s.Inputs = []dayfly.InputSpec{{Name: "a"}, {Name: "b"}} })
	for _, name := range []string{"a", "b"} {
		info, err := f.options.Blobs.Put(f.t.Context(), ticket.InputKey(job.ID, name), strings.NewReader("input "+name), nil)
		if err == nil {
			err = f.engine.Load().InputStored(f.t.Context(), job.ID,
				store.Input{Name: name, Size: info.Size, SHA256: info.SHA256, StoredAt: time.Now()})
		}
		if err != nil {
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
		jobs, err := f.engine.Load().Jobs(t.Context(), &store.Query{Limit: 10})
		if err != nil || len(jobs) != 2 {
			t.Fatalf("got %d jobs and %v, want 2 and nil", len(jobs), err)
		}
		if again := jobs[0]; again.State != dayfly.Canceled {
			t.Errorf("the job of the retry is %s, want it canceled: nobody will start it", again.State)
		}
	})
}
