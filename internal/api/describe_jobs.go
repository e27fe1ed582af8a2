package api

import (
	"maps"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

// describeJobs says of the routes about jobs what their Go types do not: what they answer besides, and which words there
// are.
func describeJobs(spec *huma.OpenAPI) {
	for _, path := range []string{"/v1/jobs", "/v1/jobs/{id}/retry"} {
		answers := spec.Paths[path].Post.Responses
		replay := *answers["201"]
		replay.Description = "The job that an earlier request with the same Idempotency-Key has made."
		answers["200"] = &replay
	}
	event := spec.Components.Schemas.Schema(reflect.TypeFor[dayfly.Event](), true, "")
	logs := bytesOf("text/plain")
	maps.Copy(logs, bytesOf(eventsType))
	describeStream(spec, "/v1/jobs/{id}/logs", "What the command has printed.", logs)
	describeStream(spec, "/v1/jobs/{id}/events", "The events.", map[string]*huma.MediaType{
		"application/json": {Schema: &huma.Schema{Type: huma.TypeArray, Items: event}},
		eventsType:         {Schema: &huma.Schema{Type: huma.TypeString, Description: "The data of each event is one of these as JSON, and its id is the seq."}},
	})
	schemas := spec.Components.Schemas.Map()
	for _, words := range []struct {
		schema, property string
		enum             []any
	}{
		{"Job", "state", list(states())},
		{"Event", "state", list(states())},
		{"Why", "state", list(states())},
		{"Attempt", "state", list(attemptStates())},
		{"Job", "reason", list(reasons())},
		{"Event", "reason", list(reasons())},
		{"Attempt", "reason", list(reasons())},
		{"Problem", "code", list(codes())},
	} {
		schemas[words.schema].Properties[words.property].Enum = words.enum
	}
	schemas["JobSpec"].Properties["command"].Nullable = false
}

func describeStream(spec *huma.OpenAPI, path, text string, content map[string]*huma.MediaType) {
	answers := spec.Paths[path].Get.Responses
	answers["200"] = &huma.Response{Description: text, Content: content}
	answers["204"] = &huma.Response{Description: "To a stream that is asked to go on: nothing more will come."}
}

func list[T any](words []T) []any {
	all := make([]any, len(words))
	for i, word := range words {
		all[i] = word
	}
	return all
}

func states() []dayfly.State {
	return []dayfly.State{
		dayfly.Created, dayfly.Scheduled, dayfly.Queued, dayfly.Starting, dayfly.Running,
		dayfly.Succeeded, dayfly.Failed, dayfly.Canceled, dayfly.Expired,
	}
}

func attemptStates() []dayfly.AttemptState {
	return []dayfly.AttemptState{
		dayfly.AttemptCreating, dayfly.AttemptCreateUnknown, dayfly.AttemptBooting, dayfly.AttemptRunning, dayfly.AttemptSucceeded,
		dayfly.AttemptFailed, dayfly.AttemptTimedOut, dayfly.AttemptCanceled, dayfly.AttemptLost, dayfly.AttemptNeverStarted,
	}
}

func reasons() []dayfly.Reason {
	return []dayfly.Reason{
		dayfly.ReasonExitNonzero, dayfly.ReasonSignaled, dayfly.ReasonTimeout, dayfly.ReasonDeadline, dayfly.ReasonQueueTimeout,
		dayfly.ReasonOOMKilled, dayfly.ReasonDiskFull, dayfly.ReasonCommandNotFound, dayfly.ReasonInputFailed,
		dayfly.ReasonOutputFailed, dayfly.ReasonMachineLost, dayfly.ReasonNeverStarted, dayfly.ReasonPoison,
		dayfly.ReasonCanceled, dayfly.ReasonRefused, dayfly.ReasonCostLimit,
	}
}

func codes() []fault.Kind {
	return []fault.Kind{
		fault.Invalid, fault.Unauthenticated, fault.Denied, fault.NotFound, fault.Conflict, fault.Exhausted, fault.Unavailable,
		fault.Unsupported, fault.Canceled, fault.Internal, fault.TooLarge, fault.AlreadyClaimed, fault.StaleAttempt,
		fault.AlreadyFinished, fault.IdempotencyMismatch, fault.StoreFull,
	}
}
