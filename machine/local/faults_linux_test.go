package local_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
)

// signalSupervisor sends a signal to a supervisor, which must be one.
func signalSupervisor(t *testing.T, dir string, number int, s syscall.Signal) {
	t.Helper()
	pid := supervisorID(t, dir, number)
	if !isSupervisor(pid, dir) {
		t.Fatalf("process %d is not supervisor %d", pid, number)
	}
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
	if s == syscall.SIGSTOP {
		eventually(t, "every thread of the supervisor has stopped", func() bool { return stopped(pid) })
	}
}

// stopped reports whether every thread of a process is stopped.
func stopped(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	return err == nil && !slices.ContainsFunc(threads, func(file string) bool {
		stat, err := os.ReadFile(file)
		return err == nil && !strings.Contains(string(stat), ") T ")
	})
}

// sights collects what Watch yields until the test ends.
type sights struct {
	mu   sync.Mutex
	seen []machine.Machine
}

func watch(t *testing.T, p *testProvider) *sights {
	t.Helper()
	s := &sights{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m, err := range p.Watch(ctx, "tests") {
			if err != nil {
				t.Errorf("got %v from Watch", err)
				continue
			}
			s.mu.Lock()
			s.seen = append(s.seen, *m)
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return s
}

// await waits until Watch has yielded a machine in a state, and returns it and how long that took.
func (s *sights) await(t *testing.T, name string, state machine.State) (machine.Machine, time.Duration) {
	t.Helper()
	begin := time.Now()
	var found machine.Machine
	eventually(t, fmt.Sprintf("Watch has yielded %s in state %s", name, state), func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, m := range s.seen {
			if m.Name == name && m.State == state {
				found = m
				return true
			}
		}
		return false
	})
	return found, time.Since(begin)
}

func TestTheDeathOfASupervisorEndsItsMachines(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		p := newProvider(t, newDir(t), scan)
		sights := watch(t, p)
		dir := t.TempDir()
		m := create(t, p, newSpec("orphan", descendants(dir)))
		early := create(t, p, newSpec("early", "exit 4"))
		exited(t, p, early.ID)
		pids := descendantIDs(t, dir)
		sights.await(t, m.Name, machine.Running)

		signalSupervisor(t, p.dir, 1, syscall.SIGKILL)
		seen, took := sights.await(t, m.Name, machine.Exited)
		if took > 2*time.Second {
			t.Errorf("it took %v until Watch told, want about a second at most", took)
		}
		if seen.Exit != nil || !strings.Contains(seen.Location, "died") {
			t.Errorf("got %+v, want no exit and a location that says why", seen)
		}
		wantDead(t, pids)

		// What had ended before is still known, and life goes on.
		if got, err := p.Get(t.Context(), early.ID); err != nil || got.Exit == nil || got.Exit.Code != 4 {
			t.Errorf("got %+v, %v, want exit code 4", got, err)
		}
		create(t, p, newSpec("next", "exec sleep 1000"))
		if err := p.Destroy(t.Context(), m.ID); err != nil {
			t.Error(err)
		}
		sights.await(t, m.Name, machine.Gone)
	})
}

func TestAListByANewProcessEndsWhatADeadSupervisorLeft(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		p := newProvider(t, newDir(t), scan)
		dir := t.TempDir()
		if _, err := p.Create(t.Context(), newSpec("orphan", descendants(dir))); err != nil {
			t.Fatal(err)
		}
		pids := descendantIDs(t, dir)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		signalSupervisor(t, p.dir, 1, syscall.SIGKILL)

		second := newProvider(t, p.dir, scan)
		eventually(t, "the machine is listed as exited, nobody knows how", func() bool {
			list, err := second.List(t.Context(), "tests")
			if err != nil || len(list) != 1 || list[0].Exit != nil {
				t.Fatalf("got %+v, %v, want the machine without an exit", list, err)
			}
			return list[0].State == machine.Exited
		})
		wantDead(t, pids)
		if err := second.Destroy(t.Context(), "orphan"); err != nil {
			t.Error(err)
		}
		if list, err := second.List(t.Context(), "tests"); err != nil || len(list) != 0 {
			t.Errorf("got %+v, %v, want nothing", list, err)
		}
	})
}

func TestTheDeathOfASupervisorEndsADaemonOfWhichNothingTells(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		p := newProvider(t, newDir(t), scan)
		dir := t.TempDir()
		m := create(t, p, newSpec("m", "cd "+dir+"; "+hidden+"; echo $$ > first; exec sleep 1000"))
		pids := []int{readID(t, filepath.Join(dir, "first")), readID(t, filepath.Join(dir, "hidden"))}
		signalSupervisor(t, p.dir, 1, syscall.SIGKILL)
		exited(t, p, m.ID)
		wantDead(t, pids)
	})
}

func TestAStoppedSupervisorHoldsUpNobody(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		p := newImpatientProvider(t, scan)
		dir, stays := t.TempDir(), filepath.Join(t.TempDir(), "stays")
		create(t, p, newSpec("sleeper", descendants(dir)))
		create(t, p, newSpec("stays", fmt.Sprintf("while [ ! -e %s ]; do sleep 0.01; done; exit 6", stays)))
		pids := descendantIDs(t, dir)

		signalSupervisor(t, p.dir, 1, syscall.SIGSTOP)
		begin := time.Now()
		m := create(t, p, newSpec("new", "exit 2"))
		if took := time.Since(begin); took > 4*time.Second {
			t.Errorf("it took %v to make a machine, want little more than the second after which a supervisor is given up", took)
		}
		if exit := exited(t, p, m.ID).Exit; exit.Code != 2 {
			t.Errorf("got %+v, want code 2", exit)
		}
		if list, err := p.List(t.Context(), "tests"); err != nil || len(list) != 3 {
			t.Errorf("got %d machines, %v, want 3", len(list), err)
		}
		// Its machines can be destroyed, and made again.
		if err := p.Destroy(t.Context(), "sleeper"); err != nil {
			t.Fatal(err)
		}
		wantDead(t, pids)
		again := create(t, p, newSpec("sleeper", "exec sleep 1000"))

		signalSupervisor(t, p.dir, 1, syscall.SIGCONT)
		if err := os.WriteFile(stays, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if exit := exited(t, p, "stays").Exit; exit.Code != 6 {
			t.Errorf("got %+v, want the supervisor that woke up to go on with its own", exit)
		}
		eventually(t, "the old supervisor has ended, having nothing left to do", func() bool {
			return !isSupervisor(supervisorID(t, p.dir, 1), p.dir)
		})
		if got, err := p.Get(t.Context(), again.ID); err != nil || got.State != machine.Running {
			t.Errorf("got %+v, %v, want the machine of the same name to be left alone", got, err)
		}
	})
}

func TestARequestThatASleepingSupervisorReadsLateHasNoEffect(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		p := newImpatientProvider(t, scan)
		create(t, p, newSpec("first", "exec sleep 1000"))
		ledger := filepath.Join(t.TempDir(), "ledger")
		signalSupervisor(t, p.dir, 1, syscall.SIGSTOP)
		m, err := p.Create(t.Context(), newSpec("late", "echo started >> "+ledger))
		if err != nil {
			t.Fatal(err)
		}
		exited(t, p, m.ID)
		// Destroyed for certain: the request that supervisor 1 has not read yet must not make it anew.
		if err := p.Destroy(t.Context(), m.ID); err != nil {
			t.Fatal(err)
		}
		signalSupervisor(t, p.dir, 1, syscall.SIGCONT)
		// Requests are read in order, so once this machine is gone the late one was read.
		if err := p.Destroy(t.Context(), "first"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "supervisor 1 has ended", func() bool { return !isSupervisor(supervisorID(t, p.dir, 1), p.dir) })
		if got, err := p.Get(t.Context(), m.ID); !errors.Is(err, fault.NotFound) {
			t.Errorf("got %+v, %v, want fault.NotFound", got, err)
		}
		if text, err := os.ReadFile(ledger); err != nil || string(text) != "started\n" {
			t.Errorf("got %q, %v, want one start", text, err)
		}
	})
}

func TestRunEndsMachinesWhoseStoppedSupervisorDoesNot(t *testing.T) {
	t.Parallel()
	p := newImpatientProvider(t, false)
	p.SetOverdue(500 * time.Millisecond)
	dir := t.TempDir()
	spec := newSpec("overdue", descendants(dir))
	spec.Lifetime = 3 * time.Second // in which a slow computer has started them all
	create(t, p, spec)
	pids := descendantIDs(t, dir)
	signalSupervisor(t, p.dir, 1, syscall.SIGSTOP)
	running(t, p)
	if exit := exited(t, p, "overdue").Exit; exit == nil || !exit.Expired || exit.Signal != "SIGKILL" {
		t.Errorf("got %+v, want Expired by SIGKILL", exit)
	}
	wantDead(t, pids)
	signalSupervisor(t, p.dir, 1, syscall.SIGCONT)
	if err := p.Destroy(t.Context(), "overdue"); err != nil {
		t.Error(err)
	}
	create(t, p, newSpec("next", "true"))
}

// newImpatientProvider returns a provider for tests about supervisors that do not answer.
func newImpatientProvider(t *testing.T, scan bool) *testProvider {
	t.Helper()
	return newProviderWith(t, newDir(t), scan, func(o *local.Options) { o.AnswerTimeout = time.Second })
}

// bystander starts a process that has nothing to do with any machine.
func bystander(t *testing.T) int {
	t.Helper()
	c := exec.Command("sleep", "1000")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	return c.Process.Pid
}

func TestAProcessIDIsNeverTrusted(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		p := newProvider(t, newDir(t), scan)
		if _, err := p.Create(t.Context(), newSpec("orphan", "exec sleep 1000")); err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		pid := supervisorID(t, p.dir, 1)
		signalSupervisor(t, p.dir, 1, syscall.SIGKILL)
		eventually(t, "the supervisor has died", func() bool { return !isSupervisor(pid, p.dir) })

		// The supervisor's id now seems to belong to somebody else.
		other := bystander(t)
		file := filepath.Join(p.dir, "supervisors", "1", "info.json")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		forged := bytes.Replace(text, fmt.Appendf(nil, `"pid":%d,`, pid), fmt.Appendf(nil, `"pid":%d,`, other), 1)
		if bytes.Equal(forged, text) {
			t.Fatalf("no process id found in %s", text)
		}
		if err := os.WriteFile(file, forged, 0o600); err != nil {
			t.Fatal(err)
		}
		second := newProvider(t, p.dir, scan)
		running(t, second)
		if m := exited(t, second, "orphan"); m.Exit != nil {
			t.Errorf("got %+v, want no exit", m)
		}
		if err := second.Destroy(t.Context(), "orphan"); err != nil {
			t.Error(err)
		}
		if !alive(other) {
			t.Error("an unrelated process was killed")
		}
	})
}

func TestAMachineOfAnotherBootIsLost(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false)
	pidFile := filepath.Join(t.TempDir(), "pid")
	create(t, p, newSpec("present", "echo $$ > "+pidFile+"; exec sleep 1000"))
	pid := readID(t, pidFile)
	// A record as it is found after a restart, naming a supervisor and a slot that are somebody else's by now.
	record, err := os.ReadFile(filepath.Join(p.dir, "machines", "present"))
	if err != nil {
		t.Fatal(err)
	}
	var birth map[string]any
	if err := json.Unmarshal(record, &birth); err != nil {
		t.Fatal(err)
	}
	birth["name"], birth["boot"] = "past", "00000000-0000-0000-0000-000000000000"
	past, err := json.Marshal(birth)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "machines", "past"), append(past, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := p.Get(t.Context(), "past")
	if err != nil || m.State != machine.Exited || m.Exit != nil {
		t.Errorf("got %+v, %v, want an exited machine and no exit", m, err)
	}
	if !alive(pid) {
		t.Error("the machine that runs was killed for the one that does not")
	}
	if err := p.Destroy(t.Context(), "past"); err != nil {
		t.Error(err)
	}
	if m, err := p.Get(t.Context(), "present"); err != nil || m.State != machine.Running || !alive(pid) {
		t.Errorf("got %+v, %v, want the machine that runs to be left alone", m, err)
	}
}

func TestADamagedRecordEndsItsMachineAndHidesNoOther(t *testing.T) {
	contents := map[string]string{
		"empty":     "",
		"garbage":   "garbage\n",
		"too large": `{"name":"damaged","owner":"tests"}` + strings.Repeat("\n", 300<<10),
	}
	finders := map[string]func(t *testing.T, p *testProvider){
		"Get": func(t *testing.T, p *testProvider) {
			if m, err := p.Get(t.Context(), "damaged"); !errors.Is(err, fault.NotFound) {
				t.Errorf("got %+v, %v, want fault.NotFound", m, err)
			}
		},
		"List": func(t *testing.T, p *testProvider) {
			if list, err := p.List(t.Context(), "tests"); err != nil || len(list) != 1 || list[0].ID != "sound" {
				t.Errorf("got %v, %v, want the machine whose record is sound", list, err)
			}
		},
		"Destroy": func(t *testing.T, p *testProvider) {
			second := newProvider(t, p.dir, false) // which does not remember whose it is
			if err := second.Destroy(t.Context(), "damaged"); err != nil {
				t.Error(err)
			}
		},
		"Watch": func(t *testing.T, p *testProvider) { watch(t, p).await(t, "sound", machine.Running) },
		"Run":   running,
	}
	for what, text := range contents {
		for who, find := range finders {
			t.Run(who+" "+what, func(t *testing.T) {
				t.Parallel()
				p := newProvider(t, newDir(t), false)
				pidFile := filepath.Join(t.TempDir(), "pid")
				create(t, p, newSpec("damaged", "echo $$ > "+pidFile+"; exec sleep 1000"))
				create(t, p, newSpec("sound", "exec sleep 1000"))
				pid := readID(t, pidFile)
				if err := os.WriteFile(filepath.Join(p.dir, "machines", "damaged"), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				find(t, p)
				eventually(t, "the process has ended", func() bool { return !alive(pid) })
				eventually(t, "the name and its mark are gone", func() bool {
					left, err := os.ReadDir(filepath.Join(p.dir, "machines"))
					return err == nil && len(left) == 1 && left[0].Name() == "sound"
				})
				if m, err := p.Get(t.Context(), "sound"); err != nil || m.State != machine.Running {
					t.Errorf("got %+v, %v, want the other machine to be left alone", m, err)
				}
				// Its supervisor notices within a second.
				eventually(t, "the name can be used again", func() bool {
					_, err := p.Create(t.Context(), newSpec("damaged", "true"))
					return err == nil
				})
			})
		}
	}
}

func TestARecordThatCannotBeReadNowIsLeftAlone(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false)
	if err := os.Symlink("elsewhere", filepath.Join(p.dir, "machines", "m")); err != nil {
		t.Fatal(err)
	}
	// The kernel refuses to open it, as it does when there are no descriptors or the disk fails.
	if list, err := p.List(t.Context(), "tests"); !errors.Is(err, fault.Unavailable) {
		t.Errorf("got %v, %v, want fault.Unavailable", list, err)
	}
	if _, err := os.Lstat(filepath.Join(p.dir, "machines", "m")); err != nil {
		t.Errorf("got %v, want what cannot be read to stay", err)
	}
}

func TestASupervisorThatCannotStartIsAnError(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false, "fail")
	m, err := p.Create(t.Context(), newSpec("never", "true"))
	if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "told to fail") {
		t.Errorf("got %+v, %v, want fault.Unavailable and the supervisor's last words", m, err)
	}
	_, err = local.New(local.Options{Dir: t.TempDir(), Supervisor: []string{"/no/such/program"}})
	if !errors.Is(err, fault.Invalid) {
		t.Errorf("got %v for a program that does not exist, want fault.Invalid", err)
	}
}

func TestWhatASupervisorThatNeverCameUpHasLeftIsRemoved(t *testing.T) {
	t.Parallel()
	failing := newProvider(t, newDir(t), false, "fail")
	for range 3 {
		if _, err := failing.Create(t.Context(), newSpec("never", "true")); !errors.Is(err, fault.Unavailable) {
			t.Fatalf("got %v, want fault.Unavailable", err)
		}
	}
	p := newProvider(t, failing.dir, false)
	create(t, p, newSpec("m", "exec sleep 1000"))
	running(t, p)
	eventually(t, "only the supervisor that runs has a directory", func() bool {
		left, err := os.ReadDir(filepath.Join(p.dir, "supervisors"))
		return err == nil && len(left) == 1 && left[0].Name() == "4"
	})
}

func TestASupervisorThatIsJustBeingStartedKeepsItsDirectory(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false)
	early, late := filepath.Join(p.dir, "supervisors", "1"), filepath.Join(p.dir, "supervisors", "2")
	for _, dir := range []string{early, late} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	starting, err := os.OpenFile(filepath.Join(p.dir, "starting"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer starting.Close()
	if err := unix.FcntlFlock(starting.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	if err := p.Order(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(early); err != nil {
		t.Errorf("got %v, want the directory to stay while somebody starts a supervisor", err)
	}
	starting.Close()
	if err := p.Order(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(early); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want the directory removed when nobody does", err)
	}
	if _, err := os.Stat(late); err != nil {
		t.Errorf("got %v, want the newest to stay for its number", err)
	}
}

func TestAPreparedSupervisorMakesTheMachineThatFollows(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false)
	p.Prepare()
	eventually(t, "a supervisor runs before a machine is asked for", func() bool {
		_, err := os.Stat(filepath.Join(p.dir, "supervisors", "1", "info.json"))
		return err == nil
	})
	p.Prepare() // is of no effect any more
	create(t, p, newSpec("m", "true"))
	numbers, err := os.ReadDir(filepath.Join(p.dir, "supervisors"))
	if err != nil || len(numbers) != 1 {
		t.Errorf("got supervisors %v, %v, want the one that was prepared", numbers, err)
	}

	closed := newProvider(t, newDir(t), false)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	closed.Prepare()
	if numbers, err := os.ReadDir(filepath.Join(closed.dir, "supervisors")); err != nil || len(numbers) != 0 {
		t.Errorf("got supervisors %v, %v of a closed provider, want none", numbers, err)
	}
}

func TestADirectoryHasOneSupervisor(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false)
	create(t, p, newSpec("m", "true"))
	err := local.Supervise(t.Context(), local.SupervisorOptions{Dir: filepath.Join(p.dir, "supervisors", "1")})
	if !errors.Is(err, fault.Conflict) {
		t.Errorf("got %v, want fault.Conflict", err)
	}
	if err := local.Supervise(t.Context(), local.SupervisorOptions{Dir: t.TempDir()}); !errors.Is(err, fault.Invalid) {
		t.Errorf("got %v for any directory, want fault.Invalid", err)
	}
}

func TestAnIdleSupervisorEndsAndLeavesNothing(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false, "idle=100ms")
	if _, err := p.Create(t.Context(), newSpec("m", "true")); err != nil {
		t.Fatal(err)
	}
	pid := supervisorID(t, p.dir, 1)
	if err := p.Destroy(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	if !isSupervisor(pid, p.dir) {
		t.Error("the supervisor has ended while a provider is connected")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the supervisor has ended", func() bool { return !isSupervisor(pid, p.dir) })
	if roots := cgroupRoots(t, p.dir); len(roots) != 0 {
		t.Errorf("got cgroups %v, want none", roots)
	}
	// The next one gets another number, and the first one's directory goes.
	second := newProvider(t, p.dir, false)
	create(t, second, newSpec("m", "true"))
	if err := second.Destroy(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	running(t, second)
	eventually(t, "the first supervisor's directory is removed", func() bool {
		_, err := os.Stat(filepath.Join(p.dir, "supervisors", "1"))
		return os.IsNotExist(err)
	})
	if isSupervisor(supervisorID(t, p.dir, 2), p.dir) == false {
		t.Error("the second supervisor does not run")
	}
}

func TestASupervisorWhoseDirectoryIsGoneEnds(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false)
	pidFile := filepath.Join(t.TempDir(), "pid")
	for i, script := range []string{"exit 1", "echo $$ > " + pidFile + "; exec sleep 1000"} {
		if _, err := p.Create(t.Context(), newSpec(fmt.Sprintf("m%d", i), script)); err != nil {
			t.Fatal(err)
		}
	}
	machine, supervisor, roots := readID(t, pidFile), supervisorID(t, p.dir, 1), cgroupRoots(t, p.dir)
	if err := os.RemoveAll(p.dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the supervisor has ended", func() bool { return !isSupervisor(supervisor, p.dir) })
	if alive(machine) {
		t.Errorf("process %d lives, want none", machine)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	for _, root := range roots {
		if _, err := os.Stat(root); err == nil {
			t.Errorf("the cgroup %s is left", root)
		}
	}
}

func TestASupervisorInheritsNoDescriptor(t *testing.T) {
	t.Parallel()
	var pipe [2]int
	if err := syscall.Pipe(pipe[:]); err != nil { // without close-on-exec, as an inherited one is
		t.Fatal(err)
	}
	defer syscall.Close(pipe[0])
	defer syscall.Close(pipe[1])
	ours, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", pipe[1]))
	if err != nil {
		t.Fatal(err)
	}
	p := newProvider(t, newDir(t), false)
	create(t, p, newSpec("m", "exec sleep 1000"))
	descriptors, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", supervisorID(t, p.dir, 1)))
	if err != nil || len(descriptors) < 3 {
		t.Fatalf("got %v, %v, want the supervisor's descriptors", descriptors, err)
	}
	for _, descriptor := range descriptors {
		if theirs, err := os.Readlink(descriptor); err == nil && theirs == ours {
			t.Errorf("the supervisor holds %s, want it closed", ours)
		}
	}
}

func TestGarbageOnTheSocketHurtsNobody(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false)
	create(t, p, newSpec("m", "exec sleep 1000"))
	dir, err := os.Open(filepath.Join(p.dir, "supervisors", "1"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	garbage := map[string][]byte{
		"no JSON":        []byte("GET / HTTP/1.1\r\n\r\n"),
		"a wrong type":   []byte(`{"id":"one"}` + "\n"),
		"deep nesting":   bytes.Repeat([]byte(`{"create":`), 100_000),
		"a long line":    bytes.Repeat([]byte("x"), 3<<20),
		"random bytes":   {0xff, 0xfe, 0, 10, 0x80, 10},
		"no end of line": []byte(`{"id":1,"hello":true}`),
	}
	for what, bytes := range garbage {
		conn, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/sock", dir.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(bytes) // it may be cut off meanwhile
		if err := conn.(*net.UnixConn).CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection stays open", what)
		}
		conn.Close()
	}
	conn, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/sock", dir.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(`{"id":7,"unheard":"of"}` + "\n")); err != nil {
		t.Fatal(err)
	}
	var answer struct {
		ID    int `json:"id"`
		Error struct {
			Kind fault.Kind `json:"kind"`
		} `json:"error"`
	}
	if err := json.NewDecoder(conn).Decode(&answer); err != nil || answer.ID != 7 || answer.Error.Kind != fault.Unsupported {
		t.Errorf("got %+v, %v to an unknown request, want fault.Unsupported", answer, err)
	}
	if m, err := p.Get(t.Context(), "m"); err != nil || m.State != machine.Running {
		t.Errorf("got %+v, %v, want the machine to run", m, err)
	}
}

func TestAFullDiskIsExhaustedAndLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Skipf("this user cannot mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { endSupervisors(t, dir) })
	p := newProvider(t, dir, false)
	release := filepath.Join(t.TempDir(), "release")
	create(t, p, newSpec("before", fmt.Sprintf("while [ ! -e %s ]; do sleep 0.01; done; exit 3", release)))
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v, want a full disk", err)
	}
	m, err := p.Create(t.Context(), newSpec("during", "true"))
	if !errors.Is(err, fault.Exhausted) {
		t.Errorf("got %+v, %v, want fault.Exhausted", m, err)
	}
	if list, err := p.List(t.Context(), "tests"); err != nil || len(list) != 1 {
		t.Errorf("got %d machines, %v, want the one from before", len(list), err)
	}
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if exit := exited(t, p, "before").Exit; exit.Code != 3 {
		t.Errorf("got %+v, want code 3", exit)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if exit := outcome(t, p, newSpec("during", "exit 4")); exit.Code != 4 {
		t.Errorf("got %+v, want code 4", exit)
	}
}

func TestManyMachinesOfTwoProviders(t *testing.T) {
	t.Parallel()
	first := newProvider(t, newDir(t), false)
	second := newProvider(t, first.dir, false)
	var group sync.WaitGroup
	for i, p := range []*testProvider{first, second} {
		sights := watch(t, p)
		for j := range 60 {
			group.Go(func() {
				name := fmt.Sprintf("m%d-%d", i, j)
				if _, err := p.Create(t.Context(), newSpec(name, fmt.Sprintf("exit %d", j))); err != nil {
					t.Error(err)
					return
				}
				seen, _ := sights.await(t, name, machine.Exited)
				if seen.Exit == nil || seen.Exit.Code != j {
					t.Errorf("got %+v of %s, want code %d", seen.Exit, name, j)
				}
				if err := p.Destroy(t.Context(), name); err != nil {
					t.Error(err)
				}
			})
		}
	}
	group.Wait()
	for _, p := range []*testProvider{first, second} {
		if list, err := p.List(t.Context(), "tests"); err != nil || len(list) != 0 {
			t.Errorf("got %d machines, %v, want none", len(list), err)
		}
	}
	if numbers, err := os.ReadDir(filepath.Join(first.dir, "supervisors")); err != nil || len(numbers) != 1 {
		t.Errorf("got %d supervisors, %v, want both providers to share one", len(numbers), err)
	}
}
