package process_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

// supervise makes the test binary start one group and wait, for tests about what outlives a supervisor.
const supervise = "DAYFLY_TEST_SUPERVISE"

func TestMain(m *testing.M) {
	// A test may start this binary at the moment at which another one has a group's tag, and this forks children, too.
	_ = syscall.Setrlimit(unix.RLIMIT_LOCKS, &syscall.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	if script := os.Getenv(supervise); script != "" {
		os.Exit(superviseOne(script))
	}
	if path := os.Getenv(hang); path != "" {
		os.Exit(startHanging(path))
	}
	if os.Getenv(restart) != "" {
		os.Exit(startAgainAndAgain())
	}
	os.Exit(m.Run())
}

// superviseOne runs a script in the group "one" of the prefix, mode and brake in the environment, and never ends by itself.
func superviseOne(script string) int {
	brake, _ := strconv.Atoi(os.Getenv("DAYFLY_TEST_BRAKE"))
	host, err := process.NewHost(&process.Options{
		Brake:          brake,
		Prefix:         os.Getenv("DAYFLY_TEST_PREFIX"),
		DisableCgroups: os.Getenv("DAYFLY_TEST_SCAN") != "",
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	group, err := host.Group("one", machine.Size{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	p, err := group.Start(&process.Command{Argv: []string{"sh", "-c", script}, Env: environment(), Dir: "/", Stdout: os.Stdout})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	<-p.Done()
	fmt.Println("first process ended")
	select {}
}

var prefixes atomic.Int64

func newPrefix() string { return fmt.Sprintf("dayfly-test-%d-%d", os.Getpid(), prefixes.Add(1)) }

// newHost returns a host that leaves nothing behind.
func newHost(t *testing.T, scan bool) *process.Host {
	t.Helper()
	host, err := process.NewHost(&process.Options{Prefix: newPrefix(), DisableCgroups: scan})
	if err != nil {
		t.Fatal(err)
	}
	if !scan && host.Abilities().Kill == "scan" {
		t.Skipf("this computer has no usable cgroups: %v", host.Abilities().Why)
	}
	t.Cleanup(func() {
		// A tree that has been killed is empty a moment before its processes have been waited for.
		eventually(t, "the host can be closed", func() bool { return host.Close() == nil })
	})
	return host
}

func newGroup(t *testing.T, host *process.Host, size machine.Size) *process.Group {
	t.Helper()
	group, err := host.Group("one", size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := group.Kill(ctx); err != nil {
			t.Errorf("got %v, want a tree that ends", err)
		}
		if err := group.Close(); err != nil {
			t.Errorf("got %v, want a group that can be removed", err)
		}
	})
	return group
}

// start runs a script, whose output goes to a file whose name is returned.
func start(t *testing.T, group *process.Group, dir, script string) (*process.Process, string) {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p, err := group.Start(&process.Command{Argv: []string{"sh", "-c", script}, Env: environment(), Dir: dir, Stdout: out, Stderr: out})
	if err != nil {
		t.Fatal(err)
	}
	return p, out.Name()
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			t.Fatalf("after 20 s it is still not so that %s", what)
		case <-tick.C:
		}
	}
}

// alive reports whether the process runs; a zombie does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// modes runs a test with and without cgroups.
func modes(t *testing.T, test func(t *testing.T, scan bool)) {
	t.Run("with cgroups", func(t *testing.T) { t.Parallel(); test(t, false) })
	t.Run("by search", func(t *testing.T) { t.Parallel(); test(t, true) })
}

// daemons is a script that leaves three kinds of descendants behind, writes their ids, and ends: a child, a child in
// a session of its own, and a process forked twice that ignores every signal it can.
func daemons(dir string) string {
	return fmt.Sprintf(`cd %s
sleep 1000 & echo $! > child
setsid sh -c 'echo $$ > session; exec sleep 1000' &
( setsid sh -c 'trap "" HUP TERM INT QUIT; (sh -c "echo \$\$ > daemon; while :; do sleep 1000; done" &) ' & )
while [ ! -s child ] || [ ! -s session ] || [ ! -s daemon ]; do sleep 0.01; done
`, dir)
}

func daemonIDs(t *testing.T, dir string) []int {
	t.Helper()
	var pids []int
	for _, name := range []string{"child", "session", "daemon"} {
		pid, err := strconv.Atoi(strings.TrimSpace(read(t, filepath.Join(dir, name))))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

func TestKillLeavesNoDescendant(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		group := newGroup(t, newHost(t, scan), machine.Size{})
		dir := t.TempDir()
		p, _ := start(t, group, "/", daemons(dir))
		if exit, _ := p.Exit(); !exit.OK() {
			t.Fatalf("got %+v, want success", exit)
		}
		pids := daemonIDs(t, dir)
		for _, pid := range pids {
			if !alive(pid) {
				t.Fatalf("process %d has ended before the test began", pid)
			}
		}
		if empty, err := group.Empty(); empty || err != nil {
			t.Errorf("got %v, %v, want a tree that is not empty", empty, err)
		}
		if err := group.Close(); !errors.Is(err, fault.Conflict) {
			t.Errorf("got %v, want fault.Conflict", err)
		}
		if err := group.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			if alive(pid) {
				t.Errorf("process %d lives, want none", pid)
			}
		}
		if empty, err := group.Empty(); !empty || err != nil {
			t.Errorf("got %v, %v, want an empty tree", empty, err)
		}
	})
}

func TestKillKeepsUpWithATreeThatForks(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		group := newGroup(t, newHost(t, scan), machine.Size{})
		dir := t.TempDir()
		_, _ = start(t, group, dir, `step() { touch begun; [ $1 -gt 0 ] && (step $(($1-1)) &) ; sleep 0.02; }; step 2000; sleep 1000`)
		eventually(t, "the tree forks", func() bool { _, err := os.Stat(filepath.Join(dir, "begun")); return err == nil })
		if err := group.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if empty, err := group.Empty(); !empty || err != nil {
			t.Errorf("got %v, %v, want an empty tree", empty, err)
		}
	})
}

// TestKillCatchesATreeThatIsNeverTheSameProcess has a tree that is one process at most times, which forks the next and
// ends. A list of processes hardly ever has it while it lives.
func TestKillCatchesATreeThatIsNeverTheSameProcess(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		group := newGroup(t, newHost(t, scan), machine.Size{})
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "hop"), []byte("[ $1 -gt 0 ] && sh hop $(($1-1)) &"), 0o600); err != nil {
			t.Fatal(err)
		}
		p, _ := start(t, group, dir, "sh hop 30000")
		p.Exit()
		for range 5 {
			if empty, err := group.Empty(); empty || err != nil {
				t.Fatalf("while it runs: got %v, %v, want a tree that is not empty", empty, err)
			}
		}
		if err := group.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if empty, err := group.Empty(); !empty || err != nil {
			t.Errorf("got %v, %v, want an empty tree", empty, err)
		}
	})
}

func TestKillReachesAProcessThatHidesItsEnvironment(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		group := newGroup(t, newHost(t, scan), machine.Size{})
		dir := t.TempDir()
		p, _ := start(t, group, dir, `(env -i sh -c 'echo $$ > hidden; exec /bin/sleep 1000' &); while [ ! -s hidden ]; do sleep 0.01; done`)
		p.Exit()
		pid, err := strconv.Atoi(strings.TrimSpace(read(t, filepath.Join(dir, "hidden"))))
		if err != nil {
			t.Fatal(err)
		}
		if err := group.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if alive(pid) {
			t.Errorf("process %d lives, want none", pid)
		}
	})
}

// hidden is a script that leaves behind a process which is not its child, not in its session and without its
// environment, and writes the id of that to a file.
func hidden(file string) string {
	return fmt.Sprintf(`(setsid env -i sh -c 'echo $$ > %[1]s.new; mv %[1]s.new %[1]s; exec /bin/sleep 1000' &); while [ ! -s %[1]s ]; do sleep 0.01; done
`, file)
}

func hiddenID(t *testing.T, file string) int {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(read(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestKillReachesADaemonOfWhichNothingTellsAndNoOther(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		host, dir := newHost(t, scan), t.TempDir()
		one := newGroup(t, host, machine.Size{})
		other, err := host.Group("other", machine.Size{})
		if err != nil {
			t.Fatal(err)
		}
		var pids []int
		for i, group := range []*process.Group{one, other} {
			file := filepath.Join(dir, strconv.Itoa(i))
			p, _ := start(t, group, "/", hidden(file))
			p.Exit()
			pids = append(pids, hiddenID(t, file))
			if empty, err := group.Empty(); empty || err != nil {
				t.Errorf("got %v, %v, want a tree that is not empty", empty, err)
			}
			if err := group.Close(); !errors.Is(err, fault.Conflict) {
				t.Errorf("got %v, want fault.Conflict", err)
			}
		}
		if err := one.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if alive(pids[0]) || !alive(pids[1]) {
			t.Errorf("the daemon of the group lives: %v, that of the other: %v, want only the other", alive(pids[0]), alive(pids[1]))
		}
		if err := other.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if alive(pids[1]) {
			t.Error("the daemon of the other group lives, want none")
		}
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestADaemonThatLeavesAtOnceIsFound starts many, since each has but the time that it takes to begin.
func TestADaemonThatLeavesAtOnceIsFound(t *testing.T) {
	t.Parallel()
	host, dir := newHost(t, true), t.TempDir()
	group := newGroup(t, host, machine.Size{})
	const many = 200
	var processes []*process.Process
	for i := range many {
		script := fmt.Sprintf("setsid env -i sleep 10%d & echo $! > %s/%d", i, dir, i)
		p, _ := start(t, group, "/", script)
		processes = append(processes, p)
	}
	for _, p := range processes {
		p.Exit()
	}
	if err := group.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range many {
		if pid := hiddenID(t, filepath.Join(dir, strconv.Itoa(i))); alive(pid) {
			t.Errorf("process %d lives, want none", pid)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func TestADaemonOfWhichNothingTellsIsFoundWhenItsSupervisorIsDead(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		prefix, file := newPrefix(), filepath.Join(t.TempDir(), "hidden")
		supervisor := exec.Command(os.Args[0])
		supervisor.Env = append(environment(), supervise+"="+hidden(file)+"sleep 1000", "DAYFLY_TEST_PREFIX="+prefix)
		if scan {
			supervisor.Env = append(supervisor.Env, "DAYFLY_TEST_SCAN=1")
		}
		supervisor.Stderr = os.Stderr
		if err := supervisor.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the daemon runs", func() bool { _, err := os.Stat(file); return err == nil })
		if err := supervisor.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = supervisor.Wait()

		host, err := process.NewHost(&process.Options{Prefix: prefix, DisableCgroups: scan})
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		if names, err := host.Names("one", "never"); err != nil || !slices.Equal(names, []string{"one"}) {
			t.Errorf("got groups %v, %v, want the one that was left behind", names, err)
		}
		group, err := host.Find("one")
		if err != nil || group == nil {
			t.Fatalf("got %v, %v, want the group", group, err)
		}
		if err := group.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if alive(hiddenID(t, file)) {
			t.Error("the daemon lives, want none")
		}
		if err := group.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestAnotherProcessEndsTheTreeOfASupervisorThatDied(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		prefix, dir := newPrefix(), t.TempDir()
		supervisor := exec.Command(os.Args[0])
		supervisor.Env = append(environment(), supervise+"="+daemons(dir)+"sleep 1000", "DAYFLY_TEST_PREFIX="+prefix)
		if scan {
			supervisor.Env = append(supervisor.Env, "DAYFLY_TEST_SCAN=1")
		}
		supervisor.Stderr = os.Stderr
		if err := supervisor.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the daemons run", func() bool {
			return !slices.ContainsFunc([]string{"child", "session", "daemon"}, func(name string) bool {
				text, _ := os.ReadFile(filepath.Join(dir, name))
				return len(text) == 0
			})
		})
		if err := supervisor.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = supervisor.Wait()

		host, err := process.NewHost(&process.Options{Prefix: prefix, DisableCgroups: scan})
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		if names, err := host.Names(); err != nil || !slices.Equal(names, []string{"one"}) {
			t.Errorf("got groups %v, %v, want the one that was left behind", names, err)
		}
		group, err := host.Find("one")
		if err != nil || group == nil {
			t.Fatalf("got %v, %v, want the group", group, err)
		}
		if err := group.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, pid := range daemonIDs(t, dir) {
			if alive(pid) {
				t.Errorf("process %d lives, want none", pid)
			}
		}
		if err := group.Close(); err != nil {
			t.Error(err)
		}
		if names, err := host.Names(); err != nil || len(names) != 0 {
			t.Errorf("got groups %v, %v, want none", names, err)
		}
	})
}

func TestChildrenDieWithTheirSupervisor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	supervisor := exec.Command(os.Args[0])
	supervisor.Env = append(environment(), supervise+"=echo $$ > "+dir+"/first; exec sleep 1000", "DAYFLY_TEST_PREFIX="+newPrefix(), "DAYFLY_TEST_SCAN=1")
	if err := supervisor.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	eventually(t, "the child runs", func() bool {
		text, _ := os.ReadFile(filepath.Join(dir, "first"))
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return pid > 0
	})
	if err := supervisor.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = supervisor.Wait()
	eventually(t, "the child has died", func() bool { return !alive(pid) })
}

func TestSignalReachesTheWholeTree(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		group := newGroup(t, newHost(t, scan), machine.Size{})
		dir := t.TempDir()
		p, _ := start(t, group, dir, `(setsid sh -c 'trap "sh -c \"sleep 0.1; touch heard\"; exit" USR1; touch ready; while :; do sleep 0.01; done' &)
trap "exit 7" USR1; while :; do sleep 0.01; done`)
		eventually(t, "the daemon listens", func() bool { _, err := os.Stat(filepath.Join(dir, "ready")); return err == nil })
		// The sleeps that the shells start do not listen and die of it, which ends nothing else. What a shell starts
		// because it was told is spared.
		if err := group.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		if exit, _ := p.Exit(); exit.Code != 7 {
			t.Errorf("got %+v, want exit code 7 from the first process", exit)
		}
		eventually(t, "the daemon has heard", func() bool { _, err := os.Stat(filepath.Join(dir, "heard")); return err == nil })
	})
}

func TestExitIsToldApart(t *testing.T) {
	t.Parallel()
	group := newGroup(t, newHost(t, false), machine.Size{})
	cases := []struct {
		name, script string
		want         machine.Exit
	}{
		{"Success", "exit 0", machine.Exit{}},
		{"Code", "exit 42", machine.Exit{Code: 42}},
		{"LargestCode", "exit 255", machine.Exit{Code: 255}},
		{"KillSignal", "kill -9 $$", machine.Exit{Code: -1, Signal: "SIGKILL"}},
		{"TermSignal", "kill $$", machine.Exit{Code: -1, Signal: "SIGTERM"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p, _ := start(t, group, "/", c.script)
			if got, _ := p.Exit(); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestUsageCountsWaitedChildren(t *testing.T) {
	t.Parallel()
	group := newGroup(t, newHost(t, false), machine.Size{})
	p, _ := start(t, group, "/", `i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done`)
	_, usage := p.Exit()
	if usage.User+usage.System < 10*time.Millisecond {
		t.Errorf("got %v of processor time for a loop that takes longer", usage.User+usage.System)
	}
}

func TestTheLargestResidentSetIsTheProcesssOwn(t *testing.T) {
	t.Parallel()
	group := newGroup(t, newHost(t, false), machine.Size{})
	p, _ := start(t, group, "/", "dd if=/dev/zero of=/dev/null bs=400M count=1 2>/dev/null")
	if _, usage := p.Exit(); usage.MaxRSSKB < 400<<10 || usage.MaxRSSKB > 500<<10 {
		t.Errorf("of a process that fills 400 MiB: got a resident set of %d KiB, want as much", usage.MaxRSSKB)
	}
	p, _ = start(t, group, "/", "true")
	if _, usage := p.Exit(); usage.MaxRSSKB != 0 {
		t.Errorf("of a process smaller than this test: got a resident set of %d KiB, want 0, as nobody knows", usage.MaxRSSKB)
	}
}

func TestAProgramThatCannotRunIsNotFound(t *testing.T) {
	t.Parallel()
	group := newGroup(t, newHost(t, false), machine.Size{})
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	plain := write("plain", "#!/bin/sh\n", 0o644)
	strange := write("strange", "#!/no/such/interpreter\n", 0o755)
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name string
		argv []string
		path string
		also error
		says string
	}{
		{"MissingInPath", []string{"no-such-program"}, "/usr/bin:/bin", exec.ErrNotFound, `"no-such-program" is not in PATH "/usr/bin:/bin"`},
		{"EmptyPath", []string{"sh"}, "", exec.ErrNotFound, `"sh" is not in PATH ""`},
		{"WorkingDirectoryIsNotSearched", []string{"plain"}, ".::", exec.ErrNotFound, "is not in PATH"},
		{"MissingFile", []string{"/no/such/file"}, "", exec.ErrNotFound, "/no/such/file"},
		{"ThroughAFile", []string{"/etc/passwd/program"}, "", exec.ErrNotFound, "/etc/passwd/program"},
		{"NotExecutable", []string{plain}, "", fs.ErrPermission, plain},
		{"NotExecutableInPath", []string{"plain"}, dir, fs.ErrPermission, plain},
		{"Directory", []string{"/tmp"}, "", fs.ErrPermission, "/tmp"},
		{"MissingInterpreter", []string{strange}, "", exec.ErrNotFound, "interpreter of " + strange},
		{"LinkToItself", []string{loop}, "", syscall.ELOOP, loop + " cannot be executed"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := group.Start(&process.Command{Argv: c.argv, Env: []string{"PATH=" + c.path}, Dir: dir})
			if !errors.Is(err, fault.NotFound) || !errors.Is(err, c.also) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want fault.NotFound and %v saying %q", err, c.also, c.says)
			}
		})
	}
	if _, err := group.Start(&process.Command{Dir: dir}); !errors.Is(err, fault.Invalid) {
		t.Errorf("got %v for no program, want fault.Invalid", err)
	}
}

func TestACommandThatIsTooLongIsToldApart(t *testing.T) {
	t.Parallel()
	group := newGroup(t, newHost(t, false), machine.Size{})
	long := strings.Repeat("a", 200_000)
	cases := []struct {
		name string
		argv []string
		env  []string
		dir  string
		also error
		says string
	}{
		{"OneArgument", []string{"true", "b", long}, nil, "/", syscall.E2BIG, "argument 2, \"aaaa"},
		{"OneVariable", []string{"true"}, []string{"LONG=" + long}, "/", syscall.E2BIG, `the variable "LONG" of its environment has 200000 bytes`},
		{"AllArguments", append([]string{"true"}, slices.Repeat([]string{long[:100_000]}, 70)...), nil, "/", syscall.E2BIG, "71 arguments of 7000075 bytes"},
		{"AFileName", []string{"/bin/" + long[:300]}, nil, "/", syscall.ENAMETOOLONG, "the path of the program"},
		{"APath", []string{"/bin/" + strings.Repeat("./", 2100) + "true"}, nil, "/", syscall.ENAMETOOLONG, "has 4209 bytes"},
		{"TheDirectory", []string{"true"}, nil, strings.Repeat("/.", 2100), syscall.ENAMETOOLONG, "its working directory"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := group.Start(&process.Command{Argv: c.argv, Env: append(environment(), c.env...), Dir: c.dir})
			if fault.Of(err) != fault.TooLarge || !errors.Is(err, c.also) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want fault.TooLarge and %v saying %q", err, c.also, c.says)
			}
			if err != nil && len(err.Error()) > 300 {
				t.Errorf("got a text of %d bytes, want one that a person reads", len(err.Error()))
			}
		})
	}
}

func TestAClosedGroupStartsNothing(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		group := newGroup(t, newHost(t, scan), machine.Size{})
		if err := group.Close(); err != nil {
			t.Fatal(err)
		}
		_, err := group.Start(&process.Command{Argv: []string{"true"}, Env: environment(), Dir: "/"})
		if !errors.Is(err, fault.Conflict) {
			t.Errorf("got %v, want fault.Conflict", err)
		}
		if err := group.Close(); err != nil {
			t.Errorf("got %v for the second Close, want nil", err)
		}
	})
}

func TestAGroupThatWasRemovedElsewhereStartsNothing(t *testing.T) {
	t.Parallel()
	host := newHost(t, false)
	if host.Abilities().Kill != "cgroup2" {
		t.Skip("only a cgroup of version 2 can promise it")
	}
	group := newGroup(t, host, machine.Size{})
	for range 2 { // The second time a group of the same name exists again.
		other, err := host.Find("one")
		if err != nil || other == nil {
			t.Fatalf("got %v, %v, want the group", other, err)
		}
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := group.Start(&process.Command{Argv: []string{"true"}, Env: environment(), Dir: "/"}); !errors.Is(err, fault.Conflict) {
			t.Errorf("got %v, want fault.Conflict", err)
		}
		newGroup(t, host, machine.Size{})
	}
}

func TestAGroupCanBeUsedForAnotherTree(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		host := newHost(t, scan)
		group := newGroup(t, host, machine.Size{})
		p, _ := start(t, group, "/", "(setsid sleep 0.5 &) ; exit 3")
		if exit, _ := p.Exit(); exit.Code != 3 {
			t.Fatalf("got %+v, want code 3", exit)
		}
		if _, err := group.Reuse(machine.Size{}); !errors.Is(err, fault.Conflict) {
			t.Errorf("got %v with a process left, want fault.Conflict", err)
		}
		if _, err := group.Reuse(machine.Size{Processes: 10}); !errors.Is(err, fault.Unsupported) {
			t.Errorf("got %v for a size with limits, want fault.Unsupported", err)
		}
		eventually(t, "the tree has ended by itself", func() bool { empty, _ := group.Empty(); return empty })
		next, err := group.Reuse(machine.Size{DiskMB: 4})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := group.Start(&process.Command{Argv: []string{"true"}, Env: environment(), Dir: "/"}); !errors.Is(err, fault.Conflict) {
			t.Errorf("got %v for a start in the used group, want fault.Conflict", err)
		}
		p, out := start(t, next, t.TempDir(), "sleep 0.1; ulimit -f")
		if exit, _ := p.Exit(); !exit.OK() || !strings.HasPrefix(read(t, out), "8192\n") {
			t.Errorf("got %+v and %q, want the limit of the new size", exit, read(t, out))
		}
		p, _ = start(t, next, t.TempDir(), "exec sleep 1000")
		// The used group has the same name, and must not be taken for the one that uses it now.
		if err := group.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := group.Kill(t.Context()); err != nil {
			t.Error(err)
		}
		if err := group.Close(); err != nil {
			t.Error(err)
		}
		if empty, err := next.Empty(); empty || err != nil || !alive(p.Pid()) {
			t.Errorf("got %v, %v, want the new tree to live on", empty, err)
		}
		if err := next.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := next.Start(&process.Command{Argv: []string{"true"}, Env: environment(), Dir: "/"}); !errors.Is(err, fault.Conflict) {
			t.Errorf("got %v for a start in a killed group, want fault.Conflict", err)
		}
		if _, err := next.Reuse(machine.Size{}); !errors.Is(err, fault.Unsupported) {
			t.Errorf("got %v for a killed group, want fault.Unsupported", err)
		}
		if err := next.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestFindKnowsWhatDoesNotExist(t *testing.T) {
	t.Parallel()
	host := newHost(t, false)
	if group, err := host.Find("never"); group != nil || err != nil {
		t.Errorf("got %v, %v, want nothing", group, err)
	}
	for _, name := range []string{"", "..", "a/b", "a\nb"} {
		if _, err := host.Group(name, machine.Size{}); !errors.Is(err, fault.Invalid) {
			t.Errorf("got %v for the name %q, want fault.Invalid", err, name)
		}
	}
}

func TestAHostWithAProcessCannotBeClosed(t *testing.T) {
	t.Parallel()
	host := newHost(t, false)
	group := newGroup(t, host, machine.Size{})
	p, _ := start(t, group, "/", "exec sleep 1000")
	if err := host.Close(); !errors.Is(err, fault.Conflict) {
		t.Errorf("got %v, want fault.Conflict", err)
	}
	if !alive(p.Pid()) {
		t.Error("the process has died of it")
	}
	if err := group.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
}

func TestManyProcessesCostFewThreads(t *testing.T) {
	t.Parallel()
	host := newHost(t, false)
	group := newGroup(t, host, machine.Size{})
	for range 50 {
		start(t, group, "/", "exec sleep 1000")
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	if len(threads) > 40 {
		t.Errorf("got %d threads with 50 processes, want no thread for each", len(threads))
	}
}
