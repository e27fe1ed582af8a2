//go:build linux

package survival_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
)

// task is the usual job of these tests: it notes its start in the ledger, says how far it is, prints numbered lines on
// both outputs with a pause after each, notes its end and exits.
type task struct {
	lines int // with 20 ms between two
	exit  int
}

// The exit code of a task is one that is not retried, so a second attempt is always one that should not be.
const taskExit = 7

const taskScript = `
echo "start $DAYFLY_JOB_ID $DAYFLY_ATTEMPT $$ $PPID" >> "$LEDGER"
echo "0.5 half" > "$DAYFLY_PROGRESS"
i=1
while [ $i -le $1 ]; do
	echo "line $i"
	echo "note $i" >&2
	sleep 0.02
	i=$((i+1))
done
echo "end $DAYFLY_JOB_ID $DAYFLY_ATTEMPT $$ $PPID" >> "$LEDGER"
exit $2
`

// spec returns the task as a job.
func (in *installation) spec(k task) *dayfly.JobSpec {
	return in.shell(taskScript, strconv.Itoa(k.lines), strconv.Itoa(k.exit))
}

// shell returns a job that runs a shell script with these arguments.
func (in *installation) shell(script string, args ...string) *dayfly.JobSpec {
	return in.command(append([]string{"/bin/sh", "-c", script, "sh"}, args...)...)
}

// command returns a job with three attempts and short waits between them.
func (in *installation) command(argv ...string) *dayfly.JobSpec {
	return &dayfly.JobSpec{
		Name:    strings.ReplaceAll(in.t.Name(), "/", " "),
		Command: argv,
		Env:     map[string]string{"LEDGER": in.ledgerFile()},
		Retry: dayfly.Retry{MaxAttempts: 3, MaxLaunches: 20, NonRetryableExits: []int{taskExit},
			BackoffMin: dayfly.Duration(10 * time.Millisecond), BackoffMax: dayfly.Duration(100 * time.Millisecond)},
		Timeouts: dayfly.Timeouts{Run: dayfly.Duration(2 * time.Minute), Grace: dayfly.Duration(time.Second)},
	}
}

// output returns what a task prints.
func (k task) output() (stdout, stderr []byte) {
	for i := range k.lines {
		stdout = fmt.Appendf(stdout, "line %d\n", i+1)
		stderr = fmt.Appendf(stderr, "note %d\n", i+1)
	}
	return stdout, stderr
}

// submit submits a job, repeating that while the server is away, and returns it once it is acknowledged.
func (in *installation) submit(spec *dayfly.JobSpec) *dayfly.Job {
	in.t.Helper()
	job, err := in.client.Submit(in.t.Context(), spec, nil)
	if err != nil {
		in.t.Fatalf("submit: %v", err)
	}
	return job
}

// job returns the job as the server knows it.
func (in *installation) job(id string) *dayfly.Job {
	in.t.Helper()
	job, err := in.client.Job(in.t.Context(), id)
	if err != nil {
		in.t.Fatalf("reading job %s: %v", id, err)
	}
	return job
}

// patience is how long a job of these tests may take at most.
const patience = 45 * time.Second

// ended waits until a job has ended.
func (in *installation) ended(id string) *dayfly.Job {
	in.t.Helper()
	return in.reaches(id, func(job *dayfly.Job) bool { return job.State.Terminal() })
}

// reaches waits until a job is as wanted.
func (in *installation) reaches(id string, wanted func(*dayfly.Job) bool) *dayfly.Job {
	in.t.Helper()
	var job *dayfly.Job
	eventually(in.t, patience, "job "+id+" gets on", func() error {
		if job = in.job(id); wanted(job) {
			return nil
		}
		why, err := in.client.Why(in.t.Context(), id)
		if err != nil {
			return err
		}
		return fmt.Errorf("it is %s: %s", job.State, strings.Join(why.Answers, " "))
	})
	return job
}

// running waits until the command of a job runs.
func (in *installation) running(id string) entry {
	in.t.Helper()
	var first entry
	eventually(in.t, patience, "the command of job "+id+" runs", func() error {
		starts := in.entries("start", id)
		if len(starts) == 0 {
			return fmt.Errorf("the ledger does not know it, and the server says that it is %s", in.job(id).State)
		}
		first = starts[0]
		return nil
	})
	return first
}

// entry is a line of the ledger.
type entry struct {
	what    string // start or end
	job     string
	attempt int
	pid     int // of the command
	parent  int // of the command's parent, its supervisor
}

func (in *installation) ledgerFile() string { return filepath.Join(in.files, "ledger") }

// entries returns what the ledger says: all entries of a kind and a job, or of any job if that is "".
func (in *installation) entries(what, job string) []entry {
	in.t.Helper()
	text, err := os.ReadFile(in.ledgerFile())
	if err != nil && !os.IsNotExist(err) {
		in.t.Fatal(err)
	}
	var found []entry
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break // it is just being written, and of a line at the end of a page the first half can be read before
		}
		var e entry
		if _, err := fmt.Sscanf(line, "%s %s %d %d %d", &e.what, &e.job, &e.attempt, &e.pid, &e.parent); err != nil {
			in.t.Fatalf("the ledger has a line %q: %v", line, err)
		}
		if e.what == what && (job == "" || e.job == job) {
			found = append(found, e)
		}
	}
	return found
}

// printed returns what an attempt of a job printed on a stream. A byte that is missing fails the test.
func (in *installation) printed(id string, attempt int, stream string) []byte {
	in.t.Helper()
	output, gaps := in.output(id, attempt, stream)
	for _, gap := range gaps {
		in.t.Errorf("%s of job %s: %d bytes are missing at %d: %s", stream, id, gap.Gap, gap.Offset, gap.Why)
	}
	return output
}

// output returns what an attempt of a job printed on a stream, and the records of what is missing.
func (in *installation) output(id string, attempt int, stream string) (data []byte, gaps []dayfly.LogRecord) {
	in.t.Helper()
	next := int64(0)
	for record, err := range in.client.Logs(in.t.Context(), id, &dayfly.LogOptions{Stream: stream, Attempt: attempt}) {
		if err != nil {
			in.t.Fatalf("reading %s of job %s: %v", stream, id, err)
		}
		if record.Offset != next {
			in.t.Fatalf("%s of job %s: got a record at offset %d, want it at %d", stream, id, record.Offset, next)
		}
		next += int64(len(record.Data)) + record.Gap
		data = append(data, record.Data...)
		if record.Gap > 0 {
			gaps = append(gaps, record)
		}
	}
	return data, gaps
}

// outcome is how a job has to end.
type outcome struct {
	state    dayfly.State
	reason   dayfly.Reason
	exit     int // -1: none
	attempts int // of which user code has started
}

// did is the outcome of a task: it ended with its own exit code, in its first and only attempt.
func (k task) did() outcome {
	if k.exit == 0 {
		return outcome{state: dayfly.Succeeded, exit: 0, attempts: 1}
	}
	return outcome{dayfly.Failed, dayfly.ReasonExitNonzero, k.exit, 1}
}

// check compares a job that has ended with how it has to have ended, and with what is true of every job.
func (in *installation) check(id string, want outcome) *dayfly.Job {
	in.t.Helper()
	job := in.ended(id)
	exit := -1
	if job.ExitCode != nil {
		exit = *job.ExitCode
	}
	if job.State != want.state || job.Reason != want.reason || exit != want.exit {
		in.t.Errorf("job %s: got %s, reason %q, exit code %d (%s), want %s, reason %q, exit code %d",
			id, job.State, job.Reason, exit, job.Message, want.state, want.reason, want.exit)
	}
	in.checkAttempts(job, want.attempts)
	in.checkEvents(job)
	return job
}

// checkAttempts holds a job's attempts against the ledger: each has started its command at most once, one whose
// command never ran counts for nothing, and there are as many of the others as there should be.
func (in *installation) checkAttempts(job *dayfly.Job, want int) {
	in.t.Helper()
	starts := map[int]int{}
	for _, e := range in.entries("start", job.ID) {
		starts[e.attempt]++
	}
	got := 0
	for i, a := range job.Attempts {
		if a.Number != i+1 || !a.State.Terminal() {
			in.t.Errorf("job %s: got attempt %d in place %d, %s, want it in order and ended", job.ID, a.Number, i+1, a.State)
		}
		if starts[a.Number] > 1 {
			in.t.Errorf("job %s: the command was started %d times in attempt %d, want at most once", job.ID, starts[a.Number], a.Number)
		}
		if a.State == dayfly.AttemptNeverStarted || a.State == dayfly.AttemptCanceled && starts[a.Number] == 0 {
			if starts[a.Number] > 0 {
				in.t.Errorf("job %s: attempt %d is %s, but its command ran", job.ID, a.Number, a.State)
			}
			continue
		}
		got++
		delete(starts, a.Number)
	}
	if got != want {
		in.t.Errorf("job %s: got %d attempts that may have run its command, want %d: %s", job.ID, got, want, attemptsOf(job))
	}
	for number := range starts {
		in.t.Errorf("job %s: the command ran in attempt %d, which the server does not count: %s", job.ID, number, attemptsOf(job))
	}
}

// checkEvents makes sure that a job's events have no gap and end it exactly once.
func (in *installation) checkEvents(job *dayfly.Job) {
	in.t.Helper()
	var last int64
	ends := 0
	for e, err := range in.client.Events(in.t.Context(), job.ID, 0) {
		if err != nil {
			in.t.Fatalf("reading the events of job %s: %v", job.ID, err)
		}
		if last++; e.Seq != last {
			in.t.Fatalf("job %s: got event %d, want %d", job.ID, e.Seq, last)
		}
		if e.State.Terminal() {
			ends++
			if e.State != job.State {
				in.t.Errorf("job %s: its last event says %s, want %s", job.ID, e.State, job.State)
			}
		}
	}
	if ends != 1 {
		in.t.Errorf("job %s: got %d events that end it, want 1", job.ID, ends)
	}
}

// checkTask checks a task that has to have run to its end once: its outcome and every byte that it printed.
func (in *installation) checkTask(id string, k task) {
	in.t.Helper()
	job := in.check(id, k.did())
	i := slices.IndexFunc(job.Attempts, func(a dayfly.Attempt) bool { return a.State != dayfly.AttemptNeverStarted })
	if i < 0 {
		return // check has complained
	}
	stdout, stderr := k.output()
	for stream, want := range map[string][]byte{"stdout": stdout, "stderr": stderr} {
		if got := in.printed(id, i+1, stream); !bytes.Equal(got, want) {
			in.t.Errorf("%s of job %s: got %d bytes %.200q, want %d bytes %.200q", stream, id, len(got), got, len(want), want)
		}
	}
}

// attemptsOf tells a job's attempts in one line.
func attemptsOf(job *dayfly.Job) string {
	var text []string
	for _, a := range job.Attempts {
		text = append(text, fmt.Sprintf("%d %s %s (%s)", a.Number, a.State, a.Reason, a.Message))
	}
	return strings.Join(text, "; ")
}
