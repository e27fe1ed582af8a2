package main

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"time"
)

// sample is what the pool was like at one moment.
type sample struct {
	At      time.Duration // since the program began
	Booting int           // runners on their way
	Up      int           // runners that can work
	Busy    int           // those of them that do
	Running int           // calls that have a slot
	Queued  int           // calls that wait for one
	Done    int           // thumbnails made so far
}

// The plot, in pixels: two panels above each other on one axis of time.
const (
	plotWidth   = 960
	plotLeft    = 64
	plotRight   = plotWidth - 150
	runnersTop  = 56
	panelHeight = 150
	callsTop    = runnersTop + panelHeight + 56
	plotHeight  = callsTop + panelHeight + 56
)

// line is one figure of the samples and how it is drawn.
type line struct {
	name  string
	class string
	value func(sample) int
	area  bool
}

func runnerLines() []line {
	return []line{
		{"up", "up", func(s sample) int { return s.Up }, true},
		{"busy", "busy", func(s sample) int { return s.Busy }, true},
		{"booting", "booting", func(s sample) int { return s.Booting }, false},
	}
}

func callLines() []line {
	return []line{
		{"waiting", "waiting", func(s sample) int { return s.Queued }, true},
		{"running", "running", func(s sample) int { return s.Running }, false},
	}
}

// writePlot draws the runners and the calls over time as an SVG image that needs nothing else to be looked at.
func writePlot(w io.Writer, samples []sample) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintln(out, `<style>
  .page { fill: #fff } text { fill: #333 } .title { font-size: 15px; font-weight: 600 } .grid { stroke: #ddd } .axis { stroke: #888 }
  polyline { fill: none; stroke-width: 2; stroke-linejoin: round } polygon { stroke: none; opacity: .25 }
  .up { stroke: #2b6cb0; fill: #2b6cb0 } .busy { stroke: #2f855a; fill: #2f855a } .booting { stroke: #dd6b20; stroke-dasharray: 4 3 }
  .waiting { stroke: #c53030; fill: #c53030 } .running { stroke: #2f855a }
  polyline.up, polyline.busy, polyline.waiting { fill: none }
</style>`)
	fmt.Fprintf(out, `<rect class="page" width="%d" height="%d"/>`+"\n", plotWidth, plotHeight)

	end := time.Second
	done := 0
	if n := len(samples); n > 0 {
		end, done = max(end, samples[n-1].At), samples[n-1].Done
	}
	drawPanel(out, runnersTop, "Runners", runnerLines(), samples, end)
	drawPanel(out, callsTop, "Calls", callLines(), samples, end)
	fmt.Fprintf(out, `<text class="title" x="%d" y="24">Runners come with the work and go when it is done: %d thumbnails in %s</text>`+"\n",
		plotLeft, done, end.Round(time.Second))

	step := niceStep(end.Seconds(), 8)
	for t := 0.0; t <= end.Seconds(); t += step {
		fmt.Fprintf(out, `<text x="%.1f" y="%d" text-anchor="middle">%g s</text>`+"\n", across(t, end), callsTop+panelHeight+20, t)
	}
	fmt.Fprintln(out, `</svg>`)
	return out.Flush()
}

func drawPanel(out io.Writer, top int, title string, lines []line, samples []sample, end time.Duration) {
	highest := 1
	for _, s := range samples {
		for _, l := range lines {
			highest = max(highest, l.value(s))
		}
	}
	step := max(1, niceStep(float64(highest), 4))
	ceiling := step * math.Ceil(float64(highest)/step)
	up := func(v float64) float64 { return float64(top) + panelHeight*(1-v/ceiling) }

	for v := 0.0; v <= ceiling; v += step {
		fmt.Fprintf(out, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`, plotLeft, plotRight, up(v), up(v))
		fmt.Fprintf(out, `<text x="%d" y="%.1f" text-anchor="end">%g</text>`+"\n", plotLeft-8, up(v)+4, v)
	}
	fmt.Fprintf(out, `<line class="axis" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`+"\n", plotLeft, plotRight, up(0), up(0))
	fmt.Fprintf(out, `<text x="%d" y="%d" font-weight="600">%s</text>`+"\n", plotLeft, top-10, title)

	for i, l := range lines {
		y := top + 14 + 20*i
		fmt.Fprintf(out, `<polyline class="%s" points="%d,%d %d,%d"/><text x="%d" y="%d">%s</text>`+"\n",
			l.class, plotRight+16, y-4, plotRight+40, y-4, plotRight+48, y, l.name)
		points := steps(samples, l.value, end, up)
		if l.area {
			fmt.Fprintf(out, `<polygon class="%s" points="%.1f,%.1f %s %.1f,%.1f"/>`+"\n",
				l.class, across(0, end), up(0), points, across(end.Seconds(), end), up(0))
		}
		fmt.Fprintf(out, `<polyline class="%s" points="%s"/>`+"\n", l.class, points)
	}
}

// steps returns the corners of a line that stays where it is until the next sample: a runner is there or it is not,
// and never one half of it.
func steps(samples []sample, value func(sample) int, end time.Duration, up func(float64) float64) string {
	var points []byte
	last := 0.0
	for _, s := range samples {
		x, y := across(s.At.Seconds(), end), float64(value(s))
		points = fmt.Appendf(points, "%.1f,%.1f %.1f,%.1f ", x, up(last), x, up(y))
		last = y
	}
	return string(fmt.Appendf(points, "%.1f,%.1f", across(end.Seconds(), end), up(last)))
}

// across returns where a second of the axis of time is.
func across(seconds float64, end time.Duration) float64 {
	return plotLeft + (plotRight-plotLeft)*seconds/end.Seconds()
}

// niceStep returns 1, 2 or 5 times a power of ten such that about n steps cover the span.
func niceStep(span float64, n int) float64 {
	rough := span / float64(n)
	power := math.Pow(10, math.Floor(math.Log10(rough)))
	for _, m := range []float64{1, 2, 5} {
		if rough <= m*power {
			return m * power
		}
	}
	return 10 * power
}
