package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

func (p *program) logsCommand() *cobra.Command {
	var o dayfly.LogOptions
	var raw bool
	cmd := &cobra.Command{
		Use:   "logs JOB",
		Short: "Print what a job's command has printed",
		Long: `Prints what a job's command has printed: its standard output to standard output, its standard error to standard error,
byte for byte into a pipe or a file. On a terminal, control characters are shown instead of obeyed; --raw passes them.

With --json each piece is printed on a line of its own, as text or, if it is not UTF-8, in base64.`,
		Example: `  dayfly logs job_…
  dayfly logs -f job_…
  dayfly logs --stream stdout job_… > output.txt`,
		Args:              exactly("the id of a job"),
		ValidArgsFunction: p.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Stream != "" && o.Stream != "stdout" && o.Stream != "stderr" {
				return usage(cmd, "--stream: %q is neither stdout nor stderr", o.Stream)
			}
			if o.Attempt < 0 {
				return usage(cmd, "--attempt: attempts are numbered from 1")
			}
			return p.with(cmd, func(ctx context.Context, c *connection) error { return p.printLogs(ctx, c, args[0], &o, raw) })
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.Follow, "follow", "f", false, "go on until the job has ended")
	flags.StringVar(&o.Stream, "stream", "", "only this `SIDE`: stdout or stderr")
	flags.IntVar(&o.Attempt, "attempt", 0, "the output of attempt `N` (default: the last)")
	flags.BoolVar(&raw, "raw", false, "pass control characters through to the terminal")
	complete(cmd, "stream", "stdout", "stderr")
	return cmd
}

func (p *program) printLogs(ctx context.Context, c *connection, id string, o *dayfly.LogOptions, raw bool) error {
	out := p.outputs(raw)
	defer out.flush()
	lines := json.NewEncoder(p.out)
	for record, err := range c.Logs(ctx, id, o) {
		if err != nil {
			return err
		}
		if p.json {
			err = lines.Encode(record)
		} else {
			err = out.write(p, record)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *program) waitCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "wait JOB",
		Short: "Wait for a job's end and exit with its code",
		Long: `Waits until a job has ended and exits as dayfly run would have: with the command's own code, or with one of those that
dayfly run --help lists.`,
		Example:           "  JOB=$(dayfly run --detach --in backup.sh -- sh backup.sh)\n  dayfly wait $JOB && echo done",
		Args:              exactly("the id of a job"),
		ValidArgsFunction: p.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd, func(ctx context.Context, c *connection) error {
				job, err := c.Wait(ctx, args[0])
				if err != nil {
					return err
				}
				if p.json {
					if err := p.printJSON(job); err != nil {
						return err
					}
				} else {
					fmt.Fprintln(p.out, job.State)
				}
				if code := exitCode(job); code != 0 {
					return &exitError{code, p.verdict(job)}
				}
				return nil
			})
		},
	}
}

func (p *program) whyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "why JOB",
		Short: "Explain why a job is where it is, and what happens next",
		Long: `Explains in sentences why a job waits, or why it ended as it did, the most important reason first, and says what happens
next or what you can do.`,
		Example:           "  dayfly why job_…",
		Args:              exactly("the id of a job"),
		ValidArgsFunction: p.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd, func(ctx context.Context, c *connection) error {
				why, err := c.Why(ctx, args[0])
				if err != nil {
					return err
				}
				if p.json {
					return p.printJSON(why)
				}
				fmt.Fprintf(p.out, "%s %s.\n", why.Job, p.colored(p.out, stateColor(why.State), outcome(why.State)))
				for _, answer := range why.Answers {
					fmt.Fprintf(p.out, "  - %s\n", plain(answer))
				}
				if why.Next != "" {
					fmt.Fprintf(p.out, "Next: %s\n", plain(why.Next))
				}
				return nil
			})
		},
	}
}

func (p *program) cancelCommand() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "cancel JOB...",
		Short: "End jobs now",
		Long: `Ends jobs. A job that waits is canceled at once; a running command gets SIGTERM and, when it does not end within its
grace, SIGKILL. Canceling a job again changes nothing; one that has ended by itself cannot be canceled.`,
		Example:           "  dayfly cancel job_…\n  dayfly jobs --state queued --json | jq -r .id | xargs dayfly cancel",
		Args:              atLeastOne,
		ValidArgsFunction: p.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd, func(ctx context.Context, c *connection) error {
				return p.each(args, func(id string) (any, string, error) {
					job, err := c.Cancel(ctx, id)
					if err == nil && wait {
						job, err = c.Wait(ctx, id)
					}
					if err != nil {
						return nil, "", err
					}
					if !job.State.Terminal() {
						return job, id + " is being canceled", nil
					}
					return job, id + " " + string(job.State), nil
				})
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until nothing of it runs any more")
	return cmd
}

func (p *program) retryCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "retry JOB...",
		Short: "Run jobs that have ended once more, as new jobs",
		Long: `Adds, for each job that has ended, a new one with the same command, settings and inputs, and prints the new job's id.
What has ended stays as it is.`,
		Example:           "  dayfly retry job_…\n  dayfly wait $(dayfly retry job_…)",
		Args:              atLeastOne,
		ValidArgsFunction: p.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd, func(ctx context.Context, c *connection) error {
				return p.each(args, func(id string) (any, string, error) {
					job, err := c.Retry(ctx, id)
					if err == nil {
						err = p.launched(ctx, c, job.ID)
					}
					if err != nil {
						return nil, "", err
					}
					return job, job.ID, nil
				})
			})
		},
	}
}

func (p *program) deleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete JOB...",
		Short: "Forget jobs that have ended, with their output and files",
		Long: `Removes jobs that have ended, with their output, inputs and artifacts. Jobs are also removed by themselves when the
server's retention has passed.`,
		Example:           "  dayfly delete job_…",
		Args:              atLeastOne,
		ValidArgsFunction: p.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd, func(ctx context.Context, c *connection) error {
				return p.each(args, func(id string) (any, string, error) {
					return map[string]string{"deleted": id}, id + " deleted", c.Delete(ctx, id)
				})
			})
		},
	}
}

// each does something to each job and prints what do returns: its value with --json, or else its line. It goes on when
// one fails.
func (p *program) each(ids []string, do func(id string) (value any, line string, err error)) error {
	failed := false
	for _, id := range ids {
		value, line, err := do(id)
		switch {
		case err != nil && (len(ids) == 1 || fault.Of(err) == fault.Canceled):
			return err
		case err != nil:
			failed = true
			p.complain(err)
		case p.json:
			if err := json.NewEncoder(p.out).Encode(value); err != nil {
				return err
			}
		default:
			fmt.Fprintln(p.out, line)
		}
	}
	if failed {
		return &exitError{codeFailed, nil}
	}
	return nil
}

func atLeastOne(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usage(cmd, "%s wants the id of a job; %s jobs lists them", cmd.CommandPath(), cmd.Root().DisplayName())
	}
	return nil
}
