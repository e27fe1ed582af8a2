package strict_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/api/strict"
	"github.com/dayfly-run/dayfly/internal/wire"
)

func TestAWholeDocumentIsDecodedAsEncodingJSONWould(t *testing.T) {
	t.Parallel()
	document := `{"name":"n\u00e9e \ud83e\udd8b","command":["a","b"],"env":{"A":"1","B":""},"payload":{"x":[1,{"y":null}]},
		"cpus":0.5,"memory_mb":512,"inputs":[{"name":"in.wav"}],"timeouts":{"run":"90s","grace":5},"retry":{"non_retryable_exit_codes":[1,2]},
		"run_at":"2026-01-31T18:30:00+01:00","labels":null,"start":false,"priority":-7}`
	got, err := strict.NewDecoder[dayfly.JobSpec]().Decode([]byte(document))
	if err != nil {
		t.Fatalf("Decode: %v", err)
	}
	var want dayfly.JobSpec
	if err := json.Unmarshal([]byte(document), &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("Decode: got %+v, want %+v", *got, want)
	}
	if got.Timeouts.Run != dayfly.Duration(90*time.Second) || got.RunAt.Hour() != 18 {
		t.Errorf("Decode: got a run timeout of %v and run_at %v", got.Timeouts.Run, got.RunAt)
	}
}

func TestWhatIsNotJSONIsMalformed(t *testing.T) {
	t.Parallel()
	decoder := strict.NewDecoder[dayfly.JobSpec]()
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for name, document := range map[string]string{
		"empty":                       "",
		"white space":                 " \n\t ",
		"a word":                      "yes",
		"cut in an object":            `{"command":["a"]`,
		"cut in a string":             `{"command":["a`,
		"cut in an escape":            `{"command":["\u00`,
		"cut after a name":            `{"command"`,
		"cut after a colon":           `{"command":`,
		"a second document":           `{"command":["a"]} {}`,
		"a trailing comma":            `{"command":["a"],}`,
		"a trailing comma in a list":  `{"command":["a",]}`,
		"no comma":                    `{"command":["a"] "name":"x"}`,
		"single quotes":               `{'command':['a']}`,
		"a comment":                   `{"command":["a"]} // hello`,
		"NaN":                         `{"command":["a"],"cpus":NaN}`,
		"Infinity":                    `{"command":["a"],"cpus":Infinity}`,
		"hexadecimal":                 `{"command":["a"],"priority":0x10}`,
		"a leading zero":              `{"command":["a"],"priority":010}`,
		"a leading plus":              `{"command":["a"],"priority":+1}`,
		"nothing after the point":     `{"command":["a"],"cpus":1.}`,
		"nothing in the exponent":     `{"command":["a"],"cpus":1e}`,
		"two points":                  `{"command":["a"],"cpus":1.2.3}`,
		"a raw newline in a string":   "{\"command\":[\"a\nb\"]}",
		"an unknown escape":           `{"command":["\x41"]}`,
		"half of a surrogate pair":    `{"command":["\ud83e"]}`,
		"the halves in wrong order":   `{"command":["\udd8b\ud83e"]}`,
		"bytes that are not UTF-8":    "{\"command\":[\"\xff\"]}",
		"a name that is not UTF-8":    "{\"comm\xc3nd\":[]}",
		"a surrogate in UTF-8":        "{\"command\":[\"\xed\xa0\x80\"]}",
		"an overlong form":            "{\"command\":[\"\xc0\x80\"]}",
		"a byte order mark":           "\ufeff{\"command\":[\"a\"]}",
		"a name twice":                `{"command":["a"],"command":["b"]}`,
		"a name twice, once escaped":  `{"command":["a"],"c\u006fmmand":["b"]}`,
		"a variable twice":            `{"command":["a"],"env":{"A":"1","A":"2"}}`,
		"a name twice in the payload": `{"command":["a"],"payload":{"x":{"y":1,"y":1}}}`,
		"a name twice among many":     `{"command":["a"],"env":{` + many(100) + `,"K7":""}}`,
		"nested too deep":             `{"command":["a"],"payload":` + deep(64) + `}`,
		"nested absurdly deep":        strings.Repeat("[", 100_000),
		"objects nested absurdly":     strings.Repeat(`{"a":`, 100_000),
	} {
		_, err := decoder.Decode([]byte(document))
		if _, ok := errors.AsType[*strict.Malformed](err); !ok || fault.Of(err) != fault.Invalid {
			t.Errorf("%s: got %v, want a *Malformed of kind fault.Invalid", name, err)
		}
	}
	if _, err := decoder.Decode([]byte(`{"command":["a"],"payload":` + deep(63) + `}`)); err != nil {
		t.Errorf("nested as deep as allowed: got %v, want nil", err)
	}
}

func many(n int) string {
	var members []string
	for i := range n {
		members = append(members, `"K`+string(rune('0'+i/10))+string(rune('0'+i%10))+`":""`)
	}
	members[0] = `"K7":""`
	return strings.Join(members, ",")
}

func TestWrongValuesAreNamedInTheDocumentsOwnWords(t *testing.T) {
	t.Parallel()
	decoder := strict.NewDecoder[dayfly.JobSpec]()
	for _, test := range []struct{ document, field, message string }{
		{`[]`, "", "must be an object, not an array"},
		{`"x"`, "", "must be an object, not a string"},
		{`{"comand":["a"]}`, "comand", "is not known here"},
		{`{"Command":["a"]}`, "Command", `is not known here; it is written "command"`},
		{`{"inputs":[{"name":"a"},{"nmae":"b"}]}`, "inputs[1].nmae", "is not known here"},
		{`{"command":"ls"}`, "command", "must be an array, not a string"},
		{`{"command":["a",7]}`, "command[1]", "must be a string, not a number"},
		{`{"command":[["a"]]}`, "command[0]", "must be a string, not an array"},
		{`{"command":[null]}`, "command[0]", "must not be null"},
		{`{"command":[]}`, "command", "has 0 items; at least 1 must be given"},
		{`{"command":{}}`, "command", "must be an array, not an object"},
		{`{"env":{"A":1}}`, "env.A", "must be a string, not a number"},
		{`{"env":{"A":null}}`, "env.A", "must not be null"},
		{`{"env":[]}`, "env", "must be an object, not an array"},
		{`{"name":"` + strings.Repeat("ä", 201) + `"}`, "name", "has 201 characters; at most 200 are allowed"},
		{`{"name":true}`, "name", "must be a string, not true"},
		{`{"start":"yes"}`, "start", "must be true or false, not a string"},
		{`{"start":1}`, "start", "must be true or false, not a number"},
		{`{"inputs":[{"name":""}]}`, "inputs[0].name", "has 0 characters; at least 1 must be given"},
		{`{"priority":1001}`, "priority", "must be at most 1000"},
		{`{"priority":-1001}`, "priority", "must be at least -1000"},
		{`{"memory_mb":16777217}`, "memory_mb", "must be at most 16777216"},
		{`{"processes":-1}`, "processes", "must be at least 0"},
		{`{"priority":1.0}`, "priority", "must be a whole number within the range of 64 bits, written without point and exponent"},
		{`{"priority":99999999999999999999}`, "priority", "must be a whole number within the range of 64 bits, written without point and exponent"},
		{`{"cpus":1e999}`, "cpus", "is a number outside of what can be represented"},
		{`{"payload":[1e999]}`, "payload[0]", "is a number outside of what can be represented"},
		{`{"cpus":-1}`, "cpus", "must be at least 0"},
		{`{"timeouts":{"run":"soon"}}`, "timeouts.run", `"soon" is not a duration such as "90s" or "1h30m"`},
		{`{"timeouts":{"run":-5}}`, "timeouts.run", "a duration must be between 0 and 640511h56m49.213693951s"},
		{`{"timeouts":{"run":[]}}`, "timeouts.run", `a duration is a string such as "90s" or a number of seconds`},
		{`{"timeouts":{"run":true}}`, "timeouts.run", `a duration is a string such as "90s" or a number of seconds`},
		{`{"timeouts":"1h"}`, "timeouts", "must be an object, not a string"},
		{`{"run_at":"tomorrow"}`, "run_at", "must be a time such as 2026-01-31T18:30:00Z"},
		{`{"run_at":7}`, "run_at", "must be a string, not a number"},
		{`{"retry":{"non_retryable_exit_codes":[1,"2"]}}`, "retry.non_retryable_exit_codes[1]", "must be a whole number, not a string"},
	} {
		_, err := decoder.Decode([]byte(test.document))
		wrong, ok := errors.AsType[*strict.Wrong](err)
		if !ok || fault.Of(err) != fault.Invalid {
			t.Errorf("%.80s: got %v, want a *Wrong of kind fault.Invalid", test.document, err)
			continue
		}
		if f := wrong.Fields[0]; len(wrong.Fields) != 1 || f.Field != test.field || f.Message != test.message {
			t.Errorf("%.80s: got %d fields, first %q: %q; want one, %q: %q", test.document, len(wrong.Fields), f.Field, f.Message, test.field, test.message)
		}
	}
}

func TestAllThatIsWrongIsReportedAtOnceUpToALimit(t *testing.T) {
	t.Parallel()
	decoder := strict.NewDecoder[dayfly.JobSpec]()
	_, err := decoder.Decode([]byte(`{"comand":["a"],"name":7,"inputs":[{"name":1},{"nmae":"x"}],"priority":9999}`))
	wrong, ok := errors.AsType[*strict.Wrong](err)
	if !ok {
		t.Fatalf("got %v, want a *Wrong", err)
	}
	var got []string
	for _, f := range wrong.Fields {
		got = append(got, f.Field)
	}
	if want := "comand name inputs[0].name inputs[1].nmae priority"; strings.Join(got, " ") != want {
		t.Errorf("the fields are %q, want %q", got, want)
	}
	_, err = decoder.Decode([]byte(`{"command":[` + strings.Repeat("1,", 1000) + `1]}`))
	if wrong, ok = errors.AsType[*strict.Wrong](err); !ok || len(wrong.Fields) != 20 {
		t.Errorf("1001 wrong items: got %v, want 20 fields", err)
	}
}

func TestBytesThatAreNoBase64AreRefused(t *testing.T) {
	t.Parallel()
	decoder := strict.NewDecoder[wire.Batch]()
	for _, data := range []string{"!", "YQ", "YQ==\x00", "a b", "ä"} {
		document := `{"calls":[{"attempt":"a","token":"t","log":{"stream":"stdout","data":"` + data + `"}}]}`
		if _, err := decoder.Decode([]byte(document)); fault.Of(err) != fault.Invalid {
			t.Errorf("data %q: got %v, want fault.Invalid", data, err)
		}
	}
	batch, err := decoder.Decode([]byte(`{"calls":[{"attempt":"a","token":"t","log":{"stream":"stdout","offset":3,"data":"YQ\u003d="}}]}`))
	if err != nil || string(batch.Calls[0].Log.Data) != "a" {
		t.Errorf("base64 with an escape: got %+v, %v", batch, err)
	}
}

// FuzzDecode checks that what is accepted is what encoding/json accepts, with the same value.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"command":["ffmpeg","-i","in.wav"],"inputs":[{"name":"in.wav"}],"timeouts":{"run":"90s"},"payload":{"a":[1,2.5e3,null,true]}}`,
		`{"command":["a"],"run_at":"2026-01-31T18:30:00Z","env":{"A":"\ud83e\udd8b\n"},"labels":{"a":"b"},"start":true}`,
		`{"a":1,"a":2}`, `[[[[`, `{"x":"\ud800"}`, `{"cpus":1e999}`, `{"payload":"\u0000"}`, " {} ", "nul", `{"retry":{"backoff_min":0.5}}`,
	} {
		f.Add([]byte(seed))
	}
	decoder := strict.NewDecoder[dayfly.JobSpec]()
	f.Fuzz(func(t *testing.T, data []byte) {
		if strict.Check(data) == nil && !json.Valid(data) {
			t.Fatalf("accepted %q, which is not JSON", data)
		}
		got, err := decoder.Decode(data)
		if err != nil {
			if fault.Of(err) != fault.Invalid {
				t.Fatalf("the error %v is of kind %q, want fault.Invalid", err, fault.Of(err))
			}
			return
		}
		var want dayfly.JobSpec
		if err := json.Unmarshal(data, &want); err != nil || !reflect.DeepEqual(*got, want) {
			t.Fatalf("decoded %+v, want %+v, %v", *got, want, err)
		}
	})
}

// FuzzDecodeBatch does so for what agents send.
func FuzzDecodeBatch(f *testing.F) {
	for _, seed := range []string{
		`{"calls":[{"attempt":"att_1","token":"t","claim":{"attempt":"att_1","instance":"m","nonce":"n","protocol":1,"agent":"1"}}]}`,
		`{"calls":[{"attempt":"att_1","token":"t","log":{"stream":"stdout","offset":0,"data":"aGVsbG8=","time_ms":1700000000000}}]}`,
		`{"calls":[{"attempt":"att_1","token":"t","result":{"outcome":"failed","exit":{"code":1},"started":true,"value":{"a":1},"logs":[{"stream":"stderr","gap":3,"why":"x"}]}}]}`,
		`{"calls":null}`, `{"calls":[null]}`, `{"calls":[{"log":{"data":"=="}}]}`,
	} {
		f.Add([]byte(seed))
	}
	decoder := strict.NewDecoder[wire.Batch]()
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decoder.Decode(data)
		if err != nil {
			return
		}
		var want wire.Batch
		if err := json.Unmarshal(data, &want); err != nil || !reflect.DeepEqual(*got, want) {
			t.Fatalf("decoded %+v, want %+v, %v", *got, want, err)
		}
	})
}

// FuzzDecodeResult does so for the result of an attempt.
func FuzzDecodeResult(f *testing.F) {
	f.Add([]byte(`{"outcome":"succeeded","exit":{"code":0},"started":true,"stdout_bytes":5,"artifacts":[{"name":"a/b","size":3,"sha256":"00"}]}`))
	f.Add([]byte(`{"outcome":"failed","exit":{"code":-1,"signal":"SIGKILL","oom_killed":true},"value":[1,2],"progress":{"fraction":1e3}}`))
	f.Add([]byte(`{"exit":null,"logs":[{"data":null}]}`))
	decoder := strict.NewDecoder[wire.Result]()
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decoder.Decode(data)
		if err != nil {
			return
		}
		var want wire.Result
		if err := json.Unmarshal(data, &want); err != nil || !reflect.DeepEqual(*got, want) {
			t.Fatalf("decoded %+v, want %+v, %v", *got, want, err)
		}
	})
}

func BenchmarkDecodeSpec(b *testing.B) {
	data := []byte(`{"name":"bench","command":["ffmpeg","-i","in.wav","out.mp3"],"env":{"A":"1"},"labels":{"team":"x"},"timeouts":{"run":"90s"}}`)
	decoder := strict.NewDecoder[dayfly.JobSpec]()
	b.Run("strict", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := decoder.Decode(data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var spec dayfly.JobSpec
			if err := json.Unmarshal(data, &spec); err != nil {
				b.Fatal(err)
			}
		}
	})
}
