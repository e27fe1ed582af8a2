package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

// Thumbnail is the function that runs elsewhere. That it is declared here, in a variable of the package, is all that a
// runner needs to find it: the runner is this same program.
var Thumbnail = dayfly.Func("thumbnail", thumbnail)

// Video is what the function is given. Data is streamed: no process holds a whole video in memory.
type Video struct {
	Name  string
	Width int // of the thumbnail, in pixels
	Data  io.Reader
}

// Picture is what it returns.
type Picture struct {
	JPEG    []byte
	Seconds float64 // how long the video is
	Host    string  // where it was made
}

// thumbnail runs on a runner. It is an ordinary function: what it needs there is ffmpeg, and its context ends when
// whoever waits for the picture has gone.
func thumbnail(ctx context.Context, v Video) (Picture, error) {
	dir, err := os.MkdirTemp("", "thumbnail")
	if err != nil {
		return Picture{}, err
	}
	defer os.RemoveAll(dir)

	// Many videos say at their end where things are in them, so ffmpeg has to be able to go to and fro.
	source := filepath.Join(dir, "video")
	if err := save(source, v.Data); err != nil {
		return Picture{}, err
	}
	seconds, err := duration(ctx, source)
	if err != nil {
		return Picture{}, err
	}
	jpeg, err := picture(ctx, source, v.Width, seconds)
	if err != nil {
		return Picture{}, err
	}
	host, _ := os.Hostname()
	return Picture{JPEG: jpeg, Seconds: seconds, Host: fmt.Sprintf("%s, process %d", host, os.Getpid())}, nil
}

func save(path string, data io.Reader) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, data)
	return errors.Join(err, file.Close())
}

// duration asks how long the video is.
func duration(ctx context.Context, source string) (float64, error) {
	out, err := run(ctx, "ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "format=duration",
		"-of", "default=nokey=1:noprint_wrappers=1", source)
	if err != nil {
		return 0, err
	}
	seconds, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	if err != nil {
		return 0, fault.Say(fault.Invalid, "this is no video: it does not say how long it is")
	}
	return seconds, nil
}

// picture looks through the whole video for the frame that shows best what it is about, and tells how far it is.
func picture(ctx context.Context, source string, width int, seconds float64) ([]byte, error) {
	target := source + ".jpg"
	cmd := exec.CommandContext(ctx, "ffmpeg", "-v", "error", "-nostats", "-progress", "pipe:1", "-i", source,
		"-vf", fmt.Sprintf("thumbnail=n=50,scale=%d:-2", width), "-frames:v", "1", "-threads", "1", target)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	progress, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: ffmpeg has to be installed where runners run: %w", fault.Unsupported, err)
	}
	lines := bufio.NewScanner(progress)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "out_time_us="); ok {
			if micros, err := strconv.ParseFloat(text, 64); err == nil && seconds > 0 {
				dayfly.ReportProgress(ctx, min(1, micros/1e6/seconds), "looking through the video")
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		return nil, blame(ctx, "ffmpeg", complaints.String(), err)
	}
	jpeg, err := os.ReadFile(target)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.Say(fault.Invalid, "there is no picture in this video")
	}
	return jpeg, err
}

// run runs a program and returns what it has printed.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s has to be installed where runners run: %w", fault.Unsupported, name, err)
	}
	if err != nil {
		return nil, blame(ctx, name, complaints.String(), err)
	}
	return out, nil
}

// blame says who is at fault when a program has failed: a caller that has gone, or the video, about which the last line
// of what the program said tells the most.
func blame(ctx context.Context, name, complaints string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	lines := strings.Split(strings.TrimSpace(complaints), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return fault.Say(fault.Invalid, "%s cannot read this video: %s", name, filepath.Base(last))
	}
	return fault.Say(fault.Invalid, "%s cannot read this video: %v", name, err)
}
