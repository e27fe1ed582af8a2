package docker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/dockertest"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/docker"
)

// answer is what a faulty engine says instead of what it should.
type answer func(w http.ResponseWriter, r *http.Request)

func says(status int, body string) answer {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func failsWith(status int, message string) answer {
	return says(status, fmt.Sprintf(`{"message":%q}`, message))
}

// truncates breaks off in the middle of an answer.
func truncates(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	_, _ = io.WriteString(w, `{"Id":"abc`)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// floods answers with 50 MiB.
func floods(w http.ResponseWriter, _ *http.Request) {
	chunk := bytes.Repeat([]byte(" "), 1<<20)
	for range 50 {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// hangs answers when the caller has gone.
func hangs(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// faulty is a real engine behind somebody who answers for it as a test wants.
type faulty struct {
	host string

	mu    sync.Mutex
	rules []rule
}

// rule says what becomes of requests that match.
type rule struct {
	method, path string // the path's end
	first        bool   // the engine gets the request before somebody else answers
	times        int    // how often; below 0: always
	answer       answer

	whileItIsServed func() // what happens after the engine has got the request, whose answer nobody waits for; nil: nothing
}

// newFaulty returns a faulty engine in front of the shared one, or in front of nothing.
func newFaulty(t *testing.T, behind *dockertest.Engine) *faulty {
	t.Helper()
	f := &faulty{}
	engine := http.Handler(http.HandlerFunc(failsWith(http.StatusInternalServerError, "nothing is behind this")))
	if behind != nil {
		proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "engine"})
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(behind.Host, "unix://"))
		}}
		t.Cleanup(transport.CloseIdleConnections)
		proxy.Transport, proxy.FlushInterval = transport, -1
		engine = proxy
	}
	file := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", file)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/_ping") && behind == nil {
			w.Header().Set("Api-Version", "1.41")
			return
		}
		found := f.match(r)
		if found == nil {
			engine.ServeHTTP(w, r)
			return
		}
		if found.first {
			engine.ServeHTTP(&deaf{header: http.Header{}}, r)
		}
		if found.whileItIsServed != nil {
			served := make(chan struct{})
			go func() {
				defer close(served)
				defer func() { _ = recover() }() // the proxy gives up like this when its engine dies
				engine.ServeHTTP(&deaf{header: http.Header{}}, r)
			}()
			found.whileItIsServed()
			<-served
		}
		found.answer(w, r)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-done })
	f.host = "unix://" + file
	return f
}

// deaf takes an answer that nobody hears.
type deaf struct{ header http.Header }

func (d *deaf) Header() http.Header         { return d.header }
func (d *deaf) Write(b []byte) (int, error) { return len(b), nil }
func (d *deaf) WriteHeader(int)             {}

func (f *faulty) set(rules ...rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = rules
}

func (f *faulty) match(r *http.Request) *rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.rules {
		one := &f.rules[i]
		if one.times != 0 && r.Method == one.method && strings.HasSuffix(r.URL.Path, one.path) {
			one.times--
			found := *one
			return &found
		}
	}
	return nil
}

// provider returns a provider that talks to the faulty engine.
func (f *faulty) provider(t *testing.T, change func(*docker.Options)) *docker.Provider {
	t.Helper()
	o := &docker.Options{Host: f.host, Network: "none"}
	if change != nil {
		change(o)
	}
	p := docker.New(docker.Program{File: dockertest.Agent(t)}, o)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// fresh returns the spec of a machine that nobody has made before, and removes it with the test.
func fresh(t *testing.T, e *dockertest.Engine, image string, command ...string) *machine.Spec {
	t.Helper()
	name := strings.ToLower("t-" + strings.NewReplacer("/", "-", "_", "-", " ", "-", ",", "-", "'", "").Replace(t.Name()))
	name = name[:min(len(name), 50)] + fmt.Sprintf("-%d", time.Now().UnixNano()%1e9)
	t.Cleanup(func() {
		_, err := e.Client.ContainerRemove(context.WithoutCancel(t.Context()), name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		if err != nil && !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	})
	return &machine.Spec{Name: name, Owner: "t-owner", Lifetime: time.Minute, Image: image, Command: command}
}

// wantFault checks an error's kind, and that it says something to a person.
func wantFault(t *testing.T, what string, err error, kind fault.Kind, words ...string) {
	t.Helper()
	sentence, _ := fault.Sentence(err)
	if !errors.Is(err, kind) || sentence == "" {
		t.Errorf("%s: got error %v of kind %v, want a sentence of kind %v", what, err, fault.Of(err), kind)
		return
	}
	for _, word := range words {
		if !strings.Contains(sentence, word) {
			t.Errorf("%s: got %q, want it to say %q", what, sentence, word)
		}
	}
	if len(sentence) > 1000 {
		t.Errorf("%s: got a sentence of %d bytes, want one that can be read", what, len(sentence))
	}
}

func TestACreateWhoseAnswerIsLostIsFinishedByTheNext(t *testing.T) {
	t.Parallel()
	e := dockertest.Shared(t)
	image := e.Image(t, "dayfly-test/bb:1")
	f := newFaulty(t, e)
	for name, lost := range map[string]answer{
		"an error": failsWith(500, "boom"), "garbage": says(200, "<html>proxy</html>"), "half an answer": truncates, "nothing in time": hangs,
		"a flood": floods, "an answer about nothing": says(201, "{}"),
	} {
		for _, path := range []string{"/containers/create", "/start"} {
			if path == "/start" && (name == "garbage" || name == "half an answer" || name == "a flood" || name == "an answer about nothing") {
				continue // a start has no answer that is read
			}
			t.Run(name+" from "+path[strings.LastIndex(path, "/")+1:], func(t *testing.T) {
				p := f.provider(t, nil)
				spec := fresh(t, e, image, "sleep", "600")
				if err := p.Prepare(t.Context(), spec, nil); err != nil {
					t.Fatal(err)
				}
				f.set(rule{method: "POST", path: path, first: true, times: 1, answer: lost})
				patience := time.Minute
				if name == "nothing in time" {
					patience = 2 * time.Second
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				_, err := p.Create(ctx, spec)
				if cancel(); name == "nothing in time" {
					if fault.Of(err) != fault.Canceled {
						t.Fatalf("Create that hangs: got %v, want fault.Canceled", err)
					}
				} else {
					wantFault(t, "Create whose answer is "+name, err, fault.Unavailable)
				}
				m, err := p.Create(t.Context(), spec)
				if err != nil || m.State != machine.Running {
					t.Fatalf("the next Create: got %+v and error %v, want the machine, running", m, err)
				}
				list, err := e.Client.ContainerList(t.Context(), client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", "run.dayfly.name="+spec.Name)})
				if err != nil || len(list.Items) != 1 {
					t.Errorf("containers of that name: got %d and error %v, want one", len(list.Items), err)
				}
			})
		}
	}
}

func TestEachStatusOfACreateHasItsKind(t *testing.T) {
	t.Parallel()
	e := dockertest.Shared(t)
	image := e.Image(t, "dayfly-test/bb:1")
	f := newFaulty(t, e)
	p := f.provider(t, nil)
	spec := fresh(t, e, image, "true")
	if err := p.Prepare(t.Context(), spec, nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		status  int
		message string
		want    fault.Kind
	}{
		{400, "invalid mount config", fault.Invalid},
		{401, "not logged in", fault.Denied},
		{403, "authorization denied by plugin", fault.Denied},
		{404, "network nowhere not found", fault.Invalid},
		{429, "slow down", fault.Exhausted},
		{500, "boom", fault.Unavailable},
		{500, "mkdir: no space left on device", fault.Exhausted},
		{500, "--storage-opt is supported only for overlay over xfs", fault.Unsupported},
		{501, "not here", fault.Unsupported},
		{502, "bad gateway", fault.Unavailable},
		{503, "starting", fault.Unavailable},
	} {
		f.set(rule{method: "POST", path: "/containers/create", times: 1, answer: failsWith(c.status, c.message)})
		_, err := p.Create(t.Context(), spec)
		wantFault(t, fmt.Sprintf("Create answered with %d %s", c.status, c.message), err, c.want)
	}
}

func TestAListIsWholeOrAnError(t *testing.T) {
	t.Parallel()
	e := dockertest.Shared(t)
	image := e.Image(t, "dayfly-test/bb:1")
	f := newFaulty(t, e)
	p := f.provider(t, nil)
	spec := fresh(t, e, image, "sleep", "600")
	spec.Owner = "t-whole"
	if _, err := p.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string]answer{
		"500": failsWith(500, "boom"), "403": failsWith(403, "no"), "garbage": says(200, "<html>"), "half": truncates, "a flood": floods,
	} {
		for _, path := range []string{"/containers/json", "/json"} { // the second is of one container
			f.set(rule{method: "GET", path: path, times: 1, answer: bad})
			if list, err := p.List(t.Context(), spec.Owner); err == nil {
				t.Errorf("List when %s answers %s: got %d machines and no error, want an error", path, what, len(list))
			}
		}
	}
	f.set()
	if list, err := p.List(t.Context(), spec.Owner); err != nil || len(list) != 1 {
		t.Errorf("List afterwards: got %d machines and error %v, want one", len(list), err)
	}
}

func TestDestroyIsDoneWhenTheContainerIsGone(t *testing.T) {
	t.Parallel()
	e := dockertest.Shared(t)
	image := e.Image(t, "dayfly-test/bb:1")
	f := newFaulty(t, e)
	p := f.provider(t, nil)
	spec := fresh(t, e, image, "sleep", "600")
	m, err := p.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	location := strings.Fields(m.Location)[1]
	found, err := e.Client.ContainerInspect(t.Context(), m.Name, client.ContainerInspectOptions{})
	if err != nil || !strings.HasPrefix(found.Container.ID, location) {
		t.Fatalf("the container: got %v and error %v, want the one of %s", found.Container.ID, err, m.Location)
	}
	remove := "/containers/" + found.Container.ID
	for what, bad := range map[string]answer{"500": failsWith(500, "boom"), "success, but it stays": says(204, ""), "conflict, but it stays": failsWith(409, "removal is in progress")} {
		f.set(rule{method: "DELETE", path: remove, times: 1, answer: bad})
		wantFault(t, "Destroy answered with "+what, p.Destroy(t.Context(), m.ID), fault.Unavailable)
	}
	f.set(rule{method: "DELETE", path: remove, first: true, times: 1, answer: failsWith(500, "boom")})
	wantFault(t, "Destroy that is done and fails", p.Destroy(t.Context(), m.ID), fault.Unavailable)
	if err := p.Destroy(t.Context(), m.ID); err != nil {
		t.Errorf("Destroy of what is gone: got %v, want nil", err)
	}
}

func TestAForeignContainerOfTheNameIsLeftAlone(t *testing.T) {
	t.Parallel()
	e := dockertest.Shared(t)
	image := e.Image(t, "dayfly-test/bb:1")
	p := newProvider(t, nil)
	for what, labels := range map[string]map[string]string{
		"without labels": nil,
		// The labels of an image are its containers'; whoever makes the image may write what they like.
		"that claims to be another": {"run.dayfly.owner": "t-owner", "run.dayfly.name": "another", "run.dayfly.machine": "{}"},
	} {
		spec := fresh(t, e, image, "sleep", "600")
		made, err := e.Client.ContainerCreate(t.Context(), client.ContainerCreateOptions{Name: spec.Name, Config: &container.Config{Image: image, Cmd: []string{"sleep", "600"}, Labels: labels}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Create(t.Context(), spec)
		wantFault(t, "Create over a container "+what, err, fault.Conflict, spec.Name, "left alone")
		if _, err := p.Get(t.Context(), spec.Name); !errors.Is(err, fault.NotFound) {
			t.Errorf("Get of a container %s: got %v, want fault.NotFound", what, err)
		}
		if err := p.Destroy(t.Context(), spec.Name); err != nil {
			t.Errorf("Destroy of a container %s: got %v, want nil, for there is no such machine", what, err)
		}
		found, err := e.Client.ContainerInspect(t.Context(), spec.Name, client.ContainerInspectOptions{})
		if err != nil || found.Container.ID != made.ID || found.Container.State.Status != container.StateCreated {
			t.Errorf("the container %s afterwards: got %+v and error %v, want it as it was", what, found.Container.State, err)
		}
	}
}

func TestAnEngineThatIsNotThereIsSaidWithItsPlace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	listener, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	listener.Close()
	for what, o := range map[string]*docker.Options{
		"no socket":             {Host: "unix://" + filepath.Join(dir, "missing")},
		"a socket of the dead":  {Host: "unix://" + dead},
		"nobody at an address":  {Host: "tcp://127.0.0.1:1"},
		"none of several":       {Hosts: []string{"unix://" + filepath.Join(dir, "missing")}},
		"the second of several": {Hosts: []string{"unix://" + filepath.Join(dir, "missing"), "unix://" + dead}},
	} {
		p := docker.New(docker.Program{File: dockertest.Agent(t)}, o)
		spec := &machine.Spec{Name: "a", Owner: "b", Lifetime: time.Minute, Image: "bb:1", Command: []string{"true"}}
		_, created := p.Create(t.Context(), spec)
		_, checked := p.Check(t.Context())
		_, listed := p.List(t.Context(), "b")
		for call, err := range map[string]error{"Create": created, "Check": checked, "List": listed, "Destroy": p.Destroy(t.Context(), "a"), "Prepare": p.Prepare(t.Context(), spec, nil)} {
			wantFault(t, call+" with "+what, err, fault.Unavailable, "providers.docker.host", "DOCKER_HOST", "start")
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}
