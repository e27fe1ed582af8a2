package app

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

// checkTable returns the first mistake of a configuration file, in the order in which it is written: a key that does not
// exist, or a value of another type. The decoder would find these too, and say them in the words of Go.
func checkTable(file string, source []byte, table map[string]any, keys []toml.Key) error {
	for _, key := range keys {
		at := func(format string, args ...any) error {
			return fault.Say(fault.Invalid, "%s:%d: %s", file, lineOf(source, key), fmt.Sprintf(format, args...))
		}
		want, known := typeOf(key)
		if !known {
			return at("there is no key %s%s", key, suggestion(key.String()))
		}
		if got := mismatch(want, valueOf(table, key)); got != "" {
			return at("%s must be %s, and %s", key, describeType(want, key), got)
		}
	}
	return nil
}

// typeOf returns the type of a key of the configuration, which may be a section.
func typeOf(key toml.Key) (t reflect.Type, known bool) {
	t = reflect.TypeFor[Config]()
	for _, part := range key {
		switch t.Kind() {
		case reflect.Map:
			t = t.Elem()
		case reflect.Struct:
			field, ok := t.FieldByNameFunc(func(name string) bool {
				f, _ := t.FieldByName(name)
				return strings.EqualFold(f.Tag.Get("toml"), part) // as the decoder does it
			})
			if !ok {
				return nil, false
			}
			t = field.Type
		default:
			return nil, false
		}
	}
	return t, true
}

// valueOf returns what a file sets a key to.
func valueOf(table map[string]any, key toml.Key) any {
	var value any = table
	for _, part := range key {
		section, _ := value.(map[string]any)
		value = section[part]
	}
	return value
}

// mismatch says what a value is when it is not of the wanted type, or "".
func mismatch(want reflect.Type, value any) string {
	var fits bool
	if isDecimal(want) {
		text, isText := value.(string)
		switch {
		case !isText:
			return "is " + describe(value)
		case decimalProblem(want, text) != nil:
			return describeDecimal(want, text)
		}
		return ""
	}
	switch want {
	case reflect.TypeFor[string]():
		_, fits = value.(string)
	case reflect.TypeFor[bool](), reflect.TypeFor[*bool]():
		_, fits = value.(bool)
	case reflect.TypeFor[int]():
		_, fits = value.(int64)
	case reflect.TypeFor[float64]():
		_, whole := value.(int64)
		_, fraction := value.(float64)
		fits = whole || fraction
	case reflect.TypeFor[dayfly.Duration]():
		text, isText := value.(string)
		fits = isText && new(dayfly.Duration).UnmarshalText([]byte(text)) == nil
	case reflect.TypeFor[[]string]():
		list, isList := value.([]any)
		for _, item := range list {
			if _, isText := item.(string); !isText {
				return "holds " + describe(item)
			}
		}
		fits = isList
	default:
		_, fits = value.(map[string]any)
	}
	if fits {
		return ""
	}
	return "is " + describe(value)
}

// describeType says what a key must be set to, as it is written in a file.
func describeType(want reflect.Type, key toml.Key) string {
	if isDecimal(want) {
		return "an amount of US dollars in quotes, such as \"0.50\""
	}
	switch want {
	case reflect.TypeFor[string]():
		return "a text in quotes"
	case reflect.TypeFor[bool](), reflect.TypeFor[*bool]():
		return "true or false, without quotes"
	case reflect.TypeFor[float64]():
		return "a number, such as 0.5"
	case reflect.TypeFor[int]():
		return "a whole number, without quotes"
	case reflect.TypeFor[dayfly.Duration]():
		return `a length of time such as "90s" or "1h30m"`
	case reflect.TypeFor[[]string]():
		return `a list of texts such as ["` + DefaultListen + `"]`
	}
	return fmt.Sprintf("a section, which begins with [%s]", key)
}

// describe says what a value is.
func describe(value any) string {
	switch value := value.(type) {
	case string:
		return fmt.Sprintf("the text %q", value)
	case bool, int64, float64:
		return fmt.Sprint(value)
	case []any:
		return "a list"
	case map[string]any, []map[string]any:
		return "a section"
	}
	return "a date or time"
}

// notTOML says where a file cannot be read as TOML, and shows the line.
func notTOML(file string, source []byte, err error) error {
	p, ok := errors.AsType[toml.ParseError](err)
	if !ok {
		return fault.Say(fault.Invalid, "%s cannot be read as TOML: %v", file, err)
	}
	lines := strings.Split(string(source), "\n")
	number := min(max(p.Position.Line, 1), len(lines))
	if strings.Contains(p.Message, `'\n'`) && number > 1 { // the end of a line is counted as the beginning of the next
		number--
	}
	why := strings.TrimSuffix(p.Message, ".")
	if strings.HasPrefix(why, "expected value but found") {
		why += "; texts stand in quotes"
	}
	return fault.Say(fault.Invalid, "%s:%d: %q cannot be read as TOML: %s; docs/configuration.md shows a whole file",
		file, number, strings.TrimSpace(lines[number-1]), why)
}

// Locate adds to an error of [Config.Validate] where the value that is refused was set: the variable, or the file and its
// line. Other errors, and those of defaults, are returned as they are.
func Locate(err error, file string, environ []string) error {
	field, ok := errors.AsType[*fault.FieldError](err)
	if !ok {
		return err
	}
	for _, name := range variablesOf(field.Field) {
		if slices.ContainsFunc(environ, func(pair string) bool { return strings.HasPrefix(pair, name+"=") }) {
			return fault.Say(field.Kind, "the environment variable %s: %s", name, field.Message)
		}
	}
	if file == "" {
		return err
	}
	source, readErr := readFile(file)
	meta, parseErr := toml.NewDecoder(bytes.NewReader(source)).Decode(&map[string]any{})
	if readErr != nil || parseErr != nil {
		return err // it was read before, and what is there now is another one
	}
	for _, key := range meta.Keys() {
		if normalKey(key.String()) == normalKey(field.Field) {
			return fault.Say(field.Kind, "%s:%d: %s: %s", file, lineOf(source, key), field.Field, field.Message)
		}
	}
	return err
}

// variablesOf returns the variables that set a key, or the keys of a section.
func variablesOf(field string) []string {
	var names []string
	for _, key := range Keys() {
		if strings.HasPrefix(field, "queues.") {
			key = strings.Replace(key, "queues.NAME", field, 1)
		}
		if key == field || strings.HasPrefix(key, field+".") {
			names = append(names, Variable(key))
		}
	}
	return names
}
