package cli

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly"
)

func TestLengthsOfTimeAreForPeople(t *testing.T) {
	t.Parallel()
	for ms, want := range map[float64]string{
		0: "0.0 ms", 0.04: "0.0 ms", 3.14: "3.1 ms", 9.94: "9.9 ms", 9.96: "10 ms", 42.4: "42 ms", 999.4: "999 ms", 999.6: "1.00 s",
		1840: "1.84 s", 59_994: "59.99 s", 59_996: "1 min 00 s", 200_000: "3 min 20 s", 3_599_600: "1 h 00 min", 5_400_000: "1 h 30 min",
	} {
		if got := milliseconds(ms); got != want {
			t.Errorf("milliseconds(%v) = %q, want %q", ms, got, want)
		}
	}
}

func TestSizesAreForPeople(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 9_949: "9.9 kB", 9_950: "10 kB", 720_896: "721 kB", 999_499: "999 kB", 999_500: "1.0 MB",
		5_292_078: "5.3 MB", 12_000_000_000: "12 GB",
	} {
		if got := bytesOf(n); got != want {
			t.Errorf("bytesOf(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestAgesAreForPeople(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "now", -time.Second: "now", 59 * time.Second: "59s ago", 90 * time.Second: "1m ago", 47 * time.Hour: "47h ago", 72 * time.Hour: "3d ago",
	} {
		if got := ago(now.Add(-d), now); got != want {
			t.Errorf("ago(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestBarsBeginWhereTheOnesAboveEnd(t *testing.T) {
	t.Parallel()
	ms := func(v float64) *float64 { return &v }
	phases := phasesOf(dayfly.Phases{Queued: ms(25), Creating: ms(0), Booting: ms(25), Running: ms(50)})
	for unicode, want := range map[bool]string{
		true: `
queued           25 ms  ████████████
creating        0.0 ms              ▏
booting          25 ms              ████████████
running          50 ms                          ████████████████████████
`,
		false: `
queued           25 ms  ############
creating        0.0 ms              |
booting          25 ms              ############
running          50 ms                          ########################
`,
	} {
		var out strings.Builder
		(&program{width: 120, unicode: unicode}).waterfall(&out, "", phases)
		if got := "\n" + out.String(); got != want {
			t.Errorf("got%s, want%s", got, want)
		}
	}
}

func TestEachEndOfAJobHasItsExitCode(t *testing.T) {
	t.Parallel()
	code := func(n int) *int { return &n }
	cases := map[string]struct {
		job  dayfly.Job
		want int
	}{
		"success":                    {dayfly.Job{State: dayfly.Succeeded, ExitCode: code(0)}, 0},
		"the command's own":          {dayfly.Job{State: dayfly.Failed, Reason: dayfly.ReasonExitNonzero, ExitCode: code(42)}, 42},
		"its own, with a full disk":  {dayfly.Job{State: dayfly.Failed, Reason: dayfly.ReasonDiskFull, ExitCode: code(3)}, 3},
		"a signal":                   {dayfly.Job{State: dayfly.Failed, Reason: dayfly.ReasonSignaled, ExitCode: code(-1), Attempts: []dayfly.Attempt{{Signal: "SIGSEGV"}}}, 139},
		"a file that grew too large": {dayfly.Job{State: dayfly.Failed, Reason: dayfly.ReasonDiskFull, ExitCode: code(-1), Attempts: []dayfly.Attempt{{Signal: "SIGXFSZ"}}}, 153},
		"no memory":                  {dayfly.Job{State: dayfly.Failed, Reason: dayfly.ReasonOOMKilled, ExitCode: code(-1)}, 137},
		"the run timeout":            {dayfly.Job{State: dayfly.Failed, Reason: dayfly.ReasonTimeout, ExitCode: code(-1)}, 124},
		"the total timeout":          {dayfly.Job{State: dayfly.Failed, Reason: dayfly.ReasonDeadline}, 124},
		"the cap on its cost":        {dayfly.Job{State: dayfly.Failed, Reason: dayfly.ReasonCostLimit}, 124},
		"the queue timeout":          {dayfly.Job{State: dayfly.Expired, Reason: dayfly.ReasonQueueTimeout}, 124},
		"no such command":            {dayfly.Job{State: dayfly.Failed, Reason: dayfly.ReasonCommandNotFound, ExitCode: code(127)}, 127},
		"no executable command":      {dayfly.Job{State: dayfly.Failed, Reason: dayfly.ReasonCommandNotFound, ExitCode: code(126)}, 126},
		"no command, code unknown":   {dayfly.Job{State: dayfly.Failed, Reason: dayfly.ReasonCommandNotFound}, 125},
		"a lost machine":             {dayfly.Job{State: dayfly.Failed, Reason: dayfly.ReasonMachineLost}, 125},
		"no machine":                 {dayfly.Job{State: dayfly.Failed, Reason: dayfly.ReasonNeverStarted}, 125},
		"an output that is missing":  {dayfly.Job{State: dayfly.Failed, Reason: dayfly.ReasonOutputFailed, ExitCode: code(0)}, 125},
		"a refusal":                  {dayfly.Job{State: dayfly.Failed, Reason: dayfly.ReasonRefused}, 125},
		"a cancel":                   {dayfly.Job{State: dayfly.Canceled, Reason: dayfly.ReasonCanceled}, 130},
	}
	for name, tc := range cases {
		if got := exitCode(&tc.job); got != tc.want {
			t.Errorf("%s: got %d, want %d", name, got, tc.want)
		}
	}
}

func TestALongScriptIsShownAsOneLine(t *testing.T) {
	t.Parallel()
	script := "set -e\nfor i in 1 2 3; do\n\techo $i\ndone\n" + strings.Repeat("echo more\n", 100)
	got := inShort(quoteCommand([]string{"sh", "-c", script}))
	if want := "sh -c 'set -e for i in 1 2 3; do echo $i done echo more"; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "…") || utf8.RuneCountInString(got) != longestCommand {
		t.Errorf("got %q, want %d characters that begin with %q and end with …", got, longestCommand, want)
	}
	if got := inShort("ffmpeg -i in.wav out.mp3"); got != "ffmpeg -i in.wav out.mp3" {
		t.Errorf("a short command: got %q, want all of it", got)
	}
}

func TestCommandsAreShownAsTheyCouldBeTyped(t *testing.T) {
	t.Parallel()
	for want, words := range map[string][]string{
		"ffmpeg -i in.wav out.mp3": {"ffmpeg", "-i", "in.wav", "out.mp3"},
		"sh -c 'echo \"a b\"'":     {"sh", "-c", `echo "a b"`},
		`echo 'it'\''s' ''`:        {"echo", "it's", ""},
	} {
		if got := quoteCommand(words); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
