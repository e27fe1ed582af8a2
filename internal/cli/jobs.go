package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

// states are the states a job can be in, in the order of its life.
func states() []string {
	return []string{
		string(dayfly.Created), string(dayfly.Scheduled), string(dayfly.Queued), string(dayfly.Starting), string(dayfly.Running),
		string(dayfly.Succeeded), string(dayfly.Failed), string(dayfly.Canceled), string(dayfly.Expired),
	}
}

// with runs a command's work on a connection that is closed afterwards.
func (p *program) with(cmd *cobra.Command, work func(ctx context.Context, c *connection) error) (err error) {
	c, err := p.connect()
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := c.close(); closeErr != nil && err == nil {
			err = closeErr
		}
	}()
	err = work(cmd.Context(), c)
	if cmd.Context().Err() != nil && errors.Is(err, fault.Unavailable) {
		return cmd.Context().Err() // who ends the waiting for a server knows that it does not answer
	}
	return err
}

func (p *program) jobsCommand() *cobra.Command {
	var q struct {
		states, labels []string
		queue, name    string
		limit          int
		watch          bool
		cost           bool
	}
	cmd := &cobra.Command{
		Use:   "jobs",
		Short: "List jobs, newest first",
		Long: `Lists jobs, newest first. Filters narrow the list: several --state mean any of them, several --label all of them.

With --json each job is printed on a line of its own.`,
		Example: `  dayfly jobs
  dayfly jobs --state failed --limit 5
  dayfly jobs --label nightly=yes --json | jq -r .id`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := &dayfly.Query{Queue: q.queue, Name: q.name, Limit: q.limit, Cost: q.cost}
			for _, s := range q.states {
				if !slices.Contains(states(), s) {
					return usage(cmd, "--state: %q is not a state; the states are %s", s, strings.Join(states(), ", "))
				}
				query.States = append(query.States, dayfly.State(s))
			}
			if q.limit < 0 {
				return usage(cmd, "--limit: %d is negative", q.limit)
			}
			var err error
			if query.Labels, err = pairs(cmd, "--label", q.labels); err != nil {
				return err
			}
			return p.with(cmd, func(ctx context.Context, c *connection) error { return p.listJobs(ctx, c, query) })
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&q.states, "state", nil, "only jobs in this `STATE`")
	flags.StringArrayVar(&q.labels, "label", nil, "only jobs with this label: `K=V`")
	flags.StringVar(&q.queue, "queue", "", "only jobs of this `QUEUE`")
	flags.StringVar(&q.name, "name", "", "only jobs of this `NAME`")
	flags.BoolVar(&q.cost, "cost", false, "say what each has cost")
	flags.IntVar(&q.limit, "limit", 20, "at most `N` jobs; 0 for all")
	complete(cmd, "state", states()...)
	return cmd
}

func (p *program) listJobs(ctx context.Context, c *connection, query *dayfly.Query) error {
	now := time.Now()
	rows := [][]string{{"ID", "NAME", "STATE", "WHY", "QUEUE", "CREATED", "TOOK"}}
	if query.Cost {
		rows[0] = append(rows[0], "COST")
	}
	lines := json.NewEncoder(p.out)
	narrowed := len(query.States) > 0 || len(query.Labels) > 0 || query.Queue != "" || query.Name != ""
	asked, shown, more := *query, 0, false
	if query.Limit > 0 {
		asked.Limit++ // one more than is shown tells whether there are more
	}
	for job, err := range c.Jobs(ctx, &asked) {
		if err != nil {
			return err
		}
		if shown++; query.Limit > 0 && shown > query.Limit {
			more = true
			break
		}
		if p.json {
			if err := lines.Encode(job); err != nil {
				return err
			}
			continue
		}
		row := []string{
			job.ID, cut(job.Name, 32), string(job.State), string(job.Reason), job.Spec.Queue, ago(job.CreatedAt, now), took(job, now),
		}
		if query.Cost {
			row = append(row, costCell(job.Cost))
		}
		rows = append(rows, row)
	}
	if p.json {
		return nil
	}
	switch {
	case shown == 0 && narrowed:
		p.note("There are no such jobs. All there are: %s", p.typed("jobs"))
		return nil
	case shown == 0:
		p.note("There are no jobs yet. To run one: %s", p.typed("run -- echo hello"))
		return nil
	}
	err := table(p.out, p.fit(rows, "NAME", "QUEUE", "WHY", "TOOK", "CREATED"))
	if err == nil && more && p.errTTY {
		p.note("There are more. All of them: --limit 0")
	}
	return err
}

// took is how long a job has taken from its submission to its end, or so far.
func took(job *dayfly.Job, now time.Time) string {
	end := now
	if job.FinishedAt != nil {
		end = *job.FinishedAt
	}
	return milliseconds(float64(end.Sub(job.CreatedAt).Microseconds()) / 1000)
}

// cut shortens text to n characters.
func cut(text string, n int) string {
	runes := []rune(text)
	if len(runes) <= n {
		return text
	}
	return string(runes[:n-1]) + "…"
}

func (p *program) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show JOB",
		Short: "Show all that is known of a job, phase by phase",
		Long: `Shows a job: what it runs, how it stands, each attempt with its machine and the time each phase took, and the files it
left. Bars show which phase the time went to; each begins where the one above it ends.`,
		Example:           "  dayfly show job_…\n  dayfly show job_… --json | jq .attempts[0].phases",
		Args:              exactly("the id of a job"),
		ValidArgsFunction: p.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd, func(ctx context.Context, c *connection) error {
				job, err := c.Job(ctx, args[0])
				if err != nil {
					return err
				}
				if p.json {
					return p.printJSON(job)
				}
				p.showJob(job)
				return nil
			})
		},
	}
}

// showJob prints a job for people.
func (p *program) showJob(job *dayfly.Job) {
	w := p.out
	field := func(name, format string, args ...any) {
		if text := plain(fmt.Sprintf(format, args...)); text != "" {
			fmt.Fprintf(w, "  %-9s  %s\n", name, text)
		}
	}
	state := string(job.State)
	if job.CancelRequested && !job.State.Terminal() {
		state += ", being canceled"
	}
	fmt.Fprintf(w, "%s  %s  %s\n", p.colored(w, bold, job.ID), plain(job.Name), p.colored(w, stateColor(job.State), state))
	field("command", "%s", inShort(quoteCommand(job.Spec.Command)))
	field("message", "%s", job.Message)
	if job.ExitCode != nil {
		field("exit code", "%d", *job.ExitCode)
	}
	if job.Progress != nil {
		field("progress", "%.0f %%  %s", job.Progress.Fraction*100, job.Progress.Text)
	}
	field("created", "%s", job.CreatedAt.Local().Format(time.RFC3339))
	if job.RunAt != nil {
		field("runs at", "%s", job.RunAt.Local().Format(time.RFC3339))
	}
	if strings.ContainsAny(job.Spec.Provider, ",:") {
		field("on", "%s", job.Spec.Provider)
	}
	for _, r := range job.Refusals {
		field("refused", "%s, %s: %s", where(r.Provider, r.Region), r.At.Local().Format(time.RFC3339), r.Message)
	}
	field("retry of", "%s", job.RetriedFrom)
	field("labels", "%s", labels(job.Spec.Labels))
	if len(job.Attempts) > 1 || job.Spec.MaxCost > 0 {
		field("cost", "%s", costLine(job.Cost))
	}
	if job.Spec.MaxCost > 0 {
		field("max cost", "%s", dollars(job.Spec.MaxCost))
	}
	field("result", "%s", cut(string(job.Result), 200))
	for _, in := range job.Inputs {
		state := "not uploaded yet"
		if in.Uploaded {
			state = bytesOf(in.Size)
		}
		field("input", "%11s  %s", state, in.Name)
	}
	for _, attempt := range job.Attempts {
		p.showAttempt(w, &attempt)
	}
	if len(job.Artifacts) > 0 {
		fmt.Fprintln(w)
		for _, a := range job.Artifacts {
			field("artifact", "%11s  %s  sha256:%.12s", bytesOf(a.Size), a.Name, a.SHA256)
		}
	}
}

func (p *program) showAttempt(w io.Writer, a *dayfly.Attempt) {
	fmt.Fprintf(w, "\n  %s", p.colored(w, bold, "attempt "+strconv.Itoa(a.Number)))
	fmt.Fprintf(w, "  %s", a.State)
	if a.Reason != "" {
		fmt.Fprintf(w, " (%s)", plain(string(a.Reason)))
	}
	fmt.Fprintf(w, " on %s, %s\n", plain(where(a.Machine.Provider, a.Machine.Region)), plain(a.Machine.Name))
	p.waterfall(w, "    ", phasesOf(a.Phases))
	if a.Machine.Location != "" {
		fmt.Fprintf(w, "    %s, %s\n", plain(a.Machine.Location), a.Machine.State)
	}
	if a.Machine.Image != "" {
		fmt.Fprintf(w, "    %s\n", plain(a.Machine.Image))
	}
	if a.MaxRSSKB > 0 {
		fmt.Fprintf(w, "    %s of CPU, %s of memory at most\n", milliseconds(float64(a.UserMS+a.SystemMS)), bytesOf(a.MaxRSSKB*1024))
	}
	if line := costLine(a.Cost); line != "" {
		fmt.Fprintf(w, "    cost %s\n", plain(line))
	}
}

// where writes a place as one names it to run a job there.
func where(provider, region string) string {
	return strings.TrimSuffix(provider+":"+region, ":")
}

// quoteCommand writes a command as one could type it.
func quoteCommand(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = word
		if word == "" || strings.ContainsFunc(word, func(r rune) bool {
			return r <= ' ' || strings.ContainsRune("'\"\\$`*?[]{}()<>|&;#~!", r)
		}) {
			quoted[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return cut(strings.Join(quoted, " "), 400)
}

func labels(m map[string]string) string {
	var all []string
	for k, v := range m {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// longestCommand is how much is shown of a command, in characters: a line that can be read at a glance.
const longestCommand = 100

// inShort is a command on one line, of which the rest is left out.
func inShort(command string) string {
	return cut(strings.Join(strings.Fields(command), " "), longestCommand)
}

// completeJobs offers the ids of recent jobs to the shell, when a server can be asked without becoming one.
func (p *program) completeJobs(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	c, err := p.connect()
	if err != nil || (c.local != nil && !c.local.served()) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, stop := context.WithTimeout(cmd.Context(), time.Second)
	defer stop()
	var ids []cobra.Completion
	for job, err := range c.Jobs(ctx, &dayfly.Query{Limit: 30}) {
		if err != nil {
			break
		}
		ids = append(ids, cobra.CompletionWithDesc(job.ID, fmt.Sprintf("%s, %s", plain(job.Name), job.State)))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}
