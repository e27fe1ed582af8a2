//go:build linux

package survival_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly"
)

// TestOneKeyMakesOneJob submits the same job fifty times at once, and again after a restart.
func TestOneKeyMakesOneJob(t *testing.T) {
	t.Parallel()
	in := install(t)
	s := in.start("")
	k := task{lines: 5, exit: taskExit}
	spec := in.spec(k)
	ids := map[string]int{}
	var mu sync.Mutex
	var clients sync.WaitGroup
	for range 50 {
		clients.Go(func() {
			answer := in.post("/v1/jobs", spec, "once")
			mu.Lock()
			defer mu.Unlock()
			if answer.err != nil || answer.status/100 != 2 {
				t.Errorf("got %v, want the job", answer)
			}
			ids[answer.ID]++
		})
	}
	clients.Wait()
	if len(ids) != 1 {
		t.Fatalf("one key made these jobs, each answered so often: %v, want one job", ids)
	}
	var id string
	for id = range ids {
	}

	other := in.spec(task{lines: 6, exit: taskExit})
	refuse := func() {
		t.Helper()
		if got := in.post("/v1/jobs", other, "once"); got.status != http.StatusConflict || got.Code != "idempotency_mismatch" {
			t.Errorf("the key with another body: got %v, want 409 idempotency_mismatch", got)
		}
	}
	refuse()
	s.kill(t)
	in.start("")
	refuse()
	if got := in.post("/v1/jobs", spec, "once"); got.ID != id {
		t.Errorf("the key after a restart: got %v, want job %s", got, id)
	}
	in.checkTask(id, k)
	if got := in.post("/v1/jobs", spec, "once"); got.ID != id {
		t.Errorf("the key after the job's end: got %v, want job %s", got, id)
	}
	in.only(id)
	in.empty()
}

// answer is what the server said to a request that was made by hand.
type answer struct {
	status int
	err    error
	ID     string       `json:"id"`
	State  dayfly.State `json:"state"`
	Code   string       `json:"code"`
	Detail string       `json:"detail"`
}

func (a answer) String() string {
	if a.err != nil {
		return a.err.Error()
	}
	return fmt.Sprintf("%d %s %s %s %s", a.status, a.ID, a.State, a.Code, a.Detail)
}

// post makes one request, to see the status and body of its answer. The key is the Idempotency-Key, or "".
func (in *installation) post(path string, body any, key string) (a answer) {
	data, err := json.Marshal(body)
	if err != nil {
		return answer{err: err}
	}
	req, err := http.NewRequestWithContext(in.t.Context(), http.MethodPost, "http://"+in.address+path, bytes.NewReader(data))
	if err != nil {
		return answer{err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+in.token)
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return answer{err: err}
	}
	a.status = resp.StatusCode
	if err := json.Unmarshal(text, &a); err != nil {
		a.err = fmt.Errorf("%s: %q: %w", resp.Status, text, err)
	}
	return a
}
