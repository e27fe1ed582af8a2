package fly

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/dayfly-run/dayfly/fault"
)

// complaint is what Fly says when it refuses something.
type complaint struct {
	text string // tamed
	code string // the body's status, a word that outranks the text; "" or "unknown" says nothing
	json bool   // the answer was an error in Fly's form at all
}

// complaint reads the body of an answer that is no success. Leases answer in a form of their own.
func (c *client) complaint(a *answer) complaint {
	var body struct {
		Error   json.RawMessage `json:"error"`
		Message string          `json:"message"`
		Status  string          `json:"status"`
	}
	if json.Unmarshal(a.body, &body) != nil {
		return complaint{text: c.tame(strings.TrimSpace(string(a.body[:min(len(a.body), 1024)])))}
	}
	text := body.Message
	if text == "" && json.Unmarshal(body.Error, &text) != nil {
		text = string(body.Error)
	}
	code := body.Status
	if code == "unknown" || code == "error" {
		code = ""
	}
	return complaint{text: c.tame(text), code: code, json: text != ""}
}

// has reports whether the complaint's text has one of the phrases, whatever their case.
func (o *complaint) has(phrases ...string) bool {
	text := strings.ToLower(o.text)
	for _, phrase := range phrases {
		if strings.Contains(text, phrase) {
			return true
		}
	}
	return false
}

// room is how far a want of capacity goes.
type room int

const (
	roomEnough room = iota // it is about something else
	roomHost               // the host that was picked is full; another of the region may not be
	roomRegion             // the region is full
)

// capacity returns whether a refused create was refused for want of room, and how far that goes. The code decides where
// there is one: texts have changed before.
func (o *complaint) capacity(status int) room {
	switch o.code {
	case "insufficient_capacity", "volume_placement_capacity":
		return roomRegion
	case "":
	default:
		return roomEnough
	}
	switch {
	case status == http.StatusUnprocessableEntity && o.has("candidate host", "insufficient capacity", "no capacity"):
		return roomRegion
	case status == http.StatusConflict && o.has("no capacity"):
		return roomRegion
	case status == http.StatusConflict && o.has("could not reserve resource", "insufficient resources", "insufficient memory", "insufficient cpu"):
		return roomHost
	case status == http.StatusPreconditionFailed && o.has("capacity", "insufficient"):
		return roomRegion
	}
	return roomEnough
}

// takenBy is how Fly names the machine that has the name already.
var takenBy = regexp.MustCompile(`machine ID ([0-9A-Za-z_-]{1,64})`)

// nameTaken reports whether a create was refused because of its name, and by which machine if Fly says so.
func (o *complaint) nameTaken() (id string, taken bool) {
	if o.code != "name_taken" && !o.has("already_exists", "unique machine name", "already exists") {
		return "", false
	}
	if m := takenBy.FindStringSubmatch(o.text); m != nil {
		id = m[1]
	}
	return id, true
}

// noRoom is the error of a create for which there was no capacity.
type noRoom struct {
	scope room
	said  error // fault.Exhausted
}

func (n *noRoom) Error() string { return n.said.Error() }
func (n *noRoom) Unwrap() error { return n.said }

// refusal returns the error of an answer that is no success, to a call that is told as "create machine x". Creates look
// at what is special to them first.
func (c *client) refusal(what string, a *answer) error {
	o := c.complaint(a)
	text := o.text
	if text == "" {
		text = "no reason given"
	}
	story := fmt.Sprintf("%s%s", text, inRequest(a.id))
	switch status := a.status; {
	case status == http.StatusUnauthorized:
		return fault.Say(fault.Denied, "Fly does not accept the token to %s: %s; give Dayfly a token for the app %s, such as one of "+
			"fly tokens create deploy", what, story, c.app)
	case status == http.StatusForbidden:
		return fault.Say(fault.Denied, "Fly does not let this token %s: %s; give Dayfly a token for the app %s, such as one of "+
			"fly tokens create deploy", what, story, c.app)
	case status == http.StatusNotFound && o.has("app not found", "could not find app", "no such app", "app does not exist"):
		return fault.Say(fault.Denied, "Fly knows no app %s that this token may see, so it cannot %s: %s; create the app, or correct its name",
			c.app, what, story)
	case status == http.StatusNotFound && o.json && o.has("machine", "not_found"):
		return fault.Say(fault.NotFound, "Fly cannot %s: %s", what, story)
	case status == http.StatusBadRequest && o.has("machine id"):
		return fault.Say(fault.NotFound, "Fly cannot %s: %s", what, story)
	case status == http.StatusRequestTimeout, status >= 500, status == http.StatusNotFound:
		return fault.Say(fault.Unavailable, "Fly did not say whether it could %s: it answered %d: %s", what, status, story)
	case status == http.StatusTooManyRequests:
		return fault.Say(fault.Exhausted, "Fly has been asked too often to %s: %s; it is asked again later", what, story)
	case status == http.StatusConflict && o.has("lease"):
		return fault.Say(fault.Conflict, "Fly cannot %s while somebody else holds its lease, whose nonce Dayfly does not have: %s; "+
			"release it with fly machine leases clear, or wait until it expires", what, story)
	case status == http.StatusConflict, status == http.StatusPreconditionFailed:
		return fault.Say(fault.Conflict, "Fly cannot %s as it is now: %s", what, story)
	case status >= 400:
		return fault.Say(fault.Invalid, "Fly refuses to %s: %s", what, story)
	default:
		return fault.Say(fault.Unavailable, "the Machines API at %s answered %d to %s, which means nothing there: %s; is it the API's address?",
			c.host(), status, what, story)
	}
}

// wrap tells what an error is about; nil stays nil.
func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("fly: %s: %w", what, err)
}

// isLongPage reports whether an answer was a list, larger than anybody reads.
func isLongPage(err error) bool {
	large, ok := errors.AsType[*tooLarge](err)
	return ok && large.isList
}
