package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

const (
	maxVideo   = 256 << 20 // bytes of an upload
	maxKept    = 200       // pictures that are kept, the newest
	maxWait    = 2 * time.Minute
	thumbWidth = 320
)

//go:embed page.html
var page []byte

// site is the web server: uploads come in, and pictures go out.
type site struct {
	pool    *dayfly.Pool
	history *history

	mu       sync.Mutex
	next     int
	pictures []shown // at most maxKept, the newest last
}

// shown is a picture as the gallery lists it.
type shown struct {
	ID      int     `json:"id"`
	Name    string  `json:"name"`
	URL     string  `json:"url"`
	Seconds float64 `json:"seconds"`
	TookMS  int64   `json:"took_ms"`
	Host    string  `json:"made_by"`

	jpeg []byte
}

func newSite(pool *dayfly.Pool, history *history) http.Handler {
	s := &site{pool: pool, history: history}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { answer(w, "text/html; charset=utf-8", page) })
	mux.HandleFunc("POST /videos", s.upload)
	mux.HandleFunc("GET /thumbnails", s.list)
	mux.HandleFunc("GET /thumbnails/{id}", s.show)
	mux.HandleFunc("GET /plot.svg", func(w http.ResponseWriter, _ *http.Request) { answer(w, "image/svg+xml", history.plot()) })
	return mux
}

// upload takes the body of the request for a video and answers with where its thumbnail is. The body goes straight to
// the runner as it comes. When the client hangs up the request's context ends, and with it the call and its ffmpeg.
func (s *site) upload(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("name")
	if name == "" {
		name = "unnamed"
	}
	ctx, cancel := context.WithTimeout(r.Context(), maxWait)
	defer cancel()
	began := time.Now()
	made, err := Thumbnail.Call(ctx, s.pool, Video{Name: name, Width: thumbWidth, Data: http.MaxBytesReader(w, r.Body, maxVideo)})
	if err != nil {
		s.refuse(w, r, name, err)
		return
	}
	s.history.done.Add(1)
	kept := s.keep(shown{Name: name, Seconds: made.Seconds, TookMS: time.Since(began).Milliseconds(), Host: made.Host, jpeg: made.JPEG})
	w.Header().Set("Location", kept.URL)
	answerJSON(w, http.StatusCreated, kept)
}

// refuse tells apart whose fault it is: the video's, that of too much work, or ours.
func (s *site) refuse(w http.ResponseWriter, r *http.Request, name string, err error) {
	if r.Context().Err() != nil {
		return // Nobody is left to be told.
	}
	status, message := http.StatusInternalServerError, "This has gone wrong here; it is no fault of the video."
	var remote *dayfly.RemoteError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		status, message = http.StatusRequestEntityTooLarge, fmt.Sprintf("A video may have %d MiB.", maxVideo>>20)
	case errors.As(err, &remote) && remote.Kind == fault.Invalid:
		status, message = http.StatusUnprocessableEntity, remote.Message
	case errors.Is(err, fault.Exhausted), errors.Is(err, fault.Unavailable), errors.Is(err, context.DeadlineExceeded):
		w.Header().Set("Retry-After", "5")
		status, message = http.StatusServiceUnavailable, "There is too much to do just now; try again soon."
	}
	if status >= http.StatusInternalServerError {
		slog.Warn("no thumbnail was made", "video", name, "error", err)
	}
	answerJSON(w, status, map[string]string{"error": message})
}

func (s *site) keep(p shown) shown {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	p.ID = s.next
	p.URL = fmt.Sprintf("/thumbnails/%d.jpg", p.ID)
	s.pictures = append(s.pictures, p)
	if len(s.pictures) > maxKept {
		s.pictures = append([]shown(nil), s.pictures[1:]...)
	}
	return p
}

func (s *site) list(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	newest := make([]shown, 0, len(s.pictures))
	for i := len(s.pictures) - 1; i >= 0; i-- {
		newest = append(newest, s.pictures[i])
	}
	s.mu.Unlock()
	answerJSON(w, http.StatusOK, newest)
}

func (s *site) show(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(strings.TrimSuffix(r.PathValue("id"), ".jpg"))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pictures {
		if err == nil && p.ID == id {
			answer(w, "image/jpeg", p.jpeg)
			return
		}
	}
	answerJSON(w, http.StatusNotFound, map[string]string{"error": "There is no such thumbnail; only the newest are kept."})
}

func answer(w http.ResponseWriter, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Write(body)
}

func answerJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(value) //nolint:errcheck // A client that has gone needs no answer.
}
