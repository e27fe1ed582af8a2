package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// echoServer answers with what it was asked, in the way the path says.
func echoServer(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/length", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.Header.Get("X-Test"), body)
	})
	mux.HandleFunc("/chunks", func(w http.ResponseWriter, _ *http.Request) {
		for i := range 5 {
			io.WriteString(w, strings.Repeat(string(rune('a'+i)), 3000))
			w.(http.Flusher).Flush()
		}
	})
	mux.HandleFunc("/nothing", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("/much", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(maxAnswer+1))
		w.Write(make([]byte, 10))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func TestWireKeepsOneConnectionOpenForAnswersOfEveryForm(t *testing.T) {
	t.Parallel()
	w, err := dial(t.Context(), echoServer(t))
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	chunks := ""
	for _, letter := range "abcde" {
		chunks += strings.Repeat(string(letter), 3000)
	}
	for range 3 {
		for _, c := range []struct {
			path, header, body string
			status             int
			want               string
		}{
			{"/length", "X-Test: yes\r\n", "hello", 201, "POST yes hello"},
			{"/chunks", "", "", 200, chunks},
			{"/nothing", "", "", 204, ""},
		} {
			status, answer, err := w.do("POST", c.path, c.header, []byte(c.body))
			if err != nil || status != c.status || string(answer) != c.want {
				t.Fatalf("%s: got %d, %.40q, %v; want %d, %.40q", c.path, status, answer, err, c.status, c.want)
			}
		}
	}
}

func TestWireRefusesAnAnswerThatIsTooLarge(t *testing.T) {
	t.Parallel()
	w, err := dial(t.Context(), echoServer(t))
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if _, _, err := w.do("GET", "/much", "", nil); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v, want an error about the size", err)
	}
}

func TestIDOf(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		`{"id":"job_1","state":"queued"}`:              "job_1",
		`{"$schema":"http://x/y.json","id":"job_2"}`:   "job_2",
		"{\n  \"id\": \"job_3\",\n  \"state\": \"x\"}": "job_3",
	} {
		if got, err := idOf([]byte(answer)); got != want || err != nil {
			t.Errorf("idOf(%s) = %q, %v; want %q", answer, got, err, want)
		}
	}
	if id, err := idOf([]byte(`{"code":"invalid"}`)); err == nil {
		t.Errorf("an answer without an id gave %q, want an error", id)
	}
}
