package sqlite

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"github.com/dayfly-run/dayfly"
)

// decodedSpec is a spec that becomes part of several answers and is decoded for the first of them only. It is safe for
// concurrent use.
type decodedSpec struct {
	once sync.Once
	spec dayfly.JobSpec
	err  error
}

// get returns a copy of the spec with this text, which is the same each time.
func (d *decodedSpec) get(text []byte) (dayfly.JobSpec, error) {
	d.once.Do(func() { d.err = json.Unmarshal(text, &d.spec) })
	return cloneSpec(&d.spec), d.err
}

// cloneSpec returns a copy that shares no memory with s.
func cloneSpec(s *dayfly.JobSpec) dayfly.JobSpec {
	c := *s
	c.Command = slices.Clone(s.Command)
	c.Env = maps.Clone(s.Env)
	c.Payload = slices.Clone(s.Payload)
	c.Inputs = slices.Clone(s.Inputs)
	c.Outputs = slices.Clone(s.Outputs)
	c.Retry.NonRetryableExits = slices.Clone(s.Retry.NonRetryableExits)
	c.Labels = maps.Clone(s.Labels)
	if s.RunAt != nil {
		at := *s.RunAt
		c.RunAt = &at
	}
	if s.Start != nil {
		start := *s.Start
		c.Start = &start
	}
	return c
}
