package app

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

// Prefix begins the environment variables that configure Dayfly: the key log.level is DAYFLY_LOG_LEVEL.
const Prefix = "DAYFLY_"

// maxFile is the largest configuration file that is read, in bytes.
const maxFile = 1 << 20

// Load returns the defaults, overridden by the file (none if it is ""), overridden by the environment, which is given
// in the form of os.Environ. The caller may override more and then calls [Config.Validate].
//
// A key or variable that does not exist is an error that names it and its line, because a misspelled key that is
// ignored is a limit that is not there. Errors are fault.Invalid.
func Load(file string, environ []string) (*Config, error) {
	c := Default()
	if file != "" {
		if err := c.loadFile(file); err != nil {
			return nil, err
		}
	}
	if err := c.loadEnviron(environ); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Config) loadFile(file string) error {
	source, err := readFile(file)
	if err != nil {
		return err
	}
	table := map[string]any{}
	meta, err := toml.NewDecoder(bytes.NewReader(source)).Decode(&table)
	if err != nil {
		return notTOML(file, source, err)
	}
	if err := checkTable(file, source, table, meta.Keys()); err != nil {
		return err
	}
	if _, err := toml.NewDecoder(bytes.NewReader(source)).Decode(c); err != nil {
		return fault.Say(fault.Invalid, "%s: %v", file, err) // nothing that checkTable lets through comes here
	}
	return nil
}

// readFile reads a configuration file whole.
func readFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, unreadable(file, err)
	}
	defer f.Close()
	source, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, unreadable(file, err)
	}
	if len(source) > maxFile {
		return nil, fault.Say(fault.Invalid, "%s is larger than %d bytes; that is no configuration file", file, maxFile)
	}
	return source, nil
}

// unreadable says why a configuration file cannot be read. Who named it is said too: with DAYFLY_CONFIG that may have been
// long ago.
func unreadable(file string, err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	return fault.Say(fault.Invalid, "the configuration file %s cannot be read: %v; mend --config or DAYFLY_CONFIG, whichever names it, "+
		"or leave it out: none is needed", file, err)
}

// lineOf returns the line on which a key is set, from 1. The decoder does not say where an unknown key was, so the
// source is read once more for its tables and keys; when the key is inside an inline table the line is that of the
// table.
func lineOf(source []byte, key toml.Key) int {
	for ; len(key) > 0; key = key[:len(key)-1] {
		table := ""
		for i, line := range strings.Split(string(source), "\n") {
			line, _, _ = strings.Cut(line, "#")
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "[") {
				table = normalKey(strings.Trim(line, "[] "))
				if table == normalKey(key.String()) {
					return i + 1
				}
				continue
			}
			name, _, isPair := strings.Cut(line, "=")
			if !isPair {
				continue
			}
			if full := strings.Trim(table+"."+normalKey(name), "."); full == normalKey(key.String()) {
				return i + 1
			}
		}
	}
	return 1
}

// normalKey returns a dotted key without the spaces and quotes it may be written with.
func normalKey(key string) string {
	return strings.Map(func(r rune) rune {
		if r == '"' || r == '\'' || r == ' ' || r == '\t' {
			return -1
		}
		return r
	}, key)
}

// suggestion returns "; did you mean …?" when a known key is close.
func suggestion(key string) string {
	best, least := "", 4
	for _, known := range Keys() {
		if d := distance(key, known); d < least {
			best, least = known, d
		}
	}
	if best == "" {
		return "; remove it, or see docs/configuration.md for those there are"
	}
	return "; did you mean " + best + "?"
}

// distance is the number of characters to insert, remove or replace to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Keys returns every key of the configuration, with dots between the sections; those of a queue once, for a queue
// called NAME.
func Keys() []string {
	var keys []string
	walk(reflect.ValueOf(&Config{Queues: map[string]Queue{"NAME": {}}, Pools: map[string]Pool{"NAME": {}}}).Elem(), "", func(key string, _ reflect.Value) {
		keys = append(keys, key)
	})
	return keys
}

// Variable returns the environment variable of a key.
func Variable(key string) string {
	return Prefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(key))
}

// walk calls fn for each leaf of a configuration.
func walk(v reflect.Value, prefix string, fn func(key string, leaf reflect.Value)) {
	if v.Kind() != reflect.Struct {
		fn(prefix, v)
		return
	}
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("toml")
		if prefix != "" {
			name = prefix + "." + name
		}
		field := v.Field(i)
		if field.Kind() != reflect.Map {
			walk(field, name, fn)
			continue
		}
		for _, key := range field.MapKeys() {
			walk(field.MapIndex(key), name+"."+key.String(), fn)
		}
	}
}

// otherVariables are the variables with our prefix that are not configuration of a server: the commands read the
// first three, machines are given the others.
func otherVariables() []string {
	return []string{
		"DAYFLY_URL", "DAYFLY_CONFIG", "DAYFLY_TOKEN",
		"DAYFLY_JOB_ID", "DAYFLY_ATTEMPT", "DAYFLY_INPUT", "DAYFLY_RESULT", "DAYFLY_PROGRESS",
		"DAYFLY_MACHINE", "DAYFLY_GROUP", "DAYFLY_FAILPOINTS",
	}
}

func (c *Config) loadEnviron(environ []string) error {
	leaves := map[string]reflect.Value{}
	walk(reflect.ValueOf(c).Elem(), "", func(key string, leaf reflect.Value) {
		if leaf.CanSet() { // those of queues are inside a map and are set below
			leaves[Variable(key)] = leaf
		}
	})
	for _, pair := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, Prefix) || slices.Contains(otherVariables(), name) {
			continue
		}
		leaf, known := leaves[name]
		var err error
		switch {
		case known:
			err = set(leaf, value)
		default:
			known, err = c.setQueue(name, value)
			if !known {
				known, err = c.setPool(name, value)
			}
		}
		if err != nil {
			return fault.Say(fault.Invalid, "the environment variable %s: %v", name, err)
		}
		if !known {
			return fault.Say(fault.Invalid, "the environment variable %s configures nothing%s", name, variableSuggestion(name))
		}
	}
	return nil
}

func variableSuggestion(name string) string {
	best, least := "", 4
	for _, key := range Keys() {
		if d := distance(name, Variable(key)); d < least {
			best, least = Variable(key), d
		}
	}
	if best == "" {
		return "; unset it, or see docs/configuration.md for those there are"
	}
	return "; did you mean " + best + "?"
}

// setQueue sets a key of a queue from a variable such as DAYFLY_QUEUES_VIDEO_HD_CONCURRENCY. It means the configured
// queue whose name it is with _ for - and . or else the queue "video_hd".
func (c *Config) setQueue(variable, value string) (known bool, err error) {
	rest, ok := strings.CutPrefix(variable, Prefix+"QUEUES_")
	if !ok {
		return false, nil
	}
	// The longest comes first: each ends with what those behind it end with.
	for _, key := range []struct {
		suffix string
		limit  func(*Queue) any
	}{
		{"_KEY_CONCURRENCY", func(q *Queue) any { return &q.KeyConcurrency }},
		{"_CONCURRENCY", func(q *Queue) any { return &q.Concurrency }},
		{"_PROVIDER", func(q *Queue) any { return &q.Provider }},
		{"_POOL", func(q *Queue) any { return &q.Pool }},
		{"_DAILY_COST", func(q *Queue) any { return &q.DailyCost }},
	} {
		if name, found := strings.CutSuffix(rest, key.suffix); found && name != "" {
			return true, c.setQueueLimit(name, key.limit, value)
		}
	}
	return false, nil
}

// setQueueLimit sets one limit of the queue that a part of a variable's name means.
func (c *Config) setQueueLimit(name string, limit func(*Queue) any, value string) error {
	queue := strings.ToLower(name)
	for configured := range c.Queues {
		if Variable(configured) == Prefix+name {
			queue = configured
		}
	}
	limits := c.Queues[queue]
	if err := set(reflect.ValueOf(limit(&limits)).Elem(), value); err != nil {
		return err
	}
	if c.Queues == nil {
		c.Queues = map[string]Queue{}
	}
	c.Queues[queue] = limits
	return nil
}

// setPool sets a key of a pool from a variable such as DAYFLY_POOLS_FFMPEG_MAX. It means the configured pool whose name it is
// with _ for - and . or else the pool "ffmpeg".
func (c *Config) setPool(variable, value string) (known bool, err error) {
	rest, ok := strings.CutPrefix(variable, Prefix+"POOLS_")
	if !ok {
		return false, nil
	}
	for _, key := range []struct {
		suffix string
		of     func(*Pool) any
	}{
		{"_PROVIDER", func(p *Pool) any { return &p.Provider }},
		{"_REGION", func(p *Pool) any { return &p.Region }},
		{"_IMAGE", func(p *Pool) any { return &p.Image }},
		{"_SIZE", func(p *Pool) any { return &p.Size }},
		{"_MIN", func(p *Pool) any { return &p.Min }},
		{"_MAX", func(p *Pool) any { return &p.Max }},
		{"_CONCURRENCY", func(p *Pool) any { return &p.Concurrency }},
		{"_PREWARM", func(p *Pool) any { return &p.Prewarm }},
		{"_IDLE", func(p *Pool) any { return &p.Idle }},
		{"_MAX_AGE", func(p *Pool) any { return &p.MaxAge }},
		{"_MAX_USES", func(p *Pool) any { return &p.MaxUses }},
		{"_REUSE", func(p *Pool) any { return &p.Reuse }},
		{"_ISOLATE", func(p *Pool) any { return &p.Isolate }},
	} {
		name, found := strings.CutSuffix(rest, key.suffix)
		if !found || name == "" {
			continue
		}
		pool := strings.ToLower(name)
		for configured := range c.Pools {
			if Variable(configured) == Prefix+name {
				pool = configured
			}
		}
		settings := c.Pools[pool]
		if err := set(reflect.ValueOf(key.of(&settings)).Elem(), value); err != nil {
			return true, err
		}
		if c.Pools == nil {
			c.Pools = map[string]Pool{}
		}
		c.Pools[pool] = settings
		return true, nil
	}
	return false, nil
}

// set sets one value from the text of an environment variable.
func set(leaf reflect.Value, text string) error {
	switch target := leaf.Addr().Interface().(type) {
	case *string:
		*target = text
	case *[]string:
		*target = (*target)[:0:0]
		for _, item := range strings.Split(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				*target = append(*target, item)
			}
		}
	case *int:
		n, err := number(text)
		if err != nil {
			return err
		}
		*target = n
	case *float64:
		share, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("%q is not a number such as 0.5; set one, or unset it", text)
		}
		*target = share
	case *bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false; set one of these, or unset it", text)
		}
		*target = b
	case **bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false; set one of these, or unset it", text)
		}
		*target = &b
	case *dayfly.Duration:
		if target.UnmarshalText([]byte(text)) != nil {
			return fmt.Errorf("%q is not a length of time such as 90s or 1h30m; set one, or unset it", text)
		}
	case encoding.TextUnmarshaler: // an amount of money, or a price
		if err := target.UnmarshalText([]byte(text)); err != nil {
			return fmt.Errorf("%s; set one, or unset it", strings.TrimPrefix(err.Error(), string(fault.Invalid)+": "))
		}
	default:
		panic(fmt.Sprintf("app: a configuration key has the type %T, which no environment variable can set", target))
	}
	return nil
}

// number reads a whole number.
func number(text string) (int, error) {
	n, err := strconv.Atoi(text)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("%s is too large", text)
	case err != nil:
		return 0, fmt.Errorf("%q is not a whole number; set one, or unset it", text)
	}
	return n, nil
}
