package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

func (p *program) machinesCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "machines",
		Short: "List the machines that exist, and audit them",
		Long: `Lists the machines in the server's ledger: every machine that was asked for, from before it exists until its provider
has confirmed that nothing of it is left. --all lists those that are gone too.

Of a machine that belongs to a pool, STATE says what it does there: warming, idle, busy, recycling or draining. If it
carries out several jobs at once, "busy 2/4" says that it has two of four; --json lists its slots. A machine of a fleet,
which programs share, is warming, idle, lent, busy or draining, or unheard if the server was started after it.`,
		Example: "  dayfly machines\n  dayfly machines --all --json\n  dayfly machines audit",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(cmd, func(ctx context.Context, c *connection) error { return p.listMachines(ctx, c, all) })
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "list those that are gone too")
	cmd.AddCommand(p.auditCommand())
	return cmd
}

func (p *program) listMachines(ctx context.Context, c *connection, all bool) error {
	now := time.Now()
	rows := [][]string{{"NAME", "PROVIDER", "STATE", "JOB", "AGE", "POOL", "LOCATION"}}
	lines := json.NewEncoder(p.out)
	for m, err := range c.Machines(ctx, all) {
		if err != nil {
			return err
		}
		if p.json {
			if err := lines.Encode(m); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, []string{m.Name, where(m.Provider, m.Region), stateOfMachine(m), jobOf(m), ago(m.CreatedAt, now), poolOf(m), m.Location})
	}
	if p.json {
		return nil
	}
	if len(rows) == 1 {
		p.note("There are no machines.")
		return nil
	}
	return table(p.out, p.fit(rows, "", "LOCATION", "PROVIDER", "AGE", "POOL"))
}

// stateOfMachine is a machine's state, and until when it is kept.
func stateOfMachine(m *dayfly.Machine) string {
	if m.KeptUntil != nil {
		return m.State + " until " + m.KeptUntil.Local().Format("15:04:05")
	}
	if len(m.Slots) > 0 && m.Use == "busy" {
		return fmt.Sprintf("busy %d/%d", busySlots(m), len(m.Slots))
	}
	if m.Use != "" {
		return m.Use
	}
	return m.State
}

// busySlots counts the slots of a machine that have a job.
func busySlots(m *dayfly.Machine) (n int) {
	for _, s := range m.Slots {
		if s.Use == "busy" {
			n++
		}
	}
	return n
}

// jobOf names a machine's job, or says how many it has.
func jobOf(m *dayfly.Machine) string {
	job, n := m.Job, 0
	for _, s := range m.Slots {
		if s.Use == "busy" {
			job, n = s.Job, n+1
		}
	}
	if n > 1 {
		return counted(n, "job", "jobs")
	}
	return job
}

// poolOf says whose a machine is, and how many jobs it has begun there.
func poolOf(m *dayfly.Machine) string {
	if m.Pool == "" {
		return m.HiredBy
	}
	return fmt.Sprintf("%s (%s)", m.Pool, counted(m.Uses, "use", "uses"))
}

func (p *program) auditCommand() *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Prove that no machine has outlived its job",
		Long: `Compares the ledger of machines with the jobs they were made for, and lists every machine that should be gone and is
not: its job has ended, or is not known, or nobody knows of the machine at all. The server looks for machines at their
providers all the time, so the ledger also holds those that it did not make.

Exits with 1 when there is such a machine, so that it can stand in a script.`,
		Example: "  dayfly machines audit\n  dayfly machines audit --grace 5m || alert",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(cmd, func(ctx context.Context, c *connection) error { return p.audit(ctx, c, grace) })
		},
	}
	cmd.Flags().DurationVar(&grace, "grace", time.Minute, "how long after its job's end a machine may still be there: a `TIME`")
	return cmd
}

// finding is a machine that should be gone.
type finding struct {
	Machine *dayfly.Machine `json:"machine"`
	Why     string          `json:"why"`
}

func (p *program) audit(ctx context.Context, c *connection, grace time.Duration) error {
	checked := 0
	findings := []finding{}
	jobs := map[string]*dayfly.Job{}
	for m, err := range c.Machines(ctx, false) {
		if err != nil {
			return err
		}
		checked++
		why, err := p.overdue(ctx, c, m, grace, jobs)
		if err != nil {
			return err
		}
		if why != "" {
			findings = append(findings, finding{m, why})
		}
	}
	if p.json {
		if err := p.printJSON(map[string]any{"checked": checked, "findings": findings}); err != nil {
			return err
		}
	} else if err := p.printFindings(checked, findings); err != nil {
		return err
	}
	if len(findings) > 0 {
		return &exitError{codeFailed, nil}
	}
	return nil
}

func (p *program) printFindings(checked int, findings []finding) error {
	if len(findings) == 0 {
		switch checked {
		case 0:
			fmt.Fprintln(p.out, "No machine exists, so none has outlived its job.")
		case 1:
			fmt.Fprintln(p.out, "1 machine exists, and its job or pool needs it.")
		default:
			fmt.Fprintf(p.out, "%d machines exist, and each belongs to a job or a pool that needs it.\n", checked)
		}
		return nil
	}
	rows := [][]string{{"NAME", "PROVIDER", "STATE", "JOB", "WHY IT SHOULD BE GONE"}}
	for _, f := range findings {
		rows = append(rows, []string{f.Machine.Name, where(f.Machine.Provider, f.Machine.Region), f.Machine.State, f.Machine.Job, f.Why})
	}
	return table(p.out, rows)
}

// overdue says why a machine should be gone, or "" when it should not.
func (p *program) overdue(ctx context.Context, c *connection, m *dayfly.Machine, grace time.Duration, jobs map[string]*dayfly.Job) (string, error) {
	if m.HiredBy != "" { // the server looks after it, by its lease
		return "", nil
	}
	if m.State == "gone" || m.KeptUntil != nil && time.Now().Before(m.KeptUntil.Add(grace)) {
		return "", nil
	}
	if m.Pool != "" && m.State != "deleting" { // its pool has it, whatever its last job was
		return "", nil
	}
	young := time.Since(m.CreatedAt) < grace
	if m.Job == "" || m.State == "quarantined" {
		if young {
			return "", nil
		}
		return "it bears this installation's labels, but nobody knows of a job for it", nil
	}
	job, known := jobs[m.Job]
	if !known {
		var err error
		if job, err = c.Job(ctx, m.Job); err != nil && !errors.Is(err, fault.NotFound) {
			return "", err
		}
		jobs[m.Job] = job
	}
	switch {
	case job == nil && young:
		return "", nil
	case job == nil:
		return "its job is not known any more", nil
	}
	for _, a := range job.Attempts {
		if a.ID == m.Attempt && a.EndedAt != nil && time.Since(*a.EndedAt) > grace {
			return fmt.Sprintf("attempt %d ended %s", a.Number, ago(*a.EndedAt, time.Now())), nil
		}
	}
	if job.FinishedAt != nil && time.Since(*job.FinishedAt) > grace {
		return "its job ended " + ago(*job.FinishedAt, time.Now()), nil
	}
	return "", nil
}
