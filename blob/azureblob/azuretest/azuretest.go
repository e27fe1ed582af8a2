// Package azuretest runs a real server of Azure's blob protocol for the length of a test: Azurite, in a directory that
// goes with the test.
package azuretest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/dayfly-run/dayfly/internal/remoteblob/remoteblobtest"
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
	// The account and the key are those that everybody's Azurite has.
	s := &Service{Account: "devstoreaccount1", Key: "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==", Container: "container"}
	remoteblobtest.Serve(t, "127.0.0.1", func(ctx context.Context, host, port string) *exec.Cmd {
		return exec.CommandContext(ctx, "node", program, "--silent", "--location", t.TempDir(), "--blobHost", host, "--blobPort", port,
			"--skipApiVersionCheck", "--disableTelemetry")
	}, func(url string) bool {
		s.URL = url + "/" + s.Account
		_, err := s.client(t).Create(t.Context(), nil)
		if err != nil {
			t.Logf("the container could not be made: %v", err)
		}
		return err == nil
	})
	return s
}

func (s *Service) client(t testing.TB) *container.Client {
	t.Helper()
	key, err := container.NewSharedKeyCredential(s.Account, s.Key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := container.NewClientWithSharedKeyCredential(s.URL+"/"+s.Container, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// AnotherContainer returns the same service with a container of its own.
func (s *Service) AnotherContainer(t testing.TB) *Service {
	t.Helper()
	other := *s
	other.Container = "another"
	if _, err := other.client(t).Create(t.Context(), nil); err != nil {
		t.Fatalf("there is no other container: %v", err)
	}
	return &other
}

// RemoveContainer removes the container with all that is in it.
func (s *Service) RemoveContainer(t testing.TB) {
	t.Helper()
	if _, err := s.client(t).Delete(t.Context(), nil); err != nil {
		t.Fatalf("the container could not be removed: %v", err)
	}
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
