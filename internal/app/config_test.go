package app_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/app"
)

const reference = "../../docs/configuration.md"

func TestReferenceNamesEveryKeyAndItsDefault(t *testing.T) {
	t.Parallel()
	page := read(t, reference)
	for _, key := range app.Keys() {
		if !strings.Contains(page, "| `"+key+"` |") {
			t.Errorf("docs/configuration.md has no row for %s", key)
		}
	}
}

func TestReferenceNamesNoKeyThatDoesNotExist(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, key := range app.Keys() {
		known[key] = true
	}
	for line := range strings.Lines(read(t, reference)) {
		key, isRow := strings.CutPrefix(line, "| `")
		if key, _, _ = strings.Cut(key, "`"); isRow && !known[key] {
			t.Errorf("docs/configuration.md describes %s, which is not a key", key)
		}
	}
}

func TestExampleIsTheDefaults(t *testing.T) {
	t.Parallel()
	_, rest, found := strings.Cut(read(t, reference), "```toml\n")
	example, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("docs/configuration.md has no ```toml example")
	}
	got, err := app.Load(write(t, example), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Validate(); err != nil {
		t.Errorf("the example does not validate: %v", err)
	}
	want := app.Default()
	want.DataDir = "/var/lib/dayfly"
	want.Queues["default"] = app.Queue{}
	reuse := true
	want.Pools["example"] = app.Pool{Max: 4, Concurrency: 1, Idle: dayfly.Duration(5 * time.Minute), MaxAge: dayfly.Duration(24 * time.Hour), Reuse: &reuse}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the example says\n%+v, the defaults are\n%+v", *got, *want)
	}
	for _, key := range app.Keys() {
		last := key[strings.LastIndex(key, ".")+1:]
		if !strings.Contains(example, "\n"+last+" = ") && !strings.HasPrefix(example, last+" = ") {
			t.Errorf("the example does not show %s", key)
		}
	}
}

func TestEnvironmentOverridesTheFile(t *testing.T) {
	t.Parallel()
	file := write(t, "retention = \"1h\"\n[queues.video-hd]\nconcurrency = 3\n[log]\nlevel = \"warn\"\n")
	c, err := app.Load(file, []string{
		"DAYFLY_LISTEN=127.0.0.1:1, [::1]:1",
		"DAYFLY_LOG_LEVEL=debug",
		"DAYFLY_PROVIDERS_LOCAL_MAX_MACHINES=7",
		"DAYFLY_ALLOW_OPEN=true",
		"DAYFLY_TIMEOUTS_LOST_AFTER=90s",
		"DAYFLY_QUEUES_VIDEO_HD_KEY_CONCURRENCY=2",
		"DAYFLY_QUEUES_AUDIO_CONCURRENCY=4",
		"DAYFLY_URL=http://example.com", "DAYFLY_TOKEN=x", "PATH=/bin",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := app.Default()
	want.Listen = []string{"127.0.0.1:1", "[::1]:1"}
	want.Log.Level = "debug"
	want.Providers.Local.MaxMachines = 7
	want.AllowOpen = true
	want.Retention = dayfly.Duration(time.Hour)
	want.Timeouts.LostAfter = dayfly.Duration(90 * time.Second)
	want.Queues = map[string]app.Queue{"video-hd": {Concurrency: 3, KeyConcurrency: 2}, "audio": {Concurrency: 4}}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got\n%+v, want\n%+v", *c, *want)
	}
}

func TestEveryKeyCanBeSetByItsVariable(t *testing.T) {
	t.Parallel()
	for _, key := range app.Keys() {
		set := false
		for _, value := range []string{"17", "17s", "true"} { // one of these is of the key's type
			if c, err := app.Load("", []string{app.Variable(key) + "=" + value}); err == nil && !reflect.DeepEqual(c, app.Default()) {
				set = true
			}
		}
		// A boolean that is true by default shows in the other direction.
		if c, err := app.Load("", []string{app.Variable(key) + "=false"}); err == nil && !reflect.DeepEqual(c, app.Default()) {
			set = true
		}
		if !set {
			t.Errorf("%s does not set %s", app.Variable(key), key)
		}
	}
}

func TestMistakesAreNamedWithTheirPlace(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		file string
		env  string
		want []string
	}{
		"an unknown key":                    {file: "\n\nlisen = [\"x\"]\n", want: []string{":3: there is no key lisen", "did you mean listen?"}},
		"an unknown key in a section":       {file: "[log]\n# a comment\nlevle = \"info\"\n", want: []string{":3: there is no key log.levle", "did you mean log.level?"}},
		"an unknown dotted key":             {file: "log.colour = \"never\"\n", want: []string{":1: there is no key log.colour"}},
		"an unknown section":                {file: "retention = \"1h\"\n[logging]\nlevel = \"info\"\n", want: []string{":2: there is no key logging"}},
		"an unknown key in an inline table": {file: "retention = \"1h\"\nlog = {level = \"info\", size = 3}\n", want: []string{":2: there is no key log.size"}},
		"an unknown limit of a queue":       {file: "[queues.video]\nconcurrency = 1\nmax = 2\n", want: []string{":3: there is no key queues.video.max"}},
		"no list":                           {file: "listen = 3\n", want: []string{`:1: listen must be a list of texts such as ["127.0.0.1:7700"], and is 3`}},
		"a list of something else":          {file: "listen = [\"a:1\", 3]\n", want: []string{":1: listen must be a list of texts", "and holds 3"}},
		"no whole number":                   {file: "\n[limits]\nconnections = \"many\"\n", want: []string{`:3: limits.connections must be a whole number, without quotes, and is the text "many"`}},
		"neither true nor false":            {file: "allow_open = \"yes\"\n", want: []string{`:1: allow_open must be true or false, without quotes, and is the text "yes"`}},
		"no text":                           {file: "data_dir = true\n", want: []string{":1: data_dir must be a text in quotes, and is true"}},
		"no section":                        {file: "log = 3\n", want: []string{":1: log must be a section, which begins with [log], and is 3"}},
		"no section of a queue":             {file: "[queues]\nvideo = 3\n", want: []string{":2: queues.video must be a section, which begins with [queues.video], and is 3"}},
		"a length of time that is none":     {file: "retention = \"soon\"\n", want: []string{`:1: retention must be a length of time such as "90s" or "1h30m", and is the text "soon"`}},
		"a length of time without a unit":   {file: "retention = 3\n", want: []string{`:1: retention must be a length of time such as "90s" or "1h30m", and is 3`}},
		"broken syntax":                     {file: "\n[log\n", want: []string{`.toml:2: "[log" cannot be read as TOML: expected`, "docs/configuration.md"}},
		"a text without quotes":             {file: "data_dir = here\n", want: []string{`.toml:1: "data_dir = here" cannot be read as TOML`, "texts stand in quotes"}},
		"an unknown variable":               {env: "DAYFLY_LOG_LEVLE=debug", want: []string{"DAYFLY_LOG_LEVLE configures nothing", "did you mean DAYFLY_LOG_LEVEL?"}},
		"a variable of the wrong type":      {env: "DAYFLY_LIMITS_CONNECTIONS=many", want: []string{"DAYFLY_LIMITS_CONNECTIONS", "many"}},
		"a queue's limit that is no number": {env: "DAYFLY_QUEUES_A_CONCURRENCY=x", want: []string{"DAYFLY_QUEUES_A_CONCURRENCY", `"x" is not a whole number`}},
		"a number that is too large":        {env: "DAYFLY_LIMITS_OPEN_JOBS=99999999999999999999", want: []string{"DAYFLY_LIMITS_OPEN_JOBS", "too large"}},
		"a variable that is no time":        {env: "DAYFLY_RETENTION=soon", want: []string{`DAYFLY_RETENTION: "soon" is not a length of time such as 90s or 1h30m`}},
		"a variable that is neither":        {env: "DAYFLY_ALLOW_OPEN=perhaps", want: []string{`DAYFLY_ALLOW_OPEN: "perhaps" is neither true nor false`}},
		"a variable that means nothing":     {env: "DAYFLY_FROBNICATE=1", want: []string{"DAYFLY_FROBNICATE configures nothing; unset it, or see docs/configuration.md"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var environ []string
			if c.env != "" {
				environ = []string{c.env}
			}
			_, err := app.Load(write(t, c.file), environ)
			if !errors.Is(err, fault.Invalid) {
				t.Fatalf("got %v, want an error of kind invalid", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want it to say %q", err, want)
				}
			}
		})
	}
}

func TestValidateNamesTheKey(t *testing.T) {
	t.Parallel()
	cases := map[string]func(c *app.Config){
		"listen":     func(c *app.Config) { c.Listen = nil },
		"data_dir":   func(c *app.Config) { c.DataDir = "relative" },
		"public_url": func(c *app.Config) { c.PublicURL = "dayfly.example.com" },
		"log.level":  func(c *app.Config) { c.Log.Level = "loud" },
		"log.format": func(c *app.Config) { c.Log.Format = "xml" },
		"tls":        func(c *app.Config) { c.TLS.Key = "key.pem" },
		"providers": func(c *app.Config) {
			c.Providers.Local.Enabled, c.Providers.Docker.Enabled = false, new(bool)
		},
		"default_provider":               func(c *app.Config) { c.DefaultProvider = "moon" },
		"providers.local.max_machines":   func(c *app.Config) { c.Providers.Local.MaxMachines = 0 },
		"queues.q":                       func(c *app.Config) { c.Queues["q"] = app.Queue{Pool: "none"} },
		"pools.a b":                      func(c *app.Config) { c.Pools["a b"] = app.Pool{Max: 1} },
		"pools.none":                     func(c *app.Config) { c.Pools["none"] = app.Pool{} },
		"pools.min":                      func(c *app.Config) { c.Pools["min"] = app.Pool{Min: 2, Max: 1} },
		"pools.uses":                     func(c *app.Config) { c.Pools["uses"] = app.Pool{Max: 1, MaxUses: -1} },
		"pools.share":                    func(c *app.Config) { c.Pools["share"] = app.Pool{Max: 1, Prewarm: 2} },
		"pools.size":                     func(c *app.Config) { c.Pools["size"] = app.Pool{Max: 1, Size: "vast"} },
		"pools.two":                      func(c *app.Config) { c.Pools["two"] = app.Pool{Max: 1, Provider: "fly,local"} },
		"pools.absent":                   func(c *app.Config) { c.Pools["absent"] = app.Pool{Max: 1, Provider: "mars"} },
		"queues.a b":                     func(c *app.Config) { c.Queues["a b"] = app.Queue{} },
		"queues.a":                       func(c *app.Config) { c.Queues["a"] = app.Queue{Concurrency: -1} },
		"limits.connections":             func(c *app.Config) { c.Limits.Connections = 1 },
		"retention":                      func(c *app.Config) { c.Retention = 1 },
		"fly_api.provider":               func(c *app.Config) { c.FlyAPI.Provider = "moon" },
		"fly_api.lifetime":               func(c *app.Config) { c.FlyAPI.Lifetime = 0 },
		"fly_api.max_machines":           func(c *app.Config) { c.FlyAPI.MaxMachines = 0 },
		"fly_api.max_cpus":               func(c *app.Config) { c.FlyAPI.MaxCPUs = -1 },
		"fly_api.images.a:*":             func(c *app.Config) { c.FlyAPI.Images["a:*"] = app.FlyImage{Dir: "/"} },
		"fly_api.images.b:*":             func(c *app.Config) { c.FlyAPI.Images["b:*"] = app.FlyImage{Command: []string{"b"}, Dir: "b"} },
		"fly_api.quirks.no_room":         func(c *app.Config) { c.FlyAPI.Quirks.NoRoom = []string{"bos:shelf"} },
		"fly_api.quirks.no_room_class":   func(c *app.Config) { c.FlyAPI.Quirks.NoRoomClass = "" },
		"fly_api.quirks.timeout_percent": func(c *app.Config) { c.FlyAPI.Quirks.TimeoutPercent = 101 },
		"timeouts.heartbeat":             func(c *app.Config) { c.Timeouts.Heartbeat = 0 },
		"timeouts.lost_after":            func(c *app.Config) { c.Timeouts.LostAfter = 0 },
		"timeouts.unreachable_after":     func(c *app.Config) { c.Timeouts.UnreachableAfter = c.Timeouts.Heartbeat },
	}
	for key, breakIt := range cases {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			refused(t, key, breakIt)
		})
	}
	for _, address := range []string{"", "8321", "::1:8321", "localhost", "localhost:", "localhost:http", "localhost:-1", "localhost:65536"} {
		t.Run("listen "+address, func(t *testing.T) {
			t.Parallel()
			refused(t, "listen", func(c *app.Config) { c.Listen = []string{app.DefaultListen, address} })
		})
	}
}

func TestAFileThatCannotBeReadIsNamed(t *testing.T) {
	t.Parallel()
	for name, file := range map[string]string{
		"no such file or directory": filepath.Join(t.TempDir(), "dayfly.toml"),
		"is a directory":            t.TempDir(),
	} {
		_, err := app.Load(file, nil)
		sentence, said := fault.Sentence(err)
		if !said || fault.Of(err) != fault.Invalid || !strings.Contains(sentence, file+" cannot be read: "+name+"; mend --config or DAYFLY_CONFIG") {
			t.Errorf("got %v, want a sentence that names %s, and says %q and what to do", err, file, name)
		}
	}
}

func TestAValueThatIsRefusedIsFoundWhereItWasSet(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ file, env, want string }{
		"in the file":                    {file: "\n[limits]\nconnections = 3\n", want: ".toml:3: limits.connections: 3 is too few"},
		"in an inline table":             {file: "log = {level = \"loud\"}\n", want: ".toml:1: log.level: \"loud\" is not one of"},
		"by a variable":                  {env: "DAYFLY_LIMITS_CONNECTIONS=3", want: "the environment variable DAYFLY_LIMITS_CONNECTIONS: 3 is too few"},
		"by both, and the last wins":     {file: "limits.connections = 4\n", env: "DAYFLY_LIMITS_CONNECTIONS=3", want: "the environment variable DAYFLY_LIMITS_CONNECTIONS: 3 is too few"},
		"in a section":                   {file: "[tls]\nkey = \"k\"\n", want: ".toml:1: tls: certificate and key belong together"},
		"as a section, by a variable":    {env: "DAYFLY_TLS_KEY=k", want: "the environment variable DAYFLY_TLS_KEY: certificate and key belong together"},
		"a queue's limit":                {file: "[queues.a]\nconcurrency = -1\n[queues.b]\n", env: "DAYFLY_QUEUES_A_B_CONCURRENCY=1", want: ".toml:1: queues.a: a limit cannot be negative"},
		"a queue's name":                 {file: "[queues.a]\n[queues.\"A B\"]\n", want: ".toml:2: queues.A B: \"A B\" is not the name of a queue"},
		"a queue's limit, by a variable": {env: "DAYFLY_QUEUES_A_KEY_CONCURRENCY=-1", want: "the environment variable DAYFLY_QUEUES_A_KEY_CONCURRENCY: a limit cannot be negative"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := write(t, c.file)
			environ := []string{"PATH=/bin", "DAYFLY_DATA_DIR=" + t.TempDir()}
			if c.env != "" {
				environ = append(environ, c.env)
			}
			config, err := app.Load(file, environ)
			if err != nil {
				t.Fatal(err)
			}
			err = app.Locate(config.Validate(), file, environ)
			if err == nil || !strings.Contains(err.Error(), c.want) || fault.Of(err) != fault.Invalid {
				t.Errorf("got %v, want an error of kind invalid that says %q", err, c.want)
			}
		})
	}
}

// refused fails the test unless the defaults validate, and once broken are refused because of the key.
func refused(t *testing.T, key string, breakIt func(c *app.Config)) {
	t.Helper()
	c := app.Default()
	c.DataDir = t.TempDir()
	if err := c.Validate(); err != nil {
		t.Fatalf("the defaults do not validate: %v", err)
	}
	breakIt(c)
	field, ok := errors.AsType[*fault.FieldError](c.Validate())
	if !ok || field.Field != key {
		t.Errorf("got %v, want an error about %s", field, key)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "dayfly.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
