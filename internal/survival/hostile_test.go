//go:build linux

package survival_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/process"
)

// TestWhatAJobLeavesBehindIsRemoved runs jobs that end while something of them goes on.
func TestWhatAJobLeavesBehindIsRemoved(t *testing.T) {
	t.Parallel()
	in := install(t)
	in.start("")
	file := filepath.Join(in.files, "daemon")
	for name, script := range map[string]string{
		"children":  "sleep 600 & (sleep 600 & sleep 600 &) & nohup sleep 600 >/dev/null 2>&1 & exit 0",
		"a daemon":  strings.Join(helper(t, "daemon", file), " ") + " >/dev/null",
		"a stopped": "sleep 600 & kill -STOP $! & sleep 0.1; exit 0",
	} {
		job := in.submit(in.shell(ledgerLine("start") + "echo bye; " + script))
		in.check(job.ID, outcome{state: dayfly.Succeeded, attempts: 1})
		if got := string(in.printed(job.ID, 1, "stdout")); got != "bye\n" {
			t.Errorf("a job that leaves %s behind printed %q, want %q", name, got, "bye\n")
		}
	}
	in.gone(in.pidOnce(file))
	in.empty()
}

// pidOnce reads the process id of a process that need not live any more.
func (in *installation) pidOnce(file string) (pid int) {
	in.t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		_, err = fmt.Sscan(string(text), &pid)
	}
	if err != nil {
		in.t.Fatalf("the daemon has not begun, so that its end proves nothing: %v", err)
	}
	return pid
}

// TestAJobThatIgnoresSIGTERMIsKilledAfterItsGrace lets one run into its run timeout.
func TestAJobThatIgnoresSIGTERMIsKilledAfterItsGrace(t *testing.T) {
	t.Parallel()
	in := install(t)
	in.start("")
	spec := in.shell(`trap 'echo no' TERM; ` + ledgerLine("start") + "while :; do sleep 0.05; done")
	spec.Timeouts.Run, spec.Timeouts.Grace = dayfly.Duration(time.Second), dayfly.Duration(time.Second)
	spec.Retry.MaxAttempts = 1
	job := in.submit(spec)
	in.running(job.ID)
	began := time.Now()
	in.check(job.ID, outcome{state: dayfly.Failed, reason: dayfly.ReasonTimeout, exit: -1, attempts: 1})
	if took := time.Since(began); took < 1500*time.Millisecond || took > 4*time.Second {
		t.Errorf("it ended %v after its start, want about 2s: its timeout and its grace", took)
	}
	if got := string(in.printed(job.ID, 1, "stdout")); got != "no\n" {
		t.Errorf("it printed %q, want %q: it was told to stop once before it was killed", got, "no\n")
	}
	in.empty()
}

// TestAFloodOfOutputIsCutAndCostsNoMemory prints 1 GiB on one line, as fast as it goes, and then 200 MB/s for a while.
func TestAFloodOfOutputIsCutAndCostsNoMemory(t *testing.T) {
	t.Parallel()
	in := install(t)
	s := in.start("")
	const kept = 64 << 20
	for name, c := range map[string]struct{ size, perSecond int64 }{
		"1 GiB on one line": {1 << 30, 0},
		"200 MB/s":          {600 << 20, 200 << 20},
	} {
		spec := in.shell(ledgerLine("start")+`"$@"; code=$?; echo "the end" >&2; `+ledgerLine("end")+`exit $code`,
			helper(t, "flood", c.size, c.perSecond, taskExit)...)
		job := in.submit(spec)
		run := in.running(job.ID)
		var agent int64
		for len(in.entries("end", job.ID)) == 0 {
			agent = peakMemory(t, run.parent)
			pass(20 * time.Millisecond)
		}
		in.check(job.ID, outcome{dayfly.Failed, dayfly.ReasonExitNonzero, taskExit, 1})
		output, gaps := in.output(job.ID, 1, "stdout")
		missing := int64(0)
		for _, gap := range gaps {
			missing += gap.Gap
			if gap.Why == "" {
				t.Errorf("%s: %d bytes are missing at %d without a reason", name, gap.Gap, gap.Offset)
			}
		}
		if got := int64(len(output)) + missing; got != c.size {
			t.Errorf("%s: got %d bytes and %d on record as missing, want %d in all", name, len(output), missing, c.size)
		}
		if len(output) > kept || len(output) < kept/2 {
			t.Errorf("%s: %d bytes were kept, want nearly %d", name, len(output), kept)
		}
		if bytes.Trim(output, "x") != nil && len(bytes.Trim(output, "x")) > 0 {
			t.Errorf("%s: what was kept is not what was printed", name)
		}
		server := peakMemory(t, s.pid)
		t.Logf("%s: the server has used at most %d MiB, the agent %d MiB", name, server>>20, agent>>20)
		if most := int64(80 << 20); server > most || agent > most {
			t.Errorf("%s: the server used %d MiB and the agent %d MiB, want at most %d", name, server>>20, agent>>20, most>>20)
		}
	}
	in.empty()
}

// TestOutputIsKeptAsItIs prints everything that terminals, browsers and event streams could take for their own.
func TestOutputIsKeptAsItIs(t *testing.T) {
	t.Parallel()
	in := install(t)
	in.start("")
	const size = 200_000
	job := in.submit(in.command(helper(t, "chatter", size)...))
	ended := in.ended(job.ID)
	if ended.State != dayfly.Succeeded {
		t.Errorf("got %s, want succeeded: %s", ended.State, attemptsOf(ended))
	}
	if got, want := in.printed(job.ID, 1, "stdout"), babble(size); !bytes.Equal(got, want) {
		t.Errorf("got %d bytes of output, want %d; they begin to differ at %d", len(got), len(want), difference(got, want))
	}
	in.empty()
}

// TestJobsOfAMomentLoseNothing runs many jobs that have ended before anybody can look at them.
func TestJobsOfAMomentLoseNothing(t *testing.T) {
	t.Parallel()
	in := install(t)
	in.start("")
	const clients, each = 8, 25
	var group sync.WaitGroup
	for client := range clients {
		group.Go(func() {
			for i := range each {
				line, exit := fmt.Sprintf("job %d of client %d\n", i, client), i%3*taskExit
				spec := in.shell(`printf %s "$1"; exit $2`, line, fmt.Sprint(exit))
				spec.Retry.MaxAttempts = 1
				job, err := in.client.Submit(t.Context(), spec, nil)
				if err != nil {
					t.Errorf("submit: %v", err)
					return
				}
				if job, err = in.client.Wait(t.Context(), job.ID); err != nil {
					t.Errorf("wait: %v", err)
					return
				}
				if job.ExitCode == nil || *job.ExitCode != exit || len(job.Attempts) != 1 {
					t.Errorf("got job %s %s after %d attempts, want exit code %d after one: %s", job.ID, job.State, len(job.Attempts), exit, attemptsOf(job))
				}
				if got := string(in.printed(job.ID, 1, "stdout")); got != line {
					t.Errorf("got output %q, want %q", got, line)
				}
			}
		})
	}
	group.Wait()
	in.empty()
}

// TestACommandThatIsKilledFromOutsideIsToldApart kills a command with a signal that is nobody's business.
func TestACommandThatIsKilledFromOutsideIsToldApart(t *testing.T) {
	t.Parallel()
	in := install(t)
	in.start("")
	spec := in.shell(ledgerLine("start") + "exec sleep 600")
	spec.Retry.MaxAttempts = 1
	job := in.submit(spec)
	run := in.running(job.ID)
	if err := syscall.Kill(run.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	ended := in.check(job.ID, outcome{state: dayfly.Failed, reason: dayfly.ReasonSignaled, exit: -1, attempts: 1})
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the job ended %v after its command was killed, want at most 2s", took)
	}
	if got := ended.Attempts[0].Signal; got != "SIGKILL" {
		t.Errorf("got signal %q, want SIGKILL", got)
	}
	in.empty()
}

// TestACommandThatTakesTooMuchMemoryIsKilledAlone gives a command less memory than it wants.
func TestACommandThatTakesTooMuchMemoryIsKilledAlone(t *testing.T) {
	t.Parallel()
	host, err := process.NewHost(&process.Options{Prefix: fmt.Sprintf("dayfly-survival-%d", os.Getpid())})
	if err != nil {
		t.Fatal(err)
	}
	abilities := host.Abilities()
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	if !abilities.Memory {
		t.Skipf("this computer lets nobody limit the memory of a machine: %s", strings.Join(abilities.Why, " "))
	}
	in := install(t)
	in.start("")
	spec := in.shell(ledgerLine("start")+`exec "$@"`, helper(t, "hog", 1<<30)...)
	spec.MemoryMB = 64
	k := task{lines: 50, exit: taskExit}
	bystander := in.submit(in.spec(k))
	job := in.submit(spec)
	// Not tried again, although it has three attempts: the same memory would not suffice the next time either.
	in.check(job.ID, outcome{state: dayfly.Failed, reason: dayfly.ReasonOOMKilled, exit: -1, attempts: 1})
	in.checkTask(bystander.ID, k)
	in.empty()
}

// TestACommandThatFillsItsDiskHurtsNobodyElse gives a command less disk than it writes.
func TestACommandThatFillsItsDiskHurtsNobodyElse(t *testing.T) {
	t.Parallel()
	in := install(t)
	in.start("")
	for name, script := range map[string]string{
		"one large file":   "exec head -c 100000000 /dev/zero > file",
		"many small files": "i=0; while [ $i -lt 100000 ]; do head -c 1000000 /dev/zero > file$i || exit 1; i=$((i+1)); done",
	} {
		spec := in.shell(ledgerLine("start") + script)
		spec.DiskMB = 8
		spec.Retry.MaxAttempts = 1
		k := task{lines: 20, exit: taskExit}
		bystander := in.submit(in.spec(k))
		job := in.submit(spec)
		ended := in.ended(job.ID)
		if ended.State != dayfly.Failed || ended.Reason != dayfly.ReasonDiskFull {
			t.Errorf("%s: got %s, reason %q, want failed, disk_full: %s", name, ended.State, ended.Reason, attemptsOf(ended))
		}
		in.checkTask(bystander.ID, k)
	}
	in.empty()
}

// TestAForkBombIsHeldToItsLimit forks a tree that would have more than 20,000 processes, over and over, in a job that
// may have 64, beside a job that needs to fork as well.
func TestAForkBombIsHeldToItsLimit(t *testing.T) {
	t.Parallel()
	host, err := process.NewHost(nil)
	if err != nil {
		t.Fatal(err)
	}
	abilities := host.Abilities()
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	if !abilities.Processes {
		t.Skipf("this computer lets nobody limit the processes of a machine: %s", strings.Join(abilities.Why, " "))
	}
	in := install(t)
	in.start("")
	bomb := in.shell(`grow() { [ $1 -gt 0 ] && { grow $(($1-1)) & grow $(($1-1)) & }; exec sleep 600; }
		` + ledgerLine("start") + `grow 14 & while :; do sleep 0.05; done`)
	bomb.Processes, bomb.Retry.MaxAttempts = 64, 1
	job := in.submit(bomb)
	in.running(job.ID)
	most := 0
	eventually(t, patience, "the bomb has grown", func() error {
		if most = max(most, len(in.strangers())); most < 48 {
			return fmt.Errorf("there are %d processes", most)
		}
		return nil
	})
	k := task{lines: 20, exit: taskExit}
	beside := in.submit(in.spec(k))
	for !in.job(beside.ID).State.Terminal() {
		most = max(most, len(in.strangers()))
		pass(10 * time.Millisecond)
	}
	in.checkTask(beside.ID, k)
	if most > 64+5 { // the job beside it has some as well
		t.Errorf("there were %d processes, want at most the 64 of the bomb and those of the job beside it", most)
	}
	if said := string(in.printed(job.ID, 1, "stderr")); !strings.Contains(said, "fork") {
		t.Errorf("the bomb printed %.200q, want a shell's complaint that it cannot fork", said)
	}
	in.cancel(job.ID)
	if ended := in.ended(job.ID); ended.State != dayfly.Canceled {
		t.Errorf("the bomb's job is %s, want canceled: %s", ended.State, attemptsOf(ended))
	}
	in.empty()
}
