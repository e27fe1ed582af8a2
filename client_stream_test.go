package dayfly_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

// event frames one event as the server sends it.
func event(id int, name, data string) string {
	return fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", id, name, data)
}

func jobEvent(seq int, state dayfly.State) string {
	return event(seq, "job", fmt.Sprintf(`{"seq":%d,"job":"job_1","type":"%s","state":"%s"}`, seq, state, state))
}

func TestEventsGoOnAfterABrokenConnection(t *testing.T) {
	t.Parallel()
	var resumed []string
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		resumed = append(resumed, r.Header.Get("Last-Event-ID"))
		w.Header().Set("Content-Type", "text/event-stream")
		switch len(resumed) {
		case 1: // breaks off in the middle of the third event
			io.WriteString(w, ": hello\n\n"+jobEvent(1, dayfly.Queued)+jobEvent(2, dayfly.Starting)+"id: 3\ndata: {\"se")
			hangUpStream(w)
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		default: // repeats one, as a careless server might
			io.WriteString(w, jobEvent(2, dayfly.Starting)+jobEvent(3, dayfly.Running)+jobEvent(4, dayfly.Succeeded))
		}
	})
	var got []int64
	for e, err := range c.Events(t.Context(), "job_1", 0) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Seq)
	}
	if fmt.Sprint(got) != "[1 2 3 4]" {
		t.Errorf("got the events %v, want each of 1 to 4 once", got)
	}
	if fmt.Sprint(resumed) != "[ 2 2]" {
		t.Errorf("asked to go on after %q, want nothing, then 2, then 2", resumed)
	}
}

func TestEventsBeginAfterTheGivenOne(t *testing.T) {
	t.Parallel()
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Last-Event-ID"); got != "2" {
			t.Errorf("asked to go on after %q, want 2", got)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, jobEvent(3, dayfly.Canceled))
	})
	for e, err := range c.Events(t.Context(), "job_1", 2) {
		if err != nil || e.Seq != 3 {
			t.Errorf("got %v, %v; want event 3", e, err)
		}
	}
}

func TestStreamsEndWhenTheConsumerStops(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, jobEvent(1, dayfly.Queued))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	for range c.Events(t.Context(), "job_1", 0) {
		break
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the connection is still open 5s after the consumer stopped")
	}
}

func TestLogsAreTheBytesThatWereWritten(t *testing.T) {
	t.Parallel()
	tries := 0
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if got, want := r.URL.RawQuery, "attempt=2&follow=true&stream=stdout"; got != want {
			t.Errorf("asked with %s, want %s", got, want)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		if tries++; tries == 1 {
			io.WriteString(w, "id: 2:10\nevent: stdout\ndata: "+`{"attempt":2,"stream":"stdout","offset":0,"time":"2026-01-02T03:04:05Z","text":"héllo\n"}`+"\n\n")
			hangUpStream(w)
		}
		if got := r.Header.Get("Last-Event-ID"); got != "2:10" {
			t.Errorf("asked to go on after %q, want 2:10", got)
		}
		io.WriteString(w, "id: 2:20\nevent: stdout\ndata: "+`{"attempt":2,"stream":"stdout","offset":7,"base64":"/wA="}`+"\n\n"+
			"id: 2:30\nevent: gap\ndata: "+`{"attempt":2,"stream":"stdout","offset":9,"gap":100,"why":"over the limit"}`+"\n\n"+
			"id: end\nevent: end\ndata: {\"state\":\"succeeded\",\"attempt\":2}\n\n")
	})
	var got []dayfly.LogRecord
	for r, err := range c.Logs(t.Context(), "job_1", &dayfly.LogOptions{Follow: true, Stream: "stdout", Attempt: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
	}
	want := []dayfly.LogRecord{
		{Attempt: 2, Stream: "stdout", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Data: []byte("héllo\n"), ID: "2:10"},
		{Attempt: 2, Stream: "stdout", Offset: 7, Data: []byte("\xff\x00"), ID: "2:20"},
		{Attempt: 2, Stream: "stdout", Offset: 9, Gap: 100, Why: "over the limit", ID: "2:30"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, r := range want { // what is printed as JSON is read back as it was
		var back dayfly.LogRecord
		data, err := json.Marshal(r)
		if err == nil {
			err = json.Unmarshal(data, &back)
		}
		if r.ID = ""; err != nil || !reflect.DeepEqual(back, r) {
			t.Errorf("%s became %+v, %v; want %+v", data, back, err, r)
		}
	}
}

func TestStreamErrorsAreYielded(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		answer func(w http.ResponseWriter)
		want   fault.Kind
	}{
		"a refusal":        {func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, fault.NotFound},
		"no stream at all": {func(w http.ResponseWriter) { answer(w, http.StatusOK, "hello") }, fault.Internal},
		"no JSON": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, event(1, "job", "hello"))
		}, fault.Internal},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, func(w http.ResponseWriter, _ *http.Request) { tc.answer(w) })
			var got error
			for _, err := range c.Events(t.Context(), "job_1", 0) {
				got = err
			}
			if fault.Of(got) != tc.want {
				t.Errorf("got %v, want an error of kind %s", got, tc.want)
			}
		})
	}
}

func TestSilentStreamsAreAskedForAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		c := clientOver(t, time.Minute, func(r *http.Request) (*http.Response, error) {
			if tries++; tries > 1 {
				return respond(http.StatusOK, jobEvent(1, dayfly.Succeeded), "Content-Type", "text/event-stream"), nil
			}
			body, out := io.Pipe()
			context.AfterFunc(r.Context(), func() { out.CloseWithError(r.Context().Err()) })
			resp := respond(http.StatusOK, "", "Content-Type", "text/event-stream")
			resp.Body = body
			go func() {
				for range 5 { // keep-alives count as signs of life
					time.Sleep(30 * time.Second) // the bubble's clock, not the wall's
					io.WriteString(out, ": ping\n\n")
				}
			}()
			return resp, nil
		})
		begin := time.Now()
		for e, err := range c.Events(t.Context(), "job_1", 0) {
			if err != nil || e.Seq != 1 {
				t.Fatalf("got %v, %v; want event 1", e, err)
			}
		}
		if took := time.Since(begin); took < 3*time.Minute || took > 4*time.Minute || tries != 2 {
			t.Errorf("asked again %d times in %v, want once, after the pings ended at 2m30s and a silence", tries-1, took)
		}
	})
}

func TestStreamsGiveUpWhenTheServerStaysAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := clientOver(t, time.Minute, func(*http.Request) (*http.Response, error) { return nil, errors.New("no route") })
		begin := time.Now()
		var got error
		for _, err := range c.Logs(t.Context(), "job_1", &dayfly.LogOptions{Follow: true}) {
			got = err
		}
		if !errors.Is(got, fault.Unavailable) || time.Since(begin) > time.Minute {
			t.Errorf("got %v after %v, want unavailable within a minute", got, time.Since(begin))
		}
	})
}

func TestFramesAreBounded(t *testing.T) {
	t.Parallel()
	for name, flood := range map[string]string{
		"one endless line":      "data: " + strings.Repeat("x", 8<<20),
		"lines without an end":  strings.Repeat("data: x\n", 600_000),
		"comments without ends": strings.Repeat(": xxxxx\n", 600_000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := clientOver(t, time.Second, func(*http.Request) (*http.Response, error) {
					return respond(http.StatusOK, flood, "Content-Type", "text/event-stream"), nil
				})
				for _, err := range c.Events(t.Context(), "job_1", 0) {
					if err == nil || !strings.Contains(err.Error(), "an event of more than") {
						t.Errorf("got %v, want an error about the size of an event", err)
					}
				}
			})
		})
	}
}

// hangUpStream breaks a connection whose answer has begun.
func hangUpStream(w http.ResponseWriter) {
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}
