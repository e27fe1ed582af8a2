package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNumberHasThreeDigitsOrCommas(t *testing.T) {
	t.Parallel()
	for want, v := range map[string]float64{
		"0":         0,
		"1":         1,
		"0.95":      0.95,
		"1.50":      1.5,
		"9.99":      9.994,
		"10.0":      9.996,
		"12.3":      12.345,
		"100":       99.96,
		"345":       345.4,
		"1,000":     999.9,
		"12,346":    12345.6,
		"1,234,568": 1234567.8,
		"-2,500":    -2500,
		"-0.50":     -0.5,
	} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}

// exampleGroup is a group with a figure of every kind.
func exampleGroup() *Group {
	g := &Group{Name: "submit", Title: "durable submits"}
	rate := g.figure("jobs", "jobs/s").against("the minimal program").atLeast(10_000)
	for _, round := range [][2]float64{{9000, 12000}, {11000, 11000}, {12500, 10000}} {
		rate.add(round[0], round[1])
	}
	g.figure("one submit, p99", "ms").against("the minimal program").below(10).add(12.5, 5)
	g.figure("size", "MiB").atMost(8).add(8)
	g.note("the client used %d µs", 12)
	g.settle()
	return g
}

func TestTableStatesFiguresTargetsAndBaselines(t *testing.T) {
	t.Parallel()
	want := `
submit: durable submits
                             min  median     max  baseline  ratio  target
  jobs             jobs/s  9,000  11,000  12,500    11,000   1.00  >= 10,000  met
  one submit, p99  ms       12.5    12.5    12.5         5   2.50  < 10       not met
  size             MiB         8       8       8                   <= 8       met
  baseline: the minimal program
  the client used 12 µs
`
	var out strings.Builder
	printGroup(&out, exampleGroup())
	if got := out.String(); got != want {
		t.Errorf("the table is\n%s\nwant\n%s", got, want)
	}
}

func TestTableSaysWhichFiguresABaselineBelongsTo(t *testing.T) {
	t.Parallel()
	g := &Group{Name: "noop", Title: "no-op"}
	g.figure("jobs", "jobs/s").against("spawn limit").add(1, 2)
	g.figure("jobs, again", "jobs/s").against("minimal").add(1, 2)
	g.settle()
	var out strings.Builder
	printGroup(&out, g)
	for _, want := range []string{"  baseline: spawn limit (jobs)\n", "  baseline: minimal (jobs, again)\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

func TestTableSaysWhatWasSkippedAndWhatFailed(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	printGroup(&out, &Group{Name: "transcode", Title: "a command", Skipped: "ffmpeg is not installed"})
	printGroup(&out, &Group{Name: "noop", Title: "no-op", Failed: "a job failed"})
	want := "\ntranscode: a command\n  skipped: ffmpeg is not installed\n\nnoop: no-op\n  failed: a job failed\n"
	if got := out.String(); got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
}

func TestTargets(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		aim  func(*Figure) *Figure
		text string
		met  bool
	}{
		"at least is met at the limit":             {func(f *Figure) *Figure { return f.atLeast(20) }, ">= 20", true},
		"at least is not met below":                {func(f *Figure) *Figure { return f.atLeast(20.5) }, ">= 20.5", false},
		"at most is met at the limit":              {func(f *Figure) *Figure { return f.atMost(20) }, "<= 20", true},
		"at most is not met above":                 {func(f *Figure) *Figure { return f.atMost(19) }, "<= 19", false},
		"below is not met at the limit":            {func(f *Figure) *Figure { return f.below(20) }, "< 20", false},
		"a ratio compares within rounds":           {func(f *Figure) *Figure { return f.ratioAtLeast(2) }, ">= 2x", true},
		"a ratio is not met below":                 {func(f *Figure) *Figure { return f.ratioAtLeast(2.1) }, ">= 2.10x", false},
		"a factor and more is met at the limit":    {func(f *Figure) *Figure { return f.atMostOf(1.5, 5) }, "<= 1.50x + 5 = 20", true},
		"a factor and more is not met beyond it":   {func(f *Figure) *Figure { return f.atMostOf(1.5, 4) }, "<= 1.50x + 4 = 19", false},
		"a figure without a target states nothing": {func(f *Figure) *Figure { return f }, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := &Group{}
			f := c.aim(g.figure("f", "ms").against("b"))
			for _, round := range [][2]float64{{10, 5}, {20, 10}, {30, 15}} {
				f.add(round[0], round[1])
			}
			g.settle()
			if c.text == "" {
				if f.Target != nil {
					t.Errorf("target = %+v, want none", *f.Target)
				}
				return
			}
			if want := (Target{c.text, c.met}); f.Target == nil || *f.Target != want {
				t.Errorf("target = %+v, want %+v", f.Target, want)
			}
		})
	}
}

func TestAFigureThatWasNotMeasuredIsLeftOut(t *testing.T) {
	t.Parallel()
	g := &Group{}
	g.figure("not measured", "MiB").atMost(5) // as zero it would meet its target
	g.figure("measured", "MiB").add(1)
	g.settle()
	if len(g.Figures) != 1 || g.Figures[0].Name != "measured" {
		t.Errorf("%d figures are left, want only the one that was measured", len(g.Figures))
	}
}

func TestReportIsWrittenAsJSON(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "results.json")
	if err := (&Report{Rounds: 3, Groups: []*Group{exampleGroup()}}).write(file); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Groups []struct {
			Figures []struct {
				Median   float64
				Ratio    *Spread
				Target   *Target
				Baseline *struct {
					Name   string
					Median float64
				}
			}
		}
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	f := got.Groups[0].Figures[0]
	if f.Median != 11000 || f.Ratio.Median != 1 || f.Ratio.Max != 1.25 || !f.Target.Met || f.Baseline.Name != "the minimal program" || f.Baseline.Median != 11000 {
		t.Errorf("the first figure is %+v", f)
	}
}
