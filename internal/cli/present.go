package cli

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly"
)

// milliseconds writes a length of time for people: two or three digits that mean something, and a unit.
func milliseconds(ms float64) string {
	switch {
	case ms < 9.95:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 999.5:
		return fmt.Sprintf("%.0f ms", ms)
	case ms < 59_995:
		return fmt.Sprintf("%.2f s", ms/1000)
	}
	seconds := int64(math.Round(ms / 1000))
	if seconds < 3600 {
		return fmt.Sprintf("%d min %02d s", seconds/60, seconds%60)
	}
	return fmt.Sprintf("%d h %02d min", seconds/3600, seconds%3600/60)
}

// bytesOf writes a number of bytes for people.
func bytesOf(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	value := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB", "PB"} {
		if value /= 1000; value < 999.5 {
			if value < 9.95 {
				return fmt.Sprintf("%.1f %s", value, unit)
			}
			return fmt.Sprintf("%.0f %s", value, unit)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// ago writes how long ago something was.
func ago(t time.Time, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := now.Sub(t)
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return fmt.Sprintf("%dd ago", int(d.Hours()/24))
}

// gap is how many columns of the terminal are between two of a table.
const gap = 2

// table writes rows in columns; the first row is the head.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, gap, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			if cells[i] = plain(cell); cell == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

// leastCell is how narrow a column that can be cut may become.
const leastCell = 12

// fit makes a table fit the terminal: it cuts the cells of one column, as far as something can be told from them, and
// leaves out the columns that can be missed, one after the other. Elsewhere it leaves the table as it is.
func (p *program) fit(rows [][]string, cuttable string, dispensable ...string) [][]string {
	for p.outTTY {
		over, narrowed := -p.width-gap, 0
		for i := range rows[0] {
			widest := 0
			for _, row := range rows {
				widest = max(widest, utf8.RuneCountInString(row[i]))
			}
			over += widest + gap
			if rows[0][i] == cuttable {
				narrowed = widest
			}
		}
		if over <= 0 {
			break
		}
		if i := slices.Index(rows[0], cuttable); i >= 0 && narrowed-over >= leastCell {
			for _, row := range rows {
				row[i] = cut(row[i], narrowed-over)
			}
			break
		}
		if len(dispensable) == 0 {
			break
		}
		if i := slices.Index(rows[0], dispensable[0]); i >= 0 {
			for j := range rows {
				rows[j] = slices.Delete(rows[j], i, i+1)
			}
		}
		dispensable = dispensable[1:]
	}
	return rows
}

// phase is one part of an attempt's life.
type phase struct {
	name string
	ms   float64
}

// phasesOf returns the phases that have begun, in order.
func phasesOf(p dayfly.Phases) []phase {
	var phases []phase
	for _, one := range []struct {
		name string
		ms   *float64
	}{{"queued", p.Queued}, {"preparing", p.Preparing}, {"creating", p.Creating}, {"booting", p.Booting}, {"running", p.Running}, {"finishing", p.Finishing}} {
		if one.ms != nil {
			phases = append(phases, phase{one.name, *one.ms})
		}
	}
	return phases
}

// waterfall draws the phases below each other, each bar beginning where the one above it ends.
func (p *program) waterfall(w io.Writer, indent string, phases []phase) {
	total := 0.0
	for _, ph := range phases {
		total += ph.ms
	}
	columns := float64(min(max(p.width-len(indent)-26, 16), 48))
	start := 0.0
	for _, ph := range phases {
		bar := ""
		if total > 0 {
			from := int(math.Round(start / total * columns))
			to := int(math.Round((start + ph.ms) / total * columns))
			bar = strings.Repeat(" ", from) + p.bar(to-from)
		}
		fmt.Fprintf(w, "%s%-9s  %11s  %s\n", indent, ph.name, milliseconds(ph.ms), bar)
		start += ph.ms
	}
}

// bar returns a bar of n columns, or the thinnest there is.
func (p *program) bar(n int) string {
	switch {
	case !p.unicode && n < 1:
		return "|"
	case !p.unicode:
		return strings.Repeat("#", n)
	case n < 1:
		return "▏"
	}
	return strings.Repeat("█", n)
}

// colored wraps text in a color when w is a terminal that shows colors.
func (p *program) colored(w io.Writer, code, text string) string {
	terminal := (w == p.out && p.outTTY) || (w == p.err && p.errTTY)
	if !terminal || !p.colors {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// outcome says in what way a job is in a state.
func outcome(s dayfly.State) string {
	switch s {
	case dayfly.Succeeded, dayfly.Failed, dayfly.Expired:
		return "has " + string(s)
	case dayfly.Canceled:
		return "was " + string(s)
	}
	return "is " + string(s)
}

// The colors that mean something.
const (
	green = "32"
	red   = "31"
	dim   = "2"
	bold  = "1"
)

func stateColor(s dayfly.State) string {
	switch s {
	case dayfly.Succeeded:
		return green
	case dayfly.Failed, dayfly.Expired:
		return red
	}
	return bold
}
