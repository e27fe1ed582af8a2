package dayfly_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
	"github.com/dayfly-run/dayfly/server"
)

// newServer returns a server whose machines are processes of this computer.
func newServer(ctx context.Context, dir string) (*server.Server, *local.Provider, error) {
	provider, err := local.New(local.Options{
		Dir: filepath.Join(dir, "machines"), Supervisor: []string{machine.ThisProgram, machine.Helper, "supervise"},
	})
	if err != nil {
		return nil, nil, err
	}
	s, err := server.New(ctx, server.Options{
		DataDir: filepath.Join(dir, "data"), Listen: []string{"127.0.0.1:0"}, Providers: map[string]machine.Provider{"local": provider},
	})
	return s, provider, err
}

// goes waits until the supervisor of a server's machines has gone, whose directory it removes: only then it goes at once.
func goes(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Logf("a supervisor is still at work: %v", err)
	}
	eventually(t, "the supervisor to end", func() bool { return exec.Command("pgrep", "-f", dir).Run() != nil })
}

// hiring runs a server whose machines are processes of this computer, and returns a client of it.
func hiring(t *testing.T) *hirer {
	t.Helper()
	dir := t.TempDir()
	s, provider, err := newServer(t.Context(), dir)
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
		goes(t, dir)
	})
	client, err := dayfly.NewClient(s.URL(), &dayfly.ClientOptions{Token: s.Token()})
	if err != nil {
		t.Fatal(err)
	}
	return &hirer{client, s.URL(), s.Token()}
}

// hirer is a client, and how to make another one.
type hirer struct {
	*dayfly.Client
	url, token string
}

// serve is a server in a process of its own, which says where it is and serves until it is killed.
func serve() {
	s, _, err := newServer(context.Background(), os.Getenv("TEST_SERVER"))
	if err == nil {
		fmt.Println(s.URL(), s.Token())
		err = s.Run(context.Background())
	}
	fmt.Println(err)
	os.Exit(1)
}

// serverProcess runs a server in a process of its own until the test ends or kill is called, and returns a client of it.
func serverProcess(t *testing.T, dir string) (client *dayfly.Client, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_SERVER="+dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill() // SIGKILL
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	url, token, _ := strings.Cut(strings.TrimSpace(line), " ")
	if err != nil {
		t.Fatalf("the server said %q and error %v, want its URL", line, err)
	}
	client, err = dayfly.NewClient(url, &dayfly.ClientOptions{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	return client, kill
}

func TestAServerThatIsKilledTakesNoRunnerAlong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	client, kill := serverProcess(t, dir)
	t.Cleanup(func() { goes(t, dir) })
	p, err := dayfly.NewPool(client.Provider("local"), &dayfly.PoolOptions{Name: "survivors", Max: 2, Concurrency: 1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	working := make(chan error, 1)
	go func() {
		got, err := wait.Call(context.Background(), p, waiting{Begun: dir + "/begun", Until: dir + "/go"})
		if err == nil && got != "released" {
			err = errors.New("it returned " + got)
		}
		working <- err
	}()
	eventually(t, "the call to begin", func() bool { return exists(dir + "/begun") })
	kill()
	later := make(chan error, 1)
	go func() { // which needs another runner, and so the server
		_, err := double.Call(context.Background(), p, 1)
		later <- err
	}()
	eventually(t, "the pool to ask a server that is not there", func() bool { return p.Stats().Booting > 0 })
	again, killAgain := serverProcess(t, dir)
	if err := <-later; err != nil {
		t.Errorf("a call that needs a runner while the server is killed: got error %v, want that it is made when there is one again", err)
	}
	touch(t, dir+"/go")
	if err := <-working; err != nil {
		t.Errorf("a call that ran when the server was killed: got error %v, want its result", err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("Close: got %v, want nil", err)
	}
	for m, err := range again.Machines(t.Context(), false) {
		t.Errorf("left when the pool is closed: machine %v, error %v, want none", m, err)
	}
	killAgain()
}

func TestABootThatFailsOverAServerTellsAsMuchAsInThisProcess(t *testing.T) {
	t.Parallel()
	client := hiring(t)
	for name, provider := range map[string]machine.Provider{"here": dayfly.Local(), "server": client.Provider("local"), "fleet": nil} {
		for variable, want := range map[string]string{
			"TEST_CRASH":        ": it ended with status 3. It printed: the model is not there",
			"TEST_WITHOUT_MAIN": ": the program ended as if it had done its work. Call dayfly.Main() first of all in main. It printed: a pool starts this program",
		} {
			t.Run(name+" "+variable, func(t *testing.T) {
				t.Parallel()
				own := provider
				if own == nil { // a fleet is for one program, and these are two
					own = client.Fleet(poolName(t), "local", nil)
				}
				p, err := dayfly.NewPool(own, &dayfly.PoolOptions{
					Name: poolName(t), Max: 1, Patience: 1500 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
					Spec: machine.Spec{Env: map[string]string{variable: "1"}},
				})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := double.Call(t.Context(), p, 1); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("Call: got error %v, want one with %q", err, want)
				}
				if err := p.Close(); err != nil {
					t.Errorf("Close: got %v, want nil", err)
				}
			})
		}
	}
}

func TestARunnerThatIsLostOverAServerTellsAsMuchAsInThisProcess(t *testing.T) {
	t.Parallel()
	client := hiring(t)
	for name, provider := range map[string]machine.Provider{
		"here": dayfly.Local(), "server": client.Provider("local"), "fleet": client.Fleet("lost", "local", nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := dayfly.NewPool(provider, &dayfly.PoolOptions{Name: poolName(t), Max: 1, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			for how, want := range map[string]string{"exit": "status 3", "crash": "a panic beside the function"} {
				_, err := fail.Call(t.Context(), p, how)
				if failed, ok := errors.AsType[*dayfly.CallError](err); !ok || !strings.Contains(failed.Error(), want) {
					t.Errorf("a runner that is lost by %s: got error %v, want one with %q", how, err, want)
				}
			}
			if err := p.Close(); err != nil {
				t.Errorf("Close: got %v, want nil", err)
			}
		})
	}
}

// fickle is a transport of which requests and answers get lost, one of every few.
type fickle struct {
	broken atomic.Bool
	lost   atomic.Int64
	mu     sync.Mutex
	rand   *rand.Rand // guarded by mu
}

func (f *fickle) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	chance := f.rand.IntN(6)
	f.mu.Unlock()
	if !f.broken.Load() || chance > 1 {
		return http.DefaultTransport.RoundTrip(r)
	}
	f.lost.Add(1)
	if chance == 0 { // it never comes
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, errors.New("the cable was pulled")
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err == nil { // nobody hears that it came
		resp.Body.Close()
	}
	return nil, errors.New("the cable was pulled after the request")
}

func TestNoMachineIsForgottenWhenTheWayToTheServerIsCut(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("the seed is %d", seed)
	way := &fickle{rand: rand.New(rand.NewPCG(seed, 0))}
	client := hiring(t)
	cut, err := dayfly.NewClient(client.url, &dayfly.ClientOptions{Token: client.token, HTTPClient: &http.Client{Transport: way}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := dayfly.NewPool(cut.Provider("local"), &dayfly.PoolOptions{Name: "fickle", Max: 3, SingleUse: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	way.broken.Store(true)
	var group sync.WaitGroup
	for n := range 15 {
		group.Go(func() {
			if got, err := double.Call(t.Context(), p, n); err != nil || got != 2*n {
				t.Errorf("Call: got %d and error %v, want %d", got, err, 2*n)
			}
		})
	}
	group.Wait()
	if err := p.Close(); err != nil {
		t.Errorf("Close: got %v, want nil", err)
	}
	for m, err := range client.Machines(t.Context(), false) {
		t.Errorf("left when the pool is closed: machine %v, error %v, want none", m, err)
	}
	if way.lost.Load() == 0 {
		t.Error("nothing was lost on the way")
	}
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
