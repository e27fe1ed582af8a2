package flyapi

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The bounds of a wait, in seconds, and the default.
const (
	leastWait = 1
	mostWait  = 60
)

// settledState is what a wait may name besides states: any in which a machine stays.
const settledState = "settled"

// waiting is what a wait asks for.
type waiting struct {
	states   []string
	timeout  time.Duration
	instance string // "": whichever is current
	after    string // the id of an event after which the state must have been reached, or ""
}

func parseWait(query url.Values) (*waiting, error) {
	w := &waiting{timeout: mostWait * time.Second, instance: query.Get("instance_id"), after: query.Get("from_event_id")}
	if w.instance == "" {
		w.instance = query.Get("version")
	}
	for _, given := range query["state"] {
		for state := range strings.SplitSeq(given, ",") {
			if state = strings.TrimSpace(state); state != "" {
				w.states = append(w.states, state)
			}
		}
	}
	if len(w.states) == 0 {
		w.states = []string{started}
	}
	known := []string{started, stopped, suspended, destroyed, failed, settledState}
	for _, state := range w.states {
		if !slices.Contains(known, state) {
			return nil, invalid("invalid WaitMachineRequest.State: value %.40q must be one of %s", state, strings.Join(known, ", "))
		}
	}
	if text := query.Get("timeout"); text != "" {
		seconds, err := strconv.Atoi(strings.TrimSuffix(text, "s"))
		if err != nil || seconds < leastWait || seconds > mostWait {
			return nil, invalid("invalid WaitMachineRequest.Timeout: value must be inside range [1s, 1m0s]")
		}
		w.timeout = time.Duration(seconds) * time.Second
	}
	return w, nil
}

// waitMachine answers when the machine has reached one of the states, or 408 when it has not in time: ask again.
func (s *Service) waitMachine(r *request) (int, any, error) {
	w, err := parseWait(r.URL.Query())
	if err != nil {
		return 0, nil, err
	}
	timer := time.NewTimer(w.timeout)
	defer timer.Stop()
	begun := lastEvent(r.entry.record())
	if w.after != "" {
		begun = w.after
	}
	for {
		news := r.entry.news()
		m := r.entry.record()
		if state := w.reached(m, begun); state != "" {
			return http.StatusOK, map[string]any{"ok": true, "state": state, "event_id": lastEvent(m), "version": m.Instance}, nil
		}
		if w.instance != "" && w.instance != m.Instance {
			return 0, nil, w.notYet(replaced)
		}
		select {
		case <-news:
		case <-timer.C:
			return 0, nil, w.notYet(m.State)
		case <-r.Context().Done():
			return 0, nil, w.notYet(m.State)
		}
	}
}

// reached returns the state for which the wait is over, or "". A state that the machine has passed through since the
// wait began counts: a program that ends at once has been started.
func (w *waiting) reached(m *record, begun string) string {
	if w.instance != "" && w.instance != m.Instance {
		return ""
	}
	if w.after == "" || lastEvent(m) > w.after {
		if slices.Contains(w.states, m.State) || slices.Contains(w.states, settledState) && m.settled() {
			return m.State
		}
	}
	for _, e := range m.Events {
		if e.ID > begun && e.Type != "exit" && slices.Contains(w.states, e.Status) {
			return e.Status
		}
	}
	return ""
}

func (w *waiting) notYet(state string) error {
	return refuse(http.StatusRequestTimeout, "deadline_exceeded: machine failed to reach desired state, %s, currently %s",
		strings.Join(w.states, ", "), state)
}

func lastEvent(m *record) string {
	if len(m.Events) == 0 {
		return ""
	}
	return m.Events[len(m.Events)-1].ID
}
