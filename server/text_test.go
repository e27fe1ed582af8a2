package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// texts are what strangers write to pass for something else, as they stand in a JSON document.
func texts() map[string]string {
	return map[string]string{
		"NUL":                         `a\u0000b`,
		"an escape sequence":          `\u001b]0;owned\u0007\u001b[31m`,
		"another line of the log":     `a\ntime=2026-01-31T18:30:00Z level=ERROR msg=forged`,
		"a carriage return":           `a\rb`,
		"a C1 control character":      `\u009b31m`,
		"right to left":               `\u202egpj.exe\u2066`,
		"a line separator":            `a\u2028b\u2029\u0085`,
		"half of a surrogate pair":    `a\ud800b`,
		"the other half":              `\udc00`,
		"both halves":                 `\ud83e\udd8b`,
		"the last code points":        `\uffff\ufffe\udbff\udfff`,
		"a replacement character":     `\ufffd`,
		"markup":                      `<script>alert(1)</script>&amp;'\"`,
		"a format":                    `%s%n%!x(MISSING)`,
		"bytes that are not UTF-8":    "a\xff\xfe",
		"a surrogate in UTF-8":        "\xed\xa0\x80",
		"a control character as such": "a\x1bb",
		"nothing but spaces":          ` \u00a0\u3000`,
	}
}

// log is what a server has logged.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// check makes sure that nobody has written lines of his own into the log, or what drives a terminal.
func (l *log) check(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		line = strings.TrimSuffix(line, "\n")
		if !strings.HasPrefix(line, "time=") || !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("the log has the line %q", line)
		}
	}
}

// talk makes one request with a JSON body and returns the answer.
func talk(t *testing.T, method, address, token, body string) (status int, answer []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if answer, err = io.ReadAll(response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, answer
}

// at returns what is at a place in a JSON document.
func at(t *testing.T, document []byte, place ...any) any {
	t.Helper()
	var value any
	if err := json.Unmarshal(document, &value); err != nil {
		t.Fatalf("%v: %s", err, document)
	}
	for _, step := range place {
		switch step := step.(type) {
		case string:
			object, _ := value.(map[string]any)
			value = object[step]
		case int:
			array, _ := value.([]any)
			if len(array) <= step {
				return nil
			}
			value = array[step]
		}
	}
	return value
}

func TestWhateverTextAJobHasIsRefusedOrKeptAsItIs(t *testing.T) {
	t.Parallel()
	kept := new(log)
	o := options(t)
	o.Logger = slog.New(slog.NewTextHandler(kept, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, stop := start(t, o)
	for field, c := range map[string]struct {
		body  string // with %s for the text
		place []any  // of the text in the job's spec
	}{
		"command":         {`{"command":["true","%s"]%s}`, []any{"command", 1}},
		"program":         {`{"command":["%s"]%s}`, []any{"command", 0}},
		"env":             {`{"command":["true"],"env":{"A":"%s"}%s}`, []any{"env", "A"}},
		"env's name":      {`{"command":["true"],"env":{"%s":"a"}%s}`, nil},
		"name":            {`{"command":["true"],"name":"%s"%s}`, []any{"name"}},
		"payload":         {`{"command":["true"],"payload":["%s"]%s}`, []any{"payload", 0}},
		"payload's name":  {`{"command":["true"],"payload":{"%s":1}%s}`, nil},
		"provider":        {`{"command":["true"],"provider":"%s"%s}`, nil},
		"image":           {`{"command":["true"],"image":"%s"%s}`, []any{"image"}},
		"size":            {`{"command":["true"],"size":"%s"%s}`, nil},
		"input":           {`{"command":["true"],"inputs":[{"name":"%s"}]%s}`, []any{"inputs", 0, "name"}},
		"content type":    {`{"command":["true"],"inputs":[{"name":"a","content_type":"%s"}]%s}`, []any{"inputs", 0, "content_type"}},
		"output":          {`{"command":["true"],"outputs":["%s"]%s}`, []any{"outputs", 0}},
		"queue":           {`{"command":["true"],"queue":"%s"%s}`, []any{"queue"}},
		"concurrency key": {`{"command":["true"],"concurrency_key":"%s"%s}`, []any{"concurrency_key"}},
		"label":           {`{"command":["true"],"labels":{"a":"%s"}%s}`, []any{"labels", "a"}},
		"label's name":    {`{"command":["true"],"labels":{"%s":"a"}%s}`, nil},
		"run_at":          {`{"command":["true"],"run_at":"%s"%s}`, nil},
		"timeout":         {`{"command":["true"],"timeouts":{"run":"%s"}%s}`, nil},
		"unknown":         {`{"command":["true"],"%s":1%s}`, nil},
	} {
		for what, text := range texts() {
			status, answer := talk(t, http.MethodPost, s.URL()+"/v1/jobs", "", fmt.Sprintf(c.body, text, `,"start":false`))
			if !json.Valid(answer) || !utf8.Valid(answer) {
				t.Errorf("%s of a job is %s: the answer is not JSON: %q", field, what, answer)
				continue
			}
			if status == http.StatusBadRequest || status == http.StatusUnprocessableEntity {
				continue
			}
			id, _ := at(t, answer, "id").(string)
			if status != http.StatusCreated || id == "" {
				t.Errorf("%s of a job is %s: got %d %s, want it taken or refused", field, what, status, answer)
				continue
			}
			_, read := talk(t, http.MethodGet, s.URL()+"/v1/jobs/"+id, "", "")
			want := at(t, []byte(`"`+text+`"`))
			if got := at(t, read, append([]any{"spec"}, c.place...)...); c.place != nil && got != want {
				t.Errorf("%s of a job is %s: got %q, want %q or a refusal", field, what, got, want)
			}
			for _, seen := range []string{"/v1/jobs/" + id + "/why", "/v1/jobs/" + id + "/events", "/v1/jobs?limit=1000",
				"/v1/jobs?name=" + url.QueryEscape(fmt.Sprint(want)), "/v1/jobs?label=" + url.QueryEscape("a="+fmt.Sprint(want))} {
				if status, answer := talk(t, http.MethodGet, s.URL()+seen, "", ""); status >= 500 || !json.Valid(answer) {
					t.Errorf("%s of a job is %s: GET %s is answered with %d %q", field, what, seen, status, answer)
				}
			}
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	kept.check(t)
}

func TestWhateverTextAnAttemptHasIsRefusedOrKeptAsItIs(t *testing.T) {
	t.Parallel()
	kept := new(log)
	o := options(t)
	o.Logger = slog.New(slog.NewTextHandler(kept, &slog.HandlerOptions{Level: slog.LevelDebug}))
	machines := make(chan *machine.Spec, 1)
	provider := memmachine.New(&memmachine.Options{Guest: func(ctx context.Context, spec *machine.Spec) machine.Exit {
		machines <- spec
		<-ctx.Done()
		return machine.Exit{}
	}})
	t.Cleanup(provider.Cloud().Close)
	o.Providers["memory"] = provider
	s, stop := start(t, o)
	for what, text := range texts() {
		want := any(nil)
		if json.Valid([]byte(`"` + text + `"`)) {
			want = at(t, []byte(`"`+text+`"`))
		}
		job, err := client(t, s, "").Submit(t.Context(), &dayfly.JobSpec{Command: []string{"true"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		boot := <-machines
		call := func(route, token, body string) (int, []byte) {
			t.Helper()
			status, answer := talk(t, http.MethodPost, s.URL()+"/agent/v1/"+route, token, body)
			if status >= 500 || !json.Valid(answer) || !utf8.Valid(answer) {
				t.Errorf("%s to %s: got %d %q", what, route, status, answer)
			}
			return status, answer
		}
		claim := func(instance, nonce, agent string) (int, []byte) {
			return call("claim", boot.Agent.Token, fmt.Sprintf(`{"attempt":"%s","instance":"%s","nonce":"%s","protocol":%d,"agent":"%s"}`,
				boot.Agent.Attempt, instance, nonce, wire.Version, agent))
		}
		status, answer := claim("m"+text, "n"+text, "v"+text)
		if status != http.StatusOK {
			if status, answer = claim("m", "n", "v"); status != http.StatusOK {
				t.Fatalf("claim: got %d %s", status, answer)
			}
		}
		var assigned wire.Assignment
		if err := json.Unmarshal(answer, &assigned); err != nil {
			t.Fatal(err)
		}
		on := "attempts/" + boot.Agent.Attempt + "/"
		status, _ = call("progress", assigned.JobToken, fmt.Sprintf(`{"fraction":0.5,"text":"%s"}`, text))
		if status == http.StatusOK {
			eventually(t, func() bool {
				_, read := talk(t, http.MethodGet, s.URL()+"/v1/jobs/"+job.ID, "", "")
				return at(t, read, "progress", "text") == want
			}, "the progress of a job is "+what)
		}
		call(on+"heartbeat", assigned.Token, fmt.Sprintf(`{"phase":"%s"}`, text))
		call(on+"artifacts", assigned.Token, fmt.Sprintf(`{"artifacts":[{"name":"%s","size":1}]}`, text))
		call(on+"logs?stream=stdout&offset=0&time_ms=1&gap=3&why="+url.QueryEscape(fmt.Sprint(want)), assigned.Token, "")
		call(on+"logs?stream="+url.QueryEscape(fmt.Sprint(want)), assigned.Token, "a")
		call(on+"result", assigned.Token, fmt.Sprintf(`{"outcome":"%s"}`, text))
		result := `{"outcome":"failed","started":true,"exit":{"code":3,"message":"%s"},"reason":"%s","message":"m%[1]s","warnings":["w%[1]s"],` +
			`"value":["%[1]s"],"agent":"%[1]s"}`
		status, answer = call(on+"result", assigned.Token, fmt.Sprintf(result, text, "exit_nonzero"))
		if status == http.StatusOK {
			_, read := talk(t, http.MethodGet, s.URL()+"/v1/jobs/"+job.ID, "", "")
			message, _ := at(t, read, "message").(string)
			if whole := fmt.Sprintf("m%s w%s", want, want); message != strings.TrimSpace(whole) {
				t.Errorf("the message of an attempt with %s: got %q, want %q", what, message, whole)
			}
			if got := at(t, read, "result", 0); got != want {
				t.Errorf("the result of an attempt with %s: got %q, want %q", what, got, want)
			}
			continue
		}
		if status != http.StatusBadRequest && status != http.StatusUnprocessableEntity {
			t.Errorf("the result of an attempt with %s: got %d %s, want it taken or refused", what, status, answer)
		}
		if status, answer = call(on+"result", assigned.Token, `{"outcome":"failed","started":true}`); status != http.StatusOK {
			t.Errorf("the result of an attempt: got %d %s", status, answer)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	kept.check(t)
}

// eventually waits until something holds.
func eventually(t *testing.T, holds func() bool, what string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within ten seconds: %s", what)
		}
		select {
		case <-t.Context().Done():
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}
