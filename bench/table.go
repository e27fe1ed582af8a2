package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The columns of a table. Those with numbers are aligned to the right.
const (
	columnName = iota
	columnUnit
	columnMin
	columnMedian
	columnMax
	columnBaseline
	columnRatio
	columnTarget
	columnVerdict
	columns
)

func headings() []string {
	return []string{
		columnMin: "min", columnMedian: "median", columnMax: "max", columnBaseline: "baseline", columnRatio: "ratio",
		columnTarget: "target", columnVerdict: "",
	}
}

// printGroup prints a group as a table with its notes.
func printGroup(w io.Writer, g *Group) {
	fmt.Fprintf(w, "\n%s: %s\n", g.Name, g.Title)
	if g.Skipped != "" {
		fmt.Fprintf(w, "  skipped: %s\n", g.Skipped)
	}
	if g.Failed != "" {
		fmt.Fprintf(w, "  failed: %s\n", g.Failed)
	}
	if len(g.Figures) > 0 {
		rows := [][]string{headings()}
		for _, f := range g.Figures {
			rows = append(rows, row(f))
		}
		printRows(w, rows)
	}
	for _, name := range baselineNames(g) {
		fmt.Fprintf(w, "  baseline: %s\n", name)
	}
	for _, note := range g.Notes {
		fmt.Fprintf(w, "  %s\n", note)
	}
}

// row is a figure as the cells of a table.
func row(f *Figure) []string {
	cells := make([]string, columns)
	cells[columnName], cells[columnUnit] = f.Name, f.Unit
	cells[columnMin], cells[columnMedian], cells[columnMax] = number(f.Min), number(f.Median), number(f.Max)
	if f.Baseline != nil && len(f.Baseline.Rounds) > 0 {
		cells[columnBaseline] = number(f.Baseline.Median)
	}
	if f.Ratio != nil {
		cells[columnRatio] = strconv.FormatFloat(f.Ratio.Median, 'f', 2, 64)
	}
	if f.Target != nil {
		cells[columnTarget] = f.Target.Text
		cells[columnVerdict] = "not met"
		if f.Target.Met {
			cells[columnVerdict] = "met"
		}
	}
	return cells
}

// printRows prints cells in columns that are as wide as their widest cell.
func printRows(w io.Writer, rows [][]string) {
	widths := make([]int, columns)
	for _, cells := range rows {
		for i, cell := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, cells := range rows {
		var line strings.Builder
		for i, cell := range cells {
			if widths[i] == 0 {
				continue
			}
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			switch i {
			case columnName, columnUnit, columnTarget, columnVerdict:
				line.WriteString("  " + cell + padding)
			default:
				line.WriteString("  " + padding + cell)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// baselineNames returns what the baselines of a group's figures are, each once, with the figures it belongs to when
// there are several.
func baselineNames(g *Group) []string {
	var names []string
	users := map[string][]string{}
	for _, f := range g.Figures {
		if f.Baseline == nil {
			continue
		}
		if users[f.Baseline.Name] == nil {
			names = append(names, f.Baseline.Name)
		}
		users[f.Baseline.Name] = append(users[f.Baseline.Name], f.Name)
	}
	if len(names) < 2 {
		return names
	}
	for i, name := range names {
		names[i] = name + " (" + strings.Join(users[name], "; ") + ")"
	}
	return names
}

// number formats a value with about three significant digits, and with commas from a thousand on: more digits would
// claim more than was measured.
func number(v float64) string {
	size := math.Abs(v)
	switch {
	case v == math.Trunc(v) && size < 1000:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case size >= 999.5:
		return commas(strconv.FormatFloat(v, 'f', 0, 64))
	case size >= 99.95:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case size >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
}

// commas puts a comma before every third digit from the right.
func commas(digits string) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}
