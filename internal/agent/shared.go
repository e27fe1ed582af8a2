package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
)

const (
	// maxBatches is how many batches to one server are under way at once. While they are, calls gather for the next:
	// the busier the server, the larger the batches, as with a group commit. Two keep the line and the server both
	// at work.
	maxBatches = 2
	// maxClaims is how many claims travel in one batch, because each is answered with all that there is to do. It
	// bounds the answer.
	maxClaims      = 64
	maxBatchAnswer = maxClaims << 20
)

// Shared is a [Link] for a host on which many attempts run: it speaks for all of them over few connections. Claims, log
// chunks and results that are made at about the same time travel in one batch; all heartbeats wait in one request.
type Shared struct {
	direct *Direct

	mu    sync.Mutex // guards lanes
	lanes map[string]*lane
}

// NewShared returns a link; version is the agent's, to show.
func NewShared(version string) *Shared {
	return &Shared{direct: NewDirect(version), lanes: make(map[string]*lane)}
}

// Close closes the connections that are kept open. Calls may still be made.
func (s *Shared) Close() { s.direct.Close() }

// Claim implements [Link].
func (s *Shared) Claim(ctx context.Context, to Address, c *wire.ClaimRequest) (*wire.Assignment, error) {
	if c.WaitMS > 0 { // it is held open, and no other call is to wait for that
		return s.direct.Claim(ctx, to, c)
	}
	answer, err := s.lane(to.URL).do(ctx, &wire.BatchCall{Attempt: to.Attempt, Token: to.Token, Claim: c})
	if err != nil {
		return nil, err
	}
	return answer.Assignment, checkAssignment(answer.Assignment, to.Attempt)
}

// Log implements [Link].
func (s *Shared) Log(ctx context.Context, to Address, c *wire.LogChunk) (*wire.LogAnswer, error) {
	answer, err := s.lane(to.URL).do(ctx, &wire.BatchCall{Attempt: to.Attempt, Token: to.Token, Log: c})
	if err != nil {
		return nil, err
	}
	if answer.Log == nil {
		return nil, garbled("a log chunk was answered without an offset")
	}
	return answer.Log, nil
}

// Result implements [Link].
func (s *Shared) Result(ctx context.Context, to Address, r *wire.Result) error {
	_, err := s.lane(to.URL).do(ctx, &wire.BatchCall{Attempt: to.Attempt, Token: to.Token, Result: r})
	return err
}

// Artifacts implements [Link]. There is no batch of these calls: few attempts have outputs, and each asks for many.
func (s *Shared) Artifacts(ctx context.Context, to Address, r *wire.ArtifactRequest) (*wire.ArtifactAnswer, error) {
	return s.direct.Artifacts(ctx, to, r)
}

// Beat implements [Link].
func (s *Shared) Beat(ctx context.Context, to Address, b *wire.Heartbeat) (*wire.HeartbeatAnswer, error) {
	l := s.lane(to.URL)
	if b.WaitMS > 0 {
		return l.held.beat(ctx, to, b)
	}
	return l.news.beat(ctx, to, b)
}

// lane returns what goes to one server. A host has one server, which may have been at other addresses before.
func (s *Shared) lane(url string) *lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[url]
	if l == nil {
		l = &lane{url: url, client: s.direct.client}
		l.held = rounds{url: url, client: l.client, hold: true}
		l.news = rounds{url: url, client: l.client}
		s.lanes[url] = l
	}
	return l
}

// lane gathers the calls to one server into batches.
type lane struct {
	url        string
	client     *client
	held, news rounds

	mu      sync.Mutex // guards what follows
	queue   []*queued
	batches int // under way
}

// queued is a call that waits for its batch, and then for its answer.
type queued struct {
	body   []byte // a wire.BatchCall
	token  string // in it
	claim  bool
	gone   atomic.Bool
	done   chan struct{} // closed when answer and err are set
	answer wire.CallAnswer
	err    error
}

// do makes one call in the next batch.
func (l *lane) do(ctx context.Context, call *wire.BatchCall) (*wire.CallAnswer, error) {
	body, err := encodeJSON(call)
	if err != nil {
		return nil, err
	}
	q := &queued{body: body, token: call.Token, claim: call.Claim != nil, done: make(chan struct{})}
	l.mu.Lock()
	l.queue = append(l.queue, q)
	start := l.batches < maxBatches
	if start {
		l.batches++
	}
	l.mu.Unlock()
	if start {
		go l.drain()
	}
	select {
	case <-q.done:
		return &q.answer, q.err
	case <-ctx.Done():
		q.gone.Store(true)
		return nil, fmt.Errorf("agent: %w: %w", fault.Unavailable, context.Cause(ctx))
	}
}

// drain sends batches until nothing waits.
func (l *lane) drain() {
	for {
		batch := l.take()
		if batch == nil {
			return
		}
		l.send(batch)
	}
}

// take removes the next batch from the queue. When there is none, the caller must send no more.
func (l *lane) take() []*queued {
	l.mu.Lock()
	defer l.mu.Unlock()
	var batch []*queued
	size, claims, taken := 0, 0, 0
	for _, q := range l.queue {
		full := len(batch) == wire.MaxBatchCalls || size+len(q.body) > wire.MaxBatchBytes-batchFrame
		if len(batch) > 0 && full || q.claim && claims == maxClaims {
			break
		}
		taken++
		if q.gone.Load() {
			continue // nobody waits for it any more
		}
		batch = append(batch, q)
		size += len(q.body) + 1
		if q.claim {
			claims++
		}
	}
	clear(l.queue[:taken])
	l.queue = l.queue[taken:]
	if len(batch) == 0 {
		l.queue = nil
		l.batches--
	}
	return batch
}

// batchFrame is room for what surrounds the calls of a batch.
const batchFrame = 64

// send sends one batch and answers its calls. If the batch as such is refused, its calls go one by one, so that one
// which the server cannot read does not take the others with it.
func (l *lane) send(batch []*queued) {
	var body bytes.Buffer
	body.WriteString(`{"calls":[`)
	for i, q := range batch {
		if i > 0 {
			body.WriteByte(',')
		}
		body.Write(q.body)
	}
	body.WriteString(`]}`)
	// The calls are of several callers, none of whose contexts is that of the request; the client ends it in time.
	answer, err := l.client.send(context.Background(), &post{
		url:         l.url + "/agent/v1/batch",
		token:       batch[rand.IntN(len(batch))].token,
		contentType: "application/json",
		body:        body.Bytes(),
		maxAnswer:   maxBatchAnswer,
	})
	var answers []wire.CallAnswer
	if err == nil {
		answers, err = decodeBatch(answer, len(batch))
	}
	if err != nil && !retryable(err) && len(batch) > 1 {
		for i := range batch {
			l.send(batch[i : i+1])
		}
		return
	}
	for i, q := range batch {
		if q.err = err; err == nil {
			q.answer, q.err = answers[i], callError(&answers[i])
		}
		close(q.done)
	}
}

// callError returns the error of one call in a batch.
func callError(a *wire.CallAnswer) error {
	if a.Error == nil {
		return nil
	}
	r := refusalOf(a.Error)
	if a.Log != nil {
		r.Stored = a.Log.Stored
	}
	return r
}

// decodeBatch decodes the answer to a batch of so many calls.
func decodeBatch(body []byte, calls int) ([]wire.CallAnswer, error) {
	var b wire.BatchAnswer
	if err := json.Unmarshal(body, &b); err != nil {
		return nil, garbled("%v", err)
	}
	if len(b.Answers) != calls {
		return nil, garbled("%d answers to %d calls", len(b.Answers), calls)
	}
	return b.Answers, nil
}
