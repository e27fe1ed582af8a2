package cli

import (
	"fmt"
	"strings"

	"github.com/dayfly-run/dayfly"
)

// summarize says on standard error what happened: the verdict, the phases, the files, and what to do next.
func (p *program) summarize(job *dayfly.Job, files []string) {
	fmt.Fprintln(p.err)
	verdict := p.colored(p.err, stateColor(job.State), string(job.State))
	if job.ExitCode != nil && *job.ExitCode != 0 {
		verdict += fmt.Sprintf(" with exit code %d", *job.ExitCode)
	}
	fmt.Fprintf(p.err, "%s  %s  %s\n", p.colored(p.err, bold, job.ID), plain(job.Name), verdict)
	for _, attempt := range job.Attempts {
		if len(job.Attempts) > 1 {
			fmt.Fprintf(p.err, "  attempt %d, %s\n", attempt.Number, attempt.State)
		}
		p.waterfall(p.err, "  ", phasesOf(attempt.Phases))
	}
	for i, artifact := range job.Artifacts {
		name := artifact.Name
		if i < len(files) {
			name = files[i]
		}
		fmt.Fprintf(p.err, "  artifact   %11s  %s  sha256:%.12s\n", bytesOf(artifact.Size), plain(name), artifact.SHA256)
	}
	if line := costLine(job.Cost); line != "" {
		fmt.Fprintf(p.err, "  cost       %s\n", plain(line))
	}
	steps := []nextStep{
		{p.typed("show", job.ID), "all that is known of it"},
		{p.typed("logs", job.ID), "its output again"},
		{p.typed("retry", job.ID), "run it once more"},
	}
	if job.State == dayfly.Failed {
		steps[0] = nextStep{p.typed("why", job.ID), "what went wrong"}
	}
	p.footer("Next:", steps)
}

// nextStep is a command to try, and what it does.
type nextStep struct{ command, purpose string }

// footer prints commands to try next on standard error.
func (p *program) footer(title string, steps []nextStep) {
	longest, widest := 0, 0
	for _, s := range steps {
		longest = max(longest, len(s.command))
		widest = max(widest, len(s.purpose))
	}
	fits := !p.errTTY || len(title)+longest+widest+4 <= p.width
	for i, s := range steps {
		lead := title
		if i > 0 {
			lead = strings.Repeat(" ", len(title))
		}
		if !fits { // broken lines are harder to copy than lines without their purpose
			fmt.Fprintf(p.err, "%s  %s\n", p.colored(p.err, dim, lead), s.command)
			continue
		}
		fmt.Fprintf(p.err, "%s  %-*s  %s\n", p.colored(p.err, dim, lead), longest, s.command, p.colored(p.err, dim, s.purpose))
	}
}
