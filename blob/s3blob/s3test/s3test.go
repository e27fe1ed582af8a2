// Package s3test runs a real S3 service for the length of a test: versitygw, on a directory that goes with the test.
package s3test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Service is a running S3 service.
type Service struct {
	URL       string // such as http://127.0.0.1:40321
	Bucket    string // one that exists
	AccessKey string
	SecretKey string
	Dir       string // Bucket's, in which every object is a file; removing it is losing the bucket
}

// Start starts a service on a free port of this host (host "": 127.0.0.1) and waits until it answers. It ends with the
// test. The test fails if versitygw is not installed.
func Start(t testing.TB, host string) *Service {
	t.Helper()
	if host == "" {
		host = "127.0.0.1"
	}
	program := find(t)
	root := t.TempDir()
	s := &Service{Bucket: "bucket", AccessKey: "access", SecretKey: "a-secret-of-the-test", Dir: filepath.Join(root, "data", "bucket")}
	sidecar := filepath.Join(root, "meta") // not every file system has the attributes that it would use otherwise
	for _, dir := range []string{s.Dir, sidecar} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 { // another program may take the port between finding it free and using it
		if s.run(t, program, freeAddress(t, host), filepath.Dir(s.Dir), sidecar) {
			return s
		}
	}
	t.Fatal("versitygw did not begin to answer, five times")
	return nil
}

// run starts the program and reports whether it came to answer.
func (s *Service) run(t testing.TB, program, address, data, sidecar string) bool {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	command := exec.CommandContext(ctx, program, "--port", address, "--quiet", "--keep-alive", "posix", "--sidecar", sidecar, data)
	command.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
	output := &tail{}
	command.Stdout, command.Stderr = output, output
	if err := command.Start(); err != nil {
		t.Fatalf("versitygw cannot be started: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = command.Wait() // it is killed, or what it printed says why it ended
		close(ended)
	}()
	s.URL = "http://" + address
	if answers(ctx, s.URL, ended) {
		t.Cleanup(func() { stop(); <-ended })
		return true
	}
	stop()
	<-ended
	t.Logf("versitygw printed:\n%s", output)
	return false
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

func find(t testing.TB) string {
	t.Helper()
	if program, err := exec.LookPath("versitygw"); err == nil {
		return program
	}
	var places []string
	for _, variable := range []string{"GOBIN", "GOPATH"} {
		text, err := exec.CommandContext(t.Context(), "go", "env", variable).Output()
		if dir := string(bytes.TrimSpace(text)); err == nil && dir != "" {
			places = append(places, filepath.Join(dir, "versitygw"), filepath.Join(dir, "bin", "versitygw"))
		}
	}
	for _, place := range places {
		if info, err := os.Stat(place); err == nil && info.Mode().IsRegular() {
			return place
		}
	}
	t.Fatal("versitygw, the S3 service of this test, is not installed; run: make setup")
	return ""
}

func freeAddress(t testing.TB, host string) string {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
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
