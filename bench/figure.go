package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Report is the outcome of one run; it is what -json writes.
type Report struct {
	Started time.Time `json:"started"`
	Machine Machine   `json:"machine"`
	Rounds  int       `json:"rounds"`
	Quick   bool      `json:"quick"` // small counts: shows that it works, says nothing about speed
	Groups  []*Group  `json:"groups"`
}

// Machine is what the figures were measured on.
type Machine struct {
	OS       string `json:"os"`
	Arch     string `json:"arch"`
	CPUs     int    `json:"cpus"`
	CPU      string `json:"cpu,omitempty"`
	MemoryMB int64  `json:"memory_mb,omitempty"`
	Go       string `json:"go"`
	Load     string `json:"load,omitempty"` // the load averages when the run began: above zero, others were working
}

// Group is what one measurement found.
type Group struct {
	Name    string    `json:"name"`
	Title   string    `json:"title"`
	Figures []*Figure `json:"figures"`
	Notes   []string  `json:"notes,omitempty"`
	Skipped string    `json:"skipped,omitempty"` // why there are no figures
	Failed  string    `json:"failed,omitempty"`  // what did not work
}

// figure adds a figure to the group and returns it. Values are given to it with add, one a round.
func (g *Group) figure(name, unit string) *Figure {
	f := &Figure{Name: name, Unit: unit}
	g.Figures = append(g.Figures, f)
	return f
}

// note adds a sentence that belongs below the group's table.
func (g *Group) note(format string, args ...any) {
	g.Notes = append(g.Notes, fmt.Sprintf(format, args...))
}

// settle completes the figures when the last value has been added. Those that have none, because something before them
// did not work, are left out.
func (g *Group) settle() {
	g.Figures = slices.DeleteFunc(g.Figures, func(f *Figure) bool { return len(f.Rounds) == 0 })
	for _, f := range g.Figures {
		f.settle()
	}
}

// Figure is one measured quantity: a value per round, and where the values lie.
type Figure struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Rounds []float64 `json:"rounds"`
	Spread
	Baseline *Baseline `json:"baseline,omitempty"`
	Ratio    *Spread   `json:"ratio,omitempty"` // to the baseline, taken within each round
	Target   *Target   `json:"target,omitempty"`

	want func(*Figure) (text string, met bool)
}

// Baseline is what a figure is compared with, measured in the same rounds.
type Baseline struct {
	Name   string    `json:"name"`
	Rounds []float64 `json:"rounds"`
	Spread
}

// Target is what was aimed at. It is a statement, not a condition: nothing fails because of it.
type Target struct {
	Text string `json:"text"`
	Met  bool   `json:"met"`
}

// against names the baseline of the figure.
func (f *Figure) against(name string) *Figure {
	f.Baseline = &Baseline{Name: name}
	return f
}

// add records the value of a round, and that of the baseline if the figure has one.
func (f *Figure) add(value float64, baseline ...float64) {
	f.Rounds = append(f.Rounds, value)
	if f.Baseline != nil {
		f.Baseline.Rounds = append(f.Baseline.Rounds, baseline...)
	}
}

// settle computes what follows from the rounds.
func (f *Figure) settle() {
	f.Spread = spreadOf(f.Rounds)
	if f.Baseline != nil {
		f.Baseline.Spread = spreadOf(f.Baseline.Rounds)
		if r := ratios(f.Rounds, f.Baseline.Rounds); len(r) > 0 {
			s := spreadOf(r)
			f.Ratio = &s
		}
	}
	if f.want != nil {
		text, met := f.want(f)
		f.Target = &Target{Text: text, Met: met}
	}
}

// The targets. Each compares medians.

// atLeast aims at a median of at least limit.
func (f *Figure) atLeast(limit float64) *Figure {
	f.want = func(f *Figure) (string, bool) { return ">= " + number(limit), f.Median >= limit }
	return f
}

// atMost aims at a median of at most limit.
func (f *Figure) atMost(limit float64) *Figure {
	f.want = func(f *Figure) (string, bool) { return "<= " + number(limit), f.Median <= limit }
	return f
}

// below aims at a median of less than limit.
func (f *Figure) below(limit float64) *Figure {
	f.want = func(f *Figure) (string, bool) { return "< " + number(limit), f.Median < limit }
	return f
}

// ratioAtLeast aims at a median ratio to the baseline of at least limit.
func (f *Figure) ratioAtLeast(limit float64) *Figure {
	f.want = func(f *Figure) (string, bool) {
		return ">= " + number(limit) + "x", f.Ratio != nil && f.Ratio.Median >= limit
	}
	return f
}

// ratioAtMost aims at a median ratio to the baseline of at most limit.
func (f *Figure) ratioAtMost(limit float64) *Figure {
	f.want = func(f *Figure) (string, bool) {
		return "<= " + number(limit) + "x", f.Ratio != nil && f.Ratio.Median <= limit
	}
	return f
}

// atMostOf aims at a median of at most factor times that of the baseline, and plus more.
func (f *Figure) atMostOf(factor, plus float64) *Figure {
	f.want = func(f *Figure) (string, bool) {
		limit := factor*f.Baseline.Median + plus
		return fmt.Sprintf("<= %sx + %s = %s", number(factor), number(plus), number(limit)), f.Median <= limit
	}
	return f
}

// write stores the report as JSON in a file, whose directory must exist.
func (r *Report) write(file string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the report: %w", err)
	}
	if err := os.WriteFile(filepath.Clean(file), append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}
