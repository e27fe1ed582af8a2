package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	quick    bool
	only     string
	rounds   int
	json     string
	dayfly   string
	profile  string
	artifact int // MiB
	limit    time.Duration
}

// bench is one run.
type bench struct {
	*workshop
	counts
	rounds int
	err    io.Writer // for what happens meanwhile
}

// counts are how much of everything is measured.
type counts struct {
	submits  int   // jobs submitted in one round
	starts   int   // jobs started one after the other in one round
	noops    int   // no-op jobs in one round
	spawns   int   // bare starts in one round
	backlog  int   // jobs queued behind a gate
	shallow  int   // the same for the baseline
	drained  int   // of them, run in one round
	flies    int   // machines of Fly's API in one round
	memoried int   // jobs run between two looks at the memory
	artifact int64 // bytes of the large file
	clip     int   // seconds of sound to transcode

	calls   int           // warm calls in one round
	larges  int           // of them, with 1 MiB
	crowded int           // calls of 64 callers at once
	colds   int           // calls that boot a runner
	idles   int           // idle runners of one parent
	kills   int           // runners killed
	silence time.Duration // after which the other side is lost

	settling time.Duration // how long a server is left alone before its memory is looked at
}

// measurement is one group of figures.
type measurement struct {
	name  string
	title string
	run   func(context.Context, *bench, *Group) error
}

// measurements are all there are, in the order in which they are made.
func measurements() []measurement {
	return []measurement{
		{"size", "what is to be installed", measureSize},
		{"submit", "durable submits over HTTP on 16 connections", measureSubmit},
		{"start", "from submitting a job to its code running, one job at a time", measureStart},
		{"docker", "from submitting a job to its code running in a container, one job at a time", measureDocker},
		{"noop", "/bin/true as a job, from the first submit to the last end", measureNoop},
		{"backlog", "running no-op jobs out of a long queue and out of a short one", measureBacklog},
		{"memory", "resident memory", measureMemory},
		{"flyapi", "machines of Fly's API over processes of this computer", measureFlyAPI},
		{"calls", "functions called in other processes of this computer", measureCalls},
		{"artifact", "one large file in, out and made by a job", measureArtifact},
		{"transcode", "a real command with a file in and a file out", measureTranscode},
	}
}

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "minimal":
			exit(runMinimal(os.Args[2:]))
		case "files":
			exit(runFiles(os.Args[2:]))
		}
	}
	exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// exit ends the program, with a complaint if there is an error.
func exit(err error) {
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parse(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.quick, "quick", false, "small counts: shows within a minute that everything works, says nothing about speed")
	flags.StringVar(&o.only, "only", "", "make only these measurements: `NAME[,NAME]` of "+strings.Join(names(), ", "))
	flags.IntVar(&o.rounds, "rounds", 3, "how often everything is measured")
	flags.StringVar(&o.json, "json", "bench/results.json", "the `FILE` to write the results to; empty: none")
	flags.StringVar(&o.dayfly, "dayfly", "", "the dayfly `PROGRAM` to measure, with dayfly-agent beside it (default: build both)")
	flags.StringVar(&o.profile, "profile", "", "write CPU profiles of the server and of its supervisors to this `DIR`")
	flags.IntVar(&o.artifact, "artifact-size", 0, "the size of the large file in `MiB` (default 1024, or 16 with -quick)")
	flags.DurationVar(&o.limit, "timeout", 45*time.Minute, "give up after this long")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case flags.NArg() > 0:
		return nil, fmt.Errorf("%q is no flag; see -help", flags.Arg(0))
	case o.rounds < 1 || o.rounds > 100:
		return nil, fmt.Errorf("-rounds %d is not between 1 and 100", o.rounds)
	case o.artifact < 0 || o.artifact > 64<<10:
		return nil, fmt.Errorf("-artifact-size %d is not between 1 and %d", o.artifact, 64<<10)
	case o.profile != "" && o.dayfly != "":
		return nil, errors.New("-profile measures a program that is built for it and does not go with -dayfly")
	}
	if o.quick {
		rounds := false
		flags.Visit(func(f *flag.Flag) { rounds = rounds || f.Name == "rounds" })
		if !rounds {
			o.rounds = 1
		}
	}
	if o.artifact == 0 {
		o.artifact = 1024
		if o.quick {
			o.artifact = 16
		}
	}
	return o, nil
}

func names() []string {
	var all []string
	for _, m := range measurements() {
		all = append(all, m.name)
	}
	return all
}

// chosen returns the measurements that -only names, or all.
func chosen(only string) ([]measurement, error) {
	if only == "" {
		return measurements(), nil
	}
	var out []measurement
	for name := range strings.SplitSeq(only, ",") {
		before := len(out)
		for _, m := range measurements() {
			if m.name == name {
				out = append(out, m)
			}
		}
		if len(out) == before {
			return nil, fmt.Errorf("there is no measurement %q; there are %s", name, strings.Join(names(), ", "))
		}
	}
	return out, nil
}

func (o *options) counts() counts {
	c := counts{
		submits: 20_000, starts: 200, noops: 5_000, spawns: 3_000,
		backlog: 100_000, shallow: 1_000, drained: 1_000, memoried: 10_000, clip: 240, flies: 500,
		calls: 20_000, larges: 1_000, crowded: 500_000, colds: 50, idles: 1_000, kills: 20, silence: 15 * time.Second,
		settling: 3 * time.Second,
	}
	if o.quick {
		c = counts{
			submits: 500, starts: 15, noops: 100, spawns: 200,
			backlog: 2_000, shallow: 100, drained: 100, memoried: 100, clip: 10, flies: 50,
			calls: 400, larges: 50, crowded: 5_000, colds: 5, idles: 50, kills: 3, silence: time.Second,
			settling: 300 * time.Millisecond,
		}
	}
	c.artifact = int64(o.artifact) << 20
	return c
}

// run makes the measurements and returns an error if something did not work.
func run(args []string, stdout, stderr io.Writer) (err error) {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	list, err := chosen(o.only)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, o.limit, fmt.Errorf("not done after %v", o.limit))
	defer cancel()

	shop, err := newWorkshop()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shop.clear()) }()
	report := &Report{Started: time.Now().UTC(), Machine: describeMachine(), Rounds: o.rounds, Quick: o.quick}
	fmt.Fprintln(stderr, "bench: building")
	if err := shop.equip(ctx, o); err != nil {
		return err
	}
	b := &bench{workshop: shop, counts: o.counts(), rounds: o.rounds, err: stderr}
	printHeader(stdout, report)
	failed := b.measure(ctx, list, report, stdout)
	if o.json != "" {
		if err := report.write(o.json); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "\nwritten to %s\n", o.json)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("stopped: %w", context.Cause(ctx))
	}
	if len(failed) > 0 {
		return fmt.Errorf("these did not work: %s", strings.Join(failed, ", "))
	}
	return nil
}

// measure makes measurements one after the other, each with servers of its own, and returns the names of those that
// did not work. One that does not work does not keep the next from being made.
func (b *bench) measure(ctx context.Context, list []measurement, report *Report, stdout io.Writer) (failed []string) {
	for _, m := range list {
		if ctx.Err() != nil {
			break
		}
		fmt.Fprintf(b.err, "bench: %s\n", m.name)
		group := &Group{Name: m.name, Title: m.title}
		report.Groups = append(report.Groups, group)
		if err := m.run(ctx, b, group); err != nil {
			group.Failed = err.Error()
			failed = append(failed, m.name)
		}
		group.settle()
		printGroup(stdout, group)
	}
	return failed
}

func printHeader(w io.Writer, r *Report) {
	m := r.Machine
	fmt.Fprintf(w, "Dayfly benchmarks, %s\n", r.Started.Format("2006-01-02 15:04 MST"))
	fmt.Fprintf(w, "%s/%s, %d CPUs (%s), %d MiB, %s; load before: %s\n", m.OS, m.Arch, m.CPUs, m.CPU, m.MemoryMB, m.Go, m.Load)
	fmt.Fprintf(w, "Rounds: %d. Ratios are subject to baseline, round by round; targets compare medians.\n", r.Rounds)
	if r.Quick {
		fmt.Fprintln(w, "Quick: these counts are too small to say anything about speed.")
	}
}

// eachRound calls fn once per round and says so.
func (b *bench) eachRound(ctx context.Context, fn func(round int) error) error {
	for round := range b.rounds {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		fmt.Fprintf(b.err, "bench:   round %d of %d\n", round+1, b.rounds)
		if err := fn(round); err != nil {
			return err
		}
	}
	return nil
}
