package api_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/api"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

func TestThePhasesOfAnAttemptAddUp(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 31, 18, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	const none = -1 // the phase is missing
	for name, test := range map[string]struct {
		attempt store.Attempt
		want    [5]float64 // queued, creating, booting, running, finishing
	}{
		"asked for": {
			store.Attempt{State: dayfly.AttemptCreating, CreatedAt: at(100)},
			[5]float64{100, 9900, none, none, none},
		},
		"booting": {
			store.Attempt{State: dayfly.AttemptBooting, CreatedAt: at(100), BootedAt: at(300)},
			[5]float64{100, 200, 9700, none, none},
		},
		"running": {
			store.Attempt{State: dayfly.AttemptRunning, CreatedAt: at(100), BootedAt: at(300), ClaimedAt: at(1000)},
			[5]float64{100, 200, 700, 9000, none},
		},
		"claimed before the provider answered": {
			store.Attempt{State: dayfly.AttemptRunning, CreatedAt: at(100), BootedAt: at(800), ClaimedAt: at(400)},
			[5]float64{100, 300, 0, 9600, none},
		},
		"claimed, and the provider never answered": {
			store.Attempt{State: dayfly.AttemptRunning, CreatedAt: at(100), ClaimedAt: at(400)},
			[5]float64{100, 300, 0, 9600, none},
		},
		"succeeded": {
			store.Attempt{State: dayfly.AttemptSucceeded, CreatedAt: at(100), BootedAt: at(300), ClaimedAt: at(1000), EndedAt: at(6000), Started: true, FetchMS: 500, RunMS: 4000, FinishMS: 450},
			[5]float64{100, 200, 1200, 4000, 500},
		},
		"an input was missing": {
			store.Attempt{State: dayfly.AttemptFailed, CreatedAt: at(100), BootedAt: at(300), ClaimedAt: at(1000), EndedAt: at(2000), FetchMS: 900},
			[5]float64{100, 200, 1700, none, none},
		},
		"lost": {
			store.Attempt{State: dayfly.AttemptLost, CreatedAt: at(100), BootedAt: at(300), ClaimedAt: at(1000), EndedAt: at(5000)},
			[5]float64{100, 200, 700, 4000, none},
		},
		"never started": {
			store.Attempt{State: dayfly.AttemptNeverStarted, CreatedAt: at(100), BootedAt: at(300), EndedAt: at(5000)},
			[5]float64{100, 200, 4700, none, none},
		},
		"refused": {
			store.Attempt{State: dayfly.AttemptNeverStarted, CreatedAt: at(100), EndedAt: at(150)},
			[5]float64{100, 50, none, none, none},
		},
		"the clock was set back": {
			store.Attempt{State: dayfly.AttemptSucceeded, CreatedAt: at(-500), BootedAt: at(-900), ClaimedAt: at(-1000), EndedAt: at(-2000), Started: true, RunMS: 50},
			[5]float64{0, 0, 0, 50, 0},
		},
		"the agent's clock runs fast": {
			store.Attempt{State: dayfly.AttemptSucceeded, CreatedAt: at(100), ClaimedAt: at(200), EndedAt: at(300), Started: true, FetchMS: 80, RunMS: 80},
			[5]float64{100, 100, 80, 80, 0},
		},
	} {
		g := newRig(t, func(o *api.Options) { o.Now = func() time.Time { return at(10_000) } })
		g.engine.addJob("job_a", dayfly.Running, "att_1")
		g.engine.change("job_a", func(j *jobRow) {
			test.attempt.ID, test.attempt.Number, test.attempt.QueuedAt = "att_1", 1, start
			j.AttemptLog[0] = &test.attempt
		})
		p := decode[dayfly.Job](t, g.do("GET", "/v1/jobs/job_a", ""), 200).Attempts[0].Phases
		for i, got := range []*float64{p.Queued, p.Creating, p.Booting, p.Running, p.Finishing} {
			value := float64(none)
			if got != nil {
				value = *got
			}
			if value != test.want[i] {
				t.Errorf("%s: %s took %v ms, want %v", name, []string{"queued", "creating", "booting", "running", "finishing"}[i], value, test.want[i])
			}
		}
	}
}

func TestAJobIsShownWithWhatItsAttemptsLeft(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.engine.addJob("job_a", dayfly.Failed, "att_1", "att_2")
	g.store("artifacts/job_a/att_2/dir/out ü.txt", "made", "text/plain")
	code := 3
	local := time.FixedZone("somewhere", 3600)
	g.engine.change("job_a", func(j *jobRow) {
		j.ExitCode, j.Reason, j.Message, j.Result = &code, dayfly.ReasonExitNonzero, "It exited with status 3.", []byte(`{"a":[1]}`)
		j.FinishedAt, j.CancelRequestedAt = time.Now().In(local), time.Now()
		j.Artifacts = []dayfly.Artifact{{Name: "dir/out ü.txt", Size: 4, SHA256: sum("made")}}
		a := j.AttemptLog[1]
		a.Exit = &machine.Exit{Code: -1, Signal: "SIGKILL"}
		a.Machine = &store.Machine{Name: "m", Provider: "local", State: store.MachineGone, GoneAt: time.Now().In(local)}
	})
	got := g.do("GET", "/v1/jobs/job_a", "")
	job := decode[dayfly.Job](t, got, 200)
	if *job.ExitCode != 3 || job.Reason != dayfly.ReasonExitNonzero || string(job.Result) != `{"a":[1]}` || !job.CancelRequested || job.FinishedAt == nil || job.FinishedAt.Location() != time.UTC {
		t.Errorf("the job is shown as %s", got.body)
	}
	a := job.Attempts[1]
	if *a.ExitCode != -1 || a.Signal != "SIGKILL" || a.Machine.Name != "m" || a.Machine.State != "gone" || a.Machine.GoneAt == nil {
		t.Errorf("its last attempt is shown as %+v", a)
	}
	target := strings.TrimPrefix(job.Artifacts[0].DownloadURL, "http://127.0.0.1:7700")
	file := g.do("GET", target, "")
	if file.status != http.StatusOK || string(file.body) != "made" || file.header.Get("Content-Type") != "text/plain" {
		t.Errorf("its artifact downloads as %d %q %v", file.status, file.body, file.header)
	}
}
