package engine_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/ticket"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// watched is a blob store that tells when somebody looks at an object.
type watched struct {
	blob.Store
	looked func()
}

func (w *watched) Stat(ctx context.Context, key string) (*blob.Info, error) {
	w.looked()
	return w.Store.Stat(ctx, key)
}

func TestAClaimWithAnotherTokenIsToldWhichToSend(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		_, err := f.engine.Load().Claim(t.Context(), f.options.Key.Bootstrap("att_2"), &wire.ClaimRequest{Attempt: "att_1", Protocol: wire.Version})
		if fault.Of(err) != fault.Unauthenticated || !strings.Contains(err.Error(), "claims att_1") || !strings.Contains(err.Error(), "DAYFLY_AGENT_TOKEN") {
			t.Errorf("got error %v, want fault.Unauthenticated that names DAYFLY_AGENT_TOKEN", err)
		}
	})
}

func TestAnArtifactIsKeptBeforeTheResultIsVerifiedOrNotAtAll(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		blobs := new(watched)
		f := newFleet(t, func(o *engine.Options) {
			blobs.Store = o.Blobs
			o.Blobs = blobs
		})
		var attempt string
		kept := make(chan error, 1)
		keep := func() {
			done, err := f.engine.Load().KeepArtifact(t.Context(), attempt)
			if err == nil {
				done()
			}
			kept <- err
		}
		blobs.looked = func() {
			go keep()
			for range 1000 { // time enough for it to be let through, if nothing holds it up
				runtime.Gosched()
			}
		}
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
			attempt = a.Attempt
			keep()
			if err := <-kept; err != nil {
				t.Errorf("while the command runs: %v", err)
			}
			info, err := f.options.Blobs.Put(ctx, ticket.ArtifactKey(a.Job, a.Attempt, "out"), strings.NewReader("made"), nil)
			if err != nil {
				t.Error(err)
				return wire.Result{Outcome: wire.Failed}
			}
			result := succeed(ctx, a)
			result.Artifacts = []wire.Artifact{{Name: "out", Size: info.Size, SHA256: info.SHA256}}
			return result
		}
		check(t, f.finished(f.submit(nil).ID, time.Minute), dayfly.Succeeded, "", 1)
		if err := <-kept; fault.Of(err) != fault.StaleAttempt {
			t.Errorf("while the result is being accepted: got %v, want fault.StaleAttempt once it was", err)
		}
	})
}

func TestNobodyWaitsForOrdersToNoAttempt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		wait(t.Context(), time.Second)
		began := time.Now()
		said, err := f.engine.Load().Beats(t.Context(), &wire.Beats{WaitMS: 20_000})
		if took := time.Since(began); err != nil || len(said.Orders) != 0 || took > time.Second {
			t.Errorf("heartbeats of no attempt: got %+v, %v after %v; want no orders at once", said, err, took)
		}
	})
}
