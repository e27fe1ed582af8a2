package fly_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/fly"
)

// sent returns the request with which the provider creates the spec's machine.
func sent(t *testing.T, o fly.Options, spec *machine.Spec) map[string]any {
	t.Helper()
	c := newCloud(t)
	o.URL, o.Rate = c.serve().URL, -1
	create(t, fly.New(app, token, &o), spec)
	return c.created(0)
}

// field returns a value inside a request: "config.env.A".
func field(body map[string]any, path string) any {
	var value any = body
	for key := range strings.SplitSeq(path, ".") {
		set, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = set[key]
	}
	return value
}

func TestACreateCarriesEverythingThatTheSpecSays(t *testing.T) {
	t.Parallel()
	spec := staying("m1")
	spec.Image, spec.Command, spec.Env = "debian@sha256:0123", []string{"sh", "-c", "sleep 1 && true"}, map[string]string{"A": "b c"}
	spec.Files = []machine.File{{Path: "/etc/job.json", Data: []byte("{}")}, {Path: "/run.sh", Data: []byte("#!/bin/sh\n\x00"), Mode: 0o755}}
	spec.Size = machine.Size{CPUs: 2, MemoryMB: 1024}
	body := sent(t, fly.Options{Image: "alpine:3", Region: "fra", Size: machine.Size{CPUs: 8}}, spec)
	for path, want := range map[string]any{
		"name":                                    "m1",
		"region":                                  "fra",
		"config.image":                            "debian@sha256:0123",
		"config.guest.cpu_kind":                   "shared",
		"config.guest.cpus":                       2.0,
		"config.guest.memory_mb":                  1024.0,
		"config.env.A":                            "b c",
		"config.init.cmd":                         []any{"sh", "-c", "sleep 1 && true"},
		"config.init.exec":                        nil,
		"config.init.entrypoint":                  nil,
		"config.processes":                        nil,
		"config.metadata.dayfly_owner":            "tests",
		"config.metadata.dayfly_name":             "m1",
		"config.metadata.dayfly_lifetime":         "1h0m0s",
		"config.metadata.dayfly_label_job":        "job_1",
		"config.metadata.dayfly_empty_label_note": "true",
		"config.auto_destroy":                     false,
		"config.restart.policy":                   "no",
		"config.stop_config.signal":               "SIGTERM",
		"config.stop_config.timeout":              "10s",
	} {
		if got := field(body, path); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
	files, _ := field(body, "config.files").([]any)
	if len(files) != 2 {
		t.Fatalf("files: got %v, want two", files)
	}
	for i, want := range []struct {
		path, text string
		mode       float64
	}{{"/etc/job.json", "{}", 0o644}, {"/run.sh", "#!/bin/sh\n\x00", 0o755}} {
		f := files[i].(map[string]any)
		if f["guest_path"] != want.path || raw(f["raw_value"]) != want.text || f["mode"] != want.mode {
			t.Errorf("file %d: got %v, want %+v", i, f, want)
		}
	}
}

func TestWhatRunsFirstIsWhatTheSpecSays(t *testing.T) {
	t.Parallel()
	agent := &machine.Agent{URL: "https://dayfly.example.com", Attempt: "att_1", Token: "dfb_1"}
	for name, x := range map[string]struct {
		change    func(s *machine.Spec)
		init      any
		processes any
	}{
		"the image's own":          {func(s *machine.Spec) { s.Command = nil }, nil, nil},
		"a command":                {func(*machine.Spec) {}, map[string]any{"cmd": []any{"stay"}}, nil},
		"an entrypoint":            {func(s *machine.Spec) { s.Entrypoint, s.Command = []string{"/bin/e", "-x"}, nil }, map[string]any{"exec": []any{"/bin/e", "-x"}}, nil},
		"an entrypoint, a command": {func(s *machine.Spec) { s.Entrypoint = []string{"/bin/e"} }, map[string]any{"exec": []any{"/bin/e", "stay"}}, nil},
		"an agent": {func(s *machine.Spec) { s.Agent, s.Command = agent, nil },
			map[string]any{"exec": []any{"/opt/agent", "run", "--lifetime", "1h0m0s"}}, nil},
		"a command of a user": {func(s *machine.Spec) { s.User = "1000:1000" }, nil, []any{map[string]any{"cmd": []any{"stay"}, "user": "1000:1000"}}},
		"an agent of a user": {func(s *machine.Spec) { s.Agent, s.Command, s.User = agent, nil, "nobody" }, nil,
			[]any{map[string]any{"exec": []any{"/opt/agent", "run", "--lifetime", "1h0m0s"}, "user": "nobody"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := staying("m1")
			spec.Image = "debian:12"
			x.change(spec)
			body := sent(t, fly.Options{Agent: "/opt/agent"}, spec)
			if got := field(body, "config.init"); !reflect.DeepEqual(got, x.init) {
				t.Errorf("init: got %v, want %v", got, x.init)
			}
			if got := field(body, "config.processes"); !reflect.DeepEqual(got, x.processes) {
				t.Errorf("processes: got %v, want %v", got, x.processes)
			}
			if spec.Agent == nil {
				return
			}
			want := map[string]any{"DAYFLY_AGENT_URL": agent.URL, "DAYFLY_AGENT_ATTEMPT": agent.Attempt, "DAYFLY_AGENT_TOKEN": agent.Token, "DAYFLY_AGENT_INSTANCE": "m1"}
			if got := field(body, "config.env"); !reflect.DeepEqual(got, any(want)) {
				t.Errorf("env: got %v, want %v", got, want)
			}
		})
	}
}

func TestSizesBecomeGuestsOrAreRefusedBeforeFlyIsAsked(t *testing.T) {
	t.Parallel()
	preset := func(name string) machine.Size {
		size, err := machine.ParseSize(name)
		if err != nil {
			t.Fatal(err)
		}
		return size
	}
	for name, x := range map[string]struct {
		size machine.Size
		want string // "kind cpus memory gpu", or the kind of the refusal
	}{
		"nothing":                      {machine.Size{}, "shared 1 256 "},
		"shared-cpu-1x":                {preset("shared-cpu-1x"), "shared 1 256 "},
		"shared-cpu-8x":                {preset("shared-cpu-8x"), "shared 8 2048 "},
		"performance-1x":               {preset("performance-1x"), "performance 1 2048 "},
		"performance-16x":              {preset("performance-16x"), "performance 16 32768 "},
		"a10":                          {preset("a10"), "performance 8 32768 a10"},
		"l40s":                         {preset("l40s"), "performance 8 32768 l40s"},
		"a100-40gb":                    {preset("a100-40gb"), "performance 8 32768 a100-pcie-40gb"},
		"a100-80gb":                    {preset("a100-80gb"), "performance 8 32768 a100-sxm4-80gb"},
		"a preset with more memory":    {machine.Size{Preset: "shared-cpu-2x", CPUs: 2, MemoryMB: 4096}, "shared 2 4096 "},
		"a preset's name alone":        {machine.Size{Preset: "performance-10x"}, "performance 10 20480 "},
		"six shared CPUs":              {machine.Size{Preset: "shared-cpu-6x"}, "shared 6 1536 "},
		"a GPU's name alone":           {machine.Size{GPU: "l40s"}, "performance 8 32768 l40s"},
		"CPUs":                         {machine.Size{CPUs: 4}, "shared 4 1024 "},
		"more CPUs than are shared":    {machine.Size{CPUs: 12}, "performance 12 24576 "},
		"memory":                       {machine.Size{MemoryMB: 2048}, "shared 1 2048 "},
		"more memory":                  {machine.Size{MemoryMB: 4096}, "shared 2 4096 "},
		"much memory":                  {machine.Size{MemoryMB: 32768}, "performance 4 32768 "},
		"all memory":                   {machine.Size{MemoryMB: 131072}, "performance 16 131072 "},
		"CPUs with much memory":        {machine.Size{CPUs: 2, MemoryMB: 8192}, "performance 2 8192 "},
		"too little memory":            {machine.Size{CPUs: 2, MemoryMB: 256}, "invalid"},
		"too little for performance":   {machine.Size{Preset: "performance-2x", CPUs: 2, MemoryMB: 2048}, "invalid"},
		"too much memory":              {machine.Size{CPUs: 1, MemoryMB: 8448}, "invalid"},
		"too much for a shared preset": {machine.Size{Preset: "shared-cpu-1x", CPUs: 1, MemoryMB: 4096}, "invalid"},
		"more memory than there is":    {machine.Size{MemoryMB: 131328}, "invalid"},
		"a crooked number of MiB":      {machine.Size{MemoryMB: 300}, "invalid"},
		"a crooked number of CPUs":     {machine.Size{CPUs: 5}, "invalid"},
		"a fraction of a CPU":          {machine.Size{CPUs: 0.25}, "invalid"},
		"a million CPUs":               {machine.Size{CPUs: 1e6}, "invalid"},
		"an unknown preset":            {machine.Size{Preset: "t3.micro"}, "invalid"},
		"a preset that is not there":   {machine.Size{Preset: "shared-cpu-16x"}, "invalid"},
		"an unknown GPU":               {machine.Size{GPU: "h100"}, "invalid"},
		"a disk":                       {machine.Size{DiskMB: 1024}, "unsupported"},
		"a limit of processes":         {machine.Size{Processes: 100}, "unsupported"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCloud(t)
			spec := staying("m1")
			spec.Size = x.size
			_, err := c.provider().Create(t.Context(), spec)
			if err != nil {
				if got := string(fault.Of(err)); got != x.want || c.count("create") != 0 {
					t.Errorf("got %s (%v) after %d requests, want %s after none", got, err, c.count("create"), x.want)
				}
				return
			}
			guest, _ := json.Marshal(field(c.created(0), "config.guest"))
			var g struct {
				Kind   string `json:"cpu_kind"`
				CPUs   int    `json:"cpus"`
				Memory int    `json:"memory_mb"`
				GPU    string `json:"gpu_kind"`
				GPUs   int    `json:"gpus"`
			}
			if err := json.Unmarshal(guest, &g); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%s %d %d %s", g.Kind, g.CPUs, g.Memory, g.GPU); got != x.want || (g.GPU != "") != (g.GPUs == 1) {
				t.Errorf("got %s with %d GPUs, want %s", got, g.GPUs, x.want)
			}
		})
	}
}

func TestWhatFlyCannotDoIsRefusedBeforeItIsAsked(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := fly.New(app, token, &fly.Options{URL: c.serve().URL, Rate: -1})
	spec := staying("m1")
	_, err := p.Create(t.Context(), spec)
	want(t, "Create without any image", err, fault.Invalid)
	spec.Image, spec.Entrypoint, spec.Command = "debian:12", []string{"/bin/sh"}, nil
	spec.Agent = &machine.Agent{URL: "https://dayfly.example.com", Attempt: "a", Token: "t"}
	_, err = p.Create(t.Context(), spec)
	want(t, "Create of an agent with an entrypoint", err, fault.Unsupported)
	if n := c.count("create"); n != 0 {
		t.Errorf("got %d requests, want none", n)
	}
}

// TestExitsAreReadFromEveryShapeOfEvent has the shapes that Fly's documentation, its client and its users show.
func TestExitsAreReadFromEveryShapeOfEvent(t *testing.T) {
	t.Parallel()
	created := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, x := range map[string]struct {
		state  string
		events string
		want   *machine.Exit
	}{
		"no events":              {"stopped", `null`, nil},
		"requests that are null": {"stopped", `[{"type":"exit","status":"stopped","request":null},{"type":"launch","request":null},null]`, nil},
		"a code":                 {"stopped", `[{"type":"exit","request":{"exit_event":{"exit_code":127,"guest_exit_code":0,"guest_signal":-1,"signal":-1}}}]`, &machine.Exit{Code: 127}},
		"no code":                {"stopped", `[{"type":"exit","request":{"exit_event":{"oom_killed":false,"requested_stop":true}}}]`, &machine.Exit{}},
		"the older shape":        {"stopped", `[{"type":"exit","request":{"MonitorEvent":{"exit_event":{"exit_code":3}}}}]`, &machine.Exit{Code: 3}},
		"out of memory":          {"stopped", `[{"type":"exit","request":{"exit_event":{"exit_code":137,"oom_killed":true}}}]`, &machine.Exit{Code: 137, OOMKilled: true}},
		"a signal":               {"stopped", `[{"type":"exit","request":{"exit_event":{"signal":9}}}]`, &machine.Exit{Code: -1, Signal: "SIGKILL"}},
		"a signal of the guest":  {"stopped", `[{"type":"exit","request":{"exit_event":{"guest_signal":15,"signal":-1}}}]`, &machine.Exit{Code: -1, Signal: "SIGTERM"}},
		"a code of the guest":    {"stopped", `[{"type":"exit","request":{"exit_event":{"guest_exit_code":2}}}]`, &machine.Exit{Code: 2}},
		"the newest first": {"stopped", `[{"type":"destroy","request":null},{"type":"exit","request":{"exit_event":{"exit_code":5}}},
			{"type":"exit","request":{"exit_event":{"exit_code":6}}}]`, &machine.Exit{Code: 5}},
		"an error": {"failed", `[{"type":"exit","request":{"exit_event":{"error":"exec /bin/x: no such file"}}}]`,
			&machine.Exit{Code: -1, Message: "exec /bin/x: no such file"}},
		"124 at the end": {"stopped", `[{"type":"exit","request":{"exit_event":{"exit_code":124,"exited_at":"2026-03-01T13:00:01Z"}}}]`,
			&machine.Exit{Code: 124, Expired: true}},
		"124 at the end, in milliseconds": {"stopped", `[{"type":"exit","request":{"exit_event":{"exit_code":124,"exited_at":1772370001000}}}]`,
			&machine.Exit{Code: 124, Expired: true}},
		"124 at a time that only the event has": {"stopped", `[{"type":"exit","timestamp":1772370001000,"request":{"exit_event":{"exit_code":124}}}]`,
			&machine.Exit{Code: 124, Expired: true}},
		"124 long before": {"stopped", `[{"type":"exit","request":{"exit_event":{"exit_code":124,"exited_at":"2026-03-01T12:10:00Z"}}}]`,
			&machine.Exit{Code: 124}},
		"124 whenever": {"stopped", `[{"type":"exit","request":{"exit_event":{"exit_code":124,"exited_at":{}}}}]`, &machine.Exit{Code: 124, Expired: true}},
		"another code at the end": {"stopped", `[{"type":"exit","request":{"exit_event":{"exit_code":1,"exited_at":"2026-03-01T13:00:01Z"}}}]`,
			&machine.Exit{Code: 1}},
		"a failed launch": {"launch_failed", `[{"type":"launch","status":"failed","request":null}]`,
			&machine.Exit{Code: -1, Message: "Fly could not start the machine; its events say why: fly machine status "}},
		"a failed launch that says why": {"launch_failed", `[{"type":"launch","status":"launch_failed","request":{"error":"no such\nimage"}},{"type":"launch","status":"created"}]`,
			&machine.Exit{Code: -1, Message: "Fly could not start the machine: no such image"}},
		"a failure that says something strange": {"failed", `[{"type":"start","status":"failed","request":{"error":{"code":7}}}]`,
			&machine.Exit{Code: -1, Message: "Fly could not start the machine; its events say why: fly machine status "}},
		"replaced": {"replaced", `[]`, &machine.Exit{Code: -1, Message: "somebody else has put another version of the machine in its place"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCloud(t)
			p := c.provider()
			m := create(t, p, staying("m1"))
			c.fail("get", -1, edit(func(shown map[string]any) map[string]any {
				shown["state"], shown["events"], shown["created_at"] = x.state, json.RawMessage(x.events), created.Format(time.RFC3339)
				return shown
			}))
			got, err := p.Get(t.Context(), m.ID)
			if err != nil || got.State != machine.Exited {
				t.Fatalf("Get: got %+v and %v, want an exited machine", got, err)
			}
			if x.want != nil && strings.HasSuffix(x.want.Message, " ") {
				x.want.Message += m.ID
			}
			if !reflect.DeepEqual(got.Exit, x.want) {
				t.Errorf("Exit: got %+v, want %+v", got.Exit, x.want)
			}
		})
	}
}

func TestStatesAreReadAsWhatTheyMeanForAMachineOfOurs(t *testing.T) {
	t.Parallel()
	started := `[{"type":"start","status":"started"}]`
	for shown, want := range map[string]machine.State{
		"created": machine.Creating, "creating": machine.Creating, "starting": machine.Creating, "tomorrows": machine.Creating,
		"started": machine.Running, "stopping": machine.Running, "suspending": machine.Running, "suspended": machine.Running,
		"restarting": machine.Running, "updating": machine.Running, "replacing": machine.Running,
		"starting again": machine.Running, "tomorrows again": machine.Running,
		"stopped": machine.Exited, "failed": machine.Exited, "launch_failed": machine.Exited, "destroying": machine.Exited,
		"replaced": machine.Exited, "migrated": machine.Exited,
		"destroyed": machine.Gone,
	} {
		t.Run(shown, func(t *testing.T) {
			t.Parallel()
			c := newCloud(t)
			p := c.provider()
			m := create(t, p, staying("m1"))
			c.fail("get", -1, edit(func(object map[string]any) map[string]any {
				state, again := strings.CutSuffix(shown, " again")
				object["state"], object["events"] = state, json.RawMessage("[]")
				if again {
					object["events"] = json.RawMessage(started)
				}
				return object
			}))
			got, err := p.Get(t.Context(), m.ID)
			if want == machine.Gone {
				if fault.Of(err) != fault.NotFound {
					t.Errorf("Get: got %+v and %v, want not_found", got, err)
				}
				return
			}
			if err != nil || got.State != want {
				t.Errorf("Get: got %+v and %v, want state %s", got, err, want)
			}
		})
	}
}

func TestAMachineShowsItsImageWithTheDigestAndItsRegion(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := c.provider()
	spec := staying("m1")
	spec.Region = "ams"
	m := create(t, p, spec)
	if want := "registry-1.docker.io/library/debian:12@sha256:0123"; m.Image != want || m.Location != "ams" {
		t.Errorf("got %s in %s, want %s in ams", m.Image, m.Location, want)
	}
}

func TestTheRecipesPutTheAgentWhereTheProviderLooksForIt(t *testing.T) {
	t.Parallel()
	recipes, err := filepath.Glob("../../runtimes/*/Dockerfile")
	if err != nil || len(recipes) < 5 {
		t.Fatalf("got the recipes %v and %v, want at least five", recipes, err)
	}
	for _, recipe := range recipes {
		text, err := os.ReadFile(recipe)
		if err != nil {
			t.Fatal(err)
		}
		copied := false
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			copied = copied || len(words) > 2 && words[0] == "COPY" && words[len(words)-1] == fly.DefaultAgent
		}
		if !copied {
			t.Errorf("%s copies nothing to %s", recipe, fly.DefaultAgent)
		}
	}
}

func TestTheTokenIsSentAsItsKindWantsAndAppearsNowhere(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"FlyV1 fm2_secretsecret,fm2_more", "fo1_secretsecret", "Bearer secretsecret"} {
		c := newCloud(t)
		p := fly.New(app, secret, &fly.Options{URL: c.serve().URL, Image: "debian:12", Rate: -1})
		_, err := p.Create(t.Context(), staying("m1")) // it is not the token that the cloud knows
		want(t, "Create", err, fault.Denied)
		if text := fmt.Sprintf("%v %+v %#v %s", p, p, p, fmt.Sprint(err)); strings.Contains(text, "secretsecret") {
			t.Errorf("what is printed of a provider holds its token: %s", text)
		}
	}
}

func TestANewTokenCountsAtOnceAndOneThatCannotBeHadIsTold(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	current, broken := "fo1_old", error(nil)
	p := fly.New(app, "", &fly.Options{URL: c.serve().URL, Image: "debian:12", Rate: -1, Token: func() (string, error) { return current, broken }})
	_, err := p.Create(t.Context(), staying("m1"))
	want(t, "Create with a token that is no longer valid", err, fault.Denied)
	current = token
	create(t, p, staying("m1"))
	broken = errors.New("the file is missing")
	_, err = p.List(t.Context(), owner)
	want(t, "List without a token", err, fault.Denied)
	if sentence, _ := fault.Sentence(err); !strings.Contains(sentence, "the file is missing") {
		t.Errorf("the sentence: got %q, want why there is no token", sentence)
	}
}

func TestExecRunsACommandAndTellsHowItEnded(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	c.boot = 0
	p := c.provider()
	m := create(t, p, staying("m1"))
	c.change("m1", func(b *box) { c.start(b) })
	for name, x := range map[string]struct {
		cmd    machine.Command
		code   int
		signal string
		stdout string
		stderr string
	}{
		"output":      {machine.Command{Args: []string{"echo", "a  b"}}, 0, "", "a  b\n", ""},
		"input":       {machine.Command{Args: []string{"cat"}, Stdin: strings.NewReader("in")}, 0, "", "in", ""},
		"failure":     {machine.Command{Args: []string{"false"}}, 1, "", "", "no\n"},
		"no program":  {machine.Command{Args: []string{"nonesuch"}}, 127, "", "", "not found\n"},
		"signal":      {machine.Command{Args: []string{"killed"}}, -1, "SIGKILL", "", ""},
		"environment": {machine.Command{Args: []string{"x"}, Env: map[string]string{"B": "2", "A": "1"}}, 0, "", "env A=1 B=2 x", ""},
		"directory":   {machine.Command{Args: []string{"x"}, Dir: "/tmp"}, 0, "", `sh -c cd "$1" && shift && exec "$@" sh /tmp x`, ""},
	} {
		var stdout, stderr bytes.Buffer
		x.cmd.Stdout, x.cmd.Stderr = &stdout, &stderr
		exit, err := machine.Exec(t.Context(), p, m.ID, &x.cmd)
		if err != nil || exit.Code != x.code || exit.Signal != x.signal || stdout.String() != x.stdout || stderr.String() != x.stderr {
			t.Errorf("%s: got %+v, %v, %q and %q, want %+v", name, exit, err, stdout.String(), stderr.String(), x)
		}
	}
}

func TestExecRefusesWhatFlyCannotDo(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := c.provider()
	stopped := create(t, p, &machine.Spec{Name: "m2", Owner: owner, Lifetime: time.Hour, Command: []string{"exit"}, Env: map[string]string{"CODE": "0"}})
	c.change("m2", func(b *box) { c.start(b) })
	running := create(t, p, staying("m1"))
	c.change("m1", func(b *box) { c.start(b) })
	echo := []string{"echo"}
	for name, x := range map[string]struct {
		id   string
		cmd  machine.Command
		kind fault.Kind
	}{
		"nothing":        {running.ID, machine.Command{}, fault.Invalid},
		"a terminal":     {running.ID, machine.Command{Args: echo, Terminal: true}, fault.Unsupported},
		"a user":         {running.ID, machine.Command{Args: echo, User: "root"}, fault.Unsupported},
		"too much input": {running.ID, machine.Command{Args: echo, Stdin: strings.NewReader(strings.Repeat("x", 1<<20+1))}, fault.TooLarge},
		"no machine":     {"e999", machine.Command{Args: echo}, fault.NotFound},
		"a stopped one":  {stopped.ID, machine.Command{Args: echo}, fault.Conflict},
	} {
		_, err := p.Exec(t.Context(), x.id, &x.cmd)
		want(t, "Exec of "+name, err, x.kind)
	}
	if n := c.count("exec"); n != 0 {
		t.Errorf("got %d requests to run something, want none", n)
	}
	c.fail("exec", 1, refuseWith(408, "deadline_exceeded: request timed out"))
	_, err := p.Exec(t.Context(), running.ID, &machine.Command{Args: []string{"sleep", "600"}})
	want(t, "Exec of what takes too long", err, fault.Unavailable)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	never, _ := io.Pipe()
	_, err = p.Exec(ctx, running.ID, &machine.Command{Args: echo, Stdin: never})
	want(t, "Exec with a context that has ended and input that never comes", err, fault.Canceled)
}

func TestSignalsAreSentOrRefused(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p := c.provider()
	m := create(t, p, staying("m1"))
	c.change("m1", func(b *box) { c.start(b) })
	want(t, "SIGTERM", machine.Signal(t.Context(), p, m.ID, "SIGTERM"), "")
	c.change("m1", func(b *box) {
		if got := b.events[0]["status"]; got != "SIGTERM" {
			t.Errorf("the machine: got %v, want SIGTERM", got)
		}
	})
	c.fail("signal", 1, refuseWith(400, "invalid_argument: unknown signal SIGSTOP"))
	want(t, "SIGSTOP", p.Signal(t.Context(), m.ID, "SIGSTOP"), fault.Unsupported)
	want(t, "a word", p.Signal(t.Context(), m.ID, "hello"), fault.Invalid)
	want(t, "a number", p.Signal(t.Context(), m.ID, "9"), fault.Invalid)
	want(t, "no machine", p.Signal(t.Context(), "e999", "SIGTERM"), fault.NotFound)
	c.change("m1", func(b *box) { c.exit(b, 0) })
	want(t, "an exited machine", p.Signal(t.Context(), m.ID, "SIGTERM"), fault.Conflict)
}

func TestASuspendedMachineGoesOnAndAnExitedOneIsNotStartedAgain(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	c.boot = time.Hour // it boots when the test says so
	p := c.provider()
	m := create(t, p, staying("m1"))
	want(t, "Suspend of what does not run yet", p.Suspend(t.Context(), m.ID), fault.Conflict)
	c.change("m1", func(b *box) { c.start(b) })
	for range 2 {
		want(t, "Suspend", machine.Suspend(t.Context(), p, m.ID), "")
		if got, err := p.Get(t.Context(), m.ID); err != nil || got.State != machine.Running {
			t.Errorf("Get of a suspended machine: got %+v and %v, want it as running", got, err)
		}
	}
	for range 2 {
		want(t, "Resume", machine.Resume(t.Context(), p, m.ID), "")
	}
	if n, s := c.count("suspend"), c.count("start"); n != 1 || s != 1 {
		t.Errorf("got %d suspends and %d starts, want one of each", n, s)
	}
	c.change("m1", func(b *box) { c.exit(b, 0) })
	want(t, "Suspend of what has exited", p.Suspend(t.Context(), m.ID), fault.Conflict)
	want(t, "Resume of what has exited", p.Resume(t.Context(), m.ID), fault.Conflict)
	want(t, "Resume of nothing", p.Resume(t.Context(), "e999"), fault.NotFound)
}

func TestOnlyMachinesOfAnAPIOnThisComputerFindItByThemselves(t *testing.T) {
	t.Parallel()
	for address, kind := range map[string]fault.Kind{
		"": fault.Unsupported, "https://api.machines.dev": fault.Unsupported, "http://_api.internal:4280": fault.Unsupported, "http://192.0.2.1:7700": fault.Unsupported,
		"http://127.0.0.1:7700": "", "http://localhost:7700": "", "http://[::1]:7700": "",
	} {
		at, err := fly.New(app, token, &fly.Options{URL: address}).Gateway(t.Context())
		want(t, "Gateway for the API at "+address, err, kind)
		if err == nil && !at.IsLoopback() {
			t.Errorf("Gateway for the API at %s: got %s, want the loopback address", address, at)
		}
	}
}
