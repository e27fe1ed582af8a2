package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// load uploads sample videos for so long: first few at once, then more and more up to most, and fewer again. It fails
// if any upload does.
func load(ctx context.Context, address string, during time.Duration, most int) error {
	video, err := sampleVideo(ctx)
	if err != nil {
		return err
	}
	var uploads sync.WaitGroup
	var failed errorList
	began := time.Now()
	for i := range most {
		// Uploader i begins when the wave has risen to it and ends when it has fallen below again.
		height := float64(i) / float64(most)
		rise := time.Duration(math.Asin(height) / math.Pi * float64(during))
		uploads.Go(func() {
			for n := 0; between(ctx, began.Add(rise), began.Add(during-rise)); n++ {
				failed.add(upload(ctx, address, fmt.Sprintf("sample %d-%d.mp4", i+1, n+1), video))
			}
		})
	}
	uploads.Wait()
	if ctx.Err() != nil {
		return errors.New("interrupted while sample videos were uploaded")
	}
	slog.Info("all sample videos are uploaded", "took", time.Since(began).Round(time.Second))
	return failed.err()
}

// between waits for the begin of a time and says whether it is before its end.
func between(ctx context.Context, begin, end time.Time) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Until(begin)):
		return time.Now().Before(end)
	}
}

// sampleVideo makes a video of six seconds.
func sampleVideo(ctx context.Context) ([]byte, error) {
	dir, err := os.MkdirTemp("", "sample")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "sample.mp4")
	if _, err := run(ctx, "ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25:duration=6",
		"-c:v", "mpeg4", "-q:v", "5", path); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

func upload(ctx context.Context, address, name string, video []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/videos?name="+url.QueryEscape(name), bytes.NewReader(video))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err == nil && response.StatusCode != http.StatusCreated {
		err = fmt.Errorf("%s: %s", response.Status, bytes.TrimSpace(said))
	}
	if err != nil {
		return fmt.Errorf("upload %q: %w", name, err)
	}
	return nil
}

// errorList counts errors and keeps the first.
type errorList struct {
	mu    sync.Mutex
	count int
	first error
}

func (l *errorList) add(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if l.count == 0 {
			l.first = err
		}
		l.count++
	}
}

func (l *errorList) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count == 0 {
		return nil
	}
	return fmt.Errorf("%d uploads failed, the first: %w", l.count, l.first)
}
