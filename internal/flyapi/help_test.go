package flyapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/flyapi"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// house is a service with its provider and a client.
type house struct {
	t       *testing.T
	cloud   *memmachine.Cloud
	service *flyapi.Service
	server  *httptest.Server
	options flyapi.Options
	stop    func()
	inside  bool   // a bubble of testing/synctest
	base    string // URL of the service
	hangs   bool   // the service may be killed: call then answers with status 0
}

// open returns a service over memory with an app called "app". change may change its options.
func open(t *testing.T, change func(*flyapi.Options)) *house {
	t.Helper()
	return openOn(t, nil, false, change)
}

// openOn is open on a cloud of these options.
func openOn(t *testing.T, cloud *memmachine.Options, inside bool, change func(*flyapi.Options)) *house {
	t.Helper()
	provider := memmachine.New(cloud)
	h := &house{t: t, cloud: provider.Cloud(), inside: inside, options: flyapi.Options{
		Provider: provider, Ledger: filepath.Join(t.TempDir(), "machines.db"), Apps: []string{"app"},
	}}
	if change != nil {
		change(&h.options)
	}
	h.begin()
	t.Cleanup(func() {
		h.stop()
		h.cloud.Close()
	})
	return h
}

// begin starts a service on what the ledger and the cloud hold.
func (h *house) begin() {
	h.t.Helper()
	service, err := flyapi.New(h.t.Context(), h.options)
	if err != nil {
		h.t.Fatalf("New: got error %v", err)
	}
	h.service = service
	if h.base = "http://127.0.0.1"; !h.inside {
		h.server = httptest.NewServer(service.Handler())
		h.base = h.server.URL
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := service.Run(ctx); err != nil {
			h.t.Errorf("Run: got error %v", err)
		}
	}()
	h.stop = func() {
		if !h.inside {
			h.server.Close()
		}
		cancel()
		<-done
		if err := service.Close(); err != nil {
			h.t.Errorf("Close: got error %v", err)
		}
	}
}

// restart stops the service and starts another one on what it left.
func (h *house) restart() {
	h.t.Helper()
	h.stop()
	h.begin()
}

// answer is what the service said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a *answer) text() string {
	var e struct {
		Error string `json:"error"`
	}
	_ = json.Unmarshal(a.body, &e)
	return e.Error
}

// call makes a request. body is text, or something to be written as JSON, or nil for none.
func (h *house) call(method, path string, body any, header ...string) *answer {
	h.t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			h.t.Fatal(err)
		}
		reader = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(context.WithoutCancel(h.t.Context()), method, h.base+path, reader) // cleanups call too
	if err != nil {
		h.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if h.inside { // a bubble, which no network reaches
		if r.Body == nil {
			r.Body = http.NoBody // as a server has it
		}
		w := httptest.NewRecorder()
		h.service.Handler().ServeHTTP(w, r)
		return &answer{w.Code, w.Header(), w.Body.Bytes()}
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil && h.hangs {
		return &answer{}
	}
	if err != nil {
		h.t.Fatalf("%s %s: got error %v", method, path, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil && h.hangs {
		return &answer{}
	}
	if err != nil {
		h.t.Fatalf("%s %s: got error %v", method, path, err)
	}
	return &answer{response.StatusCode, response.Header, data}
}

// want makes a request that must be answered with a status, and decodes the answer into v unless that is nil.
func (h *house) want(status int, v any, method, path string, body any, header ...string) *answer {
	h.t.Helper()
	a := h.call(method, path, body, header...)
	if a.status != status {
		h.t.Fatalf("%s %s: got %d %s, want %d", method, path, a.status, a.body, status)
	}
	if v != nil {
		if err := json.Unmarshal(a.body, v); err != nil {
			h.t.Fatalf("%s %s: the answer %s: %v", method, path, a.body, err)
		}
	}
	return a
}

// shown is a machine as a client reads it.
type shown struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	State      string         `json:"state"`
	Region     string         `json:"region"`
	InstanceID string         `json:"instance_id"`
	PrivateIP  string         `json:"private_ip"`
	Nonce      string         `json:"nonce"`
	CreatedAt  time.Time      `json:"created_at"`
	Config     map[string]any `json:"config"`
	ImageRef   map[string]any `json:"image_ref"`
	Events     []shownEvent   `json:"events"`
	Cordoned   bool           `json:"cordoned"`
	HostStatus string         `json:"host_status"`
	Lease      map[string]any `json:"lease"`
}

type shownEvent struct {
	ID        string         `json:"id"`
	Type      string         `json:"type"`
	Status    string         `json:"status"`
	Source    string         `json:"source"`
	Timestamp int64          `json:"timestamp"`
	Request   map[string]any `json:"request"`
}

const machines = "/v1/apps/app/machines"

// create makes a machine of this configuration and returns it as it was answered.
func (h *house) create(config string) *shown {
	h.t.Helper()
	m := &shown{}
	h.want(200, m, "POST", machines, fmt.Sprintf(`{"config":%s}`, config))
	return m
}

// wait waits for a state, as clients do: 408 means to ask again.
func (h *house) wait(id, state string) {
	h.t.Helper()
	for range 60 {
		a := h.call("GET", machines+"/"+id+"/wait?timeout=1&state="+state, nil)
		switch a.status {
		case 200:
			return
		case 408:
		default:
			h.t.Fatalf("waiting for %s: got %d %s, want 200", state, a.status, a.body)
		}
	}
	h.t.Fatalf("waiting for %s: the machine is %+v", state, h.get(id))
}

func (h *house) get(id string) *shown {
	h.t.Helper()
	m := &shown{}
	h.want(200, m, "GET", machines+"/"+id, nil)
	return m
}

// started creates a machine of this configuration and waits until it runs.
func (h *house) started(config string) *shown {
	h.t.Helper()
	m := h.create(config)
	h.wait(m.ID, "started")
	return h.get(m.ID)
}

// launches returns the provider's machines.
func (h *house) launches() []*machine.Machine { return h.cloud.Machines() }

const idle = `{"image":"registry.example/app:1"}`

// eventually waits for a condition.
func (h *house) eventually(what string, holds func() bool) {
	h.t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline:
			h.t.Fatalf("it never happened that %s", what)
		case <-tick.C:
		}
	}
}
