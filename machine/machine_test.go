package machine_test

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

func good() *machine.Spec {
	return &machine.Spec{
		Name:     "df-abc123-att-1",
		Owner:    "df-abc123",
		Labels:   map[string]string{"job": "job_1", "with_under": "", "with-dash": strings.Repeat("v", 256)},
		Lifetime: time.Hour,
		Command:  []string{"echo", ""},
		Env:      map[string]string{"PATH": "/bin", "EMPTY": "", "not-a-shell-name": "x=y"},
		Size:     machine.Size{CPUs: 0.5, MemoryMB: 256},
	}
}

func files(paths ...string) (files []machine.File) {
	for _, path := range paths {
		files = append(files, machine.File{Path: path})
	}
	return files
}

func TestValidateAcceptsWhatProvidersMustAccept(t *testing.T) {
	t.Parallel()
	cases := map[string]func(*machine.Spec){
		"as it is":                       func(*machine.Spec) {},
		"a name of one letter":           func(s *machine.Spec) { s.Name = "a" },
		"a name of 63 characters":        func(s *machine.Spec) { s.Name = strings.Repeat("a", 63) },
		"a name that ends with a dash":   func(s *machine.Spec) { s.Name = "a-" },
		"32 labels":                      func(s *machine.Spec) { s.Labels = labels(32) },
		"no labels and no environment":   func(s *machine.Spec) { s.Labels, s.Env = nil, nil },
		"the longest lifetime":           func(s *machine.Spec) { s.Lifetime = machine.MaxLifetime },
		"the shortest lifetime":          func(s *machine.Spec) { s.Lifetime = 1 },
		"the provider's default size":    func(s *machine.Spec) { s.Size = machine.Size{} },
		"a label value that is a script": func(s *machine.Spec) { s.Labels["job"] = "\"'\n<script>" },
		"an image in place of a command": func(s *machine.Spec) { s.Command, s.Image = nil, "debian:12" },
		"files, a region and a user": func(s *machine.Spec) {
			s.Files, s.Region, s.User = files("/tmp/events.json", "/a"), "ams,fra", "1000:1000"
		},
		"an agent in place of a command": func(s *machine.Spec) {
			s.Command, s.Agent = nil, &machine.Agent{URL: "http://127.0.0.1:8080", Attempt: "att_1", Token: "t"}
		},
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := good()
			change(spec)
			if err := spec.Validate(); err != nil {
				t.Errorf("Validate: got error %v, want nil", err)
			}
		})
	}
}

func labels(n int) map[string]string {
	all := map[string]string{}
	for i := range n {
		all["l"+strings.Repeat("x", i)] = ""
	}
	return all
}

func TestValidateRefusesWithASentenceAboutTheMistake(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		change func(*machine.Spec)
		want   string // part of the sentence
	}{
		"an empty name":                {func(s *machine.Spec) { s.Name = "" }, `name ""`},
		"a name of 64 characters":      {func(s *machine.Spec) { s.Name = strings.Repeat("a", 64) }, "1 to 63"},
		"a name beginning with a dash": {func(s *machine.Spec) { s.Name = "-a" }, "beginning with a letter"},
		"a capital in the name":        {func(s *machine.Spec) { s.Name = "aB" }, `name "aB"`},
		"an underscore in the name":    {func(s *machine.Spec) { s.Name = "a_b" }, `name "a_b"`},
		"a letter beyond ASCII":        {func(s *machine.Spec) { s.Name = "café" }, "café"},
		"an empty owner":               {func(s *machine.Spec) { s.Owner = "" }, `owner ""`},
		"33 labels":                    {func(s *machine.Spec) { s.Labels = labels(33) }, "33 labels"},
		"a dot in a label key":         {func(s *machine.Spec) { s.Labels["a.b"] = "" }, `"a.b"`},
		"a label key beginning with _": {func(s *machine.Spec) { s.Labels["_a"] = "" }, `"_a"`},
		"a label value of 257 bytes":   {func(s *machine.Spec) { s.Labels["job"] = strings.Repeat("v", 257) }, "label job"},
		"a NUL in a label value":       {func(s *machine.Spec) { s.Labels["job"] = "\x00" }, "label job"},
		"no lifetime":                  {func(s *machine.Spec) { s.Lifetime = 0 }, "lifetime 0s"},
		"a negative lifetime":          {func(s *machine.Spec) { s.Lifetime = -1 }, "lifetime"},
		"too long a lifetime":          {func(s *machine.Spec) { s.Lifetime = machine.MaxLifetime + 1 }, "lifetime"},
		"the longest duration":         {func(s *machine.Spec) { s.Lifetime = math.MaxInt64 }, "lifetime"},
		"both program and command":     {func(s *machine.Spec) { s.Program = &machine.Program{File: "/bin/true"} }, "only one"},
		"a program that is somewhere":  {func(s *machine.Spec) { s.Command, s.Program = nil, &machine.Program{File: "true"} }, "absolute path"},
		"a program with a NUL": {func(s *machine.Spec) {
			s.Command, s.Program = nil, &machine.Program{File: "/a", Args: []string{"\x00"}}
		}, "NUL"},
		"a program and an entrypoint": {func(s *machine.Spec) {
			s.Command, s.Program, s.Image, s.Entrypoint = nil, &machine.Program{File: "/a"}, "b", []string{"c"}
		}, "what runs first"},
		"neither agent nor command":         {func(s *machine.Spec) { s.Command = nil }, "nothing to run"},
		"both agent and command":            {func(s *machine.Spec) { s.Agent = &machine.Agent{URL: "u", Attempt: "a", Token: "t"} }, "only one"},
		"an entrypoint without an image":    {func(s *machine.Spec) { s.Entrypoint = []string{"sh"} }, "needs an image"},
		"an empty entrypoint":               {func(s *machine.Spec) { s.Image, s.Entrypoint = "debian", []string{""} }, "not empty"},
		"a file without a place":            {func(s *machine.Spec) { s.Files = files("events.json") }, "absolute path"},
		"a file above the root":             {func(s *machine.Spec) { s.Files = files("/../etc/passwd") }, "absolute path"},
		"a file twice":                      {func(s *machine.Spec) { s.Files = files("/a", "/a") }, "twice"},
		"a file that runs as its owner":     {func(s *machine.Spec) { s.Files = files("/a"); s.Files[0].Mode = 0o4755 }, "permission bits"},
		"files that are too large together": {func(s *machine.Spec) { s.Files = files("/a"); s.Files[0].Data = make([]byte, 1<<20+1) }, "at most 1048576"},
		"a region that is no text":          {func(s *machine.Spec) { s.Region = "\xff" }, "region"},
		"an agent without a token":          {func(s *machine.Spec) { s.Command, s.Agent = nil, &machine.Agent{URL: "u", Attempt: "a"} }, "token"},
		"an empty first word":               {func(s *machine.Spec) { s.Command = []string{"", "x"} }, "first word"},
		"a NUL in an argument":              {func(s *machine.Spec) { s.Command = []string{"echo", "a\x00"} }, "NUL"},
		"a label value that is no text":     {func(s *machine.Spec) { s.Labels["job"] = "a\xff" }, "label job"},
		"an argument that is no text":       {func(s *machine.Spec) { s.Command = []string{"echo", "a\xff"} }, "not UTF-8"},
		"a variable name that is no text":   {func(s *machine.Spec) { s.Env["A\xff"] = "x" }, "in UTF-8"},
		"a variable value that is no text":  {func(s *machine.Spec) { s.Env["A"] = "a\xff" }, "in UTF-8"},
		"an image that is no text":          {func(s *machine.Spec) { s.Image = "a\xff" }, "of UTF-8"},
		"an empty variable name":            {func(s *machine.Spec) { s.Env[""] = "x" }, "environment"},
		"an equals sign in a variable":      {func(s *machine.Spec) { s.Env["A=B"] = "x" }, "A=B"},
		"a NUL in a variable's value":       {func(s *machine.Spec) { s.Env["A"] = "\x00" }, `"A"`},
		"negative CPUs":                     {func(s *machine.Spec) { s.Size.CPUs = -0.5 }, "negative"},
		"negative memory":                   {func(s *machine.Spec) { s.Size.MemoryMB = -1 }, "negative"},
		"negative disk":                     {func(s *machine.Spec) { s.Size.DiskMB = -1 }, "negative"},
		"negative processes":                {func(s *machine.Spec) { s.Size.Processes = -1 }, "negative"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := good()
			c.change(spec)
			err := spec.Validate()
			if !errors.Is(err, fault.Invalid) {
				t.Fatalf("Validate: got error %v, want fault.Invalid", err)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("Validate: got %q, want a sentence with %q", err, c.want)
			}
		})
	}
}

func TestValidateDoesNotRepeatSecrets(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	cases := map[string]func(*machine.Spec){
		"a value of the environment": func(s *machine.Spec) { s.Env["PASSWORD"] = secret + "\x00" },
		"an agent's token": func(s *machine.Spec) {
			s.Command, s.Agent = nil, &machine.Agent{Attempt: "a", Token: secret}
		},
		"an argument": func(s *machine.Spec) { s.Command = []string{"login", secret + "\x00"} },
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := good()
			change(spec)
			if err := spec.Validate(); err == nil || strings.Contains(err.Error(), secret) {
				t.Errorf("Validate: got error %v, want one without the secret", err)
			}
		})
	}
}

func TestStatesAreOrdered(t *testing.T) {
	t.Parallel()
	states := []machine.State{machine.Creating, machine.Running, machine.Exited, machine.Gone}
	for i, s := range states {
		if got := s.Rank(); got != i {
			t.Errorf("%s.Rank(): got %d, want %d", s, got, i)
		}
	}
	for _, unknown := range []machine.State{"", "stopped", "RUNNING"} {
		if got := unknown.Rank(); got >= 0 {
			t.Errorf("State(%q).Rank(): got %d, want less than 0", unknown, got)
		}
	}
}

func TestOnlyStatusZeroAndNothingElseIsOK(t *testing.T) {
	t.Parallel()
	if !(&machine.Exit{}).OK() || !(&machine.Exit{Message: "with a remark"}).OK() {
		t.Error("OK of status 0: got false, want true")
	}
	for _, exit := range []*machine.Exit{
		nil, {Code: 1}, {Code: -1}, {Signal: "SIGTERM"}, {OOMKilled: true}, {DiskFull: true}, {Expired: true},
	} {
		if exit.OK() {
			t.Errorf("OK of %+v: got true, want false", exit)
		}
	}
}

func TestEverySizeHasItsNumbers(t *testing.T) {
	t.Parallel()
	names := machine.Presets()
	if len(names) == 0 || names[0] != "shared-cpu-1x" {
		t.Fatalf("Presets: got %v, want shared-cpu-1x first", names)
	}
	if sorted := slices.Compact(slices.Sorted(slices.Values(names))); len(sorted) != len(names) {
		t.Errorf("Presets: got %v, want no name twice", names)
	}
	for _, name := range names {
		size, err := machine.ParseSize(name)
		if err != nil {
			t.Errorf("ParseSize(%s): got error %v, want nil", name, err)
		}
		if size.Preset != name || size.CPUs <= 0 || size.MemoryMB <= 0 || size.IsZero() {
			t.Errorf("ParseSize(%s): got %+v, want its name, CPUs and memory", name, size)
		}
	}
	size, err := machine.ParseSize("performance-4x")
	if want := (machine.Size{Preset: "performance-4x", CPUs: 4, MemoryMB: 8192}); err != nil || size != want {
		t.Errorf("ParseSize(performance-4x): got %+v and error %v, want %+v", size, err, want)
	}
}

func TestAnUnknownSizeIsInvalidAndTheErrorNamesTheSizes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "huge", "Shared-CPU-1x", "shared-cpu-1x "} {
		size, err := machine.ParseSize(name)
		if !errors.Is(err, fault.Invalid) || !size.IsZero() {
			t.Errorf("ParseSize(%q): got %+v and error %v, want fault.Invalid", name, size, err)
		} else if !strings.Contains(err.Error(), "performance-16x") {
			t.Errorf("ParseSize(%q): got %q, want it to list the sizes", name, err)
		}
	}
}

func TestTheCallersListOfPresetsIsItsOwn(t *testing.T) {
	t.Parallel()
	names := machine.Presets()
	names[0] = "changed"
	if got := machine.Presets()[0]; got == "changed" {
		t.Error("Presets after the caller changed its copy: got the change")
	}
}

func TestASpecSurvivesJSON(t *testing.T) {
	t.Parallel()
	want := good()
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatalf("Marshal: got error %v, want nil", err)
	}
	var got machine.Spec
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatalf("Unmarshal(%s): got error %v, want nil", data, err)
	}
	if got.Name != want.Name || got.Lifetime != want.Lifetime || got.Size != want.Size ||
		!maps.Equal(got.Labels, want.Labels) || !maps.Equal(got.Env, want.Env) || !slices.Equal(got.Command, want.Command) {
		t.Errorf("after JSON: got %+v, want %+v", got, *want)
	}
	again, err := json.Marshal(&got)
	if err != nil || string(again) != string(data) {
		t.Errorf("written again: got %s and error %v, want %s, for a repeated create must be the same bytes", again, err, data)
	}
}
