package cli

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// heard is what a command has printed so far, which may be asked for while it runs.
type heard struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.Write(p)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

// registryAway serves a container engine whose registry nobody finds until there says so, and has no such image then. It returns
// the engine's URL.
func registryAway(t *testing.T, there func() bool) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "engine")
	listener, err := net.Listen("unix", file)
	if err != nil {
		t.Fatal(err)
	}
	engine := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		w.Header().Set("Content-Type", "application/json")
		status, text := http.StatusNotFound, "No such image"
		switch {
		case strings.HasSuffix(r.URL.Path, "/_ping"):
			return
		case strings.HasSuffix(r.URL.Path, "/images/create") && !there():
			status, text = http.StatusInternalServerError, "dial tcp: lookup nowhere.example: no such host"
		case strings.HasSuffix(r.URL.Path, "/images/create"):
			text = "manifest unknown"
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"message":"`+text+`"}`) // who does not want to hear it hangs up
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = engine.Serve(listener) }() // until it is closed
	t.Cleanup(func() { _ = engine.Close(); <-served })
	return "unix://" + file
}

func TestWhoeverReadsItLaterIsToldWhyAnImageIsNotThere(t *testing.T) {
	t.Parallel()
	static, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatalf("there is no static busybox; run scripts/setup, or: apt-get install busybox-static")
	}
	const reason = "dayfly: waiting: tried again, because the engine at "
	var stderr heard
	host := registryAway(t, func() bool { return strings.Contains(stderr.String(), reason) })
	cmd := command(t, t.TempDir(), []string{"DAYFLY_PROVIDERS_DOCKER_HOST=" + host, "DAYFLY_PROVIDERS_DOCKER_AGENT=" + static, "DAYFLY_PROVIDERS_DOCKER_SERVER_URL=http://127.0.0.1:1"},
		"run", "--on", "docker", "--image", "nowhere.example/tool:1", "--", "true")
	cmd.Stderr = &stderr
	_ = cmd.Run() // its status is looked at below
	got := stderr.String()
	if strings.Count(got, reason) != 1 || !strings.Contains(got, "nowhere.example/tool:1 from nowhere.example: dial tcp: lookup nowhere.example: no such host\n") {
		t.Errorf("standard error: got %q, want once why the image is not there yet", got)
	}
	if code := cmd.ProcessState.ExitCode(); code != 125 || !strings.Contains(got, "there is no image nowhere.example/tool:1") {
		t.Errorf("got status %d and %q, want 125, and that there is no such image", code, got)
	}
}
