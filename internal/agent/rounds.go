package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// rounds sends heartbeats of many attempts together.
//
// A round that is held open occupies a request until its end, and attempts that begin meanwhile need another. So that
// these do not stay apart for ever, all rounds under way end at the same moment, the tide; whoever beats again then does
// so together.
type rounds struct {
	url    string
	client *client
	hold   bool // the server is asked to hold the request

	mu      sync.Mutex // guards what follows
	waiting []*beating
	armed   bool // a round is about to be sent
	open    int  // rounds under way that had room for more
	tide    time.Time
}

// beating is one heartbeat on its way.
type beating struct {
	beat   wire.Beat
	wait   time.Duration
	until  time.Time // when to answer it even without an order
	gone   atomic.Bool
	done   chan struct{} // closed when answer and err are set
	answer wire.HeartbeatAnswer
	err    error
}

const (
	// assemble is how long a round waits for others to join. When the tide turns they all come within moments.
	assemble = 50 * time.Millisecond
	// spacing is how much longer a round waits for each round that is open already: attempts that begin one after the
	// other share rounds.
	spacing = time.Second
	// maxOpen is how many rounds are open at once, not counting full ones. Who comes later waits for the tide.
	maxOpen = 4
)

// beat sends one heartbeat in the next round.
func (r *rounds) beat(ctx context.Context, to Address, b *wire.Heartbeat) (*wire.HeartbeatAnswer, error) {
	wait := time.Duration(b.WaitMS) * time.Millisecond
	w := &beating{
		beat:  wire.Beat{Attempt: to.Attempt, Token: to.Token, Phase: b.Phase, Progress: b.Progress},
		wait:  wait,
		until: time.Now().Add(wait),
		done:  make(chan struct{}),
	}
	r.mu.Lock()
	r.waiting = append(r.waiting, w)
	r.arm()
	r.mu.Unlock()
	select {
	case <-w.done:
		return &w.answer, w.err
	case <-ctx.Done():
		w.gone.Store(true)
		return nil, fmt.Errorf("agent: %w: %w", fault.Unavailable, context.Cause(ctx))
	}
}

// arm prepares the next round if somebody waits for one. The caller holds mu.
func (r *rounds) arm() {
	if len(r.waiting) == 0 || r.armed || r.open >= maxOpen {
		return
	}
	r.armed = true
	time.AfterFunc(assemble+time.Duration(r.open)*spacing, r.fire)
}

// fire sends a round of those who wait, and answers those who need not wait longer.
func (r *rounds) fire() {
	members, wait, full := r.muster()
	if len(members) > 0 {
		early, err := r.send(members, wait)
		if early {
			members = r.rejoin(members)
		}
		for _, w := range members {
			w.err = errors.Join(w.err, err)
			close(w.done)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !full {
		r.open--
	}
	r.arm()
}

// muster takes those who wait into a round, and returns how long it is to be held and whether it is full. Those who do
// not fit get a round of their own at once.
func (r *rounds) muster() (members []*beating, wait time.Duration, full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var longest time.Duration
	taken := 0
	for _, w := range r.waiting {
		if full = len(members) == wire.MaxBatchCalls; full {
			break
		}
		taken++
		if !w.gone.Load() {
			members = append(members, w)
			longest = max(longest, w.wait)
		}
	}
	clear(r.waiting[:taken])
	r.waiting = r.waiting[taken:]
	if r.armed = full; full {
		go r.fire()
	} else {
		r.open++
	}
	if !r.hold {
		return members, 0, full
	}
	now := time.Now()
	if r.tide.Sub(now) < longest/5 { // too soon to be worth a round
		r.tide = now.Add(longest)
	}
	return members, min(r.tide.Sub(now), maxWait), full
}

// send sends one round and hands out its orders. early is set when the server answered before the end of the round
// because of somebody's order, so that the others are still to be waited for.
func (r *rounds) send(members []*beating, wait time.Duration) (early bool, err error) {
	request := &wire.Beats{WaitMS: wait.Milliseconds(), Beats: make([]wire.Beat, len(members))}
	for i, w := range members {
		request.Beats[i] = w.beat
	}
	body, err := encodeJSON(request)
	if err != nil {
		return false, err
	}
	began := time.Now()
	answer, err := r.client.send(context.Background(), &post{
		url:         r.url + "/agent/v1/heartbeats",
		token:       members[rand.IntN(len(members))].beat.Token,
		contentType: "application/json",
		body:        body,
		wait:        wait,
		maxAnswer:   maxAnswer,
	})
	if err != nil {
		return false, err
	}
	orders, err := decodeOrders(answer)
	if err != nil {
		return false, err
	}
	any := false
	for _, w := range members {
		if o, ok := orders[w.beat.Attempt]; ok {
			any = true
			w.until = time.Time{} // it need not wait any longer
			w.answer = wire.HeartbeatAnswer{Order: o.Order, Reason: o.Reason}
			if o.Error != nil {
				w.err = refusalOf(o.Error)
			}
		}
	}
	return any && time.Since(began) < wait, nil
}

// rejoin lets those whose time is not over wait for another round, and returns the others. Their news were told.
func (r *rounds) rejoin(members []*beating) (answered []*beating) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, w := range members {
		if w.until.After(now) {
			w.beat.Progress = nil
			r.waiting = append(r.waiting, w)
		} else {
			answered = append(answered, w)
		}
	}
	return answered
}

// decodeOrders decodes the answer to a round, by attempt.
func decodeOrders(body []byte) (map[string]wire.BeatOrder, error) {
	var b wire.BeatsAnswer
	if err := json.Unmarshal(body, &b); err != nil {
		return nil, garbled("%v", err)
	}
	orders := make(map[string]wire.BeatOrder, len(b.Orders))
	for _, o := range b.Orders {
		orders[o.Attempt] = o
	}
	return orders, nil
}
