package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// measureTranscode measures what the whole of Dayfly adds to a command that somebody would really run: a sound file
// goes in, ffmpeg works on it, another file comes out. Once with a server inside the command itself, as after
// installing, and once through a server that runs.
func measureTranscode(ctx context.Context, b *bench, g *Group) error {
	ffmpeg, err := exec.LookPath("ffmpeg")
	if err != nil {
		g.Skipped = "ffmpeg is not installed; scripts/setup installs it"
		return nil
	}
	server, err := b.serveDayfly(ctx)
	if err != nil {
		return err
	}
	defer server.close()
	dir, err := b.place("transcode")
	if err != nil {
		return err
	}
	t := &transcode{dir: dir, dayfly: b.dayfly, environ: b.environ(dir)}
	if err := t.makeClip(ctx, ffmpeg, b.clip); err != nil {
		return err
	}
	bare := "ffmpeg alone"
	alone := g.figure("dayfly run, no server", "ms").against(bare).atMostOf(1.05, 50)
	served := g.figure("dayfly run, through a server", "ms").against(bare).atMostOf(1.05, 50)
	convert := []string{"ffmpeg", "-v", "error", "-nostdin", "-y", "-i", "clip.wav", "-b:a", "128k", "clip.mp3"}
	run := append([]string{t.dayfly, "run", "--in", "clip.wav", "--out", "clip.mp3", "--"}, convert...)
	return b.eachRound(ctx, func(int) error {
		base, err := t.time(ctx, "", convert)
		if err != nil {
			return err
		}
		inside, err := t.time(ctx, "", run)
		if err != nil {
			return err
		}
		through, err := t.time(ctx, "http://"+server.address, run)
		if err != nil {
			return err
		}
		alone.add(milliseconds(inside), milliseconds(base))
		served.add(milliseconds(through), milliseconds(base))
		return nil
	})
}

// transcode is where the commands run and what they are given.
type transcode struct {
	dir     string
	dayfly  string
	environ []string
}

// makeClip makes the sound: a tone over noise, which is neither silence nor trivial to encode.
func (t *transcode) makeClip(ctx context.Context, ffmpeg string, seconds int) error {
	source := "anoisesrc=seed=1:amplitude=0.3:duration=" + strconv.Itoa(seconds)
	cmd := exec.CommandContext(ctx, ffmpeg, "-v", "error", "-nostdin", "-f", "lavfi", "-i", source,
		"-f", "lavfi", "-i", "sine=frequency=440:duration="+strconv.Itoa(seconds),
		"-filter_complex", "amix=inputs=2", "-ac", "2", "-ar", "44100", "clip.wav")
	cmd.Dir = t.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making the sound file: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// time runs a command, which must make the result anew, and returns how long it took.
func (t *transcode) time(ctx context.Context, server string, command []string) (time.Duration, error) {
	result := filepath.Join(t.dir, "clip.mp3")
	if err := os.Remove(result); err != nil && !os.IsNotExist(err) {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir, cmd.Env = t.dir, t.environ
	if server != "" {
		cmd.Env = append(t.environ[:len(t.environ):len(t.environ)], "DAYFLY_URL="+server)
	}
	began := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(command[:2], " "), err, strings.TrimSpace(string(out)))
	}
	info, err := os.Stat(result)
	if err != nil {
		return 0, fmt.Errorf("%s has made no result: %w", strings.Join(command[:2], " "), err)
	}
	if info.Size() < 1<<10 {
		return 0, fmt.Errorf("%s has made a result of only %d bytes", strings.Join(command[:2], " "), info.Size())
	}
	return took, nil
}
