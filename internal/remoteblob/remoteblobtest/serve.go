package remoteblobtest

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// Serve runs a program that serves HTTP for the length of the test, and returns its URL when it answers and isReady has
// agreed. command makes it for a free port of host; it is called again when another program was quicker to take that port.
func Serve(t testing.TB, host string, command func(ctx context.Context, host, port string) *exec.Cmd, isReady func(url string) bool) (url string) {
	t.Helper()
	for range 5 {
		if url, ok := run(t, host, command, isReady); ok {
			return url
		}
	}
	t.Fatal("the service of this test did not begin to answer, five times")
	return ""
}

func run(t testing.TB, host string, command func(ctx context.Context, host, port string) *exec.Cmd, isReady func(url string) bool) (url string, ok bool) {
	t.Helper()
	port := freePort(t, host)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	program, output := command(ctx, host, port), &tail{}
	program.Stdout, program.Stderr = output, output
	if err := program.Start(); err != nil {
		t.Fatalf("the service of this test cannot be started: %v; run: make setup", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = program.Wait() // it is killed, or what it printed says why it ended
		close(ended)
	}()
	url = "http://" + net.JoinHostPort(host, port)
	if answers(ctx, url, ended) && isReady(url) {
		t.Cleanup(func() { stop(); <-ended })
		return url, true
	}
	stop()
	<-ended
	t.Logf("%s printed:\n%s", program, output)
	return "", false
}

// answers waits until there is an answer, whatever it is, or the program has ended.
func answers(ctx context.Context, url string, ended <-chan struct{}) bool {
	client := &http.Client{Timeout: time.Second}
	for range 600 {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return false
		}
		if response, err := client.Do(request); err == nil {
			response.Body.Close()
			return true
		}
		select {
		case <-ended:
			return false
		case <-time.After(50 * time.Millisecond):
		}
	}
	return false
}

func freePort(t testing.TB, host string) string {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// tail keeps the end of what a program prints.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (b *tail) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	if most := 16 << 10; len(b.text) > most {
		b.text = bytes.Clone(b.text[len(b.text)-most:])
	}
	return len(p), nil
}

func (b *tail) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}
