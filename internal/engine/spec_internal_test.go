package engine

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

func TestASpecThatCannotWorkIsRefusedWithItsField(t *testing.T) {
	t.Parallel()
	e := &Engine{defaultProvider: "local", providers: map[string]machine.Provider{"local": memmachine.New(nil)}}
	far := time.Now().AddDate(100, 0, 0)
	input := func(names ...string) func(*dayfly.JobSpec) {
		return func(s *dayfly.JobSpec) {
			for _, name := range names {
				s.Inputs = append(s.Inputs, dayfly.InputSpec{Name: name})
			}
		}
	}
	typed := func(contentType string) func(*dayfly.JobSpec) {
		return func(s *dayfly.JobSpec) { s.Inputs = []dayfly.InputSpec{{Name: "a", ContentType: contentType}} }
	}
	for name, try := range map[string]struct {
		spoil func(*dayfly.JobSpec)
		field string
		kind  fault.Kind
	}{
		"no command":                    {func(s *dayfly.JobSpec) { s.Command = nil }, "command", fault.Invalid},
		"an empty program":              {func(s *dayfly.JobSpec) { s.Command = []string{""} }, "command", fault.Invalid},
		"a NUL in an argument":          {func(s *dayfly.JobSpec) { s.Command = []string{"a", "b\x00"} }, "command[1]", fault.Invalid},
		"bad UTF-8 in an argument":      {func(s *dayfly.JobSpec) { s.Command = []string{"a", "\xff"} }, "command[1]", fault.Invalid},
		"a huge argument":               {func(s *dayfly.JobSpec) { s.Command = []string{"a", strings.Repeat("x", 1<<18)} }, "command[1]", fault.TooLarge},
		"a huge command":                {func(s *dayfly.JobSpec) { s.Command = slicesOf(strings.Repeat("x", 100<<10), 10) }, "command", fault.TooLarge},
		"a variable with a dash":        {func(s *dayfly.JobSpec) { s.Env = map[string]string{"A-B": ""} }, "env", fault.Invalid},
		"one of our variables":          {func(s *dayfly.JobSpec) { s.Env = map[string]string{"DAYFLY_TOKEN": ""} }, "env.DAYFLY_TOKEN", fault.Invalid},
		"a loader variable":             {func(s *dayfly.JobSpec) { s.Env = map[string]string{"LD_PRELOAD": "x"} }, "env.LD_PRELOAD", fault.Invalid},
		"a NUL in a variable":           {func(s *dayfly.JobSpec) { s.Env = map[string]string{"A": "\x00"} }, "env.A", fault.Invalid},
		"an input above the directory":  {input("../x"), "inputs[0].name", fault.Invalid},
		"an absolute input":             {input("/etc/passwd"), "inputs[0].name", fault.Invalid},
		"a hidden way up":               {input("a/../../x"), "inputs[0].name", fault.Invalid},
		"a way that cleans up":          {input("a/../x"), "inputs[0].name", fault.Invalid},
		"the directory itself":          {input("."), "inputs[0].name", fault.Invalid},
		"a Windows path":                {input(`C:\x`), "inputs[0].name", fault.Invalid},
		"a NUL in an input":             {input("a\x00b"), "inputs[0].name", fault.Invalid},
		"a line break in an input":      {input("a\nb"), "inputs[0].name", fault.Invalid},
		"a C1 control in an input":      {input("a\u009bb"), "inputs[0].name", fault.Invalid},
		"a NUL in the image":            {func(s *dayfly.JobSpec) { s.Image = "a\x00" }, "image", fault.Invalid},
		"an escape in the image":        {func(s *dayfly.JobSpec) { s.Image = "\x1b[31m" }, "image", fault.Invalid},
		"an input twice":                {input("a", "a"), "inputs[1].name", fault.Invalid},
		"a file that is a directory":    {input("a", "a/b"), "inputs", fault.Invalid},
		"a very long name":              {input(strings.Repeat("x", 300)), "inputs[0].name", fault.Invalid},
		"a content type with a space":   {typed("audio wav"), "inputs[0].content_type", fault.Invalid},
		"a content type with a line":    {typed("audio/wav\n"), "inputs[0].content_type", fault.Invalid},
		"a very long content type":      {typed("audio/" + strings.Repeat("x", 255)), "inputs[0].content_type", fault.Invalid},
		"an output above the directory": {func(s *dayfly.JobSpec) { s.Outputs = []string{"../*"} }, "outputs[0]", fault.Invalid},
		"an open bracket":               {func(s *dayfly.JobSpec) { s.Outputs = []string{"[a"} }, "outputs[0]", fault.Invalid},
		"a large payload":               {func(s *dayfly.JobSpec) { s.Payload = json.RawMessage(`"` + strings.Repeat("x", 256<<10) + `"`) }, "payload", fault.TooLarge},
		"an unknown provider":           {func(s *dayfly.JobSpec) { s.Provider = "moon" }, "provider", fault.Invalid},
		"an unknown size":               {func(s *dayfly.JobSpec) { s.Size = "huge" }, "size", fault.Invalid},
		"an odd queue":                  {func(s *dayfly.JobSpec) { s.Queue = "A B" }, "queue", fault.Invalid},
		"an odd label":                  {func(s *dayfly.JobSpec) { s.Labels = map[string]string{"-": "x"} }, "labels", fault.Invalid},
		"a long run timeout":            {func(s *dayfly.JobSpec) { s.Timeouts.Run = dayfly.Duration(1000 * time.Hour) }, "timeouts.run", fault.Invalid},
		"backoff upside down":           {func(s *dayfly.JobSpec) { s.Retry.BackoffMin, s.Retry.BackoffMax = dayfly.Duration(time.Hour), 1 }, "retry.backoff_max", fault.Invalid},
		"exit code 0 not to be retried": {func(s *dayfly.JobSpec) { s.Retry.NonRetryableExits = []int{0} }, "retry.non_retryable_exit_codes[0]", fault.Invalid},
		"a time far away":               {func(s *dayfly.JobSpec) { s.RunAt = &far }, "run_at", fault.Invalid},
		"a long name":                   {func(s *dayfly.JobSpec) { s.Name = strings.Repeat("ä", 201) }, "name", fault.Invalid},
		"a long concurrency key":        {func(s *dayfly.JobSpec) { s.ConcurrencyKey = strings.Repeat("k", 201) }, "concurrency_key", fault.Invalid},
		"a NUL in the name":             {func(s *dayfly.JobSpec) { s.Name = "a\x00" }, "name", fault.Invalid},
		"a NUL in the concurrency key":  {func(s *dayfly.JobSpec) { s.ConcurrencyKey = "\x00" }, "concurrency_key", fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := dayfly.JobSpec{Command: []string{"true"}}
			try.spoil(&spec)
			err := e.normalize(&spec, time.Now())
			var got *fault.FieldError
			if !errors.As(err, &got) {
				t.Fatalf("got %v, want a field error for %s", err, try.field)
			}
			if got.Field != try.field || got.Kind != try.kind || got.Message == "" {
				t.Errorf("got field %s, kind %s, message %q; want field %s, kind %s and a sentence", got.Field, got.Kind, got.Message, try.field, try.kind)
			}
		})
	}
}

func TestNamesAreAsLongAsTheirCharacters(t *testing.T) {
	t.Parallel()
	e := &Engine{defaultProvider: "local", providers: map[string]machine.Provider{"local": memmachine.New(nil)}}
	spec := dayfly.JobSpec{Command: []string{"true"}, Name: strings.Repeat("ä", 200), ConcurrencyKey: strings.Repeat("🙂", 200)}
	if err := e.normalize(&spec, time.Now()); err != nil {
		t.Errorf("names of 200 characters, which are more bytes: got %v, want them taken", err)
	}
}

func slicesOf(s string, n int) []string {
	var all []string
	for range n {
		all = append(all, s)
	}
	return all
}

func TestExplicitNumbersReplaceThoseOfTheSize(t *testing.T) {
	t.Parallel()
	spec := &dayfly.JobSpec{Size: "shared-cpu-2x", MemoryMB: 100, DiskMB: 10, Processes: 64}
	want := machine.Size{Preset: "shared-cpu-2x", CPUs: 2, MemoryMB: 100, DiskMB: 10, Processes: 64}
	if got, err := sizeOf(spec); err != nil || got != want {
		t.Errorf("got size %+v, %v; want %+v", got, err, want)
	}
}

func TestDefaultsAreFilledInAndStored(t *testing.T) {
	t.Parallel()
	e := &Engine{defaultProvider: "local", providers: map[string]machine.Provider{"local": memmachine.New(nil)}}
	spec := dayfly.JobSpec{Command: []string{"/usr/bin/ffmpeg", "-version"}, Payload: json.RawMessage("null")}
	if err := e.normalize(&spec, time.Now()); err != nil {
		t.Fatal(err)
	}
	if spec.Name != "ffmpeg" || spec.Queue != "default" || spec.Provider != "local" || spec.Payload != nil {
		t.Errorf("got name %q, queue %q, provider %q, payload %s; want ffmpeg, default, local and none", spec.Name, spec.Queue, spec.Provider, spec.Payload)
	}
	if spec.Retry.MaxAttempts != 1 || spec.Retry.MaxLaunches != 5 {
		t.Errorf("got at most %d attempts and %d launches, want 1 and 5", spec.Retry.MaxAttempts, spec.Retry.MaxLaunches)
	}
	if spec.Timeouts.Run != dayfly.Duration(time.Hour) || spec.Timeouts.Total != 0 {
		t.Errorf("got a run timeout of %v and a total of %v, want 1h and none", spec.Timeouts.Run, spec.Timeouts.Total)
	}
}
