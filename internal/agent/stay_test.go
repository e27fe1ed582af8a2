package agent_test

import (
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/agent/memhome"
	"github.com/dayfly-run/dayfly/internal/wire"
)

func TestAnAgentStaysAfterAFailureForAsLongAsItsJobWants(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	link := agent.NewShared("test")
	t.Cleanup(link.Close)
	clock := newClock()

	failing := script("echo left > file; exit 3")
	failing.KeepMS = time.Hour.Milliseconds()
	r := begin(t, home, link, failing, &agent.Options{Clock: clock.now})
	home.Await(r.id, "its result", func(a memhome.Attempt) bool { return a.Result != nil })
	if !r.has("file") {
		t.Error("what the command left: got nothing, want its file")
	}
	select {
	case exit := <-r.exit:
		t.Fatalf("the agent of a failed job that is to be kept ended at once, with %+v", exit)
	case <-time.After(100 * time.Millisecond):
	}
	r.stop() // its machine is destroyed
	r.wait(t)

	brief := script("exit 3")
	brief.KeepMS = 1
	for name, job := range map[string]wire.Assignment{"a job that is kept for a millisecond": brief, "a job that succeeds": script("true")} {
		if job.KeepMS == 0 {
			job.KeepMS = time.Hour.Milliseconds()
		}
		if exit := begin(t, home, link, job, nil).wait(t); exit.Code != 0 {
			t.Errorf("the agent of %s: got %+v, want it to end", name, exit)
		}
	}
}
