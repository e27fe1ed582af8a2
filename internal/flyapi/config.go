package flyapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/machine"
)

// The bounds of a configuration.
const (
	maxEnv       = 1000
	maxProcesses = 32
	maxFiles     = 256
	maxMetadata  = 100
	maxDepth     = 64 // of nested objects and lists
)

// config is what we act on in a machine's configuration. Everything else a client sends is kept in echo and given back.
type config struct {
	Image       string            `json:"image"`
	Guest       *guest            `json:"guest"`
	Size        string            `json:"size"`
	Env         map[string]string `json:"env"`
	Init        start             `json:"init"`
	Processes   []process         `json:"processes"`
	Files       []file            `json:"files"`
	AutoDestroy bool              `json:"auto_destroy"`
	Restart     restart           `json:"restart"`
	StopConfig  stopConfig        `json:"stop_config"`
	Services    []service         `json:"services"`
	Mounts      []json.RawMessage `json:"mounts"`
	Metadata    map[string]string `json:"metadata"`
	Schedule    string            `json:"schedule"`
	Containers  []json.RawMessage `json:"containers"`

	echo  map[string]json.RawMessage // the configuration as it is shown, without metadata
	guest guest                      // the guest, complete
	files []machine.File             // decoded
}

// start says what to run. Exec overrides everything; entrypoint and cmd are those of an image.
type start struct {
	Exec       []string `json:"exec"`
	Entrypoint []string `json:"entrypoint"`
	Cmd        []string `json:"cmd"`
}

func (s *start) given() bool { return len(s.Exec)+len(s.Entrypoint)+len(s.Cmd) > 0 }

// check refuses a command that no process can be given.
func (s *start) check(field string) error {
	for _, words := range [][]string{s.Exec, s.Entrypoint} {
		if len(words) > 0 && words[0] == "" {
			return unprocessable("%s: the first word of a command is empty", field)
		}
	}
	for _, word := range slices.Concat(s.Exec, s.Entrypoint, s.Cmd) {
		if strings.ContainsRune(word, 0) {
			return unprocessable("%s: a command holds a NUL byte", field)
		}
	}
	return nil
}

// process is one of several programs of a machine.
type process struct {
	start
	Env     map[string]string `json:"env"`
	User    string            `json:"user"`
	Secrets []json.RawMessage `json:"secrets"`
	EnvFrom []json.RawMessage `json:"env_from"`
}

// UnmarshalJSON reads the fields of both parts.
func (p *process) UnmarshalJSON(data []byte) error {
	type rest struct {
		Env     map[string]string `json:"env"`
		User    string            `json:"user"`
		Secrets []json.RawMessage `json:"secrets"`
		EnvFrom []json.RawMessage `json:"env_from"`
	}
	var other rest
	if err := json.Unmarshal(data, &other); err != nil {
		return err
	}
	p.Env, p.User, p.Secrets, p.EnvFrom = other.Env, other.User, other.Secrets, other.EnvFrom
	return json.Unmarshal(data, &p.start)
}

// file is a file to be put into the machine.
type file struct {
	GuestPath   string          `json:"guest_path"`
	RawValue    *string         `json:"raw_value"`
	SecretName  *string         `json:"secret_name"`
	ImageConfig json.RawMessage `json:"image_config"`
	Mode        uint32          `json:"mode"`
}

// restart says what happens when the machine's program ends by itself.
type restart struct {
	Policy     string `json:"policy"`
	MaxRetries int    `json:"max_retries"`
}

// The restart policies.
const (
	restartNo        = "no"
	restartOnFailure = "on-failure"
	restartAlways    = "always"
)

// stopConfig says how a machine is stopped.
type stopConfig struct {
	Timeout duration `json:"timeout"`
	Signal  string   `json:"signal"`
}

// The bounds and defaults of stopping.
const (
	defaultStop   = 5 * time.Second
	maxStop       = 5 * time.Minute
	defaultSignal = "SIGINT"
)

// service is looked at only for how it is shown.
type service struct {
	Autostop json.RawMessage `json:"autostop"`
}

// parseConfig reads and checks a configuration. The errors are problems.
func parseConfig(data []byte) (*config, error) {
	c := &config{}
	if !isObject(data) {
		return nil, invalid("config is required and must be an object")
	}
	if depth(data) > maxDepth {
		return nil, invalid("config is nested more than %d deep", maxDepth)
	}
	if err := decode(data, c); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &c.echo); err != nil {
		return nil, invalid("config: %s", wordsOf(err))
	}
	if c.Image == "" {
		return nil, invalid("config.image is required")
	}
	var err error
	if c.guest, err = guestOf(c.Size, c.Guest); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	if err := c.decodeFiles(); err != nil {
		return nil, err
	}
	return c, c.complete()
}

// check refuses what is out of bounds and what is not served.
func (c *config) check() error {
	switch {
	case len(c.Image) > 1024 || strings.ContainsAny(c.Image, "\x00\n\r\t "):
		return invalid("config.image %.80q is not a reference to an image", c.Image)
	case len(c.Env) > maxEnv:
		return unprocessable("config.env has %d variables; at most %d are served", len(c.Env), maxEnv)
	case len(c.Processes) > maxProcesses:
		return unprocessable("config.processes has %d processes; at most %d are served", len(c.Processes), maxProcesses)
	case len(c.Files) > maxFiles:
		return unprocessable("config.files has %d files; at most %d are served", len(c.Files), maxFiles)
	case len(c.Mounts) > 1:
		return unprocessable("config.mounts: a machine can have one volume")
	case len(c.Containers) > 0:
		return unprocessable("config.containers is not served here; a machine runs one image")
	case !slices.Contains([]string{"", "hourly", "daily", "weekly", "monthly"}, c.Schedule):
		return unprocessable("config.schedule '%.40s' is not one of hourly, daily, weekly, monthly", c.Schedule)
	case c.StopConfig.Timeout < 0 || time.Duration(c.StopConfig.Timeout) > maxStop:
		return unprocessable("config.stop_config.timeout must be from 0s to %v", maxStop)
	case c.Restart.MaxRetries < 0:
		return unprocessable("config.restart.max_retries must not be negative")
	}
	if c.StopConfig.Signal != "" {
		if _, err := signalName(c.StopConfig.Signal); err != nil {
			return err
		}
	}
	if !slices.Contains([]string{"", restartNo, restartOnFailure, restartAlways}, c.Restart.Policy) {
		return unprocessable("config.restart.policy '%.40s' is not one of no, on-failure, always", c.Restart.Policy)
	}
	if err := checkVariables("config.env", c.Env); err != nil {
		return err
	}
	if err := c.Init.check("config.init"); err != nil {
		return err
	}
	for i := range c.Processes {
		if err := c.Processes[i].check(len(c.Processes) > 1); err != nil {
			return err
		}
	}
	return checkMetadata(c.Metadata)
}

func (p *process) check(several bool) error {
	switch {
	case len(p.Secrets) > 0 || len(p.EnvFrom) > 0:
		return unprocessable("config.processes: secrets and env_from are not served here; use env")
	case several && !p.given():
		return unprocessable("config.processes: each of several processes needs exec, entrypoint or cmd")
	case len(p.User) > 256 || strings.ContainsRune(p.User, 0):
		return unprocessable("config.processes: user %.60q is not the name of a user", p.User)
	}
	if err := p.start.check("config.processes"); err != nil {
		return err
	}
	return checkVariables("config.processes.env", p.Env)
}

func checkVariables(field string, env map[string]string) error {
	for name, value := range env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			return unprocessable("%s: %.60q is not a variable that a process can be given", field, name)
		}
	}
	return nil
}

func checkMetadata(metadata map[string]string) error {
	if len(metadata) > maxMetadata {
		return unprocessable("config.metadata has %d keys; at most %d are served", len(metadata), maxMetadata)
	}
	for key, value := range metadata {
		if key == "" || len(key) > 256 || len(value) > 4096 {
			return unprocessable("config.metadata: %.60q: keys have 1 to 256 bytes and values at most 4096", key)
		}
	}
	return nil
}

// decodeFiles decodes the files.
func (c *config) decodeFiles() error {
	total := 0
	for _, f := range c.Files {
		refused := func(why string) error { return unprocessable("config.files: %.100q %s", f.GuestPath, why) }
		switch {
		case !path.IsAbs(f.GuestPath) || path.Clean(f.GuestPath) != f.GuestPath || f.GuestPath == "/" || strings.ContainsRune(f.GuestPath, 0):
			return refused("is not an absolute path to a file")
		case f.SecretName != nil && *f.SecretName != "":
			return refused("asks for a secret; secrets are not served here: send the content as raw_value")
		case len(f.ImageConfig) > 0 && string(f.ImageConfig) != "null":
			return refused("asks for an image_config, which is not served here: send the content as raw_value")
		case f.RawValue == nil:
			return refused("has no raw_value")
		case f.Mode&^0o777 != 0:
			return refused("has a mode with more than permission bits")
		case slices.ContainsFunc(c.files, func(other machine.File) bool { return other.Path == f.GuestPath }):
			return refused("is given twice")
		}
		data, err := base64.StdEncoding.DecodeString(*f.RawValue)
		if err != nil {
			return refused("has a raw_value that is not base64")
		}
		if total += len(data); total > machine.MaxFileBytes {
			return unprocessable("config.files hold more than %d bytes together", machine.MaxFileBytes)
		}
		c.files = append(c.files, machine.File{Path: f.GuestPath, Data: data, Mode: f.Mode})
	}
	return nil
}

// complete fills in the defaults, in what is acted on and in what is shown.
func (c *config) complete() error {
	if c.Restart.Policy == "" {
		c.Restart.Policy = restartOnFailure
	}
	if c.Restart.MaxRetries == 0 {
		c.Restart.MaxRetries = 10
	}
	maps.DeleteFunc(c.echo, func(_ string, value json.RawMessage) bool { return string(value) == "null" })
	delete(c.echo, "size") // it has become the guest, and the two may not be sent back together
	delete(c.echo, "metadata")
	shown := restart{Policy: c.Restart.Policy}
	if shown.Policy == restartOnFailure {
		shown.MaxRetries = c.Restart.MaxRetries
	}
	if err := c.show("restart", map[string]any{"policy": shown.Policy, "max_retries": shown.MaxRetries}); err != nil {
		return err
	}
	if err := c.show("guest", c.guest); err != nil {
		return err
	}
	if c.echo["init"] == nil {
		c.echo["init"] = json.RawMessage(`{}`)
	}
	return c.showServices()
}

func (c *config) show(key string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return invalid("config.%s: %s", key, wordsOf(err))
	}
	c.echo[key] = data
	return nil
}

// showServices shows autostop as Fly does: "off" and "stop" become false and true.
func (c *config) showServices() error {
	if len(c.Services) == 0 || c.echo["services"] == nil {
		return nil
	}
	var services []map[string]json.RawMessage
	if err := json.Unmarshal(c.echo["services"], &services); err != nil {
		return invalid("config.services: %s", wordsOf(err))
	}
	for _, s := range services {
		switch string(s["autostop"]) {
		case `"off"`:
			s["autostop"] = json.RawMessage(`false`)
		case `"stop"`:
			s["autostop"] = json.RawMessage(`true`)
		case `"suspend"`, `true`, `false`, `null`, ``:
		default:
			return invalid("config.services.autostop %.40s is not one of true, false, \"off\", \"stop\", \"suspend\"", s["autostop"])
		}
	}
	return c.show("services", services)
}

// stopping returns how the machine is stopped when nobody says otherwise.
func (c *config) stopping() (signal string, timeout time.Duration) {
	signal, timeout = defaultSignal, defaultStop
	if c.StopConfig.Signal != "" {
		signal, _ = signalName(c.StopConfig.Signal) // check has seen it
	}
	if c.StopConfig.Timeout > 0 {
		timeout = time.Duration(c.StopConfig.Timeout)
	}
	return signal, timeout
}

func isObject(data []byte) bool {
	trimmed := bytes.TrimSpace(data)
	return len(trimmed) > 0 && trimmed[0] == '{'
}

// depth returns how deep a text of JSON is nested.
func depth(data []byte) int {
	deepest, now, quoted, escaped := 0, 0, false, false
	for _, c := range data {
		switch {
		case escaped:
			escaped = false
		case quoted:
			escaped, quoted = c == '\\', c != '"'
		case c == '"':
			quoted = true
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}
