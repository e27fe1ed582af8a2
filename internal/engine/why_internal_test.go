package engine

import (
	"slices"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
)

func TestALengthOfTimeIsWrittenAsOneSaysIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		d    time.Duration
		want string
	}{
		{-time.Second, "0 ms"},
		{12 * time.Millisecond, "12 ms"},
		{1234 * time.Millisecond, "1.2 s"},
		{10 * time.Second, "10 s"},
		{time.Minute, "1 min"},
		{90 * time.Second, "1 min 30 s"},
		{time.Hour - time.Second, "59 min 59 s"},
		{time.Hour - 20*time.Millisecond, "1 h"},
		{time.Hour, "1 h"},
		{time.Hour + 5*time.Minute + 29*time.Second, "1 h 5 min"},
		{27248 * time.Hour, "1135 days"},
	} {
		if got := spoken(c.d); got != c.want {
			t.Errorf("%v: got %q, want %q", c.d, got, c.want)
		}
	}
}

func TestWhatIsSaidOfAFinishedJobIsSaidOnce(t *testing.T) {
	t.Parallel()
	const message = "The command exited with status 1. Its output should say why."
	w := &dayfly.Why{}
	whyFinished(w, &store.Job{
		State: dayfly.Failed, Reason: dayfly.ReasonExitNonzero, Message: message,
		AttemptLog: []*store.Attempt{
			{Number: 1, Provider: "local", State: dayfly.AttemptNeverStarted, Message: "No agent called."},
			{Number: 2, Provider: "local", State: dayfly.AttemptFailed, Message: message, Started: true, RunMS: 1200, Machine: &store.Machine{Name: "m"}},
		},
	})
	want := []string{
		"It failed: the command exited with status 1. Its output should say why.",
		"Attempt 1 never started on local. No agent called.",
		"Attempt 2 failed after 1.2 s on local, machine m.",
	}
	if !slices.Equal(w.Answers, want) {
		t.Errorf("answers: got %q, want %q", w.Answers, want)
	}
	if w.Next == "" {
		t.Error("next: got nothing, want what to do")
	}
}
