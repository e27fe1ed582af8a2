package dayfly

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// LogRecord is a piece of one of the outputs of an attempt's command, or the notice that a piece is missing.
type LogRecord struct {
	Attempt int       `json:"attempt"` // the attempt's number
	Stream  string    `json:"stream"`  // "stdout" or "stderr"
	Offset  int64     `json:"offset"`  // of the first byte in its stream
	Time    time.Time `json:"time"`    // when the machine read it, by its own clock
	Data    []byte    `json:"data,omitempty"`
	Gap     int64     `json:"gap,omitempty"` // bytes that are missing here; then Data is empty
	Why     string    `json:"why,omitempty"` // why they are missing, in a sentence
	// ID names the place after this record, to go on from with [LogOptions.From].
	ID string `json:"-"`
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
