package server_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/hostshell"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/machinetest"
	"github.com/dayfly-run/dayfly/machine/memmachine"
	"github.com/dayfly-run/dayfly/server"
)

// hireServer returns a server with one provider, in whose machines real programs run.
func hireServer(t *testing.T, change func(*server.Options)) (*server.Server, *memmachine.Cloud) {
	t.Helper()
	shell := hostshell.Shell{Dir: t.TempDir()}
	p := memmachine.New(&memmachine.Options{Guest: func(ctx context.Context, spec *machine.Spec) machine.Exit {
		if spec.Program != nil {
			spec.Command = append([]string{spec.Program.File}, spec.Program.Args...)
		}
		return shell.Guest(ctx, spec)
	}})
	t.Cleanup(p.Cloud().Close)
	o := server.Options{DataDir: filepath.Join(t.TempDir(), "data"), Listen: []string{"127.0.0.1:0"}, Providers: map[string]machine.Provider{"mem": p},
		MaxMachines: map[string]int{"mem": 100}}
	if change != nil {
		change(&o)
	}
	s, _ := start(t, o)
	c := client(t, s, s.Token())
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, err := c.Provider("mem").List(t.Context(), "nobody"); err == nil {
			return s, p.Cloud()
		} else if time.Now().After(deadline) {
			t.Fatalf("the server hires nothing out: %v", err)
		}
	}
}

// TestProviderOfHiredMachines runs the suite against machines that a real server hires out.
func TestProviderOfHiredMachines(t *testing.T) {
	t.Parallel()
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	s, _ := hireServer(t, nil)
	connect := func(t *testing.T) machine.Provider { return client(t, s, s.Token()).Provider("mem") }
	machinetest.Run(t, machinetest.Harness{
		New:     connect,
		Reopen:  func(t *testing.T, _ machine.Provider) machine.Provider { return connect(t) },
		Spec:    machine.Spec{Command: []string{"sh", "-c", "sleep 600"}},
		Exits:   machine.Spec{Command: []string{"sh", "-c", "exit $CODE"}},
		Script:  machine.Spec{Command: []string{"sh", "-c", `eval "$SCRIPT"`}},
		Program: machine.Spec{Program: &machine.Program{File: shell, Args: []string{"-c", `eval "$SCRIPT"`}}},
		Refused: []machine.Spec{{Agent: &machine.Agent{URL: "http://127.0.0.1:1", Attempt: "a", Token: "t"}}},
		Settle:  5 * time.Second, Parallel: true,
	})
}

func hired(name string) *machine.Spec {
	return &machine.Spec{Name: name, Owner: "calls-thumbnails", Lifetime: time.Minute, Command: []string{"sh", "-c", "sleep 600"}}
}

func TestHiredMachinesAreShownAndCounted(t *testing.T) {
	t.Parallel()
	s, _ := hireServer(t, func(o *server.Options) { o.MaxMachines["mem"] = 2 })
	c := client(t, s, s.Token())
	p := c.Provider("mem")
	m, err := p.Create(t.Context(), hired("runner-1"))
	if err != nil {
		t.Fatalf("Create: got error %v, want a machine", err)
	}
	if _, err := p.Create(t.Context(), hired("runner-2")); err != nil {
		t.Fatalf("Create of a second: got error %v, want a machine", err)
	}
	if _, err := p.Create(t.Context(), hired("runner-3")); !errors.Is(err, fault.Exhausted) || !strings.Contains(err.Error(), "max_machines") {
		t.Errorf("Create of one too many: got error %v, want fault.Exhausted that names max_machines", err)
	}
	if again, err := p.Create(t.Context(), hired("runner-1")); err != nil || again.ID != m.ID {
		t.Errorf("Create of one that exists, without room: got %v and error %v, want the same machine", again, err)
	}
	shown := map[string]string{}
	for m, err := range c.Machines(t.Context(), false) {
		if err != nil {
			t.Fatal(err)
		}
		shown[m.Name] = m.HiredBy + " " + m.State + " " + m.Provider
	}
	if want := "calls-thumbnails present mem"; len(shown) != 2 || shown["runner-1"] != want {
		t.Errorf("Machines: got %v, want two, the first as %q", shown, want)
	}
	job, err := c.Submit(t.Context(), &dayfly.JobSpec{Command: []string{"true"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	why, err := c.Why(t.Context(), job.ID)
	if err != nil || !strings.Contains(strings.Join(why.Answers, " "), "2 of 2") {
		t.Errorf("Why a job waits: got %+v and error %v, want that there are 2 of 2 machines", why, err)
	}
	if _, err := c.Cancel(t.Context(), job.ID); err != nil { // or it would have the room
		t.Fatal(err)
	}
	if err := p.Destroy(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Create(t.Context(), hired("runner-3")); err != nil {
		t.Errorf("Create when there is room again: got error %v, want a machine", err)
	}
}

func TestHiredMachinesAreDestroyedWhenTheirHolderIsSilent(t *testing.T) {
	t.Parallel()
	s, cloud := hireServer(t, func(o *server.Options) { o.HireLease = 400 * time.Millisecond })
	silent, heard := client(t, s, s.Token()).Provider("mem"), client(t, s, s.Token()).Provider("mem")
	if _, err := silent.Create(t.Context(), hired("runner-1")); err != nil {
		t.Fatalf("Create: got error %v, want a machine", err)
	}
	kept, err := heard.Create(t.Context(), hired("runner-2"))
	if err != nil {
		t.Fatalf("Create: got error %v, want a machine", err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		// To whom it belongs does not matter, but who asks: each process of a pool holds its own.
		if _, err := heard.List(t.Context(), "calls-thumbnails"); err != nil {
			t.Fatal(err)
		}
		if all := cloud.Machines(); len(all) == 1 && all[0].Name == kept.Name {
			return
		} else if len(all) == 0 || time.Now().After(deadline) {
			t.Fatalf("got the machines %v, want that of the holder who is heard of and no other", all)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestHiringNeedsItsScopeAndLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	s, cloud := hireServer(t, func(o *server.Options) { o.RequireToken = true })
	main := client(t, s, s.Token())
	for scope, want := range map[string]fault.Kind{"submit": fault.Denied, "hire": ""} {
		token, err := main.CreateToken(t.Context(), scope, []string{scope}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client(t, s, token.Secret).Provider("mem").Create(t.Context(), hired("runner-"+scope))
		if fault.Of(err) != want {
			t.Errorf("Create with the scope %s: got error %v, want kind %q", scope, err, want)
		}
	}
	if _, err := client(t, s, "").Provider("mem").List(t.Context(), "calls-thumbnails"); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("List without a token: got error %v, want fault.Unauthenticated", err)
	}
	if _, err := main.Provider("nowhere").List(t.Context(), "calls-thumbnails"); !errors.Is(err, fault.Invalid) {
		t.Errorf("List of a provider that there is not: got error %v, want fault.Invalid", err)
	}
	// What one token has hired does not exist for another, but for one of the same name.
	var made *machine.Machine
	for _, name := range []string{"hire", "other"} {
		if name == "hire" { // the token is replaced
			if err := main.RevokeToken(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		token, err := main.CreateToken(t.Context(), name, []string{"hire"}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		list, err := client(t, s, token.Secret).Provider("mem").List(t.Context(), "calls-thumbnails")
		if err != nil || len(list) != map[string]int{"hire": 1, "other": 0}[name] {
			t.Errorf("List with the token %s: got %v and error %v, want what a token of that name has hired", name, list, err)
		}
		if name == "hire" && len(list) == 1 {
			made = list[0]
		}
	}
	if made == nil {
		t.Fatal("the machine that was hired is not listed")
	}
	if _, err := main.Provider("mem").Get(t.Context(), made.ID); !errors.Is(err, fault.NotFound) {
		t.Errorf("Get of what another token has hired: got error %v, want fault.NotFound", err)
	}
	if err := main.Provider("mem").Destroy(t.Context(), made.ID); err != nil {
		t.Errorf("Destroy of what another token has hired: got error %v, want none", err)
	}
	if _, err := cloud.Connect().Get(t.Context(), made.ID); err != nil {
		t.Errorf("a hired machine after another token wanted it destroyed: got error %v, want that it is there", err)
	}
	// A machine that is none of the hired ones does not exist for who hires.
	other, err := cloud.Connect().Create(t.Context(), &machine.Spec{Name: "job", Owner: "dayfly-other", Lifetime: time.Minute, Command: []string{"sh", "-c", "sleep 600"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := main.Provider("mem").Get(t.Context(), other.ID); !errors.Is(err, fault.NotFound) {
		t.Errorf("Get of a machine of a job: got error %v, want fault.NotFound", err)
	}
	if err := main.Provider("mem").Destroy(t.Context(), other.ID); err != nil {
		t.Errorf("Destroy of a machine of a job: got error %v, want none", err)
	}
	if _, err := cloud.Connect().Get(t.Context(), other.ID); err != nil {
		t.Errorf("a machine of a job after somebody who hires wanted it destroyed: got error %v, want that it is there", err)
	}
}

func TestWhatAMachinePrintsIsShownWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	s, _ := hireServer(t, nil)
	var cut atomic.Bool
	transport := roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err == nil && cut.Load() {
			resp.Body = &cutBody{resp.Body, 100_000}
		}
		return resp, err
	})
	c, err := dayfly.NewClient(s.URL(), &dayfly.ClientOptions{Token: s.Token(), HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	p := c.Provider("mem")
	spec := hired("runner-1")
	spec.Command = []string{"sh", "-c", "head -c 300000 /dev/zero | tr '\\000' x; echo err >&2"}
	m, err := p.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	exits(t, p, m.ID)
	var out, errs bytes.Buffer
	if err := p.Logs(t.Context(), m.ID, true, &out, &errs); err != nil || out.String() != strings.Repeat("x", 300_000) || errs.String() != "err\n" {
		t.Errorf("Logs: got %d and %d bytes and error %v, want 300000 and 4", out.Len(), errs.Len(), err)
	}
	cut.Store(true)
	out.Reset()
	if err := p.Logs(t.Context(), m.ID, false, &out, nil); !errors.Is(err, fault.Unavailable) || out.Len() == 0 {
		t.Errorf("Logs over a connection that breaks: got %d bytes and error %v, want a beginning and fault.Unavailable", out.Len(), err)
	}
	cut.Store(false)
	if err := p.Logs(t.Context(), m.ID+"x", false, &out, nil); !errors.Is(err, fault.NotFound) {
		t.Errorf("Logs of no machine: got error %v, want fault.NotFound", err)
	}
	full := errors.New("the disk is full")
	if err := p.Logs(t.Context(), m.ID, false, failing{full}, nil); !errors.Is(err, full) {
		t.Errorf("Logs with a writer that fails: got error %v, want its own", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestWhatIsPreparedForAHiredMachineIsReported(t *testing.T) {
	t.Parallel()
	s, cloud := hireServer(t, nil)
	p := client(t, s, s.Token()).Provider("mem")
	steps := []machine.Preparation{{Text: "pulling debian:12", Done: 1, Total: 2}, {Text: "pulling debian:12", Done: 2, Total: 2}}
	cloud.Fail(memmachine.Prepare, memmachine.Progress(steps...)).Times(1)
	var got []machine.Preparation
	if err := machine.Prepare(t.Context(), p, hired("runner-1"), func(step machine.Preparation) { got = append(got, step) }); err != nil || !slices.Equal(got, steps) {
		t.Errorf("Prepare: got %v and error %v, want %v", got, err, steps)
	}
	cloud.Fail(memmachine.Prepare, func(ctx context.Context, c *memmachine.Call) error {
		c.Report(steps[0])
		return fault.Say(fault.Invalid, "there is no image debian:12")
	}).Times(1)
	err := machine.Prepare(t.Context(), p, hired("runner-1"), nil)
	if !errors.Is(err, fault.Invalid) || err.Error() != "there is no image debian:12" {
		t.Errorf("Prepare that fails after its first report: got error %v, want the provider's", err)
	}
}
