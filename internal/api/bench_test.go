package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/api"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// instant is an engine that costs nothing, so that a benchmark measures the API alone.
type instant struct{ *fake }

func (instant) Submit(_ context.Context, s *engine.Submission) (*store.Job, bool, error) {
	now := time.Now()
	return &store.Job{Seq: 1, ID: "job_01jd8k3m5n6p7q8r9s0t1v2w3x", State: dayfly.Queued, Spec: s.Spec, CreatedAt: now, QueuedAt: now}, false, nil
}

func (instant) Log(context.Context, string, *wire.LogChunk) (*wire.LogAnswer, error) {
	return &wire.LogAnswer{Stored: 100}, nil
}

func (instant) Result(context.Context, string, *wire.Result) error { return nil }

const benchSpec = `{"command":["ffmpeg","-i","in.wav","out.mp3"],"env":{"A":"1"},"labels":{"team":"x"},"timeouts":{"run":"90s"}}`

func benchRig(b *testing.B) *rig {
	var e *fake
	g := newRig(b, func(o *api.Options) {
		e = o.Engine.(*fake)
		o.Engine = instant{e}
		o.RequireToken = true
	})
	return g
}

// nobody is a ResponseWriter that throws the answer away.
type nobody struct{ header http.Header }

func (n *nobody) Header() http.Header         { return n.header }
func (n *nobody) Write(p []byte) (int, error) { return len(p), nil }
func (n *nobody) WriteHeader(int)             {}

// BenchmarkSubmit is the handler of POST /v1/jobs alone, without the network.
func BenchmarkSubmit(b *testing.B) {
	g := benchRig(b)
	handler, token := g.api.Handler(), "Bearer "+g.secret("bench", "submit")
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest("POST", "/v1/jobs", bytes.NewReader([]byte(benchSpec)))
		r.Header.Set("Authorization", token)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Idempotency-Key", "0123456789abcdef")
		handler.ServeHTTP(&nobody{http.Header{}}, r)
	}
}

// BenchmarkSubmitHTTP is POST /v1/jobs through HTTP on loopback, with the client's work in it.
func BenchmarkSubmitHTTP(b *testing.B) {
	g := benchRig(b).serve()
	token := "Bearer " + g.secret("bench", "submit")
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}
	b.ReportAllocs()
	b.SetParallelism(8)
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, err := http.NewRequest("POST", g.url+"/v1/jobs", bytes.NewReader([]byte(benchSpec)))
			if err != nil {
				b.Fatal(err)
			}
			r.Header.Set("Authorization", token)
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Idempotency-Key", fmt.Sprint(n.Add(1)))
			resp, err := client.Do(r)
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusCreated {
				b.Fatal(resp.Status)
			}
		}
	})
}

// BenchmarkBatch is the handler of POST /agent/v1/batch with the output and the result of 32 short jobs.
func BenchmarkBatch(b *testing.B) {
	g := benchRig(b)
	var batch wire.Batch
	const calls = 32
	for i := range calls {
		attempt := fmt.Sprintf("att_%d", i)
		batch.Calls = append(batch.Calls, wire.BatchCall{Attempt: attempt, Token: g.key.Session(attempt, 1), Result: &wire.Result{
			Outcome: wire.Succeeded, Started: true, StdoutBytes: 6, RunMS: 3,
			Logs: []wire.LogChunk{{Stream: wire.Stdout, Data: []byte("hello\n"), TimeMS: 1_700_000_000_000}},
		}})
	}
	body, err := json.Marshal(batch)
	if err != nil {
		b.Fatal(err)
	}
	handler := g.api.Handler()
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest("POST", "/agent/v1/batch", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		handler.ServeHTTP(&nobody{http.Header{}}, r)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*calls), "ns/call")
}
