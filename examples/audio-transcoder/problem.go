package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// refusal is an answer that is no success: a status, and what stands under "detail".
type refusal struct {
	status int
	detail any
}

// Error returns the detail, for logs.
func (r *refusal) Error() string { return fmt.Sprintf("%d: %v", r.status, r.detail) }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

func notFound(id string) error { return refuse(http.StatusNotFound, "Job %s not found.", id) }

// unprocessable is the answer to a request that is not as it should be.
func unprocessable(problems ...problem) error {
	return &refusal{http.StatusUnprocessableEntity, problems}
}

// problem is one thing that is wrong with a request, as FastAPI writes it: with the code, the words and the address of
// pydantic 2.4, because clients may look at any of them.
type problem struct {
	Type  string            `json:"type"`
	Loc   []any             `json:"loc"`
	Msg   string            `json:"msg"`
	Input json.RawMessage   `json:"input"`
	Ctx   map[string]string `json:"ctx,omitempty"`
	URL   string            `json:"url,omitempty"`
}

func newProblem(code string, loc []any, message string, input json.RawMessage, ctx map[string]string) problem {
	return problem{code, loc, message, input, ctx, "https://errors.pydantic.dev/2.4/v/" + code}
}

func missing(loc []any, whole json.RawMessage) problem {
	return newProblem("missing", loc, "Field required", whole, nil)
}

func notAnObject(loc []any, input json.RawMessage) problem {
	return newProblem("model_attributes_type", loc,
		"Input should be a valid dictionary or object to extract fields from", input, nil)
}

// notOneOf is the problem of a value that is none of those that are possible.
func notOneOf(loc []any, input json.RawMessage, possible []string) problem {
	expected := possible[0]
	if last := len(possible) - 1; last > 0 {
		expected = strings.Join(possible[:last], ", ") + " or " + possible[last]
	}
	return newProblem("literal_error", loc, "Input should be "+expected, input, map[string]string{"expected": expected})
}

// notJSON is FastAPI's own problem and not pydantic's, so it has no address.
func notJSON(err error) problem {
	place := 0
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		place = max(0, int(e.Offset)-1)
	}
	return problem{
		Type: "json_invalid", Loc: at("body", place), Msg: "JSON decode error", Input: json.RawMessage("{}"),
		Ctx: map[string]string{"error": "Expecting value"},
	}
}

// readID reads the id of a job in a path, in any form that a UUID may have.
func readID(text string) (string, []problem) {
	id, err := uuid.Parse(text)
	if err == nil {
		return id.String(), nil
	}
	why := whyNoUUID(text)
	raw, _ := json.Marshal(text) // a string always can be
	return "", []problem{newProblem("uuid_parsing", at("path", "job_id"), "Input should be a valid UUID, "+why, raw,
		map[string]string{"error": why})}
}

// whyNoUUID says what is wrong in the words of the parser that pydantic uses.
func whyNoUUID(text string) string {
	groups := strings.Split(text, "-")
	for i, r := range text {
		if r != '-' && !strings.ContainsRune("0123456789abcdefABCDEF", r) {
			return fmt.Sprintf("invalid character: expected an optional prefix of `urn:uuid:` followed by [0-9a-fA-F-], found `%c` at %d", r, i+1)
		}
	}
	switch len(groups) {
	case 1:
		return fmt.Sprintf("invalid length: expected length 32 for simple format, found %d", len(text))
	case 5:
		for i, want := range []int{8, 4, 4, 4, 12} {
			if len(groups[i]) != want {
				return fmt.Sprintf("invalid group length in group %d: expected %d, found %d", i, want, len(groups[i]))
			}
		}
	}
	return fmt.Sprintf("invalid group count: expected 5, found %d", len(groups))
}

// isJSON reports whether a body of this content type is JSON; one without a type is taken for it.
func isJSON(contentType string) bool {
	if contentType == "" {
		return true
	}
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && (kind == "application/json" || strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json"))
}

func at(place ...any) []any { return place }

func with(loc []any, name string) []any { return append(slices.Clone(loc), name) }
