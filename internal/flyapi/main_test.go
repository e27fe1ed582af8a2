package flyapi_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/dockertest"
	"github.com/dayfly-run/dayfly/internal/flyapi"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
)

// TestMain lets the test binary be a supervisor of local machines, and a server that can be killed:
// "TESTBINARY supervise --dir DIR" and "TESTBINARY serve DIR".
func TestMain(m *testing.M) {
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == "supervise":
		err = supervise(os.Args[3])
	case len(os.Args) > 1 && os.Args[1] == "serve":
		err = serve(os.Args[2])
	default:
		os.Exit(dockertest.Main(m))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func supervise(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return local.Supervise(ctx, local.SupervisorOptions{Dir: dir, Idle: time.Second})
}

// localProvider returns a provider of machines on this computer.
func localProvider(dir string) (*local.Provider, error) {
	return local.New(local.Options{Dir: filepath.Join(dir, "machines"), Supervisor: []string{os.Args[0], "supervise"}})
}

// serve serves the API over machines of this computer until it is killed. The image "app" counts its starts in a file and
// stays.
func serve(dir string) error {
	provider, err := localProvider(dir)
	if err != nil {
		return err
	}
	service, err := flyapi.New(context.Background(), flyapi.Options{
		Provider: provider, Ledger: filepath.Join(dir, "fly.db"), Apps: []string{"app"},
		Images: &flyapi.Images{Known: []flyapi.Image{
			{Pattern: "app:*", Dir: dir, Command: []string{"sh", "-c", "echo $FLY_MACHINE_ID >> starts; trap 'exit 0' INT TERM; while :; do sleep 0.05; done"}},
			{Pattern: "shell:*", Command: []string{"sh"}},
		}},
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	go func() { _ = http.Serve(listener, service.Handler()) }()
	return service.Run(context.Background())
}

// process is a server in a process of its own.
type process struct {
	*house
	dir string
	cmd *exec.Cmd
}

// launch starts a server that fails as failpoints say. The client of the house talks to it.
func (p *process) launch(failpoints string) {
	p.t.Helper()
	p.cmd = exec.CommandContext(context.Background(), os.Args[0], "serve", p.dir)
	p.cmd.Env = append(os.Environ(), "DAYFLY_FAILPOINTS="+failpoints)
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		p.kill()
		p.base = ""
		return // it was killed before it served
	}
	p.base = "http://" + strings.TrimSpace(address)
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it says that it was killed
}

// newProcess returns a server in a process of its own, and destroys what it leaves.
func newProcess(t *testing.T) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{house: &house{t: t}, dir: dir}
	t.Cleanup(func() {
		p.kill()
		provider, err := localProvider(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range p.all(provider) {
			if err := provider.Destroy(context.Background(), m.ID); err != nil {
				t.Errorf("destroying %s: %v", m.ID, err)
			}
		}
		if err := provider.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// all returns the provider's machines, whoever made them.
func (p *process) all(provider *local.Provider) []*machine.Machine {
	p.t.Helper()
	names, err := os.ReadDir(filepath.Join(p.dir, "machines", "machines"))
	if err != nil {
		return nil // none were ever made
	}
	var all []*machine.Machine
	for _, name := range names {
		if m, err := provider.Get(context.Background(), name.Name()); err == nil {
			all = append(all, m)
		}
	}
	return all
}

// starts returns how often the image "app" was started.
func (p *process) starts() int {
	data, _ := os.ReadFile(filepath.Join(p.dir, "starts")) // none before the first start
	return strings.Count(string(data), "\n")
}
