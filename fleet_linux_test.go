package dayfly_test

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/docker"
	"github.com/dayfly-run/dayfly/machine/local"
	"github.com/dayfly-run/dayfly/server"
)

// A fleet is shared by processes, so these tests have many: this test's own program is also the server, which can be killed, and the
// programs that share the fleet, and of course the runners.
const (
	serveVariable = "TEST_SERVE"
	shareVariable = "TEST_SHARE"
)

// takePart makes this process what else the program is, if it was started for that, and then does not return.
func takePart() {
	var err error
	switch serve, share := os.Getenv(serveVariable), os.Getenv(shareVariable); {
	case serve != "":
		err = serveHere(serve)
	case share != "":
		err = shareHere(share)
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serving is what a process is told that is to be a server.
type serving struct {
	Dir    string
	Listen string
	Docker string // an engine for its provider docker; "": it has none
	Static string // a program without C libraries that calls Main, to be the first process of containers
	Lease  time.Duration
}

// serveHere is a server whose machines are processes of this computer, or containers, until it is told to end. It says where it is.
func serveHere(told string) error {
	var s serving
	if err := json.Unmarshal([]byte(told), &s); err != nil {
		return err
	}
	provider, err := local.New(local.Options{
		Dir: filepath.Join(s.Dir, "machines"), Supervisor: []string{machine.ThisProgram, machine.Helper, "supervise"},
	})
	if err != nil {
		return err
	}
	providers := map[string]machine.Provider{"local": provider}
	if s.Docker != "" {
		providers["docker"] = docker.New(docker.Program{File: s.Static, Args: []string{machine.Helper}}, &docker.Options{Host: s.Docker})
	}
	running, err := server.New(context.Background(), server.Options{
		DataDir: filepath.Join(s.Dir, "data"), Listen: []string{s.Listen}, Providers: providers, DefaultProvider: "local",
		HireLease: s.Lease,
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test has gone, too
		stop()
	}()
	fmt.Println(running.URL(), running.Token())
	return errors.Join(running.Run(ctx), provider.Close())
}

// fleetServer is a server in a process of its own.
type fleetServer struct {
	serving
	url, token string
	command    *exec.Cmd
	input      io.Closer
}

// newFleetServer starts a server that is gone, with all its machines, at the test's end.
func newFleetServer(t testing.TB) *fleetServer {
	t.Helper()
	return startServer(t, serving{})
}

func startServer(t testing.TB, what serving) *fleetServer {
	t.Helper()
	what.Dir, what.Listen = t.TempDir(), "127.0.0.1:0"
	s := &fleetServer{serving: what}
	t.Cleanup(func() {
		s.input.Close()
		if err := s.command.Wait(); err != nil {
			t.Errorf("the server ended with %v", err)
		}
		for _, pid := range s.runners(t) { // which would wait a minute for the server to come back
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err := os.RemoveAll(s.Dir); err != nil {
			t.Logf("a supervisor is still at work: %v", err)
		}
		eventually(t, "the supervisor to end", func() bool { return exec.Command("pgrep", "-f", s.Dir).Run() != nil })
	})
	s.start(t)
	return s
}

// start starts the server, or starts it again.
func (s *fleetServer) start(t testing.TB) {
	t.Helper()
	told, err := json.Marshal(s.serving)
	if err != nil {
		t.Fatal(err)
	}
	s.command = exec.Command(os.Args[0])
	s.command.Env = append(os.Environ(), serveVariable+"="+string(told))
	s.command.Stderr = os.Stderr
	if s.input, err = s.command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := s.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.command.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscan(out, &s.url, &s.token); err != nil {
		t.Fatalf("the server does not say where it is: %v", err)
	}
	s.Listen = strings.TrimPrefix(s.url, "http://")
}

// kill kills the server without a word.
func (s *fleetServer) kill(t *testing.T) {
	t.Helper()
	if err := s.command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.command.Wait() // it was killed
}

func (s *fleetServer) client(t testing.TB) *dayfly.Client {
	t.Helper()
	client, err := dayfly.NewClient(s.url, &dayfly.ClientOptions{Token: s.token})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// runners returns the processes that are runners of this server's fleets.
func (s *fleetServer) runners(t testing.TB) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		environment, _ := os.ReadFile("/proc/" + e.Name() + "/environ") // none of one that has ended
		for variable := range bytes.SplitSeq(environment, []byte{0}) {
			word, ok := strings.CutPrefix(string(variable), "DAYFLY_PARENT=")
			if home, err := wire.ParseFleetHome(word); ok && err == nil && home.URL == s.url && isAlive(pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func isAlive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.HasPrefix(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" Z"))
}

// sharing is what a process is told that is to share a fleet.
type sharing struct {
	URL, Token string
	Fleet      string
	Options    dayfly.FleetOptions
	Pool       sharingPool
}

// sharingPool is what it sets of PoolOptions.
type sharingPool struct {
	Name        string
	Concurrency int
	SingleUse   bool
	Idle        time.Duration
}

// order is what it is told to do then, and reply what it says when that is done, and whenever something is logged.
type (
	order struct {
		ID   int
		Call string
		Text string
		Wait waiting
	}
	reply struct {
		ID       int
		Identity identity
		Text     string
		Err      string
		Log      string
	}
)

// shareHere makes calls over a fleet as it is told to.
func shareHere(told string) error {
	var s sharing
	if err := json.Unmarshal([]byte(told), &s); err != nil {
		return err
	}
	client, err := dayfly.NewClient(s.URL, &dayfly.ClientOptions{Token: s.Token})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(r reply) {
		text, err := json.Marshal(r)
		if err != nil {
			text = []byte(err.Error())
		}
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(string(text))
	}
	o := dayfly.PoolOptions{Name: s.Pool.Name, Concurrency: s.Pool.Concurrency, SingleUse: s.Pool.SingleUse, Idle: s.Pool.Idle}
	o.Logger = slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		say(reply{Log: string(p)})
		return len(p), nil
	}), nil))
	pool, err := dayfly.NewPool(client.Fleet(s.Fleet, "local", &s.Options), &o)
	if err != nil {
		return err
	}
	orders := json.NewDecoder(os.Stdin)
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			return pool.Close() // there are no more
		}
		go func() {
			r := reply{ID: o.ID}
			var err error
			switch o.Call {
			case "whoami":
				r.Identity, err = whoami.Call(context.Background(), pool, struct{}{})
			case "wait":
				r.Text, err = wait.Call(context.Background(), pool, o.Wait)
			case "chatter":
				_, err = chatter.Call(context.Background(), pool, o.Text)
			case "alone":
				r.Identity.PID, err = alone.Call(context.Background(), pool, o.Text)
			}
			if err != nil {
				r.Err = err.Error()
			}
			say(r)
		}()
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// alone fails when anything else runs in its process. It returns the process.
var alone = dayfly.Func("test/alone", func(_ context.Context, dir string) (int, error) {
	mine := filepath.Join(dir, strconv.Itoa(os.Getpid()))
	f, err := os.OpenFile(mine, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, fmt.Errorf("somebody else is here: %w", err)
	}
	<-time.After(20 * time.Millisecond)
	return os.Getpid(), errors.Join(f.Close(), os.Remove(mine))
})

// sharer is a program that shares a fleet, in a process of its own.
type sharer struct {
	command *exec.Cmd
	input   io.WriteCloser
	over    chan struct{} // closed when it says no more

	mu      sync.Mutex
	last    int
	waiting map[int]chan reply
	logged  []string
}

// share starts a program that shares a fleet. It ends at the test's end.
func (s *fleetServer) share(t testing.TB, what sharing) *sharer {
	t.Helper()
	return s.shareAs(t, os.Args[0], what)
}

func (s *fleetServer) shareAs(t testing.TB, program string, what sharing) *sharer {
	t.Helper()
	what.URL, what.Token = s.url, s.token
	if what.Fleet == "" {
		what.Fleet = "shared"
	}
	told, err := json.Marshal(what)
	if err != nil {
		t.Fatal(err)
	}
	p := &sharer{command: exec.Command(program), over: make(chan struct{}), waiting: map[int]chan reply{}}
	p.command.Env = append(os.Environ(), shareVariable+"="+string(told))
	p.command.Stderr = os.Stderr
	if p.input, err = p.command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	go p.listen(out)
	t.Cleanup(func() { p.close(t) })
	return p
}

func (p *sharer) listen(out io.Reader) {
	defer close(p.over)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r reply
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			r.Log = lines.Text()
		}
		p.mu.Lock()
		if r.ID == 0 {
			p.logged = append(p.logged, r.Log)
		} else {
			p.waiting[r.ID] <- r
		}
		p.mu.Unlock()
	}
}

// start makes it call something, and returns where the result comes.
func (p *sharer) start(t testing.TB, o order) <-chan reply {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	o.ID = p.last
	result := make(chan reply, 1)
	p.waiting[o.ID] = result
	if err := json.NewEncoder(p.input).Encode(o); err != nil {
		t.Fatal(err)
	}
	return result
}

// result waits for a result.
func (p *sharer) result(t testing.TB, r <-chan reply) reply {
	t.Helper()
	select {
	case got := <-r:
		return got
	case <-p.over:
		t.Fatalf("the program has ended; it has logged %q", p.log())
	case <-time.After(60 * time.Second):
		t.Fatalf("waited 60 s for a result; it has logged %q", p.log())
	}
	panic("unreachable")
}

func (p *sharer) call(t testing.TB, o order) reply {
	t.Helper()
	return p.result(t, p.start(t, o))
}

// whoami returns where a call of it has run.
func (p *sharer) whoami(t testing.TB) identity {
	t.Helper()
	r := p.call(t, order{Call: "whoami"})
	if r.Err != "" {
		t.Fatalf("a call failed: %s", r.Err)
	}
	return r.Identity
}

func (p *sharer) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.logged, "")
}

// close makes it close its pool and end.
func (p *sharer) close(t testing.TB) {
	t.Helper()
	if p.command.ProcessState != nil {
		return
	}
	p.input.Close()
	<-p.over
	if err := p.command.Wait(); err != nil {
		t.Errorf("a program that shares a fleet ended with %v", err)
	}
}

// kill kills it without a word.
func (p *sharer) kill(t testing.TB) {
	t.Helper()
	if err := p.command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.over
	_ = p.command.Wait() // it was killed
}

func TestTwoProgramsShareOneWarmRunner(t *testing.T) {
	t.Parallel()
	s := newFleetServer(t)
	first := s.share(t, sharing{Pool: sharingPool{Name: "first"}, Options: dayfly.FleetOptions{Max: 1}})
	second := s.share(t, sharing{Pool: sharingPool{Name: "second"}, Options: dayfly.FleetOptions{Max: 1}})
	pid := 0
	for range 2 {
		for name, p := range map[string]*sharer{"first": first, "second": second} {
			got := p.whoami(t)
			if pid == 0 {
				pid = got.PID
			}
			if got.PID != pid || !got.InRunner || got.Invitation != "" {
				t.Errorf("a call of the %s program: got %+v, want the runner %d", name, got, pid)
			}
			if got.Parent.PID != p.command.Process.Pid || got.Parent.Pool != name {
				t.Errorf("the runner's parent: got %+v, want the %s program, process %d", got.Parent, name, p.command.Process.Pid)
			}
		}
	}
	var shown []string
	for m, err := range s.client(t).Machines(t.Context(), false) {
		if err != nil {
			t.Fatal(err)
		}
		shown = append(shown, m.Provider+" "+m.State+" "+m.HiredBy)
	}
	if want := []string{"local present fleet shared"}; !slices.Equal(shown, want) {
		t.Errorf("the machines of the server: got %q, want %q", shown, want)
	}
}

func TestAFleetHasNoMoreRunnersThanItMayAndEachServesOneProgram(t *testing.T) {
	t.Parallel()
	s, dir := newFleetServer(t), t.TempDir()
	var programs []*sharer
	var calls []<-chan reply
	for range 10 {
		programs = append(programs, s.share(t, sharing{
			Options: dayfly.FleetOptions{Max: 3}, Pool: sharingPool{Concurrency: 1, Idle: 10 * time.Millisecond},
		}))
	}
	for range 3 {
		for _, p := range programs {
			calls = append(calls, p.start(t, order{Call: "alone", Text: dir}))
		}
	}
	pids := map[int]bool{}
	for i, c := range calls {
		r := programs[i%len(programs)].result(t, c)
		if r.Err != "" {
			t.Errorf("a call: got %s, want none", r.Err)
		}
		pids[r.Identity.PID] = true
		if n := len(s.runners(t)); n > 3 {
			t.Errorf("got %d runners, want at most 3", n)
		}
	}
	if len(pids) > 3 {
		t.Errorf("got calls on %d runners, want at most 3", len(pids))
	}
}

func TestARunnerWhoseParentIsKilledServesTheNext(t *testing.T) {
	t.Parallel()
	s, dir := newFleetServer(t), t.TempDir()
	only := sharing{Options: dayfly.FleetOptions{Max: 1}}
	first := s.share(t, only)
	pid := first.whoami(t).PID
	first.start(t, order{Call: "wait", Wait: waiting{Begun: dir + "/begun", Until: dir + "/never"}})
	eventually(t, "the call to begin", func() bool { return exists(dir + "/begun") })
	first.kill(t)
	second := s.share(t, only)
	if got := second.whoami(t); got.PID != pid || got.Parent.PID != second.command.Process.Pid {
		t.Errorf("the next program's runner: got %+v, want %d, with that program as its parent", got, pid)
	}
}

func TestARunnerWithAFunctionThatDoesNotEndServesNobodyElse(t *testing.T) {
	t.Parallel()
	s, dir := newFleetServer(t), t.TempDir()
	only := sharing{Options: dayfly.FleetOptions{Max: 1}}
	first := s.share(t, only)
	pid := first.whoami(t).PID
	first.start(t, order{Call: "wait", Wait: waiting{Begun: dir + "/begun", Until: dir + "/never", IgnoresContext: true}})
	eventually(t, "the call to begin", func() bool { return exists(dir + "/begun") })
	first.kill(t)
	if got := s.share(t, only).whoami(t); got.PID == pid {
		t.Errorf("the next program's runner: got %d, in which a function of a killed program still runs, want another", pid)
	}
	if isAlive(pid) {
		t.Errorf("the runner %d is still there, want that it has ended", pid)
	}
}

func TestAFleetGoesOnWhenItsServerIsKilled(t *testing.T) {
	t.Parallel()
	s, dir := newFleetServer(t), t.TempDir()
	two := sharing{Options: dayfly.FleetOptions{Max: 2}, Pool: sharingPool{Concurrency: 1}}
	busy, idle := s.share(t, two), s.share(t, two)
	working := busy.start(t, order{Call: "wait", Wait: waiting{Begun: dir + "/begun", Until: dir + "/go"}})
	eventually(t, "the work to begin", func() bool { return exists(dir + "/begun") })
	before := idle.whoami(t)
	eventually(t, "the other runner to be free", func() bool { return strings.Contains(idle.log(), "leaves the pool") })
	runners := s.runners(t)

	s.kill(t)
	s.start(t)
	if got := idle.whoami(t); got.PID != before.PID {
		t.Errorf("a call when the server is back: got runner %d, want %d, which was idle", got.PID, before.PID)
	}
	touch(t, dir+"/go")
	if r := busy.result(t, working); r.Err != "" || r.Text != "released" {
		t.Errorf("the work that went on meanwhile: got %q and error %q, want what it returns", r.Text, r.Err)
	}
	if got := s.runners(t); !slices.Equal(got, runners) {
		t.Errorf("got the runners %v afterwards, want those from before: %v", got, runners)
	}
	busy.whoami(t)
}

func TestARunnerThatIsKilledIsTheLossOfItsCallsAlone(t *testing.T) {
	t.Parallel()
	s, dir := newFleetServer(t), t.TempDir()
	p := s.share(t, sharing{Options: dayfly.FleetOptions{Max: 1}})
	pid := p.whoami(t).PID
	working := p.start(t, order{Call: "wait", Wait: waiting{Begun: dir + "/begun", Until: dir + "/never"}})
	eventually(t, "the call to begin", func() bool { return exists(dir + "/begun") })
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if r := p.result(t, working); !strings.Contains(r.Err, "SIGKILL") {
		t.Errorf("the call on it: got %q and error %q, want how the runner was lost", r.Text, r.Err)
	}
	if got := p.whoami(t); got.PID == pid {
		t.Errorf("the next call: got runner %d, which was killed", pid)
	}
}

func TestARunnerIsAskedBackForWhoHasNone(t *testing.T) {
	t.Parallel()
	s, dir := newFleetServer(t), t.TempDir()
	two := sharing{Options: dayfly.FleetOptions{Max: 2}, Pool: sharingPool{Concurrency: 1}}
	first := s.share(t, two)
	var calls []<-chan reply
	for i := range 2 {
		begun := fmt.Sprint(dir, "/begun", i)
		calls = append(calls, first.start(t, order{Call: "wait", Wait: waiting{Begun: begun, Until: dir + "/go", ObeysDrain: true}}))
		eventually(t, "the call to begin", func() bool { return exists(begun) })
	}
	s.share(t, two).whoami(t)
	touch(t, dir+"/go")
	ends := map[string]int{}
	for _, c := range calls {
		r := first.result(t, c)
		ends[r.Text+r.Err]++
	}
	if ends["drained"] != 1 || ends["released"] != 1 {
		t.Errorf("the calls of who had all runners ended like this: %v, want one asked to end and one left alone", ends)
	}
}

func TestARunnerThatIsToldToEndFinishesItsWorkAndIsLentNoMore(t *testing.T) {
	t.Parallel()
	s, dir := newFleetServer(t), t.TempDir()
	p := s.share(t, sharing{Options: dayfly.FleetOptions{Max: 2}, Pool: sharingPool{Idle: 10 * time.Millisecond}})
	first := p.whoami(t).PID
	working := p.start(t, order{Call: "wait", Wait: waiting{Begun: dir + "/begun", Until: dir + "/go"}})
	eventually(t, "the work to begin", func() bool { return exists(dir + "/begun") })
	tell := func(pid int) {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	tell(first)
	eventually(t, "other work to go elsewhere", func() bool { return p.whoami(t).PID != first })
	touch(t, dir+"/go")
	if r := p.result(t, working); r.Text != "released" {
		t.Errorf("the work on it: got %q and error %q, want that it was finished", r.Text, r.Err)
	}
	eventually(t, "it to end", func() bool { return !isAlive(first) })

	before := strings.Count(p.log(), "reason=idle") // the first has perhaps never been idle
	second := p.whoami(t).PID
	eventually(t, "the other one to be free", func() bool { return strings.Count(p.log(), "reason=idle") > before })
	tell(second) // which nobody has
	eventually(t, "it to end", func() bool { return !isAlive(second) })
	if got := p.whoami(t); got.PID == first || got.PID == second {
		t.Errorf("the next call: got runner %d, which was told to end", got.PID)
	}
}

func TestRunnersAreWarmBeforeTheFirstCallAndGoWithTheLastPool(t *testing.T) {
	t.Parallel()
	s := newFleetServer(t)
	two := sharing{Options: dayfly.FleetOptions{Min: 2, Idle: 50 * time.Millisecond}}
	first, second := s.share(t, two), s.share(t, two)
	eventually(t, "two runners", func() bool { return len(s.runners(t)) == 2 })
	warm := s.runners(t)
	if got := first.whoami(t); !slices.Contains(warm, got.PID) {
		t.Errorf("the first call: got runner %d, want one of %v, which were there", got.PID, warm)
	}
	first.close(t)
	if got := second.whoami(t); !slices.Contains(warm, got.PID) {
		t.Errorf("a call when one program has ended: got runner %d, want one of %v", got.PID, warm)
	}
	second.close(t)
	eventually(t, "no runner", func() bool { return len(s.runners(t)) == 0 })
}

func TestARunnerForASingleUseIsLentOnce(t *testing.T) {
	t.Parallel()
	s := newFleetServer(t)
	p := s.share(t, sharing{Options: dayfly.FleetOptions{Min: 1, Max: 2, SingleUse: true}, Pool: sharingPool{SingleUse: true}})
	seen := map[int]bool{}
	for range 3 {
		seen[p.whoami(t).PID] = true
	}
	if len(seen) != 3 {
		t.Errorf("three calls were run by %d runners, want one for each", len(seen))
	}
	eventually(t, "one runner that is fresh", func() bool {
		left := s.runners(t)
		return len(left) == 1 && !seen[left[0]]
	})
}

func TestEachProgramGetsTheLogOfItsOwnCalls(t *testing.T) {
	t.Parallel()
	s := newFleetServer(t)
	only := sharing{Options: dayfly.FleetOptions{Max: 1}}
	programs := map[string]*sharer{"apples": s.share(t, only), "pears": s.share(t, only)}
	pids := map[int]bool{}
	for text, p := range programs {
		if r := p.call(t, order{Call: "chatter", Text: text}); r.Err != "" {
			t.Fatal(r.Err)
		}
		pids[p.whoami(t).PID] = true
	}
	if len(pids) != 1 {
		t.Fatalf("got runners %v, want one", pids)
	}
	for text, p := range programs {
		got := p.log()
		for _, want := range []string{"logged ", "printed ", "complained "} {
			if strings.Count(got, want) != 1 || !strings.Contains(got, want+text) {
				t.Errorf("the log of the program with the %s: got %s, want %q once", text, got, want+text)
			}
		}
	}
}

// anotherBuild makes this program one of another build.
func anotherBuild(t *testing.T) string {
	t.Helper()
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	file, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	note, err := file.Section(".note.go.buildid").Data()
	if err != nil {
		t.Fatal(err)
	}
	id := note[16:]
	other := append([]byte{}, id...)
	other[0] ^= 1
	path := filepath.Join(t.TempDir(), "another")
	if err := os.WriteFile(path, bytes.ReplaceAll(program, id, other), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestARunnerOfAnOldBuildGivesWay(t *testing.T) {
	t.Parallel()
	s := newFleetServer(t)
	only := sharing{Options: dayfly.FleetOptions{Min: 1, Max: 1}}
	old := s.shareAs(t, anotherBuild(t), only)
	first := old.whoami(t).PID
	fresh := s.share(t, only)
	second := fresh.whoami(t).PID
	if second == first {
		t.Errorf("a program of another build: got runner %d, which is of the old one", second)
	}
	if isAlive(first) {
		t.Errorf("the runner %d of the old build is still there, with one that is in use", first)
	}
	old.whoami(t) // what is left of the old programs is served until they end
}

func TestGarbageInPlaceOfAFleetIsSaidToBeThat(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"fleet:", "fleet:nothing", "fleet:" + strings.Repeat("A", 20_000), "garbage"} {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "DAYFLY_PARENT="+word)
		out, err := cmd.CombinedOutput()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.Contains(string(out), "DAYFLY_PARENT") || len(out) > 1000 {
			t.Errorf("%.20s: got %v and %q, want status 1 and a sentence", word, err, out)
		}
	}
}

func TestAPoolMustGoWithItsFleet(t *testing.T) {
	t.Parallel()
	client, err := dayfly.NewClient("http://127.0.0.1:1", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		fleet dayfly.FleetOptions
		pool  dayfly.PoolOptions
		words string
	}{
		{"No Name", dayfly.FleetOptions{}, dayfly.PoolOptions{}, "No Name"},
		{"min", dayfly.FleetOptions{Min: 3, Max: 2}, dayfly.PoolOptions{}, "3 runners are more than Max"},
		{"negative", dayfly.FleetOptions{Min: -1}, dayfly.PoolOptions{}, "-1 runners"},
		{"none", dayfly.FleetOptions{Max: -1}, dayfly.PoolOptions{}, "-1 runners"},
		{"for-ever", dayfly.FleetOptions{Idle: dayfly.Never}, dayfly.PoolOptions{}, "sets Min"},
		{"single", dayfly.FleetOptions{}, dayfly.PoolOptions{SingleUse: true}, "SingleUse of its FleetOptions"},
		{"many", dayfly.FleetOptions{SingleUse: true}, dayfly.PoolOptions{}, "SingleUse of the pool"},
		{"more", dayfly.FleetOptions{Max: 2}, dayfly.PoolOptions{Min: 3}, "at most 2 for all"},
	} {
		_, err := dayfly.NewPool(client.Fleet(c.name, "local", &c.fleet), &c.pool)
		if fault.Of(err) != fault.Invalid || !strings.Contains(fmt.Sprint(err), c.words) {
			t.Errorf("%s: got error %v, want fault.Invalid that says %q", c.name, err, c.words)
		}
	}
}
