package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"image/jpeg"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
)

// TestMain begins as main does, since the runners of these tests are processes of the test's own program.
func TestMain(m *testing.M) {
	dayfly.Main()
	m.Run()
}

func TestThePoolGrowsFromZeroUnderLoadAndShrinksBack(t *testing.T) {
	t.Parallel()
	plot := filepath.Join(t.TempDir(), "plot.svg")
	err := serve(t.Context(), []string{"-listen", "127.0.0.1:0", "-load", "3s", "-runners", "2", "-idle", "300ms", "-plot", plot})
	if err != nil {
		t.Fatalf("serve under load: got %v, want no error", err)
	}
	image, err := os.ReadFile(plot)
	if err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal(image, new(struct{})); err != nil {
		t.Errorf("the plot is no XML: %v", err)
	}
	for _, want := range []string{">Runners</text>", ">Calls</text>", `<polyline class="waiting"`} {
		if !bytes.Contains(image, []byte(want)) {
			t.Errorf("the plot has no %s", want)
		}
	}
	if bytes.Contains(image, []byte(": 0 thumbnails")) {
		t.Error("the plot says that no thumbnail was made")
	}
}

func TestUploads(t *testing.T) {
	t.Parallel()
	address, pool := startSite(t)
	video, err := sampleVideo(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	t.Run("a video becomes a thumbnail", func(t *testing.T) {
		t.Parallel()
		status, body := post(t, address, video)
		var made shown
		if err := json.Unmarshal(body, &made); status != http.StatusCreated || err != nil {
			t.Fatalf("upload: got %d %s, want 201 and a thumbnail", status, body)
		}
		response, err := http.Get(address + made.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		picture, err := jpeg.DecodeConfig(response.Body)
		if err != nil || picture.Width != thumbWidth || picture.Height != 180 {
			t.Errorf("thumbnail: got %dx%d, %v, want %dx180", picture.Width, picture.Height, err, thumbWidth)
		}
		if made.Seconds < 5.9 || made.Seconds > 6.1 {
			t.Errorf("length of the video: got %v, want 6 seconds", made.Seconds)
		}
	})
	t.Run("what is no video is refused as the client's mistake", func(t *testing.T) {
		t.Parallel()
		status, body := post(t, address, []byte(strings.Repeat("no video ", 1000)))
		if status != http.StatusUnprocessableEntity || !bytes.Contains(body, []byte("cannot read this video")) {
			t.Errorf("got %d %s, want 422 and that it cannot be read", status, body)
		}
	})
	t.Run("what is too large is refused", func(t *testing.T) {
		t.Parallel()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address+"/videos", io.LimitReader(zeros{}, maxVideo+1))
		if err != nil {
			t.Fatal(err)
		}
		status, body := send(t, request)
		if status != http.StatusRequestEntityTooLarge {
			t.Errorf("got %d %s, want 413", status, body)
		}
	})
	t.Run("a client that hangs up ends the call", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		body, feed := io.Pipe()
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/videos?name=slow", body)
		if err != nil {
			t.Fatal(err)
		}
		answered := make(chan error, 1)
		go func() {
			_, err := http.DefaultClient.Do(request)
			answered <- err
		}()
		if _, err := feed.Write(video[:1000]); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the call runs", func() bool { return pool.Stats().InUse > 0 })
		cancel()
		feed.CloseWithError(context.Canceled)
		if err := <-answered; !errors.Is(err, context.Canceled) {
			t.Errorf("request: got %v, want that it was canceled", err)
		}
	})
	t.Cleanup(func() {
		waitFor(t, "all calls have ended", func() bool { return pool.Stats().InUse == 0 })
	})
}

func TestMistakesOnTheCommandLineAreNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, want string }{
		{"-on cloud", `no provider "cloud"`},
		{"-on docker", "needs -image"},
		{"videos", `"videos" is no option`},
		{"-listen 127.0.0.1:0 -runners -1", "Max"},
		{"-listen nonsense", "-listen nonsense: it must be a host and a port"},
		{"-listen 127.0.0.1:99999", "-listen 127.0.0.1:99999: "},
		{"-listen 127.0.0.1:0 -plot plot.png", "let it end in .svg"},
		{"-listen 127.0.0.1:0 -plot " + t.TempDir() + "/missing/plot.svg", "missing/plot.svg: no such file"},
	} {
		if err := serve(t.Context(), strings.Fields(c.args)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", c.args, err, c.want)
		}
	}
}

// startSite serves with a pool of runners of this program.
func startSite(t *testing.T) (address string, pool *dayfly.Pool) {
	t.Helper()
	for _, program := range []string{"ffmpeg", "ffprobe"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is needed by these tests; scripts/setup installs it: %v", program, err)
		}
	}
	pool, err := dayfly.NewPool(dayfly.Local(), &dayfly.PoolOptions{Name: "uploads", Max: 2, Concurrency: 4})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(newSite(pool, newHistory(pool)))
	t.Cleanup(func() {
		server.Close()
		if err := pool.Close(); err != nil {
			t.Errorf("close the pool: got %v, want no error", err)
		}
	})
	return server.URL, pool
}

func post(t *testing.T, address string, video []byte) (int, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address+"/videos?name=test", bytes.NewReader(video))
	if err != nil {
		t.Fatal(err)
	}
	return send(t, request)
}

func send(t *testing.T, request *http.Request) (int, []byte) {
	t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); {
		if time.Now().After(end) {
			t.Fatalf("it was waited for in vain that %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }
