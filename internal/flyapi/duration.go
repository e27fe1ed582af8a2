package flyapi

import (
	"encoding/json"
	"strconv"
	"time"
)

// duration is a length of time in either form that clients send: a text such as "10s", or nanoseconds as a number.
type duration time.Duration

// UnmarshalJSON implements json.Unmarshaler.
func (d *duration) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var text string
	if json.Unmarshal(data, &text) != nil {
		n, err := strconv.ParseInt(string(data), 10, 64)
		if err != nil {
			return invalid("%.40q is not a duration: a text such as \"10s\" or a whole number of nanoseconds", data)
		}
		*d = duration(n)
		return nil
	}
	parsed, err := parseDuration(text)
	if err != nil {
		return err
	}
	*d = duration(parsed)
	return nil
}

// parseDuration reads a duration from a text: "10s", or a number of seconds as queries have it.
func parseDuration(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		return time.Duration(seconds) * time.Second, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, invalid("%.40q is not a duration such as \"10s\"", text)
	}
	return d, nil
}
