package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/api/strict"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// addAgents adds the agents' routes, which package wire describes. They are plain handlers and not part of the public
// description: agents come with the server.
func (a *API) addAgents() {
	const attempt = "POST /agent/v1/attempts/{id}/"
	a.router.HandleFunc("POST /agent/v1/claim", a.answering(a.claim))
	a.router.HandleFunc(attempt+"heartbeat", a.answering(a.heartbeat))
	a.router.HandleFunc(attempt+"logs", a.answering(a.storeLog))
	a.router.HandleFunc(attempt+"artifacts", a.answering(a.artifacts))
	a.router.HandleFunc(attempt+"result", a.answering(a.result))
	a.router.HandleFunc("GET /agent/v1/attempts/{id}/inputs/{name...}", a.answering(a.inputOf))
	a.router.HandleFunc("POST /agent/v1/progress", a.answering(a.progress))
	a.router.HandleFunc("POST /agent/v1/batch", a.answering(a.batch))
	a.router.HandleFunc("POST /agent/v1/heartbeats", a.answering(a.heartbeats))
}

// answer answers with JSON.
func answer(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	_ = marshal(w, v) // the agent may be gone, and then asks again
	return nil
}

// agentToken returns the token of a call by an agent or a command. One that this server has not signed is refused before
// anything else is looked at. It costs next to nothing to say so, and cannot be guessed, so nobody is made to wait: many
// agents share one address, and one whose token has become void has to learn that. takes says which token the call takes, for
// whoever writes an agent.
func (a *API) agentToken(r *http.Request, takes string) (string, error) {
	token, err := bearer(r)
	switch {
	case err != nil:
		return "", err
	case token == "":
		return "", fault.Say(fault.Unauthenticated, "a token is needed; send it as: Authorization: Bearer TOKEN; %s", takes)
	case !a.key.Genuine(token):
		a.measures.refusedToken()
		return "", fault.Say(fault.Unauthenticated, "this token is not one that this server has made for a machine, or not the whole of it; %s", takes)
	}
	return token, nil
}

// Which token a call takes.
const (
	takesBootstrap = "a claim takes the one of DAYFLY_AGENT_TOKEN in the machine's environment"
	takesSession   = "a call about an attempt takes the one in the answer to its claim"
	takesJob       = "a job's command reports with the one of DAYFLY_TOKEN in its environment"
)

// maxStrangers is how many bodies with the calls of several attempts are read at once for callers who have not shown a
// token before. Such a body is large, and the tokens are in it.
const maxStrangers = 16

// readCalls reads a body with the calls of several attempts. There are few places for strangers; whoever shows a
// token of this server's in the header as well, any of those in the body, needs none.
func readCalls[B any](a *API, w http.ResponseWriter, r *http.Request, limit int64, decoder *strict.Decoder[B]) (*B, error) {
	if token, err := bearer(r); err != nil || !a.key.Genuine(token) {
		release, err := a.strangers.take("requests without a token in their header")
		if err != nil {
			return nil, err
		}
		defer release()
	}
	return readJSON(w, r, limit, decoder)
}

// sessionOf returns the token of a call about an attempt, having made sure that it speaks for the one in the path.
func (a *API) sessionOf(r *http.Request) (token string, err error) {
	if token, err = a.agentToken(r, takesSession); err != nil {
		return "", err
	}
	return token, a.checkSession(token, r.PathValue("id"))
}

// checkSession refuses a token that speaks for another attempt, even a live one, than the call is about.
func (a *API) checkSession(token, attempt string) error {
	if of, _, err := a.key.CheckSession(token); err != nil || of != attempt {
		return fault.Say(fault.Unauthenticated, "this token does not speak for attempt %.128s; %s", attempt, takesSession)
	}
	return nil
}

// called reads the body of a call about an attempt and carries it out with its token.
func called[B, A any](a *API, w http.ResponseWriter, r *http.Request, decoder *strict.Decoder[B], call func(context.Context, string, *B) (A, error)) error {
	token, err := a.sessionOf(r)
	if err != nil {
		return err
	}
	body, err := readJSON(w, r, wire.MaxRequest, decoder)
	if err != nil {
		return err
	}
	result, err := call(r.Context(), token, body)
	if err != nil {
		return err
	}
	return answer(w, result)
}

func (a *API) claim(w http.ResponseWriter, r *http.Request) error {
	token, err := a.agentToken(r, takesBootstrap)
	if err != nil {
		return err
	}
	body, err := readJSON(w, r, maxSmallBody, a.decoders.claim)
	if err != nil {
		return err
	}
	assignment, err := a.engine.Claim(r.Context(), token, body)
	if err != nil {
		return err
	}
	return answer(w, assignment)
}

func (a *API) heartbeat(w http.ResponseWriter, r *http.Request) error {
	return called(a, w, r, a.decoders.heartbeat, func(ctx context.Context, token string, h *wire.Heartbeat) (*wire.HeartbeatAnswer, error) {
		beats := &wire.Beats{WaitMS: h.WaitMS, Beats: []wire.Beat{{Attempt: r.PathValue("id"), Token: token, Phase: h.Phase, Progress: h.Progress}}}
		said, err := a.engine.Beats(ctx, beats)
		if err != nil {
			return nil, err
		}
		out := &wire.HeartbeatAnswer{}
		for _, order := range said.Orders {
			if order.Error != nil {
				return nil, fault.Say(fault.Kind(order.Error.Code), "%s", order.Error.Detail)
			}
			out.Order, out.Reason = order.Order, order.Reason
		}
		return out, nil
	})
}

func (a *API) artifacts(w http.ResponseWriter, r *http.Request) error {
	return called(a, w, r, a.decoders.artifacts, a.engine.Artifacts)
}

func (a *API) result(w http.ResponseWriter, r *http.Request) error {
	return called(a, w, r, a.decoders.result, func(ctx context.Context, token string, result *wire.Result) (struct{}, error) {
		return struct{}{}, a.engine.Result(ctx, token, result)
	})
}

// storeLog stores one chunk of output: the body is the bytes, the query is the rest.
func (a *API) storeLog(w http.ResponseWriter, r *http.Request) error {
	token, err := a.sessionOf(r)
	if err != nil {
		return err
	}
	chunk, err := parseChunk(r.URL.RawQuery)
	if err != nil {
		return err
	}
	return readBody(w, r, wire.MaxChunk, func(data []byte) error {
		chunk.Data = data
		stored, err := a.engine.Log(r.Context(), token, chunk)
		if err != nil {
			p := a.problem(r.Context(), err)
			if stored != nil && fault.Of(err) == fault.Conflict {
				p.Stored = &stored.Stored
			}
			return p
		}
		return answer(w, stored)
	})
}

// parseChunk reads what the query says of a chunk.
func parseChunk(rawQuery string) (*wire.LogChunk, error) {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, fault.Say(fault.Invalid, "the query of the URL cannot be decoded")
	}
	c := &wire.LogChunk{}
	for name, values := range query {
		value := values[0]
		if len(values) > 1 {
			return nil, fault.Field(name, "is given more than once")
		}
		switch name {
		case "stream":
			c.Stream = wire.Stream(value)
		case "offset":
			c.Offset, err = strconv.ParseInt(value, 10, 64)
		case "time_ms":
			c.TimeMS, err = strconv.ParseInt(value, 10, 64)
		case "gap":
			c.Gap, err = strconv.ParseInt(value, 10, 64)
		case "why":
			c.Why = value
		default:
			return nil, fault.Field(name, "is not a parameter of this route")
		}
		if err != nil {
			return nil, fault.Field(name, "must be a whole number")
		}
	}
	return c, nil
}

// progress takes what a running command says of itself, with its own token.
func (a *API) progress(w http.ResponseWriter, r *http.Request) error {
	token, err := a.agentToken(r, takesJob)
	if err != nil {
		return err
	}
	p, err := readJSON(w, r, maxSmallBody, a.decoders.progress)
	if err != nil {
		return err
	}
	if err := a.engine.Progress(r.Context(), token, p); err != nil {
		return err
	}
	return answer(w, struct{}{})
}

// inputOf leads to one of the attempt's inputs, for programs that have no assignment to read its URL from.
func (a *API) inputOf(w http.ResponseWriter, r *http.Request) error {
	token, err := a.sessionOf(r)
	if err != nil {
		return err
	}
	to, err := a.engine.InputURL(r.Context(), token, r.PathValue("name"))
	if err != nil {
		return err
	}
	w.Header().Set("Location", to)
	w.Header().Set("Cache-Control", "no-store") // it is a permission
	w.WriteHeader(http.StatusTemporaryRedirect)
	return nil
}

// heartbeats takes the heartbeats of many attempts, each of which has its own token in the body.
func (a *API) heartbeats(w http.ResponseWriter, r *http.Request) error {
	body, err := readCalls(a, w, r, wire.MaxRequest, a.decoders.beats)
	if err != nil {
		return err
	}
	said, err := a.engine.Beats(r.Context(), body)
	if err != nil {
		return err
	}
	for i := range said.Orders {
		if p := said.Orders[i].Error; p != nil {
			if fault.Kind(p.Code) == fault.Unauthenticated {
				a.measures.refusedToken()
			}
			p.Status = statusOfKind(fault.Kind(p.Code))
			p.Title = http.StatusText(p.Status)
		}
	}
	return answer(w, said)
}

// batch carries out calls of several attempts: those of one attempt one after the other, in their order, and different
// attempts at the same time, so that the store commits them together.
func (a *API) batch(w http.ResponseWriter, r *http.Request) error {
	batch, err := readCalls(a, w, r, wire.MaxBatchBytes, a.decoders.batch)
	if err != nil {
		return err
	}
	if len(batch.Calls) > wire.MaxBatchCalls {
		return fault.Field("calls", "has %d items; at most %d are allowed", len(batch.Calls), wire.MaxBatchCalls)
	}
	answers := make([]wire.CallAnswer, len(batch.Calls))
	ofAttempt := make(map[string][]int, len(batch.Calls))
	for i := range batch.Calls {
		attempt := batch.Calls[i].Attempt
		ofAttempt[attempt] = append(ofAttempt[attempt], i)
	}
	carryOut := func(calls []int) {
		for _, i := range calls {
			a.carryOut(r, &batch.Calls[i], &answers[i])
		}
	}
	if len(ofAttempt) == 1 {
		carryOut(ofAttempt[batch.Calls[0].Attempt])
	} else {
		var all sync.WaitGroup
		for _, calls := range ofAttempt {
			all.Go(func() { carryOut(calls) })
		}
		all.Wait()
	}
	return answer(w, wire.BatchAnswer{Answers: answers})
}

// carryOut carries out one call of a batch. A failure, even a panic, is that call's alone.
func (a *API) carryOut(r *http.Request, c *wire.BatchCall, out *wire.CallAnswer) {
	err := recovering(func() error { return a.call(r.Context(), c, out) })
	if err == nil {
		return
	}
	if fault.Of(err) == fault.Unauthenticated {
		a.measures.refusedToken()
	}
	p := a.problem(r.Context(), err)
	out.Error = &wire.Problem{Status: p.Status, Title: p.Title, Code: string(p.Code), Detail: p.Detail}
	if p.Field != "" {
		out.Error.Detail = p.Field + ": " + p.Detail
	}
}

func (a *API) call(ctx context.Context, c *wire.BatchCall, out *wire.CallAnswer) (err error) {
	bodies := 0
	for _, set := range []bool{c.Claim != nil, c.Log != nil, c.Result != nil} {
		if set {
			bodies++
		}
	}
	switch {
	case bodies != 1:
		return fault.Say(fault.Invalid, "a call has exactly one of claim, log and result")
	case c.Claim != nil:
		if c.Claim.Attempt != c.Attempt {
			return fault.Field("claim.attempt", "must be the call's own attempt")
		}
		out.Assignment, err = a.engine.Claim(ctx, c.Token, c.Claim)
		return err
	}
	if err := a.checkSession(c.Token, c.Attempt); err != nil {
		return err
	}
	if c.Result != nil {
		return a.engine.Result(ctx, c.Token, c.Result)
	}
	stored, err := a.engine.Log(ctx, c.Token, c.Log)
	if err == nil || fault.Of(err) == fault.Conflict {
		out.Log = stored
	}
	return err
}
