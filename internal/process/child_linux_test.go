package process_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

// output runs a script to its end and returns what it wrote.
func output(t *testing.T, group *process.Group, script string) string {
	t.Helper()
	p, file := start(t, group, "/", script)
	if exit, _ := p.Exit(); !exit.OK() {
		t.Fatalf("got %+v and %q, want success", exit, read(t, file))
	}
	return read(t, file)
}

func TestWhatAProcessIsGiven(t *testing.T) {
	t.Parallel()
	leak, err := unix.Open(os.DevNull, unix.O_RDONLY, 0) // without close-on-exec, as an inherited one would be
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)
	group := newGroup(t, newHost(t, false), machine.Size{})

	t.Run("ThreeDescriptors", func(t *testing.T) {
		// The fourth is the listing's own.
		if got := output(t, group, "exec ls /proc/self/fd"); got != "0\n1\n2\n3\n" {
			t.Errorf("got descriptors %q, want 0, 1 and 2", strings.Fields(got))
		}
	})
	t.Run("ItsEnvironmentAndTheMarker", func(t *testing.T) {
		got := strings.Fields(output(t, group, `tr '\0' '\n' < /proc/$$/environ`))
		if len(got) != 3 || got[0] != environment()[0] || got[1] != "DAYFLY_MACHINE=one" || !strings.HasPrefix(got[2], "DAYFLY_GROUP=dayfly-test-") {
			t.Errorf("got %q, want the given entry and the two of the group", got)
		}
	})
	t.Run("ItsOwnSession", func(t *testing.T) {
		got := strings.Fields(output(t, group, "cat /proc/$$/stat"))
		if got[0] != got[4] || got[0] != got[5] {
			t.Errorf("got pid %s, process group %s, session %s, want all the same", got[0], got[4], got[5])
		}
	})
	t.Run("NoNewPrivileges", func(t *testing.T) {
		if got := output(t, group, "grep NoNewPrivs /proc/self/status"); got != "NoNewPrivs:\t1\n" {
			t.Errorf("got %q, want 1", got)
		}
		if own := read(t, "/proc/self/status"); !strings.Contains(own, "NoNewPrivs:\t0\n") {
			t.Error("this process has lost privileges too")
		}
	})
	t.Run("NoCoreDumps", func(t *testing.T) {
		if got := output(t, group, "ulimit -H -c; grep -c 'core file size  *0  *0 ' /proc/$PPID/limits"); got != "0\n1\n" {
			t.Errorf("got a limit of %q, want 0, and that of this process to be so, from which every descendant has it", got)
		}
	})
	t.Run("LikelierToBeKilledThanItsSupervisor", func(t *testing.T) {
		if got := output(t, group, "sleep 0.1; cat /proc/$$/oom_score_adj"); got != "500\n" {
			t.Errorf("got %q, want 500", got)
		}
	})
	t.Run("AnEmptyInput", func(t *testing.T) {
		if got := output(t, group, "cat; echo end"); got != "end\n" {
			t.Errorf("got %q, want nothing to read", got)
		}
	})
	t.Run("BlockingPipes", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		p, err := group.Start(&process.Command{Argv: []string{"sh", "-c", "head -c 300000 /dev/zero"}, Env: environment(), Dir: "/", Stdout: w})
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		buf, total := make([]byte, 64<<10), 0
		for {
			n, err := r.Read(buf)
			total += n
			if err != nil {
				break
			}
		}
		if exit, _ := p.Exit(); !exit.OK() || total != 300000 {
			t.Errorf("got %d bytes and %+v, want 300000 and success", total, exit)
		}
	})
}

func TestTheSoftLimitOfDescriptorsIsThatOfTheSupervisorsParent(t *testing.T) {
	t.Parallel()
	// Go raises its own soft limit when it starts; a program that is given that one and uses select would break.
	supervisor := exec.Command("sh", "-c", `ulimit -S -n 512; exec "$0"`, os.Args[0])
	supervisor.Env = append(environment(), supervise+"=ulimit -S -n", "DAYFLY_TEST_PREFIX="+newPrefix(), "DAYFLY_TEST_SCAN=1")
	out, err := supervisor.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := supervisor.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = supervisor.Process.Kill()
		_ = supervisor.Wait()
	}()
	var limit int
	if _, err := fmt.Fscan(out, &limit); err != nil {
		t.Fatal(err)
	}
	if limit != 512 {
		t.Errorf("got a soft limit of %d, want 512", limit)
	}
}

func TestTheLimitOnProcessesHolds(t *testing.T) {
	t.Parallel()
	host := newHost(t, false)
	if !host.Abilities().Processes {
		t.Skipf("no pids controller: %v", host.Abilities().Why)
	}
	group := newGroup(t, host, machine.Size{Processes: 8})
	p, file := start(t, group, "/", `for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done; echo all`)
	exit, _ := p.Exit()
	if exit.OK() || strings.Contains(read(t, file), "all") {
		t.Errorf("got %+v and %q, want twelve children to be too many", exit, read(t, file))
	}
}

func TestTheLimitOnProcessorsHolds(t *testing.T) {
	t.Parallel()
	host := newHost(t, false)
	if !host.Abilities().CPU {
		t.Skipf("no cpu controller: %v", host.Abilities().Why)
	}
	group := newGroup(t, host, machine.Size{CPUs: 0.1})
	begin := time.Now()
	p, _ := start(t, group, "/", `i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done`)
	_, usage := p.Exit()
	if share := (usage.User + usage.System).Seconds() / time.Since(begin).Seconds(); share > 0.25 {
		t.Errorf("got a share of %.2f processors, want about 0.1", share)
	}
}

func TestAMemoryHogIsOOMKilled(t *testing.T) {
	t.Parallel()
	host := newHost(t, false)
	if !host.Abilities().Memory {
		t.Skipf("no memory controller: %v", host.Abilities().Why)
	}
	cases := []struct{ name, script string }{
		{"TheFirstProcess", `exec head -c 200m /dev/zero | exec tail`},
		{"ADaemonOfIt", `(setsid sh -c 'tail /dev/zero; echo > done' &); while [ ! -e done ]; do sleep 0.02; done; exit 9`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			group, err := host.Group("hog-"+strings.ToLower(c.name), machine.Size{MemoryMB: 32})
			if err != nil {
				t.Fatal(err)
			}
			p, _ := start(t, group, t.TempDir(), c.script)
			exit, _ := p.Exit()
			if !exit.OOMKilled || exit.OK() || exit.Message == "" {
				t.Errorf("got %+v, want OOMKilled and a sentence", exit)
			}
			if err := group.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := group.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("AKillByHandIsNot", func(t *testing.T) {
		group := newGroup(t, host, machine.Size{MemoryMB: 32})
		p, _ := start(t, group, "/", `kill -9 $$`)
		if exit, _ := p.Exit(); exit.OOMKilled || exit.Signal != "SIGKILL" {
			t.Errorf("got %+v, want SIGKILL and nothing about memory", exit)
		}
	})
}

func TestAProcessIsBornInsideItsLimits(t *testing.T) {
	t.Parallel()
	host := newHost(t, false)
	if !host.Abilities().Memory || !host.Abilities().Processes {
		t.Skipf("no controllers: %v", host.Abilities().Why)
	}
	group := newGroup(t, host, machine.Size{MemoryMB: 64, Processes: 20, CPUs: 1})
	for line := range strings.Lines(output(t, group, "cat /proc/self/cgroup")) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		limited := controllers == "memory" || controllers == "pids" || strings.HasPrefix(controllers, "cpu,") || controllers == "cpu" || controllers == ""
		if limited && !strings.HasSuffix(path, "/one") {
			t.Errorf("got cgroup %q for %q, want the group's", path, controllers)
		}
	}
	// The threads that fork have come back.
	for _, place := range host.Places() {
		if pids := strings.Fields(read(t, filepath.Join(place, "one", "cgroup.procs"))); len(pids) != 0 {
			t.Errorf("got processes %v in %s after the only one has ended", pids, place)
		}
	}
}

func TestDiskFullIsToldApart(t *testing.T) {
	t.Parallel()
	t.Run("AFileOverTheLimit", func(t *testing.T) {
		t.Parallel()
		group := newGroup(t, newHost(t, false), machine.Size{DiskMB: 4})
		p, _ := start(t, group, t.TempDir(), `sleep 0.1; exec head -c 8m /dev/zero > big`)
		if exit, _ := p.Exit(); !exit.DiskFull || exit.Signal != "SIGXFSZ" {
			t.Errorf("got %+v, want DiskFull by SIGXFSZ", exit)
		}
	})
	t.Run("AProgramThatIgnoresTheSignal", func(t *testing.T) {
		t.Parallel()
		group := newGroup(t, newHost(t, false), machine.Size{DiskMB: 4})
		p, _ := start(t, group, t.TempDir(), `trap "" XFSZ; sleep 0.1; head -c 8m /dev/zero > big`)
		if exit, _ := p.Exit(); !exit.DiskFull || exit.Code != 1 {
			t.Errorf("got %+v, want DiskFull and code 1", exit)
		}
	})
	t.Run("ManyFilesOverTheLimit", func(t *testing.T) {
		t.Parallel()
		group := newGroup(t, newHost(t, false), machine.Size{DiskMB: 4})
		p, _ := start(t, group, t.TempDir(), `i=0; while [ $i -lt 12 ]; do head -c 1m /dev/zero > f$i; i=$((i+1)); done; exec sleep 1000`)
		if exit, _ := p.Exit(); !exit.DiskFull || exit.Signal != "SIGKILL" || exit.Message == "" {
			t.Errorf("got %+v, want DiskFull by SIGKILL and a sentence", exit)
		}
	})
	t.Run("OnlyMeasuredDirectoriesCount", func(t *testing.T) {
		t.Parallel()
		group := newGroup(t, newHost(t, false), machine.Size{DiskMB: 4})
		counted := t.TempDir()
		group.Measure(counted)
		p, _ := start(t, group, t.TempDir(), fmt.Sprintf(`for i in 1 2 3; do head -c 3m /dev/zero > f$i; done; sleep 1; cp f1 f2 %s; exec sleep 1000`, counted))
		if exit, _ := p.Exit(); !exit.DiskFull {
			t.Errorf("got %+v, want DiskFull", exit)
		}
		if _, err := os.Stat(filepath.Join(counted, "f2")); err != nil {
			t.Errorf("it was killed for what does not count: %v", err)
		}
	})
	t.Run("AFullFileSystem", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
			t.Skipf("this user cannot mount: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		group := newGroup(t, newHost(t, false), machine.Size{})
		p, _ := start(t, group, dir, `head -c 3m /dev/zero > big`)
		if exit, _ := p.Exit(); !exit.DiskFull || exit.Code != 1 {
			t.Errorf("got %+v, want DiskFull and code 1", exit)
		}
		p, _ = start(t, group, dir, `rm big; exit 1`)
		if exit, _ := p.Exit(); exit.DiskFull {
			t.Errorf("got %+v, want a failure that has nothing to do with the disk", exit)
		}
	})
}
