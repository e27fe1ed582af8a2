//go:build linux

package survival_test

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/process"
)

// installation is one data directory, with the servers that have run on it one after the other and everything that
// came of them.
type installation struct {
	t       *testing.T
	dir     string   // the data directory
	files   string   // a directory for what the jobs of the test leave behind; not in dir, which is the server's alone
	address string   // where its servers listen
	token   string   // the owner's, which may do everything
	config  []string // environment variables that configure them

	client *dayfly.Client // repeats its calls while the server is away, as users' programs do
	once   *dayfly.Client // makes each call once, to see how it fails

	mu      sync.Mutex
	servers []*server
}

// server is one start of the server.
type server struct {
	*nanny
	log string // the file with what it printed
}

// install makes an installation that no server runs on yet. The configuration is given as environment variables.
func install(t *testing.T, config ...string) *installation {
	t.Helper()
	files := t.TempDir()
	in := &installation{
		t: t, dir: filepath.Join(files, "data"), files: files,
		// An address of its own, which nobody else on this computer can have taken, and which is still its own when
		// the server starts again.
		address: fmt.Sprintf("127.%d.%d.%d:7700", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254)),
		token:   "dfo_" + cryptorand.Text() + cryptorand.Text(),
		config: append([]string{"DAYFLY_TIMEOUTS_HEARTBEAT=200ms", "DAYFLY_TIMEOUTS_LOST_AFTER=2s", "DAYFLY_TIMEOUTS_UNREACHABLE_AFTER=30s",
			"DAYFLY_QUEUES_NARROW_CONCURRENCY=1"}, config...),
	}
	if err := os.Mkdir(in.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	in.putToken()
	in.at(in.address)
	t.Cleanup(in.cleanUp)
	return in
}

// putToken puts the owner's token where the server expects it, so that the clients know it before the first start.
func (in *installation) putToken() {
	in.t.Helper()
	if err := os.WriteFile(filepath.Join(in.dir, "token"), []byte(in.token+"\n"), 0o600); err != nil {
		in.t.Fatal(err)
	}
}

// at sets the address at which servers that start from now on listen, and clients look for them.
func (in *installation) at(address string) {
	in.address = address
	in.client = in.newClient(30 * time.Second)
	in.once = in.newClient(-1)
}

func (in *installation) newClient(patience time.Duration) *dayfly.Client {
	client, err := dayfly.NewClient("http://"+in.address, &dayfly.ClientOptions{
		Token: in.token, Patience: patience, HTTPClient: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	})
	if err != nil {
		in.t.Fatal(err)
	}
	return client
}

// cleanUp ends everything that came of the installation, and shows what its servers said if the test has failed.
func (in *installation) cleanUp() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, s := range in.servers {
		if err := s.dismiss(); err != nil {
			in.t.Error(err)
		}
	}
	if err := in.removeCgroups(); err != nil {
		in.t.Error(err)
	}
	if !in.t.Failed() {
		return
	}
	for i, s := range in.servers {
		in.t.Logf("what server %d of %d said:\n%s", i+1, len(in.servers), s.said())
	}
	if ledger, err := os.ReadFile(in.ledgerFile()); err == nil {
		in.t.Logf("the ledger:\n%s", lastLines(ledger, 60))
	}
}

// removeCgroups removes the directories that agents which were killed have left in the cgroup file systems.
func (in *installation) removeCgroups() error {
	id, err := os.ReadFile(filepath.Join(in.dir, "machines", "id"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // there never was a machine
	}
	if err != nil {
		return err
	}
	host, err := process.NewHost(&process.Options{Prefix: "dayfly-" + string(id)})
	if err != nil {
		return err
	}
	names, err := host.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		group, err := host.Find(name)
		if err == nil && group != nil {
			err = group.Close()
		}
		if err != nil {
			return err
		}
	}
	return host.Close()
}

// said returns the end of what the server printed.
func (s *server) said() string {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return lastLines(text, 150)
}

func lastLines(text []byte, n int) string {
	lines := bytes.SplitAfter(text, []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], nil))
}

// begin starts a server and returns before it is known whether it can start.
func (in *installation) begin(failpoints string) (*server, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := build(); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(in.files, fmt.Sprintf("server-%d.log", len(in.servers)+1)))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "DAYFLY_") })
	env = append(env, in.config...)
	env = append(env, "DAYFLY_FAILPOINTS="+failpoints)
	n, err := hire([]string{binary(), "serve", "--listen", in.address, "--data-dir", in.dir}, env, log)
	if err != nil {
		return nil, err
	}
	s := &server{nanny: n, log: log.Name()}
	in.servers = append(in.servers, s)
	return s, nil
}

// launch starts a server and returns before it is known whether it can start.
func (in *installation) launch(failpoints string) *server {
	in.t.Helper()
	s, err := in.begin(failpoints)
	if err != nil {
		in.t.Fatal(err)
	}
	return s
}

// start starts a server and waits until it answers. With failpoints, it may be gone by then.
func (in *installation) start(failpoints string) *server {
	in.t.Helper()
	s := in.launch(failpoints)
	if err := in.answers(s); err != nil && failpoints == "" {
		in.t.Fatal(err)
	}
	return s
}

// answers waits until a server is ready for work.
func (in *installation) answers(s *server) error {
	return poll(in.t.Context(), 20*time.Second, func() error {
		select {
		case <-s.ended:
			return fatal{fmt.Errorf("the server ended at its start: %s", describe(s.status))}
		default:
		}
		resp, err := http.Get("http://" + in.address + "/readyz")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

// kill ends the server at once, as a power switch would end it alone.
func (s *server) kill(t *testing.T) {
	t.Helper()
	s.signal(t, syscall.SIGKILL)
	s.wait(t, 10*time.Second)
}

// last returns the server that was started last.
func (in *installation) last() *server {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.servers[len(in.servers)-1]
}

func (s *server) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := s.send(signal); err != nil {
		t.Fatalf("sending %v to the server: %v", signal, err)
	}
}

// send sends a signal to the server, but to nobody else: when the server has ended its process id may be another's.
func (s *server) send(signal syscall.Signal) error {
	select {
	case <-s.ended:
		return fmt.Errorf("it has ended: %s", describe(s.status))
	default:
		return syscall.Kill(s.pid, signal)
	}
}

// wait waits for the server's end.
func (s *server) wait(t *testing.T, patience time.Duration) syscall.WaitStatus {
	t.Helper()
	select {
	case <-s.ended:
		return s.status
	case <-time.After(patience):
		t.Fatalf("the server has not ended within %v\n%s", patience, s.said())
		return 0
	}
}

// describe says how a process ended.
func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "killed by " + status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// nannies returns the process ids of all nannies.
func (in *installation) nannies() []int {
	in.mu.Lock()
	defer in.mu.Unlock()
	pids := make([]int, len(in.servers))
	for i, s := range in.servers {
		pids[i] = s.cmd.Process.Pid
	}
	return pids
}

// strangers returns the processes below the installation's servers that are neither servers nor supervisors: the
// commands of jobs and whatever they have started.
func (in *installation) strangers() []osProcess {
	ours := workshop()
	return slices.DeleteFunc(below(in.nannies()...), func(p osProcess) bool { return filepath.Dir(p.program) == ours })
}

// quiet waits until no process of any job is left.
func (in *installation) quiet() {
	in.t.Helper()
	seen := 0
	eventually(in.t, patience, "no process of a job is left", func() error {
		if left := in.strangers(); len(left) > 0 {
			seen = 0
			return fmt.Errorf("these are: %v", left)
		}
		// A process that loses its parent while /proc is read can be overlooked once.
		if seen++; seen < 2 {
			return errors.New("none was seen only once")
		}
		return nil
	})
}

// empty waits until nothing of any job is left: no process, and no machine in the ledger or on the disk.
func (in *installation) empty() {
	in.t.Helper()
	in.quiet()
	eventually(in.t, patience, "no machine is left", func() error {
		for m, err := range in.client.Machines(in.t.Context(), false) {
			if err != nil {
				return err
			}
			return fmt.Errorf("machine %s is %s: %s", m.Name, m.State, m.Message)
		}
		records, err := os.ReadDir(filepath.Join(in.dir, "machines", "machines"))
		if err == nil && len(records) > 0 {
			err = fmt.Errorf("the provider has %d records of machines, such as %s", len(records), records[0].Name())
		}
		return err
	})
}

// eventually waits until done returns nil, and fails the test if that takes longer than patience.
func eventually(t *testing.T, patience time.Duration, what string, done func() error) {
	t.Helper()
	if err := poll(t.Context(), patience, done); err != nil {
		t.Fatalf("not within %v: %s: %v", patience, what, err)
	}
}

// fatal is an error that waiting longer will not mend.
type fatal struct{ error }

// poll calls done until it returns nil or a fatal error, and returns its last error when patience is used up.
func poll(ctx context.Context, patience time.Duration, done func() error) error {
	deadline := time.Now().Add(patience)
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := done()
		if _, hopeless := errors.AsType[fatal](err); err == nil || hopeless || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		pass(wait)
	}
}

// pass lets time pass. It is for the faults that consist in it, and for the moments between two looks at a process:
// nothing in another process can be waited for in another way.
func pass(d time.Duration) { <-time.After(d) }
