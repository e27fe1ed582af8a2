package engine

import (
	"cmp"
	"fmt"
	"maps"
	"mime"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// The defaults of a job, each documented on its field in package dayfly.
const (
	defaultQueue       = "default"
	defaultPull        = 10 * time.Minute
	defaultBoot        = 5 * time.Minute
	defaultRun         = time.Hour
	defaultGrace       = 10 * time.Second
	defaultMaxAttempts = 1
	defaultMaxLaunches = 5
	defaultBackoffMin  = time.Second
	defaultBackoffMax  = 5 * time.Minute

	maxCommandBytes = 128 << 10 // the kernel's limit for one argument
	maxEnvBytes     = 256 << 10
	maxEnvCount     = 1000
	maxPayload      = 256 << 10
	maxLine         = 200 // characters
	maxLabels       = 64
	maxRunTimeout   = 7 * 24 * time.Hour
	maxWait         = 366 * 24 * time.Hour
	maxRunAt        = 5 * 366 * 24 * time.Hour
)

var (
	envName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	queueName = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]*$`)
	labelName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_./-]{0,61}[A-Za-z0-9])?$`)
)

// normalize checks what a schema cannot say and fills in every default, so that what is stored is what will happen
// even if the defaults change. Errors are fault.FieldErrors in the request's own words.
func (e *Engine) normalize(spec *dayfly.JobSpec, wall time.Time) error {
	for _, check := range []func(*dayfly.JobSpec) error{checkBare, checkCommand, checkEnv, checkFiles, checkLabels, checkTimes} {
		if err := check(spec); err != nil {
			return err
		}
	}
	if len(spec.Payload) > maxPayload {
		return &fault.FieldError{Field: "payload", Kind: fault.TooLarge,
			Message: fmt.Sprintf("is %d bytes; at most %d are allowed; upload larger data as an input", len(spec.Payload), maxPayload)}
	}
	if string(spec.Payload) == "null" {
		spec.Payload = nil
	}
	if spec.RunAt != nil && spec.RunAt.After(wall.Add(maxRunAt)) {
		return fault.Field("run_at", "is more than five years away")
	}
	if _, err := sizeOf(spec); err != nil {
		return fault.Field("size", "there is no size %q; the sizes are %s", spec.Size, strings.Join(machine.Presets(), ", "))
	}
	if strings.ContainsFunc(spec.Image, unicode.IsControl) {
		return fault.Field("image", "holds a control character")
	}
	if spec.Queue == "" {
		spec.Queue = defaultQueue
	}
	if len(spec.Queue) > 64 || !queueName.MatchString(spec.Queue) {
		return fault.Field("queue", "must be 1 to 64 characters of a-z, 0-9, '_', '.' and '-', beginning with a letter or digit")
	}
	if err := e.placePool(spec); err != nil {
		return err
	}
	if err := e.placeJob(spec); err != nil {
		return err
	}
	if spec.Name == "" {
		spec.Name = nameOf(spec)
	}
	if err := checkLine("name", spec.Name); err != nil {
		return err
	}
	if err := checkLine("concurrency_key", spec.ConcurrencyKey); err != nil {
		return err
	}
	fillDefaults(spec)
	return e.checkCost(spec)
}

// nameOf returns the name of a job that has none: its command's, or its image's.
func nameOf(spec *dayfly.JobSpec) string {
	if len(spec.Command) > 0 {
		return filepath.Base(spec.Command[0])
	}
	name, _, _ := strings.Cut(filepath.Base(spec.Image), "@")
	return name
}

// placeJob fills in where a job runs that does not say it, and checks it.
func (e *Engine) placeJob(spec *dayfly.JobSpec) (err error) {
	if spec.Provider == "" {
		spec.Provider = cmp.Or(e.options.Queues[spec.Queue].Provider, e.defaultProvider)
	}
	spec.Provider, err = CheckProviders("provider", spec.Provider, slices.Collect(maps.Keys(e.providers)), e.options.Absent)
	return err
}

// checkDefaults checks the places that are for jobs which do not name one, and writes them as they are kept.
func checkDefaults(o *Options) error {
	providers := slices.Collect(maps.Keys(o.Providers))
	for name, limits := range o.Queues {
		if limits.Provider == "" {
			continue
		}
		if _, err := CheckProviders("queues."+name+".provider", limits.Provider, providers, o.Absent); err != nil {
			return fmt.Errorf("engine: %w", err)
		}
	}
	if _, err := CheckProviders("default_provider", o.DefaultProvider, providers, o.Absent); err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	return nil
}

func fillDefaults(spec *dayfly.JobSpec) {
	or := func(d *dayfly.Duration, value time.Duration) {
		if *d == 0 {
			*d = dayfly.Duration(value)
		}
	}
	or(&spec.Timeouts.Pull, defaultPull)
	or(&spec.Timeouts.Boot, defaultBoot)
	or(&spec.Timeouts.Run, defaultRun)
	or(&spec.Timeouts.Grace, defaultGrace)
	or(&spec.Retry.BackoffMin, defaultBackoffMin)
	or(&spec.Retry.BackoffMax, max(defaultBackoffMax, time.Duration(spec.Retry.BackoffMin)))
	if spec.Retry.MaxAttempts == 0 {
		spec.Retry.MaxAttempts = defaultMaxAttempts
	}
	if spec.Retry.MaxLaunches == 0 {
		spec.Retry.MaxLaunches = defaultMaxLaunches
	}
}

func checkCommand(spec *dayfly.JobSpec) error {
	if len(spec.Command) == 0 && (spec.Bare || spec.OwnAgent) {
		return nil // the image says what to run
	}
	if len(spec.Command) == 0 || spec.Command[0] == "" {
		return fault.Field("command", "must name a program: an array such as [\"ffmpeg\", \"-i\", \"in.wav\", \"out.mp3\"]")
	}
	total := 0
	for i, arg := range spec.Command {
		if err := checkText(fmt.Sprintf("command[%d]", i), arg, maxCommandBytes); err != nil {
			return err
		}
		total += len(arg)
	}
	if total > 4*maxCommandBytes {
		return &fault.FieldError{Field: "command", Kind: fault.TooLarge,
			Message: fmt.Sprintf("is %d bytes in all; at most %d are allowed; pass long data as payload or input", total, 4*maxCommandBytes)}
	}
	return nil
}

func checkEnv(spec *dayfly.JobSpec) error {
	if len(spec.Env) > maxEnvCount {
		return fault.Field("env", "has %d variables; at most %d are allowed", len(spec.Env), maxEnvCount)
	}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(spec.Env)) {
		field := "env." + name
		switch {
		case !envName.MatchString(name) || len(name) > 256:
			return fault.Field("env", "%q is not a variable name: letters, digits and '_', not beginning with a digit", name)
		case strings.HasPrefix(name, "DAYFLY_") || strings.HasPrefix(name, "LD_"):
			return fault.Field(field, "names beginning with DAYFLY_ and LD_ are reserved")
		}
		if err := checkText(field, spec.Env[name], maxCommandBytes); err != nil {
			return err
		}
		total += len(name) + len(spec.Env[name]) + 2
	}
	if total > maxEnvBytes {
		return &fault.FieldError{Field: "env", Kind: fault.TooLarge,
			Message: fmt.Sprintf("is %d bytes in all; at most %d are allowed", total, maxEnvBytes)}
	}
	return nil
}

// checkFiles makes sure that no name leaves the working directory, whatever it contains.
func checkFiles(spec *dayfly.JobSpec) error {
	seen := map[string]bool{}
	for i, in := range spec.Inputs {
		field := fmt.Sprintf("inputs[%d].name", i)
		if err := checkFileName(field, in.Name); err != nil {
			return err
		}
		if seen[in.Name] {
			return fault.Field(field, "%q is declared twice", in.Name)
		}
		seen[in.Name] = true
		if in.ContentType != "" && !IsContentType(in.ContentType) {
			return fault.Field(fmt.Sprintf("inputs[%d].content_type", i), "%.100q is not a content type, such as audio/wav", in.ContentType)
		}
	}
	for name := range seen {
		for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
			if seen[dir] {
				return fault.Field("inputs", "%q cannot be a file and the directory of %q", dir, name)
			}
		}
	}
	for i, pattern := range spec.Outputs {
		field := fmt.Sprintf("outputs[%d]", i)
		if err := checkFileName(field, pattern); err != nil {
			return err
		}
		if _, err := filepath.Match(strings.ReplaceAll(pattern, "**", "*"), "x"); err != nil {
			return fault.Field(field, "%q is not a pattern: a bracket or backslash is left open", pattern)
		}
	}
	return nil
}

// IsContentType reports whether a text can be the content type of an upload. What is declared has to come in a header,
// exactly as it is.
func IsContentType(text string) bool {
	_, _, err := mime.ParseMediaType(text)
	return err == nil && len(text) <= 255 && strings.TrimSpace(text) == text && !strings.ContainsFunc(text, unicode.IsControl)
}

func checkFileName(field, name string) error {
	if err := checkText(field, name, 1024); err != nil {
		return err
	}
	if !filepath.IsLocal(name) || strings.Contains(name, "\\") || filepath.Clean(name) != name || name == "." {
		return fault.Field(field, "%q must be a plain path inside the working directory: no \"..\", no leading or doubled \"/\", no backslash", name)
	}
	for _, segment := range strings.Split(name, "/") {
		if len(segment) > 255 {
			return fault.Field(field, "a part of the path is longer than 255 bytes")
		}
	}
	if strings.ContainsFunc(name, unicode.IsControl) {
		return fault.Field(field, "holds a control character")
	}
	return nil
}

func checkLabels(spec *dayfly.JobSpec) error {
	if len(spec.Labels) > maxLabels {
		return fault.Field("labels", "there are %d; at most %d are allowed", len(spec.Labels), maxLabels)
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Labels)) {
		if !labelName.MatchString(name) {
			return fault.Field("labels", "%q is not a label name: 1 to 63 letters, digits, '_', '.', '/' and '-', beginning and ending with a letter or digit", name)
		}
		if err := checkText("labels."+name, spec.Labels[name], 256); err != nil {
			return err
		}
	}
	return nil
}

func checkTimes(spec *dayfly.JobSpec) error {
	for _, limit := range []struct {
		field string
		value dayfly.Duration
		most  time.Duration
	}{
		{"timeouts.queue", spec.Timeouts.Queue, maxWait},
		{"timeouts.pull", spec.Timeouts.Pull, time.Hour},
		{"timeouts.boot", spec.Timeouts.Boot, time.Hour},
		{"timeouts.run", spec.Timeouts.Run, maxRunTimeout},
		{"timeouts.total", spec.Timeouts.Total, maxWait},
		{"timeouts.grace", spec.Timeouts.Grace, time.Hour},
		{"keep_on_failure", spec.KeepOnFailure, maxKeep},
		{"retry.backoff_min", spec.Retry.BackoffMin, 24 * time.Hour},
		{"retry.backoff_max", spec.Retry.BackoffMax, 24 * time.Hour},
	} {
		if limit.value < 0 || time.Duration(limit.value) > limit.most {
			return fault.Field(limit.field, "must be between 0 and %v", limit.most)
		}
	}
	if spec.Retry.BackoffMax != 0 && spec.Retry.BackoffMax < spec.Retry.BackoffMin {
		return fault.Field("retry.backoff_max", "is shorter than retry.backoff_min")
	}
	for i, code := range spec.Retry.NonRetryableExits {
		if code < 1 || code > 255 {
			return fault.Field(fmt.Sprintf("retry.non_retryable_exit_codes[%d]", i), "must be between 1 and 255")
		}
	}
	return nil
}

func checkText(field, text string, most int) error {
	switch {
	case len(text) > most:
		return &fault.FieldError{Field: field, Kind: fault.TooLarge, Message: fmt.Sprintf("is %d bytes; at most %d are allowed", len(text), most)}
	case !utf8.ValidString(text):
		return fault.Field(field, "is not valid UTF-8")
	case strings.ContainsRune(text, 0):
		return fault.Field(field, "holds a NUL character")
	}
	return nil
}

// checkLine checks a short text that the API's description limits by its characters.
func checkLine(field, text string) error {
	if n := utf8.RuneCountInString(text); n > maxLine {
		return fault.Field(field, "has %d characters; at most %d are allowed", n, maxLine)
	}
	return checkText(field, text, maxLine*utf8.UTFMax)
}

// sizeOf returns the machine size a spec asks for: the preset, with explicit numbers in place of its own.
func sizeOf(spec *dayfly.JobSpec) (machine.Size, error) {
	var size machine.Size
	if spec.Size != "" {
		var err error
		if size, err = machine.ParseSize(spec.Size); err != nil {
			return size, err
		}
	}
	if spec.CPUs != 0 {
		size.CPUs = spec.CPUs
	}
	if spec.MemoryMB != 0 {
		size.MemoryMB = spec.MemoryMB
	}
	if spec.DiskMB != 0 {
		size.DiskMB = spec.DiskMB
	}
	if spec.Processes != 0 {
		size.Processes = spec.Processes
	}
	return size, nil
}
