package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dayfly-run/dayfly/machine"
)

// format is what to make of the source. The bit depth is kept because clients send it; an MP3 has none.
type format struct {
	Extension  string `json:"extension"`
	BitDepth   int    `json:"bit_depth"`
	BitRate    int    `json:"bit_rate"` // kbit/s
	SampleRate int    `json:"sample_rate"`
}

// extensions returns the containers that ffmpeg puts MP3 into, which is what the worker encodes whatever the name says.
func extensions() []string { return []string{"mp3", "mka", "mp4", "wav"} }

// bitRates returns the bit rates of MP3 at a sample rate, which are those of MPEG-1, MPEG-2 and MPEG-2.5, layer III.
func bitRates(sampleRate int) []int {
	switch {
	case sampleRate >= 32000:
		return []int{32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320}
	case sampleRate >= 16000:
		return []int{8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160}
	default:
		return []int{8, 16, 24, 32, 40, 48, 56, 64}
	}
}

func sampleRates() []int {
	return []int{8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000}
}

func bitDepths() []int { return []int{8, 16, 24, 32, 64} }

// readFormat reads the body that creates a job: {"transcode": {"format": {…}}}. Everything that is wrong with it is
// returned at once. Other keys are ignored, as they always were, also those that would set the job's URLs.
func readFormat(contentType string, body []byte) (format, []problem) {
	if len(body) == 0 {
		return format{}, []problem{missing(at("body"), json.RawMessage("null"))}
	}
	if !isJSON(contentType) {
		text, _ := json.Marshal(string(body)) // a string always can be
		return format{}, []problem{notAnObject(at("body"), text)}
	}
	var whole json.RawMessage
	if err := json.Unmarshal(body, &whole); err != nil {
		return format{}, []problem{notJSON(err)}
	}
	r := &reader{}
	top, ok := r.object(at("body"), whole)
	if !ok {
		return format{}, r.problems
	}
	transcode, ok := r.field(at("body"), "transcode", whole, top)
	if !ok {
		return format{}, r.problems
	}
	inner, ok := r.object(at("body", "transcode"), transcode)
	if !ok {
		return format{}, r.problems
	}
	raw, ok := r.field(at("body", "transcode"), "format", transcode, inner)
	if !ok {
		return format{}, r.problems
	}
	return r.format(at("body", "transcode", "format"), raw)
}

// reader collects what is wrong with a body.
type reader struct{ problems []problem }

func (r *reader) format(loc []any, raw json.RawMessage) (format, []problem) {
	fields, ok := r.object(loc, raw)
	if !ok {
		return format{}, r.problems
	}
	f := format{Extension: r.text(loc, "extension", raw, fields)}
	for name, into := range map[string]*int{"bit_depth": &f.BitDepth, "bit_rate": &f.BitRate, "sample_rate": &f.SampleRate} {
		*into = r.integer(loc, name, raw, fields)
	}
	if len(r.problems) == 0 {
		r.known(loc, &f, fields)
	}
	order := []any{"extension", "bit_depth", "bit_rate", "sample_rate"}
	slices.SortStableFunc(r.problems, func(a, b problem) int {
		return slices.Index(order, a.Loc[len(a.Loc)-1]) - slices.Index(order, b.Loc[len(b.Loc)-1])
	})
	return f, r.problems
}

// known refuses what the encoder cannot do. A job that must fail is better not begun.
func (r *reader) known(loc []any, f *format, fields map[string]json.RawMessage) {
	f.Extension = strings.ToLower(f.Extension)
	if !slices.Contains(extensions(), f.Extension) {
		r.add(notOneOf(with(loc, "extension"), fields["extension"], quoted(extensions())))
	}
	if !slices.Contains(bitDepths(), f.BitDepth) {
		r.add(notOneOf(with(loc, "bit_depth"), fields["bit_depth"], numbers(bitDepths())))
	}
	switch {
	case !slices.Contains(sampleRates(), f.SampleRate):
		r.add(notOneOf(with(loc, "sample_rate"), fields["sample_rate"], numbers(sampleRates())))
	case !slices.Contains(bitRates(f.SampleRate), f.BitRate):
		r.add(notOneOf(with(loc, "bit_rate"), fields["bit_rate"], numbers(bitRates(f.SampleRate))))
	}
}

func (r *reader) add(p problem) { r.problems = append(r.problems, p) }

func (r *reader) object(loc []any, raw json.RawMessage) (map[string]json.RawMessage, bool) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		r.add(notAnObject(loc, raw))
		return nil, false
	}
	return fields, true
}

func (r *reader) field(loc []any, name string, whole json.RawMessage, fields map[string]json.RawMessage) (json.RawMessage, bool) {
	raw, ok := fields[name]
	if !ok {
		r.add(missing(with(loc, name), whole))
	}
	return raw, ok
}

func (r *reader) text(loc []any, name string, whole json.RawMessage, fields map[string]json.RawMessage) string {
	raw, ok := r.field(loc, name, whole, fields)
	if !ok {
		return ""
	}
	var text *string
	if err := json.Unmarshal(raw, &text); err != nil || text == nil {
		r.add(newProblem("string_type", with(loc, name), "Input should be a valid string", raw, nil))
		return ""
	}
	return *text
}

// integer reads a number as pydantic does: also from a string, from true and false, and from a number with a point
// behind which there is nothing.
func (r *reader) integer(loc []any, name string, whole json.RawMessage, fields map[string]json.RawMessage) int {
	raw, ok := r.field(loc, name, whole, fields)
	if !ok {
		return 0
	}
	loc = with(loc, name)
	const valid = "Input should be a valid integer"
	switch text := string(bytes.TrimSpace(raw)); text[0] {
	case 't':
		return 1
	case 'f':
		return 0
	case '"':
		var inner string
		err := json.Unmarshal(raw, &inner)
		n, wrong := strconv.Atoi(strings.TrimSpace(inner))
		if err != nil || wrong != nil {
			r.add(newProblem("int_parsing", loc, valid+", unable to parse string as an integer", raw, nil))
		}
		return n
	case 'n', '[', '{':
		r.add(newProblem("int_type", loc, valid, raw, nil))
		return 0
	default:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || n != float64(int32(n)) {
			r.add(newProblem("int_from_float", loc, valid+", got a number with a fractional part", raw, nil))
		}
		return int(int32(n))
	}
}

// readSize reads the query of start. The original's sizes are Fly's, which are Dayfly's too.
func readSize(query map[string][]string) (string, []problem) {
	values := query["machine_size"]
	if len(values) == 0 {
		return "performance-2x", nil
	}
	size := values[len(values)-1]
	if slices.Contains(machine.Presets(), size) {
		return size, nil
	}
	raw, _ := json.Marshal(size) // a string always can be
	return "", []problem{notOneOf(at("query", "machine_size"), raw, quoted(machine.Presets()))}
}

func quoted(words []string) []string {
	var out []string
	for _, w := range words {
		out = append(out, "'"+w+"'")
	}
	return out
}

func numbers(values []int) []string {
	var out []string
	for _, v := range values {
		out = append(out, fmt.Sprint(v))
	}
	return out
}
