//go:build linux

package survival_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/dockertest"
)

func TestJobsOutliveAPodmanThatIsKilled(t *testing.T) {
	t.Parallel()
	e := dockertest.StartPodman(t)
	image := e.Image(t, "dayfly-test/bb:1")
	in := installWithDocker(t, e)
	in.start("")
	// The address at which its machines find the server is not there before the first of them.
	job := in.submit(in.contained(image, `i=0; while [ $i -lt 30 ]; do echo line $i; sleep 0.1; i=$((i+1)); done`))
	in.reaches(job.ID, func(j *dayfly.Job) bool { return j.State == dayfly.Running })
	e.Kill(t, syscall.SIGKILL)
	eventually(t, patience, "the job goes on without the engine", func() error {
		if got := string(in.printed(job.ID, 1, "stdout")); !strings.Contains(got, "line 29\n") {
			return fmt.Errorf("it has printed %q", got)
		}
		return nil
	})
	e.Restart(t)
	if done := in.ended(job.ID); done.State != dayfly.Succeeded || len(done.Attempts) != 1 {
		t.Errorf("the job: got %s (%s) %s in %d attempts, want it to have succeeded in one", done.State, done.Reason, done.Message, len(done.Attempts))
	}
	in.noContainers(e, job.ID)
}

func TestTheEngineMayBeKilledWhileItMakesAContainer(t *testing.T) {
	t.Parallel()
	e := dockertest.Start(t)
	image := e.Image(t, "dayfly-test/bb:1")
	killer := &killer{t: t, engine: e}
	in := install(t, "DAYFLY_PROVIDERS_DOCKER_HOST="+killer.listen(), "DAYFLY_PROVIDERS_DOCKER_NETWORK="+e.Network,
		"DAYFLY_PROVIDERS_DOCKER_AGENT="+dockertest.Agent(t))
	in.start("")
	for _, moment := range []struct {
		request string
		after   time.Duration
	}{{"/containers/create", 20 * time.Millisecond}, {"/start", 0}, {"/start", 60 * time.Millisecond}, {"/start", 200 * time.Millisecond}} {
		when := fmt.Sprintf("%v after it was asked for %s", moment.after, moment.request)
		spec := in.contained(image, "echo ran")
		spec.Retry = dayfly.Retry{MaxAttempts: 3}
		killed := killer.arm(moment.request, moment.after)
		job := in.submit(spec)
		<-killed
		e.Restart(t)
		done := in.ended(job.ID)
		if done.State != dayfly.Succeeded {
			t.Fatalf("a job whose engine was killed %s: got %s (%s) %s, want it to have succeeded", when, done.State, done.Reason, done.Message)
		}
		for i, attempt := range done.Attempts {
			last := i == len(done.Attempts)-1
			if (attempt.State == dayfly.AttemptSucceeded) != last {
				t.Errorf("attempt %d of a job whose engine was killed %s: got %s (%s), want the last one alone to succeed", i+1, when, attempt.State, attempt.Reason)
			}
			if got := string(in.printed(job.ID, attempt.Number, "stdout")); last && got != "ran\n" {
				t.Errorf("attempt %d of a job whose engine was killed %s printed %q, want that it ran", i+1, when, got)
			}
		}
		in.noContainers(e, job.ID)
	}
}

// killer stands before an engine and kills it while it does what it is asked for.
type killer struct {
	t      *testing.T
	engine *dockertest.Engine

	mu      sync.Mutex
	request string        // guarded by mu; "": spare it
	after   time.Duration // guarded by mu
	killed  chan struct{} // guarded by mu
}

// arm has the engine killed that long after the next request of this kind, and returns what is closed then.
func (k *killer) arm(request string, after time.Duration) (killed <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.request, k.after, k.killed = request, after, make(chan struct{})
	return k.killed
}

// due returns what is to be closed when the engine is dead, if this is the request.
func (k *killer) due(r *http.Request) (time.Duration, chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// The container that an image is made by is no machine.
	if k.request == "" || r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, k.request) || strings.HasPrefix(r.URL.Query().Get("name"), "dayfly-fit-") {
		return 0, nil
	}
	k.request = ""
	return k.after, k.killed
}

// listen serves the engine at a socket of its own, whose URL it returns.
func (k *killer) listen() string {
	file := filepath.Join(k.t.TempDir(), "engine")
	listener, err := net.Listen("unix", file)
	if err != nil {
		k.t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(k.engine.Host, "unix://"))
	}}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "engine"})
	proxy.Transport, proxy.FlushInterval = transport, -1
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) } // no answer is one
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		after, killed := k.due(r)
		if killed == nil {
			proxy.ServeHTTP(w, r)
			return
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			defer func() { _ = recover() }() // what the proxy says when the engine dies
			proxy.ServeHTTP(httptest.NewRecorder(), r)
		}()
		<-time.After(after)
		k.engine.Kill(k.t, syscall.SIGKILL)
		<-served
		close(killed)
		panic(http.ErrAbortHandler)
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }() // until it is closed
	k.t.Cleanup(func() { _ = server.Close(); <-served; transport.CloseIdleConnections() })
	return "unix://" + file
}
