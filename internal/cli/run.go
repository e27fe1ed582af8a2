package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// runFlags are the flags of dayfly run.
type runFlags struct {
	on, image, size   string
	pool              string
	bare, ownAgent    bool
	in, out           []string
	outDir            string
	env, labels       []string
	timeout           time.Duration
	keep              time.Duration
	retries, priority int
	name, queue       string
	payload           string
	detach, raw       bool
	quiet, verbose    bool
	dryRun            bool
	maxCost           string
}

func (p *program) runCommand() *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG]...",
		Short: "Run a command on a machine of its own and bring back what it made",
		Long: `Runs a command as a job on a machine that lives only as long as the job.

The files given with --in are put into the job's working directory, which holds nothing else. They arrive without the
executable bit, and so do files that come back: run a script by its interpreter, and pack programs with tar.

What the command prints is printed here as it is printed there: its standard output to standard output, its standard
error to standard error. The files that match --out come back into the current directory, checked against their
SHA-256. The exit code is the command's own.

No shell is involved unless you name one:

  dayfly run -- sh -c 'sort words | uniq'

Exit codes other than the command's own:

  124      a time limit of the job passed, or what it may cost was used up
  125      Dayfly could not run it, or not bring home all its files and output
  126      the command cannot be executed
  127      the command does not exist
  128+N    signal N ended the command (137: SIGKILL, also for want of memory)
  130      the job was canceled

Ctrl-C asks whether to cancel the job or to leave it running; Ctrl-C again cancels it. Without a terminal, SIGINT and
SIGTERM cancel it. When the terminal goes away, the job runs on.

With --detach the job's id is printed, and the command ends when the job has begun. Without a server, what has to wait,
for room or for another attempt of --retries, then waits for the next dayfly command, or dayfly serve.

When standard output is a terminal, what the command prints is shown without the control characters that could act on
your terminal; colors stay, and a progress line becomes a line each. --raw passes everything through. Into a pipe or a
file every byte goes unchanged, up to what the server keeps of one attempt, which is 64 MiB unless limits.output_mb says
otherwise. When more was printed the exit code is 125. Large results belong in a file that --out brings home.`,
		Example: `  dayfly run -- echo hello
  dayfly run --in song.wav --out song.mp3 -- ffmpeg -i song.wav -b:a 192k song.mp3
  dayfly run --in data:input --in analyze.py --out 'results/**' --timeout 10m \
      -- python3 analyze.py input results
  dayfly run --on fly:ams,fly:fra,docker --image debian:12 -- uname -a
  dayfly run --on docker --bare --image nginx:1.29 -- nginx -t
  dayfly run --detach --label nightly=yes -- rsync -a /srv/data /mnt/backup
  tar c src | dayfly run --in -:src.tar --out app.tar \
      -- sh -c 'tar x <src.tar && make -C src && tar c -C src app >app.tar'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && !f.bare && !f.ownAgent {
				return usage(cmd, "there is no command to run; it comes after --, as in: %s", p.typed("run -- echo hello"))
			}
			return p.run(cmd, f, args)
		},
	}
	f.register(cmd)
	return cmd
}

func (f *runFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows the command's first word is the command's
	flags.StringArrayVar(&f.in, "in", nil, "a file or directory to give it: `PATH[:NAME]`, or -:NAME for standard input")
	flags.StringArrayVar(&f.out, "out", nil, "files to bring back: a `GLOB`, where ** is any number of directories")
	flags.StringVar(&f.outDir, "out-dir", ".", "the `DIR` to bring them back to")
	flags.StringArrayVar(&f.env, "env", nil, "an environment variable: `K=V`, or K to pass this shell's on")
	flags.StringVar(&f.payload, "payload", "", "`JSON` for the file that DAYFLY_INPUT names; @FILE reads it, @- from standard input")
	flags.DurationVar(&f.timeout, "timeout", 0, "how long the command may run: a `TIME` such as 10m (default 1h)")
	flags.DurationVar(&f.keep, "keep-on-failure", 0, "keep its machine after a failure, to look at with dayfly shell: a `TIME` up to 24h")
	flags.IntVar(&f.retries, "retries", 0, "how often to try again when it fails: `N`")
	flags.BoolVar(&f.detach, "detach", false, "do not wait for its end; print the job's id")
	flags.StringVar(&f.name, "name", "", "a `NAME` for people (default: the command's)")
	flags.StringArrayVar(&f.labels, "label", nil, "a mark to find it by: `K=V`")
	flags.StringVar(&f.queue, "queue", "", "the `QUEUE` to wait in (default: default)")
	flags.IntVar(&f.priority, "priority", 0, "`N` from -1000 to 1000: higher runs first")
	flags.StringVar(&f.on, "on", "", "the `PROVIDER` to run it on, or several to try in turn, with regions: fly:ams,docker (default: the server's)")
	flags.StringVar(&f.pool, "pool", "", "the `POOL` of warm machines to run it on: no boot when one is idle (default: the queue's)")
	flags.StringVar(&f.size, "size", "", "the `SIZE` of the machine, such as shared-cpu-1x")
	flags.StringVar(&f.image, "image", "", "the `IMAGE` to run it in, for providers that have images")
	flags.BoolVar(&f.bare, "bare", false, "run the image as it is, without Dayfly's agent; the command is its entrypoint's arguments")
	flags.BoolVar(&f.ownAgent, "own-agent", false, "the image's entrypoint is an agent itself, such as a script with curl")
	flags.StringVar(&f.maxCost, "max-cost", "", "the most that all attempts together may cost: `USD` such as 0.50")
	flags.BoolVar(&f.dryRun, "dry-run", false, "run nothing; say where it would run and what it can cost at most")
	flags.BoolVar(&f.raw, "raw", false, "pass control characters through to the terminal")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "no summary, no progress")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "a summary also when standard error is not a terminal")
	cmd.MarkFlagsMutuallyExclusive("quiet", "verbose")
	cmd.MarkFlagsMutuallyExclusive("dry-run", "detach")
	cmd.MarkFlagsMutuallyExclusive("bare", "own-agent")
	complete(cmd, "size", machine.Presets()...)
	complete(cmd, "on", "local")
}

// complete offers fixed words for a flag.
func complete(cmd *cobra.Command, flag string, words ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // there is no flag of that name: a mistake in this program
	}
}

// spec is the job the flags describe.
func (f *runFlags) spec(cmd *cobra.Command, command []string, stdin io.Reader) (*dayfly.JobSpec, error) {
	spec := &dayfly.JobSpec{
		Name: f.name, Command: command, Provider: f.on, Pool: f.pool, Image: f.image, Size: f.size, Bare: f.bare, OwnAgent: f.ownAgent,
		Queue: f.queue, Priority: f.priority,
	}
	if f.timeout < 0 {
		return nil, usage(cmd, "--timeout: %v is negative", f.timeout)
	}
	if f.timeout == 0 && cmd.Flags().Changed("timeout") {
		return nil, usage(cmd, "--timeout: every job has a limit; give one, such as 24h, or leave the flag out for one hour")
	}
	if err := f.oneReader(cmd); err != nil {
		return nil, err
	}
	if f.retries < 0 || f.retries > 99 {
		return nil, usage(cmd, "--retries: %d is not between 0 and 99", f.retries)
	}
	if f.size != "" {
		if _, err := machine.ParseSize(f.size); err != nil {
			return nil, usage(cmd, "--size: %q is not a size; the sizes are %s", f.size, strings.Join(machine.Presets(), ", "))
		}
	}
	if cmd.Flags().Changed("max-cost") {
		if err := spec.MaxCost.UnmarshalText([]byte(f.maxCost)); err != nil || spec.MaxCost == 0 {
			return nil, usage(cmd, "--max-cost: %q is not an amount of US dollars such as 0.50, from 0.000001 up", f.maxCost)
		}
	}
	if f.keep < 0 || f.keep > 24*time.Hour {
		return nil, usage(cmd, "--keep-on-failure: %v is not between 0 and 24h", f.keep)
	}
	spec.KeepOnFailure = dayfly.Duration(f.keep)
	spec.Timeouts.Run = dayfly.Duration(f.timeout)
	if f.retries > 0 {
		spec.Retry.MaxAttempts = f.retries + 1
	}
	if info, err := os.Stat(f.outDir); err == nil && !info.IsDir() {
		return nil, usage(cmd, "--out-dir: %s is not a directory", f.outDir)
	}
	for _, pattern := range f.out {
		if err := checkPattern(pattern); err != nil {
			return nil, fault.Say(fault.Invalid, "--out: %v", err)
		}
		spec.Outputs = append(spec.Outputs, path.Clean(pattern))
	}
	var err error
	if spec.Env, err = f.environment(cmd); err != nil {
		return nil, err
	}
	if spec.Labels, err = pairs(cmd, "--label", f.labels); err != nil {
		return nil, err
	}
	spec.Payload, err = readPayload(cmd, f.payload, stdin)
	return spec, err
}

// oneReader refuses to read standard input twice: the second time there would be nothing.
func (f *runFlags) oneReader(cmd *cobra.Command) error {
	var readers []string
	for _, flag := range f.in {
		if source, _ := splitInput(flag); source == "-" {
			readers = append(readers, "--in "+flag)
		}
	}
	if f.payload == "@-" {
		readers = append(readers, "--payload @-")
	}
	if len(readers) > 1 {
		return usage(cmd, "%s would each read standard input, which can be read once", strings.Join(readers, " and "))
	}
	return nil
}

// environment resolves the --env flags: K=V, or K for the value it has here.
func (f *runFlags) environment(cmd *cobra.Command) (map[string]string, error) {
	var given []string
	for _, pair := range f.env {
		if !strings.Contains(pair, "=") {
			value, ok := os.LookupEnv(pair)
			if !ok {
				return nil, usage(cmd, "--env: %s is not set here; give it a value with --env %s=VALUE", pair, pair)
			}
			pair += "=" + value
		}
		given = append(given, pair)
	}
	return pairs(cmd, "--env", given)
}

// pairs splits K=V flags.
func pairs(cmd *cobra.Command, flag string, given []string) (map[string]string, error) {
	if len(given) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(given))
	for _, pair := range given {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, usage(cmd, "%s: %q has not the form KEY=VALUE", flag, pair)
		}
		m[key] = value
	}
	return m, nil
}

// maxPayload is the largest payload the server takes, in bytes.
const maxPayload = 256 << 10

func readPayload(cmd *cobra.Command, flag string, stdin io.Reader) (json.RawMessage, error) {
	data := []byte(flag)
	if name, isFile := strings.CutPrefix(flag, "@"); isFile {
		from := stdin
		if name != "-" {
			file, err := os.Open(name)
			if err != nil {
				return nil, usage(cmd, "--payload: %v", err)
			}
			defer file.Close()
			from = file
		}
		var read bytes.Buffer
		if _, err := copyUnder(cmd.Context(), &read, io.LimitReader(from, maxPayload+1)); err != nil {
			if cmd.Context().Err() != nil {
				return nil, err
			}
			return nil, usage(cmd, "--payload: %v", err)
		}
		data = read.Bytes()
	}
	if len(data) == 0 {
		return nil, nil
	}
	if len(data) > maxPayload {
		return nil, usage(cmd, "--payload: more than %d bytes; give large data as a file with --in", maxPayload)
	}
	if !json.Valid(data) {
		return nil, usage(cmd, "--payload: that is not JSON; a text is written with quotes: '\"text\"'")
	}
	return data, nil
}

// run carries out dayfly run.
func (p *program) run(cmd *cobra.Command, f *runFlags, command []string) (err error) {
	spec, err := f.spec(cmd, command, p.in)
	if err != nil {
		return err
	}
	inputs, err := collectInputs(cmd.Context(), f.in, p.in)
	if err != nil {
		return err
	}
	defer closeInputs(inputs)
	for _, in := range inputs {
		spec.Inputs = append(spec.Inputs, dayfly.InputSpec{Name: in.name})
	}
	c, err := p.connect()
	if err != nil {
		return err
	}
	if c.local != nil {
		c.local.prepare = !f.dryRun
	}
	defer func() {
		if closeErr := c.close(); closeErr != nil && err == nil {
			err = closeErr
		}
	}()

	if f.dryRun {
		return p.dryRun(cmd.Context(), c, spec)
	}
	// From here on a signal does not end this process: it ends the job, or our watching it.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Context().Err(); err != nil { // one came before
		return err
	}
	// Nor does output that nobody reads any more: writing it fails instead, and then the job is canceled.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	defer signal.Stop(broken)
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(cmd.Context()))
	defer cancel(nil)

	r := &runner{p: p, c: c, f: f, cancel: cancel, summary: !f.quiet && !p.json && (p.errTTY || f.verbose)}
	heeding := make(chan struct{})
	go func() {
		defer close(heeding)
		r.heed(ctx, signals)
	}()
	defer func() {
		cancel(nil)
		<-heeding // it may have a question on the terminal
	}()
	return r.do(ctx, spec, inputs)
}

// runner is one dayfly run.
type runner struct {
	p       *program
	c       *connection
	f       *runFlags
	cancel  context.CancelCauseFunc // ends our watching, with one of the causes below
	summary bool
	talk    terminal

	job     *dayfly.Job // once submitted
	id      lateString  // its id, for the goroutine that heeds signals
	missing int64       // bytes of its output that could not be printed, because they were not kept
}

// The causes for which watching ends before the job does.
var (
	errDetached = errors.New("detached")
	errHungUp   = errors.New("the terminal has gone away")
	errGivenUp  = errors.New("interrupted")
)

// do submits the job and sees it through.
func (r *runner) do(ctx context.Context, spec *dayfly.JobSpec, inputs []input) error {
	var err error
	options := &dayfly.SubmitOptions{IdempotencyKey: rand.Text()}
	if r.job, err = r.c.Submit(ctx, spec, options); err != nil {
		if ctx.Err() != nil {
			return r.unsubmit(ctx, spec, options)
		}
		return r.explain(err)
	}
	r.id.set(r.job.ID)
	if len(inputs) > 0 {
		if err := r.upload(ctx, inputs); err != nil {
			return r.giveUp(ctx, err)
		}
		if _, err := r.c.Start(ctx, r.job.ID); err != nil {
			return r.giveUp(ctx, err)
		}
	}
	r.talk.enter(watching)
	if r.f.detach {
		return r.detached(ctx)
	}
	err = r.follow(ctx)
	r.talk.enter(downloading)
	if err != nil {
		return r.unwatched(ctx, err)
	}
	return r.finish(ctx)
}

// unsubmit cancels the job of a submission that was interrupted, if the server has made it. Submitting it again under the
// same key is how to find it.
func (r *runner) unsubmit(ctx context.Context, spec *dayfly.JobSpec, options *dayfly.SubmitOptions) error {
	cleanup, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer stop()
	job, err := r.c.Submit(cleanup, spec, options)
	if err == nil {
		r.job = job
		return r.giveUp(ctx, ctx.Err())
	}
	return &exitError{codeCanceled, errors.New("interrupted before the server had answered. If it got the job all the same, the job runs: " +
		"look with " + r.p.typed("jobs"))}
}

// unwatched ends the command before the job has ended.
func (r *runner) unwatched(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errDetached):
		return r.detached(context.WithoutCancel(ctx))
	case errors.Is(cause, errHungUp):
		return &exitError{codeSignal + int(syscall.SIGHUP), nil}
	case errors.Is(cause, errGivenUp):
		return &exitError{codeCanceled, fmt.Errorf("%s is being canceled", r.job.ID)}
	case errors.Is(err, errOutput):
		r.cancelJob(ctx, r.job.ID)
		r.see(ctx)
		if errors.Is(err, syscall.EPIPE) {
			return &exitError{codeSignal + int(syscall.SIGPIPE), nil}
		}
		return r.explain(fault.Say(fault.Internal, "%s was canceled, because its output could not be written here: %v", r.job.ID, reason(err)))
	}
	r.p.note("dayfly: %s may still run, but it can no longer be watched. To look again: %s", r.job.ID, r.p.typed("wait", r.job.ID))
	return r.explain(err)
}

// reason returns what the system said of a write that failed, without the names it was told with.
func reason(err error) error {
	if number, ok := errors.AsType[syscall.Errno](err); ok {
		return number
	}
	return err
}

// see waits a while for the job's end. A server inside this command has to be there to tell the machine.
func (r *runner) see(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, 15*time.Second)
	defer stop()
	_, _ = r.c.Wait(ctx, r.job.ID) // whatever comes of it, the wish to cancel is known
}

// giveUp cancels a job that could not be given its inputs, so that it does not wait for them for ever.
func (r *runner) giveUp(ctx context.Context, why error) error {
	interrupted := ctx.Err() != nil
	cleanup, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	if _, err := r.c.Cancel(cleanup, r.job.ID); err != nil && !errors.Is(err, fault.AlreadyFinished) {
		r.p.note("dayfly: %s has not got its inputs and could not be canceled: %s", r.job.ID, plain(err.Error()))
	}
	if interrupted {
		return &exitError{codeCanceled, fmt.Errorf("interrupted; %s was canceled", r.job.ID)}
	}
	return r.explain(why)
}

// explain adds nothing to an error that a person will understand, and gives it run's own exit code.
func (r *runner) explain(err error) error { return &exitError{codeNotRun, err} }

// detached says where the job is and how to get back to it.
func (r *runner) detached(ctx context.Context) error {
	if r.f.detach && !r.p.json {
		fmt.Fprintln(r.p.out, r.job.ID)
	}
	if err := r.p.launched(ctx, r.c, r.job.ID); err != nil {
		return r.explain(err)
	}
	if r.p.json {
		job, err := r.c.Job(ctx, r.job.ID)
		if err != nil {
			return r.explain(err)
		}
		return r.p.printJSON(job)
	}
	if r.summary || !r.f.detach {
		steps := []nextStep{
			{r.p.typed("logs -f", r.job.ID), "its output as it comes"},
			{r.p.typed("wait", r.job.ID), "until it ends"},
			{r.p.typed("cancel", r.job.ID), "end it now"},
		}
		if len(r.f.out) > 0 {
			steps = slices.Insert(steps, 2, nextStep{r.p.typed("download", r.job.ID), "its files, at the end"})
		}
		r.p.note("It runs on.")
		r.p.footer("Next:", steps)
	}
	return nil
}

// finish brings the outputs home, says how it went, and returns the job's exit code.
func (r *runner) finish(ctx context.Context) error {
	job := r.job
	downloaded, err := r.p.download(ctx, r.c, job.ID, job.Artifacts, r.f.outDir, r.summary)
	if r.p.json {
		if printErr := r.p.printJSON(job); printErr != nil && err == nil {
			err = printErr
		}
	}
	if r.summary {
		r.p.summarize(job, downloaded)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return &exitError{codeCanceled, fmt.Errorf("interrupted; its files are kept with the job: %s", r.p.typed("download", job.ID))}
	case err != nil:
		return r.explain(err)
	}
	code := exitCode(job)
	switch {
	case code == 0 && r.missing > 0:
		return r.explain(fault.Say(fault.TooLarge, "%s succeeded, but %d bytes of what it printed are missing here: the server keeps only so much of "+
			"the output of one attempt, and what comes after is lost. Let it write a large result to a file and bring that home with --out, "+
			"or raise limits.output_mb where the server is configured.", job.ID, r.missing))
	case code == 0:
		r.p.warn(job)
		return nil
	}
	return &exitError{code, r.p.verdict(job)}
}

// warn passes on what there is to say of a job that succeeded, such as that an output was not there.
func (p *program) warn(job *dayfly.Job) {
	if job.Message != "" {
		p.note("dayfly: %s: %s", job.ID, plain(job.Message))
	}
}

// verdict is what to say about a job that did not succeed: nothing, when all there is to say is the command's own
// exit code.
func (p *program) verdict(job *dayfly.Job) error {
	kept := slices.ContainsFunc(job.Attempts, func(a dayfly.Attempt) bool { return a.Machine.KeptUntil != nil })
	if job.Reason == dayfly.ReasonExitNonzero && !kept {
		return nil
	}
	message := job.Message
	if message == "" {
		message = fmt.Sprintf("the job is %s (%s)", job.State, job.Reason)
	}
	if word := strings.Join(job.Spec.Command[:min(1, len(job.Spec.Command))], ""); job.Reason == dayfly.ReasonCommandNotFound && strings.Contains(word, "/") && !path.IsAbs(word) {
		name := path.Clean(word)
		message += fmt.Sprintf(" The job's directory holds only what --in gives it, and files arrive without the executable bit; "+
			"a script is run by its interpreter, as in: %s", p.typed("run --in", name, "-- sh", name))
	}
	return fault.Say(fault.Internal, "%s: %s", job.ID, message)
}

// exitCode is the exit code that stands for how a job ended.
func exitCode(job *dayfly.Job) int {
	switch job.State {
	case dayfly.Succeeded:
		return 0
	case dayfly.Canceled:
		return codeCanceled
	case dayfly.Expired:
		return codeTimeout
	}
	switch job.Reason {
	case dayfly.ReasonTimeout, dayfly.ReasonDeadline, dayfly.ReasonQueueTimeout, dayfly.ReasonCostLimit:
		return codeTimeout
	case dayfly.ReasonOOMKilled:
		return codeSignal + int(syscall.SIGKILL)
	case dayfly.ReasonSignaled, dayfly.ReasonExitNonzero, dayfly.ReasonDiskFull, dayfly.ReasonCommandNotFound:
		if n := len(job.Attempts); n > 0 && job.Attempts[n-1].Signal != "" {
			return codeSignal + int(unix.SignalNum(job.Attempts[n-1].Signal))
		}
		if job.ExitCode != nil && *job.ExitCode > 0 {
			return *job.ExitCode
		}
	}
	return codeNotRun
}
