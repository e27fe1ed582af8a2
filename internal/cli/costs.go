package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

func (p *program) costsCommand() *cobra.Command {
	var from, to string
	var days int
	cmd := &cobra.Command{
		Use:   "costs",
		Short: "Show what jobs have cost, by day and queue",
		Long: `Shows what the machines of all jobs have cost, by day, queue and provider, and how the daily limits stand. A machine's
cost belongs to the days, UTC, in which it came about. What of it is RUNNING may still grow: its machines are not
confirmed to be gone.

Prices are those of machines alone, without traffic, storage, discounts and taxes: your provider's bill is what counts.`,
		Example: "  dayfly costs\n  dayfly costs --days 7\n  dayfly costs --from 2026-05-01 --to 2026-05-31 --json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case days < 1 || days > 366:
				return usage(cmd, "--days: %d is not between 1 and 366", days)
			case cmd.Flags().Changed("days") && (from != "" || to != ""):
				return usage(cmd, "--days are the last ones; name the first and the last with --from and --to alone")
			}
			return p.with(cmd, func(ctx context.Context, c *connection) error {
				return namedByFlag(cmd, p.costs(ctx, c, from, to, days))
			})
		},
	}
	cmd.Flags().IntVar(&days, "days", 1, "the last `N` days, today included")
	cmd.Flags().StringVar(&from, "from", "", "the first `DAY`, such as 2026-05-01")
	cmd.Flags().StringVar(&to, "to", "", "the last `DAY` (default: today)")
	return cmd
}

// namedByFlag says what is wrong with a parameter of a request as what is wrong with the flag that has set it.
func namedByFlag(cmd *cobra.Command, err error) error {
	field, ok := errors.AsType[*fault.FieldError](err)
	if !ok {
		return err
	}
	name, ok := strings.CutPrefix(field.Field, "query.")
	if !ok || cmd.Flags().Lookup(name) == nil {
		return err
	}
	return usage(cmd, "--%s: %s", name, field.Message)
}

func (p *program) costs(ctx context.Context, c *connection, from, to string, days int) error {
	if days > 1 {
		from = time.Now().UTC().AddDate(0, 0, 1-days).Format(time.DateOnly)
	}
	costs, err := c.Costs(ctx, from, to)
	if err != nil {
		return err
	}
	if p.json {
		return p.printJSON(costs)
	}
	rows := [][]string{{"DAY", "QUEUE", "PROVIDER", "COST", "RUNNING", "ATTEMPTS"}}
	var total dayfly.Money
	unknown := 0
	for _, item := range costs.Items {
		amount := dollars(item.Amount)
		if item.Amount == 0 && item.Unknown > 0 {
			amount = "unknown"
		}
		rows = append(rows, []string{item.Day, item.Queue, item.Provider, amount, dollars(item.Running), fmt.Sprint(item.Attempts)})
		total += item.Amount
		unknown += item.Unknown
	}
	if len(costs.Items) == 0 {
		p.note("Nothing has cost anything.")
	} else {
		rows = append(rows, []string{"total", "", "", dollars(total), "", ""})
		if err := table(p.out, p.fit(rows, "QUEUE", "ATTEMPTS", "RUNNING")); err != nil {
			return err
		}
	}
	if unknown > 0 {
		p.note("What %s cost is not known, and is not part of this.", counted(unknown, "attempt", "attempts"))
	}
	for _, l := range costs.Limits {
		what := "all queues"
		if l.Queue != "" {
			what = "queue " + l.Queue
		}
		line := fmt.Sprintf("%s today: %s of %s", what, dollars(l.Today), dollars(l.Daily))
		if l.Stopped {
			line += "; reached: nothing more is launched before midnight, UTC"
		}
		fmt.Fprintln(p.out, plain(line))
	}
	return nil
}

// dollars writes an amount with its currency.
func dollars(m dayfly.Money) string { return "$" + m.String() }

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// costLine says in a line what something has cost; "" if it has cost nothing, and cannot.
func costLine(c *dayfly.Cost) string {
	switch {
	case c == nil || c.Hourly == 0 && c.Amount == 0 && !c.Unknown:
		return ""
	case c.Unknown && c.Amount == 0:
		return "not known: this provider's prices are not configured for such a machine"
	}
	line := dollars(c.Amount)
	if c.Unknown {
		line += " and what is not known"
	}
	if c.Estimate {
		line += " so far"
	}
	if c.Hourly > 0 {
		line += ", at $" + c.Hourly.String() + " an hour"
	}
	if c.PricedOn != "" {
		line += " as of " + c.PricedOn
	}
	return line
}

// costCell is what something has cost, in a table: empty if there is nothing to say.
func costCell(c *dayfly.Cost) string {
	switch {
	case c == nil:
		return ""
	case c.Unknown && c.Amount == 0:
		return "unknown"
	case c.Unknown || c.Estimate && c.Hourly > 0:
		return dollars(c.Amount) + "+"
	}
	return dollars(c.Amount)
}

// dryRun says what a job would cost in place of running it.
func (p *program) dryRun(ctx context.Context, c *connection, spec *dayfly.JobSpec) error {
	quote, err := c.Quote(ctx, spec)
	if err != nil {
		return err
	}
	if p.json {
		return p.printJSON(quote)
	}
	rows := [][]string{{"PROVIDER", "REGION", "PER HOUR", "AT MOST", "CAP", "MACHINES", "EACH FOR", "PRICES OF"}}
	for _, o := range quote.Offers {
		row := []string{o.Provider, o.Region, "unknown", "unknown", "", fmt.Sprint(o.Machines), o.Lifetime.String(), o.PricedOn}
		if o.Hourly != nil {
			row[2] = "$" + o.Hourly.String()
		}
		if o.Most != nil {
			row[3] = dollars(*o.Most)
		}
		switch {
		case o.Refused != "":
			row[3], row[6] = "not tried", ""
		case quote.Spec.MaxCost > 0:
			row[4] = dollars(quote.Spec.MaxCost)
		}
		rows = append(rows, row)
	}
	if err := table(p.out, p.fit(rows, "", "PRICES OF", "MACHINES", "EACH FOR")); err != nil {
		return err
	}
	for _, o := range quote.Offers {
		if o.Refused != "" {
			p.note("%s is not tried: %s", where(o.Provider, o.Region), o.Refused)
		}
		if o.Waits != "" {
			p.note("%s", o.Waits)
		}
	}
	t := quote.Spec.Timeouts
	p.note("Nothing was run. A machine may boot for %v, its command run for %v; up to %s, and before each up to %s that fail to begin it.",
		t.Boot, t.Run, counted(quote.Spec.Retry.MaxAttempts, "attempt", "attempts"), counted(quote.Spec.Retry.MaxLaunches-1, "machine", "machines"))
	return nil
}
