package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
)

func (g *rig) session(attempt string) string {
	return "Authorization: Bearer " + g.key.Session(attempt, 1)
}

func encode(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAnAgentClaimsReportsAndIsHeard(t *testing.T) {
	t.Parallel()
	g := newRig(t, requireToken)
	claim := encode(t, wire.ClaimRequest{Attempt: "att_1", Instance: "m", Nonce: "n", Protocol: wire.Version})
	job := decode[wire.Assignment](t, g.do("POST", "/agent/v1/claim", claim, "Authorization: Bearer "+g.key.Bootstrap("att_1")), 200)
	auth := "Authorization: Bearer " + job.Token
	if got := g.do("POST", "/agent/v1/attempts/att_1/heartbeat", `{"phase":"running","wait_ms":0}`, auth); strings.TrimSpace(string(got.body)) != "{}" {
		t.Errorf("heartbeat: got %d %s", got.status, got.body)
	}
	stored := decode[wire.LogAnswer](t, g.do("POST", "/agent/v1/attempts/att_1/logs?stream=stdout&offset=0&time_ms=1700000000000", "hello\x00\xff", auth, "Content-Type: application/octet-stream"), 200)
	if stored.Stored != 7 {
		t.Errorf("log: got %+v, want 7", stored)
	}
	if got := g.do("POST", "/agent/v1/attempts/att_1/artifacts", `{"artifacts":[{"name":"a","size":1}]}`, auth); got.status != 200 {
		t.Errorf("artifacts: got %d %s", got.status, got.body)
	}
	if got := g.do("POST", "/agent/v1/attempts/att_1/result", encode(t, wire.Result{Outcome: wire.Succeeded}), auth); got.status != 200 {
		t.Errorf("result: got %d %s", got.status, got.body)
	}
	if got := strings.Join(g.engine.calls, ", "); got != "claim att_1, beat att_1, log att_1, artifacts att_1, result att_1" {
		t.Errorf("the engine was asked: %s", got)
	}
}

func TestAProgramIsLedToItsInputsAndToNobodyElses(t *testing.T) {
	t.Parallel()
	g := newRig(t, requireToken)
	got := g.do("GET", "/agent/v1/attempts/att_1/inputs/dir/in.wav", "", g.session("att_1"))
	if want := "http://files/dir/in.wav?signature=s"; got.status != 307 || got.header.Get("Location") != want || got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("got %d to %q (Cache-Control %q), want 307 to %q, not to be stored", got.status, got.header.Get("Location"), got.header.Get("Cache-Control"), want)
	}
	g.do("GET", "/agent/v1/attempts/att_1/inputs/in.wav", "", g.session("att_2")).want(t, "with another attempt's token", 401, fault.Unauthenticated)
	g.do("GET", "/agent/v1/attempts/att_1/inputs/in.wav", "").want(t, "without a token", 401, fault.Unauthenticated)
}

func TestAChunkBeyondTheEndIsAnsweredWithTheOffsetWanted(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.print("att_1", wire.Stdout, "abc")
	got := g.do("POST", "/agent/v1/attempts/att_1/logs?stream=stdout&offset=9", "x", g.session("att_1"))
	p := got.want(t, "alone", 409, fault.Conflict)
	if p.Stored == nil || *p.Stored != 3 {
		t.Errorf("alone: the answer does not say that 3 is wanted: %s", got.body)
	}
	batch := wire.Batch{Calls: []wire.BatchCall{{Attempt: "att_1", Token: g.key.Session("att_1", 1), Log: &wire.LogChunk{Stream: wire.Stdout, Offset: 9, Data: []byte("x")}}}}
	answers := decode[wire.BatchAnswer](t, g.do("POST", "/agent/v1/batch", encode(t, batch)), 200).Answers
	if a := answers[0]; a.Error == nil || a.Error.Code != string(fault.Conflict) || a.Log == nil || a.Log.Stored != 3 {
		t.Errorf("in a batch: got %+v", a)
	}
	gap := g.do("POST", "/agent/v1/attempts/att_1/logs?stream=stdout&offset=3&gap=6&why=lost", "", g.session("att_1"))
	if stored := decode[wire.LogAnswer](t, gap, 200); stored.Stored != 9 {
		t.Errorf("a gap: got %+v, want 9", stored)
	}
}

func TestAnOrderAndARefusalAreHeartbeatsAnswers(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	const path, body = "/agent/v1/attempts/att_1/heartbeat", `{"phase":"running"}`
	g.engine.held = &wire.BeatOrder{Attempt: "att_1", Order: wire.OrderStop, Reason: wire.Canceled}
	if got := decode[wire.HeartbeatAnswer](t, g.do("POST", path, body, g.session("att_1")), 200); got.Order != wire.OrderStop || got.Reason != wire.Canceled {
		t.Errorf("an order: got %+v", got)
	}
	g.engine.held = &wire.BeatOrder{Attempt: "att_1", Error: &wire.Problem{Code: string(fault.StaleAttempt), Detail: "this attempt is over"}}
	if p := g.do("POST", path, body, g.session("att_1")).want(t, "a refusal", 409, fault.StaleAttempt); p.Detail != "this attempt is over" {
		t.Errorf("a refusal: got %q", p.Detail)
	}
	many := decode[wire.BeatsAnswer](t, g.do("POST", "/agent/v1/heartbeats", `{"wait_ms":0,"beats":[{"attempt":"att_1","token":"t","phase":"running"}]}`), 200)
	if len(many.Orders) != 1 || many.Orders[0].Error.Status != 409 || many.Orders[0].Error.Title == "" {
		t.Errorf("a refusal among several: got %+v", many.Orders)
	}
}

func TestATokenSpeaksForItsAttemptOnly(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	for _, call := range []string{"heartbeat", "logs?stream=stdout&offset=0", "artifacts", "result"} {
		path := "/agent/v1/attempts/att_1/" + call
		for name, header := range map[string]string{
			"none":           "",
			"another's":      g.session("att_2"),
			"the bootstrap":  "Authorization: Bearer " + g.key.Bootstrap("att_1"),
			"the command's":  "Authorization: Bearer " + g.key.Job("att_1", 1),
			"an API token":   g.token(strings.ReplaceAll(call[:4], "?", "")+"x", "admin"),
			"a made-up one":  "Authorization: Bearer dfs_att_1.1_x",
			"in another way": "Cookie: token=" + g.key.Session("att_1", 1),
		} {
			var headers []string
			if header != "" {
				headers = append(headers, header)
			}
			p := g.do("POST", path, `{}`, headers...).want(t, name+" token: "+call, 401, fault.Unauthenticated)
			if !strings.Contains(p.Detail, "the answer to its claim") {
				t.Errorf("%s token: %s: got %q, want which token the call takes", name, call, p.Detail)
			}
		}
	}
	for call, takes := range map[string]string{"claim": "DAYFLY_AGENT_TOKEN", "progress": "DAYFLY_TOKEN"} {
		for name, header := range map[string]string{"none": "X-Other: 1", "a made-up one": "Authorization: Bearer dfb_att_1_x"} {
			p := g.do("POST", "/agent/v1/"+call, `{"attempt":"att_1"}`, header).want(t, name+" token: "+call, 401, fault.Unauthenticated)
			if !strings.Contains(p.Detail, takes) {
				t.Errorf("%s token: %s: got %q, want that it takes the one of %s", name, call, p.Detail, takes)
			}
		}
	}
	g.do("POST", "/agent/v1/claim", `{"attempt":"att_1"}`, "Authorization: Bearer "+g.key.Bootstrap("att_2")).want(t, "claiming with another's token", 401, fault.Unauthenticated)
	if len(g.engine.calls) != 0 {
		t.Errorf("the engine was asked: %v", g.engine.calls)
	}
}

func TestBadCallsOfAgentsAreRefused(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	auth := g.session("att_1")
	const attempt = "/agent/v1/attempts/att_1/"
	large := strings.Repeat("x", wire.MaxChunk+1)
	for name, test := range map[string]struct {
		path, body string
		status     int
		field      string
	}{
		"no body":                  {attempt + "result", "", 400, ""},
		"not JSON":                 {attempt + "heartbeat", "x", 400, ""},
		"an unknown member":        {attempt + "heartbeat", `{"fase":"running"}`, 422, "fase"},
		"a wrong type":             {attempt + "result", `{"outcome":"failed","exit":{"code":"1"}}`, 422, "exit.code"},
		"a wrong type deep inside": {attempt + "result", `{"logs":[{},{"offset":"x"}]}`, 422, "logs[1].offset"},
		"a fraction over 1":        {attempt + "heartbeat", `{"progress":{"fraction":2}}`, 422, "progress.fraction"},
		"a chunk too large":        {attempt + "logs?stream=stdout&offset=0", large, 413, ""},
		"an unknown stream":        {attempt + "logs?stream=stdin&offset=0", "x", 422, "stream"},
		"a bad offset":             {attempt + "logs?stream=stdout&offset=x", "x", 422, "offset"},
		"a negative offset":        {attempt + "logs?stream=stdout&offset=-1", "x", 422, "offset"},
		"two offsets":              {attempt + "logs?stream=stdout&offset=0&offset=1", "x", 422, "offset"},
		"an unknown parameter":     {attempt + "logs?stream=stdout&ofset=0", "x", 422, "ofset"},
		"a gap with bytes":         {attempt + "logs?stream=stdout&offset=0&gap=3", "x", 422, "gap"},
		"a bad query":              {attempt + "logs?stream=%zz", "x", 422, ""},
		"too large a batch":        {"/agent/v1/batch", `{"calls":[` + strings.Repeat(" ", wire.MaxBatchBytes) + `]}`, 413, ""},
		"too many calls":           {"/agent/v1/batch", `{"calls":[` + strings.Repeat(`{},`, wire.MaxBatchCalls) + `{}]}`, 422, "calls"},
		"a broken batch":           {"/agent/v1/batch", `{"calls":[{"log":{"data":"!"}}]}`, 400, ""},
		"too large a result":       {attempt + "result", `{"message":"` + strings.Repeat("x", wire.MaxRequest) + `"}`, 413, ""},
		"progress over 1":          {"/agent/v1/progress", `{"fraction":1.5}`, 422, "fraction"},
		"a huge progress":          {"/agent/v1/progress", `{"text":"` + strings.Repeat("x", 20_000) + `"}`, 413, ""},
	} {
		header := auth
		if strings.Contains(test.path, "progress") {
			header = "Authorization: Bearer " + g.key.Job("att_1", 1)
		}
		got := g.do("POST", test.path, test.body, header)
		if got.status != test.status {
			t.Errorf("%s: got %d, want %d: %.300s", name, got.status, test.status, got.body)
			continue
		}
		if p := got.problem(t); p.Field != test.field {
			t.Errorf("%s: got field %q, want %q: %s", name, p.Field, test.field, got.body)
		}
	}
	for _, call := range g.engine.calls {
		if !strings.HasPrefix(call, "log ") { // the store refuses chunks, not the API
			t.Errorf("the engine was asked: %s", call)
		}
	}
	g.do("POST", "/agent/v1/batch", `{"calls":[]}`, "Content-Type: text/plain").want(t, "another content type", 415, fault.Invalid)
}

func TestABatchMeansWhatItsCallsWouldMeanOneByOne(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	var batch wire.Batch
	for i := range 20 {
		attempt := fmt.Sprintf("att_%d", i)
		session := g.key.Session(attempt, 1)
		batch.Calls = append(batch.Calls,
			wire.BatchCall{Attempt: attempt, Token: g.key.Bootstrap(attempt), Claim: &wire.ClaimRequest{Attempt: attempt}},
			wire.BatchCall{Attempt: attempt, Token: session, Log: &wire.LogChunk{Stream: wire.Stdout, Data: []byte("one")}},
			wire.BatchCall{Attempt: attempt, Token: session, Log: &wire.LogChunk{Stream: wire.Stdout, Offset: 3, Data: []byte("two")}},
			wire.BatchCall{Attempt: attempt, Token: session, Result: &wire.Result{Outcome: wire.Succeeded}},
		)
	}
	batch.Calls = append(batch.Calls,
		wire.BatchCall{Attempt: "att_0", Token: g.key.Session("att_1", 1), Result: &wire.Result{Outcome: wire.Succeeded}},
		wire.BatchCall{Attempt: "att_0", Token: g.key.Bootstrap("att_1"), Claim: &wire.ClaimRequest{Attempt: "att_1"}},
		wire.BatchCall{Attempt: "att_0", Token: g.key.Session("att_0", 1)},
		wire.BatchCall{Attempt: "att_0", Token: g.key.Session("att_0", 1), Log: &wire.LogChunk{Stream: "x"}, Result: &wire.Result{}},
		wire.BatchCall{Attempt: "att_0", Token: "", Result: &wire.Result{Outcome: wire.Succeeded}},
	)
	answers := decode[wire.BatchAnswer](t, g.do("POST", "/agent/v1/batch", encode(t, batch)), 200).Answers
	if len(answers) != len(batch.Calls) {
		t.Fatalf("%d answers to %d calls", len(answers), len(batch.Calls))
	}
	for i := range 20 {
		a := answers[4*i : 4*i+4]
		if a[0].Assignment == nil || a[1].Log == nil || a[1].Log.Stored != 3 || a[2].Log == nil || a[2].Log.Stored != 6 || a[3] != (wire.CallAnswer{}) {
			t.Errorf("the answers of attempt %d: %+v", i, a)
		}
	}
	for i, want := range []fault.Kind{fault.Unauthenticated, fault.Invalid, fault.Invalid, fault.Invalid, fault.Unauthenticated} {
		a := answers[80+i]
		if a.Error == nil || a.Error.Code != string(want) || a.Error.Status == 0 || a.Error.Detail == "" {
			t.Errorf("the bad call %d: got %+v, want %s", i, a.Error, want)
		}
	}
	// Calls of one attempt in their order, whatever the others do in between.
	order := map[string][]string{}
	for _, call := range g.engine.calls {
		what, attempt, _ := strings.Cut(call, " ")
		order[attempt] = append(order[attempt], what)
	}
	for attempt, calls := range order {
		if got := strings.Join(calls, " "); got != "claim log log result" {
			t.Errorf("%s: the calls were carried out as %s", attempt, got)
		}
	}
}

func TestAPanicInABatchIsOneCallsAlone(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.engine.boom = true
	batch := wire.Batch{Calls: []wire.BatchCall{
		{Attempt: "att_1", Token: g.key.Session("att_1", 1), Result: &wire.Result{Outcome: wire.Succeeded}},
		{Attempt: "att_2", Token: "wrong", Result: &wire.Result{Outcome: wire.Succeeded}},
	}}
	got := g.do("POST", "/agent/v1/batch", encode(t, batch))
	answers := decode[wire.BatchAnswer](t, got, http.StatusOK).Answers
	if answers[0].Error == nil || answers[0].Error.Code != string(fault.Internal) || answers[1].Error.Code != string(fault.Unauthenticated) || strings.Contains(string(got.body), "secret") {
		t.Errorf("got %s", got.body)
	}
}
