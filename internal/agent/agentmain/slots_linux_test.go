package agentmain_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/agent/memhome"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

func init() {
	roles["in-container"] = inContainer
	roles["leave-shared-memory"] = leaveSharedMemory
}

// inContainer makes of the namespaces that it finds itself in what a container is to an agent, and becomes the program that
// the arguments name: this computer's files can be read and not be changed, but for some empty directories and /mnt, which
// stands for what an image holds.
func inContainer(args []string) int {
	prepare := func() error {
		readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}
		if err := unix.MountSetattr(-1, "/", unix.AT_RECURSIVE, &readOnly); err != nil {
			return fmt.Errorf("mount_setattr: %w", err)
		}
		for _, dir := range []string{"/tmp", "/var/tmp", "/dev/shm", "/mnt"} {
			if err := unix.Mount("none", dir, "tmpfs", 0, "mode=1777"); err != nil {
				return fmt.Errorf("mount %s: %w", dir, err)
			}
		}
		if err := unix.Mount("none", "/proc", "proc", 0, ""); err != nil {
			return fmt.Errorf("mount /proc: %w", err)
		}
		for _, dir := range []string{"/mnt/work", "/mnt/etc"} {
			if err := os.Mkdir(dir, 0o777); err != nil {
				return err
			}
		}
		return os.WriteFile("/mnt/etc/hosts", nil, 0o666)
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return notPossible
	}
	fmt.Fprintln(os.Stderr, syscall.Exec("/proc/self/exe", append([]string{"dayfly-agent"}, args...), os.Environ()))
	return notPossible
}

// notPossible is the exit code of what stands for a container where none can be made.
const notPossible = 42

// leaveSharedMemory makes a segment of System V's shared memory, which nobody removes.
func leaveSharedMemory([]string) int {
	if _, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// container is an agent in what is a container to it, on a machine of a pool.
type container struct {
	*memhome.Machine
	home *memhome.Home
	exit func() int // waits until it has ended
	logs *memhome.Log
}

// newContainer starts an agent as the second process of a container, below its init. The test is skipped where no container
// can be made.
func newContainer(t *testing.T, slots int) *container {
	t.Helper()
	home := memhome.New(t)
	c := &container{Machine: home.AddMachine(slots), home: home, logs: &memhome.Log{}}
	command := program(t, agentEnv(c.Boot), "in-container", "init", "--lifetime", "10m", "--", "/proc/self/exe", "run", "--work", "/mnt/work")
	command.Stderr = c.logs
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC}
	if os.Geteuid() != 0 {
		command.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		command.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		command.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if err := command.Start(); err != nil {
		t.Skipf("no container can be made here: %v", err)
	}
	c.exit = sync.OnceValue(func() int { return exitCode(command.Wait()) })
	t.Cleanup(func() {
		_ = command.Process.Kill() // and with it all that is in the container
		c.exit()
		if t.Failed() {
			t.Log(c.logs.String())
		}
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.exit()
	}()
	if !c.AwaitCall(1, ended) && c.exit() == notPossible {
		t.Skipf("no container can be made here: %s", c.logs)
	}
	return c
}

// result waits for the result of an attempt, and returns it and what was printed.
func (c *container) result(attempt string) (*wire.Result, string) {
	a := c.home.Await(attempt, "it has a result", func(a memhome.Attempt) bool { return a.Result != nil })
	return a.Result, string(a.Streams[wire.Stdout].Data)
}

// say runs a script in a slot and returns what it prints. It must succeed.
func (c *container) say(t *testing.T, k int, script string) string {
	t.Helper()
	result, printed := c.result(c.Give(k, shell(script)))
	if result.Outcome != wire.Succeeded {
		t.Fatalf("%q in slot %d: got %+v, want success", script, k, result)
	}
	return printed
}

// printed waits until an attempt has printed a line.
func (c *container) printed(attempt string) string {
	a := c.home.Await(attempt, "it has printed a line", func(a memhome.Attempt) bool {
		return bytes.HasSuffix(a.Streams[wire.Stdout].Data, []byte("\n"))
	})
	return string(a.Streams[wire.Stdout].Data)
}

// steady is a script that goes on until there is a file /tmp/go, and then tells what it sees of its own.
const steady = `touch mine $TMPDIR/mine /tmp/of-one; echo $$; while [ ! -e /tmp/go ]; do sleep 0.02; done; ls . $TMPDIR`

// lives is a script that tells whether a process lives.
func lives(pid string) string {
	return `grep -qs '^State:[[:space:]]*[DRSTt]' /proc/` + strings.TrimSpace(pid) + `/status && echo it lives || echo it has ended
`
}

func TestInAContainerWithSlotsAJobLeavesNothingToThoseAfterItNorDisturbsThoseBesideIt(t *testing.T) {
	t.Parallel()
	c := newContainer(t, 2)
	one := c.Give(1, shell(steady))
	pid := c.printed(one)
	daemon := c.say(t, 2, `touch mine $TMPDIR/mine /tmp/of-two; pwd >&2
(setsid env -i sh -c 'trap "" TERM; echo $$ > /tmp/daemon; exec sleep 1000' &); while [ ! -s /tmp/daemon ]; do sleep 0.01; done; cat /tmp/daemon`)
	c.AwaitReady(2)

	if got := c.say(t, 2, lives(daemon)); got != "it has ended\n" {
		t.Errorf("a daemon that the last job in the slot has left: %q, want it ended", got)
	}
	if got := c.say(t, 2, lives(pid)); got != "it lives\n" {
		t.Errorf("the job in the other slot, after one in this: %q, want it to go on", got)
	}
	if got := c.say(t, 2, "ls -A . $TMPDIR"); strings.Contains(got, "mine") {
		t.Errorf("what a job finds in its directories: got %q, want nothing of the last", got)
	}
	if got := c.say(t, 2, "ls /tmp"); !strings.Contains(got, "of-one\n") || !strings.Contains(got, "of-two\n") {
		t.Errorf("/tmp while a job runs in the other slot: got %q, want it left alone", got)
	}
	c.say(t, 2, "rm -rf $PWD $TMPDIR; touch /tmp/go /dev/shm/left") // its directories are made anew
	result, printed := c.result(one)
	if result.Outcome != wire.Succeeded || strings.Count(printed, "mine\n") != 2 {
		t.Errorf("the job in slot 1: got %+v and output %q, want success and its files to be there", result, printed)
	}
	c.AwaitReady(1)
	c.AwaitReady(2)
	for k := 1; k <= 2; k++ {
		got := c.say(t, k, `ls -A /tmp /dev/shm /mnt/work . "$TMPDIR"`)
		for _, left := range []string{"of-one", "of-two", "daemon", "go\n", "left", "mine"} {
			if strings.Contains(got, left) {
				t.Errorf("what a job in slot %d sees when none has run beside it: got %q, want nothing of those before", k, got)
			}
		}
		c.AwaitReady(k)
	}
	if why := c.Spoiled(); why != "" {
		t.Errorf("the machine is said to be spoiled: %q; want it to be as it was", why)
	}
	if got := c.logs.String(); strings.Contains(got, "error") || !strings.Contains(got, "slots=2") || !strings.Contains(got, "slot=2") {
		t.Errorf("the agent's log: got %q, want it to tell of two slots and of no error", got)
	}
}

func TestAJobBeginsInEmptyDirectoriesAlthoughOneBesideItHasBeenThereBefore(t *testing.T) {
	t.Parallel()
	c := newContainer(t, 2)
	where := strings.TrimSpace(c.say(t, 2, "pwd"))
	c.AwaitReady(2)
	c.say(t, 1, "cd "+where+"; touch planted; rm -r ../tmp; touch ../tmp")
	if got := c.say(t, 2, `ls -A . $TMPDIR/`); strings.Contains(got, "planted") {
		t.Errorf("what a job finds in its directories: got %q, want nothing of the one that was in another slot", got)
	}
	c.AwaitReady(1)
	c.AwaitReady(2)
	if why := c.Spoiled(); why != "" {
		t.Errorf("the machine is said to be spoiled: %q; want it to be as it was", why)
	}
}

func TestAChangeOutsideOfTheSlotsCondemnsTheContainer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ script, want string }{
		"a file of the image":      {"echo 127.0.0.1 mine >> /mnt/etc/hosts", "/mnt/etc/hosts"},
		"a mount":                  {"mount -t tmpfs none /mnt/etc", "mounted"},
		"a mount in its directory": {"mkdir m && mount --bind /mnt/etc m", "mounted"},
		"the agent's directory":    {"cd ../.. && mv $PWD $PWD.away && mkdir $PWD", "not the one"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newContainer(t, 2)
			one := c.Give(1, shell(`echo $$; while [ ! -e /tmp/go ]; do sleep 0.02; done; sleep 0.1; cat /mnt/etc/hosts; echo end`))
			c.printed(one)
			attempt := c.Give(2, shell(test.script+" && touch /tmp/go"))
			if result, _ := c.result(attempt); result.Outcome != wire.Succeeded {
				t.Fatalf("%q: got %+v, want success", test.script, result)
			}
			c.AwaitOver(2)
			if why := c.Spoiled(); !strings.Contains(why, test.want) {
				t.Errorf("why the machine cannot be used again: got %q, want %q in it", why, test.want)
			}
			if result, printed := c.result(one); result.Outcome != wire.Succeeded || !strings.HasSuffix(printed, "end\n") {
				t.Errorf("the job in the other slot: got %+v and output %q, want it to go on to its end", result, printed)
			}
			if got := c.exit(); got != agent.ExitNotOurs {
				t.Errorf("the agent ended with %d, want %d", got, agent.ExitNotOurs)
			}
		})
	}
}

func TestSharedMemoryOfAJobCondemnsTheContainerWhenNoOtherJobMayHaveIt(t *testing.T) {
	t.Parallel()
	c := newContainer(t, 2)
	one := c.Give(1, shell(steady))
	c.printed(one)
	c.say(t, 2, "/proc/$PPID/exe leave-shared-memory")
	c.AwaitReady(2) // it may be that of the job in the other slot
	c.say(t, 2, "touch /tmp/go")
	c.result(one)
	if c.exit(); !strings.Contains(c.Spoiled(), "System V") {
		t.Errorf("why the machine cannot be used again: got %q, want the shared memory that was left", c.Spoiled())
	}
}

func TestAContainerWithOneSlotIsMadeAsItWas(t *testing.T) {
	t.Parallel()
	c := newContainer(t, 1)
	for range 2 {
		if got := c.say(t, 1, "pwd; ls -A; ls /tmp | grep -v dayfly-; touch mine /tmp/mine; chmod 700 /tmp"); got != "/mnt/work\n" {
			t.Errorf("where a job is and what it finds there: got %q, want the working directory that the agent was given, and nothing", got)
		}
	}
	if got := c.say(t, 1, "stat -c %a /tmp"); got != "1777\n" {
		t.Errorf("the mode of /tmp, which a job has changed: got %q, want what it was", got)
	}
	c.say(t, 1, "touch /mnt/etc/mine")
	if c.exit(); !strings.Contains(c.Spoiled(), "/mnt/etc/mine") {
		t.Errorf("why the machine cannot be used again: got %q, want the file that was left", c.Spoiled())
	}
}

func TestSIGTERMEndsAllSlotsAndWhatTheyRun(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	m := home.AddMachine(2)
	temp := t.TempDir()
	c := program(t, append(agentEnv(m.Boot), "TMPDIR="+temp), "run", "--work", t.TempDir())
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []string
	for k := 1; k <= 2; k++ {
		attempt := m.Give(k, shell(`trap "" TERM; setsid sleep 3600 & echo $! $$; while :; do sleep 0.1; done`))
		a := home.Await(attempt, "it runs", func(a memhome.Attempt) bool { return len(a.Streams[wire.Stdout].Data) > 0 })
		pids = append(pids, strings.Fields(string(a.Streams[wire.Stdout].Data))...)
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := exitCode(c.Wait()); got != agent.ExitNotOurs {
		t.Errorf("exit %d, want %d", got, agent.ExitNotOurs)
	}
	for _, pid := range pids {
		if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") {
			t.Errorf("process %s is alive: %s", pid, stat)
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left in the agent's temporary directory: %v, %v", left, err)
	}
}

func TestAMachineOfThisComputerHasJobsInItsSlots(t *testing.T) {
	t.Parallel()
	home, provider, dir := newLocal(t)
	m := home.AddMachine(2)
	spec := &machine.Spec{Name: "divided", Owner: "tests", Lifetime: machine.MaxLifetime, Agent: &m.Boot}
	made, err := provider.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	meet := t.TempDir()
	meeting := fmt.Sprintf(`pwd; echo $TMPDIR; ls -A . $TMPDIR; touch mine $TMPDIR/mine %[1]s/$DAYFLY_JOB_ID; while [ $(ls %[1]s | wc -l) -lt 2 ]; do sleep 0.01; done`, meet)
	attempts := []string{m.Give(1, shell(meeting)), m.Give(2, shell(meeting))}
	var dirs []string
	for i, attempt := range attempts {
		a := home.Await(attempt, "it has a result", func(a memhome.Attempt) bool { return a.Result != nil })
		printed := string(a.Streams[wire.Stdout].Data)
		if a.Result.Outcome != wire.Succeeded || strings.Contains(printed, "mine") {
			t.Errorf("the job in slot %d: got %+v and output %q, want success in empty directories", i+1, a.Result, printed)
		}
		dirs = append(dirs, strings.Fields(printed)[:2]...)
		m.AwaitReady(i + 1)
	}
	if slices.Sort(dirs); len(slices.Compact(slices.Clone(dirs))) != 4 {
		t.Errorf("the directories of two jobs: got %q, want four", dirs)
	}
	for _, used := range dirs {
		if left, err := os.ReadDir(used); err != nil || len(left) > 0 {
			t.Errorf("%s when its slot is ready again: got %v and error %v, want it empty", used, left, err)
		}
	}

	// Its supervisor is killed under two jobs.
	var pids []string
	for k := 1; k <= 2; k++ {
		attempt := m.Give(k, shell(`(setsid env -i sh -c 'echo $$ > daemon; exec sleep 3600' &); while [ ! -s daemon ]; do sleep 0.01; done; echo $$ $(cat daemon); exec sleep 3600`))
		a := home.Await(attempt, "it runs", func(a memhome.Attempt) bool { return bytes.HasSuffix(a.Streams[wire.Stdout].Data, []byte("\n")) })
		pids = append(pids, strings.Fields(string(a.Streams[wire.Stdout].Data))...)
	}
	endSupervisors(t, dir, syscall.SIGKILL)
	if err := provider.Destroy(t.Context(), made.ID); err != nil {
		t.Errorf("Destroy of a machine whose supervisor is dead: got error %v, want nil", err)
	}
	for _, pid := range pids {
		if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") {
			t.Errorf("process %s is alive: %s", pid, stat)
		}
	}
	if slots, err := filepath.Glob(filepath.Join(dir, "supervisors", "*", "slots", "*")); err != nil || len(slots) > 0 {
		t.Errorf("directories of machines: got %v and error %v, want none", slots, err)
	}
}
