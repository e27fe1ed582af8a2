package dayfly_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
	"github.com/dayfly-run/dayfly/server"
)

// hiring runs a server whose machines are processes of this computer, and returns a client of it.
func hiring(t *testing.T) *dayfly.Client {
	t.Helper()
	dir := t.TempDir()
	provider, err := local.New(local.Options{
		Dir: filepath.Join(dir, "machines"), Supervisor: []string{machine.ThisProgram, machine.Helper, "supervise"},
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(t.Context(), server.Options{
		DataDir: filepath.Join(dir, "data"), Listen: []string{"127.0.0.1:0"}, Providers: map[string]machine.Provider{"local": provider},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			t.Errorf("the server ended with %v", err)
		}
		if err := provider.Close(); err != nil {
			t.Error(err)
		}
		// Only a supervisor whose directory is gone goes at once.
		if err := os.RemoveAll(dir); err != nil {
			t.Logf("a supervisor is still at work: %v", err)
		}
		eventually(t, "the supervisor to end", func() bool { return exec.Command("pgrep", "-f", dir).Run() != nil })
	})
	client, err := dayfly.NewClient(s.URL(), &dayfly.ClientOptions{Token: s.Token()})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestAPoolHiresItsMachinesOfAServer(t *testing.T) {
	t.Parallel()
	client := hiring(t)
	p, err := dayfly.NewPool(client.Provider("local"), &dayfly.PoolOptions{Name: "hired", Max: 1})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if got, err := double.Call(t.Context(), p, n); err != nil || got != 2*n {
			t.Fatalf("Call: got %d and error %v, want %d", got, err, 2*n)
		}
	}
	shown := func() (all []string) {
		for m, err := range client.Machines(t.Context(), false) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, m.Provider+" "+m.State+" "+m.HiredBy)
		}
		return all
	}
	if got := shown(); len(got) != 1 || !strings.HasPrefix(got[0], "local present calls-") || !strings.Contains(got[0], "-hired-") {
		t.Errorf("the machines of the server: got %q, want one that the pool has hired", got)
	}
	if err := p.Close(); err != nil {
		t.Errorf("Close: got %v, want nil", err)
	}
	if got := shown(); len(got) != 0 {
		t.Errorf("the machines of the server when the pool is closed: got %q, want none", got)
	}
}
