package docker_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/dockertest"
	"github.com/dayfly-run/dayfly/machine"
)

func TestAnEngineThatIsKilledInTheMiddleOfACreateLeaksNothing(t *testing.T) {
	t.Parallel()
	killedInTheMiddle(t, dockertest.Start(t))
}

func TestAPodmanThatIsKilledInTheMiddleOfACreateLeaksNothing(t *testing.T) {
	t.Parallel()
	killedInTheMiddle(t, dockertest.StartPodman(t))
}

// killedInTheMiddle kills an engine at several moments after it was asked for something, and lets the same machine be made by
// the next one, which must be whole, the only one of its name, and removable.
func killedInTheMiddle(t *testing.T, e *dockertest.Engine) {
	t.Helper()
	image := e.Image(t, "dayfly-test/bb:1")
	f := newFaulty(t, e)
	p := f.provider(t, nil)
	after := func(d time.Duration) func(*machine.Spec) {
		return func(*machine.Spec) { <-time.After(d) }
	}
	for _, moment := range []struct {
		name, path string
		come       func(*machine.Spec) // returns when it has come
	}{
		{"a create at once", "/containers/create", after(0)},
		{"a create a moment later", "/containers/create", after(20 * time.Millisecond)},
		{"a start at once", "/start", after(0)},
		{"a start a moment later", "/start", after(20 * time.Millisecond)},
		{"a start in the middle", "/start", after(60 * time.Millisecond)},
		{"a start that has just begun to run something", "/start", func(spec *machine.Spec) { awaitRunning(t, e, spec.Name) }},
	} {
		spec := fresh(t, e, image, "sleep", "600")
		if err := p.Prepare(t.Context(), spec, nil); err != nil {
			t.Fatalf("Prepare: %v", err)
		}
		f.set(rule{method: "POST", path: moment.path, times: 1, whileItIsServed: func() {
			moment.come(spec)
			e.Kill(t, syscall.SIGKILL)
		}, answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }})
		_, err := p.Create(t.Context(), spec)
		wantFault(t, "Create of an engine that is killed in "+moment.name, err, fault.Unavailable)
		e.Restart(t)
		m, err := p.Create(t.Context(), spec)
		for tries := 0; fault.Of(err) == fault.Unavailable && tries < 5; tries++ { // what was half started is made anew
			m, err = p.Create(t.Context(), spec)
		}
		if err != nil {
			t.Errorf("Create again, after %s: got error %v, want the machine", moment.name, err)
			continue
		}
		if m.State == machine.Exited && moment.path != "/start" { // the next engine may end what the last one started
			t.Errorf("Create again, after %s: got %+v, want a machine that runs", moment.name, m)
		}
		list, err := p.List(t.Context(), spec.Owner)
		if err != nil || len(list) != 1 || list[0].Name != spec.Name {
			t.Errorf("List after %s: got %+v and error %v, want the one machine", moment.name, list, err)
		}
		if err := p.Destroy(t.Context(), m.ID); err != nil {
			t.Errorf("Destroy after %s: got error %v, want nil", moment.name, err)
		}
		left, err := e.Client.ContainerList(t.Context(), client.ContainerListOptions{All: true})
		if err != nil || len(left.Items) != 0 {
			t.Errorf("containers after %s and Destroy: got %+v and error %v, want none", moment.name, left.Items, err)
		}
		alive := processes(t, m) // of an engine that does not know that they run, they end by themselves
		for deadline := time.Now().Add(30 * time.Second); len(alive) > 0 && time.Now().Before(deadline); alive = processes(t, m) {
			<-time.After(50 * time.Millisecond)
		}
		if len(alive) > 0 {
			t.Errorf("processes after %s and Destroy: got %s, want none", moment.name, strings.Join(alive, ", "))
		}
	}
}

// awaitRunning waits until something of a machine runs, as the kernel has it and not the engine.
func awaitRunning(t *testing.T, e *dockertest.Engine, name string) {
	t.Helper()
	found, err := e.Client.ContainerInspect(t.Context(), name, client.ContainerInspectOptions{})
	if err != nil {
		t.Errorf("the container: got error %v, want it to be made", err)
		return
	}
	m := &machine.Machine{Location: "container " + found.Container.ID}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		for _, dir := range processes(t, m) {
			if args, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil && strings.HasPrefix(string(args), "/dayfly/agent\x00") {
				return
			}
		}
	}
	t.Error("got nothing that runs in the container within a minute of its start, want its first process")
}
