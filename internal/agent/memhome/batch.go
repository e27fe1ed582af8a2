package memhome

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
)

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

func (h *Home) serveBatch(w http.ResponseWriter, token string, body []byte) {
	var b wire.Batch
	if !decode(h.t, body, &b) {
		refuse(fault.Invalid, http.StatusBadRequest, "not a batch").write(w)
		return
	}
	if len(b.Calls) == 0 || len(b.Calls) > wire.MaxBatchCalls {
		h.t.Errorf("a batch of %d calls", len(b.Calls))
	}
	if !slices.ContainsFunc(b.Calls, func(c wire.BatchCall) bool { return c.Token == token }) {
		h.t.Errorf("a batch of %d calls with a token in its header that is none of theirs", len(b.Calls))
	}
	f := h.failure(Call{Kind: "batch", Calls: len(b.Calls)})
	if h.before(w, f) {
		return
	}
	reply := wire.BatchAnswer{Answers: make([]wire.CallAnswer, len(b.Calls))}
	for i := range b.Calls {
		reply.Answers[i] = h.carryOut(w, &b.Calls[i])
	}
	if !f.after(w) {
		answer(w, reply)
	}
}

// carryOut carries out one call of a batch. A call that is to be dropped takes the whole batch with it, as it would.
func (h *Home) carryOut(w http.ResponseWriter, c *wire.BatchCall) (reply wire.CallAnswer) {
	var kind string
	switch {
	case c.Claim != nil && c.Log == nil && c.Result == nil:
		kind = "claim"
	case c.Log != nil && c.Claim == nil && c.Result == nil:
		kind = "log"
	case c.Result != nil && c.Claim == nil && c.Log == nil:
		kind = "result"
	default:
		h.t.Errorf("a call in a batch without one body: %+v", c)
		return wire.CallAnswer{Error: &wire.Problem{Status: http.StatusBadRequest, Code: string(fault.Invalid)}}
	}
	f := h.failure(Call{Kind: kind, Attempt: c.Attempt})
	if f.Drop && !f.After {
		f.happen(w)
	}
	if f.Status != 0 && !f.After {
		return wire.CallAnswer{Error: &wire.Problem{Status: f.Status, Code: f.Code, Detail: "as the test wants it"}}
	}
	var p *refusal
	switch kind {
	case "claim":
		if ofPool(c.Claim.Attempt) {
			reply.Assignment, p = h.claimNext(context.Background(), c.Token, c.Claim) // which is not held
		} else {
			reply.Assignment, p = h.claim(c.Token, c.Claim)
		}
	case "log":
		reply.Log, p = h.log(c.Attempt, c.Token, c.Log)
	case "result":
		p = h.result(c.Attempt, c.Token, c.Result)
	}
	if f.Drop || f.Status != 0 {
		f.happen(w)
	}
	if p != nil {
		reply.Error = &p.Problem
	}
	return reply
}

func (h *Home) serveBeats(w http.ResponseWriter, r *http.Request, token string, body []byte) {
	f := h.failure(Call{Kind: "beats"})
	if h.before(w, f) {
		return
	}
	var b wire.Beats
	if !decode(h.t, body, &b) {
		refuse(fault.Invalid, http.StatusBadRequest, "not heartbeats").write(w)
		return
	}
	if len(b.Beats) == 0 || len(b.Beats) > wire.MaxBatchCalls || b.WaitMS > 30_000 {
		h.t.Errorf("%d heartbeats that wait for %d ms", len(b.Beats), b.WaitMS)
	}
	if !slices.ContainsFunc(b.Beats, func(c wire.Beat) bool { return c.Token == token }) {
		h.t.Errorf("%d heartbeats with a token in their header that is none of theirs", len(b.Beats))
	}
	deadline := time.NewTimer(time.Duration(b.WaitMS) * time.Millisecond)
	defer deadline.Stop()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for first := true; ; first = false {
		reply := h.orders(&b, first)
		if len(reply.Orders) > 0 {
			answer(w, reply)
			return
		}
		select {
		case <-deadline.C:
		case <-h.closed:
		case <-poll.C:
			continue
		}
		answer(w, reply)
		return
	}
}

// orders returns what those who beat have to do, and the first time notes what they say.
func (h *Home) orders(b *wire.Beats, note bool) (reply wire.BeatsAnswer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, beat := range b.Beats {
		a, p := h.session(beat.Attempt, beat.Token)
		switch {
		case p != nil:
			reply.Orders = append(reply.Orders, wire.BeatOrder{Attempt: beat.Attempt, Error: &p.Problem})
		case a.order.Order != "":
			reply.Orders = append(reply.Orders, wire.BeatOrder{Attempt: beat.Attempt, Order: a.order.Order, Reason: a.order.Reason})
		}
		if p == nil && note {
			a.note(beat.Phase, beat.Progress)
		}
	}
	slices.SortFunc(reply.Orders, func(x, y wire.BeatOrder) int { return len(x.Attempt) - len(y.Attempt) })
	return reply
}
