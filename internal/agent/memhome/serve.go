package memhome

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// failure asks the test what goes wrong with a call. It sets the number of the call.
func (h *Home) failure(c Call) Failure {
	if h.Fault == nil {
		return Failure{}
	}
	h.mu.Lock()
	a := h.attempts[c.Attempt]
	if a == nil {
		a = &h.nobody
	}
	a.counts[c.Kind+c.Name]++
	c.Number = a.counts[c.Kind+c.Name]
	h.mu.Unlock()
	return h.Fault(c)
}

// before makes what goes wrong before a call is carried out happen, and reports whether something did.
func (h *Home) before(w http.ResponseWriter, f Failure) bool {
	if f.Status == 0 && f.Wait > 0 {
		slow := time.NewTimer(f.Wait)
		defer slow.Stop()
		select {
		case <-slow.C:
		case <-h.closed:
		}
	}
	return !f.After && f.happen(w)
}

// after makes what goes wrong after a call was carried out happen, and reports whether something did.
func (f Failure) after(w http.ResponseWriter) bool { return f.After && f.happen(w) }

func (f Failure) happen(w http.ResponseWriter) bool {
	switch {
	case f.Drop:
		panic(http.ErrAbortHandler)
	case f.Status == 0:
		return false
	}
	if f.Wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(f.Wait.Seconds())))
	}
	if f.Body != "" {
		w.WriteHeader(f.Status)
		_, _ = w.Write([]byte(f.Body))
		return true
	}
	refuse(fault.Kind(f.Code), f.Status, "as the test wants it").write(w)
	return true
}

func (h *Home) serveClaim(w http.ResponseWriter, r *http.Request, token string, body []byte) {
	var c wire.ClaimRequest
	if !decode(h.t, body, &c) {
		refuse(fault.Invalid, http.StatusBadRequest, "not a claim").write(w)
		return
	}
	f := h.failure(Call{Kind: "claim", Attempt: c.Attempt})
	if h.before(w, f) {
		return
	}
	var job *wire.Assignment
	var p *refusal
	if ofPool(c.Attempt) {
		job, p = h.claimNext(r.Context(), token, &c)
	} else {
		job, p = h.claim(token, &c)
	}
	if f.after(w) {
		return
	}
	if p != nil {
		p.write(w)
		return
	}
	answer(w, job)
}

func (h *Home) claim(token string, c *wire.ClaimRequest) (*wire.Assignment, *refusal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.attempts[c.Attempt]
	switch {
	case a == nil:
		return nil, refuse(fault.NotFound, http.StatusNotFound, "there is no attempt %s", c.Attempt)
	case token != a.Bootstrap:
		return nil, refuse(fault.Unauthenticated, http.StatusUnauthorized, "the token is not that of the attempt")
	case c.Protocol != wire.Version || c.Instance == "" || c.Nonce == "":
		h.t.Errorf("claim %+v is not complete", c)
	}
	by := c.Instance + "/" + c.Nonce
	switch {
	case a.Stale:
		a.Refused++
		return nil, refuse(fault.StaleAttempt, http.StatusConflict, "the attempt is over")
	case a.By != "" && a.By != by:
		a.Refused++
		return nil, refuse(fault.AlreadyClaimed, http.StatusConflict, "another instance has it")
	}
	a.By = by
	a.Claims++
	job := a.Assignment
	return &job, nil
}

// session returns the attempt of a call with a session token.
func (h *Home) session(id, token string) (*Attempt, *refusal) {
	a := h.attempts[id]
	switch {
	case a == nil:
		return nil, refuse(fault.NotFound, http.StatusNotFound, "there is no attempt %s", id)
	case token != a.Assignment.Token:
		return nil, refuse(fault.Unauthenticated, http.StatusUnauthorized, "not the session token")
	case a.Stale:
		return nil, refuse(fault.StaleAttempt, http.StatusConflict, "the attempt is over")
	}
	return a, nil
}

func (h *Home) serveAttempt(w http.ResponseWriter, r *http.Request, id, call, token string, body []byte) {
	kind := map[string]string{"heartbeat": "beat", "logs": "log", "artifacts": "artifacts", "result": "result"}[call]
	f := h.failure(Call{Kind: kind, Attempt: id})
	if h.before(w, f) {
		return
	}
	var reply any = struct{}{}
	var p *refusal
	switch kind {
	case "beat":
		var b wire.Heartbeat
		if decode(h.t, body, &b) {
			reply, p = h.beat(r, id, token, &b)
		}
	case "log":
		reply, p = h.log(id, token, chunkOf(r, body))
	case "artifacts":
		var want wire.ArtifactRequest
		if decode(h.t, body, &want) {
			reply, p = h.artifacts(id, token, &want)
		}
	case "result":
		var result wire.Result
		if decode(h.t, body, &result) {
			p = h.result(id, token, &result)
		}
	default:
		h.t.Errorf("an unknown call %s", call)
	}
	switch {
	case f.after(w):
	case p != nil:
		p.write(w)
	default:
		answer(w, reply)
	}
}

func chunkOf(r *http.Request, body []byte) *wire.LogChunk {
	query := r.URL.Query()
	number := func(key string) int64 {
		n, _ := strconv.ParseInt(query.Get(key), 10, 64)
		return n
	}
	return &wire.LogChunk{
		Stream: wire.Stream(query.Get("stream")), Offset: number("offset"), TimeMS: number("time_ms"), Data: body,
		Gap: number("gap"), Why: query.Get("why"),
	}
}

func (h *Home) beat(r *http.Request, id, token string, b *wire.Heartbeat) (*wire.HeartbeatAnswer, *refusal) {
	until := time.NewTimer(time.Duration(b.WaitMS) * time.Millisecond)
	defer until.Stop()
	if b.WaitMS > 30_000 {
		h.t.Errorf("a heartbeat asks to wait for %d ms", b.WaitMS)
	}
	for first := true; ; first = false {
		h.mu.Lock()
		a, p := h.session(id, token)
		if p != nil {
			h.mu.Unlock()
			return nil, p
		}
		if first {
			a.note(b.Phase, b.Progress)
		}
		order, changed := a.order, a.changed
		h.mu.Unlock()
		if order.Order != "" {
			return &order, nil
		}
		select {
		case <-until.C:
			return &wire.HeartbeatAnswer{}, nil
		case <-changed:
		case <-h.closed:
			return &wire.HeartbeatAnswer{}, nil
		case <-r.Context().Done():
			return &wire.HeartbeatAnswer{}, nil
		}
	}
}

func (a *Attempt) note(phase wire.Phase, progress *wire.Progress) {
	if n := len(a.Phases); n == 0 || a.Phases[n-1] != phase {
		a.Phases = append(a.Phases, phase)
	}
	if progress != nil {
		a.Progress = append(a.Progress, *progress)
	}
}

func (h *Home) log(id, token string, c *wire.LogChunk) (*wire.LogAnswer, *refusal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, p := h.session(id, token)
	if p != nil {
		return nil, p
	}
	stored, p := h.store(a, c)
	return &wire.LogAnswer{Stored: stored}, p
}

// store adds a chunk to its stream, as the section on offsets in package wire says.
func (h *Home) store(a *Attempt, c *wire.LogChunk) (int64, *refusal) {
	s := a.Streams[c.Stream]
	switch {
	case s == nil:
		h.t.Errorf("a chunk of stream %q", c.Stream)
		return 0, refuse(fault.Invalid, http.StatusBadRequest, "no such stream")
	case len(c.Data) > wire.MaxChunk, c.Gap > 0 && (len(c.Data) > 0 || c.Why == ""), c.Gap < 0, c.Offset < 0:
		h.t.Errorf("a chunk at %d with %d bytes, gap %d, why %q", c.Offset, len(c.Data), c.Gap, c.Why)
	}
	if c.Offset > s.Length {
		p := refuse(fault.Conflict, http.StatusConflict, "the stream ends at %d", s.Length)
		end := s.Length
		p.Stored = &end
		return end, p
	}
	skip := s.Length - c.Offset
	switch {
	case c.Gap > skip:
		s.Gaps = append(s.Gaps, *c)
		s.Length = c.Offset + c.Gap
	case int64(len(c.Data)) > skip:
		s.Data = append(s.Data, c.Data[skip:]...)
		s.Length = c.Offset + int64(len(c.Data))
		a.Chunks++
	}
	return s.Length, nil
}

func (h *Home) artifacts(id, token string, want *wire.ArtifactRequest) (*wire.ArtifactAnswer, *refusal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, p := h.session(id, token); p != nil {
		return nil, p
	}
	reply := &wire.ArtifactAnswer{}
	for _, w := range want.Artifacts {
		if w.Name == "" || strings.HasPrefix(w.Name, "/") || len(w.Name) > wire.MaxArtifactName {
			h.t.Errorf("an artifact with the name %q", w.Name)
		}
		reply.Uploads = append(reply.Uploads, wire.Upload{
			Method:  http.MethodPut,
			URL:     h.URL() + "/blobs/out/" + id + "/" + w.Name,
			Headers: map[string]string{"X-Expected-Size": strconv.FormatInt(w.Size, 10)},
		})
	}
	return reply, nil
}

func (h *Home) result(id, token string, r *wire.Result) *refusal {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, p := h.session(id, token)
	if p != nil {
		return p
	}
	a.Results++ // refused ones too
	if a.Result != nil {
		return nil // accepted again
	}
	for i := range r.Logs {
		if _, p := h.store(a, &r.Logs[i]); p != nil {
			return p
		}
	}
	for stream, length := range map[wire.Stream]int64{wire.Stdout: r.StdoutBytes, wire.Stderr: r.StderrBytes} {
		if got := a.Streams[stream].Length; got != length {
			h.t.Errorf("attempt %s: the result says that %s has %d bytes, and %d are stored", id, stream, length, got)
		}
	}
	for _, artifact := range r.Artifacts {
		if data, ok := h.blobs["out/"+id+"/"+artifact.Name]; !ok || int64(len(data)) != artifact.Size || sum(data) != artifact.SHA256 {
			h.t.Errorf("artifact %s of the result is not what was stored", artifact.Name)
		}
	}
	a.Result = r
	return nil
}

func (h *Home) serveBlob(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	if r.Header.Get("Authorization") != "" {
		h.t.Errorf("%s %s carries a token; the URL is its authority", r.Method, key)
	}
	kind := map[string]string{http.MethodGet: "get", http.MethodPut: "put"}[r.Method]
	f := h.failure(Call{Kind: kind, Name: key})
	if h.before(w, f) {
		return
	}
	switch kind {
	case "get":
		data, ok := h.Blob(key)
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data)
	case "put":
		if r.ContentLength != int64(len(body)) || r.Header.Get("X-Expected-Size") != strconv.Itoa(len(body)) {
			h.t.Errorf("PUT %s: %d bytes, Content-Length %d, expected %s", key, len(body), r.ContentLength, r.Header.Get("X-Expected-Size"))
		}
		h.mu.Lock()
		h.blobs[key] = bytes.Clone(body)
		h.mu.Unlock()
		f.after(w)
	default:
		h.t.Errorf("%s %s", r.Method, key)
	}
}
