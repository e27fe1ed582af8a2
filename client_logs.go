package dayfly

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"
)

// LogRecord is a piece of one of the outputs of an attempt's command, or the notice that a piece is missing.
type LogRecord struct {
	Attempt int       // the attempt's number
	Stream  string    // "stdout" or "stderr"
	Offset  int64     // of the first byte in its stream
	Time    time.Time // when the machine read it, by its own clock; zero if unknown
	Data    []byte    // the bytes
	Gap     int64     // bytes that are missing here; then Data is empty
	Why     string    // why they are missing, in a sentence
	// ID names the place after this record, to go on from with [LogOptions.From].
	ID string
}

// piece is a LogRecord as JSON: the bytes are text where they are UTF-8, so that most logs can be read as they are.
type piece struct {
	Attempt int        `json:"attempt"`
	Stream  string     `json:"stream"`
	Offset  int64      `json:"offset"`
	Time    *time.Time `json:"time,omitempty"`
	Text    *string    `json:"text,omitempty"`
	Base64  []byte     `json:"base64,omitempty"`
	Gap     int64      `json:"gap,omitempty"`
	Why     string     `json:"why,omitempty"`
}

// MarshalJSON writes r as the API does: Data is text if it is UTF-8, and base64 if not.
func (r LogRecord) MarshalJSON() ([]byte, error) {
	p := piece{Attempt: r.Attempt, Stream: r.Stream, Offset: r.Offset, Gap: r.Gap, Why: r.Why}
	if !r.Time.IsZero() {
		p.Time = &r.Time
	}
	switch {
	case r.Gap > 0:
	case utf8.Valid(r.Data):
		text := string(r.Data)
		p.Text = &text
	default:
		p.Base64 = r.Data
	}
	return json.Marshal(p)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *LogRecord) UnmarshalJSON(data []byte) error {
	var p piece
	if err := json.Unmarshal(data, &p); err != nil {
		return err
	}
	*r = LogRecord{Attempt: p.Attempt, Stream: p.Stream, Offset: p.Offset, Data: p.Base64, Gap: p.Gap, Why: p.Why}
	if p.Time != nil {
		r.Time = *p.Time
	}
	if p.Text != nil {
		r.Data = []byte(*p.Text)
	}
	return nil
}

// LogOptions select what [Client.Logs] yields; nil means all output there is now.
type LogOptions struct {
	Follow  bool   // go on with new output until the job has ended
	Stream  string // "stdout", "stderr" or both: ""
	Attempt int    // its number; 0: the last, and with Follow those that come after it
	From    string // the ID of a record: begin behind it
}

// Logs yields the output of a job's command as it was written: in order for each stream, each byte once. When the
// connection breaks it goes on where it was. It ends when there is no more output: at once, or with Follow when the
// job has ended. An error ends it too; fault.NotFound.
func (c *Client) Logs(ctx context.Context, id string, o *LogOptions) iter.Seq2[LogRecord, error] {
	if o == nil {
		o = &LogOptions{}
	}
	return func(yield func(LogRecord, error) bool) {
		path, err := jobPath(id, "/logs")
		if err != nil {
			yield(LogRecord{}, err)
			return
		}
		values := url.Values{"follow": {strconv.FormatBool(o.Follow)}}
		setIf(values, "stream", o.Stream)
		if o.Attempt > 0 {
			values.Set("attempt", strconv.Itoa(o.Attempt))
		}
		err = c.stream(ctx, request{method: http.MethodGet, path: path, query: values}, o.From, func(f frame) error {
			if f.event == "end" {
				return errStop
			}
			var record LogRecord
			if err := json.Unmarshal(f.data, &record); err != nil {
				return malformed(path, err)
			}
			record.ID = f.id
			if !yield(record, nil) {
				return errStop
			}
			return nil
		})
		if err != nil {
			yield(LogRecord{}, err)
		}
	}
}
