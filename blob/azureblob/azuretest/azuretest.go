// Package azuretest runs a real server of Azure's blob protocol for the length of a test: Azurite, in a directory that
// goes with the test.
package azuretest

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

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
)

// Service is a running service.
type Service struct {
	URL       string // of the account, such as http://127.0.0.1:40321/devstoreaccount1
	Account   string
	Key       string
	Container string // one that exists
}

// Start starts a service on a free port of this computer and waits until it answers. It ends with the test. The test fails
// if Azurite is not installed.
func Start(t testing.TB) *Service {
	t.Helper()
	program := find(t)
	for range 5 { // another program may take the port between finding it free and using it
		// The account and the key are those that everybody's Azurite has.
		s := &Service{Account: "devstoreaccount1", Key: "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==", Container: "container"}
		if s.run(t, program) {
			return s
		}
	}
	t.Fatal("Azurite did not begin to answer, five times")
	return nil
}

// run starts the program and reports whether it came to answer.
func (s *Service) run(t testing.TB, program string) bool {
	t.Helper()
	host, port := freeAddress(t)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	command := exec.CommandContext(ctx, "node", program, "--silent", "--location", t.TempDir(), "--blobHost", host, "--blobPort", port,
		"--skipApiVersionCheck", "--disableTelemetry")
	output := &tail{}
	command.Stdout, command.Stderr = output, output
	if err := command.Start(); err != nil {
		t.Fatalf("Azurite cannot be started: %v; it needs node; run: make setup", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = command.Wait() // it is killed, or what it printed says why it ended
		close(ended)
	}()
	s.URL = "http://" + net.JoinHostPort(host, port) + "/" + s.Account
	if answers(ctx, s.URL, ended) && s.makeContainer(t) {
		t.Cleanup(func() { stop(); <-ended })
		return true
	}
	stop()
	<-ended
	t.Logf("Azurite printed:\n%s", output)
	return false
}

func (s *Service) makeContainer(t testing.TB) bool {
	t.Helper()
	key, err := container.NewSharedKeyCredential(s.Account, s.Key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := container.NewClientWithSharedKeyCredential(s.URL+"/"+s.Container, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Create(t.Context(), nil); err != nil {
		t.Logf("the container could not be made: %v", err)
		return false
	}
	return true
}

// AnotherContainer returns the same service with a container of its own.
func (s *Service) AnotherContainer(t testing.TB) *Service {
	t.Helper()
	other := *s
	other.Container = "another"
	if !other.makeContainer(t) {
		t.Fatal("there is no other container")
	}
	return &other
}

// RemoveContainer removes the container with all that is in it.
func (s *Service) RemoveContainer(t testing.TB) {
	t.Helper()
	key, err := container.NewSharedKeyCredential(s.Account, s.Key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := container.NewClientWithSharedKeyCredential(s.URL+"/"+s.Container, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Delete(t.Context(), nil); err != nil {
		t.Fatalf("the container could not be removed: %v", err)
	}
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

// find returns the file of the program, which scripts/setup puts into the user's cache.
func find(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(cache, "dayfly", "azurite", "node_modules", "azurite", "dist", "src", "blob", "main.js")
	if _, err := os.Stat(program); err != nil {
		t.Fatal("Azurite, the Azure service of this test, is not installed; run: make setup")
	}
	return program
}

func freeAddress(t testing.TB) (host, port string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	host, port, err = net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return host, port
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
